"""Calls a store in a thread, because it may block or be down, and the reactor must not wait."""

from __future__ import annotations

import logging
from dataclasses import KW_ONLY, dataclass
from functools import partial
from threading import Thread
from typing import TYPE_CHECKING, Any, TypeVar

from scrapy.utils.defer import deferred_from_coro, maybe_deferred_to_future
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThreadPool
from twisted.python.threadpool import ThreadPool

from scrapy_ezcaptcha.stores.store import StoreError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from scrapy.statscollectors import StatsCollector
    from twisted.python.failure import Failure

    from scrapy_ezcaptcha.stores.store import Store

T = TypeVar("T")

# Between two attempts to reach a store that is down: while solves wait for it, and later.
_RETRY_SECONDS = 0.25
_LONG_RETRY_SECONDS = 5.0

# How long a solve waits for a store that went down.
_PATIENCE_SECONDS = 5.0

# When a store is back, how long other processes have to write what it lacks.
_SETTLE_SECONDS = 0.5

_WARNING_SECONDS = 60.0  # between two warnings that it is down


@dataclass(eq=False)
class StoreThread:
    """Calls *store* in one thread, so calls keep their order; a second thread only reads.

    A store that does not answer is down, and is not called. It is up again when it accepts writes
    and ``catch_up``, which brings it up to date, has ended without a StoreError.
    """

    store: Store
    catch_up: Callable[[], Awaitable[None]]
    _: KW_ONLY
    reactor: Any
    stats: StatsCollector
    log: logging.LoggerAdapter[Any]

    def __post_init__(self) -> None:
        self._pool, self._reads = _thread("ezcaptcha-store"), _thread("ezcaptcha-store-reads")
        self._return: Deferred[None] | None = None  # fires when a store that is down is back
        self._down_since = self._back_at = 0.0
        self._warned_at: float | None = None
        self._is_closed = False

    @property
    def is_down(self) -> bool:
        """Whether the store is down, and is not called."""
        return self._return is not None

    def call(self, work: Callable[[Store], T]) -> Deferred[T]:
        """Return a Deferred that fires with the result of *work*, or with a StoreError."""
        return self._call(self._pool, work)

    def read(self, work: Callable[[Store], T]) -> Deferred[T]:
        """Do the same for *work* that only reads, without waiting for other calls."""
        return self._call(self._reads, work)

    def _call(self, pool: ThreadPool, work: Callable[[Store], T]) -> Deferred[T]:
        if self.is_down:
            return fail(StoreError("it is down"))

        def unless_down(store: Store) -> T:
            if self.is_down:  # since a call before this one
                raise StoreError("it is down")
            return work(store)

        return self._attempt(pool, unless_down).addErrback(self._failed, self.reactor.seconds())

    def attempt(self, work: Callable[[Store], T]) -> Deferred[T]:
        """Do the same as :meth:`call`, even while the store is down."""
        return self._attempt(self._pool, work)

    def _attempt(self, pool: ThreadPool, work: Callable[[Store], T]) -> Deferred[T]:

        def in_thread() -> T:
            try:
                return work(self.store)
            except StoreError:
                raise
            except Exception as error:
                raise StoreError(type(error).__name__) from error

        result: Deferred[T] = deferToThreadPool(self.reactor, pool, in_thread)
        return result

    def until_back(self) -> Deferred[None]:
        """Return a Deferred that fires when the store is up or has been down for too long."""
        left = self._down_since + _PATIENCE_SECONDS - self.reactor.seconds()
        if self._return is None or left <= 0:
            return succeed(None)
        return within(left, self._return, self.reactor)

    def close(self) -> Deferred[None]:
        """Close the store after all earlier calls; the Deferred fires then."""
        self._is_closed = True
        read: Deferred[None] = self._attempt(self._reads, lambda _: None)
        closed = read.addCallback(lambda _: self.attempt(lambda store: store.close()))
        return closed.addErrback(lambda _: None).addCallback(self._stop)

    def _stop(self, _: None) -> None:
        for pool in (self._pool, self._reads):
            pool.stop()

    def _failed(self, failure: Failure, asked_at: float) -> Failure:
        """Log that the store is down, and look again later."""
        self.stats.inc_value("ezcaptcha/store/errors")
        if not self.is_down and asked_at >= self._back_at:  # else the failed call is older
            self._return, self._down_since = Deferred(), asked_at
            now, before = self.reactor.seconds(), self._warned_at
            is_warned = before is not None and now - before < _WARNING_SECONDS
            self._warned_at = before if is_warned else now
            self.log.log(
                logging.INFO if is_warned else logging.WARNING,
                "The store %s does not answer (%s); continuing with memory only",
                self.store,
                failure.getErrorMessage(),
            )
            deferred_from_coro(self._until_it_answers())
        return failure

    async def _until_it_answers(self) -> None:
        """Try again and again until the store accepts writes, then bring it up to date."""
        while True:
            is_short = self.reactor.seconds() - self._down_since < _PATIENCE_SECONDS
            await self._sleep(_RETRY_SECONDS if is_short else _LONG_RETRY_SECONDS)
            if self._is_closed:
                return
            try:
                await maybe_deferred_to_future(self.attempt(lambda store: store.check()))
                await self.catch_up()
            except StoreError:
                continue
            await self._sleep(_SETTLE_SECONDS)
            returned, self._return, self._back_at = self._return, None, self.reactor.seconds()
            self.log.info("The store %s answers again", self.store)
            if returned is not None:
                returned.callback(None)
            return

    async def _sleep(self, seconds: float) -> None:
        await maybe_deferred_to_future(deferLater(self.reactor, seconds))


def _thread(name: str) -> ThreadPool:
    """Return a pool of one thread. At its end, the process does not wait for a hanging call."""
    pool = ThreadPool(0, 1, name)
    pool.threadFactory = partial(Thread, daemon=True)  # type: ignore[assignment]
    pool.start()
    return pool


def within(seconds: float, work: Deferred[None], reactor: Any) -> Deferred[None]:
    """Return a Deferred that fires when *work* does, or after *seconds*."""
    waiter: Deferred[None] = Deferred()
    limit = reactor.callLater(seconds, waiter.callback, None)

    def ended(_: None) -> None:
        if limit.active():
            limit.cancel()
            waiter.callback(None)

    work.addCallback(ended)
    return waiter
