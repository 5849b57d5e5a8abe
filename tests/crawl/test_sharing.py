"""It never pays twice."""

from __future__ import annotations

from collections import Counter

import pytest
from support import HoldingSandbox, solve, via, wait_for

from scrapy_ezcaptcha.sandbox import Protection, Sandbox, Site

pytestmark = pytest.mark.unmeasured

NO_BODY = {"EZCAPTCHA_USE_BODY": "never"}


def items(sandbox, hosts=("shop.example",), users=("exit1",), count=10):
    return [
        {
            "url": f"http://{host}/item/{number}",
            "meta": via(sandbox, user),
            "dont_filter": True,  # the same page by several exits
        }
        for number in range(1, count + 1)
        for user in users
        for host in hosts
    ]


def test_forty_eight_requests_at_once_are_one_task(crawl):
    """As soon as that is solved, as many pages as may are on their way at once."""
    with HoldingSandbox([Site("shop.example", Protection())], latency=1) as sandbox:
        settings = {"EZCAPTCHA_POLL_INTERVAL": 0.6, "CONCURRENT_REQUESTS_PER_DOMAIN": 16}
        sandbox.edge.hold()
        running = crawl.begin(sandbox, items(sandbox, count=48), settings=settings)
        wait_for(lambda: sandbox.edge.on_their_way == 16)
        sandbox.edge.release()
        result = running.result()
    assert [page["status"] for page in result.pages] == [200] * 48
    (task,) = sandbox.service.tasks.values()
    assert task.polls <= 2  # the first is too early, unless it is late
    report = sandbox.report()
    assert report["challenges"] <= 16 + 2  # those in flight, and two


def test_each_exit_has_a_clearance_of_its_own(crawl):
    users = [f"exit{number}" for number in range(10)]
    with Sandbox(latency=0.3) as sandbox:
        result = crawl(sandbox, items(sandbox, users=users))
    assert Counter(page["status"] for page in result.pages) == {200: 100}
    assert len(sandbox.service.tasks) == 10
    assert {task.exit for task in sandbox.service.tasks.values()} == set(users)
    assert sandbox.report()["hosts"]["shop.example"].get("rejected") is None


def test_the_hosts_of_a_zone_share_one(crawl):
    hosts = ["shop.example", *(f"{name}.shop.example" for name in ("www", "api", "img", "m"))]
    with Sandbox(latency=0.3) as sandbox:
        result = crawl(sandbox, items(sandbox, hosts))
    assert Counter(page["status"] for page in result.pages) == {200: 50}
    assert len(sandbox.service.tasks) == 1


def test_zones_are_solved_at_the_same_time(crawl):
    sites = [Site(f"shop{number}.example", Protection()) for number in range(5)]
    with Sandbox(sites, latency=600) as sandbox:
        running = crawl.begin(sandbox, items(sandbox, [site.zone for site in sites]))
        wait_for(lambda: len(sandbox.service.tasks) == 5)
        solve(sandbox)
        result = running.result()
    assert Counter(page["status"] for page in result.pages) == {200: 50}
    assert len(sandbox.service.tasks) == 5
    assert sandbox.service.most_at_once == 5


def test_a_clearance_that_wears_out_is_replaced_once_each_time(crawl):
    with Sandbox([Site("shop.example", Protection(max_uses=20))], latency=0.3) as sandbox:
        settings = {"CONCURRENT_REQUESTS_PER_DOMAIN": 16}
        result = crawl(sandbox, items(sandbox, count=100), settings=settings)
    assert Counter(page["status"] for page in result.pages) == {200: 100}
    assert len({page["url"] for page in result.pages}) == 100
    assert len(sandbox.service.tasks) == 5
    assert result.stat("clearances/rejected") == 4


def test_a_zone_that_never_accepts_costs_three_tasks_and_nobody_else(crawl):
    sites = [Site("shop.example", Protection(accepts=False)), Site("good.example", Protection())]
    with Sandbox(sites, latency=0.2) as sandbox:
        requests = items(sandbox, ["shop.example", "good.example"], count=30)
        result = crawl(sandbox, requests, settings=NO_BODY)
    bad = [page for page in result.pages if "shop.example" in page["url"]]
    good = [page for page in result.pages if "good.example" in page["url"]]
    assert [page["status"] for page in good] == [200] * 30
    assert len(bad) == 30
    assert all(page["flags"] == ["ezcaptcha-unsolved"] and page["error"] for page in bad)
    assert len(sandbox.service.tasks) == 3 + 1
    assert result.log.count("Giving up shop.example") == 1


def test_the_spending_limit_is_kept(crawl):
    sites = [Site(f"shop{number}.example", Protection()) for number in range(5)]
    with Sandbox(sites, latency=0.3) as sandbox:
        requests = items(sandbox, [site.zone for site in sites], count=4)
        result = crawl(sandbox, requests, settings={"EZCAPTCHA_MAX_TASKS": 2})
    assert len(sandbox.service.tasks) == 2
    assert Counter(page["status"] for page in result.pages) == {200: 8, 403: 12}
    unsolved = [page for page in result.pages if page["status"] == 403]
    assert all("EZCAPTCHA_MAX_TASKS=2" in page["error"] for page in unsolved)
    assert result.stats["finish_reason"] == "finished"


def test_a_limit_closes_the_spider_only_if_asked_to(crawl, sandbox):
    settings = {"EZCAPTCHA_CLIENT_KEY": "wrong", "EZCAPTCHA_CLOSE_SPIDER_ON_LIMIT": True}
    result = crawl(sandbox, items(sandbox), settings=settings)
    assert result.stats["finish_reason"] == "ezcaptcha_limit"


