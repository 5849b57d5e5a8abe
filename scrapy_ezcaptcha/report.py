"""What a crawl costs: the price of a task, and the sums when the crawl ends."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scrapy_ezcaptcha.errors import EzCaptchaError
from scrapy_ezcaptcha.service.wire import POINTS_PER_DOLLAR, points_in_words

if TYPE_CHECKING:
    import logging
    from collections.abc import Callable, Mapping

    from scrapy.statscollectors import StatsCollector

    from scrapy_ezcaptcha.exit import Exit
    from scrapy_ezcaptcha.service.client import EzCaptchaClient
    from scrapy_ezcaptcha.service.wire import Solution

_SUMS = (
    *(("challenges", "challenges"), ("tasks", "tasks/created"), ("solved", "tasks/ready")),
    *(("given up", "requests/gave_up"), ("reused", "clearances/reused")),
)


class Account:
    """The service of *client*, which also learns what one task costs.

    The balance is asked for before and after the first task is created; the solver creates no
    other meanwhile. ``price`` is in points; None if it is not known.
    """

    def __init__(self, client: EzCaptchaClient, log: logging.LoggerAdapter[Any]) -> None:
        self.price: float | None = None
        self._client = client
        self._log = log
        self._is_first = True

    async def create_for(
        self,
        url: str,
        exit: Exit,
        rq_data: Mapping[str, Any] | None,
        *,
        on_throttled: Callable[[], None],
    ) -> str:
        """Create a task as :meth:`EzCaptchaClient.create_for` does."""
        is_first, self._is_first = self._is_first, False
        before = await self._balance() if is_first else None
        task_id = await self._client.create_for(url, exit, rq_data, on_throttled=on_throttled)
        after = await self._balance() if before is not None else None
        if before is not None and after is not None:
            self.price = max(before - after, 0.0)
        return task_id

    async def wait_for_solution(self, task_id: str, exit: Exit) -> Solution:
        """Return the solution of a task as :meth:`EzCaptchaClient.wait_for_solution` does."""
        return await self._client.wait_for_solution(task_id, exit)

    async def log_spending(self, stats: StatsCollector) -> None:
        """Log what the tasks of this crawl cost, and what is left."""
        tasks = stats.get_value("ezcaptcha/tasks/created", 0)
        sums = []
        if self.price is not None or not tasks:
            points = tasks * (self.price or 0.0)
            stats.set_value("ezcaptcha/points_spent", points)
            stats.set_value("ezcaptcha/usd_spent", points / POINTS_PER_DOLLAR)
            sums.append(f"{points_in_words(points)} spent")
        left = await self._balance()
        if left is not None:
            sums.append(f"{points_in_words(left)} left")
        if sums:
            self._log.info("EzCaptcha: %s", ", ".join(sums))

    async def _balance(self) -> float | None:
        try:
            return await self._client.get_balance()
        except EzCaptchaError as error:
            self._log.warning("Could not ask for the balance: %s", error)
            return None


def log_sums(stats: StatsCollector, log: logging.LoggerAdapter[Any], seconds: float) -> None:
    """Log the sums of a crawl, in which requests waited for *seconds*."""
    if seconds:
        stats.set_value("ezcaptcha/requests/waiting_seconds", seconds)
    sums = ", ".join(f"{words} {stats.get_value(f'ezcaptcha/{name}', 0)}" for words, name in _SUMS)
    log.info("EzCaptcha: %s, seconds waited %.1f", sums, seconds)
