"""Adds the cookies of a clearance to the browser of scrapy-playwright.

Playwright ignores a ``Cookie`` header on a request, and sends only the browser's own cookies
(https://github.com/microsoft/playwright/pull/41435). So the cookies are added to the browser
before it opens the page, in the callback that scrapy-playwright calls at that time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from scrapy.utils.misc import load_object

from scrapy_ezcaptcha.clearances.clearance import CLEARANCE_COOKIE, EDGE_COOKIES

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from scrapy import Request
    from scrapy.settings import BaseSettings
    from typing_extensions import Self

    from scrapy_ezcaptcha.clearances.clearance import Clearance

#: The request meta key with which scrapy-playwright downloads a request.
PLAYWRIGHT_META = "playwright"

_CALLBACK_META = "playwright_page_init_callback"
_HEADERS_SETTING = "PLAYWRIGHT_PROCESS_REQUEST_HEADERS"


class BrowserCookies:
    """Adds cookies to browsers; with *sets_user_agent*, sets the User-Agent too.

    This is needed if scrapy-playwright does not send the headers of a request.
    """

    def __init__(self, *, sets_user_agent: bool = False) -> None:
        self._sets_user_agent = sets_user_agent
        self._before: WeakKeyDictionary[Request, Any] = WeakKeyDictionary()
        # The last clearance of each zone in each browser context: its id and cf_clearance.
        self._given: WeakKeyDictionary[Any, dict[str, tuple[str, str]]] = WeakKeyDictionary()

    @classmethod
    def from_settings(cls, settings: BaseSettings) -> Self:
        """Read from the settings whether scrapy-playwright keeps the headers of the browser."""
        keeps = _HEADERS_SETTING in settings and settings.get(_HEADERS_SETTING) is None
        return cls(sets_user_agent=keeps)

    def put_on(self, request: Request, clearance: Clearance) -> bool:
        """Add the cookies of *clearance* to the browser before it downloads *request*.

        Returns False, and does nothing, if no browser downloads it.
        """
        if not request.meta.get(PLAYWRIGHT_META):
            return False
        own = request.meta.get(_CALLBACK_META)
        self._before[request] = own
        request.meta[_CALLBACK_META] = self._callback(clearance, own)
        return True

    def take_off(self, request: Request) -> None:
        """Restore the callback of *request*."""
        if request not in self._before:
            return
        own = self._before.pop(request)
        if own is None:
            request.meta.pop(_CALLBACK_META, None)
        else:
            request.meta[_CALLBACK_META] = own

    def _callback(
        self, clearance: Clearance, own: Any
    ) -> Callable[[Any, Request], Awaitable[None]]:
        async def before_page(page: Any, request: Request) -> None:
            try:
                if own is not None:
                    await load_object(own)(page, request)
            finally:
                await self._give(page.context, request.url, clearance)
                if self._sets_user_agent:
                    name = "user-agent"
                    await page.set_extra_http_headers({name: clearance.headers[name]})

        return before_page

    async def _give(self, context: Any, url: str, clearance: Clearance) -> None:
        """Add the cookies that *context* lacks, and replace those of other clearances."""
        there = {cookie["name"]: cookie["value"] for cookie in await context.cookies(url)}
        given = self._given.setdefault(context, {})
        value = clearance.cookies[CLEARANCE_COOKIE]
        before = given.get(clearance.zone)
        is_renewed = (  # by the site, in a response to the browser
            before is not None
            and before[0] == clearance.id
            and there.get(CLEARANCE_COOKIE) not in {None, before[1]}
        )
        names = [
            name
            for name in clearance.cookies
            if name not in there or (name in EDGE_COOKIES and not is_renewed)
        ]
        if not is_renewed:
            given[clearance.zone] = (clearance.id, value)
        if names:
            await context.add_cookies([self._cookie(clearance, name) for name in names])

    @staticmethod
    def _cookie(clearance: Clearance, name: str) -> dict[str, Any]:
        """Return the cookie *name* as the site would set it: for all hosts of its zone."""
        zone = clearance.zone
        has_hosts = "." in zone and not zone.rpartition(".")[2].isdigit()  # it is not an IP address
        return {
            "name": name,
            "value": clearance.cookies[name],
            "domain": f".{zone}" if has_hosts else zone,
            "path": "/",
            "httpOnly": True,
        }
