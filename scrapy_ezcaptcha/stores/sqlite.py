"""Clearances in a file: for the next run, and for other processes of the same machine."""

from __future__ import annotations

import sqlite3
import time
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from scrapy_ezcaptcha.stores.base import StoreBusy, StoreError, View
from scrapy_ezcaptcha.stores.leadership import Leadership, LeadKeeper
from scrapy_ezcaptcha.stores.records import (
    KEPT_SECONDS,
    REJECTED_SECONDS,
    fields_about,
    fields_of,
    held_in,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from scrapy_ezcaptcha.stores.base import Held, Place
    from scrapy_ezcaptcha.stores.records import PlaceNames

# Others write for microseconds; who is locked out for so long has a problem.
_BUSY_SECONDS = 2.0
_RETRY_SECONDS = 0.01

_TABLES = """
CREATE TABLE IF NOT EXISTS fields (
    place TEXT, name TEXT, value TEXT, until REAL, PRIMARY KEY (place, name)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS rejected (
    place TEXT, id TEXT, unused INTEGER, until REAL, PRIMARY KEY (place, id)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS leads (place TEXT PRIMARY KEY, state TEXT) WITHOUT ROWID;
"""


class SqliteStore(LeadKeeper):
    """Keeps clearances in the file *path*, which only its owner may read.

    Args:
        path: the file; it is made if it is not there.
        names: how places are called in it.
        is_own: whether one process at a time uses it, so that all who led before are dead.
        clock: returns seconds since 1970.

    Raises:
        StoreError: the file cannot be opened.
    """

    def __init__(
        self,
        path: Path,
        names: PlaceNames,
        *,
        is_own: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._path = path
        self._names = names
        self._clock = clock
        self._file: sqlite3.Connection | None = None
        with suppress(StoreBusy), self._opened() as file:
            file.execute("DELETE FROM fields WHERE until < ?", (clock(),))
            file.execute("DELETE FROM rejected WHERE until < ?", (clock(),))
            if is_own:
                for name, state in file.execute("SELECT place, state FROM leads").fetchall():
                    ended = replace(Leadership.from_json(state), until=0.0)
                    row = (ended.to_json(), name)
                    file.execute("UPDATE leads SET state = ? WHERE place = ?", row)

    def __str__(self) -> str:
        return str(self._path)

    def get(self, place: Place) -> View:
        """Return what is known of *place*; see :class:`Store`."""
        name, now = self._names.name(place), self._clock()
        with self._opened() as file:
            fields = self._fields(file, name)
            rejected = {
                clearance_id: bool(unused)
                for clearance_id, unused in file.execute(
                    "SELECT id, unused FROM rejected WHERE place = ? AND until > ?", (name, now)
                )
            }
            state = self._state(file, name)
        held = held_in(fields, rejected, place)
        return View(held, rejected, state.leader(now), state.failure)

    def put(self, held: Held) -> None:
        """Keep a clearance; see :class:`Store`."""
        name, until = self._names.name(held.clearance.place), self._clock() + KEPT_SECONDS
        rows = [(name, field, value, until) for field, value in fields_of(held).items()]
        with self._transaction() as file:
            file.executemany("INSERT OR REPLACE INTO fields VALUES (?, ?, ?, ?)", rows)

    def reject(self, place: Place, clearance_id: str, *, unused: bool = False) -> None:
        """Drop a clearance; see :class:`Store`."""
        self.drop(self._names.name(place), clearance_id, unused=unused)

    def drop(self, name: str, clearance_id: str, *, unused: bool = False) -> None:
        """Drop a clearance of the place called *name*, for everybody."""
        until = self._clock() + REJECTED_SECONDS
        with self._transaction() as file:
            about = fields_about(clearance_id, self._fields(file, name))
            file.executemany(
                "DELETE FROM fields WHERE place = ? AND name = ?", [(name, one) for one in about]
            )
            row = (name, clearance_id, unused, until)
            file.execute("INSERT OR REPLACE INTO rejected VALUES (?, ?, ?, ?)", row)

    def everything(self) -> Iterator[tuple[str, Held]]:
        """Return all clearances, each with the name of its place."""
        places: dict[str, dict[str, str]] = {}
        with self._opened() as file:
            rows = file.execute(
                "SELECT place, name, value FROM fields WHERE until > ?", (self._clock(),)
            )
            for place, name, value in rows:
                places.setdefault(place, {})[name] = value
        for place, fields in places.items():
            yield from ((place, held) for held in held_in(fields, ()))

    def check(self) -> None:
        """Raise StoreError unless the file can be read; see :class:`Store`."""
        with self._opened() as file:
            file.execute("SELECT count(*) FROM leads").fetchone()

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _transact(
        self, place: Place, change: Callable[[Leadership, float], Leadership | None]
    ) -> Leadership | None:
        name = self._names.name(place)
        with self._transaction() as file:
            state = change(self._state(file, name), self._clock())
            if state is not None:
                row = (name, state.to_json())
                file.execute("INSERT OR REPLACE INTO leads VALUES (?, ?)", row)
        return state

    def _fields(self, file: sqlite3.Connection, name: str) -> dict[str, str]:
        rows = file.execute(
            "SELECT name, value FROM fields WHERE place = ? AND until > ?", (name, self._clock())
        )
        return dict(rows)

    def _state(self, file: sqlite3.Connection, name: str) -> Leadership:
        row = file.execute("SELECT state FROM leads WHERE place = ?", (name,)).fetchone()
        return Leadership.from_json(row[0] if row else None)

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._opened() as file:
            file.execute("BEGIN IMMEDIATE")
            with file:  # commits, or rolls back
                yield file

    @contextmanager
    def _opened(self) -> Iterator[sqlite3.Connection]:
        try:
            if self._file is None:
                self._file = open_private(self._path)
                self._file.executescript(_TABLES)
            yield self._file
        except (sqlite3.Error, OSError) as error:
            self.close()
            kind = StoreBusy if "locked" in str(error) else StoreError
            raise kind(f"{type(error).__name__}: {error}") from None


def open_private(path: Path) -> sqlite3.Connection:
    """Open the database *path*, made readable by its owner alone.

    A killed process loses nothing of what it had written.

    Raises:
        OSError: the folder is not there, or may not be written.
        sqlite3.Error: the file is no database, or is locked.
    """
    path.touch(mode=0o600)
    file = sqlite3.connect(
        path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False
    )
    try:
        _begin_log(file)
        file.execute("PRAGMA synchronous = NORMAL")
    except sqlite3.Error:
        file.close()
        raise
    return file


def _begin_log(file: sqlite3.Connection) -> None:
    """Have writers and readers not lock each other out.

    The first ones to open a file at the same time do, and SQLite lets none of them wait.
    """
    deadline = time.monotonic() + _BUSY_SECONDS
    while not _is_log_begun(file):
        if time.monotonic() > deadline:
            raise sqlite3.OperationalError("database is locked")
        time.sleep(_RETRY_SECONDS)


def _is_log_begun(file: sqlite3.Connection) -> bool:
    try:
        file.execute("PRAGMA journal_mode = WAL")
    except sqlite3.OperationalError as error:
        if "locked" not in str(error):
            raise
        return False
    return True
