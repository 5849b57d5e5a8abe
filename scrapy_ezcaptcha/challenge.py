"""Detects Cloudflare challenges, and names the sign by which each was detected.

No I/O, no clock. For most responses, the status and two headers are enough. The body is read
only if they do not settle the question: at most its first :data:`MAX_SCAN` bytes, in one pass.

The signs follow Cloudflare's documentation
(https://developers.cloudflare.com/cloudflare-challenges/challenge-types/challenge-pages/detect-response/)
and pages captured since 2019. Words are not a sign, because titles are translated and customised.
"""

from __future__ import annotations

import re
from itertools import islice
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scrapy.http import Response

#: Bytes of a body that are searched. Challenge pages have 5 to 25 KB. Customised pages embed
#: fonts and pictures before Cloudflare's script; the largest one seen has 340 KB.
MAX_SCAN = 3_500_000

# The same for old kinds of challenge pages, which embedded nothing.
_MAX_SCAN_OLD = 256 * 1024

SIGN_HEADER = "cf-mitigated header"
SIGN_OPTIONS = "_cf_chl_opt script object"
SIGN_ORCHESTRATE = "challenge-platform orchestrate script"
SIGN_SCRIPT = "cf.challenge.js script"
SIGN_FORM = "challenge form"

_STATUSES = frozenset({403, 429, 503})

# Every challenge page contains one of these words, and few other pages do, so most suspect pages
# need no parsing. Browsers distinguish their case too.
_OPTIONS_HINT = b"_cf_chl_opt"
_PLATFORM_HINT = b"/cdn-cgi/challenge-platform/"
_OLD_HINTS = (b"/cdn-cgi/scripts/cf.challenge.js", b"jschl_", b"cf_captcha_kind")

# What follows these words in a challenge page.
_AFTER_OPTIONS = re.compile(rb"\s{0,9}=\s{0,9}\{")
_AFTER_PLATFORM = re.compile(rb"[\w./-]{0,99}\borchestrate/")

# Where text begins that a browser would not run, and the tags that are examined.
_TOKEN = re.compile(rb"<(!--|(?:script|style|textarea|title|xmp|template|noembed|input)\b)")
_OPTIONS = re.compile(rb"_cf_chl_opt\s{0,9}=\s{0,9}\{")
_BEFORE_OPTIONS = re.compile(rb"(?:^|[\s;,{}()])(?:window\.|self\.)?\Z")
_OPTION_KEY = re.compile(rb"\bc(?:type|ray)['\"]?\s{0,9}:")
_ORCHESTRATE = re.compile(
    rb"\bsrc\s{0,9}=\s{0,9}['\"]?"
    rb"(?:https?://[\w.:-]{1,255})?/cdn-cgi/challenge-platform/[\w./-]{0,99}\borchestrate/"
)
_CHALLENGE_JS = re.compile(
    rb"\bsrc\s{0,9}=\s{0,9}['\"]?(?:https?://[\w.:-]{1,255})?/cdn-cgi/scripts/cf\.challenge\.js"
)
_FIELD = re.compile(rb"\bname\s{0,9}=\s{0,9}['\"]?(?:jschl_vc|jschl_answer|cf_captcha_kind)\b")
_MAX_TAG = 4096  # bytes; Cloudflare writes no longer tags
_MAX_TOKENS = 1000  # more than any challenge page has; limits the time that a hostile page costs
_LONGEST_BEFORE = 8  # bytes that _BEFORE_OPTIONS may match
_MAX_OPTIONS = 65_536  # bytes of the options that are searched for one of their keys


def is_challenge(response: Response) -> bool:
    """Return whether *response* is a Cloudflare challenge.

    True for challenge pages of every age, language and status, even without a body (HEAD).
    False for block pages, rate limits, errors of the origin, pages with a Turnstile widget or
    the JavaScript Detections snippet, and articles about them.
    """
    return challenge_sign(response) is not None


