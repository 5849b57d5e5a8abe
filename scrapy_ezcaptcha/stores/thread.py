"""Calls a store, which may block or be down, in a thread: the reactor never waits."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import partial
from threading import Thread
from typing import TYPE_CHECKING, Any, TypeVar

from twisted.internet.defer import Deferred, fail
from twisted.internet.threads import deferToThreadPool
from twisted.python.threadpool import ThreadPool

from scrapy_ezcaptcha.stores.store import StoreError

if TYPE_CHECKING:
    from collections.abc import Callable

    from scrapy.statscollectors import StatsCollector
    from twisted.python.failure import Failure

    from scrapy_ezcaptcha.stores.store import Store

T = TypeVar("T")

# Between two looks at a store that is down.
_RETRY_SECONDS = 5.0


@dataclass(eq=False)
class StoreThread:
    """Calls *store* in one thread, so calls keep their order.

    A store that does not answer counts as down: that is logged once, and the store is not
    called again until a look every five seconds finds that it answers.
    """

    store: Store
    reactor: Any
    stats: StatsCollector
    log: logging.LoggerAdapter[Any]

    def __post_init__(self) -> None:
        self._pool = ThreadPool(0, 1, "ezcaptcha-store")
        # The process ends without waiting for a call that hangs.
        self._pool.threadFactory = partial(Thread, daemon=True)  # type: ignore[assignment]
        self._pool.start()
        self._retry: Any = None  # while the store is down
        self._was_down = False
        self._is_closed = False

    @property
    def is_down(self) -> bool:
        """Whether the store is not called just now."""
        return self._retry is not None

    def call(self, work: Callable[[Store], T]) -> Deferred[T]:
        """Return a Deferred that fires with the result of *work*, or with a StoreError."""
        if self.is_down:
            return fail(StoreError("it is down"))
        return self._run(work).addErrback(self._failed)

    def close(self) -> Deferred[None]:
        """Close the store once all calls before have ended; fires then."""
        self._is_closed = True
        if self._retry is not None and self._retry.active():
            self._retry.cancel()
        closed = self._run(lambda store: store.close())
        return closed.addErrback(lambda _: None).addCallback(lambda _: self._pool.stop())

    def _run(self, work: Callable[[Store], T]) -> Deferred[T]:
        def in_thread() -> T:
            try:
                return work(self.store)
            except StoreError:
                raise
            except Exception as error:
                raise StoreError(type(error).__name__) from error

        result: Deferred[T] = deferToThreadPool(self.reactor, self._pool, in_thread)
        return result

    def _failed(self, failure: Failure) -> Failure:
        """Log once that the store is down, and look again later."""
        self.stats.inc_value("ezcaptcha/store/errors")
        if not self.is_down:
            self.log.log(
                logging.INFO if self._was_down else logging.WARNING,
                "The store %s does not answer (%s); going on with memory alone",
                self.store,
                failure.getErrorMessage(),
            )
            self._was_down = True
            self._retry_later()
        return failure

    def _retry_later(self, _: Failure | None = None) -> None:
        if not self._is_closed:
            self._retry = self.reactor.callLater(_RETRY_SECONDS, self._try_again)

    def _try_again(self) -> None:
        self._run(lambda store: store.check()).addCallbacks(self._is_back, self._retry_later)

    def _is_back(self, _: None) -> None:
        self._retry = None
        self.log.info("The store %s answers again", self.store)


def within(seconds: float, work: Deferred[None], reactor: Any) -> Deferred[None]:
    """Return a Deferred that fires when *work* does, or after so many seconds."""
    waiter: Deferred[None] = Deferred()
    limit = reactor.callLater(seconds, waiter.callback, None)

    def ended(_: None) -> None:
        if limit.active():
            limit.cancel()
            waiter.callback(None)

    work.addCallback(ended)
    return waiter
