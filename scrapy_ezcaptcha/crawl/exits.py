"""Which exit of the pool does a request use, and did the request succeed there?"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from scrapy.core.downloader.handlers.http11 import TunnelError
from scrapy.utils.httpobj import urlparse_cached
from twisted.internet import error as twisted_errors

from scrapy_ezcaptcha.crawl.memo import has_memo, location_of
from scrapy_ezcaptcha.crawl.pool import Pool
from scrapy_ezcaptcha.crawl.target import POOL_KEY
from scrapy_ezcaptcha.errors import GivenUp, NoExitLeft
from scrapy_ezcaptcha.stores.benches import SharedBenches

if TYPE_CHECKING:
    import logging
    from collections.abc import Callable

    from scrapy import Request
    from scrapy.http import Response
    from scrapy.statscollectors import StatsCollector

    from scrapy_ezcaptcha.clearances.clearance import Place
    from scrapy_ezcaptcha.clearances.known import KnownClearances
    from scrapy_ezcaptcha.config import Config
    from scrapy_ezcaptcha.crawl.target import Target, Targets
    from scrapy_ezcaptcha.exit import Exit
    from scrapy_ezcaptcha.stores.sharing import Sharing

_UNAUTHORIZED = 407

# By class names, because the oldest supported Scrapy does not have all of these exceptions.
_REFUSED = frozenset({"DownloadConnectionRefusedError", "CannotResolveHostError", "DNSLookupError"})
_TIMEOUT = "DownloadTimeoutError"
_TOO_LONG = "took longer than"  # Scrapy's text after DOWNLOAD_TIMEOUT
_LOST = (twisted_errors.ConnectionLost, twisted_errors.ConnectionDone)


@dataclass(frozen=True)
class Failure:
    """How a request failed; *is_sure* if the reason is the exit, and not perhaps the site.

    *is_lost*: only several such failures bench the exit. *is_sent_on*: the request continues
    through the pool, even if the exit is not benched.
    """

    why: str
    is_sure: bool = True
    is_lost: bool = False
    is_sent_on: bool = True


class Solves(Protocol):
    """What the broker tells about solves in progress."""

    @property
    def flights(self) -> Any:
        """A container with the place of each solve."""
        ...

    def leave(self, exit: Exit) -> None:
        """Make all requests that wait for a solve through *exit* use another exit."""
        ...


@dataclass(eq=False)
class PoolExits:
    """Gives requests their exits, and benches exits that fail.

    ``clock`` returns the seconds of a monotonic clock. If an exit is benched, the broker tells
    the requests that wait for a solve through it.
    """

    pool: Pool
    targets: Targets
    known: KnownClearances
    benches: SharedBenches
    stats: StatsCollector
    log: logging.LoggerAdapter[Any]
    clock: Callable[[], float]
    get_broker: Callable[[], Solves]
    max_useless: int

    @classmethod
    def of(
        cls,
        config: Config,
        targets: Targets,
        known: KnownClearances,
        sharing: Callable[[], Sharing],
        get_broker: Callable[[], Solves],
        *,
        stats: StatsCollector,
        log: logging.LoggerAdapter[Any],
        clock: Callable[[], float],
    ) -> PoolExits | None:
        """Return the exits of the settings; None if there is no pool."""
        if not config.proxies:
            return None
        pool, benches = Pool.from_config(config), SharedBenches(sharing)
        limit = config.breaker_failures
        return cls(pool, targets, known, benches, stats, log, clock, get_broker, limit)

    def __post_init__(self) -> None:
        self._is_said = False  # that all are benched; reset when one works

    async def assign(self, request: Request) -> bool:
        """Give *request* the exit that its zone uses; return False if the pool is not for it.

        Raises NoExitLeft if all exits are benched.
        """
        if not self.targets.leaves_by_pool(request):
            return False
        zone = location_of(request).zone
        await self.benches.look(zone, self.pool.near(zone))
        chosen = request.meta.get(POOL_KEY) if has_memo(request) else None
        exit = self.pool.choose(
            request,
            zone,
            self.clock(),
            lambda exit: self._has_clearance((zone, exit)),
            lambda exit: exit.label == chosen,
        )
        if exit is None:
            raise self._none_left()
        request.meta["proxy"] = exit.url
        request.meta[POOL_KEY] = exit.label
        return True

    def can_leave(self, target: Target) -> bool:
        """Whether the pool chose the exit of *target*, and it is benched now.

        Raises NoExitLeft if all exits are benched.
        """
        zone, exit = target.place
        if target.request.meta.get(POOL_KEY) != exit.label:
            return False
        if self.pool.tries(target.request, exit):
            return False
        now = self.clock()
        if self.pool.is_benched(exit, now) and not self.pool.has_any(now):
            raise self._none_left()
        return self.pool.can_leave(exit, zone, now)

    def check_zone(self, target: Target) -> None:
        """Raise GivenUp if another task for the zone of *target* would be useless too.

        This is so if a clearance of its exit was useless for the zone, or if clearances of
        EZCAPTCHA_BREAKER_FAILURES exits were.
        """
        zone, exit = target.place
        benched = self.pool.useless_for(zone, self.clock())
        if exit in benched or len(benched) >= self.max_useless:
            raise GivenUp(
                "ZONE_GIVEN_UP",
                f"{zone} is given up for now, through {len(benched)} proxies of the pool",
            )

    def has_failed(self, request: Request, outcome: Response | Exception) -> bool:
        """Note the *outcome* of *request*; return True if its exit failed, or may have failed."""
        if isinstance(outcome, Exception):
            return self._got_exception(request, outcome)
        return self._got_response(request, outcome)

    def _got_response(self, request: Request, response: Response) -> bool:
        is_own = response.status == _UNAUTHORIZED and urlparse_cached(request).scheme == "http"
        if is_own:
            return self._failed(request, Failure("it refuses the user name and password"))
        choice = self.pool.ended(request)
        if choice is None or response.status >= 500 or "cached" in response.flags:
            return False
        if self.pool.worked(choice):
            self._is_said = False
            self.log.info("The proxy %s works again", choice.exit.label)
            self.benches.end(choice.exit)
        for exit in self.pool.blamed(choice):
            self._bench(exit, "it does not reach sites that other proxies reach")
        return False

    def _got_exception(self, request: Request, exception: Exception) -> bool:
        failure = failure_of(exception)
        if failure is None:
            choice = self.pool.ended(request)
            if choice is None or not self.targets.leaves_by(request, choice.exit):
                return False
            return self.pool.is_benched(choice.exit, self.clock())
        return self._failed(request, failure)

    def solve_failed(self, exit: Exit, why: str) -> None:
        """Note that the service could not use *exit*."""
        self._bench(exit, f"the service reports that it failed: {why}")

    def useless(self, place: Place, path: str | None = None) -> None:
        """Note that a clearance for *place*, or for one *path* of it, was useless."""
        zone, exit = place
        if path is None:
            self._bench(exit, "its clearance was rejected at once", zone=zone, is_useless=True)

    def benched_elsewhere(self, place: Place, seconds: float) -> None:
        """Note that another process does not use the exit of *place* for *seconds*."""
        exit = place[1]
        if self.pool.benched_elsewhere(exit, self.clock(), seconds):
            self.log.info(
                "The proxy %s is not used for %.0f s: it failed in another process",
                exit.label,
                seconds,
            )
            self.get_broker().leave(exit)

    def _failed(self, request: Request, failure: Failure) -> bool:
        choice = self.pool.ended(request)
        if choice is None or not self.targets.leaves_by(request, choice.exit):
            return False
        zone, is_lost = None if failure.is_sure else choice.zone, failure.is_lost
        if zone is None or self.pool.doubt(choice.exit, zone, is_lost=is_lost):
            self._bench(choice.exit, failure.why, number=choice.number, zone=zone)
            return True
        return failure.is_sent_on or self.pool.is_benched(choice.exit, self.clock())

    def _has_clearance(self, place: Place) -> bool:
        """Whether there is a clearance for *place*, or a solve for it is in progress."""
        return bool(self.known.records(place)) or place in self.get_broker().flights

    def _bench(
        self,
        exit: Exit,
        why: str,
        *,
        number: int | None = None,
        zone: str | None = None,
        is_useless: bool = False,
    ) -> None:
        seconds = self.pool.bench(exit, self.clock(), number, zone, is_useless=is_useless)
        if seconds is None:
            return
        self.stats.inc_value("ezcaptcha/proxies/benched")
        where = f" for {zone}" if zone else ""
        message = "The proxy %s is not used%s for %.0f s: %s"
        self.log.info(message, exit.label, where, seconds, why)
        if zone is None:
            self.benches.bench(exit, seconds)
            self.get_broker().leave(exit)

    def _none_left(self) -> NoExitLeft:
        error = NoExitLeft(len(self.pool.exits))
        if not self._is_said:
            self._is_said = True
            self.log.warning("Requests end without a page for now: %s", error)
        return error


def failure_of(exception: Exception) -> Failure | None:
    """Return what *exception* says about the exit; None if the exit is not the reason.

    The site is the reason for a TLS error in a tunnel. It may be the reason for a timeout, too:
    Scrapy does not notice if a proxy does not answer a CONNECT, or drops it.
    """
    causes = [exception, exception.__cause__]
    names = {base.__name__ for cause in causes for base in type(cause).__mro__}
    if isinstance(exception, TunnelError):
        is_sure = re.search(rf"\b{_UNAUTHORIZED}\b", str(exception)) is not None
        why = "user name and password" if is_sure else "a tunnel to the site"
        return Failure(f"it refuses {why}", is_sure)
    is_timeout = any(isinstance(cause, twisted_errors.TimeoutError) for cause in causes)
    if is_timeout and _TOO_LONG not in str(exception):
        return Failure("it does not answer")
    is_no_connection = any(isinstance(cause, twisted_errors.ConnectError) for cause in causes)
    if not is_timeout and (is_no_connection or not _REFUSED.isdisjoint(names)):
        return Failure("it refuses connections")
    if is_timeout or _TIMEOUT in names:
        return Failure("requests time out", is_sure=False, is_lost=True, is_sent_on=False)
    reasons = [reason for cause in causes for reason in getattr(cause, "reasons", ())]
    lost = [reason.check(*_LOST) for reason in reasons]
    if isinstance(exception, _LOST) or (lost and all(lost)):
        return Failure("connections to it were lost", is_sure=False, is_lost=True)
    return None
