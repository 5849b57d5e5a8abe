"""What a clearance is, which requests it serves, how it is put on one.

A clearance is the browser state that earned ``cf_clearance``: that cookie beside
the headers it is bound to. It serves one zone by one exit. It is on a request only
while that is in the downloader: put on once every middleware has had its say (so
cookies arrive in every cookie mode, and a newer proxy is noticed), taken off when
the response is there (so retries, redirects, robots.txt and the disk queue see the
spider's own request, and no cookie of ours).
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary, WeakSet

from scrapy.downloadermiddlewares.httpcompression import ACCEPTED_ENCODINGS
from scrapy.http import Headers
from scrapy.http.cookies import CookieJar
from tldextract import TLDExtract

from scrapy_ezcaptcha.impersonate import IMPERSONATE_META, browser_for
from scrapy_ezcaptcha.wire import is_cookie_value

if TYPE_CHECKING:
    from collections.abc import Mapping

    from scrapy import Request
    from scrapy.http import Response
    from scrapy.settings import BaseSettings
    from typing_extensions import Self

    from scrapy_ezcaptcha.exit import Exit
    from scrapy_ezcaptcha.wire import Solution

CLEARANCE_COOKIE = "cf_clearance"

#: Cookies that Cloudflare's edge keeps for itself; they go with the clearance. All
#: others are the site's own, and yield to what the spider's session holds.
EDGE_COOKIES = frozenset({CLEARANCE_COOKIE, "__cf_bm", "_cfuvid", "__cfruid"})

#: Edge cookies that a site renews by Set-Cookie; the newer value wins.
RENEWED_COOKIES = frozenset({CLEARANCE_COOKIE, "__cf_bm"})

# Not replayed: what belongs to one connection (RFC 9110, section 7.6.1), to one
# request, or to somebody's account.
_NEVER_REPLAYED = frozenset(
    {
        *("connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding"),
        *("upgrade", "host", "cookie", "authorization", "proxy-authorization", "expect"),
        *("proxy-authenticate", "range", "via", "forwarded"),
    }
)
_NEVER_REPLAYED_PREFIXES = ("content-", "if-")

# The list that tldextract bundles; no network, no cache on disk.
_split_host = TLDExtract(suffix_list_urls=(), cache_dir=None, include_psl_private_domains=True)


@lru_cache(maxsize=10_000)
def zone_of(host: str) -> str:
    """Return the zone of *host*: its registrable domain by the public-suffix list.

    Private suffixes count, so ``a.github.io`` and ``b.github.io`` are two zones. A top
    level that is not on the list counts as a suffix, as the list's own rules say. IP
    addresses, single-label hosts and bare suffixes are zones of their own.
    """
    host = host.lower().rstrip(".")
    try:
        ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        suffix_labels = _split_host(host).suffix.count(".") + 1
        return ".".join(host.split(".")[-1 - suffix_labels :])
    return host


def is_replayed(name: str) -> bool:
    """Whether a solution's header of this lower-case *name* may go out on a request."""
    return name not in _NEVER_REPLAYED and not name.startswith(_NEVER_REPLAYED_PREFIXES)


@dataclass(frozen=True)
class Clearance:
    """The right to pass the challenges of one zone by one exit.

    ``origin`` is the host whose challenge was solved. ``id`` is that of the task that earned
    it; a renewed cookie does not change it. ``headers`` has lower-case names and holds the
    User-Agent. ``created`` is in seconds since 1970.
    """

    zone: str
    origin: str
    exit: Exit
    id: str
    headers: Mapping[str, str] = field(repr=False)
    cookies: Mapping[str, str] = field(repr=False)
    tls_version: str | None = None
    created: float = 0.0

    @property
    def place(self) -> tuple[str, Exit]:
        """The zone and the exit for which it holds."""
        return self.zone, self.exit

    @classmethod
    def from_solution(
        cls,
        solution: Solution,
        *,
        zone: str,
        origin: str,
        exit: Exit,
        id: str,  # noqa: A002  (as the field is called)
        created: float,
    ) -> Clearance:
        """Keep of a solution what may go out on a request."""
        headers = {name: value for name, value in solution.headers.items() if is_replayed(name)}
        cookies = dict(solution.cookies)
        return cls(zone, origin, exit, id, headers, cookies, solution.tls_version, created)

    def renewed(self, request: Request, response: Response) -> Clearance:
        """Return this clearance with the cookies that *response* renewed, if any."""
        if not any(
            value.lstrip().startswith((b"cf_clearance=", b"__cf_bm="))
            for value in response.headers.getlist(b"Set-Cookie")
        ):
            return self
        fresh = {
            cookie.name: cookie.value
            for cookie in CookieJar().make_cookies(response, request)
            if cookie.name in RENEWED_COOKIES
            and cookie.value
            and is_cookie_value(cookie.value)
            and not cookie.is_expired()
            and zone_of(cookie.domain.lstrip(".")) == self.zone
        }
        return replace(self, cookies={**self.cookies, **fresh}) if fresh else self


