"""Talks to a store: what do other processes know, and which of them solves?

Decisions about a request use memory, and do not wait. Changes are written later, and what others
know is read into memory. While the store does not answer, only memory is used.
"""

from __future__ import annotations

from dataclasses import KW_ONLY, InitVar, dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from scrapy.utils.defer import maybe_deferred_to_future
from twisted.internet.defer import fail, succeed
from twisted.internet.task import deferLater

from scrapy_ezcaptcha.clearances.record import Record
from scrapy_ezcaptcha.errors import FailedElsewhere
from scrapy_ezcaptcha.stores.batch import Batch
from scrapy_ezcaptcha.stores.foreign import ForeignClearances
from scrapy_ezcaptcha.stores.lease import BENCHED
from scrapy_ezcaptcha.stores.leasing import Lease, leased
from scrapy_ezcaptcha.stores.looks import Looks
from scrapy_ezcaptcha.stores.store import StoreError
from scrapy_ezcaptcha.stores.thread import StoreThread, within

if TYPE_CHECKING:
    import logging
    from collections.abc import Callable, Mapping, Sequence

    from scrapy.statscollectors import StatsCollector
    from twisted.internet.defer import Deferred
    from twisted.python.failure import Failure

    from scrapy_ezcaptcha.clearances.clearance import Clearance, Place
    from scrapy_ezcaptcha.clearances.known import KnownClearances
    from scrapy_ezcaptcha.stores.lease import LeaseState, Update
    from scrapy_ezcaptcha.stores.store import Store, View

T = TypeVar("T")
_Updates: TypeAlias = "Sequence[tuple[Place, Update]]"
_Updated: TypeAlias = "Sequence[tuple[LeaseState | None, View]]"

_FOLLOW_SECONDS = 0.5  # between two looks at another process's solve
_WRITE_SECONDS = 0.25  # between two calls that only write changes

_MAX_CAUGHT_UP = 1000  # places that are written to a store when it is back

# At the end of the crawl, changes must be written within this time.
_CLOSE_SECONDS = 5.0
_FORCED_CLOSE_SECONDS = 1.0


