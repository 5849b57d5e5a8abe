"""Stores keep clearances for other crawls: the next run, other processes, other machines."""

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
    """Return the store that the settings name, or None.

    If the default file in JOBDIR cannot be opened, this logs a warning and returns None.

    Raises:
        ConfigurationError: the file that is set cannot be opened.
    """
    try:
        return open_store(config)
    except StoreError as error:
        if not config.store_is_own:
            raise ConfigurationError([f"EZCAPTCHA_STORE cannot be opened: {error}"]) from None
        log.warning("The store in JOBDIR cannot be opened (%s); using memory only", error)
        return None


def open_store(config: Config) -> Store | None:
    """Return the store that the settings name; None if clearances are kept in memory only.

    A file is opened now, a connection to a server at the first call.

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
        with suppress(StoreError):  # another process locks it; it may answer later
            store.end_leases()
    return store