def challenge_sign(response: Response) -> str | None:
    """Return the sign that *response* is a challenge, or None if it is not a challenge.

    The header ``cf-mitigated: challenge`` is enough by itself, at any status. Without it, the
    scripts and forms in the page decide, if the status is 403, 429 or 503 and the response came
    through Cloudflare (``Server: cloudflare`` or ``CF-RAY``).
    """
    if any(value.strip().lower() == b"challenge" for value in _lines(response, b"Cf-Mitigated")):
        return SIGN_HEADER
    return page_sign(response.body) if is_suspect(response) else None


def is_suspect(response: Response) -> bool:
    """Whether the page must be searched to decide if *response* is a challenge."""
    return response.status in _STATUSES and through_cloudflare(response)


def is_of_site(response: Response) -> bool:
    """Whether *response* comes from the site itself.

    False for a challenge, for a status that a challenge may have, and for an error of a proxy or
    gateway.
    """
    if response.status in _STATUSES or _lines(response, b"Cf-Mitigated"):
        return False
    return through_cloudflare(response) or response.status < 400


def page_sign(body: bytes) -> str | None:
    """Return the sign that the page *body* is a challenge, or None if it is not a challenge."""
    if not (
        _has(body, _OPTIONS_HINT, _AFTER_OPTIONS)
        or _has(body, _PLATFORM_HINT, _AFTER_PLATFORM)
        or any(body.find(hint, 0, _MAX_SCAN_OLD) >= 0 for hint in _OLD_HINTS)
    ):
        return None
    page, position = body[:MAX_SCAN].lower(), 0
    for _ in range(_MAX_TOKENS):
        token = _TOKEN.search(page, position)
        if token is None:
            return None
        name = token[1]
        if name == b"input":
            position = token.end()
            if _FIELD.search(_tag(page, position)):
                return SIGN_FORM
        elif name == b"script":
            attributes = _tag(page, token.end())
            start = token.end() + len(attributes) + 1
            position = _find(page, b"</script", start)
            if sign := _script_sign(attributes, page[start:position]):
                return sign
        else:
            closer = b"-->" if name == b"!--" else b"</" + name
            position = _find(page, closer, token.end())
    return None


def through_cloudflare(response: Response) -> bool:
    """Whether *response* came through Cloudflare, by its ``CF-RAY`` or ``Server`` header."""
    if _lines(response, b"Cf-Ray"):
        return True
    server = _lines(response, b"Server")
    return bool(server) and server[-1].strip().lower().startswith(b"cloudflare")


def _lines(response: Response, name: bytes) -> Sequence[bytes]:
    """Return the values of a header; *name* is as Scrapy writes it, so nothing is normalized."""
    return dict.get(response.headers, name) or ()


def _has(body: bytes, hint: bytes, after: re.Pattern[bytes]) -> bool:
    """Whether *body* contains *hint*, followed by *after* as in a challenge page."""
    position = body.find(hint, 0, MAX_SCAN)
    for _ in range(_MAX_TOKENS):
        if position < 0 or after.match(body, position + len(hint)):
            return position >= 0
        position = body.find(hint, position + len(hint), MAX_SCAN)
    return False


def _script_sign(attributes: bytes, code: bytes) -> str | None:
    if b"json" in attributes:  # data, which browsers do not run
        return None
    for text in (attributes, code):
        if b"/cdn-cgi/" not in text:
            continue
        if _ORCHESTRATE.search(text):
            return SIGN_ORCHESTRATE
        if _CHALLENGE_JS.search(text):
            return SIGN_SCRIPT
    for options in islice(_OPTIONS.finditer(code), _MAX_TOKENS):
        before = code[max(0, options.start() - _LONGEST_BEFORE) : options.start()]
        if _BEFORE_OPTIONS.search(before):
            end = options.end() + _MAX_OPTIONS
            return SIGN_OPTIONS if _OPTION_KEY.search(code, options.end(), end) else None
    return None


def _tag(page: bytes, start: int) -> bytes:
    end = page.find(b">", start, start + _MAX_TAG)
    return page[start : end if end >= 0 else start]


def _find(page: bytes, what: bytes, start: int) -> int:
    end = page.find(what, start)
    return end if end >= 0 else len(page)
