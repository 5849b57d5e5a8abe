"""The middleware for the mode *busy* of ``scrapy_tests.py``."""

from __future__ import annotations

from scrapy_ezcaptcha import EzCaptchaMiddleware


class BusyEzCaptchaMiddleware(EzCaptchaMiddleware):
    """Works as if each zone had challenged a request, and had a clearance for another exit."""

    async def spider_opened(self) -> None:
        await super().spider_opened()
        self._known.has_zone = lambda zone: True  # type: ignore[method-assign]
        self._follow_requests()
