"""Writes a ledger; it is imported in processes that need nothing else."""

from __future__ import annotations

from pathlib import Path

from fakes import LOG

from scrapy_ezcaptcha.solving.entries import Entry
from scrapy_ezcaptcha.solving.ledger_file import LedgerFile


def write_many(path: Path, writer: int) -> None:
    """Write 500 lines of many lengths."""
    file = LedgerFile(path, LOG)
    for number in range(500):
        task, host = f"task{writer}-{number}", "h" * (number % 300)
        line = Entry(task, 1_800_000_000.0, "shop.example", host, "proxy.example:1", "rejected")
        line.outcome, line.seconds = "ready", 5.0
        assert file.write(line)
    file.close()
