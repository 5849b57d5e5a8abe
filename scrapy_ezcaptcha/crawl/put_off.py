"""Requests for which there is no room to wait go back to the scheduler, which takes them last.

In the scheduler, those for one zone and exit share a download slot, so that all of them can come
when its solve has ended. A downloader-aware queue uses that slot, and other queues use the
priority, which is lowered for that time.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from scrapy_ezcaptcha.crawl import memo

if TYPE_CHECKING:
    import logging
    from collections.abc import Hashable

    from scrapy import Request
    from scrapy.statscollectors import StatsCollector

    from scrapy_ezcaptcha.crawl.engine import Engine


class PutOffRequests:
    """Counts the requests that were put off, by the place of the solve that they need."""

    def __init__(
        self, engine: Engine, stats: StatsCollector, log: logging.LoggerAdapter[Any]
    ) -> None:
        self._engine = engine
        self._stats = stats
        self._log = log
        # Names differ from those of other runs and processes, because they may share a scheduler,
        # and because Scrapy cannot reopen the queue of a killed process.
        self._run = uuid4().hex
        self._lower_by = 1_000_000 + int(self._run[:5], base=16)
        self._names: dict[Hashable, str] = {}  # of the slots, by place
        self._last: dict[str, int] = {}  # requests in slots that are taken last, oldest slot first
        self._coming: Counter[str] = Counter()  # requests in slots that are taken in turn again
        self._is_holding_back = False

    @property
    def is_empty(self) -> bool:
        """Whether there are no requests that are taken last."""
        return not self._last

    @property
    def count(self) -> int:
        """The number of requests that are put off."""
        return sum(self._last.values())

    def has_some_of(self, place: Hashable) -> bool:
        """Whether there are requests for *place* that are taken last."""
        return self._names.get(place) in self._last

    def add(self, request: Request, place: Hashable) -> None:
        """Make the scheduler take *request*, which has a memo, last."""
        slot = self._names.setdefault(place, f"ezcaptcha-{self._run}-{len(self._names)}")
        if not self._is_holding_back:
            self._is_holding_back = True
            self._log.info(
                "EZCAPTCHA_MAX_WAITING requests wait for a solve; further ones go back to the"
                " scheduler, which takes them last"
            )
            self._engine.hold_back(self._is_held)
        self._stats.inc_value("ezcaptcha/requests/put_off")
        self._last[slot] = self._last.get(slot, 0) + self._coming.pop(slot, 0) + 1
        self._engine.take_last(slot)
        memo.put_off(request, self._engine.slot_key(request), slot, self._lower_by)

    def take_back(self, request: Request) -> bool:
        """Restore the slot and priority of a request that was put off.

        Returns whether it must still be taken last. It then comes not from the scheduler, but from
        a component that downloads it itself.
        """
        slot = memo.take_back(request)
        if slot is None:
            return False
        if slot not in self._last:
            self._coming -= Counter((slot,))  # no change, if another run put it off
            return False
        self._last[slot] -= 1
        if not self._last[slot]:
            del self._last[slot]
            self._engine.take_in_turn(slot)
        return True

    def let_come(self, place: Hashable, room: int) -> None:
        """Make the scheduler take all requests of *place* in turn, and *room* older others."""
        if place in self._names:
            self._take_in_turn(self._names[place])
        while self._last and self._coming.total() < room:
            self._take_in_turn(next(iter(self._last)))

    def _is_held(self, request: Request) -> bool:
        """Whether *request* must stay in the scheduler, and no request in it may come."""
        return not self._coming and request.meta.get("download_slot") in self._last

    def _take_in_turn(self, slot: str) -> None:
        if slot in self._last:
            self._coming[slot] = self._last.pop(slot)
            self._engine.take_in_turn(slot)
