"""What happens to a challenged request: it is sent again, answered at once, or given up."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING
from uuid import uuid4

from scrapy.http import HtmlResponse, Response

from scrapy_ezcaptcha.challenge import page_sign
from scrapy_ezcaptcha.crawl.memo import Memo
from scrapy_ezcaptcha.errors import ExitBenched, EzCaptchaError, GivenUp, PutBack
from scrapy_ezcaptcha.words import counted

if TYPE_CHECKING:
    from scrapy import Request

    from scrapy_ezcaptcha.clearances.clearance import Clearance
    from scrapy_ezcaptcha.clearances.headers import Carried
    from scrapy_ezcaptcha.clearances.known import KnownClearances
    from scrapy_ezcaptcha.config import Config
    from scrapy_ezcaptcha.crawl.exits import PoolExits
    from scrapy_ezcaptcha.crawl.pins import Pins
    from scrapy_ezcaptcha.crawl.target import Target
    from scrapy_ezcaptcha.exit import Exit
    from scrapy_ezcaptcha.solving.broker import Broker
    from scrapy_ezcaptcha.solving.pages import BoughtPages
    from scrapy_ezcaptcha.solving.warnings import SiteWarnings
    from scrapy_ezcaptcha.stores.sharing import Sharing

#: In ``response.flags`` of responses to requests that carried a clearance.
SOLVED_FLAG = "ezcaptcha"

#: Also in ``response.flags`` if the response is the page of a solution.
BODY_FLAG = "ezcaptcha-body"

# How often a request is sent again without another solve.
_MAX_RESENT = 20

# How often a request is sent through another exit of the pool.
_MAX_MOVED = 2

# If its solves are not the reason for its challenges, a request may wait for this many times more.
_NO_FAULT_FACTOR = 5


def replay_of(request: Request, memo: Memo, exit: Exit | None = None) -> Request:
    """Return a copy of *request*: same method, body, callbacks, meta, priority.

    It is sent through *exit*, or through its own exit if that is None.
    """
    again = request.copy()
    replace(memo, ticket=Memo.on(request).ticket).put_on(again)
    again.dont_filter = True
    if exit is not None:
        again.meta["proxy"] = exit.url
    return again


def replay_past_cache(request: Request) -> Request:
    """Return a copy of *request* that the HTTP cache does not answer."""
    again = replay_of(request, Memo.on(request))
    again.meta["dont_cache"] = True
    return again


@dataclass(eq=False)
class Replayer:
    """Decides what happens to challenged requests."""

    broker: Broker
    known: KnownClearances
    sharing: Sharing
    pages: BoughtPages
    warnings: SiteWarnings
    pins: Pins
    config: Config
    exits: PoolExits | None = None

    def __post_init__(self) -> None:
        self.run = uuid4().hex
        self._store_id = self.config.store_id

    def put_off(self, target: Target, *, was_sent: bool = False) -> Request:
        """Return a copy of the request of *target* for the queue, which sends it last.

        *was_sent* is True if it has just been challenged.
        """
        memo = self.memo_on(target.request)
        memo = replace(memo, clearance=None, pin=None, put_off=memo.put_off + was_sent)
        again = replay_of(target.request, memo)
        self.broker.requests.send_back(again, target.place)
        return again

    def put_back(self, request: Request) -> Request | None:
        """Return a copy of *request* for the queue of an ending crawl.

        None if it has come back from there, because nothing keeps it for later. This happens to
        requests that a component downloads for itself.
        """
        memo = self.memo_on(request)
        if memo.is_put_back:
            return None
        return replay_of(request, replace(memo, clearance=None, pin=None, is_put_back=True))

    def by_next_exit(self, request: Request, memo: Memo | None = None) -> Request | None:
        """Return a copy of *request* for another exit of the pool; None if it had too many."""
        memo = memo or self.memo_on(request)
        if self.exits is None or memo.moved >= _MAX_MOVED:
            return None
        memo = replace(memo, clearance=None, seen=None, pin=None, moved=memo.moved + 1)
        return replay_of(request, memo)

    def after_failure(self, request: Request, outcome: Response | Exception) -> Request | None:
        """Return a copy of *request* for another exit; None if its exit has not failed."""
        if self.exits is None or not self.exits.has_failed(request, outcome):
            return None
        return self.by_next_exit(request)

    def check_exit(self, target: Target, error: EzCaptchaError | None = None) -> None:
        """Raise ExitBenched if the exit of *target* is benched, and it can use another one.

        *error* is the error of its solve. Raises NoExitLeft if all exits are benched.
        """
        if self.exits is None:
            return
        if error is not None and error.is_about_proxy():
            self.exits.solve_failed(target.place[1], str(error))
        if self.exits.can_leave(target):
            raise ExitBenched

    def memo_on(self, request: Request) -> Memo:
        """Return this run's memo of *request*.

        Attempts in another run count only if that run had the same clearances.
        """
        memo = Memo.on(request)
        if memo.run == self.run:
            return memo
        if memo.store is not None and memo.store == self._store_id:
            return replace(memo, run=self.run, is_put_back=False, seen=None, page=None, pin=None)
        return Memo(
            memo.zone,
            run=self.run,
            store=self._store_id,
            dont_filter=memo.dont_filter,
            ticket=memo.ticket,
        )

    async def answer(self, target: Target, sent: Carried | None) -> Request | Response:
        """Return the replay of a challenged request, or the page of its solution.

        *sent* is what it carried. The service must be able to use the exit of *target*. Raises
        PutBack if the request must go back into the queue, and another EzCaptchaError, with the
        reason, if the challenge cannot be solved.
        """
        request, options, place = target.request, target.options, target.place
        memo, carried = self.memo_on(request), None
        if sent is None:
            memo = self._without(target, memo)
        else:
            carried = sent.clearance
            await self.sharing.refresh(carried.place, is_urgent=True)
            fails = self.known.fails(target.location, carried)
            seen = self.broker.challenged(target.location, carried, sent.number, memo.seen)
            is_over = seen is None or carried.id != memo.page
            if is_over and memo.page and (page := self._paid_page(target, memo.page)):
                if not self.known.has_served(carried):
                    self.warnings.useless(carried)
                return page
            if seen is not None and not options.use_body and memo.resent < _MAX_RESENT:
                memo = replace(memo, seen=seen, resent=memo.resent + 1)
                return self._again(target, memo, carried)
            if not fails and not options.use_body:  # it was bought for others, or has worked
                memo = replace(memo, attempts=0)
        if options.use_body:
            return await self._by_body(target, memo)
        await self.sharing.refresh(place)
        while True:
            known = self.known.find(target.location, place[1])
            if known is not None and known != carried and memo.resent < _MAX_RESENT:
                is_new = known.id == memo.clearance and (not carried or carried.id != known.id)
                memo = replace(memo, seen=None, resent=memo.resent + (not is_new))
                return self._again(target, memo, known)
            if memo.page and (page := self._paid_page(target, memo.page)):
                return page
            try:
                self.check_exit(target)
                further = await self._with_further_solve(target, memo)
            except ExitBenched:
                return self._moved(target, memo)
            if isinstance(further, Response):
                return further
            memo = further

    def _without(self, target: Target, memo: Memo) -> Memo:
        """Return the memo of a request that was challenged without a clearance."""
        if self.known.has_run_out(memo.clearance):  # before the request was sent
            return replace(memo, attempts=0)
        if self.pins.left_by_another(target, memo):
            return replace(memo, clearance=None, attempts=max(0, memo.attempts - 1))
        return memo

    def _again(self, target: Target, memo: Memo, clearance: Clearance) -> Request:
        """Return the replay of *target*, through the exit of *clearance*."""
        memo = replace(memo, pin=self.pins.pin_for(target, clearance))
        return replay_of(target.request, memo, target.other_exit)

    def _moved(self, target: Target, memo: Memo) -> Request:
        again = self.by_next_exit(target.request, memo)
        if again is None:
            raise GivenUp("PROXIES_FAILED", "the proxies that it was sent through failed")
        return again

    async def _with_further_solve(self, target: Target, memo: Memo) -> Memo | Response:
        """Wait for a new clearance, and return the memo; or raise if there is none.

        If the solution has a page but no clearance, return the page.
        """
        limit = target.options.max_attempts or self.config.max_attempts
        if memo.attempts >= limit or memo.solves >= limit * _NO_FAULT_FACTOR:
            self._remember(target.request, memo)
            raise _too_many(memo)
        if self.exits is not None:
            self.exits.check_zone(target)
        tried = replace(memo, attempts=memo.attempts + 1, solves=memo.solves + 1, resent=0)
        try:
            clearance = await self.broker.clearance_for(target)
        except PutBack:
            raise
        except EzCaptchaError as error:
            self.check_exit(target, error)
            task_id = error.task_id or ""
            is_buyer = self.pages.has_one_for(target, task_id)
            if is_buyer and (page := self._paid_page(target, task_id)):
                return page
            if tried.attempts >= limit or not error.is_worth_another_task():
                is_refused = isinstance(error, GivenUp)  # nothing was attempted
                self._remember(target.request, memo if is_refused else tried)
                raise
            return tried
        if clearance.origin != target.host:  # bought for another host of the zone
            tried = replace(tried, attempts=memo.attempts)
        is_buyer = self.pages.has_one_for(target, clearance.id)
        return replace(tried, clearance=clearance.id, page=clearance.id if is_buyer else None)

    def _remember(self, request: Request, memo: Memo) -> None:
        """Put *memo* on a request that is given up, for its copies, such as RetryMiddleware's."""
        ticket = Memo.on(request).ticket
        kept = replace(memo, seen=None, page=None, pin=None, given_up=request.url)
        replace(kept, ticket=ticket).put_on(request)

    async def _by_body(self, target: Target, memo: Memo) -> Request | Response:
        """Have the page of *target* solved, and return it."""
        limit = target.options.max_attempts or self.config.max_attempts
        while True:
            if memo.attempts >= limit or memo.solves >= limit * _NO_FAULT_FACTOR:
                self._remember(target.request, memo)
                raise _too_many(memo)
            memo = replace(memo, attempts=memo.attempts + 1, solves=memo.solves + 1)
            try:
                self.check_exit(target)
                solution = await self.broker.solution_for(target)
            except ExitBenched:
                return self._moved(target, memo)
            except PutBack:
                raise
            except EzCaptchaError as error:
                self.check_exit(target, error)
                if memo.attempts >= limit or not error.is_worth_another_task():
                    self._remember(target.request, memo)
                    raise
                continue
            page = _page_of(target.request, solution.body)
            return page or replay_of(target.request, memo, target.other_exit)

    def _paid_page(self, target: Target, task_id: str) -> Response | None:
        """Return the page of the task if it was created for this request, else None.

        None too if the solution cannot have the requested page (another URL, or a POST request).
        """
        request = target.request
        is_plain = request.method == "GET" and not request.body and not target.options.website_url
        if not is_plain or self.config.use_body == "never":
            return None
        return _page_of(request, self.pages.take(task_id, request))


def _too_many(memo: Memo) -> GivenUp:
    solves = counted(memo.solves, "solve")
    return GivenUp("MAX_ATTEMPTS", f"still challenged after {solves}")


def _page_of(request: Request, body: str | None) -> HtmlResponse | None:
    """Return *body* as the response to *request*; None if it is empty or a challenge."""
    encoded = (body or "").encode("utf-8", "replace")
    if not encoded or page_sign(encoded):
        return None
    return HtmlResponse(
        request.url,
        status=200,
        headers={"Content-Type": "text/html; charset=utf-8"},
        body=encoded,
        encoding="utf-8",
        flags=[SOLVED_FLAG, BODY_FLAG],
        request=request,
    )
