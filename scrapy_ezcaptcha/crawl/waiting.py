"""A request that waits for a solve holds no other request up.

A request that waits inside a middleware still counts against CONCURRENT_REQUESTS, so
sixteen of them stop the crawl of every site. Two things change that. The downloader's total
concurrency is raised by one for as long as the request waits. And the request counts as
active in its download slot, so that the scheduler's downloader-aware queue sees that site as
busy and hands out requests to others: few requests wait, and the rest stay in the scheduler.
The concurrency, in all and for each site, and the delays are as they are without this.
"""

from __future__ import annotations

from collections import Counter, deque
from contextlib import contextmanager
from typing import TYPE_CHECKING

from scrapy.utils.defer import maybe_deferred_to_future
from twisted.internet.defer import Deferred

if TYPE_CHECKING:
    from collections.abc import Iterator

    from scrapy import Request

    from scrapy_ezcaptcha.crawl.engine import Engine
    from scrapy_ezcaptcha.crawl.journal import Journal


class WaitingRequests:
    """Counts requests that wait for a solve, and lets them go again at a fit pace.

    Of them *limit* wait outside the concurrency count; further ones wait inside it, which holds
    the crawl back but loses nothing.
    """

    def __init__(self, engine: Engine, limit: int, journal: Journal | None = None) -> None:
        self._engine = engine
        self._limit = limit
        self._journal = journal
        self._waiting: Counter[str] = Counter()  # by download slot
        self._queues: dict[str, deque[Deferred[None]]] = {}  # those to be let go, by slot
        self._going: set[Deferred[None]] = set()  # let go, and still counted as waiting

    @property
    def is_queue(self) -> bool:
        """Whether requests that waited are still to be let go."""
        return bool(self._queues)

    @property
    def count(self) -> int:
        """How many requests wait outside the concurrency count."""
        return self._waiting.total()

    def is_queue_before(self, request: Request) -> bool:
        """Whether such requests are in the download slot of *request*."""
        return bool(self._queues) and self._engine.slot_key(request) in self._queues

    @contextmanager
    def hold(self, request: Request) -> Iterator[bool]:
        """Let *request* wait outside the concurrency count.

        The value is False where that is not possible, and the request waits inside the count.
        """
        if self._journal is not None:
            self._journal.add(request)
        if self._waiting.total() >= self._limit:
            yield False
            return
        with self._engine.outside_concurrency(request) as key:
            if key is None:
                yield False
                return
            self._waiting[key] += 1
            try:
                yield True
            finally:
                self._waiting[key] -= 1
                if not self._waiting[key]:
                    del self._waiting[key]

    async def until_room(self, request: Request) -> None:
        """Wait until the downloader, and in it the slot of *request*, has room."""
        key = self._engine.slot_key(request)
        if key not in self._queues and self._room() > 0 and self._has_room(key):
            return
        place: Deferred[None] = Deferred()
        self._queues.setdefault(key, deque()).append(place)
        try:
            await maybe_deferred_to_future(place)
        finally:
            self._going.discard(place)

    def left_downloader(self, request: Request) -> None:
        """Let the next one go: *request* leaves the downloader. One of its slot goes first."""
        if not self._queues or self._room() < 0:
            return
        key = self._engine.slot_key(request)
        if key in self._queues and self._has_room(key, leaving=1):
            self._let_one_go(key)
            return
        with_room = next((key for key in self._queues if self._has_room(key)), None)
        if with_room is not None:
            self._let_one_go(with_room)

    def let_go_where_room(self) -> None:
        """Let one request go in each slot with room, in case none left the downloader."""
        for key in list(self._queues):
            if self._room() <= 0:
                return
            if self._has_room(key):
                self._let_one_go(key)

    def let_all_go(self) -> None:
        """Let all requests go."""
        for key in list(self._queues):
            while key in self._queues:
                self._let_one_go(key)

    def _let_one_go(self, key: str) -> None:
        queue = self._queues.get(key)
        while queue:
            place = queue.popleft()
            if not queue:
                del self._queues[key]
            if not place.called:  # not cancelled
                self._going.add(place)
                place.callback(None)
                return

    def _room(self) -> int:
        return self._engine.room() - len(self._going)

    def _has_room(self, key: str, leaving: int = 0) -> bool:
        return self._engine.room_in(key) + self._waiting[key] + leaving > 0
