"""Take secrets out of words that somebody else wrote."""

from __future__ import annotations

from base64 import b64encode
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote

if TYPE_CHECKING:
    from collections.abc import Iterable

_MAX_CHARS = 300


def redact(text: str, secrets: Iterable[str]) -> str:
    """Return *text* as one line of at most 300 characters without any of *secrets*.

    Each secret is also looked for URL-quoted, unquoted and in base64, the forms
    in which a server echoes what it was sent.
    """
    for secret in sorted(_forms(secrets), key=len, reverse=True):
        text = text.replace(secret, "***")
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if len(line) <= _MAX_CHARS else line[: _MAX_CHARS - 1] + "…"


def _forms(secrets: Iterable[str]) -> set[str]:
    forms: set[str] = set()
    for secret in secrets:
        plain = unquote(secret)
        forms |= {secret, plain, quote(plain), quote(plain, safe="")}
        forms.add(b64encode(plain.encode()).decode())
    return forms - {""}
