"""What a crawl cost, in a line or two when it ends."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scrapy_ezcaptcha.errors import EzCaptchaError

if TYPE_CHECKING:
    import logging

    from scrapy.statscollectors import StatsCollector

    from scrapy_ezcaptcha.service.client import EzCaptchaClient

_SUMS = (
    *(("challenges", "challenges"), ("tasks", "tasks/created"), ("solved", "tasks/ready")),
    *(("given up", "requests/gave_up"), ("reused", "clearances/reused")),
)


def log_sums(stats: StatsCollector, log: logging.LoggerAdapter[Any]) -> None:
    """Log the sums of a crawl."""
    sums = ", ".join(f"{words} {stats.get_value(f'ezcaptcha/{name}', 0)}" for words, name in _SUMS)
    seconds = stats.get_value("ezcaptcha/solve_seconds/total", 0.0)
    log.info("EzCaptcha: %s, seconds waited %.1f", sums, seconds)


async def balance(client: EzCaptchaClient, log: logging.LoggerAdapter[Any]) -> float | None:
    """Return the balance in points, None if it cannot be had."""
    try:
        return await client.get_balance()
    except EzCaptchaError as error:
        log.warning("Could not ask for the balance: %s", error)
        return None
