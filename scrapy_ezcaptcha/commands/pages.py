"""What a page is that is no challenge: a block page, a rate limit, an error on the way."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from scrapy_ezcaptcha.challenge import through_cloudflare

if TYPE_CHECKING:
    from scrapy.http import Response

_MAX_SCAN = 256 * 1024  # bytes
_RATE_LIMITED = 1015

# As in "Error 1020", "error code: 1020" and <span class="cf-error-code">1020</span>; see
# https://developers.cloudflare.com/support/troubleshooting/http-status-codes/cloudflare-1xxx-errors/
_CODE = re.compile(
    r"(?:\berror\s{0,9}(?:code)?\s{0,9}:?\s{0,9}(?:<[^<>]{0,200}>\s{0,9}){0,3}|cf-error-code[\"']?>\s{0,9})"
    r"(1\d{3})\b",
    re.IGNORECASE,
)
_BLOCKED = re.compile(r"you have been blocked|cf-error-details", re.IGNORECASE)
_TURNSTILE = re.compile(
    r"challenges\.cloudflare\.com/turnstile/|\bclass\s{0,9}=\s{0,9}[\"']?[\w -]{0,99}\bcf-turnstile\b",
    re.IGNORECASE,
)

# See https://developers.cloudflare.com/support/troubleshooting/http-status-codes/cloudflare-5xx-errors/
_ORIGIN_ERRORS = {
    520: "the site's own server gave an unknown answer to Cloudflare",
    521: "the site's own server refuses the connection of Cloudflare",
    522: "the site's own server did not answer Cloudflare in time",
    523: "Cloudflare finds no way to the site's own server",
    524: "the site's own server accepted the request, and did not answer it in time",
    525: "the TLS handshake of Cloudflare with the site's own server failed",
    526: "the certificate of the site's own server is invalid",
}


def what_it_is(response: Response) -> str | None:
    """Return in words what *response* is, which is no challenge; None if nothing is known.

    A status of 200 may also mean that the status is not known.
    """
    if response.status == 407:
        return "the proxy refuses the user name and password"
    page = response.body[:_MAX_SCAN].decode("utf-8", "replace")
    if text := _error(response, page):
        return text
    if _TURNSTILE.search(page):
        return "a page with a Turnstile form, which is the site's own and is not solved"
    if response.status in {403, 429, 503} and through_cloudflare(response):
        return "Cloudflare or the site refuses the request, with no sign of a challenge"
    return None


def proxy_refuses(error: str) -> bool:
    """Whether the text of a failed download says that the proxy wants other credentials."""
    return "407" in error and "CONNECT" in error


def _error(response: Response, page: str) -> str | None:
    status = response.status
    if not through_cloudflare(response):
        return None
    if status in _ORIGIN_ERRORS:
        return f"origin error {status}: {_ORIGIN_ERRORS[status]}; try again later"
    if status < 400:
        return None
    found = _CODE.search(page)
    code = int(found[1]) if found else None
    if code == _RATE_LIMITED or (status == 429 and code is None):
        name = f" (error {code})" if code else ""
        return f"rate limit{name}: too many requests by this address; a solve does not help"
    if status == 530:
        name = f" {code}" if code else ""
        return f"error{name}: Cloudflare cannot find the site's own server"
    if code is not None or _BLOCKED.search(page):
        name = f" (error {code})" if code else ""
        return f"block page{name}: the site refuses this visitor; a solve does not help"
    return None
