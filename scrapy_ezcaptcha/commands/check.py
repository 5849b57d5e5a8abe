"""``scrapy ezcaptcha check URL|FILE``: tells whether a page is a challenge, and how it knows.

A URL is fetched with the settings of the project, and nothing is solved. A file contains a page,
or a whole response as ``curl -i`` prints it.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import scrapy
from scrapy.crawler import AsyncCrawlerProcess
from scrapy.http import Headers, Response
from w3lib.http import headers_raw_to_dict

from scrapy_ezcaptcha.challenge import challenge_sign, page_sign
from scrapy_ezcaptcha.commands.console import stderr, stdout
from scrapy_ezcaptcha.commands.pages import proxy_refuses, what_it_is, what_page_is

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from scrapy import Request
    from scrapy.settings import Settings

_LIKE_URL = re.compile(r"[\w-]+(?:\.[\w-]+)*(?:\.[a-z]{2,}|:\d+)(?:/.*)?", re.IGNORECASE)

_AFTER_ALL_OTHERS = 749  # that choose a proxy; HttpProxyMiddleware, at 750, reads what they chose

IS_CHALLENGE, IS_NONE, UNKNOWN = 0, 1, 2

# What was examined; the sign that it is a challenge; what it is if it is not a challenge.
Verdict: TypeAlias = "tuple[str, str | None, str | None]"


def add_arguments(parser: ArgumentParser) -> None:
    """Add the page, and the proxy to fetch it through."""
    parser.add_argument("target", metavar="URL|FILE", help="the page")
    parser.add_argument("--proxy", metavar="URL", help="http://user:password@host:port")
    parser.epilog = "Exit status: 0 for a challenge, 1 for anything else, 2 if there is no page."


def run(settings: Settings, options: Namespace) -> int:
    """Print the verdict."""
    try:
        if options.target.startswith(("http://", "https://")):
            status, sign, what = _look_at_url(settings, options.target, options.proxy)
        else:
            status, sign, what = _look_at_file(Path(options.target))
    except _NoPage as error:
        stderr().print(str(error), style="red")
        return UNKNOWN
    if sign is None:
        stdout().print(f"no challenge ({status})" + (f": {what}" if what else ""))
        return IS_NONE
    stdout().print(f"challenge ({status}): {sign}")
    return IS_CHALLENGE


class _NoPage(Exception):
    """There is no page to examine."""


def _look_at_file(path: Path) -> Verdict:
    try:
        content = path.read_bytes()
    except OSError as error:
        advice = f"; to fetch a page, write https://{path}" if _is_like_url(str(path)) else ""
        raise _NoPage(f"{path}: {error.strerror}{advice}") from None
    if not content.startswith(b"HTTP/"):
        return "a page without its headers", page_sign(content), what_page_is(content)
    head, _, body = content.replace(b"\r\n\r\n", b"\n\n", 1).partition(b"\n\n")
    status_line, _, header_lines = head.replace(b"\r\n", b"\n").partition(b"\n")
    try:
        status = int(status_line.split()[1])
    except (IndexError, ValueError):
        raise _NoPage(f"{path}: the first line is not an HTTP status line") from None
    headers = Headers(headers_raw_to_dict(header_lines) or {})
    response = Response("http://file.invalid/", status=status, headers=headers, body=body)
    return f"status {status}", challenge_sign(response), what_it_is(response)


def _is_like_url(text: str) -> bool:
    return bool(_LIKE_URL.fullmatch(text))


def _look_at_url(settings: Settings, url: str, proxy: str | None) -> Verdict:
    found: list[Verdict] = []
    failures: list[str] = []

    class CheckSpider(scrapy.Spider):
        name = "ezcaptcha-check"
        handle_httpstatus_all = True

        async def start(self) -> Any:
            meta = {"proxy": proxy} if proxy else {}
            yield scrapy.Request(url, self.parse, errback=self.failed, meta=meta)

        def parse(self, response: Response) -> None:
            words = f"status {response.status}, {len(response.body)} bytes"
            found.append((words, challenge_sign(response), what_it_is(response)))

        def failed(self, failure: Any) -> None:
            text = f"{failure.type.__name__}: {failure.getErrorMessage()}"
            refused = "the proxy refuses the user name and password (407)"
            failures.append(refused if proxy_refuses(text) else text)

    class SameProxy:
        """Scrapy requests robots.txt itself; that request needs the proxy too."""

        def process_request(self, request: Request) -> None:
            request.meta["proxy"] = proxy

    ours = settings.copy()
    ours.setdict(
        {
            "EZCAPTCHA_ENABLED": False,
            "HTTPERROR_ALLOW_ALL": True,
            "RETRY_ENABLED": False,
            "JOBDIR": None,
            "FEEDS": {},
            "ITEM_PIPELINES": {},
            "TWISTED_REACTOR": "twisted.internet.asyncioreactor.AsyncioSelectorReactor",
        },
        priority="cmdline",
    )
    if proxy:
        middlewares = {**ours["DOWNLOADER_MIDDLEWARES"], SameProxy: _AFTER_ALL_OTHERS}
        ours.set("DOWNLOADER_MIDDLEWARES", middlewares, priority="cmdline")
    logging.getLogger("scrapy.downloadermiddlewares.robotstxt").addFilter(_without_traceback)
    process = AsyncCrawlerProcess(ours)
    process.crawl(CheckSpider)
    process.start()
    if not found:
        raise _NoPage(f"{url} could not be fetched: {'; '.join(failures) or 'see the log'}")
    return found[0]


def _without_traceback(record: logging.LogRecord) -> bool:
    """Let the text of an error with ``robots.txt`` through; the page itself is what matters."""
    record.exc_info = None
    return True
