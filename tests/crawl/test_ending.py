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

from scrapy_ezcaptcha.sandbox import Sandbox

REACTORS = {
    "asyncio": "twisted.internet.asyncioreactor.AsyncioSelectorReactor",
    "epoll": "twisted.internet.epollreactor.EPollReactor",
}


def start_crawl(
    folder: Path, sandbox: Sandbox, run: int, reactor: str
) -> tuple[subprocess.Popen, Path]:
    out = folder / f"result{run}.json"
    plan = {
        "requests": [
            {"url": f"http://shop.example/item/{number}", "meta": via(sandbox)}
            for number in range(1, 31)
        ],
        "callbacks_by_name": True,
        "settings": {
            **sandbox.settings(),
            "EZCAPTCHA_POLL_INTERVAL": 0.2,
            "DOWNLOADER_MIDDLEWARES": {"scrapy_ezcaptcha.EzCaptchaMiddleware": 585},
            "JOBDIR": str(folder / "job"),
            "TWISTED_REACTOR": REACTORS[reactor],
        },
        "out": str(out),
        "log": str(folder / f"log{run}.txt"),
    }
    (folder / "plan.json").write_text(json.dumps(plan))
    command = [sys.executable, str(RUNNER), str(folder / "plan.json")]
    return subprocess.Popen(command, env=clean_environment(), cwd=folder), out


def wait_for(condition, seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.02)


@pytest.mark.parametrize("reactor", REACTORS)
def test_after_ctrl_c_in_mid_solve_the_resumed_crawl_gets_each_page_once(tmp_path, reactor):
    with Sandbox(latency=30) as sandbox:
        process, first = start_crawl(tmp_path, sandbox, 1, reactor)
        wait_for(lambda: sandbox.service.calls["getTaskResult"] > 0)
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        process.wait(timeout=20)
        seconds = time.monotonic() - began
        polls = sandbox.service.calls["getTaskResult"]
        sandbox.service.latency = 0.2
        process, second = start_crawl(tmp_path, sandbox, 2, reactor)
        process.wait(timeout=60)
    assert seconds < 5
    assert polls <= sandbox.service.calls["getTaskResult"]
    pages = [page for out in (first, second) for page in json.loads(out.read_text())["pages"]]
    assert sorted(page["url"] for page in pages) == sorted(
        f"http://shop.example/item/{number}" for number in range(1, 31)
    )
    assert all(page["flags"] == ["ezcaptcha"] for page in pages)
    for run in (1, 2):
        log = (tmp_path / f"log{run}.txt").read_text()
        assert "Traceback" not in log
        assert "Unhandled" not in log
