"""Where clearances are kept."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scrapy_ezcaptcha.stores.base import Held, OpenedStore, Store, StoreError
from scrapy_ezcaptcha.stores.memory import MemoryStore
from scrapy_ezcaptcha.stores.records import PlaceNames
from scrapy_ezcaptcha.stores.shared import SharedStore
from scrapy_ezcaptcha.stores.sqlite import SqliteStore

if TYPE_CHECKING:
    from scrapy_ezcaptcha.config import Config

__all__ = ["Held", "MemoryStore", "OpenedStore", "SharedStore", "Store", "StoreError", "open_store"]


def open_store(config: Config) -> OpenedStore | None:
    """Return the store that others use too; None if clearances are kept in memory alone.

    A file is opened now, a server when it is first asked.

    Raises:
        StoreError: the file cannot be opened.
    """
    names = PlaceNames(config.client_key)
    if config.store_file is not None:
        return SqliteStore(config.store_file, names, is_own=config.store_is_own)
    if config.store_url:
        from scrapy_ezcaptcha.stores.redis import RedisStore  # noqa: PLC0415  (an extra)

        return RedisStore(config.store_url, names)
    return None
