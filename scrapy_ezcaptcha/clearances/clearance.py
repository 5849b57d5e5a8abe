"""What a clearance is, and which zone it serves.

A clearance is the browser state for which a site set the cookie ``cf_clearance``: that
cookie and the headers it is bound to. It serves one zone through one exit.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field, replace
from functools import cache, cached_property, lru_cache
from typing import TYPE_CHECKING, TypeAlias

from publicsuffixlist import PublicSuffixList
from scrapy.http.cookies import CookieJar

from scrapy_ezcaptcha.service.wire import is_cookie_value

if TYPE_CHECKING:
    from collections.abc import Mapping

    from scrapy import Request
    from scrapy.http import Response

    from scrapy_ezcaptcha.exit import Exit
    from scrapy_ezcaptcha.service.wire import Solution

#: A zone and an exit. A clearance is valid for one place.
Place: TypeAlias = "tuple[str, Exit]"

CLEARANCE_COOKIE = "cf_clearance"

#: Cookies of Cloudflare's edge. Those of the clearance replace those of the request. For all
#: other cookies, which are the site's own, the request's value stays.
EDGE_COOKIES = frozenset({CLEARANCE_COOKIE, "__cf_bm", "_cfuvid", "__cfruid"})

#: Edge cookies that a site renews with Set-Cookie. The newer value replaces the older one.
RENEWED_COOKIES = frozenset({CLEARANCE_COOKIE, "__cf_bm"})

# Headers that are not replayed, because they belong to one connection (RFC 9110, section 7.6.1),
# to one request, or to an account.
_NEVER_REPLAYED = frozenset(
    {
        *("connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding"),
        *("upgrade", "host", "cookie", "authorization", "proxy-authorization", "expect"),
        *("proxy-authenticate", "range", "via", "forwarded"),
    }
)
_NEVER_REPLAYED_PREFIXES = ("content-", "if-")

_MAX_LABEL = 63  # RFC 1035, section 2.3.4; decoding time grows with the square of the length


@cache
def _suffixes() -> PublicSuffixList:
    """Return the public-suffix list that its package contains; no network is used.

    It is one set of strings, so it costs the garbage collector almost nothing. It has
    internationalized names in Unicode only, because encoding them takes longer than reading the
    list.
    """
    return PublicSuffixList(accept_encoded_idn=False)


@lru_cache(maxsize=10_000)
def zone_of(host: str) -> str:
    """Return the zone of *host*: its registrable domain by the public-suffix list.

    Private suffixes count, so ``a.github.io`` and ``b.github.io`` are two zones. A top-level
    domain that is not on the list is a suffix too, by the rules of the list. An IP address, a
    host of a single label and a suffix by itself are each a zone.
    """
    host = host.lower().rstrip(".")
    try:
        ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        pass
    else:
        return host
    labels = host.split(".")
    zone = _suffixes().privatesuffix(".".join(map(_in_unicode, labels)))
    return host if zone is None else ".".join(labels[-zone.count(".") - 1 :])


def _in_unicode(label: str) -> str:
    if not label.startswith("xn--") or len(label) > _MAX_LABEL:
        return label
    try:
        return label.encode().decode("idna")
    except UnicodeError:  # such a label is in no real name, but may be in a URL
        return label


def is_replayed(name: str) -> bool:
    """Whether a request may carry the solution's header of this lower-case *name*."""
    return name not in _NEVER_REPLAYED and not name.startswith(_NEVER_REPLAYED_PREFIXES)


@dataclass(frozen=True)
class Clearance:
    """The headers and cookies with which requests to one zone, through one exit, are accepted.

    ``origin`` is the host whose challenge was solved. ``id`` is the id of the paid task; a
    renewed cookie does not change it. ``headers`` has lower-case names, and contains the
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

    @cached_property
    def place(self) -> Place:
        """The zone and the exit for which it is valid."""
        return self.zone, self.exit

    @classmethod
    def from_solution(
        cls, solution: Solution, place: Place, origin: str, task_id: str, created: float
    ) -> Clearance:
        """Return the clearance in *solution*, without headers that must not be replayed."""
        headers = {name: value for name, value in solution.headers.items() if is_replayed(name)}
        cookies = dict(solution.cookies)
        zone, exit = place
        return cls(zone, origin, exit, task_id, headers, cookies, solution.tls_version, created)

    def with_cookies(self, fresh: Mapping[str, str]) -> Clearance:
        """Return this clearance with *fresh* cookies, which replace those with the same names."""
        return replace(self, cookies={**self.cookies, **fresh})

    def fresh_cookies(self, request: Request, response: Response) -> dict[str, str]:
        """Return the cookies of this clearance that *response* renews."""
        sent = dict.get(response.headers, b"Set-Cookie")  # without normalizing it
        if not sent:
            return {}
        single = [value for lines in sent for value in lines.splitlines()]
        if not any(value.lstrip().startswith((b"cf_clearance=", b"__cf_bm=")) for value in single):
            return {}
        if len(single) != len(sent):  # scrapy-playwright joins them
            response = response.copy()
            response.headers = response.headers.copy()
            response.headers.setlist(b"Set-Cookie", single)
        return {
            cookie.name: cookie.value
            for cookie in CookieJar().make_cookies(response, request)
            if cookie.name in RENEWED_COOKIES
            and cookie.value
            and is_cookie_value(cookie.value)
            and not cookie.is_expired()
            and zone_of(cookie.domain.lstrip(".")) == self.zone
        }


def lacks_for_clearance(solution: Solution) -> str | None:
    """Return what a solution lacks to be a clearance; None if nothing is missing."""
    if not solution.cookies.get(CLEARANCE_COOKIE):
        return f"the solution has no {CLEARANCE_COOKIE} cookie"
    if not solution.user_agent:
        return "the solution has no User-Agent"
    return None


def lacks_for_page(solution: Solution) -> str | None:
    """Return what a solution lacks to answer a request; None if nothing is missing."""
    if solution.body is None and lacks_for_clearance(solution):
        return "the solution has neither a page nor a clearance"
    return None
