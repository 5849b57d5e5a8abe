"""What is remembered on a request itself, for that may go to disk and come back."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

from scrapy.utils.httpobj import urlparse_cached

from scrapy_ezcaptcha.clearance import zone_of

if TYPE_CHECKING:
    from scrapy import Request

_KEY = "_ezcaptcha"  # one underscore key, for spiders copy response.meta


@dataclass(frozen=True)
class Note:
    """Our note on a request that waits, or is on its way again.

    Args:
        zone: where it was challenged.
        attempts: solves in a row that were of no use to it.
        solves: all solves that it waited for.
        clearance: the id of the one that the last of these earned.
        run: which run of the crawl this is of.
        store: where that run keeps clearances, if others use it too.
        is_put_back: whether that run put it back into the queue, because it was ending.
        dont_filter: what the spider had set; a replay must pass the duplicate filter once.
        ticket: its number in the journal of those who wait.
    """

    zone: str
    attempts: int = 0
    solves: int = 0
    clearance: str | None = None
    run: str | None = None
    store: str | None = None
    is_put_back: bool = False
    dont_filter: bool = False
    ticket: str | None = None

    @classmethod
    def on(cls, request: Request) -> Note:
        """Return the note on *request*; an empty one if it has none of its zone."""
        zone = place_of(request)[1]
        note = request.meta.get(_KEY)
        return cls(**note) if isinstance(note, dict) and note["zone"] == zone else cls(zone)

    def put_on(self, request: Request) -> None:
        """Leave this note on *request*, as plain data: requests are pickled into JOBDIR."""
        restore_filtering(request)
        request.meta[_KEY] = asdict(replace(self, dont_filter=request.dont_filter))


def take_off(request: Request) -> None:
    """Remove the note, so that no copy of the request's meta inherits it."""
    request.meta.pop(_KEY, None)


def restore_filtering(request: Request) -> None:
    """Give a replay its own ``dont_filter`` back, lest its redirects leave the site."""
    note = request.meta.get(_KEY)
    if note is not None:
        request.dont_filter = note["dont_filter"]


def take_ticket(request: Request) -> str | None:
    """Return the number of *request* in the journal, and remove it from the note."""
    note = request.meta.get(_KEY)
    if note is None:
        return None
    ticket: str | None = note["ticket"]
    note["ticket"] = None
    return ticket


def place_of(request: Request) -> tuple[str, str]:
    """Return the host of *request* and its zone."""
    host = (urlparse_cached(request).hostname or "").lower()
    return host, zone_of(host)
