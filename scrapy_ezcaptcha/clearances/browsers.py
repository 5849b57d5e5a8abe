"""Browsers whose TLS hello scrapy-impersonate can play."""

from __future__ import annotations

import re
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection

    from scrapy.settings import BaseSettings

# As curl_cffi names browsers whose versions are plain numbers: chrome133a, chrome131_android.
_NAME = re.compile(r"(chrome|edge|firefox)([0-9]{2,3})[a-z]?(_[a-z]+)?")


@cache
def known_browsers() -> frozenset[str]:
    """Return the browsers that curl_cffi, beneath scrapy-impersonate, can play; none without it."""
    try:
        browser_type = import_module("curl_cffi.requests").BrowserType
    except (ImportError, AttributeError):
        return frozenset()
    return frozenset(browser.value for browser in browser_type)


def nearest(browser: str | None, known: Collection[str]) -> str | None:
    """Return *browser* if it is *known*, else the nearest older version of it on its system.

    None if there is none of them.
    """
    if browser is None or browser in known:
        return browser
    wanted = _NAME.fullmatch(browser)
    if wanted is None:
        return None
    name, version, system = wanted.groups()
    older = [
        (int(match[2]), match[0])
        for match in map(_NAME.fullmatch, known)
        if match and match[1] == name and match[3] == system and int(match[2]) <= int(version)
    ]
    return max(older)[1] if older else None


def is_impersonating(settings: BaseSettings) -> bool:
    """Whether scrapy-impersonate downloads https pages."""
    return "impersonate" in str(settings.getwithbase("DOWNLOAD_HANDLERS").get("https")).lower()


def impersonation(settings: BaseSettings, browser: str | None, *, is_on: bool) -> str:
    """Return what stands in the way of impersonating *browser*, in words.

    *is_on* is EZCAPTCHA_IMPERSONATE.
    """
    if not known_browsers():
        return "it is not installed"
    if not is_impersonating(settings):
        return "it is installed, but not in DOWNLOAD_HANDLERS"
    if not is_on:
        return "it is in DOWNLOAD_HANDLERS, but EZCAPTCHA_IMPERSONATE is off"
    if browser is None:
        return "it is on, but the service names no browser"
    played = nearest(browser, known_browsers())
    if played is None:
        return f"it is on, but does not know {browser}; a newer curl_cffi may"
    return f"it is on, and plays {played}{'' if played == browser else f' for {browser}'}"
