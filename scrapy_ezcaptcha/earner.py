"""One clearance, paid for once among all processes that share a store."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from scrapy_ezcaptcha.clearance import Clearance, lacks_for_clearance, lacks_for_page
from scrapy_ezcaptcha.errors import EzCaptchaError, FailedElsewhere, GivenUp

if TYPE_CHECKING:
    from scrapy import Request

    from scrapy_ezcaptcha.exit import Exit
    from scrapy_ezcaptcha.holdings import Holdings
    from scrapy_ezcaptcha.solver import Solver
    from scrapy_ezcaptcha.stores import SharedStore
    from scrapy_ezcaptcha.stores.base import Place
    from scrapy_ezcaptcha.stores.leading import Leading
    from scrapy_ezcaptcha.wire import CloudFlare5STask, Solution


@dataclass(frozen=True)
class Want:
    """A challenged request's need for a clearance."""

    request: Request
    zone: str
    host: str
    exit: Exit
    task: CloudFlare5STask

    @property
    def place(self) -> Place:
        """The zone and the exit for which the clearance is to hold."""
        return self.zone, self.exit


class Earner:
    """Has challenges solved, and keeps what that earns.

    Args:
        solver: has one challenge solved, within limits.
        holdings: the clearances at hand.
        store: where these are, and who else solves.
    """

    def __init__(self, solver: Solver, holdings: Holdings, store: SharedStore) -> None:
        self._solver = solver
        self._holdings = holdings
        self._store = store

    async def clearance(self, want: Want) -> Clearance:
        """Return a clearance for *want* that this process or another one has earned.

        Raises:
            GivenUp: a limit forbids the solve.
            EzCaptchaError: it failed, here or there.
        """
        while True:
            leading = await self._store.lead(want.place)
            if leading is None:
                await self._follow(want)
            held = self._holdings.find(want.zone, want.host, want.exit)
            if leading is not None:
                return await self._lead(want, leading, held)
            if held is not None:
                return held

    async def _follow(self, want: Want) -> None:
        """Wait for the solve that another process leads; its failure counts here too."""
        try:
            await self._store.follow(want.place)
        except FailedElsewhere as error:
            self._solver.failed(want.zone, str(error))
            raise

    async def _lead(self, want: Want, leading: Leading, held: Clearance | None) -> Clearance:
        """Have *want* solved and keep what that earned, unless others *held* it ready."""
        error: EzCaptchaError | None = None
        keep_task = True  # if the crawl ends, the next one goes on with it
        try:
            if held is None:
                self._solver.check(want.zone, self._holdings.suspects(want.zone, want.exit))
                solved = await self._solver.solve(
                    want.zone, want.task, want.exit, lacks=lacks_for_clearance, leading=leading
                )
                held = self._keep(*solved, want)
            keep_task = False
        except EzCaptchaError as failure:
            error = failure
            keep_task = isinstance(failure, GivenUp)  # nobody looked at it
            raise
        finally:
            leading.end(error, keep_task=keep_task)
        return held

    async def page(self, want: Want) -> Solution:
        """Have *want* solved for its page; keep the clearance too, if none is held.

        Raises:
            GivenUp: a limit forbids the solve.
            EzCaptchaError: it failed.
        """
        solution, task_id = await self._solver.solve(
            want.zone, want.task, want.exit, lacks=lacks_for_page
        )
        held = self._holdings.find(want.zone, want.host, want.exit)
        if held is None and lacks_for_clearance(solution) is None:
            self._keep(solution, task_id, want)
        return solution

    def _keep(self, solution: Solution, task_id: str, want: Want) -> Clearance:
        clearance = Clearance.from_solution(
            solution,
            zone=want.zone,
            origin=want.host,
            exit=want.exit,
            id=task_id,
            created=time.time(),
        )
        self._holdings.add(clearance)
        return clearance
