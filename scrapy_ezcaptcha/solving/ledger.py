"""Records what was paid for and what it brought, in stats, a table in the log, and a file."""

from __future__ import annotations

import time
from collections import OrderedDict
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from scrapy_ezcaptcha.clearances.known import BODY
from scrapy_ezcaptcha.crawl.memo import Memo
from scrapy_ezcaptcha.errors import SolveTimeout
from scrapy_ezcaptcha.solving.entries import CONTINUED, READY, Entry
from scrapy_ezcaptcha.solving.ledger_file import LedgerFile
from scrapy_ezcaptcha.solving.zones import Zones
from scrapy_ezcaptcha.stores.lease import TASK_SECONDS

if TYPE_CHECKING:
    import logging
    from collections.abc import Callable

    from scrapy import Request
    from scrapy.statscollectors import StatsCollector
    from typing_extensions import Self

    from scrapy_ezcaptcha.clearances.clearance import Clearance
    from scrapy_ezcaptcha.clearances.known import Reason
    from scrapy_ezcaptcha.config import Config
    from scrapy_ezcaptcha.crawl.target import Target
    from scrapy_ezcaptcha.errors import EzCaptchaError

# Tasks without a line. If there are more, the least recently used one gets its line.
_MAX_OPEN = 10_000

# Seconds between two looks at these tasks. A task gets its line this long after its end, because
# pages may still arrive.
_LOOK_SECONDS = 10.0

# The looks may take at most this share of the time.
_LOOK_SHARE = 0.01


