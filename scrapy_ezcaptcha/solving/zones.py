"""The table at the end of the log: what each zone cost in a crawl, and what it brought."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from scrapy_ezcaptcha.words import counted

if TYPE_CHECKING:
    from collections.abc import Iterator

_MAX_ZONES = 10_000
_MAX_ROWS = 20
_HEADINGS = ("zone", "challenges", "tasks", "solved", "pages", "seconds", "given up")


@dataclass(eq=False)
class Sums:
    """What happened in a zone. ``seconds`` is the sum of all solves, ``given_up`` is by code."""

    challenges: int = 0
    tasks: int = 0
    solved: int = 0
    pages: int = 0
    seconds: float = 0.0
    given_up: Counter[str] = field(default_factory=Counter)

    def add(self, other: Sums) -> None:
        """Add what happened in another zone."""
        self.challenges += other.challenges
        self.tasks += other.tasks
        self.solved += other.solved
        self.pages += other.pages
        self.seconds += other.seconds
        self.given_up += other.given_up

    def in_words(self) -> tuple[str, ...]:
        """Return the cells of its row."""
        numbers = (self.challenges, self.tasks, self.solved, self.pages)
        return *(f"{number:,}" for number in numbers), f"{self.seconds:,.1f}", self._given_up()

    def _given_up(self) -> str:
        """Return ``0``, ``3 (MAX_TASKS)`` or ``3 (2 x STOPPED, 1 x MAX_TASKS)``."""
        if not self.given_up:
            return "0"
        counts = [f"{count:,} x {code}" for code, count in self.given_up.most_common()]
        codes = ", ".join(counts if len(counts) > 1 else self.given_up)
        return f"{sum(self.given_up.values()):,} ({codes})"


class Zones:
    """The sums of all zones; zones after the first 10,000 are summed up in one."""

    def __init__(self) -> None:
        self._sums: dict[str, Sums] = {}
        self._rest = Sums()

    def of(self, zone: str) -> Sums:
        """Return the sums of *zone*, which the caller can change."""
        sums = self._sums.get(zone)
        if sums is None:
            if len(self._sums) >= _MAX_ZONES:
                return self._rest
            sums = self._sums[zone] = Sums()
        return sums

    def table(self) -> str | None:
        """Return the table, the zones with the most tasks first; None if nothing happened."""
        if not self._sums:
            return None
        rows = [_HEADINGS, *self._rows()]
        widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADINGS))]
        return "\n".join(_aligned(row, widths) for row in rows)

    def _rows(self) -> Iterator[tuple[str, ...]]:
        def order(zone: str) -> tuple[int, int, str]:
            sums = self._sums[zone]
            return -sums.tasks, -sums.challenges, zone

        zones = sorted(self._sums, key=order)
        for zone in zones[:_MAX_ROWS]:
            yield zone, *self._sums[zone].in_words()
        rest = zones[_MAX_ROWS:]
        if rest:
            total = Sums()
            for sums in (self._rest, *(self._sums[zone] for zone in rest)):
                total.add(sums)
            more = "or more " if len(zones) == _MAX_ZONES else ""
            yield counted(len(rest), f"{more}other zone"), *total.in_words()


def _aligned(row: tuple[str, ...], widths: list[int]) -> str:
    numbers = (cell.rjust(width) for cell, width in zip(row[1:-1], widths[1:-1], strict=True))
    return "  ".join((row[0].ljust(widths[0]), *numbers, row[-1])).rstrip()
