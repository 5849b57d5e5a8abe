"""Clearances as text, for a file or a server: each place has a dict of strings.

A clearance is one field, and the verdict of each host on it is another one. So several processes
can write at the same time without reading first.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from scrapy_ezcaptcha.clearances.clearance import Clearance, lacks_for_clearance, zone_of
from scrapy_ezcaptcha.clearances.record import Record
from scrapy_ezcaptcha.errors import ExitError
from scrapy_ezcaptcha.exit import Exit
from scrapy_ezcaptcha.service.wire import solution_of

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from scrapy_ezcaptcha.clearances.clearance import Place

CLEARANCE, ACCEPTED, REFUSED, PAGES = "clearance", "accepted", "refused", "pages"


_MAX_DIGITS = 12


def fields_of(record: Record, since: int = -1) -> dict[str, str]:
    """Return the fields of a clearance; without its own if it was not renewed after *since*."""
    clearance = record.clearance
    whole = {
        "zone": clearance.zone,
        "exit": clearance.exit.address,
        "label": clearance.exit.label,
        "origin": clearance.origin,
        "created": clearance.created,
        "header": dict(clearance.headers),
        "cookies": dict(clearance.cookies),
        "tlsVersion": clearance.tls_version,
        "path": record.path,
        "only": record.only,
    }
    fields = {}
    if record.renewed > since:  # else another process may have written newer cookies
        fields[_field(CLEARANCE, clearance.id)] = json.dumps(whole)
    fields |= {_field(ACCEPTED, clearance.id, host): "" for host in record.accepted}
    fields |= {_field(REFUSED, clearance.id, refuser): "" for refuser in record.refused}
    fields |= {_field(PAGES, clearance.id, one): str(count) for one, count in record.counts.items()}
    return fields


def fields_about(clearance_id: str, names: Iterable[str]) -> list[str]:
    """Return those of *names* that are fields of one clearance."""
    return [name for name in names if _words(name)[1:2] == [clearance_id]]


def records_in(
    fields: Mapping[str, str], rejected: Collection[str], place: Place | None = None
) -> list[Record]:
    """Return the clearances in *fields*, the oldest first.

    Leaves out what is not a usable clearance of *place*, because other programs may write into the
    store too, and *rejected* clearances that another process wrote back without knowing. Without
    *place*, the exits have no credentials, and the records have their labels.
    """
    records: dict[str, Record] = {}
    about: list[tuple[list[str], str]] = []
    for name, value in fields.items():
        words = _words(name)
        if words[:1] == [CLEARANCE] and len(words) == 2:
            record = _record(words[1], value, place)
            if record is not None and record.clearance.id not in rejected:
                records[record.clearance.id] = record
        elif len(words) == 3:
            about.append((words, value))
    for (kind, clearance_id, who), value in about:
        record = records.get(clearance_id)
        if record is None:
            continue
        if kind == ACCEPTED:
            record.accepted.add(who)
        elif kind == REFUSED:
            record.refused.add(who)
        elif kind == PAGES and isinstance(value, str) and value.isascii() and value.isdecimal():
            record.counts[who] = int(value[:_MAX_DIGITS])
    return sorted(records.values(), key=lambda one: one.clearance.created)


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


def _record(clearance_id: str, text: str, place: Place | None) -> Record | None:
    try:
        whole: dict[str, Any] = json.loads(text)
        solution = solution_of(whole)
        zone, exit = place or (zone_of(whole["zone"]), Exit.parse(whole["exit"]))
        if zone != whole["zone"] or lacks_for_clearance(solution):
            return None
        origin, created = str(whole["origin"]), float(whole["created"])
        clearance = Clearance.from_solution(solution, (zone, exit), origin, clearance_id, created)
        names = [whole.get(name) for name in ("path", "only", "label")]
        path, only, label = (name if isinstance(name, str) else None for name in names)
        record = Record(clearance, path=path, only=only)
        if place is None and label and label.startswith(f"{exit}#") and label.isprintable():
            record.label = label
        return record
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError, ExitError):
        return None
