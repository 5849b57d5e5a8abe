"""Can the crawl use this middleware, and with which settings?"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from scrapy.exceptions import NotConfigured

from scrapy_ezcaptcha.config import KEY_SOURCES, Config
from scrapy_ezcaptcha.crawl.order import order_problems
from scrapy_ezcaptcha.words import counted

if TYPE_CHECKING:
    from scrapy.crawler import Crawler

_MAX_DOMAINS = 5  # named in the line at the start


def checked_config(crawler: Crawler, component: type) -> Config:
    """Return the settings of *crawler* for its downloader middleware *component*.

    Raises NotConfigured if the middleware is disabled, if there is no key, or if there is no
    reactor, and ConfigurationError if a setting is unusable.
    """
    config = Config.from_settings(crawler.settings)
    if not config.enabled:
        raise NotConfigured
    log = log_of(crawler)
    if not crawler.settings.getbool("TWISTED_REACTOR_ENABLED", True):
        log.info("Disabled: TWISTED_REACTOR_ENABLED is False, but treq needs a Twisted reactor")
        raise NotConfigured  # without a text, which Scrapy would log as a warning
    if not config.client_key:
        raise NotConfigured(f"no EzCaptcha key; set {KEY_SOURCES}")
    for warning in (*config.warnings, *order_problems(crawler.settings, component)):
        log.warning(warning)
    log.info("EzCaptcha: %s", in_words(config))
    if config.transparent_mode and not (config.allowed_domains or config.max_tasks):
        log.warning(
            "Every request to any site can cost a task, because EZCAPTCHA_TRANSPARENT_MODE is True;"
            " set limits with EZCAPTCHA_ALLOWED_DOMAINS or EZCAPTCHA_MAX_TASKS"
        )
    return config


def in_words(config: Config) -> str:
    """Return scope, store, proxies and limits in one line, without secrets."""
    what = "every request" if config.transparent_mode else 'requests with meta["ezcaptcha"]'
    domains = ", ".join(config.allowed_domains[:_MAX_DOMAINS]) or "any site"
    if more := len(config.allowed_domains[_MAX_DOMAINS:]):
        domains += f" and {more} more"
    proxies = []
    if config.proxies:
        proxies.append(f"a pool of {counted(len(config.proxies), 'proxy', 'proxies')}")
    if config.proxy:
        proxies.append(config.proxy.label)
    tasks = counted(config.max_tasks, "task") if config.max_tasks else "any number of tasks"
    solves = counted(config.max_attempts, "solve")
    return (
        f"scope: {what} to {domains}; store: {_store_in_words(config)}; proxies:"
        f" {' and '.join(proxies) or 'those of the requests'}; limits:"
        f" {tasks}, {config.max_concurrent_tasks} at once, {solves} for each request"
    )


def _store_in_words(config: Config) -> str:
    if config.store_url:
        server = urlsplit(config.store_url)
        return f"{server.scheme}://{server.netloc.rpartition('@')[2]}"
    return str(config.store_file or "memory")


def log_of(crawler: Crawler) -> logging.LoggerAdapter[logging.Logger]:
    """Return the logger, which adds the spider of *crawler* to each line."""
    return logging.LoggerAdapter(logging.getLogger("scrapy_ezcaptcha"), {"spider": crawler.spider})
