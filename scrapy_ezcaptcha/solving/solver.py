"""One paid task, within the limits of the settings; counts and logs it with its reason."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from scrapy.utils.defer import maybe_deferred_to_future
from twisted.internet.defer import DeferredLock, DeferredSemaphore

from scrapy_ezcaptcha.errors import (
    EzCaptchaError,
    GivenUp,
    SolveTimeout,
    TransportError,
    UnexpectedResponse,
)
from scrapy_ezcaptcha.lru import Lru
from scrapy_ezcaptcha.solving.breaker import Breaker
from scrapy_ezcaptcha.stores.lease import TASK_SECONDS

if TYPE_CHECKING:
    import logging
    from collections.abc import Callable, Mapping

    from scrapy.statscollectors import StatsCollector

    from scrapy_ezcaptcha.clearances.clearance import Place
    from scrapy_ezcaptcha.clearances.known import Reason
    from scrapy_ezcaptcha.config import Config
    from scrapy_ezcaptcha.crawl.target import Target
    from scrapy_ezcaptcha.exit import Exit
    from scrapy_ezcaptcha.service.wire import Solution
    from scrapy_ezcaptcha.stores.sharing import Lease


_MAX_PLACES = 10_000


class Service(Protocol):
    """What is needed of a solving service; each call raises EzCaptchaError if it fails."""

    async def solve_challenge(
        self,
        url: str,
        exit: Exit,
        rq_data: Mapping[str, Any] | None,
        *,
        on_created: Callable[[str], None],
    ) -> Solution:
        """Have the challenge of *url* solved through *exit*.

        *on_created* is called with the task's id as soon as the task is paid for.
        """
        ...

    async def wait_for_solution(self, task_id: str, exit: Exit) -> Solution:
        """Return the solution of a task that was created before, for *exit*."""
        ...


@dataclass(eq=False)
class Solver:
    """Has challenges solved by a service, and knows when not to.

    ``clock`` returns the seconds of a clock that never goes back. ``on_limit`` is called once
    when nothing more is solved in this crawl.
    """

    service: Service
    config: Config
    stats: StatsCollector
    log: logging.LoggerAdapter[Any]
    clock: Callable[[], float]
    on_limit: Callable[[], None] = lambda: None

    def __post_init__(self) -> None:
        self._breaker = Breaker(self.config.breaker_failures, self.config.breaker_seconds)
        self._places = DeferredSemaphore(self.config.max_concurrent_tasks)
        self._first_call: DeferredLock | None = DeferredLock()
        self._late: Lru[Place, tuple[str, float]] = Lru(_MAX_PLACES)  # a task, and until when
        self._tasks = 0  # created, being created, or perhaps created
        self._stopped: GivenUp | None = None

    def check(self, place: Place, path: str, suspects: int = 0) -> None:
        """Raise GivenUp if a limit forbids a solve for *path* of *place* now.

        *suspects* are clearances of it that look useless and are not counted as failures yet.
        """
        if self._stopped is not None:
            raise self._stopped.with_traceback(None)
        now = self.clock()
        if self._breaker.is_open(place, now, suspects):
            raise GivenUp("ZONE_GIVEN_UP", f"{place[0]} is given up for now, its solves failed")
        if self._breaker.is_open((place, path), now):
            raise GivenUp("PATH_GIVEN_UP", f"{path} is given up for now: no clearance serves it")
        if 0 < self.config.max_tasks <= self._tasks:
            raise self._stop("MAX_TASKS", f"EZCAPTCHA_MAX_TASKS={self.config.max_tasks} is reached")

    async def solve(
        self,
        target: Target,
        reason: Reason,
        *,
        lacks: Callable[[Solution], str | None],
        lease: Lease | None = None,
    ) -> tuple[Solution, str]:
        """Return a solution for *target*, and the id of the task that brought it.

        A solution of which *lacks* says what it lacks counts as failed. The unfinished task that
        *lease* names is continued, and a new task is noted there. Raises GivenUp if a limit forbids
        it, another EzCaptchaError if it failed.
        """
        await maybe_deferred_to_future(self._places.acquire())
        try:
            late = self._late.pop(target.place)
            task_id = lease.task_id if lease is not None else None
            if task_id is None and late is not None and self.clock() < late[1]:
                task_id = late[0]
            solution = await self._continue(task_id, target, lacks) if task_id else None
            if solution is not None and task_id is not None:
                return solution, task_id
            await self._until_key_is_tried()
            try:
                self.check(target.place, target.location.path)
                return await self._buy(target, reason, lacks, lease)
            finally:
                self._end_first_call()
        finally:
            self._places.release()

    def failed(self, place: Place, why: str, path: str | None = None) -> None:
        """Count a solve that was of no use to *place*, or to one *path* of it."""
        if self._breaker.failed((place, path) if path else place, self.clock()):
            self.log.warning(
                "Giving up %s through %s for %g s: %d solves in a row were of no use, the last"
                " because %s",
                path or place[0],
                place[1].address,
                self.config.breaker_seconds,
                self.config.breaker_failures,
                why,
            )

    def accepted(self, place: Place, path: str) -> None:
        """Note that *path* of *place* accepted a clearance."""
        self._breaker.accepted(place)
        self._breaker.accepted((place, path))

    async def _buy(
        self,
        target: Target,
        reason: Reason,
        lacks: Callable[[Solution], str | None],
        lease: Lease | None,
    ) -> tuple[Solution, str]:
        code, why = reason
        began = self.clock()
        task_id = ""

        def created(new_id: str) -> None:
            nonlocal task_id
            task_id = new_id
            self.stats.inc_value("ezcaptcha/tasks/created")
            self.stats.inc_value(f"ezcaptcha/tasks/reason/{code}")
            self.log.info("Task %s created for %s: %s", new_id, _where(target), why)
            self._end_first_call()
            if lease is not None:
                lease.note_task(new_id)

        exit = target.place[1]
        self._tasks += 1
        try:
            solution = await self.service.solve_challenge(
                target.url, exit, target.options.rq_data, on_created=created
            )
            if lack := lacks(solution):
                unexpected = UnexpectedResponse(lack)
                unexpected.page = solution.body
                raise unexpected
        except EzCaptchaError as error:
            error.task_id = error.task_id or task_id or None
            if not _may_be_paid_for(error):
                self._tasks -= 1
            if isinstance(error, SolveTimeout):  # the service holds its result for a while
                self._late.put(target.place, (task_id, began + TASK_SECONDS))
            self._count_failure(error)
            if error.is_credentials():
                self._stop("STOPPED", f"the service refused the key: {error}")
            else:
                what = f"Task {task_id}" if task_id else "Creating a task"
                seconds = self.clock() - began
                message = "%s for %s failed after %.1f s: %s"
                self.log.warning(message, what, _where(target), seconds, error)
                self.failed(target.place, str(error))
            raise
        self._note_success(task_id, target, began)
        return solution, task_id

    async def _continue(
        self, task_id: str, target: Target, lacks: Callable[[Solution], str | None]
    ) -> Solution | None:
        """Return the solution of a task that another run or process paid for, if it has one.

        A failure of it is not raised: nothing was paid for here.
        """
        began = self.clock()
        self.stats.inc_value("ezcaptcha/tasks/taken_over")
        self.log.info("Continuing the unfinished task %s for %s", task_id, _where(target))
        try:
            solution = await self.service.wait_for_solution(task_id, target.place[1])
            if lack := lacks(solution):
                raise UnexpectedResponse(lack)
        except EzCaptchaError as error:
            self._count_failure(error)
            self.log.info("The unfinished task %s brought nothing: %s", task_id, error)
            return None
        self._note_success(task_id, target, began)
        return solution

    def _note_success(self, task_id: str, target: Target, began: float) -> None:
        seconds = self.clock() - began
        self.stats.inc_value("ezcaptcha/tasks/ready")
        self.stats.inc_value("ezcaptcha/solve_seconds/total", seconds)  # type: ignore[arg-type]
        self.stats.max_value("ezcaptcha/solve_seconds/max", seconds)
        self.log.info("Task %s for %s is ready after %.1f s", task_id, _where(target), seconds)

    def _count_failure(self, error: EzCaptchaError) -> None:
        self.stats.inc_value("ezcaptcha/tasks/failed")
        self.stats.inc_value(f"ezcaptcha/tasks/failed/{error.code}")

    def _stop(self, code: str, why: str) -> GivenUp:
        if self._stopped is None:
            self._stopped = GivenUp(code, why)
            self.log.warning("No more challenges are solved in this crawl: %s", why)
            self.on_limit()
        return self._stopped

    async def _until_key_is_tried(self) -> None:
        """Let the first call go alone: with a wrong key, thirty at once would get it banned."""
        first_call = self._first_call
        if first_call is not None:
            await maybe_deferred_to_future(first_call.acquire())
            if self._first_call is None:
                first_call.release()

    def _end_first_call(self) -> None:
        first_call, self._first_call = self._first_call, None
        if first_call is not None:
            first_call.release()


def _where(target: Target) -> str:
    """Return for what a task is bought, in words and without secrets."""
    zone, exit = target.place
    host = "" if target.host == zone else f" ({target.host})"
    return f"{zone}{host} through {exit.address}"


def _may_be_paid_for(error: EzCaptchaError) -> bool:
    """Whether the service may have created a task before *error*."""
    if isinstance(error, TransportError):
        return error.sent
    return error.task_id is not None or isinstance(error, UnexpectedResponse)
