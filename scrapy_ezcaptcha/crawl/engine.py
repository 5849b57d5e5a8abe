"""What this package needs from Scrapy's engine and downloader that has no public name.

Only this file uses Scrapy's internals. If this Scrapy lacks one of them, one warning says what
that means, and everything that works without it continues.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from scrapy import Request, signals
from scrapy.utils.defer import deferred_from_coro

if TYPE_CHECKING:
    import logging
    from collections.abc import Callable, Iterator

    from scrapy.crawler import Crawler
    from scrapy.http import Response

_NO_LIMIT = 1_000_000


class Engine:
    """The engine and the downloader of *crawler*, looked up when they are needed."""

    def __init__(self, crawler: Crawler, log: logging.LoggerAdapter[Any]) -> None:
        self._crawler = crawler
        self._log = log
        self._missing: set[str] = set()
        self._last: set[Any] = set()  # counted as active in slots that are taken last
        self._takes_none = False  # the scheduler has only requests that are held back

    def is_closing(self) -> bool:
        """Whether the crawl has begun to close, for which Scrapy sends no signal."""
        engine: Any = self._crawler.engine
        if engine is None or not engine.running:
            return True
        try:
            slot = engine._slot
            return slot is not None and slot.closing is not None
        except AttributeError:
            self._say_missing(
                "closing",
                "does not tell when a spider closes, so requests then wait until their solve ends,"
                " except after Ctrl-C",
            )
            return False

    def close_spider(self, reason: str) -> None:
        """Begin to close the crawl."""
        engine: Any = self._crawler.engine
        if engine is not None:
            deferred_from_coro(engine.close_spider_async(reason=reason))

    def follow_downloads(
        self,
        before: Callable[[Request], None],
        after: Callable[[Request, Response], None],
        at_end: Callable[[Request], None],
    ) -> None:
        """Call *before* when a request is sent, after it has left the queue of its slot.

        Call *after* with its response, and *at_end* in any case. If this is not possible, connect
        them to signals, which cost more and call *before* too early.
        """
        try:
            handlers = self._downloader.handlers
            send = handlers.download_request_async
        except AttributeError:
            self._say_missing(
                "download",
                "does not tell when a request is sent, so a clearance is put on before the delay"
                " of the site, and may expire in between",
            )
            connect = self._crawler.signals.connect
            connect(before, signals.request_reached_downloader)
            connect(after, signals.response_downloaded)
            connect(at_end, signals.request_left_downloader)
            return

        async def download(request: Request) -> Response:
            before(request)
            try:
                response: Response = await send(request)
                self._call_safely(after, request, response)
                return response
            finally:
                self._call_safely(at_end, request)

        handlers.download_request_async = download

    def _call_safely(self, call: Callable[..., None], *arguments: Any) -> None:
        """Call *call*; an error is logged, as of a signal's receiver, and fails no download."""
        try:
            call(*arguments)
        except Exception:
            self._log.exception("%s failed after a download", call.__qualname__)

    def slot_key(self, request: Request) -> str:
        """Return the key of the download slot of *request*."""
        key: str = self._downloader.get_slot_key(request)
        return key

    def room_in(self, key: str) -> int:
        """Return how many more requests the download slot *key* can take; 1 if it is unused."""
        slot = self._downloader.slots.get(key)
        return 1 if slot is None else slot.concurrency - len(slot.active)

    def room(self) -> int:
        """Return how many more requests the downloader can take in total."""
        limit: int = self._downloader.total_concurrency
        return limit - len(self._downloader.active) if limit > 0 else _NO_LIMIT

    def count_in_slots(self) -> int:
        """Return how many requests are in download slots; the others wait in middlewares."""
        slots = self._downloader.slots.values()
        return sum(len(slot.active) for slot in slots if slot.active is not self._last)

    def is_active(self, request: Request) -> bool:
        """Whether *request* is still in the downloader or its middlewares."""
        return request in self._downloader.active

    def is_in_slot(self, request: Request) -> bool:
        """Whether *request* is still in its download slot."""
        slot = self._downloader.slots.get(self.slot_key(request))
        return slot is not None and request in slot.active

    @contextmanager
    def outside_concurrency(self, request: Request) -> Iterator[str | None]:
        """Raise the total concurrency by one, and count *request* as active in its slot.

        The value is the key of that slot, or None if this is not possible and nothing changed.
        """
        slot = self._slot_of(request)
        if slot is None:
            yield None
            return
        key, active = slot
        downloader = self._downloader
        raised = 1 if downloader.total_concurrency > 0 else 0  # 0: there is no limit
        active.add(request)
        downloader.total_concurrency += raised
        self._wake()
        try:
            yield key
        finally:
            active.discard(request)
            downloader.total_concurrency -= raised

    def concurrency(self) -> int:
        """Return how many requests the downloader takes at a time, including those that wait.

        0 means no limit.
        """
        limit: int = self._downloader.total_concurrency
        return limit

    def can_take_last(self, request: Request) -> bool:
        """Whether :meth:`take_last` is possible for *request*."""
        return self._slot_of(request) is not None

    def take_last(self, key: str) -> None:
        """Make the scheduler take requests of the slot *key* last.

        A downloader-aware queue takes requests of the slot with the fewest active requests. So
        these slots get more of them than any other slot can have.
        """
        while len(self._last) <= self.concurrency():
            self._last.add(object())
        _, slot = self._downloader._get_slot(Request("data:,", meta={"download_slot": key}))
        slot.active = self._last

    def take_in_turn(self, key: str) -> None:
        """Make the scheduler take requests of the slot *key* like those of any slot."""
        self._takes_none = False
        slot = self._downloader.slots.pop(key, None)
        if slot is not None:
            slot.close()
            self._wake()

    def hold_back(self, is_held: Callable[[Request], bool]) -> None:
        """Keep requests that are taken last in the scheduler, if *is_held* returns True.

        When the scheduler has no other requests, nothing is taken until a new one arrives, or
        until those of a slot are taken in turn again.
        """
        engine: Any = self._crawler.engine
        try:
            scheduler = engine._slot.scheduler
            take, put = scheduler.next_request, scheduler.enqueue_request
        except AttributeError:
            self._say_missing(
                "scheduler",
                "does not let requests be held back in the scheduler, so other sites are slower"
                " while more requests wait than EZCAPTCHA_MAX_WAITING allows",
            )
            return

        def next_request() -> Request | None:
            request: Request | None = None if self._takes_none else take()
            if request is not None and is_held(request):
                self._takes_none = True
                put(request)
                return None
            return request

        def scheduled(request: Request) -> None:
            self._takes_none = self._takes_none and is_held(request)

        scheduler.next_request = next_request
        self._scheduled = scheduled  # signals keep only weak references to receivers
        self._crawler.signals.connect(scheduled, signals.request_scheduled)

    def _slot_of(self, request: Request) -> tuple[str, set[Request]] | None:
        """Return the key and the active requests of the download slot of *request*."""
        try:
            downloader = self._downloader
            key, slot = downloader._get_slot(request)
            if isinstance(downloader.total_concurrency, int) and downloader.slots[key] is slot:
                return key, slot.active
        except (AttributeError, KeyError, TypeError, ValueError):
            pass
        self._say_missing(
            "slots",
            "does not let requests wait outside the concurrency count, so other sites are slower"
            " while challenges are solved",
        )
        return None

    def _wake(self) -> None:
        """Make the engine look for more requests now, not at its next heartbeat."""
        try:
            slot = self._crawler.engine._slot
            if slot is not None:
                slot.nextcall.schedule()
        except AttributeError:
            self._say_missing("wake", "looks for more requests only every five seconds")

    def _say_missing(self, what: str, consequence: str) -> None:
        if what not in self._missing:
            self._missing.add(what)
            self._log.warning("The engine or downloader of this Scrapy %s", consequence)

    @property
    def _downloader(self) -> Any:
        engine = self._crawler.engine
        return engine.downloader if engine is not None else None
