"""One paid solve, within the limits that the settings draw. Counts and logs it."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from scrapy.utils.defer import maybe_deferred_to_future
from twisted.internet.defer import DeferredLock, DeferredSemaphore

from scrapy_ezcaptcha.breaker import Breaker
from scrapy_ezcaptcha.errors import (
    ApiError,
    EzCaptchaError,
    GivenUp,
    TransportError,
    UnexpectedResponse,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from scrapy.statscollectors import StatsCollector

    from scrapy_ezcaptcha.client import EzCaptchaClient
    from scrapy_ezcaptcha.config import Config
    from scrapy_ezcaptcha.exit import Exit
    from scrapy_ezcaptcha.stores.leading import Leading
    from scrapy_ezcaptcha.wire import CloudFlare5STask, Solution

logger = logging.getLogger(__name__)


class Solver:
    """Has challenges solved by the service, and knows when not to.

    Args:
        client: the service.
        config: the limits.
        stats: where ``ezcaptcha/tasks/...`` and ``ezcaptcha/solve_seconds/...`` are counted.
        clock: returns the seconds of a clock that never goes back.
        on_limit: called once when nothing more will be solved in this crawl.
    """

    def __init__(
        self,
        client: EzCaptchaClient,
        config: Config,
        stats: StatsCollector,
        clock: Callable[[], float],
        on_limit: Callable[[], None] = lambda: None,
    ) -> None:
        self._client = client
        self._config = config
        self._stats = stats
        self._clock = clock
        self._on_limit = on_limit
        self._breaker = Breaker(config.breaker_failures, config.breaker_seconds)
        self._room = DeferredSemaphore(config.max_concurrent_tasks)
        self._first_turn = DeferredLock()
        self._key_is_tried = False
        self._tasks = 0  # created, being created, or perhaps created
        self._stopped: GivenUp | None = None

    def check(self, zone: str, suspects: int = 0) -> None:
        """Raise GivenUp if a limit forbids a solve for *zone* now.

        *suspects* are clearances of it that look useless and are not counted as failures yet.
        """
        if self._stopped is not None:
            raise self._stopped.with_traceback(None)
        if self._breaker.is_open(zone, self._clock(), suspects):
            raise GivenUp("ZONE_GIVEN_UP", f"{zone} is given up for now, its solves failed")
        if 0 < self._config.max_tasks <= self._tasks:
            raise self._stop(
                "MAX_TASKS", f"EZCAPTCHA_MAX_TASKS={self._config.max_tasks} is reached"
            )

    async def solve(
        self,
        zone: str,
        task: CloudFlare5STask,
        exit: Exit,
        *,
        lacks: Callable[[Solution], str | None],
        leading: Leading | None = None,
    ) -> tuple[Solution, str]:
        """Have *task* solved as soon as there is room for it.

        A solution of which *lacks* has something to say counts as failed. With *leading*, a
        task that was left unfinished is gone on with, and the new one is noted there.

        Returns:
            The solution, and the id of the task that gave it.

        Raises:
            GivenUp: a limit forbids it.
            EzCaptchaError: it failed.
        """
        await maybe_deferred_to_future(self._room.acquire())
        try:
            if leading is not None and leading.task_id is not None:
                solution = await self._go_on_with(leading.task_id, zone, task, lacks)
                if solution is not None:
                    return solution, leading.task_id
            turn = await self._take_turn()
            try:
                self.check(zone)
                return await self._solve(zone, task, exit, lacks=lacks, turn=turn, leading=leading)
            finally:
                turn.end()
        finally:
            self._room.release()

    def failed(self, zone: str, reason: str) -> None:
        """Count a failed solve, or one whose clearance was rejected at once."""
        if self._breaker.failed(zone, self._clock()):
            logger.warning(
                "Giving up %s for %g s: %d solves in a row were of no use, the last because %s",
                zone,
                self._config.breaker_seconds,
                self._config.breaker_failures,
                reason,
            )

    def accepted(self, zone: str) -> None:
        """Note that a clearance of *zone* was accepted."""
        self._breaker.accepted(zone)

    async def _solve(
        self,
        zone: str,
        task: CloudFlare5STask,
        exit: Exit,
        *,
        lacks: Callable[[Solution], str | None],
        turn: _Turn,
        leading: Leading | None,
    ) -> tuple[Solution, str]:
        began = self._clock()
        task_id = ""

        def created(new_id: str) -> None:
            nonlocal task_id
            task_id = new_id
            self._stats.inc_value("ezcaptcha/tasks/created")
            turn.end()
            if leading is not None:
                leading.created(new_id)

        logger.info("Solving the challenge of %s by %s", task.website_url, exit.address)
        self._tasks += 1
        try:
            solution = await self._client.solve(task, on_created=created)
            if lack := lacks(solution):
                raise UnexpectedResponse(lack)
        except EzCaptchaError as error:
            error.task_id = error.task_id or task_id or None
            if not _may_be_paid_for(error):
                self._tasks -= 1
            self._note_failure(zone, task, error)
            raise
        self._note_success(task, began)
        return solution, task_id

    async def _go_on_with(
        self,
        task_id: str,
        zone: str,
        task: CloudFlare5STask,
        lacks: Callable[[Solution], str | None],
    ) -> Solution | None:
        """Return the solution of a task that another run or process paid for, None if none comes.

        Its failure is no reason to fail: nothing was paid for here.
        """
        began = self._clock()
        self._stats.inc_value("ezcaptcha/tasks/taken_over")
        logger.info("Going on with the unfinished task for %s", zone)
        try:
            solution = await self._client.wait_for_solution(task_id)
            if lack := lacks(solution):
                raise UnexpectedResponse(lack)
        except EzCaptchaError as error:
            self._count_failure(error)
            logger.info("The unfinished task for %s came to nothing: %s", zone, error)
            return None
        self._note_success(task, began)
        return solution

    def _note_success(self, task: CloudFlare5STask, began: float) -> None:
        seconds = self._clock() - began
        self._stats.inc_value("ezcaptcha/tasks/ready")
        self._stats.inc_value("ezcaptcha/solve_seconds/total", seconds)  # type: ignore[arg-type]
        self._stats.max_value("ezcaptcha/solve_seconds/max", seconds)
        logger.info("Solved the challenge of %s in %.1f s", task.website_url, seconds)

    def _note_failure(self, zone: str, task: CloudFlare5STask, error: EzCaptchaError) -> None:
        self._count_failure(error)
        if isinstance(error, ApiError) and error.is_credentials():
            self._stop("STOPPED", f"the service refused the key: {error}")
            return
        logger.warning("Could not solve the challenge of %s: %s", task.website_url, error)
        self.failed(zone, str(error))

    def _count_failure(self, error: EzCaptchaError) -> None:
        self._stats.inc_value("ezcaptcha/tasks/failed")
        self._stats.inc_value(f"ezcaptcha/tasks/failed/{error.code}")

    def _stop(self, code: str, reason: str) -> GivenUp:
        if self._stopped is None:
            self._stopped = GivenUp(code, reason)
            logger.warning("No more challenges are solved in this crawl: %s", reason)
            self._on_limit()
        return self._stopped

    async def _take_turn(self) -> _Turn:
        """Wait until the first call has shown whether the key is any good.

        With a wrong key, thirty calls at once would earn it a ban.
        """
        if not self._is_key_tried():
            await maybe_deferred_to_future(self._first_turn.acquire())
            first = _Turn(self._end_first_turn)
            if not self._is_key_tried():
                return first
            first.end()
        return _Turn(lambda: None)

    def _is_key_tried(self) -> bool:
        return self._key_is_tried

    def _end_first_turn(self) -> None:
        self._key_is_tried = True
        self._first_turn.release()


class _Turn:
    """The right to call the service, to be ended once."""

    def __init__(self, on_end: Callable[[], None]) -> None:
        self._on_end: Callable[[], None] | None = on_end

    def end(self) -> None:
        on_end, self._on_end = self._on_end, None
        if on_end is not None:
            on_end()


def _may_be_paid_for(error: EzCaptchaError) -> bool:
    """Whether the service may have created a task before *error*."""
    if isinstance(error, TransportError):
        return error.sent
    return error.task_id is not None or isinstance(error, UnexpectedResponse)
