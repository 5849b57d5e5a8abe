"""Which clearance serves which host, and whom a rejection concerns. No I/O, no clock.

A clearance serves its whole zone until a host rejects it that never accepted it
while its siblings do. Such a host is set apart: it gets a clearance of its own, and
the zone keeps its one. When the zone's is rejected in turn, it had perhaps only
expired, so a set-apart host's newer clearance is tried on the zone before another
one is paid for; if the zone rejects that too, the host stays apart for good.
"""

from __future__ import annotations

from dataclasses import replace
from enum import Enum
from typing import TYPE_CHECKING

from scrapy_ezcaptcha.clearance import whole
from scrapy_ezcaptcha.lru import Lru

if TYPE_CHECKING:
    from scrapy_ezcaptcha.clearance import Clearance
    from scrapy_ezcaptcha.exit import Exit
    from scrapy_ezcaptcha.stores import MemoryStore

_MAX_RECORDS = 10_000
_MAX_HOSTS = 1_000  # remembered for one clearance


class Rejection(Enum):
    """What a rejected clearance means."""

    STALE = "was replaced or dropped before"
    APART = "one host wants a clearance of its own"
    EXPIRED = "had been accepted, is now good for nobody"
    UNUSED = "was never accepted at all"


class _Apart:
    """The hosts of one zone and exit that have clearances of their own."""

    def __init__(self) -> None:
        self.hosts: dict[str, bool] = {}  # host -> for good
        self.lent: tuple[int, str] | None = None  # serial tried on the zone, and its host


class Holdings:
    """The clearances of a crawl, found by host and exit."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store
        self._apart: Lru[tuple[str, Exit], _Apart] = Lru(_MAX_RECORDS)
        self._accepted: Lru[int, set[str]] = Lru(_MAX_RECORDS)

    def has_zone(self, zone: str) -> bool:
        """Whether any exit holds a clearance of *zone*."""
        return self._store.has_zone(zone)

    def scope(self, zone: str, host: str, exit: Exit) -> str:
        """Return the scope whose clearance serves *host*: the whole zone, or itself if apart."""
        apart = self._apart.get((zone, exit))
        return host if apart is not None and host in apart.hosts else whole(zone)

    def find(self, zone: str, host: str, exit: Exit) -> Clearance | None:
        """Return the clearance that serves *host* by *exit*, if there is one."""
        return self._store.get(self.scope(zone, host, exit), exit)

    def add(self, clearance: Clearance) -> None:
        """Keep a new clearance for its scope."""
        self._store.put(clearance)

    def renew(self, clearance: Clearance) -> None:
        """Keep *clearance* with its renewed cookies, unless another took its place."""
        held = self._store.get(clearance.scope, clearance.exit)
        if held is not None and held.serial == clearance.serial:
            self._store.put(clearance)

    def accept(self, host: str, clearance: Clearance) -> bool:
        """Note that *host* accepted *clearance*; True if it is the first host to do so."""
        hosts = self._accepted.get(clearance.serial)
        if hosts is None:
            self._accepted.put(clearance.serial, {host})
            return True
        if len(hosts) < _MAX_HOSTS:
            hosts.add(host)
        return False

    def has_served(self, clearance: Clearance) -> bool:
        """Whether any host accepted *clearance*."""
        return bool(self._accepted.get(clearance.serial))

    def reject(self, host: str, clearance: Clearance) -> Rejection:
        """Note that *host* challenged a request that carried *clearance*."""
        held = self.find(clearance.zone, host, clearance.exit)
        if held is None or held.serial != clearance.serial:
            return Rejection.STALE
        accepted = self._accepted.get(held.serial) or set()
        is_zone_wide = held.scope == whole(held.zone)
        if is_zone_wide and accepted and host not in accepted:
            return self._set_apart(host, held)
        self._store.remove(held.scope, held.exit)
        if is_zone_wide:
            self._lend_to_zone(held)
        return Rejection.EXPIRED if accepted else Rejection.UNUSED

    def _set_apart(self, host: str, held: Clearance) -> Rejection:
        key = (held.zone, held.exit)
        apart = self._apart.get(key) or _Apart()
        self._apart.put(key, apart)
        if apart.lent is not None and apart.lent[0] == held.serial:
            owner = apart.lent[1]  # it is the lender that is different, not this host
            apart.hosts[owner], apart.lent = True, None
            self._store.remove(held.scope, held.exit)
            self._store.put(replace(held, scope=owner))
            return Rejection.EXPIRED
        if len(apart.hosts) < _MAX_HOSTS:
            apart.hosts.setdefault(host, False)
        return Rejection.APART

    def _lend_to_zone(self, rejected: Clearance) -> None:
        apart = self._apart.get((rejected.zone, rejected.exit))
        if apart is None:
            return
        for host in [host for host, for_good in apart.hosts.items() if not for_good]:
            own = self._store.get(host, rejected.exit)
            if own is not None and own.serial > rejected.serial and self._accepted.get(own.serial):
                del apart.hosts[host]
                apart.lent = (own.serial, host)
                self._store.remove(host, rejected.exit)
                self._store.put(replace(own, scope=whole(own.zone)))
                return