def test_no_more_tasks_at_once_than_allowed(crawl):
    sites = [Site(f"shop{number}.example", Protection()) for number in range(6)]
    with Sandbox(sites, latency=600) as sandbox:
        requests = items(sandbox, [site.zone for site in sites], count=2)
        settings = {"EZCAPTCHA_MAX_CONCURRENT_TASKS": 2}
        running = crawl.begin(sandbox, requests, settings=settings)
        wait_for(lambda: len(sandbox.service.tasks) == 2)
        solve(sandbox)
        sandbox.service.latency = 0.3
        result = running.result()
    assert Counter(page["status"] for page in result.pages) == {200: 12}
    assert sandbox.service.most_at_once == 2


@pytest.mark.parametrize("concurrency", [1, 16])
@pytest.mark.parametrize("first", ["shop.example", "admin.shop.example"])
def test_a_host_that_wants_its_own_clearance_gets_one_and_nobody_chases(crawl, first, concurrency):
    """The zone's clearance does not serve admin.shop.example, and the other way round."""
    sites = [
        Site("admin.shop.example", Protection(per_host=True)),
        Site("shop.example", Protection()),
    ]
    hosts = ["shop.example", "www.shop.example", "admin.shop.example"]
    with Sandbox(sites, latency=0.3) as sandbox:
        requests = items(sandbox, sorted(hosts, key=lambda host: host != first), count=15)
        result = crawl(sandbox, requests, settings={"CONCURRENT_REQUESTS": concurrency})
    assert Counter(page["status"] for page in result.pages) == {200: 45}
    assert len(sandbox.service.tasks) == 2


def test_a_zone_of_many_hosts_that_never_accepts_costs_three_tasks_too(crawl):
    hosts = ["shop.example", *(f"{name}.shop.example" for name in ("www", "api", "img", "m"))]
    with Sandbox([Site("shop.example", Protection(accepts=False))], latency=0.2) as sandbox:
        result = crawl(sandbox, items(sandbox, hosts, count=6), settings=NO_BODY)
    assert len(result.pages) == 30
    assert all(page["flags"] == ["ezcaptcha-unsolved"] for page in result.pages)
    assert len(sandbox.service.tasks) == 3


def test_a_clearance_never_follows_a_redirect_out_of_its_zone(crawl, sandbox):
    url = "http://shop.example/redirect?to=http://open.example/echo"
    for settings in ({}, {"COOKIES_ENABLED": False}):
        result = crawl(sandbox, [{"url": url, "meta": via(sandbox)}], settings=settings)
        (page,) = result.pages
        assert page["url"] == "http://open.example/echo"
        assert "cf_clearance" not in page["body"]
        assert "Scrapy/" in page["body"]  # the spider's own User-Agent again


def test_a_request_not_opted_in_does_not_carry_the_clearance(crawl, sandbox):
    plain = {"proxy": sandbox.proxy_url()}
    requests = [
        {"url": "http://shop.example/item/1", "meta": via(sandbox)},
        {"url": "http://shop.example/item/2", "meta": plain, "priority": -1},
    ]
    result = crawl(sandbox, requests, settings={"CONCURRENT_REQUESTS": 1})
    assert {page["url"][-1]: page["status"] for page in result.pages} == {"1": 200, "2": 403}


def test_the_cost_is_summed_up_in_one_line(crawl, sandbox):
    settings = {"EZCAPTCHA_LOG_BALANCE": True}
    result = crawl(sandbox, items(sandbox, count=3), settings=settings)
    assert result.log.count("INFO: EzCaptcha: ") == 3  # with the line at the start
    assert "EzCaptcha: challenges 3, tasks 1, solved 1, given up 0, reused 0," in result.log
    assert "20 points (0.0020 USD) spent, 99,980 points (9.9980 USD) left" in result.log
    assert result.stats["ezcaptcha/points_spent"] == 20
    assert result.stats["ezcaptcha/usd_spent"] == pytest.approx(0.002)


def test_what_others_spend_from_the_same_account_is_not_counted(crawl):
    """Another crawl spends while this one waits for its solves."""
    zones = [Site(f"shop{number}.example", Protection()) for number in range(5)]
    with Sandbox(zones, latency=0.5) as sandbox:
        create = sandbox.service._create_task

        def create_for_two(payload):
            if len(sandbox.service.tasks) == 2:
                sandbox.service.balance -= 50_000
            return create(payload)

        sandbox.service._create_task = create_for_two
        requests = [{"url": f"http://{site.zone}/item/1", "meta": via(sandbox)} for site in zones]
        result = crawl(sandbox, requests, settings={"EZCAPTCHA_LOG_BALANCE": True})
    assert result.stat("tasks/created") == 5
    assert result.stats["ezcaptcha/points_spent"] == 100
    assert "100 points (0.0100 USD) spent, 49,900 points (4.9900 USD) left" in result.log


def test_only_time_in_which_a_request_waits_is_summed_up(crawl):
    """Four solves at the same time, all of which fail."""
    zones = [Site(f"shop{number}.example", Protection()) for number in range(4)]
    with Sandbox(zones, latency=60) as sandbox:
        requests = [{"url": f"http://{site.zone}/item/1", "meta": via(sandbox)} for site in zones]
        settings = {"EZCAPTCHA_SOLVE_TIMEOUT": 1.0, "EZCAPTCHA_MAX_ATTEMPTS": 1}
        result = crawl(sandbox, requests, settings=settings)
    assert result.stat("tasks/failed") == 4
    waited = result.stat("requests/waiting_seconds")
    assert 0.9 < waited <= result.stats["elapsed_time_seconds"]
    assert f"seconds waited {waited:.1f}" in result.log
