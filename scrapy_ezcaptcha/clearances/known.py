"""What is known of each clearance. No I/O, no clock.

A clearance serves every host of its zone that has not refused it. A host refuses a
clearance by challenging a request that carried it. If that host had accepted it before,
the clearance has expired for all hosts. If no host has accepted it, and it was solved for
this very host, it is useless. Otherwise this host wants a clearance of its own; but before
another solve is paid for, the host tries the other clearances of its zone.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from scrapy_ezcaptcha.lru import Lru

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from scrapy_ezcaptcha.clearances.clearance import Clearance, Place
    from scrapy_ezcaptcha.exit import Exit

_MAX_IDS = 10_000

# Clearances of one zone and exit: more than one only where hosts want their own.
_MAX_EACH = 100

# A host tries this many clearances of other hosts; then it wants one of its own.
_MAX_REFUSALS = 2


#: Why a task is bought: a code for the stats, and the same in words.
Reason: TypeAlias = "tuple[str, str]"

FIRST: Reason = ("first_challenge", "first challenge of the zone through this proxy")
BODY: Reason = ("body", "the page itself is wanted")
USELESS: Reason = ("useless", "the last clearance was rejected at once")
ELSEWHERE: Reason = ("rejected_elsewhere", "the last clearance was rejected in another process")


@dataclass(eq=False)
class Record:
    """A clearance, the hosts that accept it, and the hosts that refuse it.

    ``pages`` counts the responses that it brought to this process.
    """

    clearance: Clearance
    accepted: set[str] = field(default_factory=set)
    refused: set[str] = field(default_factory=set)
    pages: int = 0

    def copy(self) -> Record:
        """Return a record that does not change while another thread reads it."""
        return Record(self.clearance, set(self.accepted), set(self.refused))

    def _rank_for(self, host: str) -> tuple[bool, bool, int]:
        return host in self.accepted, self.clearance.origin == host, len(self.accepted)


class KnownClearances:
    """The clearances of a crawl; the only place that changes what is known of them.

    Those of *capacity* places are kept; the least recently used goes first. With
    *keeps_changes*, changes are collected for :meth:`take_changes`.
    """

    def __init__(self, capacity: int = 10_000, *, keeps_changes: bool = False) -> None:
        self._places: Lru[Place, list[Record]] = Lru(capacity)
        self._zones: Counter[str] = Counter()
        self._rejected: Lru[str, bool] = Lru(_MAX_IDS)  # True: no host had ever accepted it
        self._served: Lru[str, bool] = Lru(_MAX_IDS)
        self._last_end: Lru[Place, Reason] = Lru(capacity)
        self._keeps_changes = keeps_changes
        self._changes: dict[tuple[Place, str], Record | bool] = {}

    def __len__(self) -> int:
        return len(self._places)

    def has_zone(self, zone: str) -> bool:
        """Whether there is a clearance of *zone* for any exit."""
        return zone in self._zones

    def find(self, zone: str, host: str, exit: Exit) -> Clearance | None:
        """Return the clearance to put on a request to *host* through *exit*, if there is one."""
        records = self._places.get((zone, exit))
        if records is None:
            return None
        if len(records) == 1 and not records[0].refused:  # nearly always
            return records[0].clearance
        tries_others = sum(host in record.refused for record in records) < _MAX_REFUSALS
        candidates = [
            record
            for record in records
            if host not in record.refused
            and (tries_others or host in record.accepted or host == record.clearance.origin)
        ]
        if not candidates:
            return None
        newest_first = reversed(candidates)  # of equals, max takes the first
        return max(newest_first, key=lambda record: record._rank_for(host)).clearance

    def records(self, place: Place) -> Sequence[Record]:
        """Return what is known of the clearances of *place*, the oldest first."""
        return self._places.get(place) or ()

    def suspects(self, place: Place) -> int:
        """Return how many clearances of *place* some host refuses and none has accepted."""
        return sum(bool(one.refused and not one.accepted) for one in self.records(place))

    def add(self, clearance: Clearance) -> None:
        """Keep a new clearance."""
        self._merge(Record(clearance))

    def renew(self, clearance: Clearance) -> None:
        """Keep *clearance* with its renewed cookies, if it is still known."""
        record = self._find(clearance)
        if record is not None:
            record.clearance = clearance
            self._changed(record)

    def accept(self, host: str, clearance: Clearance) -> bool:
        """Note that *host* accepted *clearance*; True if it is the first host here to do so."""
        is_first = not self.has_served_here(clearance)
        self._served.put(clearance.id, True)
        record = self._find(clearance)
        if record is not None:
            record.pages += 1
            if host not in record.accepted:
                record.accepted.add(host)
                self._changed(record)
        return is_first

    def has_served(self, clearance: Clearance) -> bool:
        """Whether any host accepted *clearance*, in this process or another one."""
        record = self._find(clearance)
        is_accepted = record is not None and bool(record.accepted)
        was_used = self._rejected.get(clearance.id) is False
        return is_accepted or self.has_served_here(clearance) or was_used

    def has_served_here(self, clearance: Clearance) -> bool:
        """Whether a host accepted *clearance* from this very process."""
        return self._served.get(clearance.id) is not None

    def reject(self, host: str, clearance: Clearance) -> Reason | None:
        """Note that *host* challenged a request that carried *clearance*.

        Returns why the host needs another clearance now; None if that was known before.
        """
        record = self._find(clearance)
        if record is None or host in record.refused:
            return None
        if host in record.accepted:
            self._served.put(clearance.id, True)  # be it by another process
            pages = f"{record.pages} page{'' if record.pages == 1 else 's'}"
            reason = ("rejected", f"the last clearance was rejected after serving {pages}")
            self._drop(clearance.place, clearance.id, reason, unused=False)
            return reason
        if not record.accepted and host == clearance.origin:
            self._drop(clearance.place, clearance.id, USELESS, unused=True)
            return USELESS
        record.refused.add(host)
        self._changed(record)
        return self.reason_for(host, clearance.place)

    def solve_failed(self, place: Place, code: str) -> None:
        """Note that the last solve for *place* brought no clearance."""
        self._last_end.put(place, ("solve_failed", f"the last solve failed ({code})"))

    def reason_for(self, host: str, place: Place) -> Reason:
        """Return why a new clearance is needed for *host*, for which there is none."""
        if self._places.get(place):
            return ("host", f"{host} refuses the clearances of the zone")
        return self._last_end.get(place) or FIRST

    def learn(
        self, place: Place, records: Iterable[Record], rejected: Mapping[str, bool]
    ) -> tuple[list[str], list[str]]:
        """Take over what other processes know of *place*: clearances, and ids of rejected ones.

        An id has True if no host had ever accepted the clearance. Returns the ids of clearances
        that are new here, and of those newly known to be useless.
        """
        useless = []
        for clearance_id, unused in rejected.items():
            if self._rejected.get(clearance_id) is None:
                self._drop(place, clearance_id, ELSEWHERE, unused=unused, is_news=False)
                if unused:
                    useless.append(clearance_id)
        new = []
        theirs = set()
        for record in records:
            theirs.add(record.clearance.id)
            if (place, record.clearance.id) in self._changes:
                continue  # what is known here is newer
            if self._find(record.clearance) is None:
                new.append(record.clearance.id)
            self._merge(record, is_news=False)
        for record in self.records(place):
            if record.clearance.id not in theirs:  # the store was down, or forgot it
                self._changed(record)
        return new, useless

    def take_changes(self) -> dict[tuple[Place, str], Record | bool]:
        """Return what changed since the last call, by place and clearance id.

        A bool stands for a rejection: True if no host had ever accepted the clearance.
        """
        changes, self._changes = self._changes, {}
        return changes

    def return_changes(self, changes: Mapping[tuple[Place, str], Record | bool]) -> None:
        """Take back changes that could not be written."""
        self._changes = {**changes, **self._changes}

    def _find(self, clearance: Clearance) -> Record | None:
        records = self._places.get(clearance.place) or ()
        return next((one for one in records if one.clearance.id == clearance.id), None)

    def _merge(self, record: Record, *, is_news: bool = True) -> None:
        if self._rejected.get(record.clearance.id) is not None:
            return
        known = self._find(record.clearance)
        if known is not None:
            known.clearance = record.clearance
            known.accepted |= record.accepted
            known.refused |= record.refused
        else:
            self._insert(record)
        if is_news:
            self._changed(known or record)

    def _insert(self, record: Record) -> None:
        place = record.clearance.place
        others = self._places.get(place)
        if others is not None:
            others.append(record)
            others.sort(key=lambda one: one.clearance.created)
            del others[:-_MAX_EACH]
            return
        self._zones[place[0]] += 1
        forgotten = self._places.put(place, [record])
        if forgotten is not None:
            self._forget_zone(forgotten[0].clearance.zone)

    def _drop(
        self, place: Place, clearance_id: str, end: Reason, *, unused: bool, is_news: bool = True
    ) -> None:
        self._rejected.put(clearance_id, unused)
        if is_news and self._keeps_changes:
            self._changes[place, clearance_id] = unused
        records = self._places.get(place) or []
        rest = [record for record in records if record.clearance.id != clearance_id]
        if len(rest) == len(records):
            return
        self._last_end.put(place, end)
        if rest:
            records[:] = rest
        else:
            self._places.pop(place)
            self._forget_zone(place[0])

    def _changed(self, record: Record) -> None:
        key = (record.clearance.place, record.clearance.id)
        if self._keeps_changes and not isinstance(self._changes.get(key), bool):
            self._changes[key] = record

    def _forget_zone(self, zone: str) -> None:
        self._zones[zone] -= 1
        if not self._zones[zone]:
            del self._zones[zone]
