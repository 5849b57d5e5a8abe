"""This crawl's memory in front of a store that others use too.

What decides over a request is answered by memory, at once. What changes is written behind, and
what others know is read from there. Where the store behind does not answer, memory alone goes
on.
"""

from __future__ import annotations

import logging
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from scrapy.utils.defer import maybe_deferred_to_future
from twisted.internet.defer import DeferredLock, fail
from twisted.internet.task import deferLater

from scrapy_ezcaptcha.lru import Lru
from scrapy_ezcaptcha.stores.background import Background
from scrapy_ezcaptcha.stores.base import Held, StoreError
from scrapy_ezcaptcha.stores.leading import Leading
from scrapy_ezcaptcha.stores.memory import MemoryStore

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from scrapy.statscollectors import StatsCollector
    from twisted.internet.defer import Deferred
    from twisted.python.failure import Failure

    from scrapy_ezcaptcha.clearance import Clearance
    from scrapy_ezcaptcha.stores.base import Lead, Place, Store, View

logger = logging.getLogger(__name__)

T = TypeVar("T")

# For so long what was read of a place counts as new.
_FRESH_SECONDS = 0.25

# Others' clearances that may fail here, one after the other, at an age at which few sites end them.
_MAX_DISAPPOINTMENTS = 3
_YOUNG_SECONDS = 300.0

# Between two looks at a solve that somebody else leads.
_FOLLOW_SECONDS = 0.5

_MAX_PLACES = 10_000
_MAX_FOREIGN = 10_000


@dataclass(frozen=True)
class _Rejection:
    """What is to be written of a clearance that is of no use any more."""

    unused: bool


