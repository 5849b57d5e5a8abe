"""Browsers whose TLS handshake scrapy-impersonate can imitate."""

from __future__ import annotations

import re
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection

    from scrapy.settings import BaseSettings

# How curl_cffi names browsers whose versions are plain numbers: chrome133a, chrome131_android.
_NAME = re.compile(r"(chrome|edge|firefox)([0-9]{2,3})[a-z]?(_[a-z]+)?")


@cache
def known_browsers() -> frozenset[str]:
    """Return the browsers of curl_cffi; empty unless it and scrapy-impersonate are installed."""
    if find_spec("scrapy_impersonate") is None:
        return frozenset()
    try:
        browser_type = import_module("curl_cffi.requests").BrowserType
    except (ImportError, AttributeError):
        return frozenset()
    return frozenset(browser.value for browser in browser_type)


def nearest(browser: str | None, known: Collection[str]) -> str | None:
    """Return *browser* if it is *known*, else the nearest older version for the same system.

    None if there is no older version either.
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


def impersonation_advice(settings: BaseSettings, browser: str | None, *, is_on: bool) -> str:
    """Return how to send requests with the TLS handshake of *browser*, and what is missing.

    *is_on* is EZCAPTCHA_IMPERSONATE.
    """
    if not known_browsers():
        missing = "it is not installed"
    elif not is_impersonating(settings):
        missing = "it is not in DOWNLOAD_HANDLERS"
    elif not is_on:
        missing = "EZCAPTCHA_IMPERSONATE is False"
    elif browser is None:
        return "scrapy-impersonate is on, but the service names no browser"
    elif played := nearest(browser, known_browsers()):
        instead = "" if played == browser else f", in place of {browser}"
        return f"scrapy-impersonate already imitates {played}{instead}"
    else:
        return f"scrapy-impersonate is on, but does not know {browser}"
    return f"use scrapy-impersonate with EZCAPTCHA_IMPERSONATE=True (now {missing})"
