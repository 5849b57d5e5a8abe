"""While requests wait for a solve, the crawl of other sites continues."""

from __future__ import annotations

from itertools import pairwise

import pytest
from scrapy.settings import default_settings
from support import at_each_page, solve, via, wait_for, waiting_on_disk

from scrapy_ezcaptcha.sandbox import Protection, Sandbox, Site

pytestmark = pytest.mark.unmeasured

EPOLL = {"TWISTED_REACTOR": "twisted.internet.epollreactor.EPollReactor"}
PRIORITY_QUEUE = {"SCHEDULER_PRIORITY_QUEUE": "scrapy.pqueues.ScrapyPriorityQueue"}


def interleaved(sandbox, count):
    proxy = {"proxy": sandbox.proxy_url()}
    for number in range(count):
        yield {"url": f"http://shop.example/item/{number}", "meta": via(sandbox)}
        yield {"url": f"http://open.example/item/{number}", "meta": proxy}


def solve_after(sandbox, count, most):
    """Have the solve ready once *count* pages of the open site came meanwhile, or all *most*."""
    before = []

    def look(so_far):
        if sandbox.service.tasks:
            before.append(so_far)
        if so_far == most or (before and so_far - before[0] >= count):
            solve(sandbox)

    at_each_page(sandbox, "open.example", look)


@pytest.mark.parametrize(
    ("settings", "waiting"),
    [
        pytest.param({}, 40, id="default"),
        pytest.param(PRIORITY_QUEUE, 120, id="priority-queue"),
        pytest.param({"CONCURRENT_REQUESTS": 2}, 40, id="two-at-once"),
        pytest.param(EPOLL, 40, id="epoll"),
    ],
)
def test_an_open_site_goes_on_during_the_solve(crawl, settings, waiting):
    """With a plain wait inside the count, 16 pages of it would come before the solve ends.

    The solve lasts until the open site has answered so often, and the open site comes first: while
    the scheduler has none of its requests, only those that wait are left to take.
    """
    at_once = settings.get("CONCURRENT_REQUESTS", 8)
    sites = [Site("shop.example", Protection()), Site("open.example", latency=0.1)]
    with Sandbox(sites, latency=600) as sandbox:
        solve_after(sandbox, 7 * at_once, 15 * at_once)
        settings = {"EZCAPTCHA_POLL_INTERVAL": 0.1, **settings}
        requests = sorted(interleaved(sandbox, 15 * at_once), key=lambda one: "shop" in one["url"])
        result = crawl(sandbox, requests, settings=settings)
    assert [page["status"] for page in result.pages] == [200] * 30 * at_once
    assert len(sandbox.service.tasks) == 1
    pages = [visit.host for visit in sandbox.edge.visits if visit.verdict == "page"]
    assert pages.index("shop.example") >= 7 * at_once  # so many of the open site before that
    assert 1 <= result.stat("requests/waiting_max") <= waiting


def test_if_no_request_may_wait_outside_the_count_the_crawl_is_slower_and_loses_nothing(crawl):
    with Sandbox([Site("shop.example", Protection()), Site("open.example")], latency=1) as sandbox:
        settings = {"EZCAPTCHA_MAX_WAITING": 0}
        result = crawl(sandbox, list(interleaved(sandbox, 60)), settings=settings)
    assert [page["status"] for page in result.pages] == [200] * 120
    assert result.stat("requests/waiting_max") <= 16


def test_per_site_concurrency_is_kept_before_during_and_after_the_solve(crawl):
    """Not under asyncio: there Scrapy 2.19 exceeds the limit by itself, without us too."""
    with Sandbox([Site("shop.example", Protection(), latency=0.02)], latency=1) as sandbox:
        settings = {
            "CONCURRENT_REQUESTS_PER_DOMAIN": 3,
            "TWISTED_REACTOR": "twisted.internet.selectreactor.SelectReactor",
        }
        requests = [request for request in interleaved(sandbox, 60) if "shop" in request["url"]]
        result = crawl(sandbox, requests, settings=settings)
    assert len(result.pages) == 60
    assert 2 <= sandbox.edge.most_at_once["shop.example"] <= 3


