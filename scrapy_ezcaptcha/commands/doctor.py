"""``scrapy ezcaptcha doctor``: checks the setup, and says what to do if something is wrong."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, requires, version
from typing import TYPE_CHECKING

from packaging.requirements import Requirement
from scrapy import Spider
from scrapy.crawler import Crawler
from scrapy.exceptions import UsageError
from scrapy.pqueues import DownloaderAwarePriorityQueue
from scrapy.spiderloader import get_spider_loader
from scrapy.utils.misc import load_object

from scrapy_ezcaptcha.clearances.browsers import is_impersonating, known_browsers
from scrapy_ezcaptcha.commands.console import stderr, stdout
from scrapy_ezcaptcha.commands.findings import FAIL, NOTE, PASS, Finding, page_on
from scrapy_ezcaptcha.commands.proxies import check_pool, check_proxies, checked_url
from scrapy_ezcaptcha.commands.reactor import Interrupted
from scrapy_ezcaptcha.commands.service import with_client
from scrapy_ezcaptcha.config import KEY_SOURCES, Config
from scrapy_ezcaptcha.crawl.order import ORDER, order_of, order_problems
from scrapy_ezcaptcha.crawl.proxies import ProxyFinder, leaves_by_scrapys_own
from scrapy_ezcaptcha.errors import ApiError, ConfigurationError, EzCaptchaError
from scrapy_ezcaptcha.middleware import EzCaptchaMiddleware
from scrapy_ezcaptcha.service.client import EzCaptchaClient
from scrapy_ezcaptcha.service.wire import points_in_words
from scrapy_ezcaptcha.stores import StoreError, open_store
from scrapy_ezcaptcha.words import counted

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from collections.abc import Iterator

    from scrapy.settings import BaseSettings

_STYLES = {PASS: "green", NOTE: "yellow", FAIL: "bold red"}


def add_arguments(parser: ArgumentParser) -> None:
    """Add whether to use the network, the site for trying proxies, and a spider."""
    parser.add_argument(
        "--offline", action="store_true", help="call neither the service nor a proxy"
    )
    parser.add_argument("--url", help="the site for trying the proxies; default: the service")
    parser.add_argument(
        "--spider", metavar="NAME", help="also use the custom_settings of this spider"
    )
    parser.epilog = "Exit status: 0 if no check failed, 1 otherwise; 2 if the arguments are wrong."


def run(settings: BaseSettings, options: Namespace) -> int:
    """Print all findings."""
    url = checked_url(options.url) if options.url else None
    spider = _spider(settings, options.spider) if options.spider else Spider
    crawler = Crawler(spider, settings.copy())  # type: ignore[arg-type]
    crawler.addons.load_settings(crawler.settings)
    failed: list[str] = []
    try:
        for finding in examine(crawler.settings, offline=options.offline, url=url):
            if finding.verdict == FAIL:
                failed.append(finding.subject)
            console = stdout()
            console.print(f"{finding.verdict:<5}", style=_STYLES[finding.verdict], end="")
            console.print(f"{finding.subject:<11}{finding.text}")
    except (Interrupted, KeyboardInterrupt):
        return 130
    if failed:
        stderr().print(
            f"{counted(len(failed), 'check')} failed. See in the documentation:", style="bold red"
        )
        for page in dict.fromkeys(map(page_on, failed)):
            stderr().print(f"  {page}")
    return 1 if failed else 0


def _spider(settings: BaseSettings, name: str) -> type[Spider]:
    """Return the class of the spider *name*; raise UsageError if there is no such spider."""
    loader = get_spider_loader(settings)
    try:
        return loader.load(name)
    except KeyError:
        names = ", ".join(sorted(loader.list())) or "none; run this inside the project"
        raise UsageError(
            f"there is no spider {name}; the spiders are: {names}", print_help=False
        ) from None


def examine(settings: BaseSettings, *, offline: bool, url: str | None = None) -> Iterator[Finding]:
    """Check everything that decides whether challenges are solved."""
    yield from _versions()
    yield from _reactor(settings)
    yield from _middleware(settings)
    yield from _queue(settings)
    try:
        config = Config.from_settings(settings)
    except ConfigurationError as error:
        yield from (Finding(FAIL, "settings", problem) for problem in error.problems)
        return
    yield from _settings(config)
    yield from _scope(config)
    yield _store(config, offline=offline)
    yield from check_proxies(settings, config, url, offline=offline)
    yield from check_pool(settings, config, url, offline=offline)
    yield from _handlers(settings, config)
    if not config.client_key:
        yield Finding(FAIL, "key", f"there is no key; set {KEY_SOURCES}")
    elif offline:
        yield Finding(NOTE, "key", "there is a key; --offline: not tried")
    else:
        yield _service(settings, config)


def _versions() -> Iterator[Finding]:
    python = platform.python_version()
    yield Finding(
        PASS, "version", f"scrapy-ezcaptcha {version('scrapy-ezcaptcha')}, Python {python}"
    )
    for line in requires("scrapy-ezcaptcha") or ():
        requirement = Requirement(line)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        name, wanted = requirement.name, requirement.specifier
        try:
            installed = version(name)
        except PackageNotFoundError:
            yield Finding(FAIL, "version", f"{name} is not installed: pip install '{name}{wanted}'")
            continue
        if wanted.contains(installed, prereleases=True):
            yield Finding(PASS, "version", f"{name} {installed}")
        else:
            yield Finding(
                FAIL, "version", f"{name} {installed} is too old: pip install '{name}{wanted}'"
            )


def _reactor(settings: BaseSettings) -> Iterator[Finding]:
    if settings.getbool("TWISTED_REACTOR_ENABLED", True):
        reactor = settings["TWISTED_REACTOR"] or "the default one"
        yield Finding(PASS, "reactor", reactor.rpartition(".")[2])
    else:
        yield Finding(
            FAIL,
            "reactor",
            "TWISTED_REACTOR_ENABLED is False, but treq needs a reactor; set it to True",
        )


def _settings(config: Config) -> Iterator[Finding]:
    yield from (Finding(FAIL, "settings", warning) for warning in config.warnings)
    if not config.enabled:
        yield Finding(FAIL, "settings", "EZCAPTCHA_ENABLED is False: nothing is solved")
    elif not config.warnings:
        yield Finding(PASS, "settings", "all EZCAPTCHA_* settings are known and of the right type")


def _middleware(settings: BaseSettings) -> Iterator[Finding]:
    order = order_of(settings, EzCaptchaMiddleware)
    problems = order_problems(settings, EzCaptchaMiddleware)
    yield from (Finding(FAIL, "middleware", problem) for problem in problems)
    if order is None:
        yield Finding(
            FAIL,
            "middleware",
            'not enabled: set ADDONS = {"scrapy_ezcaptcha.Addon": 500}, or'
            f' DOWNLOADER_MIDDLEWARES = {{"scrapy_ezcaptcha.EzCaptchaMiddleware": {ORDER}}}',
        )
    elif not problems:
        yield Finding(PASS, "middleware", f"enabled at order {order}")


def _queue(settings: BaseSettings) -> Iterator[Finding]:
    queue = load_object(settings["SCHEDULER_PRIORITY_QUEUE"])
    if not issubclass(queue, DownloaderAwarePriorityQueue):
        yield Finding(
            NOTE,
            "queue",
            f"{queue.__name__} does not know which sites are busy, so more requests wait outside"
            " the scheduler; Scrapy's DownloaderAwarePriorityQueue keeps them in it",
        )


def _scope(config: Config) -> Iterator[Finding]:
    where = ", ".join(config.allowed_domains) or "any site"
    if not config.transparent_mode:
        yield Finding(PASS, "scope", f'requests with meta["ezcaptcha"], to {where}')
    elif config.allowed_domains or config.max_tasks:
        yield Finding(PASS, "scope", f"every request to {where}")
    else:
        yield Finding(
            NOTE,
            "scope",
            "every request to any site can cost a task; set limits with EZCAPTCHA_ALLOWED_DOMAINS"
            " and EZCAPTCHA_MAX_TASKS",
        )


def _store(config: Config, *, offline: bool) -> Finding:
    if config.store_file is None and not config.store_url:
        return Finding(PASS, "store", "memory: clearances are not shared between crawls")
    if config.store_file is not None and not config.store_file.exists():
        return Finding(PASS, "store", f"{config.store_file}, not created yet")
    try:
        store = open_store(config)
        assert store is not None
        if offline and config.store_url:
            return Finding(NOTE, "store", f"{store}; --offline: not tried")
        store.check()
        store.close()
    except StoreError as error:
        return Finding(FAIL, "store", f"EZCAPTCHA_STORE does not answer: {error}")
    return Finding(PASS, "store", str(store))


def _handlers(settings: BaseSettings, config: Config) -> Iterator[Finding]:
    for scheme in ProxyFinder(settings).schemes_without_proxies:
        yield Finding(
            FAIL,
            "handler",
            f"the download handler of {scheme} does not support proxies, which replays need: use"
            " another one in DOWNLOAD_HANDLERS",
        )
    kinds = {exit.scheme for exit in (*config.proxies, config.proxy) if exit is not None}
    if "socks5" in kinds and leaves_by_scrapys_own(settings, "http", "https"):
        yield Finding(FAIL, "handler", "Scrapy's own download handler does not support socks5")
    if "https" in kinds and leaves_by_scrapys_own(settings, "https"):
        text = "Scrapy's own download handler cannot reach https:// sites through https:// proxies"
        yield Finding(FAIL, "handler", f"{text}, only http:// sites")
    if not config.impersonate:
        return
    if not known_browsers():
        text = "EZCAPTCHA_IMPERSONATE needs scrapy-impersonate: pip install scrapy-impersonate"
        yield Finding(FAIL, "handler", text)
    elif not is_impersonating(settings):
        yield Finding(
            FAIL,
            "handler",
            "EZCAPTCHA_IMPERSONATE needs scrapy_impersonate.ImpersonateDownloadHandler for http"
            " and https in DOWNLOAD_HANDLERS",
        )


def _service(settings: BaseSettings, config: Config) -> Finding:
    try:
        points = with_client(settings, config, EzCaptchaClient.get_balance)
    except ApiError as error:
        advice = "; check it in the dashboard" if error.is_credentials() else ""
        return Finding(FAIL, "key", f"{config.api_url} refuses the key: {error}{advice}")
    except EzCaptchaError as error:
        return Finding(
            FAIL, "service", f"{config.api_url} does not answer: {error}; check the network"
        )
    if points <= 0:
        return Finding(FAIL, "balance", f"{points_in_words(points)}: top up the account")
    return Finding(PASS, "balance", f"{points_in_words(points)} at {config.api_url}")
