"""Ctrl-C and kill -9 in the middle of a solve: nobody waits, nothing is lost.

``make ends RUNS=20`` runs each phase twenty times.
"""

from __future__ import annotations

import os
import signal
import socket
from typing import Any

import pytest
from support import (
    PATIENCE,
    Crawl,
    CrawlResult,
    HoldingSandbox,
    RunningCrawl,
    items,
    solve,
    wait_for,
    waiting_on_disk,
)

from scrapy_ezcaptcha.sandbox import Fault, Protection, Sandbox, Site

pytestmark = pytest.mark.unmeasured

CONCURRENT_REQUESTS = 16  # Scrapy's default
RUNS = range(int(os.environ.get("RUNS", "1")))
PHASES = ["creating", "polling", "replaying"]
FOR_LONG = 600.0  # seconds: longer than any test waits

REACTORS = {
    "asyncio": "twisted.internet.asyncioreactor.AsyncioSelectorReactor",
    "epoll": "twisted.internet.epollreactor.EPollReactor",
}


def start(
    crawl: Crawl, sandbox: Sandbox, count: int, spider: str = "PlanSpider", **settings: Any
) -> RunningCrawl:
    """Begin to crawl *count* items, as one run of a job."""
    job = {
        "EZCAPTCHA_POLL_INTERVAL": 0.2,
        "EZCAPTCHA_MAX_ATTEMPTS": 1,
        "EZCAPTCHA_HTTP_TIMEOUT": 3,  # an ending crawl waits for so long for a task's id
        "JOBDIR": str(crawl.folder / "job"),
    }
    return crawl.begin(sandbox, items(sandbox, 1, count), settings=job | settings, spider=spider)


def assert_each_page_once(results: list[CrawlResult], count: int) -> None:
    pages = [page for result in results for page in result.pages]
    assert sorted(page["url"] for page in pages) == sorted(
        f"http://shop.example/item/{number}" for number in range(1, count + 1)
    )
    assert [page["flags"] for page in pages] == [["ezcaptcha"]] * count
    for result in results:
        assert "Traceback" not in result.log
        assert "Unhandled" not in result.log


def prolong(phase: str, sandbox: HoldingSandbox) -> None:
    """Have *phase* last, from now on."""
    sandbox.service.calls.clear()
    sandbox.service.latency = FOR_LONG
    if phase == "creating":
        sandbox.service.faults.append(Fault("createTask", "slow", delay=FOR_LONG))
    if phase == "replaying":
        sandbox.service.latency = 0.0
        sandbox.edge.hold()


def reach(phase: str, sandbox: HoldingSandbox) -> None:
    """Wait until the first solve has come so far."""
    if phase == "creating":
        wait_for(lambda: sandbox.service.calls["createTask"] > 0)
    elif phase == "polling":
        wait_for(lambda: sandbox.service.calls["getTaskResult"] > 0)
    else:
        wait_for(lambda: sandbox.edge.on_their_way > 0)


def hurry(sandbox: HoldingSandbox) -> None:
    """Have no phase last any longer."""
    solve(sandbox)
    sandbox.edge.release()


@pytest.fixture
def held():
    """A sandbox whose solves, and pages, take as long as the test wants."""
    with HoldingSandbox([Site("shop.example", Protection())]) as sandbox:
        yield sandbox


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("reactor", REACTORS)
def test_after_ctrl_c_the_resumed_crawl_gets_each_page_once(crawl, held, reactor, phase, run):
    """The first run does not wait for the end of a solve; only pages on their way still come."""
    settings = {"TWISTED_REACTOR": REACTORS[reactor]}
    prolong(phase, held)
    running = start(crawl, held, 40, **settings)
    reach(phase, held)
    running.interrupt()
    held.edge.release()
    first = running.result()
    hurry(held)
    assert_each_page_once([first, start(crawl, held, 40, **settings).result()], 40)


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("phase", PHASES)
def test_after_kill_9_the_resumed_crawl_misses_at_most_what_was_in_flight(crawl, held, phase, run):
    """Scrapy's queue on disk is complete after a clean stop only; so the second run is killed."""
    prolong("polling", held)
    # In memory: else the second run would go on with the first one's task.
    running = start(crawl, held, 60, EZCAPTCHA_STORE="memory")
    wait_for(lambda: waiting_on_disk(crawl.folder / "job") == 60)
    running.interrupt()
    first = running.result()
    prolong(phase, held)
    second = start(crawl, held, 60)
    reach(phase, held)
    second.kill()
    seen = [visit.path for visit in held.edge.visits if visit.verdict == "page"]
    hurry(held)
    last = start(crawl, held, 60).result()
    pages = first.pages + last.pages
    got = {page["url"] for page in pages} | {f"http://shop.example{path}" for path in seen}
    assert len(got) >= 60 - CONCURRENT_REQUESTS
    assert {page["status"] for page in pages} == {200}
    for result in (first, last):
        assert "Traceback" not in result.log


