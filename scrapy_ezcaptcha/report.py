"""The cost of a crawl: the price of a task, and the totals at the end of the crawl."""

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
    """Passes calls on to *client*; if it *is_on*, also measures the price of a task.

    For that, it gets the balance before and after the first task is created. The solver creates no
    other task in between.
    """

    def __init__(
        self, client: EzCaptchaClient, log: logging.LoggerAdapter[Any], *, is_on: bool
    ) -> None:
        self._price: float | None = None
        self._client = client
        self._log = log
        self._is_on = self._is_first = is_on

    def known_price(self) -> float | None:
        """Return the price of a task, in points; None if it is not known."""
        return self._price

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
            self._price = max(before - after, 0.0)
        return task_id

    async def wait_for_solution(self, task_id: str, exit: Exit) -> Solution:
        """Return the solution of a task as :meth:`EzCaptchaClient.wait_for_solution` does."""
        return await self._client.wait_for_solution(task_id, exit)

    async def log_sums(self, stats: StatsCollector, seconds: float) -> None:
        """Log the totals of a crawl whose requests waited for *seconds*, and what it cost."""
        if seconds:
            stats.set_value("ezcaptcha/requests/waiting_seconds", seconds)
        counts = (f"{words} {stats.get_value(f'ezcaptcha/{name}', 0)}" for words, name in _SUMS)
        self._log.info("EzCaptcha: %s, seconds waited %.1f", ", ".join(counts), seconds)
        if self._is_on:
            await self._log_spending(stats)

    async def _log_spending(self, stats: StatsCollector) -> None:
        tasks = stats.get_value("ezcaptcha/tasks/created", 0)
        sums = []
        if self._price is not None or not tasks:
            points = tasks * (self._price or 0.0)
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
            self._log.warning("Could not get the balance: %s", error)
            return None
