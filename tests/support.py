"""Real crawls against the sandbox, for all tests."""

from __future__ import annotations

import asyncio
import itertools
import json
import multiprocessing
import os
import re
import signal
import sqlite3
import subprocess
import tempfile
import threading
import time
from base64 import b64encode
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

from coverage import Coverage
from crawl_runner import run_command_forked, run_forked

from scrapy_ezcaptcha.crawl.journal import FILE_NAME
from scrapy_ezcaptcha.sandbox import Sandbox
from scrapy_ezcaptcha.sandbox.edge import Edge, Visit
from scrapy_ezcaptcha.sandbox.http import Reply

# Nothing takes so many seconds on the slowest of machines, unless it hangs.
PATIENCE = 120.0

PROXY_VARIABLES = ("http_proxy", "https_proxy", "no_proxy", "all_proxy")
KEY_VARIABLES = (
    *("EZCAPTCHA_CLIENT_KEY", "EZCAPTCHA_CLIENT_KEY_FILE"),
    *("EZCAPTCHA_API_KEY", "EZCAPSOLVER_API_KEY"),
)


@dataclass
class CrawlResult:
    pages: list[dict[str, Any]]
    errors: list[dict[str, Any]]
    stats: dict[str, Any]
    signals: list[list[Any]]
    stats_of_each: list[dict[str, Any]]
    log: str = field(repr=False)

    def stat(self, name: str) -> Any:
        return self.stats.get(f"ezcaptcha/{name}", 0)

    @property
    def challenge_pages(self) -> list[dict[str, Any]]:
        return [page for page in self.pages if page["status"] in {403, 429, 503}]


def clean_environment(**extra: str) -> dict[str, str]:
    """The environment, without the user's proxies and keys, and without coverage."""
    names = {*PROXY_VARIABLES, *(name.upper() for name in PROXY_VARIABLES), *KEY_VARIABLES}
    names |= {"COVERAGE_PROCESS_CONFIG", "COVERAGE_PROCESS_START"}
    kept = {name: value for name, value in os.environ.items() if name not in names}
    return {**kept, **extra}


# Forked from a process that has everything loaded: half the work of a short crawl is importing.
FORKSERVER = multiprocessing.get_context("forkserver")
_PATHS = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
os.environ["PYTHONPATH"] = os.pathsep.join(path for path in _PATHS if path)  # it preloads by this
FORKSERVER.set_forkserver_preload(["preloaded"])


def is_measured() -> bool:
    """Whether coverage is measured now; what the test starts is measured as the test is."""
    return Coverage.current() is not None


class Crawl:
    """Runs each crawl in its own process and folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.count = 0

    def __call__(
        self,
        sandbox: Sandbox | None,
        requests: list[dict[str, Any]],
        *,
        settings: dict[str, Any] | None = None,
        env: dict[str, str] | None = None,
        timeout: float = PATIENCE,
        middleware: bool = True,
        **plan: Any,
    ) -> CrawlResult:
        """Run a crawl to its end."""
        running = self.begin(
            sandbox, requests, settings=settings, env=env, middleware=middleware, **plan
        )
        return running.result(timeout)

    def begin(
        self,
        sandbox: Sandbox | None,
        requests: list[dict[str, Any]],
        *,
        settings: dict[str, Any] | None = None,
        env: dict[str, str] | None = None,
        middleware: bool = True,
        **plan: Any,
    ) -> RunningCrawl:
        """Start a crawl, without waiting for its end."""
        self.count += 1
        folder = self.folder / str(self.count)
        folder.mkdir()
        base: dict[str, Any] = dict(sandbox.settings()) if sandbox else {}
        if sandbox:  # a long solve that the test ends is noticed soon
            base["EZCAPTCHA_POLL_INTERVAL"] = min(base["EZCAPTCHA_POLL_INTERVAL"], 0.2)
        if middleware:
            base["DOWNLOADER_MIDDLEWARES"] = {"scrapy_ezcaptcha.EzCaptchaMiddleware": 585}
        plan |= {
            "requests": requests,
            "settings": {**base, **(settings or {})},
            "out": str(folder / "result.json"),
            "log": str(folder / "log.txt"),
        }
        (folder / "plan.json").write_text(json.dumps(plan))
        return RunningCrawl(folder, clean_environment(**(env or {})))


class RunningCrawl:
    """A crawl in its own process."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.folder = folder
        self.process = FORKSERVER.Process(
            target=run_forked,
            args=(str(folder / "plan.json"), environment, str(folder / "output.txt")),
            kwargs={"is_measured": is_measured()},
        )
        self.process.start()

    @property
    def log(self) -> str:
        files = (self.folder / "log.txt", self.folder / "output.txt")
        return "".join(file.read_text() for file in files if file.exists())

    def interrupt(self, number: signal.Signals = signal.SIGINT) -> None:
        """Press Ctrl-C, or send another signal, and wait until that is noticed."""
        assert self.process.pid is not None
        os.kill(self.process.pid, number)
        said = "shutting down gracefully"
        wait_for(lambda: said in self.log or not self.process.is_alive())

    def force(self, number: signal.Signals = signal.SIGINT) -> None:
        """Press Ctrl-C, and again before the crawl has ended, which then ends at once."""
        self.interrupt(number)
        assert self.process.pid is not None
        os.kill(self.process.pid, number)
        self.wait()

    def kill(self) -> None:
        """Kill the process, as with kill -9."""
        self.process.kill()
        self.process.join()

    def wait(self, timeout: float = PATIENCE) -> None:
        """Wait for its end, however it ends; *timeout* keeps a crawl that hangs from staying."""
        self.process.join(timeout)
        if self.process.is_alive():
            self.process.kill()
            raise TimeoutError(f"the crawl ran for more than {timeout} s\n{self.log}")

    def result(self, timeout: float = PATIENCE) -> CrawlResult:
        """Wait for its end and return what came of it."""
        self.wait(timeout)
        assert self.process.exitcode == 0, self.log
        result = json.loads((self.folder / "result.json").read_text())
        return CrawlResult(**result, log=self.log)


