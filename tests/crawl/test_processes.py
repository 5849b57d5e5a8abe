"""Clearances shared between runs, processes and machines."""

from __future__ import annotations

import json
import socket
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from scrapy.settings import Settings
from support import HoldingSandbox, RunningCommand, clean_environment, forms, items, via, wait_for

from scrapy_ezcaptcha.config import STORE_FILE, Config
from scrapy_ezcaptcha.exit import Exit
from scrapy_ezcaptcha.sandbox import Fault, Protection, Sandbox, Site
from scrapy_ezcaptcha.sandbox.edge import Edge
from scrapy_ezcaptcha.sandbox.http import Reply
from scrapy_ezcaptcha.stores import open_store

pytestmark = pytest.mark.unmeasured

WORKERS = Path(__file__).parents[2] / "docs" / "examples" / "workers.py"
SHOP = [Site("shop.example", Protection())]


@pytest.fixture(params=["sqlite", "redis"])
def store(request, tmp_path):
    """The settings of a store that several crawls share."""
    if request.param == "sqlite":
        where = str(tmp_path / "clearances.sqlite")
    else:
        where = request.getfixturevalue("redis_server").url
    return {"EZCAPTCHA_STORE": where, "EZCAPTCHA_STORE_LEASE": 1.5}


def hurry(sandbox):
    """Have the tasks under way ready now."""
    for task in sandbox.service.tasks.values():
        task.ready_at = 0.0


def assert_all_pages(results, count):
    pages = [page for result in results for page in result.pages]
    assert Counter(page["status"] for page in pages) == {200: count}
    assert len({page["url"] for page in pages}) == count
    for result in results:
        assert result.errors == []
        assert "Traceback" not in result.log


def test_a_second_run_pays_nothing_and_meets_no_challenge(crawl, store):
    with Sandbox(SHOP, latency=0.3) as sandbox:
        results = [crawl(sandbox, items(sandbox, 1, 10), settings=store)]
        challenges = sandbox.report()["challenges"]
        results.append(crawl(sandbox, items(sandbox, 11, 20), settings=store))
        assert len(sandbox.service.tasks) == 1
        assert sandbox.report()["challenges"] == challenges
    assert_all_pages(results, 20)
    assert results[1].stat("tasks/created") == 0
    assert results[1].stat("clearances/shared") == 1
    assert all(page["flags"] == ["ezcaptcha"] for page in results[1].pages)


def test_a_renewed_cookie_is_in_the_store_at_once(crawl, store):
    """Others need it: the site may refuse the one before."""
    sites = [Site("shop.example", Protection(renew_every=5)), Site("open.example", latency=600)]
    with Sandbox(sites, latency=0.3) as sandbox:
        other = {"url": "http://open.example/", "meta": via(sandbox)}  # it goes on for long
        settings = {**store, "DOWNLOAD_DELAY": 0.3}  # nothing else is written meanwhile
        running = crawl.begin(sandbox, [other, *items(sandbox, 1, 5)], settings=settings)
        wait_for(lambda: sandbox.report()["pages"] == 6)
        opened = open_store(Config.from_settings(Settings({**sandbox.settings(), **store}), {}))
        (newest,) = sandbox.edge._clearances
        kept = lambda: [record.clearance.cookies for _, record in opened.everything()]  # noqa: E731
        wait_for(lambda: any(cookies["cf_clearance"] == newest for cookies in kept()))
        assert [cookies["cf_clearance"] for cookies in kept()] == [newest]
        opened.close()
        running.kill()


@pytest.mark.parametrize("end", ["kill", "interrupt"])
def test_a_run_that_ended_in_mid_solve_leaves_its_task_to_the_next(crawl, store, end):
    with Sandbox(SHOP, latency=60) as sandbox:
        first = crawl.begin(sandbox, items(sandbox, 1, 20), settings=store)
        wait_for(lambda: sandbox.service.calls["getTaskResult"] > 0)
        if end == "kill":
            first.kill()
        else:
            first.interrupt()
            first.result()
        hurry(sandbox)
        result = crawl(sandbox, items(sandbox, 1, 20), settings=store)
        assert len(sandbox.service.tasks) == 1
    assert_all_pages([result], 20)
    assert (result.stat("tasks/created"), result.stat("tasks/taken_over")) == (0, 1)
    assert result.stat("tasks/ready") == 1


