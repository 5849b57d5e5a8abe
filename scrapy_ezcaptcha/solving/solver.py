"""Buys one task within the limits of the settings, and logs it with its reason."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from scrapy.utils.defer import deferred_from_coro, maybe_deferred_to_future
from twisted.internet.defer import Deferred, DeferredList, DeferredLock
from twisted.python.failure import Failure

from scrapy_ezcaptcha.clearances.known import BODY
from scrapy_ezcaptcha.errors import (
    ApiError,
    EzCaptchaError,
    GivenUp,
    SolveTimeout,
    TransportError,
    UnexpectedResponse,
)
from scrapy_ezcaptcha.lru import Lru
from scrapy_ezcaptcha.solving.breaker import Breaker
from scrapy_ezcaptcha.solving.limit import TaskLimit
from scrapy_ezcaptcha.solving.progress import Progress
from scrapy_ezcaptcha.stores.lease import TASK_SECONDS

if TYPE_CHECKING:
    import logging
    from collections.abc import Callable, Mapping

    from scrapy_ezcaptcha.clearances.clearance import Place
    from scrapy_ezcaptcha.clearances.known import Reason
    from scrapy_ezcaptcha.config import Config
    from scrapy_ezcaptcha.crawl.target import Target
    from scrapy_ezcaptcha.exit import Exit
    from scrapy_ezcaptcha.service.wire import Solution
    from scrapy_ezcaptcha.solving.ledger import Ledger
    from scrapy_ezcaptcha.stores.leasing import Lease


_MAX_PLACES = 10_000

# If the paths of a zone fail one after another, the zone is given up after this many times the
# number of tasks after which a path is given up.
_MAX_BAD_PATHS = 3


class Service(Protocol):
    """What a solving service must do; each call raises EzCaptchaError if it fails."""

    async def create_for(
        self,
        url: str,
        exit: Exit,
        rq_data: Mapping[str, Any] | None,
        *,
        on_throttled: Callable[[], None],
    ) -> str:
        """Create a task for the challenge of *url*, and return its id; it is then paid for.

        If the service refuses a call because of its rate, *on_throttled* is called, and the call
        is sent again later.
        """
        ...

    async def wait_for_solution(self, task_id: str, exit: Exit) -> Solution:
        """Return the solution of an existing task for *exit*."""
        ...


@dataclass(eq=False)
class Solver:
    """Has challenges solved by a service, within the limits.

    ``clock`` is monotonic. ``on_limit`` is called once, when the crawl can solve nothing more, and
    ``on_useless`` with the place of each useless clearance.
    """

    service: Service
    config: Config
    ledger: Ledger
    log: logging.LoggerAdapter[Any]
    clock: Callable[[], float]
    on_limit: Callable[[], None] = lambda: None
    on_useless: Callable[[Place, str | None], None] | None = None

    def __post_init__(self) -> None:
        limit, pause = self.config.breaker_failures, self.config.breaker_seconds
        self._breaker = Breaker(limit, pause)
        self._paths = Breaker(limit * _MAX_BAD_PATHS, pause)  # failures of all paths of a place
        self._limit = TaskLimit(self.config.max_concurrent_tasks)
        self.progress = Progress(self.config, self.log, self.clock)
        self._creations: set[Deferred[str]] = set()  # calls that create tasks
        self._first_call: DeferredLock | None = DeferredLock()
        self._late: Lru[Place, tuple[str, float]] = Lru(_MAX_PLACES)  # a task, and when it expires
        self._tasks = 0  # created, or possibly created
        self._stopped: GivenUp | None = None

    def check(self, place: Place, path: str, suspects: int = 0) -> None:
        """Raise GivenUp if a limit forbids a solve for *path* of *place* now.

        *suspects* is the number of its clearances that seem useless, but are not yet failures.
        """
        if self._stopped is not None:
            raise self._stopped.with_traceback(None)
        now = self.clock()
        if self._breaker.is_open(place, now, suspects) or self._paths.is_open(place, now):
            raise GivenUp("ZONE_GIVEN_UP", f"{place[0]} is given up for now: its solves failed")
        if self._breaker.is_open((place, path), now):
            raise GivenUp("PATH_GIVEN_UP", f"{path} is given up for now: no clearance works")
        if 0 < self.config.max_tasks <= self._tasks:
            raise self._stop("MAX_TASKS", f"EZCAPTCHA_MAX_TASKS={self.config.max_tasks} is reached")

    async def close(self, *, waits: bool) -> None:
        """Wait for all calls that create tasks, or cancel them."""
        for creation in () if waits else list(self._creations):
            creation.cancel()
        await maybe_deferred_to_future(DeferredList(list(self._creations)))

    async def solve(
        self,
        target: Target,
        reason: Reason,
        *,
        lacks: Callable[[Solution], str | None],
        lease: Lease | None = None,
    ) -> tuple[Solution, str, bool]:
        """Return a solution for *target*, the task's id, and whether it was created for *target*.

        If *lacks* returns what a solution lacks, the task counts as failed. An unfinished task of
        *lease* is continued, and a new task is noted on it. Raises GivenUp if a limit forbids the
        task, and another EzCaptchaError if it fails.
        """
        await self._limit.acquire()
        solve = self.progress.began(target.place)
        try:
            task_id = self._unfinished(target.place, reason, lease)
            solution = await self._continue(task_id, target, lacks) if task_id else None
            if solution is not None and task_id is not None:
                return solution, task_id, False
            await self._until_key_is_tried()
            try:
                await self._until_limit_is_clear()
                self.check(target.place, target.location.path)
                return *await self._buy(target, reason, lacks, lease), True
            finally:
                self._end_first_call()
        finally:
            self.progress.ended(solve)
            self._limit.release()

    def has_unfinished(self, place: Place, lease: Lease | None) -> bool:
        """Whether there is a paid task for *place* whose result can still arrive."""
        late = self._late.get(place)
        is_late = late is not None and self.clock() < late[1]
        return is_late or (lease is not None and lease.task_id is not None)

    def _unfinished(self, place: Place, reason: Reason, lease: Lease | None) -> str | None:
        """Return the paid task for *place* whose result can still arrive, if any."""
        late = None if reason is BODY else self._late.pop(place)
        if lease is not None and lease.task_id is not None:
            return lease.task_id
        return late[0] if late is not None and self.clock() < late[1] else None

    async def _until_limit_is_clear(self) -> None:
        """Wait while EZCAPTCHA_MAX_TASKS would be reached if all pending calls create a task."""
        while self._creations and 0 < self.config.max_tasks <= self._tasks + len(self._creations):
            if self._tasks >= self.config.max_tasks:
                return
            await maybe_deferred_to_future(DeferredList(list(self._creations)))

    def failed(self, place: Place, why: str, path: str | None = None) -> None:
        """Count a useless solve for *place*, or for one *path* of it."""
        now = self.clock()
        is_given_up = path is not None and self._paths.failed(place, now)
        if self._breaker.failed((place, path) if path else place, now) or is_given_up:
            self.log.warning(
                "Giving up %s through %s for %g s, because %d solves in a row were useless (the"
                " last one: %s)",
                *(path or place[0], place[1].label, self.config.breaker_seconds),
                *(self.config.breaker_failures, why),
            )

    def useless(self, place: Place, why: str, path: str | None = None) -> None:
        """Count a clearance that was rejected at once at *place*, or at one *path* of it."""
        if self.on_useless:
            self.on_useless(place, path)
        self.failed(place, why, path)

    def accepted(self, place: Place, path: str) -> None:
        """Note that *path* of *place* accepted a clearance."""
        self._breaker.accepted(place, (place, path))
        self._paths.accepted(place)

    async def _buy(
        self,
        target: Target,
        reason: Reason,
        lacks: Callable[[Solution], str | None],
        lease: Lease | None,
    ) -> tuple[Solution, str]:
        began, task_id = self.clock(), ""
        try:
            task_id = await self._create(target, reason, lease)
            solution = await self.service.wait_for_solution(task_id, target.place[1])
            if lack := lacks(solution):
                unexpected = UnexpectedResponse(lack)
                unexpected.page = solution.body
                raise unexpected
        except EzCaptchaError as error:
            error.task_id = error.task_id or task_id or None
            if isinstance(error, SolveTimeout):  # the service keeps its result for a while
                self._late.put(target.place, (task_id, began + TASK_SECONDS))
            self.ledger.failed(task_id, error)
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

    async def _create(self, target: Target, reason: Reason, lease: Lease | None) -> str:
        """Create a task and return its id.

        If the crawl ends in the meantime, the call continues, and the task is noted for the next
        run.
        """
        waiter: Deferred[str] = Deferred()
        creation: Deferred[str] = deferred_from_coro(
            self.service.create_for(
                target.url,
                target.place[1],
                target.options.rq_data,
                on_throttled=self._limit.throttled,
            )
        )
        self._creations.add(creation)

        def ended(result: str | Failure) -> None:
            self._creations.discard(creation)
            if isinstance(result, Failure):
                self._tasks += _may_be_paid_for(result.value)
            else:
                self._created(result, target, reason, lease)
            if not waiter.called:
                waiter.callback(result)
            elif lease is not None:  # the crawl is ending
                lease.release(keep_task=True)

        creation.addBoth(ended)
        return await maybe_deferred_to_future(waiter)

    def _created(self, task_id: str, target: Target, reason: Reason, lease: Lease | None) -> None:
        self._tasks += 1
        self._limit.created()
        self.ledger.created(task_id, target, reason)
        self.log.info("Task %s created for %s: %s", task_id, _where(target), reason[1])
        self.progress.tasks_created(self._tasks)
        self._end_first_call()
        if lease is not None:
            lease.note_task(task_id)

    async def _continue(
        self, task_id: str, target: Target, lacks: Callable[[Solution], str | None]
    ) -> Solution | None:
        """Return the solution of a task that another run or process paid for; None if it failed.

        Its failure is not raised, because this crawl did not pay for it.
        """
        began = self.clock()
        self.ledger.continued(task_id, target)
        self.log.info("Continuing the unfinished task %s for %s", task_id, _where(target))
        try:
            solution = await self.service.wait_for_solution(task_id, target.place[1])
            if lack := lacks(solution):
                raise UnexpectedResponse(lack)
        except EzCaptchaError as error:
            self.ledger.failed(task_id, error)
            self.log.info("The unfinished task %s failed: %s", task_id, error)
            return None
        self._note_success(task_id, target, began)
        return solution

    def _note_success(self, task_id: str, target: Target, began: float) -> None:
        seconds = self.clock() - began
        self.ledger.ready(task_id, target, seconds)
        self.log.info("Task %s for %s is ready after %.1f s", task_id, _where(target), seconds)

    def _stop(self, code: str, why: str) -> GivenUp:
        if self._stopped is None:
            self._stopped = GivenUp(code, why)
            self.log.warning("No more challenges are solved in this crawl: %s", why)
            self.on_limit()
        return self._stopped

    async def _until_key_is_tried(self) -> None:
        """Send the first call alone, because thirty calls with a wrong key get it banned."""
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
    """Return what a task is for, in words and without secrets."""
    zone, exit = target.place
    host = "" if target.host == zone else f" ({target.host})"
    return f"{zone}{host} through {exit.label}"


def _may_be_paid_for(error: BaseException | None) -> bool:
    """Whether the service may have created a task although the call failed with *error*."""
    if isinstance(error, TransportError):
        return error.sent
    return isinstance(error, UnexpectedResponse) or (
        isinstance(error, ApiError) and error.is_outage()
    )
