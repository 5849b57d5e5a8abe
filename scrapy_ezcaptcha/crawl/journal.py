"""With JOBDIR, waiting requests are on disk too, in case the process is killed.

A waiting request has left the scheduler's queue, and more requests can wait than Scrapy alone
has in flight. The journal contains each request from the time when it begins to wait until it
reaches the downloader. The next run sends the requests that a killed run left there.

If a request cannot be restored, because its callback was renamed, it stays in the file until a
later run can restore it.

The journal never stops a crawl. If the file is not a journal, it is renamed, and a new one is
created. If a call fails, for example because the disk is full, the crawl continues without a
journal. The file is then removed, because the next run would send its requests again; this also
makes room for Scrapy's own queue. If it contains requests that could not be restored, it is
renamed instead.
"""

from __future__ import annotations

import logging
import pickle
import sqlite3
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from scrapy.utils.job import job_dir
from scrapy.utils.request import request_from_dict
from scrapy.utils.url import strip_url

from scrapy_ezcaptcha.crawl.memo import Memo, take_ticket
from scrapy_ezcaptcha.stores.sqlite import open_private

if TYPE_CHECKING:
    from scrapy import Request, Spider
    from scrapy.crawler import Crawler
    from scrapy.settings import BaseSettings

logger = logging.getLogger(__name__)

FILE_NAME = "ezcaptcha-waiting.sqlite"

_COLUMNS = ["ticket", "request"]
_PARTS = ("", "-wal", "-shm")  # an SQLite database has up to three files
_MAX_NAMED = 10
_REMOVE_IT = "remove it before the next run, which would send requests again"


class Journal:
    """The waiting requests of *spider*, in a file in *folder*.

    Raises OSError or sqlite3.Error if the file cannot be opened. The file then does not change, and
    the next run that can open it sends its requests.
    """

    def __init__(self, folder: Path, spider: Spider) -> None:
        self._spider = spider
        self._path = folder / FILE_NAME
        self._file: sqlite3.Connection | None = None  # None after a call has failed
        try:
            self._file = _opened(self._path)
        except _Broken as error:
            aside = _set_aside(self._path)
            self._warn("%s is broken (%s); it is now %s", FILE_NAME, error, aside.name)
            self._file = _opened(self._path)
        self._restored: list[int] = []  # the rows of requests that left_behind returned
        # Rows up to this one are from earlier runs, and not sent yet.
        self._kept: int = self._file.execute("SELECT max(rowid) FROM waiting").fetchone()[0] or 0

    @classmethod
    def of(cls, crawler: Crawler, log: logging.LoggerAdapter[Any]) -> Journal | None:
        """Return the journal of *crawler*; None without JOBDIR, or if it cannot be opened."""
        folder, spider = job_dir(crawler.settings), crawler.spider
        if not folder or spider is None:
            return None
        try:
            return cls(Path(folder), spider)
        except (OSError, sqlite3.Error) as error:
            log.warning("%s cannot be opened (%s); continuing without it", FILE_NAME, error)
            return None

    def add(self, request: Request) -> None:
        """Note that *request* waits; skip it if it cannot be pickled, as Scrapy does."""
        if self._file is None:
            return
        memo = Memo.on(request)
        ticket = memo.ticket or uuid4().hex  # unlike any ticket of the run before
        try:
            record = pickle.dumps(request.to_dict(spider=self._spider), protocol=4)
        except (ValueError, AttributeError, TypeError, pickle.PicklingError):
            return
        self._execute("INSERT OR REPLACE INTO waiting VALUES (?, ?)", ticket, record)
        replace(memo, ticket=ticket).put_on(request)

    def remove(self, request: Request) -> None:
        """Note that *request* no longer waits."""
        ticket = take_ticket(request)
        if ticket is not None:
            self._execute("DELETE FROM waiting WHERE ticket = ?", ticket)

    def left_behind(self) -> list[Request]:
        """Return the requests that waited when an earlier crawl was killed.

        Logs one warning with the requests that cannot be restored.
        """
        requests, failures = [], []
        rows = self._execute("SELECT rowid, request FROM waiting ORDER BY rowid")
        self._restored, self._kept = [], 0
        for row, record in rows:
            request = _restored(record, self._spider)
            if isinstance(request, str):
                failures.append(request)
                self._kept = row
            else:
                requests.append(request)
                self._restored.append(row)
        if requests:
            logger.info(
                "%d requests waited for a solve when the last run was killed; they are sent now",
                len(requests),
                extra={"spider": self._spider},
            )
        if failures:
            more = len(failures) - _MAX_NAMED
            self._warn(
                "%d requests that waited for a solve cannot be restored; they stay in %s, and a"
                " run that can restore them sends them: %s%s",
                len(failures),
                FILE_NAME,
                "; ".join(failures[:_MAX_NAMED]),
                f"; and {more} more" if more > 0 else "",
            )
        return requests

    def clear(self) -> None:
        """Forget the requests that were restored, because the scheduler has them now."""
        self._execute("BEGIN")
        for row in self._restored:
            self._execute("DELETE FROM waiting WHERE rowid = ?", row)
        self._execute("COMMIT")
        self._restored = []

    def close(self) -> None:
        """Remove the file, because no request waits; keep it for requests of earlier runs."""
        self._execute("DELETE FROM waiting WHERE rowid > ?", self._kept)
        if self._file is None:
            return
        self._file.close()
        self._file = None
        if not self._kept:
            try:
                _remove(self._path)
            except OSError as error:
                self._warn("%s cannot be removed (%s); %s", FILE_NAME, error, _REMOVE_IT)

    def _execute(self, statement: str, *values: Any) -> list[Any]:
        """Return the rows of *statement*; if it fails, return none, and stop the journal."""
        if self._file is None:
            return []
        try:
            return self._file.execute(statement, values).fetchall()
        except sqlite3.Error as error:
            self._go_on_without(error)
            return []

    def _go_on_without(self, error: sqlite3.Error) -> None:
        """Write nothing more, and leave nothing that the next run would send again."""
        assert self._file is not None
        self._file.close()
        self._file = None
        try:
            if self._kept:
                then = f"it is now {_set_aside(self._path).name}"
            else:
                _remove(self._path)
                then = "it is removed"
        except OSError:
            then = _REMOVE_IT
        self._warn(
            "%s fails (%s); continuing without it: requests that wait are lost if this run is"
            " killed; %s",
            FILE_NAME,
            error,
            then,
        )

    def _warn(self, message: str, *values: Any) -> None:
        logger.warning(message, *values, extra={"spider": self._spider})


