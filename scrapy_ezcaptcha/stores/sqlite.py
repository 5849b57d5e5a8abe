"""Keeps strings in a file, for the next run and for other processes on the same machine."""

from __future__ import annotations

import sqlite3
import time
from contextlib import contextmanager
from threading import RLock
from typing import TYPE_CHECKING

from scrapy_ezcaptcha.stores.store import KEPT_SECONDS, REJECTED_SECONDS, StoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from scrapy_ezcaptcha.stores.store import Change, Contents, Rejection

# Writes take microseconds, so a process that is locked out for this long has a problem.
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


class SqliteBackend:
    """Keeps strings in the file *path*; creates it if needed, readable by its owner only."""

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.time) -> None:
        self._path = path
        self._clock = clock
        self._file: sqlite3.Connection | None = None
        self._lock = RLock()  # no thread reads during another thread's transaction
        try:
            with self._opened() as file:
                file.execute("DELETE FROM fields WHERE until < ?", (clock(),))
                file.execute("DELETE FROM rejected WHERE until < ?", (clock(),))
        except StoreError as error:
            if not _is_locked(error):  # else it may answer later
                raise

    def __str__(self) -> str:
        return str(self._path)

    def read(self, places: Sequence[str]) -> list[Contents]:
        with self._opened() as file:
            return [_contents(file, place, self._clock()) for place in places]

    def write(self, places: Mapping[str, Mapping[str, str]]) -> None:
        until = self._clock() + KEPT_SECONDS
        rows = [
            (place, name, value, until)
            for place, fields in places.items()
            for name, value in fields.items()
        ]
        with self._transaction() as file:
            file.executemany("INSERT OR REPLACE INTO fields VALUES (?, ?, ?, ?)", rows)

    def reject(self, rejections: Sequence[Rejection]) -> None:
        until = self._clock() + REJECTED_SECONDS
        rows = [(one.place, name) for one in rejections for name in one.fields]
        rejected = [(one.place, one.clearance_id, one.unused, until) for one in rejections]
        with self._transaction() as file:
            file.executemany("DELETE FROM fields WHERE place = ? AND name = ?", rows)
            file.executemany("INSERT OR REPLACE INTO rejected VALUES (?, ?, ?, ?)", rejected)

    def update_leases(self, changes: Mapping[str, Change]) -> Mapping[str, Contents]:
        with self._transaction() as file:
            kept = {place: _contents(file, place, self._clock()) for place in changes}
            for place, change in changes.items():
                _, _, lease, now = kept[place]
                changed = change(lease, now)
                if changed is not None:
                    file.execute("INSERT OR REPLACE INTO leads VALUES (?, ?)", (place, changed))
        return kept

    def leases(self) -> Iterable[str]:
        with self._opened() as file:
            return [name for (name,) in file.execute("SELECT place FROM leads")]

    def places(self) -> Iterator[tuple[str, Mapping[str, str]]]:
        places: dict[str, dict[str, str]] = {}
        with self._opened() as file:
            rows = file.execute(
                "SELECT place, name, value FROM fields WHERE until > ?", (self._clock(),)
            )
            for place, name, value in rows:
                places.setdefault(place, {})[name] = value
        yield from places.items()

    def check(self) -> None:
        with self._transaction() as file:
            file.execute("DELETE FROM leads WHERE place IS NULL")  # fails if it is read-only

    def close(self) -> None:
        with self._lock:
            if self._file is not None:
                self._file.close()
                self._file = None

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._opened() as file:
            file.execute("BEGIN IMMEDIATE")
            with file:  # commits, or rolls back
                yield file

    @contextmanager
    def _opened(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            try:
                if self._file is None:
                    self._file = open_private(self._path)
                    self._file.executescript(_TABLES)
                yield self._file
            except (sqlite3.Error, OSError) as error:
                self.close()
                raise StoreError(f"{type(error).__name__}: {error}") from None


def _contents(file: sqlite3.Connection, place: str, now: float) -> Contents:
    fields = file.execute(
        "SELECT name, value FROM fields WHERE place = ? AND until > ?", (place, now)
    ).fetchall()
    rejected = file.execute(
        "SELECT id, unused FROM rejected WHERE place = ? AND until > ?", (place, now)
    ).fetchall()
    rejections = {clearance_id: bool(unused) for clearance_id, unused in rejected}
    lease = file.execute("SELECT state FROM leads WHERE place = ?", (place,)).fetchone()
    return dict(fields), rejections, lease[0] if lease else None, now


def open_private(path: Path) -> sqlite3.Connection:
    """Open the database *path*, readable by its owner only.

    A killed process loses nothing that it has written. Raises OSError or sqlite3.Error.
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
    """Switch to a write-ahead log, so that readers and writers do not lock each other out.

    Processes that open a new file at the same time lock each other out, and SQLite does not wait.
    """
    deadline = time.monotonic() + _BUSY_SECONDS
    while True:
        try:
            file.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if not _is_locked(error) or time.monotonic() > deadline:
                raise
        time.sleep(_RETRY_SECONDS)


def _is_locked(error: Exception) -> bool:
    return "locked" in str(error)
