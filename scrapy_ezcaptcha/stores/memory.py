"""Clearances in memory, for one crawl."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from scrapy_ezcaptcha.lru import Lru

if TYPE_CHECKING:
    from scrapy_ezcaptcha.clearance import Clearance
    from scrapy_ezcaptcha.exit import Exit


class MemoryStore:
    """Keeps at most *capacity* clearances; the least recently used goes first."""

    def __init__(self, capacity: int = 10_000) -> None:
        self._clearances: Lru[tuple[str, Exit], Clearance] = Lru(capacity)
        self._zones: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._clearances)

    def has_zone(self, zone: str) -> bool:
        """Whether any exit holds a clearance of *zone*."""
        return zone in self._zones

    def get(self, scope: str, exit: Exit) -> Clearance | None:
        """Return the clearance of *scope*, a zone or a host, by *exit*, if there is one."""
        return self._clearances.get((scope, exit))

    def put(self, clearance: Clearance) -> None:
        """Keep *clearance* in place of any other of its scope and exit."""
        self.remove(clearance.scope, clearance.exit)
        self._zones[clearance.zone] += 1
        forgotten = self._clearances.put((clearance.scope, clearance.exit), clearance)
        if forgotten is not None:
            self._forget_zone(forgotten.zone)

    def remove(self, scope: str, exit: Exit) -> None:
        """Drop the clearance of *scope* by *exit*, if there is one."""
        removed = self._clearances.pop((scope, exit))
        if removed is not None:
            self._forget_zone(removed.zone)

    def _forget_zone(self, zone: str) -> None:
        self._zones[zone] -= 1
        if not self._zones[zone]:
            del self._zones[zone]
