"""What is remembered on a request itself, because it may go to disk and come back."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

from scrapy.utils.httpobj import urlparse_cached

from scrapy_ezcaptcha.clearances.clearance import zone_of

if TYPE_CHECKING:
    from scrapy import Request

_KEY = "_ezcaptcha"  # one underscore key, because spiders copy response.meta


@dataclass(frozen=True)
class Memo:
    """What is remembered on a request that waits, or is sent again."""

    zone: str  # where it was challenged
    attempts: int = 0  # solves in a row that were of no use to it
    solves: int = 0  # all solves that it waited for
    clearance: str | None = None  # the id of the clearance that the last of these brought
    run: str | None = None  # the run of the crawl that wrote this
    store: str | None = None  # where that run keeps clearances, if others use that store too
    is_put_back: bool = False  # whether that run put the request back into the queue at its end
    dont_filter: bool = False  # what the spider set; a replay must pass the duplicate filter once
    ticket: str | None = None  # the request's number in the journal of waiting requests

    @classmethod
    def on(cls, request: Request) -> Memo:
        """Return what is remembered on *request*; nothing if that is about another zone."""
        zone = host_and_zone(request)[1]
        memo = request.meta.get(_KEY)
        return cls(**memo) if isinstance(memo, dict) and memo["zone"] == zone else cls(zone)

    def put_on(self, request: Request) -> None:
        """Write this on *request*, as plain data: requests are pickled into JOBDIR."""
        restore_filtering(request)
        request.meta[_KEY] = asdict(replace(self, dont_filter=request.dont_filter))


def take_off(request: Request) -> None:
    """Remove the memo, so that no copy of the request's meta inherits it."""
    request.meta.pop(_KEY, None)


def restore_filtering(request: Request) -> None:
    """Give a replay its own ``dont_filter`` back, so that its redirects stay on the site."""
    memo = request.meta.get(_KEY)
    if memo is not None:
        request.dont_filter = memo["dont_filter"]


def take_ticket(request: Request) -> str | None:
    """Return the number of *request* in the journal, and remove it from the memo."""
    memo = request.meta.get(_KEY)
    if memo is None:
        return None
    ticket: str | None = memo["ticket"]
    memo["ticket"] = None
    return ticket


def host_and_zone(request: Request) -> tuple[str, str]:
    """Return the host of *request* and its zone."""
    host = (urlparse_cached(request).hostname or "").lower()
    return host, zone_of(host)