def test_the_hosts_of_a_zone_share_the_concurrency_after_the_solve(crawl):
    """All of them wait for one solve, and each has a download slot of its own."""
    latency = 0.05
    with Sandbox([Site("shop.example", Protection(), latency=latency)], latency=600) as sandbox:
        settings = {
            "CONCURRENT_REQUESTS": 4,
            "TWISTED_REACTOR": "twisted.internet.selectreactor.SelectReactor",
        }
        requests = [
            {"url": f"http://h{number}.shop.example/", "meta": via(sandbox)} for number in range(80)
        ]
        result = crawl_until_all_wait(crawl, sandbox, requests, settings)
    assert [page["status"] for page in result.pages] == [200] * 80
    assert result.stat("requests/waiting_max") == 80
    times = sorted(visit.at for visit in sandbox.edge.visits)
    at_once = max(sum(0 <= at - before < latency for before in times) for at in times)
    assert 2 <= at_once <= 4


def crawl_until_all_wait(crawl, sandbox, requests, settings):
    """Crawl, and have the solve ready once all *requests* wait for it."""
    job = crawl.folder / "job"
    running = crawl.begin(sandbox, requests, settings={"JOBDIR": str(job), **settings})
    wait_for(lambda: waiting_on_disk(job) == len(requests))
    solve(sandbox)
    return running.result()


@pytest.mark.parametrize("at_once", [1, 4])
def test_requests_that_wait_for_a_waiting_robots_txt_do_not_delay_it(crawl, at_once):
    """All requests of a second host wait for its robots.txt, and that waits for a solve."""
    sites = [Site("shop.example", Protection(paths=("/item",)), latency=0.02)]
    with Sandbox(sites, latency=1) as sandbox:
        settings = {"CONCURRENT_REQUESTS": at_once, "ROBOTSTXT_OBEY": True}
        settings |= {"EZCAPTCHA_TRANSPARENT_MODE": True}
        requests = [
            {"url": f"http://{host}.shop.example/item/{number}", "dont_filter": True}
            for host, count in (("www", 1), ("b", 20))
            for number in range(count)
        ]
        env = {"http_proxy": sandbox.proxy_url()}
        result = crawl(sandbox, requests, settings=settings, env=env)
    assert [page["status"] for page in result.pages] == [200] * 21


def test_a_download_delay_is_kept_after_the_solve(crawl):
    with Sandbox([Site("shop.example", Protection())], latency=0.3) as sandbox:
        no_jitter = (
            {"DOWNLOAD_DELAY_JITTER": 0}
            if hasattr(default_settings, "DOWNLOAD_DELAY_JITTER")
            else {"RANDOMIZE_DOWNLOAD_DELAY": False}
        )
        settings = {"DOWNLOAD_DELAY": 0.2, **no_jitter}
        requests = [request for request in interleaved(sandbox, 12) if "shop" in request["url"]]
        result = crawl(sandbox, requests, settings=settings, spider="PacedSpider")
        sent = [values[2] for values in result.signals if values[0] == "sent"]
        assert len(sent) == len(sandbox.edge.visits)
    assert len(result.pages) == 12
    assert all(later - earlier >= 0.199 for earlier, later in pairwise(sent))


