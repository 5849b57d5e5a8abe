"""Requests for which there is no room to wait go back to the scheduler, and are taken last.

Those for one zone and exit share a download slot of their own while they are in the scheduler,
so they can all come when its solve has ended. A downloader-aware queue goes by that slot, other
queues by the priority, which is lowered meanwhile.
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
    """Counts the requests that were put off, by the place for which they need a solve."""

    def __init__(
        self, engine: Engine, stats: StatsCollector, log: logging.LoggerAdapter[Any]
    ) -> None:
        self._engine = engine
        self._stats = stats
        self._log = log
        # Not as in other runs and processes, which may use the same scheduler; and Scrapy cannot
        # open a queue again whose process was killed.
        self._run = uuid4().hex
        self._lower_by = 1_000_000 + int(self._run[:5], base=16)
        self._names: dict[Hashable, str] = {}  # of the slots, by place
        self._last: dict[str, int] = {}  # requests in slots that are taken last, oldest slot first
        self._coming: Counter[str] = Counter()  # requests in those that are taken in turn again
        self._is_holding_back = False

    @property
    def is_empty(self) -> bool:
        """Whether no request is to be taken last."""
        return not self._last

    @property
    def count(self) -> int:
        """How many requests are put off."""
        return sum(self._last.values())

    def has_some_of(self, place: Hashable) -> bool:
        """Whether requests for *place* are to be taken last."""
        return self._names.get(place) in self._last

    def add(self, request: Request, place: Hashable) -> None:
        """Have the scheduler take *request*, on which there is a memo, last."""
        slot = self._names.setdefault(place, f"ezcaptcha-{self._run}-{len(self._names)}")
        if not self._is_holding_back:
            self._is_holding_back = True
            self._log.info(
                "As many requests wait as EZCAPTCHA_MAX_WAITING allows; further ones go back to the"
                " scheduler, which takes them last"
            )
            self._engine.hold_back(self._is_held)
        self._stats.inc_value("ezcaptcha/requests/put_off")
        self._last[slot] = self._last.get(slot, 0) + self._coming.pop(slot, 0) + 1
        self._engine.take_last(slot)
        memo.put_off(request, self._engine.slot_key(request), slot, self._lower_by)

    def take_back(self, request: Request) -> bool:
        """Give a request that was put off its own slot and priority back.

        Returns whether it is still to be taken last: then it does not come from the scheduler, but
        from a component that downloads it by itself.
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
        """Have the scheduler take all of *place* in turn, and *room* others, the oldest first."""
        if place in self._names:
            self._take_in_turn(self._names[place])
        while self._last and self._coming.total() < room:
            self._take_in_turn(next(iter(self._last)))

    def _is_held(self, request: Request) -> bool:
        """Whether *request* is to stay in the scheduler, and those that may come are not in it."""
        return not self._coming and request.meta.get("download_slot") in self._last

    def _take_in_turn(self, slot: str) -> None:
        if slot in self._last:
            self._coming[slot] = self._last.pop(slot)
            self._engine.take_in_turn(slot)
