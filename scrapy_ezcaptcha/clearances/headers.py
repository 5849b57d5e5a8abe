"""Which headers a clearance puts on a request.

A clearance is on a request only while the request is in the downloader. It is put on after all
other middlewares, so that cookies arrive in every cookie mode, and a proxy that was chosen late
is noticed. It is taken off when the response has arrived, so that retries, redirects, robots.txt
and the disk queue see the spider's own request and none of these cookies.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from scrapy.downloadermiddlewares.httpcompression import ACCEPTED_ENCODINGS
from scrapy.http import Headers

from scrapy_ezcaptcha.clearances.browsers import known_browsers, nearest
from scrapy_ezcaptcha.clearances.clearance import EDGE_COOKIES
from scrapy_ezcaptcha.clearances.playwright import BrowserCookies
from scrapy_ezcaptcha.lru import Lru, Once

if TYPE_CHECKING:
    import logging
    from collections.abc import Mapping

    from scrapy import Request
    from scrapy.settings import BaseSettings
    from typing_extensions import Self

    from scrapy_ezcaptcha.clearances.clearance import Clearance
    from scrapy_ezcaptcha.clearances.record import Location

#: The request meta key with the browser for scrapy-impersonate.
IMPERSONATE_META = "impersonate"

_USER_AGENT, _COOKIE = b"User-Agent", b"Cookie"  # as Scrapy writes them

_MAX_SAID = 100
_MAX_PREPARED = 1000


@dataclass(frozen=True, slots=True)
class _Prepared:
    """The headers of a clearance, as they are in ``request.headers``."""

    clearance: Clearance
    headers: tuple[tuple[bytes, list[bytes]], ...]
    cookie: bytes


@dataclass(slots=True)
class Carried:
    """What a request was sent with, and its own headers while it is in the downloader."""

    clearance: Clearance
    location: Location
    number: int
    own: Headers | None
    is_told_browser: bool  # its meta names a browser for scrapy-impersonate
    is_by_browser: bool  # scrapy-playwright downloads it


class ClearanceHeaders:
    """Puts clearances on requests, takes them off, and remembers which request carried which.

    *accept_encodings* is what this Scrapy decodes. *defaults* are the headers that Scrapy adds
    by itself; where a request has just these, the solution's are sent. With
    *impersonate*, scrapy-impersonate is told the clearance's browser, or the nearest older one that
    it knows; *log* says so. *browsers* gives cookies to those of scrapy-playwright.
    """

    def __init__(
        self,
        accept_encodings: frozenset[str],
        defaults: Mapping[bytes, list[bytes]],
        log: logging.LoggerAdapter[Any],
        *,
        impersonate: bool = False,
        browsers: BrowserCookies | None = None,
    ) -> None:
        self._log = log
        self._browsers = browsers or BrowserCookies()
        self._said: Once[str | None] = Once(_MAX_SAID)
        self._accept_encodings = accept_encodings
        self._defaults = defaults
        self._impersonate = impersonate
        self._prepared: Lru[str, _Prepared] = Lru(_MAX_PREPARED)
        self._carried: WeakKeyDictionary[Request, Carried] = WeakKeyDictionary()

    @classmethod
    def from_settings(
        cls, settings: BaseSettings, log: logging.LoggerAdapter[Any], *, impersonate: bool
    ) -> Self:
        """Read what this Scrapy decodes, and which headers it adds."""
        decodes = ACCEPTED_ENCODINGS if settings.getbool("COMPRESSION_ENABLED") else []
        defaults = Headers(settings.getdict("DEFAULT_REQUEST_HEADERS"))
        defaults[b"Accept-Encoding"] = b", ".join(ACCEPTED_ENCODINGS)
        return cls(
            frozenset(encoding.decode() for encoding in decodes),
            dict(defaults.items()),
            log,
            impersonate=impersonate,
            browsers=BrowserCookies.from_settings(settings),
        )

    def put_on(
        self, request: Request, clearance: Clearance, location: Location, number: int
    ) -> None:
        """Put *clearance* on *request*, which goes to *location* and has this *number*.

        The User-Agent is always the clearance's. Where the spider set another header on
        the request, the spider's value stays.
        """
        own, prepared = request.headers, self._prepare(clearance)
        headers = Headers(encoding=own.encoding)
        dict.update(headers, own)  # as dicts: the names are in their usual case already
        for name, values in prepared.headers:
            its = dict.get(own, name)
            if not its or name == _USER_AGENT or its == self._defaults.get(name):
                dict.__setitem__(headers, name, values[:])
        cookies = dict.get(own, _COOKIE)
        cookie = merge_cookies(cookies, clearance.cookies) if cookies else prepared.cookie
        dict.__setitem__(headers, _COOKIE, [cookie])
        request.headers = headers
        is_by_browser = self._browsers.put_on(request, clearance)
        browser = self._browser_of(clearance) if self._impersonate else None
        is_told = browser is not None and IMPERSONATE_META not in request.meta
        if is_told:
            request.meta[IMPERSONATE_META] = browser
        self._carried[request] = Carried(clearance, location, number, own, is_told, is_by_browser)

    def take_off(self, request: Request) -> None:
        """Give *request* its own headers back, if a clearance was put on it."""
        carried = self._carried.get(request)
        if carried is None or carried.own is None:
            return
        if carried.is_by_browser:
            self._browsers.take_off(request)
        if carried.is_told_browser:
            request.meta.pop(IMPERSONATE_META, None)
        request.headers = carried.own
        carried.own = None

    @property
    def in_flight(self) -> int:
        """The number of requests that carry a clearance and have no response yet."""
        return len(self._carried)

    def carried_by(self, request: Request) -> Carried | None:
        """Return what *request* was sent with."""
        return self._carried.get(request)

    def forget(self, request: Request) -> Carried | None:
        """Forget what *request* was sent with, and return it."""
        return self._carried.pop(request, None)

    def _prepare(self, clearance: Clearance) -> _Prepared:
        """Return what is the same for all requests that carry *clearance*."""
        prepared = self._prepared.get(clearance.id)
        if prepared is None or prepared.clearance is not clearance:  # a cookie was renewed
            lines = (
                (name, value.encode("latin-1")) for name, value in self._outgoing(clearance).items()
            )
            cookie = merge_cookies([], clearance.cookies)
            prepared = _Prepared(clearance, tuple(Headers(lines).items()), cookie)
            self._prepared.put(clearance.id, prepared)
        return prepared

    def _browser_of(self, clearance: Clearance) -> str | None:
        """Return the browser to impersonate; log a line if it is not the browser of the solve."""
        wanted = clearance.tls_version
        browser = nearest(wanted, known_browsers())
        if browser != wanted and self._said.is_first(wanted):
            instead = f"{browser} is impersonated instead" if browser else "none is impersonated"
            self._log.info("scrapy-impersonate does not know the browser %s; %s", wanted, instead)
        return browser

    def _outgoing(self, clearance: Clearance) -> dict[str, str]:
        headers = dict(clearance.headers)
        offered = headers.pop("accept-encoding", "")
        kept = [
            item.strip()
            for item in offered.split(",")
            if item.partition(";")[0].strip().lower() in self._accept_encodings
        ]
        if kept:
            headers["accept-encoding"] = ", ".join(kept)
        return headers


def merge_cookies(own: list[bytes], clearance: Mapping[str, str]) -> bytes:
    """Return a Cookie header with the request's *own* cookies and those of a clearance.

    The clearance's edge cookies replace those of the request. Its other cookies are added if the
    request has no cookie of that name.
    """
    pairs = [item.strip() for item in b";".join(own).split(b";") if item.strip()]
    names = {pair.partition(b"=")[0] for pair in pairs}
    replaced = {name.encode() for name in clearance if name in EDGE_COOKIES}
    kept = [pair for pair in pairs if pair.partition(b"=")[0] not in replaced]
    added = [
        f"{name}={value}".encode()
        for name, value in clearance.items()
        if name in EDGE_COOKIES or name.encode() not in names
    ]
    return b"; ".join(kept + added)
