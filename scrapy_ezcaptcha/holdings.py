"""Which clearance serves which host, and whom a rejection concerns. No I/O, no clock.

A clearance serves every host of its zone that has not refused it. A host refuses one
by challenging a request that carried it. Where that host had accepted it before, it
has expired, for everybody. Where nobody has, and it was solved for this very host, it
is of no use to anybody. Else the host only wants one of its own; but before another
solve is paid for, it tries what else its zone has at hand, so that hosts that differ
do not chase each other.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

from scrapy_ezcaptcha.lru import Lru
from scrapy_ezcaptcha.stores.base import Held

if TYPE_CHECKING:
    from scrapy_ezcaptcha.clearance import Clearance
    from scrapy_ezcaptcha.exit import Exit
    from scrapy_ezcaptcha.stores import MemoryStore, SharedStore

_MAX_SERVED = 10_000

# So many clearances of its siblings a host tries; then it wants one of its own.
_MAX_REFUSALS = 2


class Rejection(Enum):
    """What a challenge means for the clearance that the request carried."""

    STALE = "known before"
    EXPIRED = "the host had accepted it: good for nobody any more"
    REFUSED = "other hosts of the zone may accept it, this one does not"
    UNUSED = "never accepted by anybody, not even by the host it was solved for"


class Holdings:
    """The clearances of a crawl, found by host and exit."""

    def __init__(self, store: MemoryStore | SharedStore) -> None:
        self._store = store
        self._served: Lru[str, bool] = Lru(_MAX_SERVED)

    def has_zone(self, zone: str) -> bool:
        """Whether any exit holds a clearance of *zone*."""
        return self._store.has_zone(zone)

    def find(self, zone: str, host: str, exit: Exit) -> Clearance | None:
        """Return the clearance to be put on a request to *host* by *exit*, if there is one."""
        all_held = self._store.held((zone, exit))
        if len(all_held) == 1 and not all_held[0].refused:  # nearly always
            return all_held[0].clearance
        tries_others = sum(host in held.refused for held in all_held) < _MAX_REFUSALS
        candidates = [
            held
            for held in all_held
            if host not in held.refused
            and (tries_others or host in held.accepted or host == held.clearance.origin)
        ]
        if not candidates:
            return None
        newest_first = reversed(candidates)  # of equals, max takes the first
        return max(newest_first, key=lambda held: held.rank_for(host)).clearance

    def suspects(self, zone: str, exit: Exit) -> int:
        """Return how many clearances some host refuses and none has accepted."""
        return sum(
            held.refused != set() and not held.accepted for held in self._store.held((zone, exit))
        )

    def add(self, clearance: Clearance) -> None:
        """Keep a new clearance."""
        self._store.put(Held(clearance))

    def renew(self, clearance: Clearance) -> None:
        """Keep *clearance* with its renewed cookies, if it is still held."""
        held = self._held(clearance)
        if held is not None:
            held.clearance = clearance
            self._store.put(held)

    def accept(self, host: str, clearance: Clearance) -> bool:
        """Note that *host* accepted *clearance*; True if it is the first host here to do so."""
        is_first = not self.has_served_here(clearance)
        self._served.put(clearance.id, True)
        held = self._held(clearance)
        if held is not None and host not in held.accepted:
            held.accepted.add(host)
            self._store.put(held)
        return is_first

    def has_served(self, clearance: Clearance) -> bool:
        """Whether any host accepted *clearance*, held or not."""
        held = self._held(clearance)
        is_accepted = held is not None and bool(held.accepted)
        return is_accepted or self.has_served_here(clearance) or self._store.was_used(clearance.id)

    def has_served_here(self, clearance: Clearance) -> bool:
        """Whether a host accepted *clearance* from this very process."""
        return self._served.get(clearance.id) is not None

    def reject(self, host: str, clearance: Clearance) -> Rejection:
        """Note that *host* challenged a request that carried *clearance*."""
        held = self._held(clearance)
        if held is None or host in held.refused:
            return Rejection.STALE
        if host in held.accepted:
            self._served.put(clearance.id, True)  # be it by another process
            self._store.reject(clearance.place, clearance.id)
            return Rejection.EXPIRED
        if not held.accepted and host == clearance.origin:
            self._store.reject(clearance.place, clearance.id, unused=True)
            return Rejection.UNUSED
        held.refused.add(host)
        self._store.put(held)
        return Rejection.REFUSED

    def _held(self, clearance: Clearance) -> Held | None:
        return self._store.find(clearance.place, clearance.id)
