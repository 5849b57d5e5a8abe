"""Words in messages: a number with its noun, and the setting that a user may have meant."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

_CUTOFF = 0.6  # similarity of two names without their prefix; below it, they have little in common

# The names of the key in other libraries and older SDKs.
_OTHER_NAMES = {"API_KEY": "CLIENT_KEY", "KEY": "CLIENT_KEY"}


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """Return *number* with its noun: ``1 task``, ``2,000 tasks``."""
    return f"{number:,} {noun if number == 1 else plural or f'{noun}s'}"


def unknown_settings(settings: Iterable[str], known: Collection[str], prefix: str) -> Iterator[str]:
    """Return a warning for each of *settings* that has *prefix* and is not *known*."""
    for name in sorted(settings):
        if not name.startswith(prefix) or name in known:
            continue
        nearest = _nearest(name.removeprefix(prefix), {one.removeprefix(prefix) for one in known})
        hint = f"; did you mean {prefix}{nearest}?" if nearest else ""
        yield f"the setting {name} does not exist{hint}"


def _nearest(name: str, known: Collection[str]) -> str | None:
    if name in _OTHER_NAMES:
        return _OTHER_NAMES[name]
    return next(iter(get_close_matches(name, sorted(known), n=1, cutoff=_CUTOFF)), None)