class _Broken(Exception):
    """The file is not a journal."""


def _opened(path: Path) -> sqlite3.Connection:
    """Open the journal *path*; create it if needed.

    Raises _Broken if the file is not a journal, and OSError or another sqlite3.Error if it cannot
    be opened.
    """
    try:
        file = open_private(path)  # requests may carry cookies and passwords
        try:
            _prepare(file)
        except Exception:
            file.close()
            raise
    except sqlite3.OperationalError:  # locked or full: the file itself is fine
        raise
    except sqlite3.DatabaseError as error:
        raise _Broken(str(error)) from None
    return file


def _prepare(file: sqlite3.Connection) -> None:
    # A killed process loses nothing that it wrote; only a power failure can lose something.
    file.execute("PRAGMA synchronous = OFF")
    ((verdict,),) = file.execute("PRAGMA integrity_check(1)").fetchall()
    if verdict != "ok":
        raise _Broken(verdict)
    file.execute("CREATE TABLE IF NOT EXISTS waiting (ticket TEXT PRIMARY KEY, request BLOB)")
    columns = [column[1] for column in file.execute("PRAGMA table_info(waiting)")]
    if columns != _COLUMNS:
        raise _Broken(f"its table has the columns {', '.join(columns)}")


def _restored(record: bytes, spider: Spider) -> Request | str:
    """Return the request of *record*, or its URL and the reason why it cannot be restored."""
    url = shown = "a request"
    try:
        fields = pickle.loads(record)  # noqa: S301  (as Scrapy's own queue beside it)
        url = fields["url"]
        shown = strip_url(url, strip_default_port=False)  # without user name and password
        return request_from_dict(fields, spider=spider)
    except Exception as error:  # this runs code of the project
        reason = f"{type(error).__name__}: {error}".replace(str(url), shown)
        return f"{shown} ({reason})"


def _set_aside(path: Path) -> Path:
    """Rename the database *path* to a free name, and return its new path."""
    aside = first = _part(path, ".broken")
    numbers = count(2)
    while any(_part(aside, part).exists() for part in _PARTS):
        aside = _part(first, str(next(numbers)))
    for part in _PARTS:
        if _part(path, part).exists():
            _part(path, part).rename(_part(aside, part))
    return aside


def _remove(path: Path) -> None:
    """Remove the database *path*."""
    for part in _PARTS:
        _part(path, part).unlink(missing_ok=True)


def _part(path: Path, part: str) -> Path:
    return path.with_name(path.name + part)


def remove_empty_files(settings: BaseSettings, log: logging.LoggerAdapter[Any]) -> None:
    """Remove files that a killed crawl left empty in Scrapy's own queue in JOBDIR.

    That queue writes its files in place, and Scrapy cannot open a job with an empty one. Replays
    make this more likely. Must be called before the scheduler opens.
    """
    folder = job_dir(settings)
    if folder is None:
        return
    for path in Path(folder, "requests.queue").rglob("*"):
        if path.is_file() and not path.stat().st_size:
            log.info("Removed %s, which a killed crawl left empty", path)
            path.unlink()
