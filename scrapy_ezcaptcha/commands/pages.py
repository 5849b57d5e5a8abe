"""What a page is if it is not a challenge: a block page, a rate limit, a gateway error."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from scrapy_ezcaptcha.challenge import through_cloudflare

if TYPE_CHECKING:
    from scrapy.http import Response

_MAX_SCAN = 256 * 1024  # bytes
_RATE_LIMIT = "rate limit: this address sends too many requests, and a solve does not help"
_BLOCK = "block page: the site refuses this visitor, and a solve does not help"

# As in "Error 1020", "error code: 1020" and <span class="cf-error-code">1020</span>; see
# https://developers.cloudflare.com/support/troubleshooting/http-status-codes/cloudflare-1xxx-errors/
_CODE = re.compile(
    r"(?:\berror\s{0,9}(?:code)?\s{0,9}:?\s{0,9}(?:<[^<>]{0,200}>\s{0,9}){0,3}|cf-error-code[\"']?>\s{0,9})"
    r"(1\d{3})\b",
    re.IGNORECASE,
)
_BLOCKED = re.compile(r"you have been blocked|cf-error-details", re.IGNORECASE)
_TURNSTILE = re.compile(
    r"challenges\.cloudflare\.com/turnstile/"
    r"|\bclass\s{0,9}=\s{0,9}[\"']?[\w -]{0,99}\bcf-turnstile\b",
    re.IGNORECASE,
)

# See https://developers.cloudflare.com/support/troubleshooting/http-status-codes/cloudflare-5xx-errors/
_ORIGIN_ERRORS = {
    520: "the site's own server sent Cloudflare an unknown answer",
    521: "the site's own server refuses the connection of Cloudflare",
    522: "the site's own server did not answer Cloudflare in time",
    523: "Cloudflare cannot reach the site's own server",
    524: "the site's own server accepted the request, but did not answer it in time",
    525: "the TLS handshake of Cloudflare with the site's own server failed",
    526: "the certificate of the site's own server is invalid",
}


def what_it_is(response: Response) -> str | None:
    """Return what *response* is, in words, if it is not a challenge; None if that is unknown."""
    status = response.status
    if status == 407:
        return "the proxy refuses the user name and password"
    is_error = status >= 400 and through_cloudflare(response)
    if is_error and status in _ORIGIN_ERRORS:
        return f"origin error {status}: {_ORIGIN_ERRORS[status]}; try again later"
    if words := what_page_is(response.body, is_error=is_error):
        return words
    if is_error and status == 429:
        return _RATE_LIMIT
    if is_error and status in {403, 503}:
        return "Cloudflare or the site refuses the request, without a sign of a challenge"
    return None


def what_page_is(body: bytes, *, is_error: bool = True) -> str | None:
    """Return what the page *body* is, in words; None if that is unknown.

    *is_error* is False if the status of the page is not one of Cloudflare's errors.
    """
    page = body[:_MAX_SCAN].decode("utf-8", "replace")
    found = _CODE.search(page) if is_error else None
    code = found[1] if found else None
    if code == "1015":
        return f"{_RATE_LIMIT} (error 1015)"
    if code == "1016":
        return "error 1016: Cloudflare cannot find the site's own server; try again later"
    if code is not None:
        return f"{_BLOCK} (error {code})"
    if is_error and _BLOCKED.search(page):
        return _BLOCK
    if _TURNSTILE.search(page):
        return "a page with a Turnstile form, which this middleware does not solve"
    return None


def proxy_refuses(error: str) -> bool:
    """Whether the text of a failed download says that the proxy refuses the credentials."""
    return "407" in error and "CONNECT" in error
