"""Who pays: there is at most one solve at a time for a zone and an exit.

All requests that need the same clearance wait for one solve, in this process or in another
process that shares the store. They all get its result, or its failure.
"""

from __future__ import annotations

import time
from collections import Counter
from contextlib import nullcontext
from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from twisted.internet.task import LoopingCall

from scrapy_ezcaptcha.clearances.clearance import Clearance, lacks_for_clearance, lacks_for_page
from scrapy_ezcaptcha.clearances.known import BODY, USELESS
from scrapy_ezcaptcha.clearances.record import Seen
from scrapy_ezcaptcha.crawl.memo import location_of
from scrapy_ezcaptcha.crawl.pool import is_through
from scrapy_ezcaptcha.errors import (
    CrawlEnding,
    ExitBenched,
    EzCaptchaError,
    FailedElsewhere,
    GivenUp,
    PutBack,
    UnexpectedResponse,
)
from scrapy_ezcaptcha.lru import Lru
from scrapy_ezcaptcha.solving.flights import Flights
from scrapy_ezcaptcha.solving.pages import lease_on_page
from scrapy_ezcaptcha.stores.store import StoreError

if TYPE_CHECKING:
    import logging
    from collections.abc import Callable, Coroutine, Hashable

    from scrapy import Request
    from scrapy.statscollectors import StatsCollector
    from twisted.internet.interfaces import IReactorTime

    from scrapy_ezcaptcha.clearances.clearance import Place
    from scrapy_ezcaptcha.clearances.known import KnownClearances
    from scrapy_ezcaptcha.clearances.record import Location
    from scrapy_ezcaptcha.crawl.target import Target
    from scrapy_ezcaptcha.crawl.waiting import WaitingRequests
    from scrapy_ezcaptcha.exit import Exit
    from scrapy_ezcaptcha.service.wire import Solution
    from scrapy_ezcaptcha.solving.pages import BoughtPages
    from scrapy_ezcaptcha.solving.solver import Solver
    from scrapy_ezcaptcha.solving.warnings import SiteWarnings
    from scrapy_ezcaptcha.stores.leasing import Lease
    from scrapy_ezcaptcha.stores.sharing import Sharing

Work: TypeAlias = "Coroutine[Any, Any, Any]"

_LOOK_SECONDS = 0.25
_MAX_IDS = 10_000


