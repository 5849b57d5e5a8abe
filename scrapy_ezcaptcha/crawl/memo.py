"""What is remembered in the meta of a request, because the request may go to disk and back."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING
from urllib.parse import SplitResult

from scrapy.utils.httpobj import urlparse_cached

from scrapy_ezcaptcha.clearances.clearance import zone_of
from scrapy_ezcaptcha.clearances.record import Location, Seen

if TYPE_CHECKING:
    from scrapy import Request

_KEY = "_ezcaptcha"  # a single key, because spiders copy response.meta

_MAX_PUT_OFF = 3  # a request that is challenged is put off so often at most


@dataclass(frozen=True)
class Memo:
    """What is remembered about a request that waits or is sent again."""

    zone: str  # where it was challenged
    attempts: int = 0  # useless solves in a row
    solves: int = 0  # all solves that it waited for
    clearance: str | None = None  # the id of the clearance of the last solve
    run: str | None = None  # the run of the crawl that wrote this
    store: str | None = None  # the store of that run, if others can use it too
    is_put_back: bool = False  # whether that run put the request back into the queue at its end
    dont_filter: bool = False  # what the spider set; a replay must pass the duplicate filter once
    ticket: str | None = None  # the request's number in the journal of waiting requests
    seen: Seen | None = None  # what was known about its clearance when it was challenged
    resent: int = 0  # how often it was sent again without another solve
    page: str | None = None  # the task that was created for it, whose page can answer it
    given_up: str | None = None  # the URL when it was given up; a copy with another URL is new
    slot: str | None = None  # the download slot of a request that is put off
    priority: int = 0  # its own priority, while it is put off
    put_off: int = 0  # how often it was put off after a challenge
    moved: int = 0  # how often it moved to another exit of the pool after a failure
    pin: str | None = None  # the id of the clearance whose exit it must use when it is sent next

    @classmethod
    def on(cls, request: Request) -> Memo:
        """Return the memo of *request*; an empty one if it is about another zone."""
        zone = location_of(request).zone
        memo = request.meta.get(_KEY)
        if not isinstance(memo, dict) or memo.get("zone") != zone:
            return cls(zone)
        if memo.get("given_up") not in (None, request.url):
            return cls(zone)
        try:
            seen = memo.get("seen")
            return cls(**{**memo, "seen": Seen(*seen) if seen else None})
        except TypeError:  # written by another version or another program
            return cls(zone)

    def put_on(self, request: Request) -> None:
        """Write this on *request* as plain data, because requests are pickled into JOBDIR."""
        restore_filtering(request)
        plain = asdict(replace(self, dont_filter=request.dont_filter))
        request.meta[_KEY] = plain | {"seen": list(self.seen) if self.seen else None}


def has_memo(request: Request) -> bool:
    """Whether *request* has a memo."""
    return _KEY in request.meta


def take_off(request: Request) -> None:
    """Remove the memo, so that no copy of the request's meta inherits it."""
    request.meta.pop(_KEY, None)


def restore_filtering(request: Request) -> None:
    """Restore the ``dont_filter`` of a replay, so that its redirects stay on the site."""
    memo = request.meta.get(_KEY)
    if isinstance(memo, dict) and memo.get("given_up") is None:
        request.dont_filter = bool(memo.get("dont_filter", request.dont_filter))


def note_pin(request: Request, pin: str | None) -> str | None:
    """Change the pin in the memo of *request*; return the former one."""
    memo = request.meta.get(_KEY)
    if not isinstance(memo, dict):
        return None
    before: str | None = memo.get("pin")
    memo["pin"] = pin
    return before


def may_be_put_off(request: Request) -> bool:
    """Whether *request* has not been put off too often after a challenge."""
    return Memo.on(request).put_off < _MAX_PUT_OFF


def put_off(request: Request, slot: str, last_slot: str, lower_by: int) -> None:
    """Make the scheduler take *request*, of the download slot *slot*, last.

    A downloader-aware queue uses the slot for this, and other queues use the priority.
    """
    request.meta[_KEY] |= {"slot": slot, "priority": request.priority}
    request.meta["download_slot"] = last_slot
    request.priority -= lower_by
    request.dont_filter = True  # until it reaches the downloader


def take_back(request: Request) -> str | None:
    """Restore the slot and priority of a request that was put off.

    Returns the slot in which it was last; None if it was not put off.
    """
    memo = request.meta.get(_KEY)
    slot = memo.get("slot") if isinstance(memo, dict) else None
    if not isinstance(memo, dict) or slot is None:
        return None
    memo["slot"] = None
    last_slot: str = request.meta["download_slot"]
    request.meta["download_slot"] = slot
    request.priority = memo["priority"]
    return last_slot


def take_ticket(request: Request) -> str | None:
    """Return the number of *request* in the journal, and remove it from the memo."""
    memo = request.meta.get(_KEY)
    if not isinstance(memo, dict):
        return None
    ticket: str | None = memo.get("ticket")
    memo["ticket"] = None
    return ticket


def location_of(request: Request) -> Location:
    """Return where *request* goes."""
    parts = urlparse_cached(request)
    return _location(parts.netloc, parts.path[1:].partition("/")[0])


@lru_cache(maxsize=1000)
def _location(netloc: str, folder: str) -> Location:
    host = (SplitResult("", netloc, "", "", "").hostname or "").lower()
    return Location(host, zone_of(host), f"{host}/{folder}")
