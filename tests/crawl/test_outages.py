"""A store that goes away for a moment, or is slow."""

from __future__ import annotations

import time

import pytest
from redis_server import SlowProxy
from support import items, via, wait_for

from scrapy_ezcaptcha.sandbox import Protection, Sandbox, Site

pytestmark = pytest.mark.unmeasured


def begin_four(crawl, sandbox, redis_server):
    settings = {"EZCAPTCHA_STORE": redis_server.url, "DOWNLOAD_DELAY": 0.1}
    return [
        crawl.begin(sandbox, items(sandbox, 1 + 30 * number, 30 + 30 * number), settings=settings)
        for number in range(4)
    ]


def restart(server):
    """Have the server away for half a second; it comes back empty."""
    server.stop()
    time.sleep(0.5)
    server.start()


def assert_all_pages(results):
    pages = [page for result in results for page in result.pages]
    assert [page["status"] for page in pages] == [200] * 120
    assert all("Traceback" not in result.log for result in results)


def test_a_server_that_is_restarted_during_a_solve_costs_no_task(crawl, redis_server):
    with Sandbox([Site("shop.example", Protection())], latency=3) as sandbox:
        crawls = begin_four(crawl, sandbox, redis_server)
        wait_for(lambda: all("is a challenge" in each.log for each in crawls))
        wait_for(lambda: sandbox.service.calls["getTaskResult"] > 0)
        restart(redis_server)
        results = [each.result() for each in crawls]
        assert 1 <= len(sandbox.service.tasks) <= 2
    assert_all_pages(results)


def test_a_clearance_that_ends_while_the_server_is_restarted_costs_one_task(crawl, redis_server):
    with Sandbox([Site("shop.example", Protection())], latency=1) as sandbox:
        crawls = begin_four(crawl, sandbox, redis_server)
        wait_for(lambda: sandbox.report()["pages"] > 20)
        redis_server.stop()
        sandbox.edge._clearances.clear()
        time.sleep(0.5)
        redis_server.start()
        results = [each.result() for each in crawls]
        assert len(sandbox.service.tasks) == 2
    assert_all_pages(results)


@pytest.fixture
def slow_server(redis_server):
    """A server that answers after a tenth of a second."""
    with SlowProxy(redis_server.port, 0.1) as proxy:
        yield proxy


def crawl_slowly(crawl, sandbox, slow_server, *, users=("exit1",)):
    """Crawl 400 pages with the slow server; return the result and how often that was called."""
    requests = [
        {
            "url": f"http://shop.example/item/{number}",
            "meta": via(sandbox, users[number % len(users)]),
        }
        for number in range(400)
    ]
    settings = {"EZCAPTCHA_STORE": slow_server.url, "EZCAPTCHA_MAX_CONCURRENT_TASKS": 400}
    result = crawl(sandbox, requests, settings=settings)
    assert [page["status"] for page in result.pages] == [200] * 400
    assert result.stat("store/errors") == 0
    return result


def test_pages_that_nobody_challenges_do_not_wait_for_a_slow_server(crawl, slow_server):
    with Sandbox([Site("shop.example", items=400)]) as sandbox:
        crawl_slowly(crawl, sandbox, slow_server)
    assert 0 < slow_server.round_trips < 20


def test_many_exits_are_looked_up_together(crawl, slow_server):
    users = [f"exit{number}" for number in range(40)]
    with Sandbox([Site("shop.example", items=400)]) as sandbox:
        crawl_slowly(crawl, sandbox, slow_server, users=users)
    assert 0 < slow_server.round_trips < 60


def test_protected_pages_do_not_wait_for_a_slow_server(crawl, slow_server):
    with Sandbox([Site("shop.example", Protection(), items=400)], latency=1) as sandbox:
        crawl_slowly(crawl, sandbox, slow_server)
        assert len(sandbox.service.tasks) == 1
    assert 0 < slow_server.round_trips < 100


def test_many_exits_have_their_challenges_solved_together(crawl, slow_server):
    users = [f"exit{number}" for number in range(40)]
    with Sandbox([Site("shop.example", Protection(), items=400)], latency=1) as sandbox:
        crawl_slowly(crawl, sandbox, slow_server, users=users)
        assert len(sandbox.service.tasks) == 40
    assert 0 < slow_server.round_trips < 100
