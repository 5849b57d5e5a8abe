"""What is loaded in the process from which crawls are forked; see ``support``.

A short crawl would else spend most of its time on importing what Scrapy's settings name, and on
reading the public-suffix list. No reactor is imported: each crawl installs its own.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

import crawl_runner  # noqa: F401
import scrapy.commands
from scrapy.settings import Settings

import scrapy_ezcaptcha.commands
import scrapy_ezcaptcha.stores
from scrapy_ezcaptcha.clearances.clearance import zone_of

SETTINGS = Settings()
# They take long to load, for matplotlib, and few tests need them.
RARE = {f"scrapy_ezcaptcha.commands.report_{name}" for name in ("page", "plots")}


def named(value: Any) -> Iterator[str]:
    """Yield the modules of Scrapy that are named in the value of a setting."""
    if isinstance(value, str) and value.startswith("scrapy."):
        yield value.rpartition(".")[0]
    elif isinstance(value, Mapping):
        for pair in value.items():
            for part in pair:
                yield from named(part)


MODULES = {module for setting in SETTINGS for module in named(SETTINGS[setting])} | {
    f"{package.__name__}.{module.name}"
    for package in (scrapy.commands, scrapy_ezcaptcha.commands, scrapy_ezcaptcha.stores)
    for module in iter_modules(package.__path__)
}
for module in sorted(MODULES - RARE):
    with suppress(ImportError):  # a handler whose package is not installed
        import_module(module)
zone_of("shop.example")
assert "twisted.internet.reactor" not in sys.modules
gc.freeze()  # what all have in common is not copied when a crawl collects its own garbage
