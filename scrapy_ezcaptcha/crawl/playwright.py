"""Which requests does a browser of scrapy-playwright send, and through which proxy?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from scrapy.utils.httpobj import urlparse_cached

from scrapy_ezcaptcha.clearances.playwright import PLAYWRIGHT_META
from scrapy_ezcaptcha.exit import Exit

if TYPE_CHECKING:
    from collections.abc import Collection

    from scrapy import Request
    from scrapy.settings import BaseSettings

HANDLER = "scrapy_playwright.handler.ScrapyPlaywrightDownloadHandler"


class Browser:
    """The browser in the settings of scrapy-playwright, which downloads *schemes*.

    A browser ignores ``meta["proxy"]``. It uses the proxy of the request's context, or else the
    proxy with which it was launched.
    """

    def __init__(self, settings: BaseSettings, schemes: Collection[str]) -> None:
        self._schemes = schemes
        is_remote = settings.get("PLAYWRIGHT_CDP_URL") or settings.get("PLAYWRIGHT_CONNECT_URL")
        options = {} if is_remote else settings.getdict("PLAYWRIGHT_LAUNCH_OPTIONS")
        self._proxy = options.get("proxy")
        self._contexts = settings.getdict("PLAYWRIGHT_CONTEXTS")

    def sends(self, request: Request) -> bool:
        """Whether a browser sends *request*."""
        return bool(
            request.meta.get(PLAYWRIGHT_META) and urlparse_cached(request).scheme in self._schemes
        )

    def exit_of(self, request: Request) -> Exit | None:
        """Return the proxy that the browser uses for *request*, None if it is not known.

        Raises ExitError if it is not a proxy URL.
        """
        name = request.meta.get("playwright_context") or "default"
        options: Any = self._contexts.get(name)
        if options is None:  # it is created with the options of the request
            options = request.meta.get("playwright_context_kwargs")
        proxy = (options or {}).get("proxy") or self._proxy
        if not proxy:
            return None
        if not isinstance(proxy, Mapping):  # Playwright reports other types itself
            return Exit.parse(proxy)
        user = proxy.get("username")
        credentials = (user, proxy.get("password") or "") if user else None
        return Exit.parse(proxy.get("server"), credentials=credentials)
