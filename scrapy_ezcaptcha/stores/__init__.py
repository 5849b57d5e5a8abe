"""Where clearances are kept."""

from __future__ import annotations

from scrapy_ezcaptcha.stores.memory import Held, MemoryStore

__all__ = ["Held", "MemoryStore"]
