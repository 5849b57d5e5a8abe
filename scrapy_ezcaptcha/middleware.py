"""The downloader middleware: the hooks, and the only place that creates all objects."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scrapy import Request, signals

from scrapy_ezcaptcha.challenge import challenge_sign, is_of_site
from scrapy_ezcaptcha.clearances.headers import ClearanceHeaders
from scrapy_ezcaptcha.clearances.known import KnownClearances
from scrapy_ezcaptcha.crawl.closing import ClosingAtLimit
from scrapy_ezcaptcha.crawl.engine import Engine
from scrapy_ezcaptcha.crawl.exits import PoolExits
from scrapy_ezcaptcha.crawl.httpcache import keep_challenges_out
from scrapy_ezcaptcha.crawl.journal import Journal, remove_empty_files
from scrapy_ezcaptcha.crawl.memo import Memo, has_memo, location_of, restore_filtering, take_off
from scrapy_ezcaptcha.crawl.pins import Pins
from scrapy_ezcaptcha.crawl.put_off import PutOffRequests
from scrapy_ezcaptcha.crawl.start import checked_config, log_of
from scrapy_ezcaptcha.crawl.target import META_KEY, Targets
from scrapy_ezcaptcha.crawl.waiting import WaitingRequests
from scrapy_ezcaptcha.errors import (
    CrawlEnding,
    ExitBenched,
    ExitError,
    EzCaptchaError,
    InvalidOptions,
    TooManyWaiting,
)
from scrapy_ezcaptcha.report import Account
from scrapy_ezcaptcha.service.client import EzCaptchaClient
from scrapy_ezcaptcha.signals import challenge_detected, challenge_solved, send
from scrapy_ezcaptcha.solving.broker import Broker
from scrapy_ezcaptcha.solving.giving_up import ERROR_META, GivingUp
from scrapy_ezcaptcha.solving.ledger import Ledger
from scrapy_ezcaptcha.solving.pages import BoughtPages
from scrapy_ezcaptcha.solving.replay import SOLVED_FLAG, Replayer, replay_of, replay_past_cache
from scrapy_ezcaptcha.solving.solver import Solver
from scrapy_ezcaptcha.solving.warnings import SiteWarnings
from scrapy_ezcaptcha.stores import store_for_crawl
from scrapy_ezcaptcha.stores.sharing import Sharing

if TYPE_CHECKING:
    from scrapy.crawler import Crawler
    from scrapy.http import Response
    from typing_extensions import Self

    from scrapy_ezcaptcha.clearances.headers import Carried
    from scrapy_ezcaptcha.config import Config
    from scrapy_ezcaptcha.crawl.target import Options, Target
    from scrapy_ezcaptcha.stores import Store


class EzCaptchaMiddleware:
    """Downloader middleware for order 585.

    A challenged request in scope waits for a solve, and is then sent again with the clearance.
    Later requests to the same zone through the same exit carry it from the start. If a challenge
    cannot be solved, the spider gets it unchanged, with ``"ezcaptcha-unsolved"`` in
    ``response.flags``, and the reason in ``response.meta["ezcaptcha_error"]``.
    """

    _broker: Broker
    _sharing: Sharing

    def __init__(self, crawler: Crawler, config: Config, store: Store | None = None) -> None:
        from twisted.internet import reactor as installed  # noqa: PLC0415  (importing it installs it)

        reactor: Any = installed
        assert crawler.stats is not None
        self._crawler = crawler
        self._config = config
        self._stats = crawler.stats
        self._log = log = log_of(crawler)
        self._client = EzCaptchaClient.from_config(config)
        self._engine = Engine(crawler, log)
        self._targets = Targets(config, crawler.settings)
        self._headers = ClearanceHeaders.from_settings(
            crawler.settings, log, impersonate=config.impersonate
        )
        self._closing = ClosingAtLimit(
            config, self._engine, lambda: self._broker.is_busy or self._headers.in_flight > 0
        )
        self._account = account = Account(self._client, log, is_on=config.log_balance)
        self._ledger = ledger = Ledger.from_config(config, self._stats, log, account.known_price)
        clock, reached = reactor.seconds, self._closing.reached
        self._known = known = KnownClearances(
            keeps_changes=store is not None, on_rejected=ledger.rejected
        )
        later = (lambda: self._sharing, lambda: self._broker)
        pool = (config, self._targets, known, *later)
        self._exits = exits = PoolExits.of(*pool, stats=self._stats, log=log, clock=clock)
        on_useless = exits.useless if exits else None
        self._solver = Solver(account, config, ledger, log, clock, reached, on_useless)
        self._sharing = sharing = Sharing(
            known,
            store,
            reactor=reactor,
            stats=self._stats,
            log=log,
            lease_seconds=config.store_lease,
            on_useless=self._solver.useless,
            on_benched=exits.benched_elsewhere if exits else None,
        )
        self._journal = Journal.of(crawler, log)
        put_off = PutOffRequests(self._engine, self._stats, log)
        self._waiting = WaitingRequests(self._engine, config.max_waiting, put_off, self._journal)
        self._pages = BoughtPages()
        warnings = SiteWarnings(config, crawler.settings, log, account.known_price)
        parts = (self._solver, known, sharing, self._waiting, self._pages, warnings)
        self._broker = Broker(
            *parts, self._engine.is_closing, stats=self._stats, log=log, reactor=reactor
        )
        self._pins = pins = Pins(known, self._targets.proxies, self._stats, log)
        self._replayer = Replayer(
            self._broker, known, sharing, self._pages, warnings, pins, config, exits
        )
        self._giving_up = GivingUp(crawler, self._waiting, ledger, log)
        self._follows_requests = False

    @classmethod
    def from_crawler(cls, crawler: Crawler) -> Self:
        """Read the settings; see ``docs/reference/settings.md``.

        Raises NotConfigured if it is disabled, or if there is no key or no reactor, and
        ConfigurationError if a setting is unusable.
        """
        config, log = checked_config(crawler, cls), log_of(crawler)
        remove_empty_files(crawler.settings, log)
        middleware = cls(crawler, config, store_for_crawl(config, log))
        connect = crawler.signals.connect
        connect(middleware.spider_opened, signals.spider_opened)
        connect(middleware.spider_closed, signals.spider_closed)
        return middleware

    async def process_request(self, request: Request) -> Request | None:
        """Let *request* wait while a solve for its zone and exit is in progress.

        Raises InvalidOptions if ``request.meta["ezcaptcha"]`` is unusable.
        """
        is_last = has_memo(request) and self._waiting.put_off.take_back(request)
        if self._exits is not None:
            await self._exits.assign(request)
        if not self._follows_requests and META_KEY not in request.meta:
            return None
        self._pins.before_middlewares(request)
        target = self._target_before_sending(request)
        if target is None:
            return None
        await self._sharing.refresh(target.place)
        try:
            await self._broker.wait_for_solve(target, is_last=is_last)
            self._replayer.check_exit(target)
        except TooManyWaiting:
            if not has_memo(request):
                self._closing.sent_again()
            return self._replayer.put_off(target)
        except CrawlEnding:
            return self._replayer.put_back(request)
        except ExitBenched:
            return await self.process_request(request)  # by another exit
        other, proxies = target.other_exit, self._targets.proxies
        if other and proxies.can_use_proxies(request) and self._known.find(target.location, other):
            request.meta["proxy"] = other.url
        return None

    async def process_response(self, request: Request, response: Response) -> Request | Response:
        """Pass pages on; have challenges in scope solved, and send their requests again."""
        carried = self._headers.forget(request)
        self._closing.came_back(request)
        if again := self._replayer.after_failure(request, response):
            self._closing.sent_again()
            return again
        if sign := challenge_sign(response):
            answer = await self._answer(request, response, sign, carried)
        else:
            answer = self._passed(request, response, carried is not None)
        self._closing.close_if_served()
        return answer

    def process_exception(self, request: Request, exception: Exception) -> Request | None:
        """Note that *request* failed; if its exit failed, send it through the next exit."""
        self._headers.forget(request)
        self._waiting.ended(request)
        self._closing.came_back(request)
        if again := self._replayer.after_failure(request, exception):
            self._closing.sent_again()
            return again
        self._closing.close_if_served()
        return None

    async def _answer(
        self, request: Request, response: Response, sign: str, carried: Carried | None
    ) -> Request | Response:
        options = self._targets.options(request)
        if options is None:
            return response
        self._follow_requests()
        self._known.note_challenge(location_of(request))
        self._ledger.challenged(location_of(request).zone)
        self._log.debug("%s is a challenge, detected by its %s", response, sign)
        await send(self._crawler, challenge_detected, request=request, response=response, sign=sign)
        if "cached" in response.flags and not request.meta.get("dont_cache"):
            return replay_past_cache(request)
        try:
            target = self._targets.after_sending(request, options)
            self._targets.check(target)
            answer = await self._replayer.answer(target, carried)
            if isinstance(answer, Request):
                self._closing.sent_again()
        except TooManyWaiting:
            self._closing.sent_again()
            return self._replayer.put_off(target, was_sent=True)
        except ExitBenched as error:
            self._closing.sent_again()
            again = self._replayer.by_next_exit(request)
            return again or await self._giving_up.hand_on(request, response, error)
        except CrawlEnding as error:
            return self._replayer.put_back(request) or await self._giving_up.hand_on(
                request, response, error
            )
        except EzCaptchaError as error:
            return await self._giving_up.hand_on(request, response, error)
        await send(self._crawler, challenge_solved, request=request, response=response)
        if isinstance(answer, Request):
            self._stats.inc_value("ezcaptcha/requests/replayed")
        else:
            self._ledger.answered(request)
            self._waiting.ended(request)
            take_off(request)
        return answer

    def request_is_sent(self, request: Request) -> None:
        """Note that *request* no longer waits, and put the clearance on it that it needs."""
        is_remembered = has_memo(request)
        if is_remembered:
            restore_filtering(request)
            self._waiting.ended(request)
        location = location_of(request)
        if not self._known.has_zone(location.zone) or self._targets.options(request) is None:
            return
        exit = self._pins.exit_when_sent(request)
        if exit and (clearance := self._known.find(location, exit)):
            self._headers.put_on(request, clearance, location, self._known.next_number())
            if not is_remembered or self._replayer.memo_on(request).clearance != clearance.id:
                self._stats.inc_value("ezcaptcha/clearances/reused")

    def response_downloaded(self, request: Request, response: Response) -> None:
        """Learn from a response, even if another middleware keeps it, such as a redirect."""
        is_remembered = has_memo(request)
        if is_remembered:
            self._pins.downloaded(request, response)
        if (carried := self._headers.carried_by(request)) is None:
            return
        clearance = carried.clearance
        if fresh := clearance.fresh_cookies(request, response):
            self._known.renew(clearance, fresh)
            self._sharing.write_soon()  # the site may refuse the older cookies
        if not is_of_site(response):
            return
        self._broker.accepted(carried.location, clearance, carried.number)
        self._ledger.served(clearance)
        if is_remembered and (seen := Memo.on(request).seen) and seen.clearance == clearance.id:
            self._stats.inc_value("ezcaptcha/challenges/stray")

    def request_left_downloader(self, request: Request) -> None:
        """Take the clearance off, so that retries and redirects start from the spider's request."""
        self._headers.take_off(request)
        self._waiting.left_downloader(request)

    async def spider_opened(self) -> None:
        """Keep challenges out of the HTTP cache, and send requests that a killed crawl left."""
        keep_challenges_out(self._crawler, self._targets.is_in_scope)
        if self._sharing.is_on or self._journal is not None:
            self._follow_requests()  # other processes or runs may have been challenged
        if self._journal is not None and self._crawler.engine is not None:
            for request in self._journal.left_behind():
                self._crawler.engine.crawl(replay_of(request, Memo.on(request)))
            self._journal.clear()

    async def spider_closed(self) -> None:
        """Stop all polling, and log what the crawl cost."""
        self._broker.close()
        await self._solver.close(waits=self._sharing.is_on or bool(self._config.ledger))
        await self._sharing.close()
        self._ledger.close()
        if self._journal is not None:
            self._journal.close()
        await self._account.log_sums(self._stats, self._broker.flights.seconds_waited)
        await self._client.close()

    def _target_before_sending(self, request: Request) -> Target | None:
        """Return the target of *request*; None if it does not have to wait."""
        try:
            options = self._targets.options(request)
        except InvalidOptions as error:
            self._log.error("%s: %s", request, error)
            raise
        if options is None or not self._may_concern(request, options):
            return None
        try:
            target = self._targets.before_sending(request, options)
        except ExitError:
            return None  # logged when it is challenged
        return None if target.exit is None else target

    def _may_concern(self, request: Request, options: Options) -> bool:
        """Whether *request* may have to wait, or to leave through another exit."""
        if self._sharing.is_on or self._exits is not None or self._broker.may_hold(request):
            return True
        may_replace = self._targets.may_replace_exit(options)
        return may_replace and self._known.has_zone(location_of(request).zone)

    def _follow_requests(self) -> None:
        """From the first challenge on, follow requests into the downloader.

        So a crawl without challenges has no cost.
        """
        if not self._follows_requests:
            self._follows_requests = True
            self._engine.follow_downloads(
                self.request_is_sent, self.response_downloaded, self.request_left_downloader
            )

    def _passed(self, request: Request, response: Response, has_carried: bool) -> Response:
        if has_memo(request):
            if page := Memo.on(request).page:
                self._pages.take(page, request)
            self._waiting.ended(request)
            take_off(request)  # it needs no further solve
        request.meta.pop(ERROR_META, None)  # from a copy of it that was given up
        if has_carried:
            response.flags.append(SOLVED_FLAG)
        return response
