"""A client of the service on treq: single calls and whole solves.

Await its coroutines as in Scrapy: in asyncio code under the asyncio reactor, in any coroutine
under another reactor.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from scrapy.utils.defer import maybe_deferred_to_future
from twisted.internet.task import deferLater

from scrapy_ezcaptcha.errors import ApiError, SolveTimeout, TransportError, UnexpectedResponse
from scrapy_ezcaptcha.exit import Exit, check_exit, is_loopback
from scrapy_ezcaptcha.lru import Lru
from scrapy_ezcaptcha.service.transport import Transport
from scrapy_ezcaptcha.service.wire import (
    CloudFlare5STask,
    create_task_payload,
    parse_balance,
    parse_task_id,
    parse_task_result,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from typing_extensions import Self

    from scrapy_ezcaptcha.config import Config
    from scrapy_ezcaptcha.service.wire import Solution

#: How often ``createTask`` is tried if no connection can be made.
CREATE_TRIES = 4

#: After this many unknown errors in a row, a task counts as failed.
UNKNOWN_ERROR_LIMIT = 3

_MAX_TASKS = 10_000

#: If a task is ready without a solution this often in a row, it counts as failed.
EMPTY_LIMIT = 2

_MAX_THROTTLED_SECONDS = 30.0


class EzCaptchaClient:
    """A client of the EzCaptcha service.

    Args:
        client_key: the account's key.
        app_id: the service's optional developer id.
        api_url: without a trailing slash.
        poll_interval: seconds between two polls of one task.
        solve_timeout: seconds from a task's creation until it is given up.
        http_timeout: seconds for one call, including connecting and reading.
        reactor: the reactor for time and sockets; by default, the installed reactor.
    """

    def __init__(
        self,
        client_key: str,
        *,
        app_id: int | None = None,
        api_url: str = "https://api.ez-captcha.com",
        poll_interval: float = 3.0,
        solve_timeout: float = 150.0,
        http_timeout: float = 30.0,
        reactor: Any = None,
    ) -> None:
        if reactor is None:
            from twisted.internet import reactor  # noqa: PLC0415  (importing it installs it)
        self._reactor = reactor
        self._client_key = client_key
        self._app_id = app_id
        self._api_url = api_url.rstrip("/")
        self._allow_private = is_loopback(urlsplit(api_url).hostname or "")
        self._poll_interval = poll_interval
        self._solve_timeout = solve_timeout
        self._secrets: Lru[str, tuple[str, ...]] = Lru(_MAX_TASKS)  # the proxy's secrets by task
        self._transport = Transport(self._api_url, client_key, http_timeout, reactor)

    @classmethod
    def from_config(cls, config: Config) -> Self:
        """Return the client for the settings of a crawl."""
        return cls(
            config.client_key,
            app_id=config.app_id,
            api_url=config.api_url,
            poll_interval=config.poll_interval,
            solve_timeout=config.solve_timeout,
            http_timeout=config.http_timeout,
        )

    def __repr__(self) -> str:
        return f"{type(self).__name__}(api_url={self._api_url!r})"

    async def create_task(self, task: CloudFlare5STask) -> str:
        """Create *task* and return its id. The task is then paid for.

        Raises:
            ExitError: the service cannot use the task's proxy; nothing was sent.
            ApiError: the service refused the call.
            TransportError: no answer; its ``sent`` tells whether the task may exist.
            UnexpectedResponse: an undocumented answer; the task may exist.
        """
        exit = check_exit(Exit.parse(task.proxy), allow_private=self._allow_private)
        payload = create_task_payload(self._client_key, task, self._app_id)
        status, body = await self._transport.call("createTask", payload)
        task_id = parse_task_id(body, status=status, hide=(self._client_key, *exit.secrets))
        self._secrets.put(task_id, exit.secrets)
        return task_id

    async def get_task_result(self, task_id: str) -> Solution | None:
        """Return the solution of a task, or None if it is not ready; asks only once.

        Raises:
            ApiError: the task or the call failed.
            TransportError: no answer.
            UnexpectedResponse: an undocumented answer.
        """
        payload = {"clientKey": self._client_key, "taskId": task_id}
        status, body = await self._transport.call("getTaskResult", payload)
        hide = (self._client_key, *(self._secrets.get(task_id) or ()))
        return parse_task_result(body, status=status, task_id=task_id, hide=hide)

    async def get_balance(self) -> float:
        """Return the account's balance in points; 10,000 points are 1 USD.

        Raises:
            ApiError: the service refused the call.
            TransportError: no answer.
            UnexpectedResponse: an undocumented answer.
        """
        status, body = await self._transport.call("getBalance", {"clientKey": self._client_key})
        return parse_balance(body, status=status, hide=(self._client_key,))

    async def solve(
        self, task: CloudFlare5STask, *, on_created: Callable[[str], None] | None = None
    ) -> Solution:
        """Create *task* once, and poll it until it is ready, has failed, or its time is up.

        ``createTask`` is sent again only if it certainly created nothing: the connection or the TLS
        handshake failed, or the service throttles calls. Throttling is waited out for at most
        ``solve_timeout``. A poll that fails temporarily is sent again until the time is up.
        *on_created* is called with the id of the task as soon as it is paid for.

        Raises:
            ExitError: the service cannot use the task's proxy; nothing was sent.
            ApiError: the task was refused, or it failed and the error has its ``task_id``.
            SolveTimeout: no result within ``solve_timeout``.
            TransportError: the task could not be created.
            UnexpectedResponse: an undocumented answer to the creation.
        """
        task_id = await self._create_until_known(task)
        if on_created is not None:
            on_created(task_id)
        return await self.wait_for_solution(task_id)

    async def create_for(
        self,
        url: str,
        exit: Exit,
        rq_data: Mapping[str, Any] | None = None,
        *,
        on_throttled: Callable[[], None] = lambda: None,
    ) -> str:
        """Create a task for the challenge of *url* through *exit*, and return its id.

        This works as in :meth:`solve`. *on_throttled* is called whenever the service refuses the
        call because of its rate.
        """
        task = CloudFlare5STask(url, exit.url, rq_data)
        return await self._create_until_known(task, on_throttled)

    async def wait_for_solution(self, task_id: str, exit: Exit | None = None) -> Solution:
        """Poll an existing task until it is ready, has failed, or its time is up.

        *exit* is the task's proxy, whose password is kept out of errors. It is not needed for tasks
        that this client created.

        Raises:
            ApiError: the task failed, or the service no longer knows it.
            SolveTimeout: no result within ``solve_timeout`` from now.
        """
        if exit is not None:
            self._secrets.put(task_id, exit.secrets)
        deadline = self._reactor.seconds() + self._solve_timeout
        pause, unknown_errors, empty = self._poll_interval, 0, 0
        while True:
            left = deadline - self._reactor.seconds()
            if left <= 0:
                raise SolveTimeout(self._solve_timeout, task_id=task_id)
            await self._sleep(min(pause, left))
            try:
                solution = await self.get_task_result(task_id)
            except TransportError:
                continue
            except UnexpectedResponse as error:
                empty = empty + 1 if error.is_ready else 0
                if empty == EMPTY_LIMIT:
                    raise
                continue
            except ApiError as error:
                if error.is_terminal() or (error.is_over and not error.is_throttled()):
                    raise
                if error.is_throttled():
                    pause = min(pause * 2, max(_MAX_THROTTLED_SECONDS, self._poll_interval))
                elif not error.is_outage():
                    unknown_errors += 1
                    if unknown_errors >= UNKNOWN_ERROR_LIMIT:
                        raise
                continue
            if solution is not None:
                return solution
            pause, unknown_errors, empty = self._poll_interval, 0, 0

    async def close(self) -> None:
        """Close the idle connections to the service."""
        await self._transport.close()

    async def _create_until_known(
        self, task: CloudFlare5STask, on_throttled: Callable[[], None] = lambda: None
    ) -> str:
        deadline = self._reactor.seconds() + self._solve_timeout
        pause, unsent = self._poll_interval, 0
        while True:
            try:
                return await self.create_task(task)
            except TransportError as error:
                unsent += 1
                if error.sent or unsent == CREATE_TRIES:
                    raise
            except ApiError as error:
                if not error.is_throttled() or self._reactor.seconds() + pause > deadline:
                    raise
                on_throttled()
            await self._sleep(pause)
            pause = min(pause * 2, max(_MAX_THROTTLED_SECONDS, self._poll_interval))

    async def _sleep(self, seconds: float) -> None:
        await maybe_deferred_to_future(deferLater(self._reactor, seconds))
