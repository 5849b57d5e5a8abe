"""Which proxy does a request use, and with which credentials?

A clearance is valid for one exit only, so the service must solve through the proxy of the
request. When a challenge is seen, Scrapy has already moved the proxy's credentials from
``meta["proxy"]`` into the ``Proxy-Authorization`` header (``HttpProxyMiddleware``, order 750).
This module puts them together again.
"""

from __future__ import annotations

from base64 import b64decode
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from scrapy import Request
from scrapy.downloadermiddlewares.httpproxy import HttpProxyMiddleware
from scrapy.utils.httpobj import urlparse_cached
from scrapy.utils.misc import load_object

from scrapy_ezcaptcha.crawl.playwright import HANDLER, Browser
from scrapy_ezcaptcha.exit import UNREADABLE, Exit, exit_error

if TYPE_CHECKING:
    from collections.abc import Set

    from scrapy.settings import BaseSettings

_META_KEYS = frozenset({"proxy", "_auth_proxy", "_scheme_proxy"})

# Download handlers that cannot use a proxy.
_WITHOUT_PROXIES = frozenset({"scrapy.core.downloader.handlers.http2.H2DownloadHandler"})

_DEFAULT = "scrapy.core.downloader.handlers.http11.HTTP11DownloadHandler"


class ProxyFinder:
    """Finds the exit of a request, before and after it is sent.

    It calls Scrapy's own ``HttpProxyMiddleware`` with a request of the same URL and proxy, so that
    ``meta["proxy"]``, the environment and ``no_proxy`` have the same effect.
    """

    def __init__(self, settings: BaseSettings) -> None:
        self._encoding: str = settings.get("HTTPPROXY_AUTH_ENCODING") or "latin-1"
        self._setter = HttpProxyMiddleware(self._encoding)
        self._proxies = self._setter if settings.getbool("HTTPPROXY_ENABLED") else None
        self.schemes_without_proxies = _schemes_of(settings, _WITHOUT_PROXIES)
        by_browser = _schemes_of(settings, {HANDLER})
        self._browser = Browser(settings, by_browser) if by_browser else None

    def can_send(self, request: Request) -> bool:
        """Whether *request* can be sent through a proxy."""
        return urlparse_cached(request).scheme not in self.schemes_without_proxies

    def can_use_proxies(self, request: Request) -> bool:
        """Whether the download handler sends *request* through the proxy in its meta."""
        return self.can_send(request) and not self.is_by_browser(request)

    def is_by_browser(self, request: Request) -> bool:
        """Whether *request* is sent by a browser, which has its own proxy."""
        return self._browser is not None and self._browser.sends(request)

    def before_sending(self, request: Request) -> Exit | None:
        """Return the proxy that *request* will use, or None.

        Raises ExitError if its proxy is not a proxy URL.
        """
        if self._browser is not None and self._browser.sends(request):
            return self._browser.exit_of(request)
        if "proxy" not in request.meta and not self._setter.proxies:  # nor in the environment
            return None
        keys = request.meta.keys() & _META_KEYS
        probe = Request(request.url, meta={key: request.meta[key] for key in keys})
        if authorization := request.headers.get(b"Proxy-Authorization"):
            probe.headers[b"Proxy-Authorization"] = authorization
        if self._proxies is not None:
            try:
                self._proxies.process_request(probe)
            except ValueError:
                raise exit_error(UNREADABLE) from None
        return self.after_sending(probe)

    def after_sending(self, request: Request) -> Exit | None:
        """Return the proxy that *request* used, or None; raises like :meth:`before_sending`."""
        if self._browser is not None and self._browser.sends(request):
            return self._browser.exit_of(request)
        url = request.meta.get("proxy")
        if not url:
            return None
        if not isinstance(url, str):
            raise exit_error(UNREADABLE)
        authorization = dict.get(request.headers, b"Proxy-Authorization")  # without normalizing it
        return _exit_of(url, authorization[-1] if authorization else None, self._encoding)

    def send_by(self, request: Request, exit: Exit) -> None:
        """Send *request*, which has passed all middlewares, through *exit*."""
        request.meta["proxy"] = exit.url
        self._setter.process_request(request)


@lru_cache(maxsize=1000)
def _exit_of(url: str, authorization: bytes | None, encoding: str) -> Exit:
    """Return the exit of a proxy and its header; raises ExitError if it is no proxy URL."""
    return Exit.parse(url, credentials=_credentials(authorization, encoding))


def _credentials(authorization: bytes | None, encoding: str) -> tuple[str, str] | None:
    scheme, _, encoded = (authorization or b"").partition(b" ")
    if scheme.lower() != b"basic":
        return None
    try:
        pair = b64decode(encoded, validate=True).decode(encoding)
    except ValueError:
        return None
    username, _, password = pair.partition(":")
    return username, password


def leaves_by_scrapys_own(settings: BaseSettings, *schemes: str) -> bool:
    """Whether the handler of one of *schemes* is based on Scrapy's default one."""
    handlers = settings.getwithbase("DOWNLOAD_HANDLERS")
    return any(_is_based_on({_DEFAULT}, handlers.get(scheme)) for scheme in schemes)


def _schemes_of(settings: BaseSettings, classes: Set[str]) -> frozenset[str]:
    """Return the schemes whose download handler is based on one of *classes*."""
    handlers = settings.getwithbase("DOWNLOAD_HANDLERS").items()
    return frozenset(scheme for scheme, handler in handlers if _is_based_on(classes, handler))


def _is_based_on(classes: Set[str], handler: Any) -> bool:
    try:
        cls = load_object(handler)
    except (ImportError, NameError, TypeError, ValueError):  # Scrapy reports it when needed
        return False
    names = (f"{base.__module__}.{base.__qualname__}" for base in getattr(cls, "__mro__", ()))
    return not classes.isdisjoint(names)