@dataclass(eq=False)
class Sharing:
    """Keeps the clearances of this crawl and those in the store the same, if there is a store.

    ``lease_seconds`` is how long a lease lasts unless it is extended. ``on_useless`` is called with
    the place of each clearance that was useless in another process, and the reason in words.
    ``on_benched`` is called with the place of each exit that another process benched, and how long.
    """

    known: KnownClearances
    store: InitVar[Store | None]
    _: KW_ONLY
    reactor: Any
    stats: StatsCollector
    log: logging.LoggerAdapter[Any]
    lease_seconds: float = 15.0
    on_useless: Callable[[Place, str], None] = lambda _place, _why: None
    on_benched: Callable[[Place, float], None] | None = None

    def __post_init__(self, store: Store | None) -> None:
        self._thread: StoreThread | None = None
        self._closing: Deferred[None] | None = None
        self._trigger: Any = None
        if store is not None:
            self._thread = StoreThread(
                store, self._catch_up, reactor=self.reactor, stats=self.stats, log=self.log
            )
            # If a crawl is forced to stop, its reactor stops without the signal spider_closed.
            add_trigger = self.reactor.addSystemEventTrigger
            self._trigger = add_trigger("before", "shutdown", self._reactor_stops)
        # The leases of this process that the store does not know as released, and their versions.
        self._leases: dict[Lease, int] = {}
        self.updates = Batch(self._update_leases, self.reactor)
        self._wrote_at = 0.0
        self._written = 0  # changes up to this number are in the store
        self.looks = Looks(self._read, self.known.is_quiet, self.reactor)
        self._foreign = ForeignClearances(self.log)

    @property
    def is_on(self) -> bool:
        """Whether there is a store."""
        return self._thread is not None

    @property
    def is_down(self) -> bool:
        """Whether the store does not answer at the moment."""
        return self._thread is not None and self._thread.is_down

    async def is_available(self, place: Place) -> bool:
        """Whether *place* is shared with other processes, and the store answers.

        If the store went down, waits a few seconds for it to come back.
        """
        if self._thread is not None and self._is_shared(place):
            await maybe_deferred_to_future(self._thread.until_back())
        return self._is_shared(place) and not self.is_down

    async def refresh(self, place: Place, *, is_urgent: bool = False) -> None:
        """Learn what others know about *place*; with *is_urgent*, ask the store now.

        Otherwise a recent answer is enough, and nothing waits for a slow store.
        """
        if self.is_down or not self._is_shared(place):
            return
        if is_urgent:
            await self.looks.look(place)
        else:
            await self.looks.refresh(place)

    async def acquire(self, place: Place, part: str | None = None) -> Lease | None:
        """Acquire the lease on *place*, or on *part* of it; None while another process holds it.

        A part is a host, path or page that has its own solve. In either case, what others know
        about *place* is in memory afterwards. Raises StoreError if the store does not answer.
        """
        name, seconds, since = leased(place, part), self.lease_seconds, self._written
        acquired, unchanged = await maybe_deferred_to_future(
            self.updates.add(
                [
                    (name, lambda state, now: state.acquired(now, seconds)),
                    (place, lambda _state, _now: None),
                ]
            )
        )
        self._learn(place, unchanged[1], since)
        if acquired[0] is None:
            return None
        lease = Lease(name, acquired[0], seconds=seconds, tell=self._tell_of, reactor=self.reactor)
        self._leases[lease] = 0
        return lease

    async def follow(self, place: Place, part: str | None = None) -> None:
        """Wait until another process has ended its solve for *place*, or for *part* of it.

        Its clearance is in memory afterwards. Raises FailedElsewhere if the solve failed.
        """
        followed: int | None = None
        forgotten_at: float | None = None
        while True:
            view = await self.looks.look(leased(place, part))
            if view is None:
                if await self.is_available(place):
                    continue
                return
            _, _, state, now = view
            failure, holder = state.failure, state.holder(now)
            if failure is not None and failure.token == followed:
                text, is_terminal = f"in another process: {failure.text}", failure.is_terminal
                raise FailedElsewhere(failure.code, text, failure.task_id, is_terminal)
            if followed is not None and state.token < followed:  # its holder extends it again
                forgotten_at = forgotten_at or self.reactor.seconds()
                is_over = self.reactor.seconds() - forgotten_at > self.lease_seconds / 2
            else:
                is_over, forgotten_at = holder is None, None
            if is_over or (holder is not None and followed not in {None, holder}):
                break
            followed = followed or holder
            await maybe_deferred_to_future(deferLater(self.reactor, _FOLLOW_SECONDS))
        if part is not None:
            await self.looks.look(place)

    def write_soon(self) -> None:
        """Write changes soon; does not wait."""
        if self.is_on:
            self.updates.add([]).addErrback(lambda failure: failure.trap(StoreError))

    def note_first_use(self, clearance: Clearance, *, works: bool) -> None:
        """Note whether *clearance* worked when it was first used in this process."""
        if works:
            self._foreign.worked(clearance)
            self.write_soon()  # a process for which it fails must know that it worked here
        else:
            self._foreign.failed(clearance)

    async def close(self) -> None:
        """Write changes and close the store; give up if that takes too long."""
        await maybe_deferred_to_future(within(_CLOSE_SECONDS, self._close(), self.reactor))
        if self._trigger is not None:
            self.reactor.removeSystemEventTrigger(self._trigger)
            self._trigger = None

    def _reactor_stops(self) -> Deferred[None]:
        self._trigger = None
        return within(_FORCED_CLOSE_SECONDS, self._close(), self.reactor)

    def _close(self) -> Deferred[None]:
        if self._closing is None:
            thread, closed = self._thread, succeed(None)
            if thread is not None:
                for lease in list(self._leases):
                    if not lease.is_released:  # the crawl is forced to stop
                        lease.release(keep_task=True)
                reports = self._reports()
                written = self._write(thread.attempt, lambda store: store.update(reports))
                written.addErrback(lambda failure: failure.trap(StoreError))
                self._thread, closed = None, thread.close()
            self._closing = closed
        return self._closing

    def _is_shared(self, place: Place) -> bool:
        return self.is_on and self._foreign.work_at(place)

    def _read(self, places: Sequence[Place]) -> Deferred[Mapping[Place, View]]:
        """Learn what others know about *places*; nothing if the store is down."""

        def learn(views: list[View]) -> Mapping[Place, View]:
            for place, view in zip(places, views, strict=True):
                self._learn(place, view, since)
            return dict(zip(places, views, strict=True))

        def failed(failure: Failure) -> Mapping[Place, View]:
            failure.trap(StoreError)
            return {}

        if self._thread is None:
            return succeed({})
        if self.reactor.seconds() - self._wrote_at >= _WRITE_SECONDS:
            self.write_soon()
        since = self._written
        return self._thread.read(lambda store: store.get_all(places)).addCallbacks(learn, failed)

    def _learn(self, place: Place, view: View, since: int) -> None:
        knew_place = self.looks.has_seen(place)
        records, rejected, state, now = view
        new, useless = self.known.learn(place, records, rejected, since)
        self.looks.seen(place, is_known=bool(records or rejected))
        for clearance_id in new:
            self._foreign.learnt(clearance_id)
            self.stats.inc_value("ezcaptcha/clearances/shared")
        is_news = knew_place and not self.known.serves(place)  # else it is old, or about one path
        if self.on_benched is not None and place[0] == BENCHED and state.until > now:
            self.on_benched(place, state.until - now)
        for _ in useless if is_news else ():
            self.on_useless(place, "its clearance was rejected at once, in another process")

    def _update_leases(self, items: list[_Updates]) -> Deferred[list[_Updated]]:
        """Update leases in one call."""
        updates = [update for item in items for update in item]

        def by_item(results: _Updated) -> list[_Updated]:
            left = iter(results)
            return [list(islice(left, len(item))) for item in items]

        return self._call(lambda store: store.update(updates)).addCallback(by_item)

    def _tell_of(self, lease: Lease) -> None:
        """Have the store note what is new about *lease*; does not wait."""
        number = self._leases[lease] = self._leases.get(lease, 0) + 1
        told = self.updates.add([(lease.place, update) for update in lease.report()])
        told.addCallback(lambda _: self._told_of({lease: number}))
        told.addErrback(lambda failure: failure.trap(StoreError))

    def _told_of(self, leases: Mapping[Lease, int]) -> None:
        """Forget leases that the store knows as released."""
        for lease, number in leases.items():
            if lease.is_released and self._leases.get(lease) == number:
                del self._leases[lease]

    def _reports(self) -> _Updates:
        """Return what the store must note about all leases."""
        return [(lease.place, update) for lease in self._leases for update in lease.report()]

    def _call(self, work: Callable[[Store], T]) -> Deferred[T]:
        """Have the store write changes, and then do *work*."""
        if self._thread is None:
            return fail(StoreError("there is none"))
        return self._write(self._thread.call, work)

    def _write(
        self, call: Callable[[Callable[[Store], T]], Deferred[T]], work: Callable[[Store], T]
    ) -> Deferred[T]:
        """Write changes and do *work*, with *call*."""
        self._wrote_at, number, since = self.reactor.seconds(), self.known.number, self._written
        changes = self.known.take_changes()
        news = [
            (
                place,
                clearance_id,
                change.copy_of(self.known.process) if isinstance(change, Record) else change,
            )
            for (place, clearance_id), change in changes.items()
            if self._is_shared(place)
        ]

        def write_and_work(store: Store) -> T:
            store.put(*(one for _, _, one in news if isinstance(one, Record)), since=since)
            store.drop(
                [
                    (store.name_of(place), clearance_id, change)
                    for place, clearance_id, change in news
                    if isinstance(change, bool)
                ]
            )
            return work(store)

        def failed(failure: Failure) -> Failure:
            self.known.return_changes(changes)
            return failure

        def written(result: T) -> T:
            self._written = max(self._written, number)
            return result

        return call(write_and_work).addCallbacks(written, failed)

    async def _catch_up(self) -> None:
        """Write to a store that is back what it lacks, and learn what others wrote."""
        if self._thread is None:
            return
        attempt, places = self._thread.attempt, self.known.places(_MAX_CAUGHT_UP)
        leases, reports = dict(self._leases), self._reports()

        def report_and_read(store: Store) -> list[View]:
            store.update(reports)
            return store.get_all(places)

        since = self._written
        views = await maybe_deferred_to_future(self._write(attempt, report_and_read))
        self._told_of(leases)
        for place, view in zip(places, views, strict=True):
            self._learn(place, view, since)
        await maybe_deferred_to_future(self._write(attempt, lambda _: None))
