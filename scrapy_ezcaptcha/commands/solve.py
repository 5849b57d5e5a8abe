"""``scrapy ezcaptcha solve URL``: solves one challenge."""

from __future__ import annotations

import json
import shlex
from typing import TYPE_CHECKING, Any

from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from scrapy import Request

from scrapy_ezcaptcha.clearances.clearance import is_replayed, lacks_for_clearance
from scrapy_ezcaptcha.commands.console import stderr, stdout
from scrapy_ezcaptcha.commands.reactor import Interrupted
from scrapy_ezcaptcha.commands.service import config_with_key, with_client
from scrapy_ezcaptcha.crawl.memo import location_of
from scrapy_ezcaptcha.crawl.pool import Pool
from scrapy_ezcaptcha.crawl.target import Options, Targets
from scrapy_ezcaptcha.errors import EzCaptchaError, GivenUp
from scrapy_ezcaptcha.exit import Exit
from scrapy_ezcaptcha.service.wire import CloudFlare5STask

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from collections.abc import Mapping

    from rich.console import Console
    from scrapy.settings import BaseSettings

    from scrapy_ezcaptcha.config import Config
    from scrapy_ezcaptcha.service.client import EzCaptchaClient
    from scrapy_ezcaptcha.service.wire import Solution

HIDDEN = "<hidden>"


def add_arguments(parser: ArgumentParser) -> None:
    """Add the page, the proxy, and how to print the solution."""
    parser.add_argument("url", metavar="URL", help="the challenged page")
    parser.add_argument(
        "--proxy",
        metavar="URL",
        help="http://user:password@host:port; default: the proxy that a crawl would use",
    )
    parser.add_argument(
        "--rq-data", metavar="JSON", help="for a page that must be requested by POST: its form"
    )
    parser.add_argument(
        "--format", choices=("json", "curl", "scrapy"), default="json", help="default: json"
    )
    parser.add_argument(
        "--show-secrets",
        action="store_true",
        help="print cookies and the proxy's password, which are hidden otherwise",
    )


def run(settings: BaseSettings, options: Namespace) -> int:
    """Print the solution; return 1 if there is no solution, or if it has no clearance."""
    console = stderr()
    config = config_with_key(settings)
    try:
        exit = _exit(settings, config, options)
        task = CloudFlare5STask(options.url, exit.url, _rq_data(options.rq_data))
        solution = with_client(settings, config, lambda client: _solve(client, task, console))
    except EzCaptchaError as error:
        paid = f" (task {error.task_id} was created and paid for)" if error.task_id else ""
        console.print(f"Not solved: {error}{paid}", style="red")
        return 1
    except Interrupted:
        console.print("Interrupted.", style="red")
        return 130
    formats = {"json": as_json, "curl": as_curl, "scrapy": as_scrapy}
    cookies = dict(solution.cookies)
    proxy = exit.url
    if not options.show_secrets:
        cookies = dict.fromkeys(cookies, HIDDEN)
        proxy = exit.address
        console.print("Cookies and the proxy's password are hidden; --show-secrets prints them.")
    stdout().print(formats[options.format](options.url, solution, cookies, proxy))
    if lack := lacks_for_clearance(solution):
        text = f"No clearance: {lack}. The task is paid for, but a replay is challenged again."
        console.print(text, style="red")
        return 1
    return 0


async def _solve(client: EzCaptchaClient, task: CloudFlare5STask, console: Console) -> Solution:
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as progress:
        shown = progress.add_task("creating the task", total=None)

        def created(task_id: str) -> None:
            console.print(f"Task {task_id} is created and paid for.")
            progress.update(shown, description="waiting for the solution (10 to 80 s)")

        return await client.solve(task, on_created=created)


def _exit(settings: BaseSettings, config: Config, options: Namespace) -> Exit:
    """Return the exit through which a crawl would solve the page."""
    if not options.url.startswith(("http://", "https://")):
        raise GivenUp("INVALID_URL", "the URL must begin with http:// or https://")
    targets = Targets(config, settings)
    given = Exit.parse(options.proxy) if options.proxy else None
    asked = Options(proxy=given, use_body=True)  # nothing is downloaded here
    request = Request(options.url)
    if config.proxies and asked.proxy is None:
        request.meta["proxy"] = Pool.from_config(config).ranking(location_of(request).zone)[0].url
    target = targets.before_sending(request, asked)
    targets.check(target)
    return target.place[1]


def _rq_data(text: str | None) -> Mapping[str, Any] | None:
    if text is None:
        return None
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise GivenUp("INVALID_RQ_DATA", "--rq-data must be a JSON object")
    return value


def as_json(url: str, solution: Solution, cookies: Mapping[str, str], proxy: str) -> str:
    """Return what a client needs to replay the request, as JSON."""
    whole = {
        "url": url,
        "proxy": proxy,
        "headers": _replayed_headers(solution),
        "cookies": dict(cookies),
        "tls_version": solution.tls_version,
    }
    return json.dumps(whole, indent=2)


def as_curl(url: str, solution: Solution, cookies: Mapping[str, str], proxy: str) -> str:
    """Return the replay as a curl command."""
    command = ["curl", "--compressed", "--proxy", proxy]
    for name, value in _replayed_headers(solution).items():
        command += ["--header", f"{name}: {value}"]
    command += ["--cookie", "; ".join(f"{name}={value}" for name, value in cookies.items()), url]
    return shlex.join(command)


def as_scrapy(url: str, solution: Solution, cookies: Mapping[str, str], proxy: str) -> str:
    """Return the replay as a Scrapy request."""
    headers = "".join(
        f"        {name!r}: {value!r},\n" for name, value in _replayed_headers(solution).items()
    )
    return (
        f"scrapy.Request(\n    {url!r},\n    headers={{\n{headers}    }},\n"
        f"    cookies={dict(cookies)!r},\n    meta={{'proxy': {proxy!r}}},\n)"
    )


def _replayed_headers(solution: Solution) -> dict[str, str]:
    """Return the headers to send; ``Accept-Encoding`` depends on the client."""
    return {
        name: value
        for name, value in solution.headers.items()
        if is_replayed(name) and name != "accept-encoding"
    }
