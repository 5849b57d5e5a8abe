"""Everything that can go wrong, and what then happens to a request.

For each fault there is a real crawl of a protected site and an open one. The tests compare each
result with ``docs/faults.md``; ``python tests/fault_table.py`` writes that page.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from redis_server import RedisServer, SlowProxy
from support import Crawl, CrawlResult, via

from scrapy_ezcaptcha.sandbox import USER_AGENT, Fault, Protection, Sandbox, Site

KEY = "key-7f3a+/=secret"
PASSWORD = "p@ss/w0rd:secret"

PAGES = 3  # of each site
FOR_EVER = None
FOR_LONG = 600.0  # seconds


SLOW = 0.4  # seconds, in which all replays of a solve are sent


def shop(latency: float = 0.0, **protection: Any) -> Site:
    """All its pages are requested before the first challenge arrives, so they share the solve."""
    return Site("shop.example", Protection(**protection), latency=latency, together=PAGES)


SETTINGS = {
    "EZCAPTCHA_POLL_INTERVAL": 0.1,
    "EZCAPTCHA_HTTP_TIMEOUT": 1.0,
    "EZCAPTCHA_SOLVE_TIMEOUT": 2.0,
    "RETRY_ENABLED": True,
}


# For answers that take a busy machine a while to read.
PATIENT = {"EZCAPTCHA_HTTP_TIMEOUT": 15.0, "EZCAPTCHA_SOLVE_TIMEOUT": 40.0}


@dataclass(frozen=True)
class Case:
    """A fault. One that lasts would do so for longer than the tests let any crawl run."""

    name: str
    faults: Callable[[], list[Fault]] = list
    site: Site = field(default_factory=shop)
    sandbox: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    plan: dict[str, Any] = field(default_factory=dict)
    before: Callable[[Sandbox], None] = lambda sandbox: None
    redis: dict[str, Any] | None = None  # options of a server, which is the store
    delay: float = 0.0  # before each of its answers


@dataclass(frozen=True)
class Row:
    """The result of a case, as a row of the table."""

    name: str
    gets: str
    tasks: int
    seconds: float

    def __str__(self) -> str:
        return f"| {self.name} | {self.gets} | {self.tasks} | {self.seconds:.1f} |"


def create(kind: str, times: int | None = FOR_EVER, **more: Any) -> Callable[[], list[Fault]]:
    return lambda: [Fault("createTask", kind, times=times, **more)]


def poll(kind: str, times: int | None = 2, **more: Any) -> Callable[[], list[Fault]]:
    return lambda: [Fault("getTaskResult", kind, times=times, **more)]


def answer(**fields: Any) -> bytes:
    return json.dumps(fields).encode()


def ready(**solution: Any) -> bytes:
    return answer(errorId=0, status="ready", solution=solution)


AGENT = {"user-agent": USER_AGENT}

CASES = [
    # The whole service
    Case("the service refuses connections for 1 s", before=lambda s: s.interrupt_service(1.0),
         settings={"EZCAPTCHA_POLL_INTERVAL": 0.4}),
    Case("the service refuses connections for good",
         before=lambda s: s.interrupt_service(FOR_LONG)),
    Case("the service has a certificate that nobody vouches for", sandbox={"service_tls": True}),
    # createTask
    Case("createTask: accepted, never answered", create("silent")),
    Case("createTask: answered after the limit", create("slow", delay=1.5)),
    Case("createTask: closed without an answer", create("close")),
    Case("createTask: closed in mid-answer", create("cut")),
    Case("createTask: an answer that never ends", create("drip")),
    Case("createTask: HTML with 500", create("html", status=500)),
    Case("createTask: HTML with 502", create("html", status=502)),
    Case("createTask: truncated JSON", create("garbage")),
    Case("createTask: not an object", create("raw", body=b"[1, 2]")),
    Case("createTask: no `taskId`", create("raw", body=answer(errorId=0))),
    Case("createTask: `taskId` of a wrong type",
         create("raw", body=answer(errorId=0, taskId=["x"]))),
    Case("createTask: 64 MB", create("huge"), settings=PATIENT),
    Case("createTask: 100 MB in 100 KB", create("bomb"), settings=PATIENT),
    Case("createTask: a redirect to elsewhere", create("redirect")),
    Case("createTask: throttled, with 429, twice",
         create("error", times=2, status=429, code="ERROR_REQUEST_LIMIT")),
    Case("createTask: throttled, with 429, for good",
         create("error", status=429, code="ERROR_REQUEST_LIMIT")),
    Case("createTask: the key is banned for longer than requests wait",
         create("error", status=429, code="ERROR_REQUEST_BANNED")),
    Case("createTask: twice an internal error of the service",
         create("error", times=2, status=500)),
    Case("createTask: an internal error of the service, for good", create("error", status=500)),
    Case("createTask: an error that another call would repeat",
         create("error", code="ERROR_WEBSITE_NOT_ALLOWED", status=400)),
    Case("createTask: the key is unknown",
         create("error", code="ERROR_KEY_DOES_NOT_EXIST", status=400)),
    Case("createTask: the account is empty", create("error", code="ERROR_ZERO_BALANCE")),
    Case("createTask: the account is empty after one task",
         create("error", code="ERROR_ZERO_BALANCE", after=1),
         site=shop(SLOW, max_uses=2)),
    # getTaskResult, in passing
    Case("getTaskResult: twice accepted, never answered", poll("silent"),
         settings={"EZCAPTCHA_SOLVE_TIMEOUT": 15.0}),
    Case("getTaskResult: twice closed without an answer", poll("close")),
    Case("getTaskResult: twice closed in mid-answer", poll("cut")),
    Case("getTaskResult: twice HTML with 502", poll("html", status=502)),
    Case("getTaskResult: twice truncated JSON", poll("garbage")),
    Case("getTaskResult: twice throttled, with 429",
         poll("error", code="ERROR_REQUEST_LIMIT", status=429)),
    Case("getTaskResult: twice an internal error of the service", poll("error", status=500)),
    Case("getTaskResult: twice an unknown status",
         poll("raw", body=answer(errorId=0, status="queued"))),
    Case("getTaskResult: twice wrong types",
         poll("raw", body=answer(errorId=0, status=["ready"], solution="none"))),
    Case("getTaskResult: twice ready, but without a solution",
         poll("raw", body=answer(errorId=0, status="ready"))),
    Case("getTaskResult: twice 64 MB", poll("huge"), settings=PATIENT),
    Case("getTaskResult: twice 100 MB in 100 KB", poll("bomb"), settings=PATIENT),
    Case("getTaskResult: twice a redirect to elsewhere", poll("redirect")),
    Case("getTaskResult: `errorId` as a string",
         poll("raw", body=answer(errorId="0", status="processing"))),
    Case("getTaskResult: twice without `errorId`",
         poll("raw", body=answer(status="processing"))),
    Case("getTaskResult: ready a second after the limit", sandbox={"latency": 3.0}),
    # getTaskResult, for good
    Case("getTaskResult: never answered", poll("silent", FOR_EVER)),
    Case("getTaskResult: HTML for good", poll("html", FOR_EVER)),
    Case("getTaskResult: never ready", sandbox={"latency": FOR_LONG}),
    Case("getTaskResult: the task failed",
         poll("error", FOR_EVER, code="ERROR_PROXY_CONNECT")),
    Case("getTaskResult: the task failed, with `errorId` 0",
         poll("raw", FOR_EVER, body=answer(errorId=0, status="error", errorCode="ERROR_TIMEOUT"))),
    Case("getTaskResult: the task failed, with the code of a temporary error",
         poll("raw", FOR_EVER,
              body=answer(errorId=1, status="error", errorCode="ERROR_SERVICE_TIMEOUT"))),
    Case("getTaskResult: ready, but without a solution, for good",
         poll("raw", FOR_EVER, body=answer(errorId=0, status="ready", solution=None))),
    Case("getTaskResult: the task is unknown",
         poll("error", FOR_EVER, code="ERROR_TASK_NOT_EXIST", status=400)),
    # solutions
    Case("solution: no `cf_clearance`", sandbox={"solution": {"cookies": None}}),
    Case("solution: no User-Agent", sandbox={"solution": {"header": {"user-agent": None}}}),
    Case("solution: empty header map",
         poll("raw", FOR_EVER, body=ready(header={}, cookies={"cf_clearance": "x"}))),
    Case("solution: wrong types in every field",
         poll("raw", FOR_EVER, body=ready(header=[1], cookies="x", body=5, tlsVersion={}))),
    Case("solution: a clearance that the site does not know",
         poll("raw", FOR_EVER, body=ready(header=AGENT, cookies={"cf_clearance": "forged"})),
         site=shop(SLOW)),
    # the store
    Case("the store refuses connections", settings={"EZCAPTCHA_STORE": "redis://127.0.0.1:9"}),
    Case("the store, a Redis server, is out of memory",
         redis={"maxmemory": "1mb", "maxmemory-policy": "noeviction"}),
    Case("the store, a Redis server, answers after 0.1 s", redis={}, delay=0.1),
    # the journal of waiting requests
    Case("the journal in JOBDIR is not a database",
         settings={"JOBDIR": "job"},
         plan={"files": {"job/ezcaptcha-waiting.sqlite": "no database " * 1000}}),
    Case("the disk is full as soon as requests wait",
         settings={"JOBDIR": "job", "LOG_LEVEL": "INFO"}, plan={"file_limit": 33_000}),
    # sites and proxies
    Case("a task is refused, and the challenge is a 503 that RetryMiddleware sends again",
         create("error", times=1, code="ERROR_REQUEST_PARAMETERS"),
         site=shop(status=503)),
    Case("the proxy drops replays, twice", lambda: [Fault("proxy", "close", times=4, after=6)]),
    Case("the site never accepts", site=shop(SLOW, accepts=False)),
    Case("the site ends each clearance after two pages", site=shop(SLOW, max_uses=2)),
    Case("the clock jumps an hour ahead", plan={"clock_jump": 3600}),
    Case("the clock jumps an hour back", plan={"clock_jump": -3600}),
]


def run_case(case: Case, crawl: Crawl) -> tuple[Row, CrawlResult, Sandbox]:
    """Crawl with the fault of *case*."""
    given = {"latency": 0.3, "faults": case.faults(), "key": KEY, "proxy_password": PASSWORD}
    with Sandbox([case.site, Site("open.example")], **(given | case.sandbox)) as sandbox:
        case.before(sandbox)
        requests = [
            {"url": f"http://{zone}/item/{number}", "meta": via(sandbox)}
            for number in range(1, PAGES + 1)
            for zone in ("shop.example", "open.example")
        ]
        with store_of(case, crawl.folder) as store:
            settings = SETTINGS | case.settings | store
            result = crawl(sandbox, requests, settings=settings, **case.plan)
    gets = "; ".join(sorted({_outcome(page) for page in result.pages if "shop" in page["url"]}))
    seconds = result.stats["elapsed_time_seconds"]
    return Row(case.name, gets, len(sandbox.service.tasks), seconds), result, sandbox


@contextmanager
def store_of(case: Case, folder: Path) -> Iterator[dict[str, Any]]:
    """The setting for the store of *case*, while the store runs; empty if it has none."""
    if case.redis is None:
        yield {}
        return
    server = RedisServer(folder)
    server.options |= case.redis
    server.start()
    try:
        with SlowProxy(server.port, case.delay) as proxy:
            yield {"EZCAPTCHA_STORE": proxy.url}
    finally:
        server.give_up()


def _outcome(page: dict[str, Any]) -> str:
    if page["status"] == 200:
        return "pages"
    reason = page["error"].removeprefix("the service refused the key: ")  # said of later ones
    return f"given up: {reason}"
