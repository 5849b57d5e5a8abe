"""Talks to a store: what other processes know, and which one of them solves.

What decides about a request is answered from memory, at once. Changes are written later, and
what others know is read into memory. While the store does not answer, memory alone is used.
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

_FOLLOW_SECONDS = 0.5  # between two looks at a solve of another process
_WRITE_SECONDS = 0.25  # between two calls that write what changed, if nothing else is to be noted

_MAX_CAUGHT_UP = 1000  # places, of which a store that was away is told at once

# At the end, what changed is to be written within so many seconds.
_CLOSE_SECONDS = 5.0
_FORCED_CLOSE_SECONDS = 1.0


@dataclass(eq=False)
class Sharing:
    """Keeps the known clearances of this crawl and those in a store alike, if there is a store.

    ``lease_seconds`` is how long a lease holds that is not extended. ``on_useless`` is called
    with the place of each clearance that another process found to be useless, and with the words;
    ``on_benched`` with an exit, as a place, that it does not use for so many seconds.
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
            # A crawl that is forced to stop sends no spider_closed; its reactor stops.
            add_trigger = self.reactor.addSystemEventTrigger
            self._trigger = add_trigger("before", "shutdown", self._reactor_stops)
        # The leases of this process, and how often each had news; without those known as released.
        self._leases: dict[Lease, int] = {}
        self.updates = Batch(self._update_leases, self.reactor)
        self._wrote_at = 0.0
        self._written = 0  # what changed until then is in the store
        self.looks = Looks(self._read, self.known.is_quiet, self.reactor)
        self._foreign = ForeignClearances(self.log)

    @property
    def is_on(self) -> bool:
        """Whether there is a store."""
        return self._thread is not None

    @property
    def is_down(self) -> bool:
        """Whether the store does not answer just now."""
        return self._thread is not None and self._thread.is_down

    async def is_available(self, place: Place) -> bool:
        """Whether *place* is shared with other processes, and the store answers.

        Waits for some seconds for a store that went down, to which others may come back too.
        """
        if self._thread is not None and self._is_shared(place):
            await maybe_deferred_to_future(self._thread.until_back())
        return self._is_shared(place) and not self.is_down

    async def refresh(self, place: Place, *, is_urgent: bool = False) -> None:
        """Learn what others know of *place*, if *is_urgent* just now.

        Else what was learnt shortly before is enough, and a slow store is not waited for.
        """
        if self.is_down or not self._is_shared(place):
            return
        if is_urgent:
            await self.looks.look(place)
        else:
            await self.looks.refresh(place)

    async def acquire(self, place: Place, part: str | None = None) -> Lease | None:
        """Acquire the lease on *place*, or on *part* of it; None while another process holds it.

        A part is a host, a path or a page that is solved for by itself. Either way, what others
        know of *place* is in memory then. Raises StoreError if the store does not answer.
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
        """Wait until the solve ends that another process has under way for *place*, or *part*.

        The clearance that it bought is in memory then. Raises FailedElsewhere if it failed.
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
        """Write what changed; nobody waits for it."""
        if self.is_on:
            self.updates.add([]).addErrback(lambda failure: failure.trap(StoreError))

    def note_first_use(self, clearance: Clearance, *, works: bool) -> None:
        """Note whether *clearance*, when it was first used here, got a request through."""
        if works:
            self._foreign.worked(clearance)
            self.write_soon()  # whoever it fails for is to know that it was of use
        else:
            self._foreign.failed(clearance)

    async def close(self) -> None:
        """Write what changed, and close the store; what takes too long is given up."""
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
        """Learn what others know of *places*; nothing if the store is down."""

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
        is_news = knew_place and not self.known.serves(place)  # else before, or of one path
        if self.on_benched is not None and place[0] == BENCHED and state.until > now:
            self.on_benched(place, state.until - now)
        for _ in useless if is_news else ():
            self.on_useless(place, "its clearance was rejected at once, in another process")

    def _update_leases(self, items: list[_Updates]) -> Deferred[list[_Updated]]:
        """Carry out updates of leases together."""
        updates = [update for item in items for update in item]

        def by_item(results: _Updated) -> list[_Updated]:
            left = iter(results)
            return [list(islice(left, len(item))) for item in items]

        return self._call(lambda store: store.update(updates)).addCallback(by_item)

    def _tell_of(self, lease: Lease) -> None:
        """Have the store note what is new about *lease*; nobody waits for it."""
        number = self._leases[lease] = self._leases.get(lease, 0) + 1
        told = self.updates.add([(lease.place, update) for update in lease.report()])
        told.addCallback(lambda _: self._told_of({lease: number}))
        told.addErrback(lambda failure: failure.trap(StoreError))

    def _told_of(self, leases: Mapping[Lease, int]) -> None:
        """Forget leases of whose release the store knows."""
        for lease, number in leases.items():
            if lease.is_released and self._leases.get(lease) == number:
                del self._leases[lease]

    def _reports(self) -> _Updates:
        """Return what the store is to note of all leases."""
        return [(lease.place, update) for lease in self._leases for update in lease.report()]

    def _call(self, work: Callable[[Store], T]) -> Deferred[T]:
        """Have the store write what changed, and then do *work*."""
        if self._thread is None:
            return fail(StoreError("there is none"))
        return self._write(self._thread.call, work)

    def _write(
        self, call: Callable[[Callable[[Store], T]], Deferred[T]], work: Callable[[Store], T]
    ) -> Deferred[T]:
        """Write what changed by *call*, and do *work*."""
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
        """Write to a store that was away what it does not have, and learn what others wrote."""
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
