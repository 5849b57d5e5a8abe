"""One line in ``ADDONS`` turns everything on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scrapy_ezcaptcha.crawl.order import ORDER
from scrapy_ezcaptcha.middleware import EzCaptchaMiddleware

if TYPE_CHECKING:
    from scrapy.settings import BaseSettings


class Addon:
    """``ADDONS = {"scrapy_ezcaptcha.Addon": 500}``: puts the middleware at its order.

    Where ``DOWNLOADER_MIDDLEWARES`` already names the middleware, that stays.
    """

    def update_settings(self, settings: BaseSettings) -> None:
        """Add the middleware unless the user already did."""
        settings.setdefault_in_component_priority_dict(
            "DOWNLOADER_MIDDLEWARES", EzCaptchaMiddleware, ORDER
        )