class SharedStore:
    """What is known of clearances, here and by others.

    Args:
        behind: the store that others use too; None if there is none.
        reactor: the clock, and where the answers of the thread arrive.
        stats: where ``ezcaptcha/store/...`` and ``ezcaptcha/clearances/shared`` are counted.
        lease: seconds of silence after which a leader counts as dead.
    """

    def __init__(
        self, behind: Store | None, *, reactor: Any, stats: StatsCollector, lease: float = 15.0
    ) -> None:
        self._memory = MemoryStore(clock=reactor.seconds)
        self._behind = None if behind is None else Background(behind, reactor, stats)
        self._reactor = reactor
        self._stats = stats
        self._lease = lease
        #: Called with the zone of a clearance that others found to be of no use from the first.
        self.on_unused: Callable[[str], None] = lambda _: None
        self._looking = DeferredLock()
        self._looked: Lru[Place, float] = Lru(_MAX_PLACES)
        self._foreign: Lru[str, bool] = Lru(_MAX_FOREIGN)
        self._disappointments: Lru[Place, int] = Lru(_MAX_PLACES)
        self._unwritten: dict[tuple[Place, str], Held | _Rejection] = {}

    @property
    def is_shared(self) -> bool:
        """Whether others may know more."""
        return self._behind is not None

    def has_zone(self, zone: str) -> bool:
        """Whether any exit holds a clearance of *zone*."""
        return self._memory.has_zone(zone)

    def held(self, place: Place) -> Sequence[Held]:
        """Return what is held of *place*, the oldest first."""
        return self._memory.held(place)

    def find(self, place: Place, clearance_id: str) -> Held | None:
        """Return what is held of a clearance."""
        return self._memory.find(place, clearance_id)

    def was_used(self, clearance_id: str) -> bool:
        """Whether a clearance was of use to somebody until it was rejected."""
        return self._memory.was_used(clearance_id)

    def put(self, held: Held) -> None:
        """Keep a clearance, or what is new about it; others learn of it soon."""
        self._memory.put(held)
        if self._is_shared_at(held.clearance.place):
            self._unwritten[held.clearance.place, held.clearance.id] = held

    def reject(self, place: Place, clearance_id: str, *, unused: bool = False) -> None:
        """Drop a clearance, here and for others; *unused* if no host had ever accepted it."""
        self._memory.reject(place, clearance_id, unused=unused)
        if self._is_shared_at(place):
            self._unwritten[place, clearance_id] = _Rejection(unused)
            self.tell(lambda _: None)

    async def freshen(self, place: Place) -> None:
        """Learn what others know of *place*, unless that was done just now."""
        if not self._is_shared_at(place) or self._is_fresh(place):
            return
        await maybe_deferred_to_future(self._looking.acquire())
        try:
            if not self._is_fresh(place):
                await self._look(place)
        finally:
            self._looking.release()

    async def look(self, place: Place) -> None:
        """Learn what others know of *place* at this very moment."""
        if self._is_shared_at(place):
            await self._look(place)

    async def lead(self, place: Place) -> Leading | None:
        """Take the lead on *place*; None while another process has it.

        What others know is at hand then.
        """
        try:
            if not self._is_shared_at(place):
                raise StoreError("not shared")
            lead, view = await self._ask(
                lambda store: (store.lead(place, self._lease), store.get(place))
            )
        except StoreError:
            lead = self._memory.lead(place, self._lease)
            return self._leading(lead, lambda message: message(self._memory))
        self._learn(place, view)
        return self._leading(lead, self.tell)

    async def follow(self, place: Place) -> None:
        """Wait for the end of the solve that another process leads on *place*.

        What it earned is at hand then.

        Raises:
            FailedElsewhere: it failed.
        """
        followed: int | None = None
        while (view := await self._look(place)) is not None:
            if view.failure is not None and view.failure.fence == followed:
                raise view.failure.as_error()
            if view.leader is None or followed not in {None, view.leader}:
                return
            followed = view.leader
            await maybe_deferred_to_future(deferLater(self._reactor, _FOLLOW_SECONDS))

    def tried(self, clearance: Clearance, *, works: bool) -> None:
        """Note whether *clearance*, when it was first tried here, got a request through.

        Where one proxy URL is another address for each process, what others earned never works
        here, and sharing would have all of them pay in turn. So after some of those this process
        goes on alone with that place.
        """
        place = clearance.place
        if works:
            self._disappointments.pop(place)
            self.tell(lambda _: None)  # whoever it fails is to know that it was of use
        elif self._foreign.pop(clearance.id) and time.time() - clearance.created < _YOUNG_SECONDS:
            count = (self._disappointments.get(place) or 0) + 1
            self._disappointments.put(place, count)
            if count == _MAX_DISAPPOINTMENTS:
                logger.warning(
                    "Clearances that other processes earned for %s by %s do not work here; going on"
                    " alone there. Does the proxy give each of them another address?",
                    place[0],
                    place[1].address,
                )

    def tell(self, message: Callable[[Store], Any]) -> None:
        """Have *message* carried out behind; nobody waits for it."""
        self._submit(message).addErrback(lambda failure: failure.trap(StoreError))

    async def close(self) -> None:
        """Write what is unwritten, and let go."""
        if self._behind is not None:
            with suppress(StoreError):
                await self._ask(lambda _: None)
            self._behind.close()
            self._behind = None

    def _leading(
        self, lead: Lead | None, tell: Callable[[Callable[[Store], Any]], Any]
    ) -> Leading | None:
        return None if lead is None else Leading(lead, self._lease, self._reactor, tell)

    def _is_shared_at(self, place: Place) -> bool:
        count = self._disappointments.get(place) or 0
        return self._behind is not None and count < _MAX_DISAPPOINTMENTS

    def _is_fresh(self, place: Place) -> bool:
        looked = self._looked.get(place)
        return looked is not None and self._reactor.seconds() - looked < _FRESH_SECONDS

    async def _look(self, place: Place) -> View | None:
        """Learn what others know of *place*; None if the store is down."""
        try:
            view = await self._ask(lambda store: store.get(place))
        except StoreError:
            return None
        self._learn(place, view)
        return view

    def _learn(self, place: Place, view: View) -> None:
        knew_place = self._looked.get(place) is not None
        self._looked.put(place, self._reactor.seconds())
        for clearance_id, unused in view.rejected.items():
            if not self._memory.is_rejected(clearance_id):
                self._memory.reject(place, clearance_id, unused=unused)
                if unused and knew_place:  # else that was before our time
                    self.on_unused(place[0])
        for held in view.held:
            key = (place, held.clearance.id)
            if key in self._unwritten:
                continue  # what is known here is newer
            if self._memory.find(*key) is None:
                self._foreign.put(held.clearance.id, True)
                self._stats.inc_value("ezcaptcha/clearances/shared")
            self._memory.put(held)
        known = {held.clearance.id for held in view.held}
        for held in self._memory.held(place):
            if held.clearance.id not in known:  # the store was down, or forgot it
                self._unwritten.setdefault((place, held.clearance.id), held)

    async def _ask(self, question: Callable[[Store], T]) -> T:
        """Return the answer of the store behind, which first hears what is unwritten.

        Raises:
            StoreError: there is none, or it is down.
        """
        answer: T = await maybe_deferred_to_future(self._submit(question))
        return answer

    def _submit(self, question: Callable[[Store], T]) -> Deferred[T]:
        if self._behind is None:
            return fail(StoreError("there is none"))
        unwritten, self._unwritten = self._unwritten, {}
        changes = [
            (*key, news.copy() if isinstance(news, Held) else news)
            for key, news in unwritten.items()
        ]

        def work(store: Store) -> T:
            for place, clearance_id, news in changes:
                if isinstance(news, Held):
                    store.put(news)
                else:
                    store.reject(place, clearance_id, unused=news.unused)
            return question(store)

        def failed(failure: Failure) -> Failure:
            self._unwritten = {**unwritten, **self._unwritten}
            return failure

        return self._behind.submit(work).addErrback(failed)
