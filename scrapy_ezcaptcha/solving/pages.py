"""The pages that come with solutions, kept for the requests for which they were bought."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from scrapy_ezcaptcha.lru import Lru
from scrapy_ezcaptcha.stores.store import StoreError

if TYPE_CHECKING:
    from scrapy import Request

    from scrapy_ezcaptcha.crawl.target import Target
    from scrapy_ezcaptcha.stores.leasing import Lease
    from scrapy_ezcaptcha.stores.sharing import Sharing

_MAX_PAGES = 100


class BoughtPages:
    """Keeps the last pages until their requests need them."""

    def __init__(self) -> None:
        self._pages: Lru[str, tuple[Target, str]] = Lru(_MAX_PAGES)

    def keep(self, task_id: str, target: Target, page: str | None) -> None:
        """Keep the *page* of a task."""
        if page:
            self._pages.put(task_id, (target, page))

    def has_one_for(self, target: Target, task_id: str) -> bool:
        """Whether the task was created for this request, and has a page."""
        bought = self._pages.get(task_id)
        return bought is not None and bought[0] is target

    def take(self, task_id: str, request: Request) -> str | None:
        """Return the page of the task if it was created for *request*, and forget it.

        Returns None if a redirect changed the URL of the request.
        """
        target, page = self._pages.pop(task_id) or (None, None)
        if target is None or target.request.url != request.url:
            return None
        return page if target.request.method == request.method else None


async def lease_on_page(sharing: Sharing, target: Target) -> Lease | None:
    """Return a lease, with which the next run can continue the task; None without a store."""
    place, page = target.place, target.digest
    while await sharing.is_available(place):
        with suppress(StoreError):  # the store is down, which ends this loop
            lease = await sharing.acquire(place, page)
            if lease is not None:
                return lease
            await sharing.follow(place, page)
    return None
