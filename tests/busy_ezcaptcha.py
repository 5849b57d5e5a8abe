"""The middleware of the mode busy of ``scrapy_tests.py``."""

from __future__ import annotations

from scrapy_ezcaptcha import EzCaptchaMiddleware


class BusyEzCaptchaMiddleware(EzCaptchaMiddleware):
    """As if each zone had met a challenge, and had a clearance for another exit."""

    async def spider_opened(self) -> None:
        await super().spider_opened()
        self._known.has_zone = lambda zone: True  # type: ignore[method-assign]
        self._follow_requests()
