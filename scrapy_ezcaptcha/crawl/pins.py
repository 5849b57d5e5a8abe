"""Sends replays through the exit of their clearance, whatever proxy other middlewares choose.

A middleware that rotates proxies gives a replay another proxy than that of its clearance, and
the clearance would then not be sent. So the exit of the clearance is set again when the request
is sent, after all middlewares.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from scrapy_ezcaptcha.crawl.memo import Memo, has_memo, location_of, note_pin
from scrapy_ezcaptcha.crawl.target import POOL_KEY
from scrapy_ezcaptcha.errors import ExitError
from scrapy_ezcaptcha.lru import Lru, Once

if TYPE_CHECKING:
    import logging

    from scrapy import Request
    from scrapy.http import Response
    from scrapy.statscollectors import StatsCollector

    from scrapy_ezcaptcha.clearances.clearance import Clearance
    from scrapy_ezcaptcha.clearances.known import KnownClearances
    from scrapy_ezcaptcha.clearances.record import Location
    from scrapy_ezcaptcha.crawl.proxies import ProxyFinder
    from scrapy_ezcaptcha.crawl.target import Target
    from scrapy_ezcaptcha.exit import Exit

_MAX_IDS = 10_000


class Pins:
    """Sends each replay through the exit of its clearance.

    A pin is valid for one download, and for its redirects. If a middleware retries the request,
    because the exit failed or the page is a ban, that middleware chooses the proxy.
    """

    def __init__(
        self,
        known: KnownClearances,
        proxies: ProxyFinder,
        stats: StatsCollector,
        log: logging.LoggerAdapter[Any],
    ) -> None:
        self._known = known
        self._proxies = proxies
        self._stats = stats
        self._log = log
        self._exits: Lru[str, Exit] = Lru(_MAX_IDS)  # by the id of a clearance
        self._sent: WeakKeyDictionary[Request, str] = WeakKeyDictionary()
        self._said: Once[str] = Once(capacity=2)

    def pin_for(self, target: Target, clearance: Clearance) -> str | None:
        """Return what to remember on the replay of *target*, which *clearance* is for."""
        if clearance.exit != target.exit:
            return None
        self._exits.put(clearance.id, clearance.exit)
        return clearance.id

    def before_middlewares(self, request: Request) -> None:
        """Set the exit of a replay for the middlewares that come next."""
        exit = self._exit_of(request)
        if exit is None or self._proxy_before(request) == exit:
            return
        if POOL_KEY in request.meta:  # that exit failed, and the pool chose another one
            note_pin(request, None)
        else:
            request.meta["proxy"] = exit.url

    def exit_when_sent(self, request: Request) -> Exit | None:
        """Return the exit of *request*, which has passed all middlewares.

        If it is a replay, set the exit of its clearance first. None if there is no exit, or if it
        cannot be read.
        """
        own = self._proxy_after(request)
        exit = self._exit_of(request)
        if exit is None:
            return own
        self._sent[request] = note_pin(request, None) or ""
        if exit != own:
            self._replace(request, exit)
        return exit

    def downloaded(self, request: Request, response: Response) -> None:
        """Have the redirect that *response* may be leave by the same exit."""
        pin = self._sent.pop(request, None)
        if pin and 300 <= response.status < 400:
            note_pin(request, pin)

    def left_by_another(self, target: Target, memo: Memo) -> bool:
        """Whether the last clearance of a challenged request is valid, but for another exit."""
        if POOL_KEY in target.request.meta:  # the pool moved it, and counts that itself
            return False
        exit = self._exits.get(memo.clearance) if memo.clearance else None
        if exit in {None, target.own_exit} or not self._has_clearance(target.location, exit):
            return False
        if self._said.is_first("left by another"):
            self._log.warning(
                "%s was sent again through another proxy than that of its clearance, and was"
                " challenged; such challenges do not count as attempts. Another middleware chose"
                " that proxy because the first one failed, or to replace the one set here",
                target.request,
            )
        return True

    def _exit_of(self, request: Request) -> Exit | None:
        if not has_memo(request) or not self._proxies.can_use_proxies(request):
            return None
        pin = Memo.on(request).pin
        exit = self._exits.get(pin) if pin else None
        return exit if self._has_clearance(location_of(request), exit) else None

    def _replace(self, request: Request, exit: Exit) -> None:
        self._proxies.send_by(request, exit)
        self._stats.inc_value("ezcaptcha/requests/pinned")
        if self._said.is_first("pinned"):
            self._log.info(
                "Another middleware chose a new proxy for %s, which is sent again with a clearance;"
                " such requests use the proxy of their clearance instead",
                request,
            )

    def _has_clearance(self, location: Location, exit: Exit | None) -> bool:
        return exit is not None and self._known.find(location, exit) is not None

    def _proxy_before(self, request: Request) -> Exit | None:
        try:
            return self._proxies.before_sending(request)
        except ExitError:
            return None

    def _proxy_after(self, request: Request) -> Exit | None:
        try:
            return self._proxies.after_sending(request)
        except ExitError:  # logged when it is challenged
            return None
