"""Which exit of the pool does a zone use? Decisions only: no I/O, no clock.

Each zone has its own ranking of all exits (rendezvous hashing). So processes with the same pool
choose the same exit without communication, and an additional exit moves few zones. An exit that
fails is benched: it is not chosen until its time is over. Then one request tries it.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from hashlib import blake2b
from math import ceil
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from scrapy_ezcaptcha.lru import Lru

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Sequence

    from scrapy_ezcaptcha.config import Config
    from scrapy_ezcaptcha.exit import Exit

#: In addition to the exits that a zone uses, this many are searched for a clearance.
MORE_RANKS = 2

# How often the time on the bench is doubled.
_MAX_DOUBLINGS = 4

# An exit that loses this many connections of a zone, with no answer in between, has failed.
_MAX_LOST = 3

# An exit has failed for all zones if it cannot reach this many zones that others can reach.
_MAX_UNREACHED = 2

_MAX_ZONES = 10_000

# If zones are spread by load, an exit has at most this many times its fair share of zones.
_MAX_SHARE = 2


@dataclass(frozen=True)
class Choice:
    """The exit of one request, and the number of the choice."""

    zone: str
    exit: Exit
    number: int


@dataclass
class Bench:
    """How an exit failed: how often in a row, when its bench ends, and at which choice.

    *is_useless*: the reason is a useless clearance, and not that the exit could not be reached.
    """

    times: int = 0
    until: float = 0.0
    number: int = 0
    is_useless: bool = False


@dataclass
class _Doubts:
    """Failures whose reason may be an exit or a site, since the last answer through the exit."""

    zones: set[str] = field(default_factory=set)  # that could not be reached
    reached: set[str] = field(default_factory=set)  # those that other exits have reached since
    lost: Counter[str] = field(default_factory=Counter)  # connections, by zone


class Pool:
    """Everything that is known about the exits of a pool.

    A zone uses *per_zone* of the *exits*. An exit that fails is benched for *seconds*. Each further
    failure doubles the time, up to sixteen times *seconds*. With *is_alone*, no other process has
    to choose the same exits, and a zone whose exit has more than its share gets the next one.
    """

    def __init__(
        self, exits: Sequence[Exit], per_zone: int, seconds: float, *, is_alone: bool = False
    ) -> None:
        self.exits = tuple(exits)
        self._members = frozenset(exits)
        self._per_zone = min(per_zone, len(self.exits))
        self._seconds = seconds
        self._is_alone = is_alone
        self._rankings: Lru[str, tuple[Exit, ...]] = Lru(_MAX_ZONES)
        self._zones_of: Counter[Exit] = Counter()
        self._benches: dict[Exit, Bench] = {}
        self._zone_benches: Lru[tuple[str, Exit], Bench] = Lru(_MAX_ZONES)
        self._doubts: dict[Exit, _Doubts] = {}
        self._choices: WeakKeyDictionary[Any, Choice] = WeakKeyDictionary()
        self._given: Lru[tuple[str, Exit], int] = Lru(_MAX_ZONES)
        self._number = 0

    @classmethod
    def from_config(cls, config: Config) -> Pool:
        """Return the pool of the settings."""
        seconds, is_alone = config.breaker_seconds, not config.has_shared_store
        return cls(config.proxies, config.proxies_per_zone, seconds, is_alone=is_alone)

    def __contains__(self, exit: Exit | None) -> bool:
        return exit in self._members

    def ranking(self, zone: str) -> tuple[Exit, ...]:
        """Return all exits, the one that *zone* uses first."""
        ranking = self._rankings.get(zone)
        if ranking is None:
            ranking = ranked(zone, self.exits)
            if self._is_alone:
                ranking = self._by_share(ranking)
                self._zones_of.update(ranking[: self._per_zone])
            forgotten = self._rankings.put(zone, ranking)
            if forgotten is not None and self._is_alone:
                self._zones_of.subtract(forgotten[: self._per_zone])
        return ranking

    def near(self, zone: str) -> tuple[Exit, ...]:
        """Return the exits of *zone* that are used first if they have a clearance."""
        return self.ranking(zone)[: self._per_zone + MORE_RANKS]

    def choose(
        self,
        request: Any,
        zone: str,
        now: float,
        has_clearance: Callable[[Exit], bool],
        is_kept: Callable[[Exit], bool] = lambda _: False,
    ) -> Exit | None:
        """Return the exit for *request* to *zone*; None if all exits are benched.

        Of several exits, this is the one with the fewest requests to *zone* in progress. An exit
        that *is_kept* is preferred to all others that the zone uses.
        """
        able = self._able(zone, now)
        if not able:
            return None
        near = sorted(able[: self._per_zone + MORE_RANKS], key=lambda exit: not has_clearance(exit))
        own = near[: self._per_zone]
        exit = next(filter(is_kept, own), None) or self._least_busy(zone, own)
        self._number += 1
        if bench := self._benches.get(exit):  # its time is over: this request tries it
            bench.until = now + self._seconds
        self._choices[request] = Choice(zone, exit, self._number)
        self._given.put((zone, exit), (self._given.get((zone, exit)) or 0) + 1)
        return exit

    def ended(self, request: Any) -> Choice | None:
        """Note that *request* has ended; return what was chosen for it."""
        return self._choices.pop(request, None)

    def can_leave(self, exit: Exit, zone: str, now: float) -> bool:
        """Whether *exit* is benched, for all zones or for *zone*, and there is another one."""
        able = self._able(zone, now)
        return exit in self._members and bool(able) and exit not in able

    def tries(self, request: Any, exit: Exit) -> bool:
        """Whether *request* was chosen to try *exit*, which was benched until then."""
        choice, bench = self._choices.get(request), self._benches.get(exit)
        if choice is None or bench is None:
            return False
        return choice.exit == exit and choice.number > bench.number

    def useless_for(self, zone: str, now: float) -> list[Exit]:
        """Return the exits that are benched for *zone* because a clearance was useless."""
        benches = ((exit, self._zone_benches.get((zone, exit))) for exit in self.exits)
        return [exit for exit, b in benches if b is not None and b.is_useless and now < b.until]

    def has_any(self, now: float) -> bool:
        """Whether there is an exit that is not benched for all zones."""
        return any(not self.is_benched(exit, now) for exit in self.exits)

    def is_benched(self, exit: Exit, now: float) -> bool:
        """Whether *exit* is benched for all zones."""
        bench = self._benches.get(exit)
        return bench is not None and now < bench.until

    def bench(
        self,
        exit: Exit,
        now: float,
        number: int | None = None,
        zone: str | None = None,
        *,
        is_useless: bool = False,
    ) -> float | None:
        """Bench *exit*, for all zones or for *zone*; return for how many seconds.

        None if it was benched after choice *number* already. *is_useless*: a clearance for *zone*
        through it was useless.
        """
        benches: Any = self._benches if zone is None else self._zone_benches
        key = exit if zone is None else (zone, exit)
        bench = benches.get(key) or Bench()
        is_on = now < bench.until
        is_known = is_on if number is None else number <= bench.number
        is_news = is_useless and not bench.is_useless
        if exit not in self._members or (is_known and not is_news):
            return None
        seconds: float = self._seconds * 2 ** min(bench.times, _MAX_DOUBLINGS)
        is_useless = is_useless or (is_on and bench.is_useless)
        benched = Bench(bench.times + 1, now + seconds, self._number, is_useless)
        if zone is None:
            self._benches[exit] = benched
            self._doubts.pop(exit, None)
        else:
            self._zone_benches.put((zone, exit), benched)
        return seconds

    def benched_elsewhere(self, exit: Exit, now: float, seconds: float) -> bool:
        """Note that another process benched *exit* for *seconds*; return True if that is new."""
        if exit not in self._members or self.is_benched(exit, now):
            return False
        bench = self._benches.get(exit)
        self._benches[exit] = Bench(bench.times if bench else 1, now + seconds, self._number)
        return True

    def doubt(self, exit: Exit, zone: str, *, is_lost: bool) -> bool:
        """Note that *zone* could not be reached through *exit*; either may be the reason.

        *is_lost*: the connection was lost. Returns whether to bench the exit for the zone.
        """
        doubts = self._doubts.setdefault(exit, _Doubts())
        doubts.lost[zone] += is_lost
        if is_lost and doubts.lost[zone] < _MAX_LOST:
            return False
        doubts.zones.add(zone)
        return True

    def blamed(self, choice: Choice) -> list[Exit]:
        """Note that an exit reached a zone; return the exits that have failed because of that.

        A site that is down cannot be reached through any exit. So an exit has failed if it could
        not reach two zones that others reached after it.
        """
        blamed = []
        for exit, doubts in self._doubts.items():
            if exit != choice.exit and choice.zone in doubts.zones:
                doubts.reached.add(choice.zone)
                if len(doubts.reached) >= _MAX_UNREACHED:
                    blamed.append(exit)
        return blamed

    def worked(self, choice: Choice) -> bool:
        """Note that the exit brought an answer; return True if it was benched before."""
        exit = choice.exit
        if self._doubts:
            self._doubts.pop(exit, None)
        bench = self._benches.get(exit)
        if bench is None or choice.number <= bench.number:
            return False
        del self._benches[exit]
        return True

    def _able(self, zone: str, now: float) -> list[Exit]:
        """Return the exits that are not benched, in the order of *zone*.

        Leaves out exits that are benched for the zone, unless there are no others.
        """
        if not self._benches and not len(self._zone_benches):  # nearly always
            return list(self.ranking(zone))
        able = [exit for exit in self.ranking(zone) if not self.is_benched(exit, now)]
        good = [
            exit
            for exit in able
            if (bench := self._zone_benches.get((zone, exit))) is None or now >= bench.until
        ]
        return good or able

    def _least_busy(self, zone: str, own: Sequence[Exit]) -> Exit:
        if len(own) == 1:
            return own[0]
        busy = Counter(choice.exit for choice in self._choices.values() if choice.zone == zone)
        return min(own, key=lambda exit: (busy[exit], self._given.get((zone, exit)) or 0))

    def _by_share(self, ranking: tuple[Exit, ...]) -> tuple[Exit, ...]:
        """Return the exits, those with less than their share of zones first."""
        zones = len(self._rankings) + 1
        share = max(_MAX_SHARE, ceil(_MAX_SHARE * zones * self._per_zone / len(self.exits)))
        return tuple(sorted(ranking, key=lambda exit: self._zones_of[exit] >= share))


def is_through(exit: Exit, key: Hashable) -> bool:
    """Whether *key*, a place or a place and a part of it, is the key of a solve through *exit*."""
    place = key[0] if isinstance(key, tuple) and isinstance(key[0], tuple) else key
    return isinstance(place, tuple) and place[1] == exit


def ranked(zone: str, exits: Sequence[Exit]) -> tuple[Exit, ...]:
    """Return *exits* in the order of *zone*, which is the same in all processes.

    The credentials cannot be computed from the order.
    """
    key = blake2b(zone.encode(), digest_size=32).digest()

    def weight(exit: Exit) -> bytes:
        return blake2b(exit.url.encode(errors="replace"), key=key, digest_size=16).digest()

    return tuple(sorted(exits, key=weight, reverse=True))
