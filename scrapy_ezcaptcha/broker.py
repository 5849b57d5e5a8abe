"""One solve for many.

Whoever needs a clearance asks here. At most one solve is under way for a zone and
exit, and all who need it wait for that one; what it earned goes to all of them, and
so does its failure.
"""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from scrapy.utils.defer import deferred_from_coro, maybe_deferred_to_future
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import LoopingCall

from scrapy_ezcaptcha.earner import Earner
from scrapy_ezcaptcha.errors import CrawlEnding, EzCaptchaError
from scrapy_ezcaptcha.holdings import Rejection

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from scrapy import Request
    from scrapy.statscollectors import StatsCollector
    from twisted.internet.interfaces import IReactorTime

    from scrapy_ezcaptcha.clearance import Clearance
    from scrapy_ezcaptcha.earner import Want
    from scrapy_ezcaptcha.exit import Exit
    from scrapy_ezcaptcha.holdings import Holdings
    from scrapy_ezcaptcha.solver import Solver
    from scrapy_ezcaptcha.stores import SharedStore
    from scrapy_ezcaptcha.waiting import WaitingRoom
    from scrapy_ezcaptcha.wire import Solution

logger = logging.getLogger(__name__)

_LOOK_FOR_CLOSING_SECONDS = 0.25


@dataclass(eq=False)
class _Flight:
    """A solve under way, and who waits for it."""

    waiters: dict[Deferred[Any], int] = field(default_factory=dict)  # with their priorities
    running: Deferred[Any] | None = None
    outcome: Any = None

    def add_waiter(self, priority: int) -> Deferred[Any]:
        """Return what fires with the outcome."""
        waiter: Deferred[Any] = Deferred(self._drop_waiter)
        self.waiters[waiter] = priority
        return waiter

    def _drop_waiter(self, waiter: Deferred[Any]) -> None:
        self.waiters.pop(waiter, None)

    def land(self, outcome: Any) -> None:
        """Tell all who wait: within a priority, in the order in which they came."""
        self.outcome = outcome
        waiters, self.waiters = self.waiters, {}
        for waiter in sorted(waiters, key=lambda waiter: -waiters[waiter]):
            waiter.callback(outcome)


