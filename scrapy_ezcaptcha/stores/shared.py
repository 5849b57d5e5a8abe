"""This crawl's memory in front of a store that others use too.

What decides over a request is answered by memory, at once. What changes is written behind, and
what others know is read, in a thread of its own; the reactor never waits for a disk or a
network. Where the store behind does not answer, memory alone goes on.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from scrapy.utils.defer import deferred_from_coro, maybe_deferred_to_future
from twisted.internet.defer import DeferredLock, fail
from twisted.internet.task import LoopingCall, deferLater
from twisted.internet.threads import deferToThreadPool
from twisted.python.threadpool import ThreadPool

from scrapy_ezcaptcha.errors import GivenUp
from scrapy_ezcaptcha.lru import Lru
from scrapy_ezcaptcha.stores.base import Held, SolveFailure, StoreError
from scrapy_ezcaptcha.stores.memory import MemoryStore

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from scrapy.statscollectors import StatsCollector
    from twisted.internet.defer import Deferred
    from twisted.python.failure import Failure

    from scrapy_ezcaptcha.errors import EzCaptchaError
    from scrapy_ezcaptcha.stores.base import Lead, Place, Store, View

logger = logging.getLogger(__name__)

T = TypeVar("T")

# For so long what was read of a place counts as new.
_FRESH_SECONDS = 0.25

# Between two looks at a solve that somebody else leads, and at a store that is down.
_FOLLOW_SECONDS = 0.5
_RETRY_SECONDS = 5.0

_MAX_LOOKED = 10_000


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
        self._behind = behind
        self._reactor = reactor
        self._stats = stats
        self._lease = lease
        #: Called with the zone of a clearance that others found to be of no use from the first.
        self.on_unused: Callable[[str], None] = lambda _: None
        self._thread = ThreadPool(0, 1, "ezcaptcha-store")  # one: calls keep their order
        self._looking = DeferredLock()
        self._looked: Lru[Place, float] = Lru(_MAX_LOOKED)
        self._unwritten: dict[tuple[Place, str], Held | _Rejection] = {}
        self._retry: Any = None  # while the store is down
        self._was_down = False
        if behind is not None:
            self._thread.start()

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

    def put(self, held: Held) -> None:
        """Keep a clearance, or what is new about it; others learn of it soon."""
        self._memory.put(held)
        if self._behind is not None:
            self._unwritten[held.clearance.place, held.clearance.id] = held

    def reject(self, place: Place, clearance_id: str, *, unused: bool = False) -> None:
        """Drop a clearance, here and for others; *unused* if no host had ever accepted it."""
        self._memory.reject(place, clearance_id)
        if self._behind is not None:
            self._unwritten[place, clearance_id] = _Rejection(unused)
            self.tell(lambda _: None)

    async def freshen(self, place: Place) -> None:
        """Learn what others know of *place*, unless that was done just now."""
        if self._behind is None or self._is_fresh(place):
            return
        await maybe_deferred_to_future(self._looking.acquire())
        try:
            if not self._is_fresh(place):
                await self._look(place)
        finally:
            self._looking.release()

    async def lead(self, place: Place) -> Leading | None:
        """Take the lead on *place*; None while another process has it.

        What others know is at hand then.
        """
        if self._behind is not None:
            try:
                lead, view = await self._ask(
                    lambda store: (store.lead(place, self._lease), store.get(place))
                )
            except StoreError:
                pass
            else:
                self._learn(place, view)
                return (
                    None if lead is None else Leading(lead, self._lease, self._reactor, self.tell)
                )
        alone = self._memory.lead(place, self._lease)
        if alone is None:
            return None
        return Leading(alone, self._lease, self._reactor, lambda message: message(self._memory))

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

    def tell(self, message: Callable[[Store], Any]) -> None:
        """Have *message* carried out behind; nobody waits for it."""
        self._submit(message).addErrback(lambda failure: failure.trap(StoreError))

    async def close(self) -> None:
        """Write what is unwritten, and let go."""
        behind, retry = self._behind, self._retry
        if behind is None:
            return
        with suppress(StoreError):
            await self._ask(lambda _: None)
        self._behind = None
        for call in (retry, self._retry):
            if call is not None and call.active():
                call.cancel()
        self._thread.stop()
        behind.close()

    def _is_fresh(self, place: Place) -> bool:
        looked = self._looked.get(place)
        is_down = self._retry is not None
        return is_down or (looked is not None and self._reactor.seconds() - looked < _FRESH_SECONDS)

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
                self._memory.reject(place, clearance_id)
                if unused and knew_place:  # else that was before our time
                    self.on_unused(place[0])
        for held in view.held:
            key = (place, held.clearance.id)
            if key in self._unwritten:
                continue  # what is known here is newer
            if self._memory.find(*key) is None:
                self._stats.inc_value("ezcaptcha/clearances/shared")
            self._memory.put(held)
        known = {held.clearance.id for held in view.held}
        for held in self._memory.held(place):
            if held.clearance.id not in known:  # the store was down, or forgot it
                self._unwritten.setdefault((place, held.clearance.id), held)

    async def _ask(self, question: Callable[[Store], T]) -> T:
        """Return the answer of the store behind.

        Raises:
            StoreError: it is down.
        """
        answer: T = await maybe_deferred_to_future(self._submit(question))
        return answer

    def _submit(self, question: Callable[[Store], T], *, even_if_down: bool = False) -> Deferred[T]:
        """Put *question* to the store behind, which first hears what is unwritten."""
        behind = self._behind
        if behind is None or (self._retry is not None and not even_if_down):
            return fail(StoreError("down"))
        unwritten, self._unwritten = self._unwritten, {}
        changes = [
            (*key, news.copy() if isinstance(news, Held) else news)
            for key, news in unwritten.items()
        ]

        def work() -> T:
            try:
                for place, clearance_id, news in changes:
                    if isinstance(news, Held):
                        behind.put(news)
                    else:
                        behind.reject(place, clearance_id, unused=news.unused)
                return question(behind)
            except StoreError:
                raise
            except Exception as error:
                raise StoreError(type(error).__name__) from error

        def failed(failure: Failure) -> Failure:
            if isinstance(failure.value, StoreError):
                self._unwritten = {**unwritten, **self._unwritten}
                self._lost(failure.value)
            return failure

        answer: Deferred[T] = deferToThreadPool(self._reactor, self._thread, work)
        return answer.addErrback(failed)

    def _lost(self, error: StoreError) -> None:
        """Go on with memory, say so once, and try again later."""
        self._stats.inc_value("ezcaptcha/store/errors")
        if self._retry is None and self._behind is not None:
            logger.log(
                logging.INFO if self._was_down else logging.WARNING,
                "The store %s does not answer (%s); going on with memory alone",
                self._behind,
                error,
            )
            self._was_down = True
            self._retry_later()

    def _retry_later(self) -> None:
        self._retry = self._reactor.callLater(
            _RETRY_SECONDS, lambda: deferred_from_coro(self._try_again())
        )

    async def _try_again(self) -> None:
        behind = self._behind
        if behind is None:
            return
        try:
            await maybe_deferred_to_future(
                self._submit(lambda store: store.check(), even_if_down=True)
            )
        except StoreError:
            if self._behind is not None:
                self._retry_later()
        else:
            self._retry = None
            logger.info("The store %s answers again", behind)


class Leading:
    """The lead on a solve, kept up until it is ended.

    ``task_id`` names the task of a leader that died, to go on with.
    """

    def __init__(
        self,
        lead: Lead,
        lease: float,
        reactor: Any,
        tell: Callable[[Callable[[Store], Any]], Any],
    ) -> None:
        self.task_id = lead.task_id
        self._lead = lead
        self._lease = lease
        self._reactor = reactor
        self._tell = tell
        self._created: tuple[str, float] | None = None
        self._beat = LoopingCall(self._keep)
        self._beat.clock = reactor
        self._beat.start(lease / 3, now=False)

    def created(self, task_id: str) -> None:
        """Note the task that is paid for, should this process die."""
        self._created = (task_id, self._reactor.seconds())
        self._keep()

    def end(self, error: EzCaptchaError | None = None, *, keep_task: bool = False) -> None:
        """Let others lead: who followed learns of *error*, or goes on with the task."""
        if self._beat.running:
            self._beat.stop()
        failure = None if error is None else self._failure(error)
        self._tell(lambda store: store.end(self._lead, failure, keep_task=keep_task))

    def _keep(self) -> None:
        task_id, age = None, 0.0
        if self._created is not None:
            task_id, created = self._created
            age = self._reactor.seconds() - created
        self._tell(lambda store: store.keep(self._lead, self._lease, task_id, age))

    def _failure(self, error: EzCaptchaError) -> SolveFailure | None:
        """Return what others are told; a limit of this crawl is none of theirs."""
        if isinstance(error, GivenUp):
            return None
        return SolveFailure(
            self._lead.fence, error.code, str(error), error.task_id, error.is_terminal()
        )
