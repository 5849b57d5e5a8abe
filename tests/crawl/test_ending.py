"""Ctrl-C and kill -9 in the middle of a solve: nobody waits, nothing is lost.

``make ends RUNS=20`` runs each phase twenty times.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support import RUNNER, clean_environment, via, wait_for, waiting_on_disk

from scrapy_ezcaptcha.sandbox import Fault, Protection, Sandbox, Site

pytestmark = pytest.mark.unmeasured

CONCURRENT_REQUESTS = 16  # Scrapy's default
RUNS = range(int(os.environ.get("RUNS", "1")))
PHASES = ["creating", "polling", "replaying"]

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
            "EZCAPTCHA_MAX_ATTEMPTS": 1,
            "EZCAPTCHA_HTTP_TIMEOUT": 3,  # an ending crawl waits for so long for a task's id
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
    assert [page["flags"] for page in pages] == [["ezcaptcha"]] * count
    for run in (1, 2):
        log = (folder / f"log{run}.txt").read_text()
        assert "Traceback" not in log
        assert "Unhandled" not in log


def reach(phase: str, sandbox: Sandbox) -> None:
    """Wait until the first solve has come so far."""
    if phase == "creating":
        wait_for(lambda: sandbox.service.calls["createTask"] > 0)
    elif phase == "polling":
        wait_for(lambda: sandbox.service.calls["getTaskResult"] > 0)
    else:
        wait_for(lambda: sandbox.report()["pages"] > 0)


def hurry(sandbox: Sandbox) -> None:
    """Have all tasks ready soon, also those that were created before."""
    sandbox.service.latency = 0.2
    for task in sandbox.service.tasks.values():
        task.ready_at = 0.0


def prolong(phase: str, sandbox: Sandbox) -> None:
    """Have *phase* last, from now on."""
    sandbox.service.calls.clear()
    sandbox.service.latency = 0.3 if phase == "replaying" else 20
    if phase == "creating":
        sandbox.service.faults.append(Fault("createTask", "slow", delay=20))


@pytest.fixture
def slow_site():
    """Any second solve is quick."""
    with Sandbox([Site("shop.example", Protection(), latency=0.1)]) as sandbox:
        yield sandbox


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("reactor", REACTORS)
def test_after_ctrl_c_the_resumed_crawl_gets_each_page_once(
    tmp_path, slow_site, reactor, phase, run
):
    settings = {"TWISTED_REACTOR": REACTORS[reactor]}
    prolong(phase, slow_site)
    process, first = start_crawl(tmp_path, slow_site, 1, 40, **settings)
    reach(phase, slow_site)
    assert interrupt(process) < 10  # the phase would last 20 s
    hurry(slow_site)
    process, second = start_crawl(tmp_path, slow_site, 2, 40, **settings)
    process.wait(timeout=60)
    assert_each_page_once(tmp_path, [first, second], 40)


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("phase", PHASES)
def test_after_kill_9_the_resumed_crawl_misses_at_most_what_was_in_flight(
    tmp_path, slow_site, phase, run
):
    """Scrapy's queue on disk is complete after a clean stop only; so the second run is killed."""
    prolong("polling", slow_site)
    # In memory: else the second run would go on with the first one's task.
    process, first = start_crawl(tmp_path, slow_site, 1, 60, EZCAPTCHA_STORE="memory")
    wait_for(lambda: waiting_on_disk(tmp_path / "job") == 60)
    interrupt(process)
    prolong(phase, slow_site)
    process, _ = start_crawl(tmp_path, slow_site, 2, 60)
    reach(phase, slow_site)
    process.kill()
    process.wait(timeout=10)
    seen = [visit.path for visit in slow_site.edge.visits if visit.verdict == "page"]
    hurry(slow_site)
    process, last = start_crawl(tmp_path, slow_site, 3, 60)
    assert process.wait(timeout=60) == 0
    pages = json.loads(first.read_text())["pages"] + json.loads(last.read_text())["pages"]
    got = {page["url"] for page in pages} | {f"http://shop.example{path}" for path in seen}
    assert len(got) >= 60 - CONCURRENT_REQUESTS
    assert {page["status"] for page in pages} == {200}
    for run_number in (1, 3):
        assert "Traceback" not in (tmp_path / f"log{run_number}.txt").read_text()