class Broker:
    """Gets each clearance once.

    Args:
        solver: has one challenge solved, within limits.
        holdings: the clearances at hand.
        store: where these are, and who else solves.
        room: where requests wait.
        stats: where ``ezcaptcha/...`` is counted.
        reactor: the clock.
        is_closing: looked at while a solve is under way, for nothing tells when a
            crawl begins to close.
    """

    def __init__(
        self,
        solver: Solver,
        holdings: Holdings,
        store: SharedStore,
        room: WaitingRoom,
        *,
        stats: StatsCollector,
        reactor: IReactorTime,
        is_closing: Callable[[], bool],
    ) -> None:
        self._solver = solver
        self._holdings = holdings
        self._store = store
        self._earner = Earner(solver, holdings, store)
        store.on_unused = self._rejected_elsewhere
        self._room = room
        self._stats = stats
        self._is_closing = is_closing
        self._shared: dict[tuple[str, Exit], _Flight] = {}
        self._zones: Counter[str] = Counter()  # of the shared flights
        self._flights: set[_Flight] = set()
        self._waiting = 0
        self._closed = False
        self._watch = LoopingCall(self._look_for_closing)
        self._watch.clock = reactor

    def knows_zone(self, zone: str) -> bool:
        """Whether a clearance of *zone* may be held or on its way; cheap to ask."""
        return zone in self._zones or self._holdings.has_zone(zone)

    def find(self, zone: str, host: str, exit: Exit) -> Clearance | None:
        """Return the clearance that serves *host* by *exit*, if there is one."""
        return self._holdings.find(zone, host, exit)

    def accepted(self, host: str, clearance: Clearance) -> None:
        """Note that *host* answered a request with *clearance* by its page."""
        if self._holdings.accept(host, clearance):
            self._solver.accepted(clearance.zone)
            self._store.tried(clearance, works=True)

    def renew(self, clearance: Clearance) -> None:
        """Keep *clearance* with its renewed cookies."""
        self._holdings.renew(clearance)

    async def wait_for_solve(self, request: Request, zone: str, host: str, exit: Exit) -> None:
        """Let *request* wait while its solve is under way and nothing else is at hand.

        After the solve, all who waited are let go in turn, and who comes then joins the queue.

        Raises:
            CrawlEnding: the crawl began to close meanwhile.
        """
        if self._needed_flight(zone, host, exit) is None and not self._room.is_queue_before(
            request
        ):
            return
        with self._room.seat(request) as is_seated:
            while not self._closed:
                while flight := self._needed_flight(zone, host, exit):
                    await self._outcome(flight, request)
                if is_seated and not self._closed:
                    await self._room.turn(request)
                if not self._closed and self._needed_flight(zone, host, exit) is None:
                    return
        raise CrawlEnding

    def _needed_flight(self, zone: str, host: str, exit: Exit) -> _Flight | None:
        """Return the solve under way for *host*, unless something is at hand for it."""
        flight = self._shared.get((zone, exit))
        if flight is None or self._holdings.find(zone, host, exit) is not None:
            return None
        return flight

    def has_served(self, clearance: Clearance) -> bool:
        """Whether any host accepted *clearance*, held or not."""
        return self._holdings.has_served(clearance)

    def rejected(self, host: str, clearance: Clearance) -> None:
        """Note that *host* challenged a request with *clearance*.

        However many requests met the same end, it is rejected once.
        """
        never_worked_here = not self._holdings.has_served_here(clearance)
        verdict = self._holdings.reject(host, clearance)
        if verdict is Rejection.EXPIRED and never_worked_here:
            self._store.tried(clearance, works=False)
        if verdict in {Rejection.EXPIRED, Rejection.UNUSED}:
            self._stats.inc_value("ezcaptcha/clearances/rejected")
        if verdict is Rejection.UNUSED:
            self._solver.failed(clearance.zone, "its clearance was rejected at once")

    def _rejected_elsewhere(self, zone: str) -> None:
        """Count a clearance that another process got, and that was rejected at once."""
        self._solver.failed(zone, "its clearance was rejected at once, in another process")

    async def clearance_for(self, want: Want) -> Clearance:
        """Return a new clearance for *want*; a solve under way is joined.

        Raises:
            GivenUp: a limit forbids the solve.
            CrawlEnding: the crawl began to close.
            EzCaptchaError: the solve failed.
        """
        flight = self._shared.get(want.place)
        if flight is None:
            flight = self._launch(want, self._earner.clearance(want), is_shared=True)
        clearance: Clearance = await self._result(flight, want.request)
        return clearance

    async def solution_for(self, want: Want) -> Solution:
        """Return a solution of this very page, for a caller that wants its body.

        Raises:
            GivenUp: a limit forbids the solve.
            CrawlEnding: the crawl began to close.
            EzCaptchaError: the solve failed.
        """
        self._solver.check(want.zone)
        flight = self._launch(want, self._earner.page(want), is_shared=False)
        solution: Solution = await self._result(flight, want.request)
        return solution

    def close(self) -> None:
        """Stop polling, and send away all who wait."""
        self._closed = True
        if self._watch.running:
            self._watch.stop()
        self._shared.clear()
        self._zones.clear()
        flights, self._flights = self._flights, set()
        for flight in flights:
            flight.land(CrawlEnding())
            if flight.running is not None:
                flight.running.cancel()
        self._room.close()

    def _launch(self, want: Want, work: Coroutine[Any, Any, Any], *, is_shared: bool) -> _Flight:
        """Set *work* going; if shared, then for all who want the same zone and exit."""
        if self._closed or self._is_closing():
            work.close()
            raise CrawlEnding
        flight = _Flight()
        self._flights.add(flight)
        if is_shared:
            self._shared[want.place] = flight
            self._zones[want.zone] += 1
        flight.running = deferred_from_coro(self._fly(flight, want, work))
        flight.running.addErrback(lambda _: None)  # cancelled, and everybody was told
        if not self._watch.running:
            self._watch.start(_LOOK_FOR_CLOSING_SECONDS, now=False)
        return flight

    async def _fly(self, flight: _Flight, want: Want, work: Coroutine[Any, Any, Any]) -> None:
        try:
            outcome = await work
        except EzCaptchaError as error:
            outcome = error
        except CancelledError:
            return  # by close(), which told everybody
        except Exception:
            logger.exception("A solve broke down")
            outcome = EzCaptchaError("internal error, see the log")
        if self._shared.get(want.place) is flight:
            del self._shared[want.place]
            self._zones -= Counter((want.zone,))
        self._flights.discard(flight)
        flight.land(outcome)

    async def _result(self, flight: _Flight, request: Request) -> Any:
        """Let *request* wait for *flight* and return its result, or raise its error."""
        with self._room.seat(request):
            outcome = await self._outcome(flight, request)
        if isinstance(outcome, EzCaptchaError):
            raise outcome.with_traceback(None)  # many raise it; their frames are not kept
        return outcome

    async def _outcome(self, flight: _Flight, request: Request) -> Any:
        """Let *request* wait for *flight*; its outcome is a result or an EzCaptchaError."""
        if flight.outcome is not None:
            return flight.outcome
        waiter = flight.add_waiter(request.priority)
        self._waiting += 1
        self._stats.max_value("ezcaptcha/requests/waiting_max", self._waiting)
        try:
            return await maybe_deferred_to_future(waiter)
        finally:
            self._waiting -= 1

    def _look_for_closing(self) -> None:
        if self._is_closing():
            self.close()
        elif self._flights or self._room.has_turns_pending:
            self._room.look()
        else:
            self._watch.stop()
