"""The file of a ledger, which several processes can write at the same time.

A line is written when the end of its task is known. Until then, the task is in a file next to
the ledger, which belongs to one crawl and is locked while that crawl runs. If the crawl is
killed, the next crawl that uses the ledger writes the missing lines.
"""

from __future__ import annotations

import os
import sys
import time
from contextlib import suppress
from typing import IO, TYPE_CHECKING, Any
from uuid import uuid4

from scrapy_ezcaptcha.errors import ConfigurationError
from scrapy_ezcaptcha.solving.entries import latest, lines_of, open_paths, pages_path
from scrapy_ezcaptcha.stores.lease import TASK_SECONDS

if TYPE_CHECKING:
    import logging
    from collections.abc import Callable, Collection, Iterable
    from pathlib import Path

    from scrapy_ezcaptcha.solving.entries import Entry

_DAY = 86_400.0


class LedgerFile:
    """Writes the ledger at *path*.

    Raises ConfigurationError if it cannot be written. If a later write fails, a warning is logged
    once, and the crawl continues.
    """

    def __init__(
        self, path: Path, log: logging.LoggerAdapter[Any], clock: Callable[[], float] = time.time
    ) -> None:
        self._path = path
        self._log = log
        self._clock = clock
        self._has_warned = False
        self._open_path = path.with_name(f"{path.name}.open-{uuid4().hex[:8]}")
        self._open_file: IO[bytes] | None = None
        try:
            self._file = path.open("ab", buffering=0)
            self._is_torn = _ends_within_a_line(path)
            self._complete()
        except OSError as error:
            why = error.strerror or type(error).__name__
            text = f"EZCAPTCHA_LEDGER is {str(path)!r}, but this file cannot be written: {why}"
            raise ConfigurationError([text]) from None

    def write(self, entry: Entry) -> bool:
        """Append the line of *entry*; return whether that succeeded."""
        if not entry.is_paid:
            return self._append_pages(entry)
        line = (b"\n" if self._is_torn else b"") + entry.line() + b"\n"
        try:
            written = self._file.write(line) or 0  # in one call, so that lines do not mix
        except OSError as error:
            self._warn(error.strerror)
            return False
        if written < len(line):
            self._is_torn = True
            self._warn("only part of a line was written")
            return False
        self._is_torn = False
        return True

    def note(self, entry: Entry) -> None:
        """Append the state of *entry* to the file of open tasks."""
        try:
            if self._open_file is None:
                self._open_file = _locked(self._open_path)
            self._open_file.write(entry.line() + b"\n")
        except OSError as error:
            self._warn(error.strerror)

    def save(self, entries: Collection[Entry]) -> None:
        """Rewrite the file of open tasks; remove it if there are none."""
        if self._open_file is None:
            return
        if not entries:
            _leave(self._open_path, self._open_file, [])
            self._open_file.close()
            self._open_file = None
            return
        fresh = self._open_path.with_name(f"{self._open_path.name}.new")
        try:
            file = _locked(fresh)  # before it gets the name that others look for
            file.write(b"".join(entry.line() + b"\n" for entry in entries))
            if sys.platform == "win32":  # open files cannot be renamed
                file.close()
                self._open_file.close()
            fresh.replace(self._open_path)
            self._open_file.close()
            self._open_file = _locked(self._open_path) if file.closed else file
        except OSError as error:
            self._warn(error.strerror)

    def take(self, task_id: str, noted: Callable[[Entry], None]) -> None:
        """Take over the task if an ended crawl left it open.

        *noted* is called with its entry before the entry is removed from the other file.
        """
        for path in open_paths(self._path):
            with suppress(OSError), path.open("r+b") as file:
                if not _is_free(file):
                    continue
                states = latest(lines_of(path))
                found = next((entry for entry in states if entry.task == task_id), None)
                if found is not None:
                    noted(found)
                    _leave(path, file, [entry for entry in states if entry is not found])

    def close(self) -> None:
        """Close both files."""
        self._file.close()
        if self._open_file is not None:
            self._open_file.close()

    def _complete(self) -> None:
        """Write the lines that killed crawls did not write.

        Leaves out tasks that can still be continued; the crawl that continues one writes its line.
        """
        written: set[str] | None = None
        now = self._clock()
        for path in open_paths(self._path):
            with suppress(FileNotFoundError), path.open("r+b") as file:
                if path == self._open_path or not _is_free(file):
                    continue
                if written is None:
                    written = {entry.task for entry in lines_of(self._path) if entry is not None}
                left = []
                for entry in latest(lines_of(path)):
                    if entry.is_paid and entry.task in written:
                        continue
                    if entry.may_be_continued(now, TASK_SECONDS):
                        left.append(entry)
                        continue
                    entry.finish()
                    if not self.write(entry):
                        left.append(entry)
                _leave(path, file, left)

    def _append_pages(self, entry: Entry) -> bool:
        try:
            with pages_path(self._path).open("ab", buffering=0) as file:
                file.write(entry.line() + b"\n")
        except OSError as error:
            self._warn(error.strerror)
            return False
        return True

    def _warn(self, why: str | None) -> None:
        if not self._has_warned:
            self._has_warned = True
            self._log.warning(
                "The ledger %s cannot be written: %s. The crawl continues, and tries again later",
                self._path,
                why,
            )


def _ends_within_a_line(path: Path) -> bool:
    """Whether the file ends with an incomplete line, after a crash."""
    with suppress(OSError), path.open("rb") as file:  # it may be empty or not a regular file
        file.seek(-1, os.SEEK_END)
        return file.read(1) != b"\n"
    return False


def _locked(path: Path) -> IO[bytes]:
    """Open a file for appending, and lock it, which shows that its crawl runs."""
    file = path.open("ab", buffering=0)
    _is_free(file)
    return file


def _is_free(file: IO[bytes]) -> bool:
    """Lock *file*; return False if its crawl runs, or if another crawl has just removed it.

    Windows has no such locks; there, a crawl counts as ended after a day without a change.
    """
    if sys.platform == "win32":
        return time.time() - os.fstat(file.fileno()).st_mtime > _DAY
    import fcntl  # noqa: PLC0415  (not on Windows)

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return os.fstat(file.fileno()).st_nlink > 0


def _leave(path: Path, file: IO[bytes], entries: Iterable[Entry]) -> None:
    """Keep only *entries* in a file of open tasks; remove the file if there are none."""
    lines = b"".join(entry.line() + b"\n" for entry in entries)
    with suppress(OSError):  # Windows does not remove open files
        if not lines:
            path.unlink()
    file.truncate(0)
    file.seek(0)
    file.write(lines)