@dataclass(eq=False)
class Broker:
    """Gets each clearance once.

    While a solve is in progress, ``is_closing`` is called regularly, because there is no signal
    when a crawl begins to close.
    """

    solver: Solver
    known: KnownClearances
    sharing: Sharing
    requests: WaitingRequests
    pages: BoughtPages
    warnings: SiteWarnings
    is_closing: Callable[[], bool]
    _: KW_ONLY
    stats: StatsCollector
    log: logging.LoggerAdapter[Any]
    reactor: IReactorTime

    def __post_init__(self) -> None:
        self.flights: Flights[Any] = Flights(self.reactor.seconds)  # type: ignore[misc]
        self._zones: Counter[str] = Counter()  # that have a solve in progress
        self._solving: dict[Place, str] = {}  # the host of a shared solve in progress
        self._only: dict[Place, str] = {}  # the host or path of a solve for it only
        self._used: Lru[str, bool] = Lru(_MAX_IDS)  # clearances that worked in this process
        self._is_closed = False
        self._looking = LoopingCall(self._look)
        self._looking.clock = self.reactor

    @property
    def is_busy(self) -> bool:
        """Whether a solve is in progress, or a request waits for one or for its turn after it."""
        return bool(self.flights) or not self.requests.is_empty

    def may_hold(self, request: Request) -> bool:
        """Whether *request* may have to wait."""
        is_solving = bool(self._zones) and location_of(request).zone in self._zones
        return is_solving or self.requests.may_hold

    def accepted(self, location: Location, clearance: Clearance, number: int) -> None:
        """Note that *location* accepted request *number*, which carried *clearance*."""
        if self.known.accept(location, clearance, number):
            self.solver.accepted(clearance.place, location.path)
        if not self._used.get(clearance.id):
            self._used.put(clearance.id, True)
            self.sharing.note_first_use(clearance, works=True)

    def challenged(
        self, location: Location, clearance: Clearance, number: int, before: Seen | None
    ) -> Seen | None:
        """Note that *location* challenged request *number*, which carried *clearance*.

        Returns what to remember if the request is to be sent once more with it, else None.
        *before* is what was remembered about the request.
        """
        fails = self.known.fails(location, clearance)
        reason = self.known.challenged(location, clearance, number, before)
        if isinstance(reason, Seen):
            return reason
        if reason is not None and reason is not USELESS and fails:
            why = "its clearances work only for other paths"
            self.solver.failed(clearance.place, why, location.path)
        if reason is None or reason[0] in {"host", "path"}:  # nothing new, or valid for others
            return None
        self.stats.inc_value("ezcaptcha/clearances/rejected")
        self.log.info("%s through %s: %s", clearance.zone, clearance.exit.label, reason[1])
        self.warnings.costly(clearance.zone, *self.known.low_yield(clearance.place))
        self.sharing.write_soon()
        if reason is USELESS:
            path = location.path if self.known.serves(clearance.place) else None
            self.solver.useless(clearance.place, "its clearance was rejected at once", path)
        elif not self._used.get(clearance.id):
            self.sharing.note_first_use(clearance, works=False)
        return None

    async def wait_for_solve(self, target: Target, *, is_last: bool = False) -> None:
        """Let a request wait while its solve is in progress and there is no clearance for it.

        After the solve, all who waited are let go in turn, and who comes then is let go after them.
        Raises CrawlEnding if the crawl began to close meanwhile, ExitBenched if the exit is left,
        TooManyWaiting if too many requests wait; a request that *is_last* in the scheduler then
        waits for room first.
        """
        request = target.request
        if self.requests.is_full and (target.options.use_body or not self._find(target)):
            known = self.known.was_challenged(target.location)
            await self.requests.until_room(request, target.place, is_last, is_challenged=known)
        if not self._is_needed(target):
            has_waited = await self.requests.until_queue_ends(request)
            if not (self._is_needed(target) or (has_waited and self._is_closed)):
                return
        with self.requests.hold(request, target.place) as is_outside:
            while not self._is_closed:
                while self._is_needed(target):
                    key = self._key_for(target)[0]
                    outcome = await self._outcome(target, key, self._clearance)
                    if isinstance(outcome, ExitBenched):
                        raise outcome.with_traceback(None)
                if is_outside and not self._is_closed:
                    await self.requests.until_turn(request)
                if not (self._is_closed or self._is_needed(target)):
                    return
        raise CrawlEnding

    async def clearance_for(self, target: Target) -> Clearance:
        """Return a new clearance for *target*, from a solve in progress if there is one.

        Raises GivenUp if a limit forbids the solve, CrawlEnding if the crawl begins to close, and
        another EzCaptchaError if the solve fails.
        """
        own = {None, target.host, target.location.path}
        while True:
            key, only = self._key_for(target)
            try:
                return cast("Clearance", await self._result(target, key, self._clearance))
            except EzCaptchaError as error:  # maybe the solve was for another host
                if only in own or isinstance(error, PutBack):
                    raise

    async def solution_for(self, target: Target) -> Solution:
        """Return a solution with the body of this page; raises like :meth:`clearance_for`."""
        return cast("Solution", await self._result(target, object(), self._page))

    def leave(self, exit: Exit) -> None:
        """Raise ExitBenched in all requests that wait for *exit*; its solves continue."""
        self.flights.dismiss(ExitBenched(), lambda key: is_through(exit, key))

    def close(self) -> None:
        """Stop polling, and raise CrawlEnding in all requests that wait."""
        self._is_closed = True
        if self._looking.running:
            self._looking.stop()
        self.flights.stop(CrawlEnding())
        self.requests.let_all_go()

    async def _clearance(self, target: Target) -> Clearance:
        """Return a clearance that this or another process buys."""
        place = target.place
        _, only = self._key_for(target)
        while await self.sharing.is_available(place):
            try:
                lease = await self.sharing.acquire(place, only)
            except StoreError:
                continue  # the store is down, which ends this loop
            if lease is not None:
                with lease:
                    return self._find(target) or await self._buy(target, lease, only)
            try:
                await self.sharing.follow(place, only)
            except FailedElsewhere as error:  # it counts in this process too
                self.solver.failed(place, str(error), only and target.location.path)
                raise
            if known := self._find(target):
                return known
        return self._find(target) or await self._buy(target, only=only)  # a page may have it

    async def _buy(
        self, target: Target, lease: Lease | None = None, only: str | None = None
    ) -> Clearance:
        place = target.place
        if not self.solver.has_unfinished(place, lease):
            suspects = 0 if only else self.known.suspects(place)
            self.solver.check(place, target.location.path, suspects)
        reason = self.known.reason_for(target.location, place)
        try:
            solution, task_id, is_own = await self.solver.solve(
                target, reason, lacks=lacks_for_clearance, lease=lease
            )
        except EzCaptchaError as error:
            if not isinstance(error, GivenUp):
                self.known.solve_failed(place, error.code)
            if isinstance(error, UnexpectedResponse) and error.task_id:
                self.pages.keep(error.task_id, target, error.page)
            raise
        if is_own:
            self.pages.keep(task_id, target, solution.body)
        return self._keep(solution, task_id, target, only)

    async def _page(self, target: Target) -> Solution:
        """Have the page of *target* solved; keep the clearance too, if none is known."""
        with (lease := await lease_on_page(self.sharing, target)) or nullcontext():
            solution, task_id, _ = await self.solver.solve(
                target, BODY, lacks=lacks_for_page, lease=lease
            )
        if not (self._find(target) or lacks_for_clearance(solution)):
            self._keep(solution, task_id, target)
        return solution

    def _keep(
        self, solution: Solution, task_id: str, target: Target, only: str | None = None
    ) -> Clearance:
        clearance = Clearance.from_solution(
            solution, target.place, target.host, task_id, time.time()
        )
        self.known.add(clearance, target.location.path, only)
        return clearance

    def _key_for(self, target: Target) -> tuple[Hashable, str | None]:
        """Return the key of the solve for *target*, and its host or path if it is for that only."""
        place, location = target.place, target.location
        for only in (location.path, location.host):
            if (place, only) in self.flights:
                return (place, only), only
        differs = self.known.differs(location, place)
        other = self._only.get(place, "/")
        if differs != location.path and self.known.tries_others(location, place):
            if place not in self.flights and (place, other) in self.flights and "/" not in other:
                return (place, other), other
            differs = None if place in self.flights else differs
        if differs is None or self._solving.get(place) == location.host:
            return place, None
        return (place, differs), differs

    def _is_needed(self, target: Target) -> bool:
        """Whether a solve is under way for *target*, for which there is no clearance."""
        return self._find(target) is None and self._key_for(target)[0] in self.flights

    def _find(self, target: Target) -> Clearance | None:
        """Return the clearance that is known for *target*."""
        return self.known.find(target.location, target.place[1])

    async def _result(self, target: Target, key: Hashable, work: Callable[[Target], Work]) -> Any:
        """Let the request wait for the solve *key*; return its result, or raise its error."""
        if key not in self.flights:
            if self._is_closed or self.is_closing():
                raise CrawlEnding
            if not self._looking.running:
                self._looking.start(_LOOK_SECONDS, now=False)
        with self.requests.hold(target.request, target.place):
            outcome = await self._outcome(target, key, work)
        if isinstance(outcome, Exception):
            raise outcome.with_traceback(None)  # many requests raise it; drop their frames
        return outcome

    async def _outcome(self, target: Target, key: Hashable, work: Callable[[Target], Work]) -> Any:
        """Let the request wait for the solve *key*; start it with *work* if needed."""

        def start() -> Work:
            self._zones[target.zone] += 1
            if key == target.place:
                self._solving[target.place] = target.host
            elif isinstance(key, tuple):
                self._only[target.place] = key[1]
            return self._without_bugs(target, key, work(target))

        self.stats.max_value("ezcaptcha/requests/waiting_max", self.flights.waiting + 1)
        return await self.flights.outcome(key, start, target.request.priority)

    async def _without_bugs(self, target: Target, key: Hashable, work: Work) -> Any:
        """Carry out *work*; log any unexpected exception, and raise our own error instead."""
        try:
            return await work
        except EzCaptchaError:
            raise
        except Exception:
            if self._is_closed:  # cancelled; all requests know that
                raise
            self.log.exception("A solve ended with an unexpected error")
            raise EzCaptchaError("internal error, see the log") from None
        finally:
            self._zones -= Counter((target.zone,))
            if key == target.place:
                self._solving.pop(target.place, None)

    def _look(self) -> None:
        self.solver.progress.look(self.flights, self.requests)
        if self.is_closing():
            self.close()
        elif self.is_busy:
            self.requests.look()
        else:
            self._looking.stop()
