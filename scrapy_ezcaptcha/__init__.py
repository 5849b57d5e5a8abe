"""Scrapy downloader middleware that has Cloudflare challenges solved by EzCaptcha.

These are the public names. The client of the service works without a crawl.
Everything else is enabled in Scrapy's settings.
"""

from __future__ import annotations

from importlib.metadata import version

from scrapy_ezcaptcha.addon import Addon
from scrapy_ezcaptcha.challenge import is_challenge
from scrapy_ezcaptcha.errors import (
    ApiError,
    EzCaptchaError,
    SolveTimeout,
    TransportError,
    UnexpectedResponse,
)
from scrapy_ezcaptcha.middleware import EzCaptchaMiddleware
from scrapy_ezcaptcha.service.client import EzCaptchaClient
from scrapy_ezcaptcha.service.wire import CloudFlare5STask, Solution

__all__ = [
    "Addon",
    "ApiError",
    "CloudFlare5STask",
    "EzCaptchaClient",
    "EzCaptchaError",
    "EzCaptchaMiddleware",
    "Solution",
    "SolveTimeout",
    "TransportError",
    "UnexpectedResponse",
    "is_challenge",
]

__version__ = version("scrapy-ezcaptcha")
