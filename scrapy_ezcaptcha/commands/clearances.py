"""``scrapy ezcaptcha clearances``: lists the clearances in the store, or deletes them."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from scrapy.exceptions import UsageError

from scrapy_ezcaptcha.clearances.clearance import zone_of
from scrapy_ezcaptcha.commands.console import stderr, stdout
from scrapy_ezcaptcha.config import Config
from scrapy_ezcaptcha.errors import ExitError
from scrapy_ezcaptcha.exit import Exit
from scrapy_ezcaptcha.stores import StoreError, open_store
from scrapy_ezcaptcha.words import counted

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from collections.abc import Iterator

    from scrapy.settings import BaseSettings

    from scrapy_ezcaptcha.clearances.record import Record
    from scrapy_ezcaptcha.stores import Store


def add_arguments(parser: ArgumentParser) -> None:
    """Add which clearances to list, and whether to delete them."""
    parser.add_argument("--zone", metavar="SITE|URL", help="only clearances of this site")
    parser.add_argument(
        "--exit",
        metavar="URL|LABEL",
        help="only clearances of this proxy; with user name and password, or with the label that"
        " this command prints, only of exactly this exit",
    )
    parser.add_argument(
        "--drop", action="store_true", help="delete them, for every crawl that uses the store"
    )
    parser.epilog = "Cookies are never shown. Exit status: 0, or 1 if the store does not answer."


def run(settings: BaseSettings, options: Namespace) -> int:
    """Print a line for each clearance, and delete it with --drop."""
    if options.drop and not (options.zone or options.exit):
        raise UsageError("--drop needs --zone or --exit", print_help=False)
    zone = _zone(options.zone) if options.zone else None
    config = Config.from_settings(settings)
    try:
        exit = _exit(options.exit) if options.exit else None
        is_there = config.store_file is None or config.store_file.exists()
        store = open_store(config) if is_there else None
        if store is None:
            stderr().print(_why_none(config, settings))
            return 0
        count = 0
        for name, record in _chosen(store, zone, exit):
            count += 1
            if options.drop:
                store.drop([(name, record.clearance.id, False)])
            stdout().print(_in_words(record))
        noun = "matching clearance" if options.zone or options.exit else "clearance"
        where = "deleted from" if options.drop else "in"
        stderr().print(f"{counted(count, noun)} {where} {store}")
        store.close()
    except (StoreError, ExitError) as error:
        stderr().print(str(error), style="red")
        return 1
    return 0


def _why_none(config: Config, settings: BaseSettings) -> str:
    if config.store_file is None:
        value = "memory" if settings.get("EZCAPTCHA_STORE") else "not set"
        return (
            f"EZCAPTCHA_STORE is {value}, so clearances are kept in memory only, until the crawl"
            " ends."
        )
    return f"There is no store file {config.store_file}: no crawl has created it yet."


def _zone(text: str) -> str:
    """Return the zone of a host or a URL."""
    try:
        host = urlsplit(text if "://" in text else f"//{text}").hostname
    except ValueError:
        host = None
    if not host:
        raise UsageError("--zone must be a site, such as shop.example, or a URL of it")
    return zone_of(host)


def _exit(text: str) -> Exit | str:
    """Return a proxy, or the label of a proxy, from the argument."""
    return text if "#" in text else Exit.parse(text)


def _chosen(
    store: Store, zone: str | None, exit: Exit | str | None
) -> Iterator[tuple[str, Record]]:
    for name, record in list(store.everything()):
        clearance = record.clearance
        if zone is not None and clearance.zone != zone:
            continue
        if isinstance(exit, str):
            is_by_exit = _label(record) == exit
        elif exit is None:
            is_by_exit = True
        elif exit.password:
            is_by_exit = name == store.name_of((clearance.zone, exit))
        else:
            is_by_exit = clearance.exit.address == exit.address
        if is_by_exit:
            yield name, record


def _label(record: Record) -> str:
    return record.label or record.clearance.exit.label


def _in_words(record: Record) -> str:
    clearance = record.clearance
    minutes = max(0.0, time.time() - clearance.created) / 60
    refused = f", refused by {', '.join(sorted(record.refused))}" if record.refused else ""
    return (
        f"{clearance.zone} through {_label(record)}: {minutes:.0f} min old,"
        f" accepted by {', '.join(sorted(record.accepted)) or 'no host yet'}{refused}"
    )
