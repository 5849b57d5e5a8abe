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
    from collections.abc import Collection, Iterable, Mapping

    from scrapy_ezcaptcha.stores.base import Place

#: How long a clearance is kept that nobody has anything new to say about, in seconds.
KEPT_SECONDS = 86_400

#: How long it is known that one was rejected.
REJECTED_SECONDS = 3_600

CLEARANCE, ACCEPTED, REFUSED = "clearance", "accepted", "refused"


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


def fields_about(clearance_id: str, names: Iterable[str]) -> list[str]:
    """Return which of *names* are those of fields of one clearance."""
    return [name for name in names if _words(name)[1:2] == [clearance_id]]


def held_in(
    fields: Mapping[str, str], rejected: Collection[str], place: Place | None = None
) -> list[Held]:
    """Return the clearances in *fields*, the oldest first.

    Whoever can write into the store could write anything: what is no usable clearance of
    *place* is left out.

    Args:
        fields: what is kept of a place.
        rejected: ids of clearances that somebody may have put back, not knowing of it.
        place: that place; without it the exits have no credentials.
    """
    held: dict[str, Held] = {}
    verdicts: list[list[str]] = []
    for name, value in fields.items():
        words = _words(name)
        if words[:1] == [CLEARANCE] and len(words) == 2:
            clearance = _clearance(words[1], value, place)
            if clearance is not None and clearance.id not in rejected:
                held[clearance.id] = Held(clearance)
        elif len(words) == 3:
            verdicts.append(words)
    for kind, clearance_id, host in verdicts:
        if clearance_id in held:
            if kind == ACCEPTED:
                held[clearance_id].accepted.add(host)
            elif kind == REFUSED:
                held[clearance_id].refused.add(host)
    return sorted(held.values(), key=lambda one: one.clearance.created)


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
