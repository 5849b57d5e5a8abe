"""Closes the crawl at a limit, after the pages that are already paid for have arrived."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scrapy_ezcaptcha.crawl.memo import has_memo

if TYPE_CHECKING:
    from collections.abc import Callable

    from scrapy import Request

    from scrapy_ezcaptcha.config import Config
    from scrapy_ezcaptcha.crawl.engine import Engine


class ClosingAtLimit:
    """Closes the crawl, if set, when no replay is on its way and *is_busy* returns False."""

    def __init__(self, config: Config, engine: Engine, is_busy: Callable[[], bool]) -> None:
        self._is_on = config.close_spider_on_limit
        self._engine = engine
        self._is_busy = is_busy
        self._on_their_way = 0
        self._is_reached = False

    def reached(self) -> None:
        """Note that the limit is reached."""
        self._is_reached = self._is_on

    def sent_again(self) -> None:
        """Note that a challenged request goes back to the scheduler."""
        self._on_their_way += 1

    def came_back(self, request: Request) -> None:
        """Note that *request* has a response or failed."""
        if self._on_their_way and has_memo(request):
            self._on_their_way -= 1

    def close_if_served(self) -> None:
        """Close the crawl if the limit is reached and all paid pages have arrived."""
        if self._is_reached and not self._on_their_way and not self._is_busy():
            self._is_reached = False
            self._engine.close_spider("ezcaptcha_limit")
