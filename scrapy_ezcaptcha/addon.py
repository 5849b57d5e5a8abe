"""The add-on: one line in ``ADDONS`` enables the middleware."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scrapy_ezcaptcha.crawl.order import ORDER
from scrapy_ezcaptcha.middleware import EzCaptchaMiddleware

if TYPE_CHECKING:
    from scrapy.settings import BaseSettings


class Addon:
    """``ADDONS = {"scrapy_ezcaptcha.Addon": 500}``: adds the middleware at its order.

    If ``DOWNLOADER_MIDDLEWARES`` already contains the middleware, nothing changes.
    """

    def update_settings(self, settings: BaseSettings) -> None:
        """Add the middleware, unless the user already added it."""
        settings.setdefault_in_component_priority_dict(
            "DOWNLOADER_MIDDLEWARES", EzCaptchaMiddleware, ORDER
        )
