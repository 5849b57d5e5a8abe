"""Limits the number of concurrent tasks, and lowers the limit while the service throttles.

It works like the congestion control of TCP.
"""

from __future__ import annotations

from collections import deque

from scrapy.utils.defer import maybe_deferred_to_future
from twisted.internet.defer import Deferred


class TaskLimit:
    """Allows at most *most* tasks at a time; each throttled call halves the limit.

    Each created task raises the limit again: by one after as many tasks as the limit allows.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._limit = float(most)
        self._under_way = 0
        self._queue: deque[Deferred[None]] = deque()

    async def acquire(self) -> None:
        """Wait until one more task is allowed."""
        if self._under_way >= int(self._limit) or self._queue:
            place: Deferred[None] = Deferred()
            self._queue.append(place)
            await maybe_deferred_to_future(place)
        else:
            self._under_way += 1

    def release(self) -> None:
        """Note that a task has ended, or was not created."""
        self._under_way -= 1
        self._let_go()

    def throttled(self) -> None:
        """Note that the service refused a call because of its rate."""
        self._limit = max(1.0, self._limit / 2)

    def created(self) -> None:
        """Note that the service created a task."""
        self._limit = min(float(self._most), self._limit + 1 / self._limit)
        self._let_go()

    def _let_go(self) -> None:
        while self._queue and self._under_way < int(self._limit):
            place = self._queue.popleft()
            if not place.called:  # not cancelled
                self._under_way += 1
                place.callback(None)
