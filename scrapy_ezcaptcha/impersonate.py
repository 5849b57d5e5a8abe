"""For scrapy-impersonate: the browser whose TLS hello earned a clearance."""

from __future__ import annotations

from functools import cache
from importlib import import_module

#: The request meta key by which scrapy-impersonate is told a browser.
IMPERSONATE_META = "impersonate"


def browser_for(tls_version: str | None) -> str | None:
    """Return what scrapy-impersonate calls the browser *tls_version* of a solution.

    None if it does not know that browser, or is not installed.
    """
    return tls_version if tls_version in known_browsers() else None


@cache
def known_browsers() -> frozenset[str]:
    """Return the browsers that curl_cffi, beneath scrapy-impersonate, can play."""
    try:
        browser_type = import_module("curl_cffi.requests").BrowserType
    except (ImportError, AttributeError):
        return frozenset()
    return frozenset(browser.value for browser in browser_type)
