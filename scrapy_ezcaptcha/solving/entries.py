"""The entries of a ledger, each a task in one JSON line, and how a ledger is read."""

from __future__ import annotations

import glob
import json
from dataclasses import dataclass, fields
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from scrapy_ezcaptcha.errors import SolveTimeout

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

#: The outcome of a task with a solution.
READY = "ready"

#: The outcome of a task that was not ready when its crawl ended.
UNFINISHED = "unfinished"

#: The reason of a task that another run or process created, with another ledger or without one.
CONTINUED = "continued"

# Every line begins with this, so that a line after an incomplete one is found.
_START = '{"task": '

# Outcomes of tasks that another attempt or run can continue while the service keeps the result.
_OPEN = (None, SolveTimeout.code)


@dataclass(eq=False)
class Entry:
    """A paid task, or the pages that a crawl got with the clearance of another crawl.

    ``time`` is when the task was created, in seconds since 1970, and ``seconds`` is the time until
    its result. ``outcome`` is ``"ready"``, the code of an error, ``"unfinished"``, or None while it
    is not known. ``lifetime`` is the number of seconds from the result to the rejection of the
    clearance, None if it was not rejected. ``reason`` is empty if another crawl paid.
    """

    task: str
    time: float
    zone: str
    host: str
    exit: str  # the label
    reason: str = ""
    outcome: str | None = None
    seconds: float | None = None
    pages: int = 0
    lifetime: float | None = None
    points: float | None = None
    ready_at: float | None = None  # when its result arrived; not in the file
    ended: float | None = None  # when its end was noted; not in the file

    @property
    def is_paid(self) -> bool:
        """Whether this crawl paid for it, or continued it to its end."""
        return bool(self.reason)

    @property
    def is_under_way(self) -> bool:
        """Whether its outcome is not known yet."""
        return self.is_paid and self.outcome is None

    def take_over(self, begun: Entry) -> None:
        """Copy what the crawl that created the task noted at that time."""
        self.time, self.host, self.reason = begun.time, begun.host, begun.reason

    def may_be_continued(self, now: float, held_seconds: float) -> bool:
        """Whether another attempt, run or process can still continue it."""
        is_held = now - self.time < held_seconds
        return is_held and self.is_paid and self.outcome in _OPEN

    def finish(self) -> None:
        """Set an outcome if there is none, because nothing will continue the task."""
        if self.is_under_way:
            self.outcome = UNFINISHED

    def line(self) -> bytes:
        """Return it as a line, without the line end."""
        values = {name: getattr(self, name) for name in _NAMES}
        values["time"] = _in_words(self.time)
        for name in ("seconds", "lifetime", "points"):
            if values[name] is not None:
                values[name] = round(values[name], 3)
        if not self.is_paid:
            for name in ("reason", "outcome", "seconds", "points"):
                del values[name]
        return json.dumps(values).encode()

    @classmethod
    def parse(cls, line: str) -> Entry:
        """Read a line; raises ValueError if the line is not an entry."""
        values: Any = json.loads(line[max(0, line.rfind(_START)) :])
        if not isinstance(values, dict):
            raise ValueError("not an object")
        try:
            entry = cls(**{name: values[name] for name in _NAMES if name in values})
            entry.time = datetime.fromisoformat(values["time"].replace("Z", "+00:00")).timestamp()
            numbers = (entry.seconds, entry.lifetime, entry.points)
            is_sound = all(isinstance(number, int | float | None) for number in numbers)
            is_sound = is_sound and isinstance(entry.pages, int)
            words = (entry.task, entry.zone, entry.host, entry.exit, entry.reason)
            is_sound = is_sound and all(isinstance(word, str) for word in words)
        except (AttributeError, KeyError, TypeError):
            is_sound = False
        if not is_sound:
            raise ValueError("fields are missing or have another type")
        return entry


_NAMES = [one.name for one in fields(Entry) if one.name not in {"ready_at", "ended"}]


@dataclass(eq=False)
class Contents:
    """The contents of a ledger: its tasks, and the number of unreadable lines.

    ``other_pages`` is the number of pages from clearances of tasks that are not in it.
    """

    tasks: list[Entry]
    other_pages: int = 0
    unreadable: int = 0


def pages_path(path: Path) -> Path:
    """Return the file next to a ledger for pages that come after the line of their task."""
    return path.with_name(f"{path.name}.pages")


def open_paths(path: Path) -> list[Path]:
    """Return the files next to a ledger for tasks that have no line yet, one for each crawl."""
    return sorted(path.parent.glob(f"{glob.escape(path.name)}.open-{'[0-9a-f]' * 8}"))


def lines_of(path: Path) -> Iterator[Entry | None]:
    """Return the entries in a file; None stands for an unreadable line."""
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            if line.strip():
                yield _entry_or_none(line)


def _entry_or_none(line: str) -> Entry | None:
    try:
        return Entry.parse(line)
    except ValueError:
        return None


def latest(entries: Iterable[Entry | None]) -> list[Entry]:
    """Return the last state of each task, because a file of open tasks has several for each."""
    return list({entry.task: entry for entry in entries if entry is not None}.values())


def read_ledger(path: Path) -> Contents:
    """Read the ledger at *path*, and the files next to it. Raises OSError if it does not exist.

    Tasks that have no line yet are included. They are unfinished if their outcome is not known.
    """
    tasks: dict[str, Entry] = {}
    contents = Contents([])
    for entry in lines_of(path):
        if entry is None:
            contents.unreadable += 1
        elif entry.is_paid:
            known = tasks.get(entry.task)
            tasks[entry.task] = entry if known is None else _better(known, entry)
    later = list(lines_of(pages_path(path))) if pages_path(path).exists() else []
    for beside in open_paths(path):
        try:
            states = latest(lines_of(beside))
        except FileNotFoundError:  # its crawl has just ended and removed it
            continue
        for entry in states:
            entry.finish()
            if not entry.is_paid:
                later.append(entry)
            elif entry.task not in tasks:
                tasks[entry.task] = entry
    for more in later:
        task = tasks.get(more.task) if more else None
        if task is not None and more is not None:
            task.pages += more.pages
            task.lifetime = more.lifetime if task.lifetime is None else task.lifetime
        elif more is not None:
            contents.other_pages += more.pages
        else:
            contents.unreadable += 1
    contents.tasks = sorted(tasks.values(), key=lambda entry: entry.time)
    return contents


def _better(one: Entry, other: Entry) -> Entry:
    """Return the better of two lines about a task; some crawls knew less about it than others."""
    rank = {READY: 2, UNFINISHED: 0}
    return max(one, other, key=lambda entry: (rank.get(entry.outcome or "", 1), entry.pages))


def _in_words(time: float) -> str:
    moment = datetime.fromtimestamp(time, timezone.utc)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
