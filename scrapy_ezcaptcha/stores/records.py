"""Clearances as text, for a file or a server: what is kept of a place is a dict of strings.

A clearance is one field, each host's verdict on it another one, so that several processes
write at once without reading first. The exit's credentials are not kept: a place is named by
a digest of them that only the owner of the client key can compute.
"""

from __future__ import annotations

import json
from hashlib import blake2b, sha256
from typing import TYPE_CHECKING, Any

from scrapy_ezcaptcha.clearance import Clearance, lacks_for_clearance, zone_of
from scrapy_ezcaptcha.errors import ExitError
from scrapy_ezcaptcha.exit import Exit
from scrapy_ezcaptcha.stores.base import Held
from scrapy_ezcaptcha.wire import solution_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from scrapy_ezcaptcha.stores.base import Place

CLEARANCE, ACCEPTED, REFUSED, REJECTED = "clearance", "accepted", "refused", "rejected"
UNUSED = "unused"


class PlaceNames:
    """Names places for a store; the same client key gives the same names."""

    def __init__(self, client_key: str) -> None:
        self._key = sha256(client_key.encode()).digest()

    def name(self, place: Place) -> str:
        """Return the name of *place*: its zone and a digest of its exit."""
        zone, exit = place
        return f"{zone}/{blake2b(exit.url.encode(), key=self._key, digest_size=12).hexdigest()}"


def fields_of(held: Held) -> dict[str, str]:
    """Return what is to be kept of a clearance."""
    clearance = held.clearance
    whole = {
        "zone": clearance.zone,
        "exit": clearance.exit.address,
        "origin": clearance.origin,
        "created": clearance.created,
        "header": dict(clearance.headers),
        "cookies": dict(clearance.cookies),
        "tlsVersion": clearance.tls_version,
    }
    fields = {_field(CLEARANCE, clearance.id): json.dumps(whole)}
    fields |= {_field(ACCEPTED, clearance.id, host): "" for host in held.accepted}
    fields |= {_field(REFUSED, clearance.id, host): "" for host in held.refused}
    return fields


def clearance_field(clearance_id: str) -> str:
    """Return the name of the field that has a clearance itself."""
    return _field(CLEARANCE, clearance_id)


def rejection_of(clearance_id: str, *, unused: bool) -> dict[str, str]:
    """Return what is to be kept of a clearance that is of no use any more."""
    return {_field(REJECTED, clearance_id): UNUSED if unused else ""}


def held_in(
    fields: Mapping[str, str], place: Place | None = None
) -> tuple[list[Held], dict[str, bool]]:
    """Return the clearances in *fields*, the oldest first, and those rejected.

    The latter by id; True where they never were of any use. Whoever can write into the store
    could write anything: what is no usable clearance of *place* is left out.

    Args:
        fields: what is kept of a place.
        place: that place; without it the exits have no credentials.
    """
    held: dict[str, Held] = {}
    verdicts: list[list[str]] = []
    rejected: dict[str, bool] = {}
    for name, value in fields.items():
        words = _words(name)
        if words[:1] == [CLEARANCE] and len(words) == 2:
            clearance = _clearance(words[1], value, place)
            if clearance is not None:
                held[words[1]] = Held(clearance)
        elif words[:1] == [REJECTED] and len(words) == 2:
            rejected[words[1]] = value == UNUSED
        else:
            verdicts.append(words)
    for words in verdicts:
        if len(words) == 3 and words[1] in held:
            kind, clearance_id, host = words
            if kind == ACCEPTED:
                held[clearance_id].accepted.add(host)
            elif kind == REFUSED:
                held[clearance_id].refused.add(host)
    kept = [one for clearance_id, one in held.items() if clearance_id not in rejected]
    return sorted(kept, key=lambda one: one.clearance.created), rejected


def _field(*words: str) -> str:
    return json.dumps(words)


def _words(name: str) -> list[str]:
    try:
        words = json.loads(name)
    except (ValueError, RecursionError):
        return []
    if isinstance(words, list) and all(isinstance(word, str) for word in words):
        return words
    return []


def _clearance(clearance_id: str, text: str, place: Place | None) -> Clearance | None:
    try:
        whole: dict[str, Any] = json.loads(text)
        solution = solution_of(whole)
        zone, exit = place or (zone_of(whole["zone"]), Exit.parse(whole["exit"]))
        if zone != whole["zone"] or lacks_for_clearance(solution):
            return None
        return Clearance.from_solution(
            solution,
            zone=zone,
            origin=str(whole["origin"]),
            exit=exit,
            id=clearance_id,
            created=float(whole["created"]),
        )
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError, ExitError):
        return None