class RunningCommand:
    """``scrapy`` with *arguments*, as the shell would run it."""

    def __init__(self, arguments: list[str], *, env: dict[str, str], cwd: Path) -> None:
        self._arguments = arguments
        self._folder = tempfile.TemporaryDirectory()
        self._out, self._err = (Path(self._folder.name, name) for name in ("out", "err"))
        self._process = FORKSERVER.Process(
            target=run_command_forked,
            args=(arguments, env, str(cwd), str(self._out), str(self._err)),
            kwargs={"is_measured": is_measured()},
        )
        self._process.start()

    def result(self) -> subprocess.CompletedProcess[str]:
        """Wait for its end."""
        with self._folder:
            self._process.join(PATIENCE)
            err = self._err.read_text() if self._err.exists() else ""
            if self._process.is_alive():
                self._process.kill()
                raise TimeoutError(f"{self._arguments} ran for more than {PATIENCE} s\n{err}")
            code = self._process.exitcode
            return subprocess.CompletedProcess(self._arguments, code, self._out.read_text(), err)


def run_program(
    arguments: list[str], *, env: dict[str, str], cwd: Path
) -> subprocess.CompletedProcess[str]:
    """Run a program, whatever its exit status."""
    return subprocess.run(
        arguments,
        env=env,
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


def run_command(
    arguments: list[str], *, env: dict[str, str], cwd: Path
) -> subprocess.CompletedProcess[str]:
    """Run ``scrapy`` with *arguments* to its end."""
    return RunningCommand(arguments, env=env, cwd=cwd).result()


class HeldEdge(Edge):
    """Holds pages back when told to: they are on their way until they are released."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._lock = threading.Lock()
        self._held: list[asyncio.Future[None]] = []
        self._is_held: Callable[[Visit], bool] | None = None

    def hold(self, which: Callable[[Visit], bool] = lambda visit: True) -> None:
        """Hold pages back from now on: all, or some."""
        self._is_held = which

    def release(self) -> None:
        """Answer all that were held back, and hold no more."""
        with self._lock:
            self._is_held = None
            for held in self._held:
                held.get_loop().call_soon_threadsafe(held.set_result, None)
            self._held.clear()

    @property
    def on_their_way(self) -> int:
        """How many pages are held back."""
        return len(self._held)

    def visit(self, *args: Any) -> Reply:
        reply = super().visit(*args)
        with self._lock:
            last = self.visits[-1]
            if last.verdict != "page" or self._is_held is None or not self._is_held(last):
                return reply
            self._held.append(asyncio.get_running_loop().create_future())
            return replace(reply, after=self._held[-1])


class HoldingSandbox(Sandbox):
    """Holds pages back when its ``edge`` is told to."""

    edge: HeldEdge
    edge_class = HeldEdge


def solve(sandbox: Sandbox) -> None:
    """Have all tasks ready now, also those that are created later."""
    sandbox.service.latency = 0.0
    for task in list(sandbox.service.tasks.values()):
        task.ready_at = 0.0


def at_each_page(sandbox: Sandbox, host: str, do: Callable[[int], None]) -> None:
    """Have something done when a request to *host* comes; it is told how many have come."""
    visit, count = sandbox.edge.visit, itertools.count(1)

    def visit_and_do(name: str, *args: Any) -> Reply:
        if name == host:
            do(next(count))
        return visit(name, *args)

    sandbox.edge.visit = visit_and_do  # type: ignore[method-assign]


def via(sandbox: Sandbox, user: str = "exit1", **options: Any) -> dict[str, Any]:
    """The meta of a request that opts in, and uses the exit *user*."""
    return {"proxy": sandbox.proxy_url(user), "ezcaptcha": options or True}


def items(sandbox: Sandbox, first: int, last: int, **more: Any) -> list[dict[str, Any]]:
    """Requests that opt in, for the items *first* to *last* of the protected shop."""
    return [
        {"url": f"http://shop.example/item/{number}", "meta": via(sandbox), **more}
        for number in range(first, last + 1)
    ]


def wait_for(condition: Callable[[], bool], seconds: float = PATIENCE) -> None:
    """Wait until *condition* holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.01)


def waiting_on_disk(job: Path) -> int:
    """The number of waiting requests in the journal."""
    try:
        with closing(sqlite3.connect(job / FILE_NAME)) as file:
            return file.execute("SELECT count(*) FROM waiting").fetchone()[0]
    except sqlite3.OperationalError:  # not there yet
        return 0


def forms(secret: str) -> set[str]:
    """The forms in which *secret* could appear."""
    encoded = {quote(secret), quote(secret, safe="")}
    lower = {re.sub("%[0-9A-F]{2}", lambda match: match[0].lower(), form) for form in encoded}
    return {secret, b64encode(secret.encode()).decode()} | encoded | lower
