"""The sums of a ledger, by zone, exit and day, in cells for a terminal or a page."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from datetime import datetime, timezone
from statistics import median, quantiles
from typing import TYPE_CHECKING

from scrapy_ezcaptcha.service.wire import POINTS_PER_DOLLAR, points_in_words
from scrapy_ezcaptcha.solving.entries import READY
from scrapy_ezcaptcha.words import counted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from scrapy_ezcaptcha.solving.entries import Contents, Entry

#: Shown if a value is not known.
NONE = "-"

#: The headings of the columns after the first.
HEADINGS = (
    *("tasks", "solved", "solve s", "p95 s"),
    *("pages", "pages/task", "lifetime", "points", "USD"),
)

#: The tables, by the heading of their first column.
KEYS: dict[str, Callable[[Entry], str]] = {
    "zone": lambda task: task.zone,
    "exit": lambda task: task.exit,
    "day (UTC)": lambda task: f"{moment(task.time):%Y-%m-%d}",
}


@dataclass(frozen=True)
class Sums:
    """The sums of some tasks; *price* is the price of tasks whose points are not known."""

    tasks: Sequence[Entry]
    price: float | None = None

    @property
    def solved(self) -> int:
        """The number of tasks with a solution."""
        return sum(task.outcome == READY for task in self.tasks)

    @property
    def seconds(self) -> list[float]:
        """The seconds of the tasks with a solution."""
        return [
            task.seconds
            for task in self.tasks
            if task.outcome == READY and task.seconds is not None
        ]

    @property
    def pages(self) -> int:
        """The pages that the tasks brought."""
        return sum(task.pages for task in self.tasks)

    @property
    def lifetimes(self) -> list[float]:
        """The lifetimes, in seconds, of clearances that brought a page and were rejected."""
        return [task.lifetime for task in self.tasks if task.lifetime is not None and task.pages]

    @property
    def points(self) -> float | None:
        """The known cost of the tasks; None if no cost is known."""
        known = [self.price if task.points is None else task.points for task in self.tasks]
        prices = [price for price in known if price is not None]
        return sum(prices) if prices else None

    @property
    def is_cost_complete(self) -> bool:
        """Whether the cost of each task is known."""
        return self.price is not None or all(task.points is not None for task in self.tasks)

    def cells(self) -> tuple[str, ...]:
        """Return the cells below ``HEADINGS``."""
        count, seconds, points = len(self.tasks), self.seconds, self.points
        least = "" if self.is_cost_complete else "≥ "
        return (
            f"{count:,}",
            f"{100 * self.solved / count:.0f}%",
            f"{median(seconds):,.1f}" if seconds else NONE,
            f"{p95(seconds):,.1f}" if seconds else NONE,
            f"{self.pages:,}",
            f"{self.pages / count:,.1f}",
            duration(median(self.lifetimes)) if self.lifetimes else NONE,
            NONE if points is None else f"{least}{points:,.10g}",
            NONE if points is None else f"{least}{points / POINTS_PER_DOLLAR:,.4f}",
        )


def table(
    contents: Contents, heading: str, rows: int, price: float | None
) -> list[tuple[str, ...]]:
    """Return the rows of a table: days in order, others with the most tasks first.

    After *rows* rows, the others are summed up; 0 means all rows.
    """
    groups: dict[str, list[Entry]] = defaultdict(list)
    for task in contents.tasks:
        groups[KEYS[heading](task)].append(task)
    is_by_day = heading.startswith("day")
    names = sorted(groups, key=lambda name: (0 if is_by_day else -len(groups[name]), name))
    if rows and len(names) > rows:
        names, others = (
            (names[-rows:], names[:-rows]) if is_by_day else (names[:rows], names[rows:])
        )
        rest = [task for name in others for task in groups[name]]
        more = [(f"{len(others):,} more", *Sums(rest, price).cells())]
    else:
        more = []
    return [(name, *Sums(groups[name], price).cells()) for name in names] + more


def summary(contents: Contents, price: float | None) -> list[str]:
    """Return the sums of all tasks, in lines."""
    sums = Sums(contents.tasks, price)
    count = len(sums.tasks)
    first, last = (moment(task.time) for task in (sums.tasks[0], sums.tasks[-1]))
    at_least = "" if sums.is_cost_complete else "at least "
    is_known = sums.points is not None
    cost = at_least + points_in_words(sums.points or 0.0) if is_known else "cost not known"
    total = (
        f"{counted(count, 'task')} from {first:%Y-%m-%d %H:%M} to"
        f" {last:%Y-%m-%d %H:%M} UTC: {sums.solved:,} solved, {sums.pages:,} pages,"
        f" {sum(sums.seconds):,.1f} s of solving, {cost}"
    )
    lines = [total, f"Reasons: {_counted(task.reason for task in sums.tasks)}"]
    failed = [task.outcome or "" for task in sums.tasks if task.outcome != READY]
    if failed:
        lines.append(f"Not solved: {_counted(failed)}")
    if contents.other_pages:
        lines.append(
            f"{contents.other_pages:,} more pages came from clearances whose tasks are not in this"
            " ledger"
        )
    if contents.unreadable:
        lines.append(f"{contents.unreadable:,} lines could not be read")
    return lines


def missing_costs(contents: Contents, price: float | None) -> str | None:
    """Return what to do about tasks whose cost is not known; None if there are none."""
    count = 0 if price is not None else sum(task.points is None for task in contents.tasks)
    if not count:
        return None
    tasks = counted(count, "task")
    return f"The cost of {tasks} is not known: set EZCAPTCHA_LOG_BALANCE, or use --price."


def moment(time: float) -> datetime:
    """Return seconds since 1970 as a datetime in UTC."""
    return datetime.fromtimestamp(time, timezone.utc)


def p95(values: list[float]) -> float:
    """Return the 95th percentile."""
    return quantiles(values, n=20, method="inclusive")[-1] if len(values) > 1 else values[0]


def duration(seconds: float) -> str:
    """Return seconds as people read them."""
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:,.1f} {unit}"
    return f"{seconds:.1f} s"


def _counted(words: Iterable[str]) -> str:
    return ", ".join(f"{word} {count:,}" for word, count in Counter(words).most_common())
