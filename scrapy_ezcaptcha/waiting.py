"""A waiting request holds nobody else up.

A request that waits inside a middleware still counts against CONCURRENT_REQUESTS,
so sixteen of them stop the crawl of every site. A seat in the waiting room puts that
right in two ways. The downloader's total concurrency is raised by one for as long as
the request waits. And the request counts as active in its download slot, so that the
scheduler's downloader-aware queue sees that site as busy and hands out others; thus few
requests wait, and the rest stay in the scheduler. Per-site concurrency and delays know
only of requests that are transferred, and are as they were.
"""

from __future__ import annotations

import logging
from collections import Counter, deque
from typing import TYPE_CHECKING, Any

from scrapy.utils.defer import maybe_deferred_to_future
from twisted.internet.defer import Deferred

if TYPE_CHECKING:
    from scrapy import Request
    from scrapy.crawler import Crawler

    from scrapy_ezcaptcha.journal import Journal

logger = logging.getLogger(__name__)


class WaitingRoom:
    """Seats for requests that wait for a solve, and turns in which they leave.

    Args:
        crawler: whose downloader is to go on meanwhile.
        limit: how many seats there are; who finds none waits inside the concurrency
            count, which holds the crawl back but loses nothing.
    """

    def __init__(self, crawler: Crawler, limit: int) -> None:
        self._crawler = crawler
        self._limit = limit
        self._seated: Counter[str] = Counter()  # by download slot
        self._turns: dict[str, deque[Deferred[None]]] = {}
        self._says_unsupported = True
        self.journal: Journal | None = None

    @property
    def has_turns_pending(self) -> bool:
        """Whether somebody who waited is still to be let go."""
        return bool(self._turns)

    def is_queue_before(self, request: Request) -> bool:
        """Whether others wait for their turn in the download slot of *request*."""
        return bool(self._turns) and self._downloader.get_slot_key(request) in self._turns

    def seat(self, request: Request) -> Seat:
        """Return a context within which *request* waits outside the concurrency count.

        Its value is False where there is no seat, and the request waits inside the count.
        """
        if self.journal is not None:
            self.journal.add(request)
        slot = self._slot_of(request) if self._seated.total() < self._limit else None
        return Seat(self, request, *(slot or (None, set())))

    async def turn(self, request: Request) -> None:
        """Wait until the download slot of *request* has room for it.

        Those who waited for one solve are let go at the pace of their slot. At once,
        they would fill the downloader and keep every other site out.
        """
        slot = self._slot_of(request)
        if slot is None:
            return
        key, _ = slot
        if key not in self._turns and self._has_room(key):
            return
        turn: Deferred[None] = Deferred()
        self._turns.setdefault(key, deque()).append(turn)
        await maybe_deferred_to_future(turn)

    def left(self, request: Request) -> None:
        """Give the next turn if there is room: *request* has left the downloader."""
        if self._turns:
            key = self._downloader.get_slot_key(request)
            if self._has_room(key, leaving=1):
                self._give_turn(key)

    def look(self) -> None:
        """Give turns wherever there is room, should nobody have left to give them."""
        for key in list(self._turns):
            if self._has_room(key):
                self._give_turn(key)

    def close(self) -> None:
        """Let everybody go."""
        for key in list(self._turns):
            while key in self._turns:
                self._give_turn(key)

    def _sit_down(self, key: str) -> bool:
        """Count a seat; True if it raised the concurrency, which may have no limit (0)."""
        self._seated[key] += 1
        downloader = self._downloader
        is_raised: bool = downloader.total_concurrency > 0
        downloader.total_concurrency += is_raised
        self._wake_engine()
        return is_raised

    def _get_up(self, key: str, is_raised: bool) -> None:
        self._seated[key] -= 1
        if not self._seated[key]:
            del self._seated[key]
        self._downloader.total_concurrency -= is_raised

    def _give_turn(self, key: str) -> None:
        turns = self._turns.get(key)
        while turns:
            turn = turns.popleft()
            if not turns:
                del self._turns[key]
            if not turn.called:  # not cancelled
                turn.callback(None)
                return

    def _has_room(self, key: str, leaving: int = 0) -> bool:
        slot = self._downloader.slots.get(key)
        if slot is None:
            return True
        active: int = len(slot.active) - self._seated[key] - leaving
        concurrency: int = slot.concurrency
        return active < concurrency

    def _slot_of(self, request: Request) -> tuple[str, set[Request]] | None:
        """Return the key and the active requests of the download slot of *request*.

        None if this Scrapy's downloader is not built as expected.
        """
        try:
            downloader = self._downloader
            key, slot = downloader._get_slot(request)
            if isinstance(downloader.total_concurrency, int) and downloader.slots[key] is slot:
                return key, slot.active
        except (AttributeError, KeyError, TypeError, ValueError):
            pass
        if self._says_unsupported:
            self._says_unsupported = False
            logger.warning(
                "This downloader does not let requests wait outside the concurrency count;"
                " other sites will be slower while challenges are solved"
            )
        return None

    def _wake_engine(self) -> None:
        """Have the engine look for more requests now, not at its next heartbeat."""
        engine_slot = getattr(self._crawler.engine, "_slot", None)
        if engine_slot is not None:
            engine_slot.nextcall.schedule()

    @property
    def _downloader(self) -> Any:
        engine = self._crawler.engine
        return engine.downloader if engine is not None else None


class Seat:
    """What one waiting request occupies, kept small for there may be thousands."""

    __slots__ = ("_active", "_is_raised", "_key", "_request", "_room")

    def __init__(
        self, room: WaitingRoom, request: Request, key: str | None, active: set[Request]
    ) -> None:
        self._room = room
        self._request = request
        self._key = key
        self._active = active
        self._is_raised = False

    def __enter__(self) -> bool:
        if self._key is None:
            return False
        self._active.add(self._request)
        self._is_raised = self._room._sit_down(self._key)
        return True

    def __exit__(self, *exc_info: object) -> None:
        if self._key is not None:
            self._active.discard(self._request)
            self._room._get_up(self._key, self._is_raised)