class Ledger:
    """Counts what happens to tasks and clearances; with a *file*, writes a line for each task.

    *price* returns the price of a task in points, if it is known, and *clock* the seconds since
    1970. With *keeps_tasks*, the next run can continue tasks that are in progress at the end.
    """

    def __init__(
        self,
        stats: StatsCollector,
        log: logging.LoggerAdapter[Any],
        file: LedgerFile | None = None,
        price: Callable[[], float | None] = lambda: None,
        *,
        keeps_tasks: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._stats = stats
        self._log = log
        self._file = file
        self._price = price
        self._held_seconds = TASK_SECONDS if keeps_tasks else 0.0
        self._clock = clock
        self._zones = Zones()
        self._open: OrderedDict[str, Entry] = OrderedDict()
        self._bought_for: WeakKeyDictionary[Request, str] = WeakKeyDictionary()
        self._next_look = clock() + _LOOK_SECONDS

    @classmethod
    def from_config(
        cls,
        config: Config,
        stats: StatsCollector,
        log: logging.LoggerAdapter[Any],
        price: Callable[[], float | None],
    ) -> Self:
        """Open the file that the settings name, if any.

        Raises ConfigurationError if the file cannot be written.
        """
        file = LedgerFile(config.ledger, log) if config.ledger else None
        return cls(stats, log, file, price, keeps_tasks=config.store_id is not None)

    def challenged(self, zone: str) -> None:
        """Note a challenge."""
        self._stats.inc_value("ezcaptcha/challenges")
        self._zones.of(zone).challenges += 1

    def gave_up(self, zone: str, code: str) -> None:
        """Note that the challenge of a request stays unsolved."""
        self._stats.inc_value("ezcaptcha/requests/gave_up")
        self._zones.of(zone).given_up[code] += 1

    def created(self, task_id: str, target: Target, reason: Reason) -> None:
        """Note a paid task."""
        code = reason[0]
        self._stats.inc_value("ezcaptcha/tasks/created")
        self._stats.inc_value(f"ezcaptcha/tasks/reason/{code}")
        self._zones.of(target.zone).tasks += 1
        if self._file is not None:
            self._bought_for[target.request] = task_id
            self._note(self._entry(task_id, target, code))
            self._look_if_due()

    def continued(self, task_id: str, target: Target) -> None:
        """Note that this crawl waits for a task of another attempt, run or process."""
        self._stats.inc_value("ezcaptcha/tasks/taken_over")
        if self._file is not None and task_id not in self._open:
            self._file.take(task_id, self._note)
            if task_id not in self._open:
                self._note(self._entry(task_id, target, CONTINUED))

    def ready(self, task_id: str, target: Target, seconds: float) -> None:
        """Note that a task has a solution, *seconds* after this process began to wait for it."""
        self._stats.inc_value("ezcaptcha/tasks/ready")
        self._stats.inc_value("ezcaptcha/solve_seconds/total", seconds)  # type: ignore[arg-type]
        self._stats.max_value("ezcaptcha/solve_seconds/max", seconds)
        sums = self._zones.of(target.zone)
        sums.solved += 1
        sums.seconds += seconds
        entry = self._open.get(task_id)
        if entry is not None:
            now = entry.ready_at = self._clock()
            entry.outcome, entry.seconds = READY, max(seconds, now - entry.time)
            if entry.reason == BODY[0]:  # unless its clearance is used
                entry.ended = now
            self._note(entry)

    def failed(self, task_id: str | None, error: EzCaptchaError) -> None:
        """Note that a solve failed; *task_id* is None if there is no task."""
        self._stats.inc_value("ezcaptcha/tasks/failed")
        self._stats.inc_value(f"ezcaptcha/tasks/failed/{error.code}")
        entry = self._open.get(task_id or "")
        if entry is not None:
            entry.outcome, entry.seconds = error.code, self._clock() - entry.time
            if not isinstance(error, SolveTimeout):  # else it may still become ready
                entry.ended = self._clock()
            self._note(entry)

    def served(self, clearance: Clearance) -> None:
        """Note that a request that carried *clearance* got a page."""
        self._zones.of(clearance.zone).pages += 1
        if self._file is None:
            return
        entry = self._open.get(clearance.id)
        if entry is None:  # another run or process paid, or its line is written
            exit, host = clearance.exit.label, clearance.origin
            entry = Entry(clearance.id, clearance.created, clearance.zone, host, exit)
            self._open[entry.task] = entry
        entry.pages += 1
        if entry.lifetime is None:
            entry.ended = None
        self._open.move_to_end(entry.task)
        self._look_if_due()

    def answered(self, request: Request) -> None:
        """Note that *request* got the page of the task that was created for it."""
        self._stats.inc_value("ezcaptcha/requests/answered_by_body")
        memo = Memo.on(request)
        self._zones.of(memo.zone).pages += 1
        entry = self._open.get(self._bought_for.get(request) or memo.page or "")
        if entry is not None:
            entry.pages += 1

    def rejected(self, clearance_id: str) -> None:
        """Note that a clearance was rejected, here or in another process."""
        entry = self._open.get(clearance_id)
        if entry is not None and entry.lifetime is None:
            now = self._clock()
            since = entry.ready_at or entry.time + (entry.seconds or 0.0)
            entry.lifetime = max(0.0, now - since)
            entry.ended = now
            self._look_if_due()

    def close(self) -> None:
        """Log the table, and write all lines except those that the next run can continue."""
        if table := self._zones.table():
            self._log.info("EzCaptcha, by zone:\n%s", table)
        if self._file is None:
            return
        for entry in list(self._open.values()):
            if not entry.may_be_continued(self._clock(), self._held_seconds):
                entry.finish()
                self._write(entry)
        self._file.save(self._open.values())
        self._file.close()

    def _entry(self, task_id: str, target: Target, reason: str) -> Entry:
        zone, exit = target.place
        return Entry(task_id, self._clock(), zone, target.host, exit.label, reason)

    def _note(self, entry: Entry) -> None:
        assert self._file is not None
        self._open[entry.task] = entry
        entry.points = self._price() if entry.points is None else entry.points
        self._file.note(entry)

    def _write(self, entry: Entry) -> None:
        """Write the line of *entry*; if that fails, the entry stays open."""
        assert self._file is not None
        if entry.reason == CONTINUED:  # its own crawl may have ended by now
            self._file.take(entry.task, entry.take_over)
        if self._file.write(entry):
            del self._open[entry.task]

    def _look_if_due(self) -> None:
        began = self._clock()
        if began < self._next_look or self._file is None:
            return
        for entry in list(self._open.values()):
            is_over = entry.ended is not None and began - entry.ended >= _LOOK_SECONDS
            is_too_many = len(self._open) > _MAX_OPEN and not entry.is_under_way
            if is_over or is_too_many:
                self._write(entry)
        self._file.save(self._open.values())
        took = self._clock() - began
        self._next_look = began + max(_LOOK_SECONDS, took / _LOOK_SHARE)
