"""Clearances in memory, for one crawl."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from scrapy_ezcaptcha.lru import Lru

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scrapy_ezcaptcha.clearance import Clearance
    from scrapy_ezcaptcha.exit import Exit

# Clearances of one zone and exit: more than one only where hosts want their own.
_MAX_EACH = 100


@dataclass(eq=False)
class Held:
    """A clearance, and which hosts of its zone accept and refuse it."""

    clearance: Clearance
    accepted: set[str] = field(default_factory=set)
    refused: set[str] = field(default_factory=set)

    def rank_for(self, host: str) -> tuple[bool, bool, int, int]:
        """Say how likely it serves *host*; the higher, the likelier."""
        own = self.clearance.origin == host
        return host in self.accepted, own, len(self.accepted), self.clearance.serial


class MemoryStore:
    """Keeps the clearances of at most *capacity* pairs of a zone and an exit.

    The least recently used pair goes first.
    """

    def __init__(self, capacity: int = 10_000) -> None:
        self._pairs: Lru[tuple[str, Exit], list[Held]] = Lru(capacity)
        self._zones: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._pairs)

    def has_zone(self, zone: str) -> bool:
        """Whether any exit holds a clearance of *zone*."""
        return zone in self._zones

    def get(self, zone: str, exit: Exit) -> Sequence[Held]:
        """Return what is held of *zone* by *exit*, the oldest first."""
        return self._pairs.get((zone, exit)) or ()

    def add(self, clearance: Clearance) -> None:
        """Keep *clearance* beside the others of its zone and exit."""
        zone, exit = clearance.zone, clearance.exit
        held = self._pairs.get((zone, exit))
        if held is not None:
            held.append(Held(clearance))
            del held[:-_MAX_EACH]
            return
        self._zones[zone] += 1
        forgotten = self._pairs.put((zone, exit), [Held(clearance)])
        if forgotten is not None:
            self._forget_zone(forgotten[0].clearance.zone)

    def remove(self, held: Held) -> None:
        """Drop what is held."""
        zone, exit = held.clearance.zone, held.clearance.exit
        others = self._pairs.get((zone, exit)) or []
        others.remove(held)
        if not others:
            self._pairs.pop((zone, exit))
            self._forget_zone(zone)

    def _forget_zone(self, zone: str) -> None:
        self._zones[zone] -= 1
        if not self._zones[zone]:
            del self._zones[zone]
