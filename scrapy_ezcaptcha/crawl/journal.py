"""With JOBDIR, waiting requests are on disk too, in case the process is killed.

A request that waits has left the scheduler's queue, and more requests may wait than Scrapy
alone has in flight. The journal has each of them from when it begins to wait until it reaches
the downloader. The next run sends what a killed run left there.
"""

from __future__ import annotations

import logging
import pickle
import sqlite3
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from scrapy.utils.job import job_dir
from scrapy.utils.request import request_from_dict

from scrapy_ezcaptcha.crawl.memo import Memo, take_ticket
from scrapy_ezcaptcha.stores.sqlite import open_private

if TYPE_CHECKING:
    from scrapy import Request, Spider
    from scrapy.crawler import Crawler
    from scrapy.settings import BaseSettings

logger = logging.getLogger(__name__)

FILE_NAME = "ezcaptcha-waiting.sqlite"


class Journal:
    """The waiting requests of *spider*, in a file of the folder *folder*."""

    def __init__(self, folder: Path, spider: Spider) -> None:
        self._spider = spider
        self._path = folder / FILE_NAME
        self._file = open_private(self._path)  # requests may carry cookies and passwords
        # A killed process loses nothing of what it wrote; only a machine without power would.
        self._file.execute("PRAGMA synchronous = OFF")
        self._file.execute(
            "CREATE TABLE IF NOT EXISTS waiting (ticket TEXT PRIMARY KEY, request BLOB)"
        )

    @classmethod
    def of(cls, crawler: Crawler, log: logging.LoggerAdapter[Any]) -> Journal | None:
        """Return the journal of *crawler*; None if that keeps nothing on disk, or cannot."""
        folder, spider = job_dir(crawler.settings), crawler.spider
        if not folder or spider is None:
            return None
        try:
            return cls(Path(folder), spider)
        except (OSError, sqlite3.Error) as error:
            log.warning("%s cannot be opened (%s); going on without it", FILE_NAME, error)
            return None

    def add(self, request: Request) -> None:
        """Note that *request* waits; one that cannot be pickled is left out, as Scrapy does."""
        memo = Memo.on(request)
        ticket = memo.ticket or uuid4().hex  # unlike any ticket of the run before
        try:
            record = pickle.dumps(request.to_dict(spider=self._spider), protocol=4)
        except (ValueError, AttributeError, TypeError, pickle.PicklingError):
            return
        self._file.execute("INSERT OR REPLACE INTO waiting VALUES (?, ?)", (ticket, record))
        replace(memo, ticket=ticket).put_on(request)

    def remove(self, request: Request) -> None:
        """Note that *request* no longer waits."""
        ticket = take_ticket(request)
        if ticket is not None:
            self._file.execute("DELETE FROM waiting WHERE ticket = ?", (ticket,))

    def left_behind(self) -> list[Request]:
        """Return the requests that waited when a former crawl was killed."""
        rows = self._file.execute("SELECT request FROM waiting ORDER BY rowid").fetchall()
        if rows:
            logger.info(
                "%d requests waited for a solve when the last run was killed; they are sent now",
                len(rows),
                extra={"spider": self._spider},
            )
        return [request_from_dict(pickle.loads(row), spider=self._spider) for (row,) in rows]  # noqa: S301  (as Scrapy's own queue beside it)

    def clear(self) -> None:
        """Forget all of them: the scheduler has them."""
        self._file.execute("DELETE FROM waiting")

    def close(self) -> None:
        """Remove the file: no request waits any more."""
        self._file.close()
        for suffix in ("", "-wal", "-shm"):
            self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)


def remove_empty_files(settings: BaseSettings, log: logging.LoggerAdapter[Any]) -> None:
    """Remove files that a killed crawl left empty in Scrapy's own queue in JOBDIR.

    That queue writes its files in place, and Scrapy cannot open a job with an empty one.
    Replays make such moments more frequent. Call this before the scheduler opens.
    """
    folder = job_dir(settings)
    if folder is None:
        return
    for path in Path(folder, "requests.queue").rglob("*"):
        if path.is_file() and not path.stat().st_size:
            log.info("Removed %s, which a killed crawl left empty", path)
            path.unlink()
