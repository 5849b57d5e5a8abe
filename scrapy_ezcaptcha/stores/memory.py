"""Clearances in memory, for one crawl."""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING

from scrapy_ezcaptcha.lru import Lru
from scrapy_ezcaptcha.stores.base import View
from scrapy_ezcaptcha.stores.leadership import Leadership, LeadKeeper

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from scrapy_ezcaptcha.stores.base import Held, Place

# Clearances of one zone and exit: more than one only where hosts want their own.
_MAX_EACH = 100

_MAX_REJECTED = 10_000


class MemoryStore(LeadKeeper):
    """Keeps the clearances of at most *capacity* places.

    The least recently used place goes first.
    """

    def __init__(self, capacity: int = 10_000, clock: Callable[[], float] = time.monotonic) -> None:
        self._places: Lru[Place, list[Held]] = Lru(capacity)
        self._zones: Counter[str] = Counter()
        self._rejected: Lru[str, bool] = Lru(_MAX_REJECTED)
        self._leads: Lru[Place, Leadership] = Lru(capacity)
        self._clock = clock

    def __len__(self) -> int:
        return len(self._places)

    def has_zone(self, zone: str) -> bool:
        """Whether any exit holds a clearance of *zone*."""
        return zone in self._zones

    def held(self, place: Place) -> Sequence[Held]:
        """Return what is held of *place*, the oldest first."""
        return self._places.get(place) or ()

    def find(self, place: Place, clearance_id: str) -> Held | None:
        """Return what is held of a clearance."""
        same = (held for held in self.held(place) if held.clearance.id == clearance_id)
        return next(same, None)

    def get(self, place: Place) -> View:
        """Return what is known of *place*; see :class:`Store`."""
        state = self._lead_on(place)
        return View(self.held(place), {}, state.leader(self._clock()), state.failure)

    def put(self, held: Held) -> None:
        """Keep a clearance beside the others of its place, or what is new about it."""
        place, clearance_id = held.clearance.place, held.clearance.id
        if self.is_rejected(clearance_id):
            return
        known = self.find(place, clearance_id)
        if known is not None:
            known.clearance = held.clearance
            known.accepted |= held.accepted
            known.refused |= held.refused
            return
        others = self._places.get(place)
        if others is not None:
            others.append(held)
            others.sort(key=lambda one: one.clearance.created)
            del others[:-_MAX_EACH]
            return
        self._zones[place[0]] += 1
        forgotten = self._places.put(place, [held])
        if forgotten is not None:
            self._forget_zone(forgotten[0].clearance.zone)

    def is_rejected(self, clearance_id: str) -> bool:
        """Whether a clearance is known to be of no use any more."""
        return self._rejected.get(clearance_id) is not None

    def was_used(self, clearance_id: str) -> bool:
        """Whether a clearance was of use to somebody until it was rejected."""
        return self._rejected.get(clearance_id) is False

    def reject(self, place: Place, clearance_id: str, *, unused: bool = False) -> None:
        """Drop a clearance, for good; *unused* if no host had ever accepted it."""
        self._rejected.put(clearance_id, unused)
        held = self.find(place, clearance_id)
        if held is None:
            return
        others = self._places.get(place) or []
        others.remove(held)
        if not others:
            self._places.pop(place)
            self._forget_zone(place[0])

    def check(self) -> None:
        """Do nothing: memory always answers."""

    def close(self) -> None:
        """Do nothing: memory goes with the crawl."""

    def _transact(
        self, place: Place, change: Callable[[Leadership, float], Leadership | None]
    ) -> Leadership | None:
        state = change(self._lead_on(place), self._clock())
        if state is not None:
            self._leads.put(place, state)
        return state

    def _lead_on(self, place: Place) -> Leadership:
        return self._leads.get(place) or Leadership()

    def _forget_zone(self, zone: str) -> None:
        self._zones[zone] -= 1
        if not self._zones[zone]:
            del self._zones[zone]
