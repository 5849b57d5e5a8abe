"""Scrapy's way in: sees challenges, hands them on, and replays what was challenged."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from scrapy import Request, signals
from scrapy.exceptions import NotConfigured
from scrapy.utils.defer import deferred_from_coro

from scrapy_ezcaptcha.broker import Broker
from scrapy_ezcaptcha.cache import keep_challenges_out
from scrapy_ezcaptcha.challenge import challenge_sign
from scrapy_ezcaptcha.clearance import Dresser
from scrapy_ezcaptcha.client import EzCaptchaClient
from scrapy_ezcaptcha.config import KEY_SOURCES, Config
from scrapy_ezcaptcha.errors import (
    ConfigurationError,
    CrawlEnding,
    ExitError,
    EzCaptchaError,
    InvalidOptions,
)
from scrapy_ezcaptcha.exit import ExitFinder
from scrapy_ezcaptcha.holdings import Holdings
from scrapy_ezcaptcha.journal import Journal, remove_empty_files
from scrapy_ezcaptcha.lru import Lru
from scrapy_ezcaptcha.note import Note, place_of, restore_filtering, take_off
from scrapy_ezcaptcha.options import META_KEY, is_allowed_domain, options_of
from scrapy_ezcaptcha.order import order_problems
from scrapy_ezcaptcha.replay import SOLVED_FLAG, Replayer, fresh_copy_of, replay_of
from scrapy_ezcaptcha.report import Report
from scrapy_ezcaptcha.signals import challenge_detected, challenge_failed, challenge_solved
from scrapy_ezcaptcha.solver import Solver
from scrapy_ezcaptcha.stores import SharedStore, StoreError, open_store
from scrapy_ezcaptcha.waiting import WaitingRoom

if TYPE_CHECKING:
    from scrapy.crawler import Crawler
    from scrapy.http import Response
    from typing_extensions import Self

    from scrapy_ezcaptcha.clearance import Clearance
    from scrapy_ezcaptcha.options import Options
    from scrapy_ezcaptcha.stores import Store

logger = logging.getLogger(__name__)

UNSOLVED_FLAG = "ezcaptcha-unsolved"
ERROR_META = "ezcaptcha_error"

# Answers that say nothing about the clearance that the request carried.
_UNDECIDED = frozenset({403, 429, 503})

_MAX_SAID = 1000


class EzCaptchaMiddleware:
    """Downloader middleware for order 585.

    A challenged request in scope waits for a solve and is then replayed with the
    clearance that came of it; later requests of the same zone by the same exit carry
    it from the start. What cannot be solved is handed on as it came, with
    ``"ezcaptcha-unsolved"`` in ``response.flags`` and the reason in
    ``response.meta["ezcaptcha_error"]``.
    """

    def __init__(self, crawler: Crawler, config: Config, store: Store | None = None) -> None:
        from twisted.internet import reactor as installed  # noqa: PLC0415  (importing it installs it)

        reactor: Any = installed
        assert crawler.stats is not None
        self._crawler = crawler
        self._config = config
        self._stats = crawler.stats
        self._client = EzCaptchaClient.from_config(config)
        self._exits = ExitFinder(crawler.settings)
        self._dresser = Dresser.from_settings(crawler.settings, impersonate=config.impersonate)
        solver = Solver(self._client, config, self._stats, reactor.seconds, self._limit_reached)
        self._store = SharedStore(
            store, reactor=reactor, stats=self._stats, lease=config.store_lease
        )
        self._room = WaitingRoom(crawler, config.max_waiting)
        self._broker = Broker(
            solver,
            Holdings(self._store),
            self._store,
            self._room,
            stats=self._stats,
            reactor=reactor,
            is_closing=self._is_closing,
        )
        self._replayer = Replayer(self._broker, self._store, self._exits, config)
        self._report = Report(self._client, self._stats, ask_balance=config.log_balance)
        self._said: Lru[str, bool] = Lru(_MAX_SAID)
        self._is_busy = False

    @classmethod
    def from_crawler(cls, crawler: Crawler) -> Self:
        """Read the settings; see ``docs/settings.md``.

        Raises:
            NotConfigured: switched off, without a key, or without a reactor.
            ConfigurationError: a setting is unusable.
        """
        config = Config.from_settings(crawler.settings)
        if not config.enabled:
            raise NotConfigured
        if not crawler.settings.getbool("TWISTED_REACTOR_ENABLED", True):
            raise NotConfigured("TWISTED_REACTOR_ENABLED is False; treq needs a Twisted reactor")
        if not config.client_key:
            raise NotConfigured(f"no EzCaptcha key; set {KEY_SOURCES}")
        for warning in (*config.warnings, *order_problems(crawler.settings, cls)):
            logger.warning(warning)
        remove_empty_files(crawler.settings)
        try:
            store = open_store(config)
        except StoreError as error:
            if not config.store_is_own:
                raise ConfigurationError([f"EZCAPTCHA_STORE cannot be opened: {error}"]) from None
            logger.warning("The store in JOBDIR cannot be opened (%s); using memory alone", error)
            store = None
        middleware = cls(crawler, config, store)
        connect = crawler.signals.connect
        connect(middleware.spider_opened, signals.spider_opened)
        connect(middleware.spider_closed, signals.spider_closed)
        return middleware

    async def process_request(self, request: Request) -> Request | None:
        """Let *request* wait while its zone and exit are being solved.

        Raises:
            InvalidOptions: ``request.meta["ezcaptcha"]`` is unusable.
        """
        if not self._is_busy and META_KEY not in request.meta:
            return None
        try:
            options = self._options(request)
        except InvalidOptions as error:
            logger.error("%s: %s", request, error, extra={"spider": self._crawler.spider})
            raise
        if options is None:
            return None
        host, zone = place_of(request)
        if not (self._store.is_shared or self._broker.knows_zone(zone)):
            return None
        try:
            own = None if options.proxy else self._exits.before_sending(request)
        except ExitError:
            return None  # said when it meets a challenge
        exit = options.proxy or own or self._config.proxy
        if exit is None:
            return None
        await self._store.freshen((zone, exit))
        try:
            await self._broker.wait_for_solve(request, zone, host, exit)
        except CrawlEnding:
            return self._replayer.put_back(request)
        if exit is own or not self._exits.can_use_proxies(request):
            return None
        if self._broker.find(zone, host, exit):
            request.meta["proxy"] = exit.url
        return None

    async def process_response(self, request: Request, response: Response) -> Request | Response:
        """Pass pages on; have challenges in scope solved and replay their requests."""
        carried = self._dresser.carried_by(request) if self._is_busy else None
        sign = challenge_sign(response)
        if sign is None:
            return self._passed(request, response, carried)
        options = self._options(request)
        if options is None:
            return response
        self._get_busy()
        self._stats.inc_value("ezcaptcha/challenges")
        await self._send(challenge_detected, request, response, sign=sign)
        if "cached" in response.flags and not request.meta.get("dont_cache"):
            return fresh_copy_of(request)
        try:
            answer = await self._replayer.answer(request, options, carried)
        except CrawlEnding as error:
            return self._replayer.put_back(request) or await self._give_up(request, response, error)
        except EzCaptchaError as error:
            return await self._give_up(request, response, error)
        await self._send(challenge_solved, request, response)
        if isinstance(answer, Request):
            self._stats.inc_value("ezcaptcha/requests/replayed")
        else:
            self._take_off_note(request)
        return answer

    def request_reached_downloader(self, request: Request) -> None:
        """Put the clearance on that serves *request*, if there is one."""
        restore_filtering(request)
        if self._room.journal is not None:
            self._room.journal.remove(request)
        host, zone = place_of(request)
        if not self._broker.knows_zone(zone) or self._options(request) is None:
            return
        try:
            exit = self._exits.after_sending(request)
        except ExitError:
            return
        clearance = self._broker.find(zone, host, exit) if exit else None
        if clearance is not None:
            self._dresser.put_on(request, clearance)
            if self._replayer.note_on(request).clearance != clearance.id:
                self._stats.inc_value("ezcaptcha/clearances/reused")

    def request_left_downloader(self, request: Request) -> None:
        """Take the clearance off again: retries and redirects start from the spider's request."""
        self._dresser.take_off(request)
        self._room.left(request)

    async def spider_opened(self) -> None:
        """Keep challenges out of the HTTP cache; send what a killed crawl left waiting."""
        keep_challenges_out(self._crawler, self._is_in_scope)
        self._room.journal = Journal.of(self._crawler)
        if self._store.is_shared:
            self._get_busy()  # others may have met challenges
        if self._room.journal is not None:
            self._get_busy()
            assert self._crawler.engine is not None
            for request in self._room.journal.left_behind():
                self._crawler.engine.crawl(replay_of(request, Note.on(request)))
            self._room.journal.clear()
        await self._report.begin()

    async def spider_closed(self) -> None:
        """Stop all polling, and say in one line what the crawl cost."""
        self._broker.close()
        await self._store.close()
        if self._room.journal is not None:
            self._room.journal.close()
        await self._report.end()
        await self._client.close()

    def _get_busy(self) -> None:
        """With the first challenge, begin to follow requests into the downloader.

        A crawl that never meets one pays nothing for it.
        """
        if not self._is_busy:
            self._is_busy = True
            connect = self._crawler.signals.connect
            connect(self.request_reached_downloader, signals.request_reached_downloader)
            connect(self.request_left_downloader, signals.request_left_downloader)

    def _options(self, request: Request) -> Options | None:
        """Return what *request* asks for; None if it is out of scope."""
        options = options_of(request, self._config)
        if options is None or META_KEY in request.meta:
            return options
        return options if is_allowed_domain(request, self._config) else None

    def _passed(self, request: Request, response: Response, carried: Clearance | None) -> Response:
        self._take_off_note(request)
        if carried is None:
            return response
        if response.status not in _UNDECIDED:
            self._broker.accepted(place_of(request)[0], carried)
        renewed = carried.renewed(request, response)
        if renewed is not carried:
            self._broker.renew(renewed)
        response.flags.append(SOLVED_FLAG)
        return response

    async def _give_up(
        self, request: Request, response: Response, error: EzCaptchaError
    ) -> Response:
        self._take_off_note(request)
        self._stats.inc_value("ezcaptcha/requests/gave_up")
        response.flags.append(UNSOLVED_FLAG)
        request.meta[ERROR_META] = str(error)
        cause = (
            error.cause if isinstance(error, ExitError) else f"{error.code} {place_of(request)[1]}"
        )
        level = logging.DEBUG if self._said.get(cause) else logging.WARNING
        self._said.put(cause, True)
        logger.log(
            level,
            "The challenge of %s stays unsolved: %s",
            request,
            error,
            extra={"spider": self._crawler.spider},
        )
        await self._send(challenge_failed, request, response, error=error)
        return response

    def _take_off_note(self, request: Request) -> None:
        if self._room.journal is not None:
            self._room.journal.remove(request)
        take_off(request)

    async def _send(
        self, signal: object, request: Request, response: Response, **others: object
    ) -> None:
        await self._crawler.signals.send_catch_log_async(
            signal, request=request, response=response, spider=self._crawler.spider, **others
        )

    def _is_in_scope(self, request: Request) -> bool:
        try:
            return self._options(request) is not None
        except InvalidOptions:  # said when it is sent
            return False

    def _is_closing(self) -> bool:
        """Whether the crawl has begun to close; Scrapy sends no signal for it."""
        engine = self._crawler.engine
        if engine is None or not engine.running:
            return True
        slot = getattr(engine, "_slot", None)
        return slot is not None and slot.closing is not None

    def _limit_reached(self) -> None:
        engine = self._crawler.engine
        if self._config.close_spider_on_limit and engine is not None:
            deferred_from_coro(engine.close_spider_async(reason="ezcaptcha_limit"))
