"""A request that waits for a solve does not delay other requests.

A request that waits in a middleware still counts against CONCURRENT_REQUESTS, so sixteen of them
stop the crawl of all sites. Two things change that. First, the downloader's total concurrency is
raised by one while the request waits. Second, the request counts as active in its download slot,
so that the scheduler's downloader-aware queue sees that site as busy, and returns requests to
other sites: few requests wait, and the rest stay in the scheduler. The concurrency, in total and
for each site, and the delays stay the same.

If there is no room for more waiting requests, further ones go back to the scheduler, and come when
there is room again, after all other requests.
"""

from __future__ import annotations

from collections import Counter, deque
from contextlib import contextmanager
from typing import TYPE_CHECKING

from scrapy.utils.defer import maybe_deferred_to_future
from twisted.internet.defer import Deferred

from scrapy_ezcaptcha.crawl import memo
from scrapy_ezcaptcha.errors import TooManyWaiting

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator

    from scrapy import Request

    from scrapy_ezcaptcha.crawl.engine import Engine
    from scrapy_ezcaptcha.crawl.journal import Journal
    from scrapy_ezcaptcha.crawl.put_off import PutOffRequests


class WaitingRequests:
    """Counts requests that wait for a solve, and releases them at the pace of the downloader.

    At most *limit* requests wait outside the concurrency count; further ones are put off. If the
    limit is 0, or if Scrapy does not allow that, they wait inside the count, which slows the crawl
    down but loses nothing.
    """

    def __init__(
        self,
        engine: Engine,
        limit: int,
        put_off: PutOffRequests,
        journal: Journal | None = None,
    ) -> None:
        self._engine = engine
        self._limit = limit
        self.put_off = put_off
        self._journal = journal
        self.count = 0  # requests that wait outside the concurrency count
        self._waiting: Counter[str] = Counter()  # the same by download slot
        self._queues: dict[str, deque[Deferred[None]]] = {}  # those to be let go, by slot
        self._behind: dict[str, deque[Deferred[None]]] = {}  # requests that came later, by slot
        self._overtaken: set[str] = set()  # slots where one of those was released last
        self._going: dict[Deferred[None], str] = {}  # let go, and still counted as waiting
        self._leaving: dict[Request, str] = {}  # they have left their slot, and still count
        self._inside: deque[Deferred[None]] = deque()  # put off, and not in the scheduler

    @property
    def is_empty(self) -> bool:
        """Whether no request waits: for a solve, for its turn, or in the scheduler."""
        return not (self.count or self._queues or self._inside) and self.put_off.is_empty

    def look(self) -> None:
        """Release requests if there is room; must be called regularly while it is not empty.

        There can be new room without a signal: if a released request gets its page at once.
        """
        self.let_go_where_room()
        self._room_appeared()

    @property
    def is_full(self) -> bool:
        """Whether the maximum number of requests wait, so that further ones are put off."""
        return 0 < self._limit <= self.count

    @property
    def may_hold(self) -> bool:
        """Whether requests may have to wait although no solve is under way for them."""
        return bool(self._queues) or self.is_full

    @contextmanager
    def hold(self, request: Request, place: Hashable = None) -> Iterator[bool]:
        """Let *request* wait outside the concurrency count, for a solve for *place*.

        The value is False if that is not possible, and the request waits inside the count.
        Raises TooManyWaiting if the request must be put off.
        """
        self._leaving.pop(request, None)
        if self.is_full and memo.may_be_put_off(request) and self._engine.can_take_last(request):
            raise TooManyWaiting
        if self._journal is not None:
            self._journal.add(request)
        if self.count >= self._limit:
            yield False
            return
        with self._engine.outside_concurrency(request) as key:
            if key is None:
                yield False
                return
            self.count += 1
            self._waiting[key] += 1
            try:
                yield True
            finally:
                self.count -= 1
                self._waiting[key] -= 1
                if not self._waiting[key]:
                    del self._waiting[key]
                self._room_appeared(place)

    async def until_room(
        self, request: Request, place: Hashable, is_last: bool, *, is_challenged: bool
    ) -> None:
        """Raise TooManyWaiting if *request* would have to wait for *place* and there is no room.

        It would have to wait if it will probably be challenged (*is_challenged*), or if others for
        *place* were put off. If it *is_last*, it did not come from the scheduler, where it would
        have stayed. It then waits inside the count until there is room.
        """
        if not (is_challenged or is_last or self.put_off.has_some_of(place)):
            return
        if not is_last and self._engine.can_take_last(request):
            raise TooManyWaiting
        turn: Deferred[None] = Deferred()
        self._inside.append(turn)
        await maybe_deferred_to_future(turn)

    def send_back(self, request: Request, place: Hashable) -> None:
        """Note that *request* goes back to the scheduler, because there is no room for it.

        It is in the journal too, because Scrapy's queue lists its new parts only when it closes.
        """
        if self._journal is not None:
            self._journal.add(request)
        self.put_off.add(request, place)

    def ended(self, request: Request) -> None:
        """Note that *request* no longer waits, and is on its way or has its response."""
        self.put_off.take_back(request)
        if self._journal is not None:
            self._journal.remove(request)

    async def until_turn(self, request: Request) -> None:
        """Wait until the downloader, and in it the slot of *request*, has room."""
        key = self._engine.slot_key(request)
        if key in self._queues or self._room() <= 0 or not self._has_room(key):
            place: Deferred[None] = Deferred()
            self._queues.setdefault(key, deque()).append(place)
            try:
                await maybe_deferred_to_future(place)
            finally:
                self._going.pop(place, None)

    async def until_queue_ends(self, request: Request) -> bool:
        """Wait until all requests in the slot of *request* that waited for a solve are released.

        The request waits inside the concurrency count, so the engine soon takes no more requests.
        From then on, every other released request is one that came later. Otherwise requests to
        other sites would wait until the queue ends too. Returns whether the request had to wait.
        """
        key = self._engine.slot_key(request) if self._queues else ""
        if key not in self._queues:
            return False
        if self._journal is not None:
            self._journal.add(request)
        turn: Deferred[None] = Deferred()
        behind = self._behind.setdefault(key, deque())
        behind.append(turn)
        try:
            await maybe_deferred_to_future(turn)
        finally:
            self._going.pop(turn, None)
            if turn in behind:  # they all went, or it was cancelled
                behind.remove(turn)
        return True

    def left_downloader(self, request: Request) -> None:
        """Release the next requests, because *request* leaves the downloader."""
        if self._queues:
            self._leaving[request] = self._engine.slot_key(request)
            self.let_go_where_room()

    def let_go_where_room(self) -> None:
        """Release requests, from each slot in turn, while the downloader and the slot have room."""
        while self._queues and self._room() > 0:
            key = next((key for key in self._queues if self._has_room(key)), None)
            if key is None:
                return
            self._let_one_go(key)
            if key in self._queues:
                self._queues[key] = self._queues.pop(key)  # the last one now

    def let_all_go(self) -> None:
        """Release all requests."""
        self._let_in(len(self._inside))
        for key in list(self._queues):
            while key in self._queues:
                self._let_one_go(key)

    def _room_appeared(self, place: Hashable = None) -> None:
        """Let requests come that were put off: all of *place*, and others if there is room.

        The scheduler may take as many as it can at once before the first of them waits. So others
        come only if there is room for all of these.
        """
        room = self._limit - self.count
        at_once = min(self._limit, max(1, self._engine.concurrency() - self.count))
        self.put_off.let_come(place, room - at_once + 1)
        self._let_in(room)

    def _let_in(self, count: int) -> None:
        for _ in range(min(count, len(self._inside))):
            _let_go(self._inside.popleft())

    def _let_one_go(self, key: str) -> None:
        queue = self._queues.get(key)
        while queue:
            place = self._next_of(key, queue).popleft()
            behind: deque[Deferred[None]] = deque()
            if not queue:
                del self._queues[key]
                behind = self._behind.pop(key, behind)
            is_going = not place.called  # it was not cancelled
            if is_going:
                self._going[place] = key
            for turn in (place, *behind):
                _let_go(turn)
            if is_going:
                return

    def _next_of(self, key: str, queue: deque[Deferred[None]]) -> deque[Deferred[None]]:
        """Return the requests of which the first is released next: *queue*, or later ones."""
        behind = self._behind.get(key)
        if not behind or self._engine.room() > 0 or key in self._overtaken:
            self._overtaken.discard(key)
            return queue
        self._overtaken.add(key)
        return behind

    def _room(self) -> int:
        """Return how many more requests can be released: at least one if nothing is downloaded.

        Otherwise all others might wait in other middlewares for one that waits here.
        """
        engine = self._engine
        self._leaving = {one: key for one, key in self._leaving.items() if engine.is_active(one)}
        behind = sum(map(len, self._behind.values()))
        room = engine.room() + behind + len(self._leaving) - len(self._going)
        if room > 0 or self._going:
            return room
        in_slots = engine.count_in_slots() - sum(map(engine.is_in_slot, self._leaving))
        return 1 if in_slots <= self.count else room

    def _has_room(self, key: str) -> bool:
        left = (one for one, its_key in self._leaving.items() if its_key == key)
        leaving = sum(map(self._engine.is_in_slot, left))
        going = list(self._going.values()).count(key)
        return self._engine.room_in(key) + self._waiting[key] + leaving - going > 0


def _let_go(turn: Deferred[None]) -> None:
    if not turn.called:  # it was not cancelled
        turn.callback(None)
