"""Warnings about sites whose tasks bring few pages, with the likely reason and what to do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scrapy_ezcaptcha.clearances.browsers import impersonation_advice
from scrapy_ezcaptcha.lru import Once
from scrapy_ezcaptcha.service.wire import points_in_words

if TYPE_CHECKING:
    import logging
    from collections.abc import Callable

    from scrapy.settings import BaseSettings

    from scrapy_ezcaptcha.clearances.clearance import Clearance
    from scrapy_ezcaptcha.config import Config

_MAX_ZONES = 10_000


class SiteWarnings:
    """Logs each warning once for each zone. *price* returns the price of a task, if known."""

    def __init__(
        self,
        config: Config,
        settings: BaseSettings,
        log: logging.LoggerAdapter[Any],
        price: Callable[[], float | None],
    ) -> None:
        self._price = price
        self._config = config
        self._settings = settings
        self._log = log
        self._useless: Once[str] = Once(_MAX_ZONES)
        self._costly: Once[str] = Once(_MAX_ZONES)

    def useless(self, clearance: Clearance) -> None:
        """Warn that the clearances of a zone are useless, although its solutions have pages."""
        if not self._useless.is_first(clearance.zone):
            return
        is_on = self._config.impersonate
        self._log.warning(
            "The clearances of %s are rejected although its challenges are solved. If the proxy"
            " changes its address, use a sticky session. If the site binds clearances to the"
            " browser's TLS handshake: %s. Otherwise, use the pages of the solutions, which costs"
            ' one task for each page: EZCAPTCHA_USE_BODY="always"',
            clearance.zone,
            impersonation_advice(self._settings, clearance.tls_version, is_on=is_on),
        )

    def costly(self, zone: str, tasks: int, pages: int) -> None:
        """Warn that each of the last *tasks* for *zone* brought at most two pages."""
        is_costly = tasks >= self._config.breaker_failures and pages > 0
        if not is_costly or not self._costly.is_first(zone):
            return
        price = self._price()
        points = f", {points_in_words(price * tasks / pages)}," if price is not None else ""
        self._log.warning(
            "The last %d clearances of %s brought %d pages in total: %.1f tasks%s for each page."
            " Slow down (DOWNLOAD_DELAY), use another proxy, or set EZCAPTCHA_MAX_TASKS",
            tasks,
            zone,
            pages,
            tasks / pages,
            points,
        )