def test_after_ctrl_c_while_those_who_waited_are_let_go_each_page_comes_once(crawl, held):
    """Those on their way come, and the others go back to the scheduler."""
    settings = {"SCHEDULER_PRIORITY_QUEUE": "scrapy.pqueues.ScrapyPriorityQueue"}
    held.service.latency = FOR_LONG
    held.edge.hold(lambda visit: held.report()["pages"] > 30)
    running = start(crawl, held, 200, spider="SchedulingSpider", **settings)
    wait_for(lambda: waiting_on_disk(crawl.folder / "job") == 200)
    solve(held)
    wait_for(lambda: held.edge.on_their_way == 8)
    running.interrupt()
    went_back = lambda: running.log.partition("Closing spider")[2].count("Scheduled")  # noqa: E731
    wait_for(lambda: went_back() == 200 - 30 - 8)
    held.edge.release()
    first = running.result()
    assert len(first.pages) == 30 + 8
    assert_each_page_once([first, start(crawl, held, 200, **settings).result()], 200)


def test_after_ctrl_c_requests_that_want_their_solutions_page_get_it(crawl, held):
    settings = {"EZCAPTCHA_USE_BODY": "always"}
    prolong("polling", held)
    running = start(crawl, held, 3, **settings)
    reach("polling", held)
    running.interrupt()
    first = running.result()
    hurry(held)
    second = start(crawl, held, 3, **settings).result()
    pages = first.pages + second.pages
    assert sorted(page["url"][-1] for page in pages) == ["1", "2", "3"]
    assert [page["flags"] for page in pages] == [["ezcaptcha", "ezcaptcha-body"]] * 3
    assert len(held.service.tasks) == 3


@pytest.fixture(params=["job", "file", "redis"])
def any_store(request, tmp_path):
    """The settings of each kind of store that a crawl may have."""
    lease = {"EZCAPTCHA_STORE_LEASE": 1.5}
    if request.param == "redis":
        return lease | {"EZCAPTCHA_STORE": request.getfixturevalue("redis_server").url}
    return lease | (
        {"EZCAPTCHA_STORE": str(tmp_path / "c.sqlite")} if request.param == "file" else {}
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_crawl_that_is_forced_to_stop_ends(crawl, any_store, number):
    """It met no challenge; a page takes longer than anybody wants to wait."""
    with Sandbox([Site("shop.example", latency=FOR_LONG)]) as sandbox:
        running = start(crawl, sandbox, 4, **any_store)
        wait_for(lambda: sandbox.edge.visits)
        running.force(number)
    assert "forcing unclean shutdown" in running.log
    assert "Traceback" not in running.log


@pytest.mark.parametrize("phase", ["polling", "replaying"])
def test_a_crawl_that_is_forced_to_stop_leaves_what_it_paid_for_to_the_next(
    crawl, held, any_store, phase
):
    prolong(phase, held)
    running = start(crawl, held, 40, **any_store)
    reach(phase, held)
    running.force()
    hurry(held)
    second = start(crawl, held, 40, **any_store).result()
    assert len(held.service.tasks) == 1
    assert second.stat("tasks/created") == 0


def test_a_store_that_hangs_does_not_keep_a_crawl_from_being_forced_to_stop(crawl):
    with Sandbox([Site("shop.example", latency=FOR_LONG)]) as sandbox, socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(8)
        store = {"EZCAPTCHA_STORE": f"redis://127.0.0.1:{deaf.getsockname()[1]}"}
        running = start(crawl, sandbox, 4, **store)
        deaf.settimeout(PATIENCE)
        connection, _ = deaf.accept()
        with connection:
            running.force()
    assert "forcing unclean shutdown" in running.log
