"""A store that may block, or be down: asked in a thread of its own, so the reactor never waits."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, TypeVar

from twisted.internet.defer import fail
from twisted.internet.threads import deferToThreadPool
from twisted.python.threadpool import ThreadPool

from scrapy_ezcaptcha.stores.base import StoreError

if TYPE_CHECKING:
    from collections.abc import Callable

    from scrapy.statscollectors import StatsCollector
    from twisted.internet.defer import Deferred
    from twisted.python.failure import Failure

    from scrapy_ezcaptcha.stores.base import Store

logger = logging.getLogger(__name__)

T = TypeVar("T")

# Between two looks at a store that is down.
_RETRY_SECONDS = 5.0


class Background:
    """Puts questions to *store*, in their order.

    Once it does not answer it is down, which is said once, and is asked nothing more until
    it answers again.

    Args:
        store: the store.
        reactor: the clock, and where the answers arrive.
        stats: where ``ezcaptcha/store/errors`` is counted.
    """

    def __init__(self, store: Store, reactor: Any, stats: StatsCollector) -> None:
        self._store = store
        self._reactor = reactor
        self._stats = stats
        self._thread = ThreadPool(0, 1, "ezcaptcha-store")  # one: questions keep their order
        self._thread.start()
        self._retry: Any = None  # while it is down
        self._was_down = False
        self._is_closed = False

    @property
    def is_down(self) -> bool:
        """Whether it is not asked just now."""
        return self._retry is not None

    def submit(self, question: Callable[[Store], T]) -> Deferred[T]:
        """Return what fires with the answer, or with a StoreError."""
        if self.is_down:
            return fail(StoreError("it is down"))
        return self._ask(question).addErrback(self._lost)

    def close(self) -> None:
        """Wait for the answer under way, and let go."""
        self._is_closed = True
        if self._retry is not None and self._retry.active():
            self._retry.cancel()
        self._thread.stop()
        self._store.close()

    def _ask(self, question: Callable[[Store], T]) -> Deferred[T]:
        def work() -> T:
            try:
                return question(self._store)
            except StoreError:
                raise
            except Exception as error:
                raise StoreError(type(error).__name__) from error

        answer: Deferred[T] = deferToThreadPool(self._reactor, self._thread, work)
        return answer

    def _lost(self, failure: Failure) -> Failure:
        """Say once that it is down, and try again later."""
        self._stats.inc_value("ezcaptcha/store/errors")
        if not (self.is_down or self._is_closed):
            logger.log(
                logging.INFO if self._was_down else logging.WARNING,
                "The store %s does not answer (%s); going on with memory alone",
                self._store,
                failure.getErrorMessage(),
            )
            self._was_down = True
            self._retry_later()
        return failure

    def _retry_later(self) -> None:
        self._retry = self._reactor.callLater(_RETRY_SECONDS, self._try_again)

    def _try_again(self) -> None:
        done = self._ask(lambda store: store.check())
        done.addCallbacks(self._is_back, self._is_still_down)

    def _is_back(self, _: None) -> None:
        self._retry = None
        logger.info("The store %s answers again", self._store)

    def _is_still_down(self, _: Failure) -> None:
        if not self._is_closed:
            self._retry_later()
