"""What is known about all clearances. No I/O, no clock.

A clearance is used for all hosts of its zone that have not refused it. :mod:`.record` decides
what a challenge means.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, TypeAlias
from uuid import uuid4

from scrapy_ezcaptcha.clearances.clearance import CLEARANCE_COOKIE
from scrapy_ezcaptcha.clearances.record import Record, Seen, Verdict, best_for, tries_others
from scrapy_ezcaptcha.lru import Lru
from scrapy_ezcaptcha.words import counted

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from scrapy_ezcaptcha.clearances.clearance import Clearance, Place
    from scrapy_ezcaptcha.clearances.record import Location
    from scrapy_ezcaptcha.exit import Exit

_MAX_ENTRIES = 10_000

_LOW_YIELD = 2  # pages: a clearance that brings no more is hardly worth its price

# Clearances of one zone and exit; more than one only if hosts need their own.
_MAX_EACH = 1000

Told: TypeAlias = "Callable[[str], None] | None"
#: Why a task is created: a code for the stats, and the same in words.
Reason: TypeAlias = "tuple[str, str]"

FIRST: Reason = ("first_challenge", "first challenge of the zone through this proxy")
BODY: Reason = ("body", "the request needs the page of a solution")
USELESS: Reason = ("useless", "the last clearance was rejected at once")
ELSEWHERE: Reason = ("rejected_elsewhere", "the last clearance was rejected in another process")


class KnownClearances:
    """The clearances of a crawl; only this class changes what is known about them.

    It keeps those of *capacity* places, and drops the least recently used. With *keeps_changes*, it
    collects changes for :meth:`take_changes`. *on_rejected* is called with each rejected id.
    """

    def __init__(
        self, capacity: int = 10_000, *, keeps_changes: bool = False, on_rejected: Told = None
    ) -> None:
        self.process = uuid4().hex
        self._places: Lru[Place, list[Record]] = Lru(capacity)
        self._zones: Counter[str] = Counter()
        self._rejected: Lru[str, bool] = Lru(_MAX_ENTRIES)  # True: no host ever accepted it
        self._served: Lru[str, bool] = Lru(_MAX_ENTRIES)
        self._challenged: Lru[str, bool] = Lru(_MAX_ENTRIES)
        self._challenged_zones: Lru[str, bool] = Lru(_MAX_ENTRIES)
        self._last_end: Lru[Place, Reason] = Lru(capacity)
        self._low_yield: Lru[Place, tuple[int, int]] = Lru(capacity)
        self.number = 0  # of the last request with a clearance, or of the last renewal
        self._keeps_changes = keeps_changes
        self._changes: dict[tuple[Place, str], Record | bool] = {}
        self._on_rejected = on_rejected

    def has_zone(self, zone: str) -> bool:
        """Whether there is a clearance for *zone* and any exit."""
        return zone in self._zones

    def find(self, location: Location, exit: Exit) -> Clearance | None:
        """Return the clearance to put on a request to *location* through *exit*, if any."""
        records = self._places.get((location.zone, exit))
        if records is None:
            return None
        if len(records) == 1 and not records[0].refused:  # nearly always
            return records[0].clearance
        return best_for(location, records)

    def records(self, place: Place) -> Sequence[Record]:
        """Return what is known about the clearances of *place*, the oldest first."""
        return self._places.get(place) or ()

    def places(self, count: int) -> list[Place]:
        """Return at most *count* places that have clearances, the most recently used first."""
        return self._places.newest(count)

    def next_number(self) -> int:
        """Return the next number, for a request with a clearance or for a renewal."""
        self.number += 1
        return self.number

    def serves(self, place: Place) -> bool:
        """Whether some host accepts a clearance of *place*."""
        return any(record.accepted for record in self.records(place))

    def suspects(self, place: Place) -> int:
        """Return how many clearances of *place* some host refuses and no host has accepted."""
        records = self.records(place)
        return sum(bool(r.refused and not r.accepted and r.only is None) for r in records)

    def add(self, clearance: Clearance, path: str | None = None, only: str | None = None) -> None:
        """Add a new clearance, bought for *path*; with *only*, for this host or path only."""
        self._merge(Record(clearance, path=path, only=only, renewed=self.next_number()))

    def renew(self, carried: Clearance, fresh: Mapping[str, str]) -> None:
        """Keep the *fresh* cookies that a site sent in response to a request with *carried*.

        If the known ``cf_clearance`` is newer than the carried one, it stays.
        """
        record = self._find(carried)
        if record is not None and fresh:
            if not record.is_same(carried):
                fresh = {name: fresh[name] for name in fresh if name != CLEARANCE_COOKIE}
            record.clearance = record.clearance.with_cookies(fresh)
            record.renewed = self.next_number()
            self._changed(record)

    def accept(self, location: Location, clearance: Clearance, sent: int) -> bool:
        """Note that *location* accepted request number *sent*; False if its path never challenged.

        Such a path also accepts requests without a clearance, so this proves nothing.
        """
        if not self.was_challenged(location):
            return False
        self._served.put(clearance.id, True)
        record = self._find(clearance)
        if record is not None:
            record.served(location, self.process, sent)
            self._changed(record)
        return True

    def has_served(self, clearance: Clearance) -> bool:
        """Whether a host accepted *clearance*, in this process or another one."""
        record = self._find(clearance)
        is_accepted = record is not None and bool(record.accepted)
        was_used = self._rejected.get(clearance.id) is False
        return is_accepted or self.has_served_here(clearance) or was_used

    def has_run_out(self, clearance_id: str | None) -> bool:
        """Whether this clearance was rejected after it had brought pages."""
        return clearance_id is not None and self._rejected.get(clearance_id) is False

    def has_served_here(self, clearance: Clearance) -> bool:
        """Whether a host accepted *clearance* from this process."""
        return self._served.get(clearance.id) is not None

    def note_challenge(self, location: Location) -> None:
        """Note that *location* challenges."""
        self._challenged.put(location.path, True)
        self._challenged_zones.put(location.zone, True)

    def was_challenged(self, location: Location) -> bool:
        """Whether a request to the path of *location* was ever challenged."""
        return self._challenged.get(location.path) is not None

    def is_quiet(self, place: Place) -> bool:
        """Whether there is no clearance of *place*, and its zone has never challenged a request."""
        return not self.records(place) and self._challenged_zones.get(place[0]) is None

    def challenged(
        self, location: Location, carried: Clearance, number: int, before: Seen | None
    ) -> Seen | Reason | None:
        """Note that *location* challenged request *number*, which *carried* a clearance.

        *before* is what this returned at the request's previous challenge. Returns a Seen if the
        request is to be sent once more with the same clearance, a reason if it needs another one,
        and None if the challenge says nothing new about the known clearance.
        """
        record = self._find(carried)
        if record is None or not record.is_same(carried) or record.refuses(location):
            return None
        since = before if before is not None and before.clearance == carried.id else None
        times = since.times + 1 if since is not None else 1
        now = Seen(carried.id, self.number, record.elsewhere(self.process), times)
        verdict = record.judge(location, number, now, since, self.process)
        if verdict is None:
            return now
        if verdict is Verdict.EXPIRED:
            self._served.put(carried.id, True)  # maybe by another process
            pages = counted(record.pages, "page")
            reason = ("rejected", f"the last clearance was rejected after {pages}")
            self._note_yield(carried.place, record.pages)
            self._drop(carried.place, carried.id, reason, unused=False)
            return reason
        if verdict is Verdict.USELESS and record.only is None:
            self._drop(carried.place, carried.id, USELESS, unused=True)
            self._note_yield(carried.place, 0)
            return USELESS
        is_path = verdict in {Verdict.REFUSED_BY_PATH, Verdict.USELESS}
        record.refuse(location.path if is_path else location.host, since or now)
        self._changed(record)
        return self.reason_for(location, carried.place)

    def low_yield(self, place: Place) -> tuple[int, int]:
        """Return how many clearances in a row brought at most two pages, and their total pages."""
        return self._low_yield.get(place) or (0, 0)

    def solve_failed(self, place: Place, code: str) -> None:
        """Note that the last solve for *place* brought no clearance."""
        self._last_end.put(place, ("solve_failed", f"the last solve failed ({code})"))

    def reason_for(self, location: Location, place: Place) -> Reason:
        """Return why *location*, which has no clearance, needs a new one."""
        records = self.records(place)
        if any(location.path in record.refused for record in records):
            return ("path", f"{location.path} refuses the clearances of the zone")
        if records:
            return ("host", f"{location.host} refuses the clearances of the zone")
        return self._last_end.get(place) or FIRST

    def differs(self, location: Location, place: Place) -> str | None:
        """Return the host or path that needs its own clearance, although the zone's one is valid.

        None if a new clearance is for the whole zone.
        """
        for refuser in (location.path, location.host):
            if any(record.is_good_for_others(refuser) for record in self.records(place)):
                return refuser
        return None if self.tries_others(location, place) else location.host

    def tries_others(self, location: Location, place: Place) -> bool:
        """Whether the host of *location* may still accept a clearance bought for another host."""
        return tries_others(location.host, self.records(place))

    def fails(self, location: Location, clearance: Clearance) -> bool:
        """Whether *clearance* was bought for *location*, which did not accept it yet."""
        record = self._find(clearance)
        if record is None:  # it was rejected in the meantime
            return location.host == clearance.origin and not self.has_served(clearance)
        return record.fails(location, self.process)

    def learn(
        self, place: Place, records: Sequence[Record], rejected: Mapping[str, bool], since: int = 0
    ) -> tuple[list[str], list[str]]:
        """Learn what other processes know about *place*: clearances, and ids of rejected ones.

        The value of an id is True if no host ever accepted the clearance. Cookies that were renewed
        here after number *since* stay. Returns the ids of new clearances, and of new useless ones.
        """
        useless = []
        for clearance_id, unused in rejected.items():
            if self._rejected.get(clearance_id) is None:
                self._drop(place, clearance_id, ELSEWHERE, unused=unused, is_news=False)
                if unused:
                    useless.append(clearance_id)
        new = []
        for record in records:
            known = self._find(record.clearance)
            if known is None and self._rejected.get(record.clearance.id) is None:
                new.append(record.clearance.id)
            elif known is not None and known.renewed > since:
                record.clearance = known.clearance
            self._merge(record, is_news=False)
        theirs = {record.clearance.id for record in records}
        for record in self.records(place):
            if record.clearance.id not in theirs:  # the store was down or has lost it
                record.renewed = self.next_number()
                self._changed(record)
        return new, useless

    def take_changes(self) -> dict[tuple[Place, str], Record | bool]:
        """Return what changed since the last call, by place and clearance id.

        A bool means a rejection: True if no host ever accepted the clearance.
        """
        changes, self._changes = self._changes, {}
        return changes

    def return_changes(self, changes: Mapping[tuple[Place, str], Record | bool]) -> None:
        """Take back changes that could not be written."""
        self._changes = {**changes, **self._changes}

    def _find(self, clearance: Clearance) -> Record | None:
        for record in self._places.get(clearance.place) or ():
            if record.clearance.id == clearance.id:
                return record
        return None

    def _merge(self, record: Record, *, is_news: bool = True) -> None:
        if self._rejected.get(record.clearance.id) is not None:
            return
        known = self._find(record.clearance)
        if known is not None:
            known.merge(record, self.process)
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
        if self._on_rejected is not None:
            self._on_rejected(clearance_id)
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

    def _note_yield(self, place: Place, pages: int) -> None:
        clearances, total = self.low_yield(place)
        is_low = pages <= _LOW_YIELD
        self._low_yield.put(place, (clearances + 1, total + pages) if is_low else (0, 0))

    def _changed(self, record: Record) -> None:
        key = (record.clearance.place, record.clearance.id)
        if self._keeps_changes and not isinstance(self._changes.get(key), bool):
            self._changes[key] = record

    def _forget_zone(self, zone: str) -> None:
        self._zones[zone] -= 1
        if not self._zones[zone]:
            del self._zones[zone]
