"""Lets many waiters share one coroutine, by key."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeAlias, TypeVar

from scrapy.utils.defer import deferred_from_coro, maybe_deferred_to_future
from twisted.internet.defer import Deferred

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Hashable
    from typing import Any

T = TypeVar("T")
Waiters: TypeAlias = "dict[Deferred[T | Exception], int]"  # with their priorities


class Flights(Generic[T]):
    """The coroutines in progress, by key. An outcome is a result or an exception.

    ``clock`` returns the seconds of a monotonic clock.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._present = 0  # waiters, until they have their outcome
        self._since = self._seconds = 0.0
        self._waiters: dict[Hashable, Waiters[T]] = {}
        self._running: dict[Hashable, Deferred[None]] = {}

    def __contains__(self, key: Hashable) -> bool:
        return key in self._waiters

    def __len__(self) -> int:
        return len(self._waiters)

    @property
    def waiting(self) -> int:
        """The number of waiters."""
        return sum(len(waiters) for waiters in self._waiters.values())

    @property
    def seconds_waited(self) -> float:
        """The number of seconds in which there was at least one waiter."""
        return self._seconds + (self._clock() - self._since if self._present else 0.0)

    async def outcome(
        self, key: Hashable, start: Callable[[], Coroutine[Any, Any, T]], priority: int = 0
    ) -> T | Exception:
        """Wait for the outcome of the coroutine of *key*; *start* it unless it is in progress.

        Waiters with a higher *priority* get the outcome first, others in the order in which they
        came. If a waiter is cancelled, the coroutine and the other waiters continue.
        """
        is_new = key not in self._waiters
        waiters = self._waiters.setdefault(key, {})

        def forget(waiter: Deferred[T | Exception]) -> None:
            waiters.pop(waiter, None)

        waiter: Deferred[T | Exception] = Deferred(forget)
        waiters[waiter] = priority
        if is_new:
            running = deferred_from_coro(self._run(key, start(), waiters))
            running.addErrback(lambda _: None)  # cancelled
            if self._waiters.get(key) is waiters:  # it has not ended already
                self._running[key] = running
        if not self._present:
            self._since = self._clock()
        self._present += 1
        try:
            return await maybe_deferred_to_future(waiter)
        finally:
            self._present -= 1
            if not self._present:
                self._seconds += self._clock() - self._since

    def stop(self, error: Exception) -> None:
        """Cancel all coroutines; all waiters get *error* as the outcome."""
        for key, waiters in list(self._waiters.items()):
            running = self._running.get(key)
            self._end(key, error, waiters)
            if running is not None:
                running.cancel()

    def dismiss(self, error: Exception, is_meant: Callable[[Hashable], bool]) -> None:
        """Give all waiters of the keys that *is_meant* accepts *error* as the outcome.

        The coroutines continue, for later waiters.
        """
        for key, waiters in list(self._waiters.items()):
            for waiter in list(waiters) if is_meant(key) else ():
                waiters.pop(waiter, None)
                if not waiter.called:
                    waiter.callback(error)

    async def _run(self, key: Hashable, work: Coroutine[Any, Any, T], waiters: Waiters[T]) -> None:
        try:
            outcome: T | Exception = await work
        except Exception as error:
            outcome = error
        self._end(key, outcome, waiters)

    def _end(self, key: Hashable, outcome: T | Exception, waiters: Waiters[T]) -> None:
        if self._waiters.get(key) is not waiters:
            return
        del self._waiters[key]
        self._running.pop(key, None)
        for waiter in sorted(waiters, key=lambda waiter: -waiters[waiter]):
            if not waiter.called:  # maybe an earlier waiter cancelled it
                waiter.callback(outcome)