def lacks_for_clearance(solution: Solution) -> str | None:
    """Say what a solution lacks to be replayed, None if nothing."""
    if not solution.cookies.get(CLEARANCE_COOKIE):
        return f"the solution has no {CLEARANCE_COOKIE} cookie"
    if not solution.user_agent:
        return "the solution names no User-Agent"
    return None


def lacks_for_page(solution: Solution) -> str | None:
    """Say what a solution lacks to answer a request, None if nothing."""
    if solution.body is None and lacks_for_clearance(solution):
        return "the solution has neither a page nor a clearance"
    return None


class Dresser:
    """Puts clearances on requests, takes them off again, and remembers who carried which.

    Args:
        accept_encodings: what this Scrapy decodes; empty if it decodes nothing.
        defaults: headers that Scrapy adds by itself, by lower-case name. Where a
            request has just these, the solution's value is replayed instead.
        impersonate: whether scrapy-impersonate is to be told the clearance's browser.
    """

    def __init__(
        self,
        accept_encodings: frozenset[str],
        defaults: Mapping[str, bytes],
        *,
        impersonate: bool = False,
    ) -> None:
        self._accept_encodings = accept_encodings
        self._defaults = defaults
        self._impersonate = impersonate
        self._carried: WeakKeyDictionary[Request, Clearance] = WeakKeyDictionary()
        self._before: WeakKeyDictionary[Request, dict[str, list[bytes]]] = WeakKeyDictionary()
        self._impersonating: WeakSet[Request] = WeakSet()

    @classmethod
    def from_settings(cls, settings: BaseSettings, *, impersonate: bool) -> Self:
        """Return one that knows what this Scrapy decodes, and adds by itself."""
        decodes = ACCEPTED_ENCODINGS if settings.getbool("COMPRESSION_ENABLED") else []
        defaults = Headers(settings.getdict("DEFAULT_REQUEST_HEADERS"))
        defaults[b"Accept-Encoding"] = b", ".join(ACCEPTED_ENCODINGS)
        return cls(
            frozenset(encoding.decode() for encoding in decodes),
            {name.decode().lower(): values[-1] for name, values in defaults.items() if values},
            impersonate=impersonate,
        )

    def put_on(self, request: Request, clearance: Clearance) -> None:
        """Put *clearance* on *request*.

        The User-Agent is always the clearance's. Its other headers give way to those
        that the spider set on the request.
        """
        headers = request.headers
        before: dict[str, list[bytes]] = {}
        for name, value in self._outgoing(clearance).items():
            own = headers.getlist(name)
            if name == "user-agent" or not own or own == [self._defaults.get(name)]:
                before[name] = own
                headers[name] = value.encode("latin-1")
        before["cookie"] = headers.getlist("cookie")
        headers["cookie"] = merge_cookies(before["cookie"], clearance.cookies)
        self._before[request] = before
        self._carried[request] = clearance
        browser = browser_for(clearance.tls_version) if self._impersonate else None
        if browser is not None and IMPERSONATE_META not in request.meta:
            request.meta[IMPERSONATE_META] = browser
            self._impersonating.add(request)

    def take_off(self, request: Request) -> None:
        """Give *request* its own headers back, if a clearance was put on it."""
        if request in self._impersonating:
            self._impersonating.discard(request)
            request.meta.pop(IMPERSONATE_META, None)
        for name, values in self._before.pop(request, {}).items():
            if values:
                request.headers.setlist(name, values)
            else:
                request.headers.pop(name, None)

    def carried_by(self, request: Request) -> Clearance | None:
        """Return the clearance with which *request* was sent, and forget it."""
        return self._carried.pop(request, None)

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
    """Return a Cookie header of the request's *own* cookies and those of a clearance.

    The clearance's edge cookies replace the request's; its other cookies are added
    where the request has none of that name.
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
