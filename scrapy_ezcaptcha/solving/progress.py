"""Logs what a crawl waits for, and warns before the task limit is reached."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scrapy_ezcaptcha.words import counted

if TYPE_CHECKING:
    import logging
    from collections.abc import Callable

    from scrapy_ezcaptcha.clearances.clearance import Place
    from scrapy_ezcaptcha.config import Config
    from scrapy_ezcaptcha.crawl.waiting import WaitingRequests
    from scrapy_ezcaptcha.solving.flights import Flights

_MAX_SOLVES = 5  # named in one line
_WARN_AT = 0.8  # of EZCAPTCHA_MAX_TASKS


class Progress:
    """Knows the solves in progress, and logs a line every ``EZCAPTCHA_PROGRESS_INTERVAL``.

    *clock* returns the seconds of a monotonic clock.
    """

    def __init__(
        self, config: Config, log: logging.LoggerAdapter[Any], clock: Callable[[], float]
    ) -> None:
        self._interval = config.progress_interval
        self._max_tasks = config.max_tasks
        self._log = log
        self._clock = clock
        self._solves: dict[object, tuple[Place, float]] = {}  # with their start, the oldest first
        self._tasks = 0
        self._is_warned = False
        self._next: float | None = None  # when the next line is due; None if nothing waits

    def began(self, place: Place) -> object:
        """Note that a solve for *place* begins; return the argument for :meth:`ended`."""
        solve = object()
        self._solves[solve] = (place, self._clock())
        return solve

    def ended(self, solve: object) -> None:
        """Note that *solve* has ended."""
        self._solves.pop(solve, None)

    def tasks_created(self, tasks: int) -> None:
        """Note that the crawl has created *tasks*; warn once if the limit is near."""
        self._tasks = tasks
        if self._is_warned or not _WARN_AT * self._max_tasks <= tasks < self._max_tasks:
            return
        self._is_warned = True
        self._log.warning(
            "%d of %d tasks are created (EZCAPTCHA_MAX_TASKS). At the limit, the crawl solves no"
            " more challenges",
            tasks,
            self._max_tasks,
        )

    def look(self, flights: Flights[Any], requests: WaitingRequests) -> None:
        """Log a line if it is due; must be called regularly, and once when nothing waits."""
        now = self._clock()
        if not self._interval or not (flights or not requests.is_empty):
            self._next = None
        elif self._next is None:
            self._next = now + self._interval
        elif now >= self._next:
            self._next = max(self._next + self._interval, now)
            waiting = max(requests.count, flights.waiting)  # some still count as concurrent
            self._log.info(self._in_words(now, len(flights), waiting, requests.put_off.count))

    def _in_words(self, now: float, solves: int, requests: int, put_off: int) -> str:
        longest = list(self._solves.values())[:_MAX_SOLVES]
        named = [
            f"{zone} through {exit.label} for {now - began:.0f} s"
            for (zone, exit), began in longest
        ]
        if more := len(self._solves) - len(named):
            named.append(f"and {more} more")
        parts = [f"{counted(len(self._solves), 'solve')} in progress"]
        if named:
            parts[0] += f" ({', '.join(named)})"
        if (others := solves - len(self._solves)) > 0:
            parts.append(f"{counted(others, 'solve')} waiting for another process or a free place")
        parts.append(f"{counted(requests, 'request')} waiting")
        if put_off:
            parts.append(f"{put_off} put back into the queue")
        limit = f" of {self._max_tasks}" if self._max_tasks else ""
        is_one = (self._max_tasks or self._tasks) == 1
        parts.append(f"{self._tasks}{limit} {'task' if is_one else 'tasks'} created")
        return f"Progress: {'; '.join(parts)}"