def test_higher_priorities_are_let_go_first(crawl):
    """Among those who wait; the site answers one at a time, so the order shows."""
    with Sandbox([Site("shop.example", Protection())], latency=600) as sandbox:
        requests = [
            {"url": f"http://shop.example/{number}", "meta": via(sandbox), "priority": number % 3}
            for number in range(30)
        ]
        settings = {"CONCURRENT_REQUESTS_PER_DOMAIN": 1}
        result = crawl_until_all_wait(crawl, sandbox, requests, settings)
    assert len(result.pages) == 30
    challenged = {v.path for v in sandbox.edge.visits if v.verdict == "challenge"}
    pages = [v.path for v in sandbox.edge.visits if v.verdict == "page"]
    for were_sent in (False, True):  # those that are sent again come from the scheduler
        let_go = [path for path in pages if (path in challenged) == were_sent]
        priorities = [int(path.strip("/")) % 3 for path in let_go]
        assert priorities == sorted(priorities, reverse=True)


def solve_some(sandbox, so_far, most):
    """Have the tasks that there are ready at every 30th page; in the end all."""
    if so_far == most:
        solve(sandbox)
    elif so_far % 30 == 0:
        for task in sandbox.service.tasks.values():
            task.ready_at = 0.0


@pytest.mark.parametrize(
    "settings", [pytest.param({}, id="default"), pytest.param(PRIORITY_QUEUE, id="priority-queue")]
)
def test_more_zones_than_requests_may_wait_hold_no_site_up(crawl, settings):
    """They go back to the scheduler, which takes all others first: open and solved sites."""
    zones = [f"shop{number}.example" for number in range(60)]
    sites = [*(Site(zone, Protection()) for zone in zones), Site("open.example", latency=0.02)]
    with Sandbox(sites, latency=600) as sandbox:
        at_each_page(sandbox, "open.example", lambda so_far: solve_some(sandbox, so_far, 200))
        requests = [
            {"url": f"http://{zone}/item/{number}", "meta": via(sandbox)}
            for number in range(3)
            for zone in zones
        ]
        proxy = {"proxy": sandbox.proxy_url()}
        requests += [
            {"url": f"http://open.example/item/{number}", "meta": proxy} for number in range(200)
        ]
        settings = {
            "EZCAPTCHA_POLL_INTERVAL": 0.05,
            "EZCAPTCHA_MAX_WAITING": 20,
            "EZCAPTCHA_MAX_CONCURRENT_TASKS": 4,
            **settings,
        }
        result = crawl(sandbox, requests, settings=settings)
    assert [page["status"] for page in result.pages] == [200] * 380
    assert len(sandbox.service.tasks) == 60
    assert result.stat("requests/put_off") > 0
    assert result.stat("requests/waiting_max") <= 20 + 16
    hosts = [visit.host for visit in sandbox.edge.visits if visit.verdict == "page"]
    last_open = len(hosts) - hosts[::-1].index("open.example")
    assert len(set(hosts[:last_open])) < 30  # zones that were solved before the open site's end
    for zone in zones if not settings.get("SCHEDULER_PRIORITY_QUEUE") else ():
        # The scheduler's default queue knows sites: the pages of a zone come together.
        first, last = hosts.index(zone), len(hosts) - hosts[::-1].index(zone)
        assert len(set(hosts[first:last])) <= 16


def test_a_request_of_a_component_waits_inside_the_count_if_there_is_no_room(crawl):
    """A robots.txt cannot go back to the scheduler, because it did not come from there."""
    zones = [f"shop{number}.example" for number in range(12)]
    with Sandbox([Site(zone, Protection()) for zone in zones], latency=0.2) as sandbox:
        settings = {
            "EZCAPTCHA_TRANSPARENT_MODE": True,
            "EZCAPTCHA_POLL_INTERVAL": 0.05,
            "EZCAPTCHA_MAX_WAITING": 2,
            "ROBOTSTXT_OBEY": True,
        }
        requests = [{"url": f"http://{zone}/item/{n}"} for zone in zones for n in range(3)]
        env = {"http_proxy": sandbox.proxy_url()}
        result = crawl(sandbox, requests, settings=settings, env=env)
    assert [page["status"] for page in result.pages] == [200] * 36
    assert len(sandbox.service.tasks) == 12
    assert result.stat("requests/put_off") > 0
