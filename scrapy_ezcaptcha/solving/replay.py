"""What happens to a challenged request: it is sent again, answered at once, or given up."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING
from uuid import uuid4

from scrapy.http import HtmlResponse

from scrapy_ezcaptcha.challenge import page_sign
from scrapy_ezcaptcha.crawl.memo import Memo
from scrapy_ezcaptcha.errors import EzCaptchaError, GivenUp

if TYPE_CHECKING:
    from scrapy import Request
    from scrapy.http import Response

    from scrapy_ezcaptcha.clearances.clearance import Clearance
    from scrapy_ezcaptcha.clearances.known import KnownClearances
    from scrapy_ezcaptcha.config import Config
    from scrapy_ezcaptcha.crawl.target import Target
    from scrapy_ezcaptcha.exit import Exit
    from scrapy_ezcaptcha.solving.broker import Broker
    from scrapy_ezcaptcha.stores.sharing import Sharing

#: In ``response.flags`` of responses to requests that carried a clearance.
SOLVED_FLAG = "ezcaptcha"

# A request that is challenged through no fault of its solves may wait for so many times more.
_NO_FAULT_FACTOR = 5


def replay_of(request: Request, memo: Memo, exit: Exit | None = None) -> Request:
    """Return *request* once more, as it was: same method, body, callbacks, meta, priority.

    It leaves through *exit*, or through its own if that is None.
    """
    again = request.copy()
    replace(memo, ticket=Memo.on(request).ticket).put_on(again)
    again.dont_filter = True
    if exit is not None:
        again.meta["proxy"] = exit.url
    return again


@dataclass(eq=False)
class Replayer:
    """Decides what happens to challenged requests."""

    broker: Broker
    known: KnownClearances
    sharing: Sharing
    config: Config

    def __post_init__(self) -> None:
        self.run = uuid4().hex
        self._store_id = self.config.store_id

    def put_back(self, request: Request) -> Request | None:
        """Return *request* as it goes back into the queue of an ending crawl.

        None if it came back from there: nobody keeps it for later. That happens to requests
        that a component downloads for itself.
        """
        memo = self.memo_on(request)
        if memo.is_put_back:
            return None
        return replay_of(request, replace(memo, clearance=None, is_put_back=True))

    def memo_on(self, request: Request) -> Memo:
        """Return this run's memo on *request*.

        What was tried in another run counts only if that run had the same clearances.
        """
        memo = Memo.on(request)
        if memo.run == self.run:
            return memo
        if memo.store is not None and memo.store == self._store_id:
            return replace(memo, run=self.run, is_put_back=False)
        return Memo(
            memo.zone,
            run=self.run,
            store=self._store_id,
            dont_filter=memo.dont_filter,
            ticket=memo.ticket,
        )

    async def answer(self, target: Target, carried: Clearance | None) -> Request | Response:
        """Return the replay of a request that was challenged although it *carried* a clearance.

        Or return its page. The exit of *target* is one that the service can use. Raises
        CrawlEnding if the crawl began to close, another EzCaptchaError, which says why, if the
        challenge cannot be solved.
        """
        request, options = target.request, target.options
        zone, exit = target.place
        limit = options.max_attempts or self.config.max_attempts
        memo = self.memo_on(request)
        if self._is_no_fault(target.host, carried):
            memo = replace(memo, attempts=0)
        if not options.use_body:
            await self.sharing.refresh(target.place)
        while True:
            known = None if options.use_body else self.known.find(zone, target.host, exit)
            if known is not None and (carried is None or known.id != carried.id):
                return replay_of(request, memo, target.other_exit)
            if memo.attempts >= limit or memo.solves >= limit * _NO_FAULT_FACTOR:
                raise GivenUp("MAX_ATTEMPTS", f"still challenged after {memo.solves} solves")
            memo = replace(memo, attempts=memo.attempts + 1, solves=memo.solves + 1)
            try:
                if options.use_body:
                    return await self._answer_by_body(target, memo)
                clearance = await self.broker.clearance_for(target)
            except EzCaptchaError as error:
                if memo.attempts >= limit or not error.is_worth_another_task():
                    raise
            else:
                return replay_of(request, replace(memo, clearance=clearance.id), target.other_exit)

    def _is_no_fault(self, host: str, carried: Clearance | None) -> bool:
        """Whether a challenge says nothing against the solves that the request waited for.

        Either the clearance served other requests and expired before this request's turn came,
        or it was bought for another host of the zone.
        """
        if carried is None:
            return False
        return carried.origin != host or self.known.has_served(carried)

    async def _answer_by_body(self, target: Target, memo: Memo) -> Request | Response:
        solution = await self.broker.solution_for(target)
        if solution.body is None or page_sign(solution.body.encode("utf-8", "replace")):
            return replay_of(target.request, memo, target.other_exit)
        return _page_of(target.request, solution.body)


def _page_of(request: Request, body: str) -> HtmlResponse:
    return HtmlResponse(
        request.url,
        status=200,
        headers={"Content-Type": "text/html; charset=utf-8"},
        body=body.encode("utf-8", "replace"),
        encoding="utf-8",
        flags=[SOLVED_FLAG],
        request=request,
    )
