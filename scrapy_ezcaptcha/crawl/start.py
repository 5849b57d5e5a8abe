"""May the crawl use this middleware, and with which settings?"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from scrapy.exceptions import NotConfigured

from scrapy_ezcaptcha.config import KEY_SOURCES, Config
from scrapy_ezcaptcha.crawl.order import order_problems

if TYPE_CHECKING:
    from scrapy.crawler import Crawler


def checked_config(crawler: Crawler, component: type) -> Config:
    """Return the settings of *crawler* for its downloader middleware *component*.

    Raises NotConfigured if switched off, without a key, or without a reactor, and
    ConfigurationError if a setting is unusable.
    """
    config = Config.from_settings(crawler.settings)
    if not config.enabled:
        raise NotConfigured
    log = log_of(crawler)
    if not crawler.settings.getbool("TWISTED_REACTOR_ENABLED", True):
        log.info("Disabled: TWISTED_REACTOR_ENABLED is False, and treq needs a Twisted reactor")
        raise NotConfigured  # without a text, because Scrapy would log that as a warning
    if not config.client_key:
        raise NotConfigured(f"no EzCaptcha key; set {KEY_SOURCES}")
    for warning in (*config.warnings, *order_problems(crawler.settings, component)):
        log.warning(warning)
    return config


def log_of(crawler: Crawler) -> logging.LoggerAdapter[logging.Logger]:
    """Return what logs with the spider of *crawler*."""
    return logging.LoggerAdapter(logging.getLogger("scrapy_ezcaptcha"), {"spider": crawler.spider})