@pytest.mark.parametrize(("store", "workers"), [("sqlite", 4), ("redis", 8)], indirect=["store"])
def test_many_processes_pay_once_together(crawl, store, workers):
    each = 400 // workers
    with Sandbox(SHOP, latency=2) as sandbox:
        crawls = [
            crawl.begin(
                sandbox, items(sandbox, 1 + each * number, each * (number + 1)), settings=store
            )
            for number in range(workers)
        ]
        results = [each.result(90) for each in crawls]
        assert len(sandbox.service.tasks) == 1
    assert_all_pages(results, 400)


class OneStrayEdge(Edge):
    """Challenges no path astray twice: if nobody else gets a page, that is how expiry looks."""

    def visit(self, host: str, url: str, *args: Any) -> Reply:
        strays = {visit.path for visit in self.visits if visit.verdict == "stray"}
        reply = super().visit(host, url, *args)
        while self.visits[-1].verdict == "stray" and self.visits[-1].path in strays:
            reply = super().visit(host, url, *args)
        return reply


class OneStraySandbox(Sandbox):
    edge_class = OneStrayEdge


@pytest.mark.parametrize(("store", "workers"), [("redis", 8)], indirect=["store"])
def test_stray_challenges_cost_many_processes_nothing_either(crawl, store, workers):
    each = 400 // workers
    site = Site("shop.example", Protection(strays=0.1))
    with OneStraySandbox([site], latency=1) as sandbox:
        crawls = [
            crawl.begin(
                sandbox, items(sandbox, 1 + each * number, each * (number + 1)), settings=store
            )
            for number in range(workers)
        ]
        results = [each.result(90) for each in crawls]
        assert len(sandbox.service.tasks) <= 2
    assert_all_pages(results, 400)
    assert sum(result.stat("challenges/stray") for result in results) > 0


def test_a_leader_that_dies_is_replaced_and_its_task_gone_on_with(crawl, store):
    with Sandbox(SHOP, latency=60) as sandbox:
        leader = crawl.begin(sandbox, items(sandbox, 1, 50), settings=store)
        wait_for(lambda: sandbox.service.calls["getTaskResult"] > 0)
        followers = [crawl.begin(sandbox, items(sandbox, 1, 50), settings=store) for _ in range(3)]
        wait_for(lambda: all("is a challenge" in follower.log for follower in followers))
        leader.kill()
        hurry(sandbox)
        results = [each.result() for each in followers]
        assert len(sandbox.service.tasks) == 1
    for result in results:
        assert_all_pages([result], 50)
    assert sum(result.stat("tasks/taken_over") for result in results) == 1


def test_a_clearance_that_wears_out_is_replaced_once_for_all(crawl, store):
    with Sandbox([Site("shop.example", Protection(max_uses=40))], latency=0.5) as sandbox:
        crawls = [
            crawl.begin(sandbox, items(sandbox, 1 + 40 * number, 40 * number + 40), settings=store)
            for number in range(3)
        ]
        results = [each.result() for each in crawls]
        assert len(sandbox.service.tasks) == 3
    assert_all_pages(results, 120)
    assert sum(result.stat("clearances/rejected") for result in results) >= 2


def test_what_one_process_rejected_the_others_do_not_try(crawl, store):
    """One that holds an older clearance takes the newer; so does the next run."""
    with HoldingSandbox([Site("shop.example", Protection(max_uses=60))], latency=0.3) as sandbox:
        results = [crawl(sandbox, items(sandbox, 1, 1), settings=store)]
        settings = {**store, "CONCURRENT_REQUESTS": 1}
        sandbox.edge.hold(lambda visit: visit.path == "/item/112")
        slow = crawl.begin(sandbox, items(sandbox, 102, 131), settings=settings)
        wait_for(lambda: sandbox.edge.on_their_way)
        quick = crawl(sandbox, items(sandbox, 1, 80), settings=store)
        sandbox.edge.release()
        results += [slow.result(), crawl(sandbox, items(sandbox, 132, 135), settings=store)]
        assert len(sandbox.service.tasks) == 2
    assert_all_pages([quick], 80)
    assert_all_pages(results, 35)
    assert [result.stat("clearances/shared") for result in results[::2]] == [0, 1]
    # What was in flight may have been the first to meet the challenge.
    assert results[1].stat("clearances/shared") + results[1].stat("tasks/created") == 2
    assert results[1].stat("challenges") <= 4  # two in flight, each sent once more
    assert results[2].stat("challenges") == 0


