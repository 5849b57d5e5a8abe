"""How a challenged request goes on: replayed, answered at once, or given up."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING
from uuid import uuid4

from scrapy.http import HtmlResponse

from scrapy_ezcaptcha.challenge import page_sign
from scrapy_ezcaptcha.earner import Want
from scrapy_ezcaptcha.errors import EzCaptchaError, GivenUp
from scrapy_ezcaptcha.exit import NO_PROXY_SUPPORT, check_exit, exit_error
from scrapy_ezcaptcha.note import Note, place_of
from scrapy_ezcaptcha.options import is_allowed_domain
from scrapy_ezcaptcha.wire import CloudFlare5STask

if TYPE_CHECKING:
    from scrapy import Request
    from scrapy.http import Response

    from scrapy_ezcaptcha.broker import Broker
    from scrapy_ezcaptcha.clearance import Clearance
    from scrapy_ezcaptcha.config import Config
    from scrapy_ezcaptcha.exit import Exit, ExitFinder
    from scrapy_ezcaptcha.options import Options
    from scrapy_ezcaptcha.stores import SharedStore

#: In ``response.flags`` of what came by a clearance.
SOLVED_FLAG = "ezcaptcha"

# A request that is challenged through no fault of the solves it waited for may wait for
# so many times those it is otherwise allowed; then it is given up all the same.
_NO_FAULT_FACTOR = 5


def replay_of(request: Request, note: Note, exit: Exit | None = None) -> Request:
    """Return *request* once more, as it was: same method, body, callbacks, meta, priority.

    It leaves by *exit*, or by its own if that is None.
    """
    again = request.copy()
    replace(note, ticket=Note.on(request).ticket).put_on(again)
    again.dont_filter = True
    if exit is not None:
        again.meta["proxy"] = exit.url
    return again


def fresh_copy_of(request: Request) -> Request:
    """Return *request* once more, not to be answered from the HTTP cache."""
    again = replay_of(request, Note.on(request))
    again.meta["dont_cache"] = True
    return again


class Replayer:
    """Decides how challenged requests go on."""

    def __init__(
        self, broker: Broker, store: SharedStore, exits: ExitFinder, config: Config
    ) -> None:
        self._broker = broker
        self._exits = exits
        self._config = config
        self.run = uuid4().hex
        self._store = store
        self._store_id = config.store_id

    def put_back(self, request: Request) -> Request | None:
        """Return *request* as it goes back into the queue of an ending crawl.

        None if it came back from there: nobody keeps it for later, as with those that
        a component downloads for itself.
        """
        note = self.note_on(request)
        if note.is_put_back:
            return None
        return replay_of(request, replace(note, clearance=None, is_put_back=True))

    def note_on(self, request: Request) -> Note:
        """Return this run's note on *request*.

        What was tried in another run counts only where that had the same clearances.
        """
        note = Note.on(request)
        if note.run == self.run:
            return note
        if note.store is not None and note.store == self._store_id:
            return replace(note, run=self.run, is_put_back=False)
        return Note(
            note.zone,
            run=self.run,
            store=self._store_id,
            dont_filter=note.dont_filter,
            ticket=note.ticket,
        )

    async def answer(
        self, request: Request, options: Options, carried: Clearance | None
    ) -> Request | Response:
        """Return the replay of a challenged *request*, or its page.

        Args:
            request: challenged, although it carried *carried*.
            options: what it asks for.
            carried: the clearance it was sent with, None if it had none.

        Raises:
            CrawlEnding: the crawl began to close.
            EzCaptchaError: it cannot be solved; the text says why.
        """
        host, zone = place_of(request)
        if carried is not None:
            await self._store.look(carried.place)  # whether it was of use to others
            self._broker.rejected(host, carried)
        if not is_allowed_domain(request, self._config):
            raise GivenUp("DOMAIN_NOT_ALLOWED", f"EZCAPTCHA_ALLOWED_DOMAINS has no {host}")
        own = self._exits.after_sending(request)
        exit = check_exit(
            options.proxy or own or self._config.proxy,
            allow_private=self._config.service_on_loopback,
        )
        if not options.use_body and not self._exits.can_use_proxies(request):
            raise exit_error(NO_PROXY_SUPPORT)
        leave_by = None if exit == own else exit
        url = options.website_url or request.url.partition("#")[0]
        want = Want(request, zone, host, exit, CloudFlare5STask(url, exit.url, options.rq_data))
        limit = options.max_attempts or self._config.max_attempts
        note = self.note_on(request)
        if self._is_no_fault(host, carried):
            note = replace(note, attempts=0)
        if not options.use_body:
            await self._store.freshen(want.place)
        while True:
            held = None if options.use_body else self._broker.find(zone, host, exit)
            if held is not None and (carried is None or held.id != carried.id):
                return replay_of(request, note, leave_by)
            if note.attempts >= limit or note.solves >= limit * _NO_FAULT_FACTOR:
                raise GivenUp("MAX_ATTEMPTS", f"still challenged after {note.solves} solves")
            note = replace(note, attempts=note.attempts + 1, solves=note.solves + 1)
            try:
                if options.use_body:
                    return await self._answer_by_body(request, want, note, leave_by)
                clearance = await self._broker.clearance_for(want)
            except EzCaptchaError as error:
                if note.attempts >= limit or not error.is_worth_another_task():
                    raise
            else:
                return replay_of(request, replace(note, clearance=clearance.id), leave_by)

    def _is_no_fault(self, host: str, carried: Clearance | None) -> bool:
        """Whether a challenge is no sign against the solves that the request waited for.

        The clearance served others and then wore out before this request's turn came, or
        it was earned for another host of the zone.
        """
        if carried is None:
            return False
        return carried.origin != host or self._broker.has_served(carried)

    async def _answer_by_body(
        self, request: Request, want: Want, note: Note, leave_by: Exit | None
    ) -> Request | Response:
        solution = await self._broker.solution_for(want)
        if solution.body is None or page_sign(solution.body.encode("utf-8", "replace")):
            return replay_of(request, note, leave_by)
        return _page_of(request, solution.body)


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