def test_after_ctrl_c_while_those_who_waited_are_let_go_each_page_comes_once(tmp_path):
    settings = {"SCHEDULER_PRIORITY_QUEUE": "scrapy.pqueues.ScrapyPriorityQueue"}
    with Sandbox([Site("shop.example", Protection(), latency=0.15)], latency=1) as sandbox:
        process, first = start_crawl(tmp_path, sandbox, 1, 200, **settings)
        wait_for(lambda: sandbox.report()["pages"] > 30)
        assert interrupt(process) < 5
        assert sandbox.report()["pages"] < 150  # those in flight came, the others went back
        process, second = start_crawl(tmp_path, sandbox, 2, 200, **settings)
        process.wait(timeout=60)
    assert_each_page_once(tmp_path, [first, second], 200)


def test_after_ctrl_c_requests_that_want_their_solutions_page_get_it(tmp_path, slow_site):
    settings = {"EZCAPTCHA_USE_BODY": "always"}
    prolong("polling", slow_site)
    process, first = start_crawl(tmp_path, slow_site, 1, 3, **settings)
    reach("polling", slow_site)
    interrupt(process)
    hurry(slow_site)
    process, second = start_crawl(tmp_path, slow_site, 2, 3, **settings)
    process.wait(timeout=60)
    pages = [page for out in (first, second) for page in json.loads(out.read_text())["pages"]]
    assert sorted(page["url"][-1] for page in pages) == ["1", "2", "3"]
    assert [page["flags"] for page in pages] == [["ezcaptcha", "ezcaptcha-body"]] * 3
    assert len(slow_site.service.tasks) == 3


def force(process: subprocess.Popen, log: Path, number: signal.Signals) -> None:
    """Stop the crawl, and once more before it has ended."""
    process.send_signal(number)
    wait_for(lambda: "shutting down gracefully" in log.read_text())
    process.send_signal(number)
    try:
        process.wait(timeout=10)  # else it would never end
    except subprocess.TimeoutExpired:
        process.kill()
        raise


@pytest.fixture(params=["job", "file", "redis"])
def any_store(request, tmp_path):
    """The settings of each kind of store that a crawl may have."""
    if request.param == "redis":
        return {"EZCAPTCHA_STORE": request.getfixturevalue("redis_server").url}
    return {"EZCAPTCHA_STORE": str(tmp_path / "c.sqlite")} if request.param == "file" else {}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_crawl_that_is_forced_to_stop_ends(tmp_path, any_store, number):
    """It met no challenge; a page takes longer than anybody wants to wait."""
    with Sandbox([Site("shop.example", latency=30)]) as sandbox:
        process, _ = start_crawl(tmp_path, sandbox, 1, 4, **any_store)
        wait_for(lambda: sandbox.edge.visits)
        force(process, tmp_path / "log1.txt", number)
    log = (tmp_path / "log1.txt").read_text()
    assert "forcing unclean shutdown" in log
    assert "Traceback" not in log


@pytest.mark.parametrize("phase", ["polling", "replaying"])
def test_a_crawl_that_is_forced_to_stop_leaves_what_it_paid_for_to_the_next(
    tmp_path, any_store, phase
):
    with Sandbox([Site("shop.example", Protection(), latency=1)], latency=0.1) as sandbox:
        prolong(phase, sandbox)
        process, _ = start_crawl(tmp_path, sandbox, 1, 40, **any_store)
        reach(phase, sandbox)
        force(process, tmp_path / "log1.txt", signal.SIGINT)
        hurry(sandbox)
        process, second = start_crawl(tmp_path, sandbox, 2, 40, **any_store)
        assert process.wait(timeout=60) == 0
        assert len(sandbox.service.tasks) == 1
    stats = json.loads(second.read_text())["stats"]
    assert stats.get("ezcaptcha/tasks/created", 0) == 0


def test_a_store_that_hangs_does_not_keep_a_crawl_from_being_forced_to_stop(tmp_path):
    with Sandbox([Site("shop.example", latency=30)]) as sandbox, socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(8)
        store = {"EZCAPTCHA_STORE": f"redis://127.0.0.1:{deaf.getsockname()[1]}"}
        process, _ = start_crawl(tmp_path, sandbox, 1, 4, **store)
        deaf.settimeout(20)
        connection, _ = deaf.accept()
        with connection:
            force(process, tmp_path / "log1.txt", signal.SIGINT)
    assert "forcing unclean shutdown" in (tmp_path / "log1.txt").read_text()
