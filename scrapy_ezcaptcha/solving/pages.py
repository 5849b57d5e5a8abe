"""The pages that come with solutions: each is kept for the request for which it was bought."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scrapy_ezcaptcha.lru import Lru

if TYPE_CHECKING:
    import logging

    from scrapy import Request

    from scrapy_ezcaptcha.crawl.target import Target

_MAX_PAGES = 100
_MAX_ZONES = 10_000


class BoughtPages:
    """Keeps the last pages, until their requests have pages of their own."""

    def __init__(self, log: logging.LoggerAdapter[Any]) -> None:
        self._log = log
        self._pages: Lru[str, tuple[Target, str]] = Lru(_MAX_PAGES)
        self._warned: Lru[str, bool] = Lru(_MAX_ZONES)

    def keep(self, task_id: str, target: Target, page: str | None) -> None:
        """Keep the *page* that a task brought."""
        if page:
            self._pages.put(task_id, (target, page))

    def has_one_for(self, target: Target, task_id: str) -> bool:
        """Whether the task was bought for this very request, and brought a page."""
        bought = self._pages.get(task_id)
        return bought is not None and bought[0] is target

    def take(self, task_id: str, request: Request) -> str | None:
        """Return the page that the task brought, if that was bought for *request*; forget it.

        A request that followed a redirect has another URL.
        """
        target, page = self._pages.pop(task_id) or (None, None)
        if target is None or target.request.url != request.url:
            return None
        return page if target.request.method == request.method else None

    def warn_of_useless(self, zone: str) -> None:
        """Warn once that the clearances of *zone* are useless while its solutions have pages."""
        if self._warned.get(zone):
            return
        self._warned.put(zone, True)
        self._log.warning(
            "The clearances of %s are rejected although its challenges are solved. Either the proxy"
            " changes its address: use a sticky session. Or the site binds a clearance to the"
            " browser's TLS handshake: use scrapy-impersonate with EZCAPTCHA_IMPERSONATE=True. Or"
            " take the pages of the solutions, at one task a page:"
            ' EZCAPTCHA_USE_BODY="always"',
            zone,
        )
