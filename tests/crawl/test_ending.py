"""Ctrl-C in the middle of a solve: nobody waits, nothing is lost."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support import RUNNER, clean_environment, via

from scrapy_ezcaptcha.sandbox import Protection, Sandbox, Site

REACTORS = {
    "asyncio": "twisted.internet.asyncioreactor.AsyncioSelectorReactor",
    "epoll": "twisted.internet.epollreactor.EPollReactor",
}


def start_crawl(
    folder: Path, sandbox: Sandbox, run: int, count: int, **settings: str
) -> tuple[subprocess.Popen, Path]:
    out = folder / f"result{run}.json"
    plan = {
        "requests": [
            {"url": f"http://shop.example/item/{number}", "meta": via(sandbox)}
            for number in range(1, count + 1)
        ],
        "settings": {
            **sandbox.settings(),
            "EZCAPTCHA_POLL_INTERVAL": 0.2,
            "DOWNLOADER_MIDDLEWARES": {"scrapy_ezcaptcha.EzCaptchaMiddleware": 585},
            "JOBDIR": str(folder / "job"),
            **settings,
        },
        "out": str(out),
        "log": str(folder / f"log{run}.txt"),
    }
    (folder / "plan.json").write_text(json.dumps(plan))
    command = [sys.executable, str(RUNNER), str(folder / "plan.json")]
    return subprocess.Popen(command, env=clean_environment(), cwd=folder), out


def interrupt(process: subprocess.Popen) -> float:
    """Press Ctrl-C once and return the seconds until the process has ended."""
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    process.wait(timeout=30)
    return time.monotonic() - began


def assert_each_page_once(folder: Path, outs: list[Path], count: int) -> None:
    pages = [page for out in outs for page in json.loads(out.read_text())["pages"]]
    assert sorted(page["url"] for page in pages) == sorted(
        f"http://shop.example/item/{number}" for number in range(1, count + 1)
    )
    assert all(page["flags"] == ["ezcaptcha"] for page in pages)
    for run in (1, 2):
        log = (folder / f"log{run}.txt").read_text()
        assert "Traceback" not in log
        assert "Unhandled" not in log


def wait_for(condition, seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.02)


@pytest.mark.parametrize("reactor", REACTORS)
def test_after_ctrl_c_in_mid_solve_the_resumed_crawl_gets_each_page_once(tmp_path, reactor):
    settings = {"TWISTED_REACTOR": REACTORS[reactor]}
    with Sandbox(latency=30) as sandbox:
        process, first = start_crawl(tmp_path, sandbox, 1, 30, **settings)
        wait_for(lambda: sandbox.service.calls["getTaskResult"] > 0)
        assert interrupt(process) < 5
        sandbox.service.latency = 0.2
        process, second = start_crawl(tmp_path, sandbox, 2, 30, **settings)
        process.wait(timeout=60)
    assert_each_page_once(tmp_path, [first, second], 30)


def test_after_ctrl_c_while_those_who_waited_are_let_go_each_page_comes_once(tmp_path):
    settings = {"SCHEDULER_PRIORITY_QUEUE": "scrapy.pqueues.ScrapyPriorityQueue"}
    with Sandbox([Site("shop.example", Protection(), latency=0.05)], latency=1) as sandbox:
        process, first = start_crawl(tmp_path, sandbox, 1, 200, **settings)
        wait_for(lambda: sandbox.report()["pages"] > 30)
        assert interrupt(process) < 5
        assert sandbox.report()["pages"] < 150  # those in flight came, the others went back
        process, second = start_crawl(tmp_path, sandbox, 2, 200, **settings)
        process.wait(timeout=60)
    assert_each_page_once(tmp_path, [first, second], 200)
