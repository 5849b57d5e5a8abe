"""When the store is asked what other processes know about a place, and which requests wait.

One call asks about all places that are due, and there is one call at a time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from scrapy.utils.defer import maybe_deferred_to_future
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from scrapy_ezcaptcha.lru import Lru

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from scrapy_ezcaptcha.clearances.clearance import Place
    from scrapy_ezcaptcha.stores.store import View

_PAUSE_SECONDS = 0.25  # between two looks at a place
_MAX_PAUSE_SECONDS = 4.0  # the same if nothing is known and nothing was challenged

# A request waits for a look only if the time since the last one is this many times longer than a
# look takes.
_MIN_AGE = 40

# A store that takes longer than this is slow. Only the first request to a place waits for it, and
# only until the store has known nothing about this many places in a row.
_SLOW_SECONDS = 0.02
_MAX_NOTHING = 16

_MAX_PLACES = 10_000


_Answers: TypeAlias = "dict[Place, list[Deferred[View | None]]]"


class Look(NamedTuple):
    """When the store was last asked about a place, and the pause after that."""

    at: float
    pause: float


@dataclass(eq=False)
class Looks:
    """Asks the store about places.

    ``read`` returns what the store answers, an empty dict if it does not answer. ``is_quiet``
    returns whether nothing is known about a place and nothing was challenged there; the store is
    asked about such a place less and less often.
    """

    read: Callable[[Sequence[Place]], Deferred[Mapping[Place, View]]]
    is_quiet: Callable[[Place], bool]
    reactor: Any

    def __post_init__(self) -> None:
        self._last: Lru[Place, Look] = Lru(_MAX_PLACES)
        self._wanted: _Answers = {}
        self._next: Any = None  # the call that begins the next look
        self._asked: _Answers = {}  # by the look in progress
        self._is_under_way = False
        self._found_nothing = 0  # first looks in a row without a result
        self._ended_at = 0.0
        self._seconds = 0.0  # that the last look took

    def has_seen(self, place: Place) -> bool:
        """Whether the store was ever asked about *place*."""
        return self._last.get(place) is not None

    def seen(self, place: Place, *, is_known: bool) -> None:
        """Note that the store just answered about *place*, and whether it knows the place."""
        last, is_quiet = self._last.get(place), self.is_quiet(place)
        pause = _PAUSE_SECONDS
        if last is None:
            self._found_nothing = 0 if is_known else self._found_nothing + 1
        elif is_quiet:
            pause = min(2 * last.pause, _MAX_PAUSE_SECONDS)
        self._last.put(place, Look(self.reactor.seconds(), pause))

    async def refresh(self, place: Place) -> None:
        """Ask the store about *place*, if it is due.

        Waits for the answer if it is the first one, or if the last one is old. With a slow store,
        waits only for the first one, and not if it knew nothing about many places before.
        """
        last, is_slow = self._last.get(place), self._seconds > _SLOW_SECONDS
        if last is None:
            if is_slow and self._found_nothing >= _MAX_NOTHING:
                self._look_later(place)
            else:
                await self._look_or_join(place)
            return
        age = self.reactor.seconds() - last.at
        pause = last.pause if self.is_quiet(place) else _PAUSE_SECONDS
        if age >= max(pause, _MIN_AGE * self._seconds) and not is_slow:
            await self._look_or_join(place)
        elif age >= pause and place not in self._asked:
            self._look_later(place)

    def refresh_later(self, place: Place) -> None:
        """Ask about *place* together with others, if it is due; does not wait."""
        last = self._last.get(place)
        is_due = last is None or self.reactor.seconds() - last.at >= last.pause
        if is_due and place not in self._asked:
            self._look_later(place)

    async def look(self, place: Place) -> View | None:
        """Return what the store knows about *place* now; None if it does not answer."""
        answer: Deferred[View | None] = Deferred()
        self._wanted.setdefault(place, []).append(answer)
        self._begin_in(0.0)
        return await maybe_deferred_to_future(answer)

    async def _look_or_join(self, place: Place) -> None:
        """Look at *place*, or wait for the look that is in progress."""
        answers = self._asked.get(place)
        if answers is None:
            await self.look(place)
            return
        answer: Deferred[View | None] = Deferred()
        answers.append(answer)
        await maybe_deferred_to_future(answer)

    def _look_later(self, place: Place) -> None:
        """Look at *place* together with the next ones."""
        if place not in self._wanted:
            self._wanted[place] = []
            self._begin_in(self._ended_at + _PAUSE_SECONDS - self.reactor.seconds())

    def _begin_in(self, seconds: float) -> None:
        """Begin the next look in *seconds* at the latest, unless one is in progress."""
        if self._is_under_way:
            return
        begins_at = self.reactor.seconds() + max(seconds, 0.0)
        if self._next is None:
            self._next = self.reactor.callLater(max(seconds, 0.0), self._begin)
        elif self._next.getTime() > begins_at:
            self._next.reset(max(seconds, 0.0))

    def _begin(self) -> None:
        asked = self._asked = self._wanted
        self._wanted = {}
        self._next, self._is_under_way = None, True
        began = self.reactor.seconds()

        def ended(result: Mapping[Place, View] | Failure) -> Any:
            views = {} if isinstance(result, Failure) else result
            self._asked, self._is_under_way = {}, False
            self._ended_at = self.reactor.seconds()
            self._seconds = self._ended_at - began
            if self._wanted:
                is_awaited = any(self._wanted.values())
                self._begin_in(0.0 if is_awaited else _PAUSE_SECONDS)
            for place, answers in asked.items():
                for answer in answers:
                    answer.callback(views.get(place))
            return result

        self.read(list(asked)).addBoth(ended)
