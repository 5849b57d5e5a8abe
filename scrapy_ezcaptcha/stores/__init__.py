"""Where clearances are kept for other crawls: the next run, other processes, other machines."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from scrapy.utils.misc import load_object

from scrapy_ezcaptcha.config import STORE_BACKENDS
from scrapy_ezcaptcha.errors import ConfigurationError
from scrapy_ezcaptcha.stores.store import Store, StoreError

if TYPE_CHECKING:
    import logging
    from typing import Any

    from scrapy_ezcaptcha.config import Config

__all__ = ["Store", "StoreError", "open_store", "store_for_crawl"]


def store_for_crawl(config: Config, log: logging.LoggerAdapter[Any]) -> Store | None:
    """Return the store of the settings, or None if there is none.

    If the file that is the default in JOBDIR cannot be opened, *log* says so.

    Raises:
        ConfigurationError: the file that is set cannot be opened.
    """
    try:
        return open_store(config)
    except StoreError as error:
        if not config.store_is_own:
            raise ConfigurationError([f"EZCAPTCHA_STORE cannot be opened: {error}"]) from None
        log.warning("The store in JOBDIR cannot be opened (%s); using memory alone", error)
        return None


def open_store(config: Config) -> Store | None:
    """Return the store of the settings; None if clearances are kept in memory alone.

    A file is opened now, a server when it is first asked.

    Raises:
        StoreError: the file cannot be opened.
    """
    where = config.store_file or config.store_url
    if not where:
        return None
    scheme = config.store_url.partition("://")[0] or "sqlite"
    backend = load_object(STORE_BACKENDS[scheme])(where)
    store = Store(backend, config.client_key)
    if config.store_is_own:
        with suppress(StoreError):  # it is locked; it may answer in a while
            store.end_leases()
    return store