def test_a_failure_is_shared_too(crawl, store):
    """One process pays three times for a zone that never accepts; four together a little more.

    Who comes later did not see the first failures.
    """
    site = Site("shop.example", Protection(accepts=False))
    settings = {**store, "EZCAPTCHA_USE_BODY": "never"}
    with Sandbox([site], latency=0.5) as sandbox:
        crawls = [crawl.begin(sandbox, items(sandbox, 1, 10), settings=settings) for _ in range(4)]
        results = [each.result() for each in crawls]
        assert 3 <= len(sandbox.service.tasks) <= 6
    for result in results:
        assert all(page["flags"] == ["ezcaptcha-unsolved"] for page in result.pages)
        assert len(result.pages) == 10


def test_a_solve_that_fails_fails_for_all_who_followed(crawl, store):
    with Sandbox(SHOP, latency=60) as sandbox:
        settings = {**store, "EZCAPTCHA_MAX_ATTEMPTS": 1, "EZCAPTCHA_POLL_INTERVAL": 0.3}
        crawls = [crawl.begin(sandbox, items(sandbox, 1, 5), settings=settings) for _ in range(4)]
        wait_for(lambda: sandbox.report()["challenges"] >= 20)
        sandbox.service.faults.append(
            Fault("getTaskResult", code="ERROR_TASK_NOT_EXIST", times=None, after=3)
        )
        results = [each.result() for each in crawls]
        assert len(sandbox.service.tasks) == 1
    assert [result.stat("tasks/created") for result in results].count(1) == 1
    told = [page["error"] for result in results for page in result.pages]
    assert len(told) == 20
    assert sum("in another process" in error for error in told) == 15
    assert all("ERROR_TASK_NOT_EXIST" in error for error in told)


def test_a_server_that_stops_and_starts_in_mid_crawl_costs_no_page(crawl, redis_server):
    settings = {"EZCAPTCHA_STORE": redis_server.url, "DOWNLOAD_DELAY": 0.02}
    sites = [Site("shop.example", Protection(), latency=0.05)]
    with Sandbox(sites, latency=2) as sandbox:
        crawls = [
            crawl.begin(
                sandbox, items(sandbox, 1 + 200 * number, 200 * number + 200), settings=settings
            )
            for number in range(2)
        ]
        wait_for(lambda: sandbox.service.calls["getTaskResult"] > 0)
        redis_server.stop()
        wait_for(lambda: sandbox.report()["pages"] > 20)
        redis_server.start()
        results = [each.result(90) for each in crawls]
        assert 1 <= len(sandbox.service.tasks) <= 2
    assert_all_pages(results, 400)
    for result in results:
        warnings = [line for line in result.log.splitlines() if " WARNING: " in line]
        assert [line for line in warnings if "continuing with memory only" not in line] == []
        assert len(warnings) == 1
        assert result.log.count("answers again") == 1
        assert result.stat("store/errors") >= 1
    assert redis_server.client.keys("ezcaptcha:held:*")  # what they have is told again


@pytest.mark.parametrize("where", ["refuses", "hangs"])
def test_a_server_that_does_not_answer_holds_nobody_up(crawl, where):
    """If each page waited for one answer of it, the crawl would last longer than any may."""
    with Sandbox(SHOP, latency=0.3) as sandbox, socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        if where == "hangs":
            deaf.listen(8)
        store = {"EZCAPTCHA_STORE": f"redis://:s3cret@127.0.0.1:{deaf.getsockname()[1]}"}
        settings = {**store, "CONCURRENT_REQUESTS": 1}
        result = crawl(sandbox, items(sandbox, 1, 100), settings=settings)
        assert len(sandbox.service.tasks) == 1
    assert_all_pages([result], 100)
    assert result.log.count("continuing with memory only") == 1
    assert "s3cret" not in result.log


