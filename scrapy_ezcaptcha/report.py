"""What a crawl cost, in one line when it ends."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from scrapy_ezcaptcha.errors import EzCaptchaError

if TYPE_CHECKING:
    from scrapy.statscollectors import StatsCollector

    from scrapy_ezcaptcha.client import EzCaptchaClient

logger = logging.getLogger(__name__)


class Report:
    """Sums up the stats of a crawl; with *ask_balance* also the points spent."""

    def __init__(
        self, client: EzCaptchaClient, stats: StatsCollector, *, ask_balance: bool
    ) -> None:
        self._client = client
        self._stats = stats
        self._ask_balance = ask_balance
        self._balance: float | None = None

    async def begin(self) -> None:
        """Note the balance at the start, if asked to."""
        self._balance = await self._current_balance()

    async def end(self) -> None:
        """Log the sums."""
        value = self._stats.get_value
        logger.info(
            "EzCaptcha: challenges %d, tasks %d, solved %d, given up %d, reused %d,"
            " seconds waited %.1f",
            value("ezcaptcha/challenges", 0),
            value("ezcaptcha/tasks/created", 0),
            value("ezcaptcha/tasks/ready", 0),
            value("ezcaptcha/requests/gave_up", 0),
            value("ezcaptcha/clearances/reused", 0),
            value("ezcaptcha/solve_seconds/total", 0.0),
        )
        balance = await self._current_balance()
        if balance is not None and self._balance is not None:
            spent = self._balance - balance
            self._stats.set_value("ezcaptcha/points_spent", spent)
            logger.info("EzCaptcha: %g points spent, %g left", spent, balance)

    async def _current_balance(self) -> float | None:
        if not self._ask_balance:
            return None
        try:
            return await self._client.get_balance()
        except EzCaptchaError as error:
            logger.warning("Could not ask for the balance: %s", error)
            return None
