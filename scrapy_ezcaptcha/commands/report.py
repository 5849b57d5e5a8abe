"""``scrapy ezcaptcha report [LEDGER] [--html FILE]``: shows the costs in a ledger."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from rich import box
from rich.table import Table

from scrapy_ezcaptcha.commands.console import stderr, stdout
from scrapy_ezcaptcha.commands.report_sums import HEADINGS, KEYS, missing_costs, summary, table
from scrapy_ezcaptcha.config import Config
from scrapy_ezcaptcha.solving.entries import read_ledger

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from scrapy.settings import BaseSettings

    from scrapy_ezcaptcha.solving.entries import Contents

_WIDE = 1000  # so that no cell is cut in a pipe


def add_arguments(parser: ArgumentParser) -> None:
    """Add the ledger, and how to show it."""
    parser.add_argument(
        "ledger", metavar="LEDGER", nargs="?", type=Path, help="default: EZCAPTCHA_LEDGER"
    )
    parser.add_argument(
        "--html",
        metavar="FILE",
        type=Path,
        help="also write a page with plots; needs the extra: scrapy-ezcaptcha[report]",
    )
    parser.add_argument(
        "--rows",
        metavar="N",
        type=int,
        default=20,
        help="rows of each table, 0 for all; default: %(default)s",
    )
    parser.add_argument(
        "--price",
        metavar="POINTS",
        type=float,
        help="the price of a task, for tasks whose points are not in the ledger",
    )
    parser.epilog = (
        "Exit status: 0; 1 if the ledger cannot be read; 2 if no ledger is named or the page"
        " cannot be written."
    )


def run(settings: BaseSettings, options: Namespace) -> int:
    """Print the tables, and write the page with --html."""
    path = options.ledger or Config.from_settings(settings).ledger
    if path is None:
        stderr().print("No ledger is named: give its file, or set EZCAPTCHA_LEDGER", style="red")
        return 2
    if options.html and find_spec("matplotlib") is None:
        install = "pip install 'scrapy-ezcaptcha[report]'"
        stderr().print(f"--html needs matplotlib: {install}", style="red")
        return 2
    try:
        contents = read_ledger(path)
    except OSError as error:
        stderr().print(f"{path}: {error.strerror}", style="red")
        return 1
    if not contents.tasks:
        stdout().print(f"There is no task in {path}")
        return 0
    _print(contents, options.rows, options.price)
    return _write_page(path, contents, options) if options.html else 0


def _print(contents: Contents, rows: int, price: float | None) -> None:
    console = stdout()
    if not console.is_terminal:
        console.width = _WIDE
    for line in summary(contents, price):
        console.print(line)
    for heading in KEYS:
        shown = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
        shown.add_column(heading, overflow="fold")
        for name in HEADINGS:
            shown.add_column(name, justify="right", no_wrap=True)
        for row in table(contents, heading, rows, price):
            shown.add_row(*row)
        console.print()
        console.print(shown, soft_wrap=False)
    if missing := missing_costs(contents, price):
        console.print(f"\n{missing}")


def _write_page(path: Path, contents: Contents, options: Namespace) -> int:
    from scrapy_ezcaptcha.commands.report_page import page  # noqa: PLC0415  (needs matplotlib)

    try:
        options.html.write_text(page(path.name, contents, options.price), encoding="utf-8")
    except OSError as error:
        stderr().print(f"{options.html}: {error.strerror}", style="red")
        return 2
    stderr().print(f"Written: {options.html}")
    return 0