@pytest.mark.parametrize(
    ("store", "reactor"),
    [("sqlite", "epollreactor.EPollReactor"), ("redis", "selectreactor.SelectReactor")],
    indirect=["store"],
)
def test_it_works_on_other_reactors_too(crawl, store, reactor):
    settings = {**store, "TWISTED_REACTOR": f"twisted.internet.{reactor}"}
    with Sandbox(SHOP, latency=1) as sandbox:
        crawls = [
            crawl.begin(
                sandbox, items(sandbox, 1 + 20 * number, 20 + 20 * number), settings=settings
            )
            for number in range(2)
        ]
        results = [each.result() for each in crawls]
        assert len(sandbox.service.tasks) == 1
    assert_all_pages(results, 40)


def test_a_job_keeps_its_clearances_by_itself(crawl, tmp_path):
    settings = {"JOBDIR": str(tmp_path / "job")}
    with Sandbox(SHOP, latency=0.3) as sandbox:
        results = [
            crawl(sandbox, items(sandbox, 1 + 10 * run, 10 + 10 * run), settings=settings)
            for run in range(2)
        ]
        assert len(sandbox.service.tasks) == 1
    assert_all_pages(results, 20)
    assert (tmp_path / "job" / STORE_FILE).stat().st_mode & 0o777 == 0o600


def test_a_file_has_the_cookies_and_no_other_secret(crawl, tmp_path):
    store = tmp_path / "clearances.sqlite"
    with Sandbox(SHOP, latency=0.3) as sandbox:
        crawl(sandbox, items(sandbox, 1, 3), settings={"EZCAPTCHA_STORE": f"sqlite:///{store}"})
        secrets = {sandbox.key, *Exit.parse(sandbox.proxy_url()).secrets}
    for path in tmp_path.glob("clearances.sqlite*"):
        assert path.stat().st_mode & 0o777 == 0o600
    written = b"".join(path.read_bytes() for path in tmp_path.glob("clearances.sqlite*"))
    assert b"cf_clearance" in written
    for secret in secrets:
        assert not any(form.encode() in written for form in forms(secret))


def test_a_file_that_is_no_store_stops_the_crawl_before_it_begins(crawl, sandbox, tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("shopping list\n" * 1000)
    result = crawl(sandbox, items(sandbox, 1, 1), settings={"EZCAPTCHA_STORE": str(path)})
    assert "ConfigurationError: EZCAPTCHA_STORE cannot be opened" in result.log
    assert result.pages == []
    assert path.read_text() == "shopping list\n" * 1000
    assert sandbox.edge.visits == []


def test_four_workers_of_scrapy_redis_share_the_work_and_the_bill(tmp_path, redis_server):
    """As the documentation shows it."""
    with Sandbox([Site("shop.example", Protection(), latency=0.05)], latency=2) as sandbox:
        command = ["runspider", str(WORKERS), *sandbox.arguments()]
        environment = clean_environment(REDIS_URL=redis_server.url, **sandbox.environment())
        workers = [
            RunningCommand([*command, "-O", f"items{number}.json"], env=environment, cwd=tmp_path)
            for number in range(4)
        ]
        done = [worker.result() for worker in workers]
        assert [one.returncode for one in done] == [0] * 4
        assert len(sandbox.service.tasks) == 1
    parts = [
        json.loads((tmp_path / f"items{number}.json").read_text() or "[]") for number in range(4)
    ]
    assert sorted(item["title"] for part in parts for item in part) == sorted(
        f"Item {number}" for number in range(1, 201)
    )
    assert all(parts)  # none was left without work
    assert all("] ERROR:" not in one.stderr for one in done)


def test_a_job_whose_store_is_damaged_goes_on_with_memory(crawl, sandbox, tmp_path):
    (tmp_path / "job").mkdir()
    (tmp_path / "job" / STORE_FILE).write_text("damaged " * 1000)
    result = crawl(sandbox, items(sandbox, 1, 3), settings={"JOBDIR": str(tmp_path / "job")})
    assert_all_pages([result], 3)
    assert "The store in JOBDIR cannot be opened" in result.log
