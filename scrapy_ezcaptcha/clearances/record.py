"""What is known about one clearance, and what a challenge means for it. Decisions only.

A challenge is evidence, not a verdict: Cloudflare may challenge a visitor whose clearance is
valid. A request costs nothing, and a task costs money, so a challenged request is sent once
more with the same clearance. If it is challenged again, it matters whether requests that were
sent in between were accepted with the same clearance. If so, the clearance is valid, and the
problem is the path or host of this request. If not, the clearance has expired, was useless from
the start, or is not valid for this host. If several later requests are challenged in a row,
the decision is the same, and none of them has to be sent again.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple

from scrapy_ezcaptcha.clearances.clearance import CLEARANCE_COOKIE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scrapy_ezcaptcha.clearances.clearance import Clearance

# A host tries this many clearances of other hosts; then it needs its own.
_MAX_REFUSALS = 2

# How often a request is sent again with a clearance with which others are accepted.
_MAX_STRAYS = 4

# After a first challenge, this many challenges in a row to later requests decide the same.
_MAX_IN_A_ROW = 4

_MAX_PATHS = 1000  # of a clearance, with its pages


class Location(NamedTuple):
    """Where a request goes: its host, the host's zone, and the first segment of its path.

    ``path`` begins with the host: ``www.shop.example/item``.
    """

    host: str
    zone: str
    path: str


class Seen(NamedTuple):
    """What was known about a clearance when a request that carried it was challenged.

    ``sent`` is the number of requests that this process had sent, ``elsewhere`` the number of
    pages that the clearance had brought to other processes, and ``times`` the number of challenges
    to the request.
    """

    clearance: str
    sent: int
    elsewhere: int
    times: int


class Verdict(Enum):
    """What a second challenge means for the clearance."""

    EXPIRED = "no host accepts it any more"
    USELESS = "no host ever accepted it"
    REFUSED_BY_HOST = "the host does not accept it; other hosts may"
    REFUSED_BY_PATH = "the host accepts it, but not for this path"


@dataclass(eq=False)
class Record:
    """A clearance, the hosts that accept it, and the hosts and paths that refuse it.

    ``counts`` is the number of pages that it brought, by process. ``paths`` are the paths that
    accepted it from this process, and ``last_sent`` is the number of the last accepted request.
    ``path`` is the path for which it was bought. ``only`` is set if it is for one host or path
    only, because the zone already had a valid clearance.
    ``renewed`` is the number at its last renewal in this process, or when it was bought here, or
    when the store turned out not to have it.
    ``refused_at`` is the number of requests that had been sent when this process noted a refusal.
    ``label`` is the exit's label, if the exit is known without credentials.
    ``doubts`` is what was known at the first challenge since the last page, and how many later
    requests were challenged: True for paths that had accepted it, False for hosts that had not.
    """

    clearance: Clearance
    accepted: set[str] = field(default_factory=set)
    refused: set[str] = field(default_factory=set)
    counts: dict[str, int] = field(default_factory=dict)
    path: str | None = None
    only: str | None = None
    paths: set[str] = field(default_factory=set)
    last_sent: int = 0
    renewed: int = 0
    refused_at: dict[str, int] = field(default_factory=dict)
    label: str | None = None
    doubts: dict[bool, Seen] = field(default_factory=dict)

    @property
    def pages(self) -> int:
        """The pages that it brought to all processes."""
        return sum(self.counts.values())

    @property
    def is_doubtful(self) -> bool:
        """Whether some host refuses it."""
        return any("/" not in refused for refused in self.refused)

    def elsewhere(self, process: str) -> int:
        """Return the pages that it brought to processes other than *process*."""
        return self.pages - self.counts.get(process, 0)

    def copy_of(self, process: str) -> Record:
        """Return a copy of what *process* knows."""
        counts = {process: self.counts[process]} if process in self.counts else {}
        record = Record(self.clearance, set(self.accepted), set(self.refused), counts)
        record.path, record.only, record.renewed = self.path, self.only, self.renewed
        return record

    def merge(self, other: Record, process: str) -> None:
        """Add what processes other than this one know."""
        self.clearance = other.clearance
        self.accepted |= other.accepted
        self.refused |= other.refused
        self.path, self.only = self.path or other.path, self.only or other.only
        self.counts |= {one: count for one, count in other.counts.items() if one != process}

    def is_alive(self, since: Seen, process: str) -> bool:
        """Whether a request that was sent after *since* was accepted."""
        return self.last_sent > since.sent or self.elsewhere(process) > since.elsewhere

    def served(self, location: Location, process: str, sent: int) -> None:
        """Note that request number *sent* of *process* got a page."""
        self.accepted.add(location.host)
        self.counts[process] = self.counts.get(process, 0) + 1
        self.last_sent = max(self.last_sent, sent)
        if len(self.paths) < _MAX_PATHS:
            self.paths.add(location.path)

    def fails(self, location: Location, process: str) -> bool:
        """Whether it was bought for the path of *location*, and has brought no page of it."""
        if self.path is None:  # bought by an older version in another process
            return location.host == self.clearance.origin and not self.accepted
        is_used = location.path in self.paths or self.elsewhere(process) > 0
        return self.path == location.path and not is_used

    def is_same(self, carried: Clearance) -> bool:
        """Whether *carried* has the known cookie; a site may have renewed it since."""
        cookies = self.clearance.cookies
        return cookies.get(CLEARANCE_COOKIE) == carried.cookies.get(CLEARANCE_COOKIE)

    def refuses(self, location: Location) -> bool:
        """Whether the host or the path of *location* refuses it."""
        return location.host in self.refused or location.path in self.refused

    def refuse(self, refuser: str, since: Seen) -> None:
        """Note that *refuser*, a host or a path, does not accept it."""
        self.refused.add(refuser)
        self.refused_at[refuser] = since.sent

    def is_good_for_others(self, refuser: str) -> bool:
        """Whether requests were accepted with it after *refuser* refused it."""
        refused_at = self.refused_at.get(refuser)
        return refused_at is not None and self.last_sent > refused_at

    def is_refused_alone(self, host: str) -> bool:
        """Whether *host* refuses it and other hosts do not, as far as is known.

        If hosts for which it was not bought accepted it, and no request was accepted with it after
        the refusal, it has probably expired for all hosts.
        """
        serves_others = bool(self.accepted - {self.clearance.origin})
        return host in self.refused and (not serves_others or self.is_good_for_others(host))

    def _is_refused_by_other_path(self, path: str) -> bool:
        """Whether another path refused it, and no request was accepted with it since."""
        return any(
            "/" in refuser and refuser != path and at >= self.last_sent
            for refuser, at in self.refused_at.items()
        )

    def _judge_row(
        self, location: Location, number: int, now: Seen, process: str
    ) -> Verdict | None:
        """Note that request *number* was challenged; return what several in a row mean."""
        is_served = location.path in self.paths
        if not is_served and location.host in {*self.accepted, self.clearance.origin}:
            return None
        doubt = self.doubts.get(is_served)
        if doubt is None or self.is_alive(doubt, process):
            doubt = now._replace(times=0)
        elif number > doubt.sent:
            doubt = doubt._replace(times=doubt.times + 1)
        self.doubts[is_served] = doubt
        if doubt.times < _MAX_IN_A_ROW:
            return None
        return Verdict.EXPIRED if is_served else Verdict.REFUSED_BY_HOST

    def judge(
        self, location: Location, number: int, now: Seen, since: Seen | None, process: str
    ) -> Verdict | None:
        """Return what the challenge to request *number* means; None to send it once more.

        *since* is what was known at the previous challenge to the same request, if any.
        """
        if verdict := self._judge_row(location, number, now, process):
            return verdict
        if since is None:
            return None
        if self.is_alive(since, process):
            if since.times < _MAX_STRAYS:
                return None
            is_host = location.host not in self.accepted
            return Verdict.REFUSED_BY_HOST if is_host else Verdict.REFUSED_BY_PATH
        if location.host in self.accepted:
            knows_path = location.path in self.paths or len(self.paths) in {0, _MAX_PATHS}
            is_over = knows_path or self._is_refused_by_other_path(location.path)
            return Verdict.EXPIRED if is_over else Verdict.REFUSED_BY_PATH
        is_own = location.host == self.clearance.origin
        return Verdict.USELESS if is_own and not self.accepted else Verdict.REFUSED_BY_HOST


def tries_others(host: str, records: Sequence[Record]) -> bool:
    """Whether *host* may still accept a clearance that was bought for another host."""
    return sum(record.is_refused_alone(host) for record in records) < _MAX_REFUSALS


def best_for(location: Location, records: Sequence[Record]) -> Clearance | None:
    """Return the clearance of *records*, the oldest first, that fits *location* best.

    First one that was bought only for this path or host, then one that the host accepted, then one
    that was bought for the host, then the newest.
    """
    host = location.host
    tries = tries_others(host, records)
    candidates = [
        (
            record.only in {location.path, host},
            record.only is None,
            host in record.accepted,
            host == record.clearance.origin,
            number,
        )
        for number, record in enumerate(records)
        if not record.refuses(location)
        and (
            host in record.accepted
            or host == record.clearance.origin
            or (tries and not record.is_doubtful)
        )
    ]
    return records[max(candidates)[-1]].clearance if candidates else None
