"""Runs one real crawl in its own process: reads a plan as JSON, writes a result as JSON.

The plan: ``settings``, ``spider`` (a class of spiders.py), ``requests`` (keyword arguments of
``scrapy.Request``, callbacks by name), ``follow`` (follow links with this CSS class), ``crawlers``
(settings of further crawlers in the same process), ``files`` (text of files to write before),
``file_limit`` (the bytes to which any file may grow during the crawl, as on a full disk), ``seed``
(of what is random), ``out`` (where the result goes). A deprecation warning of Scrapy is an error
here, unless ``may_be_deprecated``.
"""

from __future__ import annotations

import json
import os
import posix
import random
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import spiders
from scrapy import cmdline
from scrapy.crawler import AsyncCrawlerProcess, CrawlerProcess
from scrapy.exceptions import ScrapyDeprecationWarning


def run_plan(path: str) -> None:
    plan = json.loads(Path(path).read_text())
    if not plan.get("may_be_deprecated"):
        warnings.simplefilter("error", ScrapyDeprecationWarning)
    warnings.filterwarnings("error", category=DeprecationWarning, module="scrapy_ezcaptcha")
    plan |= {"pages": [], "errors": [], "signals": []}
    random.seed(plan.get("seed"))
    if ahead := plan.get("clock"):
        told = time.time
        time.time = lambda: told() + ahead
    plan.setdefault("follow_meta", plan["requests"][0].get("meta", {}))
    settings = {
        "LOG_LEVEL": "DEBUG",
        "LOG_FILE": plan["log"],
        "TELNETCONSOLE_ENABLED": False,
        "RETRY_ENABLED": False,
        "HTTPERROR_ALLOW_ALL": True,
        **plan["settings"],
    }
    reactor = settings.get("TWISTED_REACTOR", "asyncio")
    process = (AsyncCrawlerProcess if "asyncio" in reactor else CrawlerProcess)(settings)
    base = getattr(spiders, plan.get("spider", "PlanSpider"))
    base.plan = plan
    for name, text in plan.get("files", {}).items():
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text(text)
    crawlers = []
    for number, overrides in enumerate([{}, *plan.get("crawlers", [])]):
        own = {"number": number, "custom_settings": overrides}
        crawlers.append(process.create_crawler(type(base.__name__, (base,), own)))
        process.crawl(crawlers[-1])
    with limited_files(plan.get("file_limit")):
        process.start()
    stats = [
        {
            key: value
            for key, value in crawler.stats.get_stats().items()
            if isinstance(value, int | float | str)
        }
        for crawler in crawlers
    ]
    result = {name: plan[name] for name in ("pages", "errors", "signals")}
    result |= {"stats": stats[0], "stats_of_each": stats}
    Path(plan["out"]).write_text(json.dumps(result))


@contextmanager
def limited_files(size: int | None) -> Iterator[None]:
    """Make all writes fail that would make a file larger than *size* bytes."""
    if size is None:
        yield
        return
    import resource  # not on Windows

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))  # Python ignores SIGXFSZ
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def run_forked(path: str, environment: dict[str, str], output: str, *, is_measured: bool) -> None:
    """Run a plan in a process that was forked with all modules loaded; see ``support.Crawl``."""
    if not is_measured:
        stop_measuring()
    settle(Path(path).parent, environment, output, output)
    run_plan(path)


def run_command_forked(
    arguments: list[str],
    environment: dict[str, str],
    folder: str,
    out: str,
    err: str,
    *,
    is_measured: bool,
) -> None:
    """Run ``scrapy`` with *arguments* in such a process; see ``support.run_command``."""
    if not is_measured:
        stop_measuring()
    settle(Path(folder), environment, out, err)
    cmdline.execute(["scrapy", *arguments])


def stop_measuring() -> None:
    """Stop coverage in this process, which takes two thirds more time with it."""
    coverage = sys.modules.get("coverage")
    measuring = coverage and coverage.Coverage.current()
    if measuring:
        measuring.stop()
        os._exit = posix._exit  # and not the one by coverage, which writes what was measured


def settle(folder: Path, environment: dict[str, str], out: str, err: str) -> None:
    """Give this process the folder, environment and outputs of one from the shell."""
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    for number, path in ((1, out), (2, err)):
        with Path(path).open("ab") as file:
            os.dup2(file.fileno(), number)
