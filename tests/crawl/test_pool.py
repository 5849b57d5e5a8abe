"""Each zone keeps its exit of the pool, and an exit that fails costs no page."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from support import Crawl, CrawlResult, forms, wait_for

from scrapy_ezcaptcha.crawl.pool import ranked
from scrapy_ezcaptcha.exit import Exit
from scrapy_ezcaptcha.sandbox import Sandbox
from scrapy_ezcaptcha.sandbox.http import Call, Reply
from scrapy_ezcaptcha.sandbox.sites import Protection, Site


def zones(count: int, **options: Any) -> list[Site]:
    return [Site(f"zone{number}.example", Protection(), **options) for number in range(count)]


def pool(sandbox: Sandbox, count: int, **options: Any) -> list[str]:
    return [sandbox.proxy_url(f"exit{number}", **options) for number in range(count)]


def requests(count: int, pages: int, scheme: str = "http") -> list[dict[str, Any]]:
    """Requests for so many pages in turn of so many zones."""
    return [
        {
            "url": f"{scheme}://zone{number % count}.example/item/{number // count + 1}",
            "meta": {"ezcaptcha": True},
        }
        for number in range(pages)
    ]


def exits_of(sandbox: Sandbox) -> dict[str, set[str]]:
    """The exits for which tasks were bought, by zone."""
    exits: dict[str, set[str]] = {}
    for task in sandbox.service.tasks.values():
        exits.setdefault(urlsplit(task.website_url).hostname or "", set()).add(task.exit)
    return exits


def assert_all_pages(result: CrawlResult, count: int) -> None:
    assert result.errors == []
    assert Counter(page["status"] for page in result.pages) == {200: count}
    assert len({page["url"] for page in result.pages}) == count
    assert result.stat("requests/gave_up") == 0
    assert "Traceback" not in result.log


def warnings_in(result: CrawlResult) -> list[str]:
    return [line for line in result.log.splitlines() if " WARNING: " in line]


@pytest.mark.unmeasured
def test_ten_exits_and_one_zone_cost_one_task(crawl: Crawl):
    with Sandbox(zones(1, items=100), latency=0.3) as sandbox:
        settings = {"EZCAPTCHA_PROXIES": pool(sandbox, 10)}
        result = crawl(sandbox, requests(1, 100), settings=settings)
        assert len(sandbox.service.tasks) == 1
        assert not any(form in result.log for form in forms(sandbox.proxy_password))
    assert_all_pages(result, 100)
    assert warnings_in(result) == []


@pytest.mark.unmeasured
def test_twenty_zones_are_spread_over_ten_exits(crawl: Crawl):
    with Sandbox(zones(20), latency=0.3) as sandbox:
        settings = {"EZCAPTCHA_PROXIES": pool(sandbox, 10)}
        result = crawl(sandbox, requests(20, 100), settings=settings)
        assert len(sandbox.service.tasks) == 20
        used = Counter(exit for exits in exits_of(sandbox).values() for exit in exits)
    assert_all_pages(result, 100)
    assert max(used.values()) <= 5


@pytest.mark.unmeasured
def test_three_of_six_exits_are_dead(crawl: Crawl):
    with Sandbox(zones(8), latency=0.3) as sandbox:
        settings = {"EZCAPTCHA_PROXIES": pool(sandbox, 6, own_port=True), "RETRY_ENABLED": True}
        sandbox.exits.dead("exit0", "exit1", "exit2")
        result = crawl(sandbox, requests(8, 80), settings=settings)
        assert len(sandbox.service.tasks) <= 11
    assert_all_pages(result, 80)
    assert 1 <= result.stat("proxies/benched") <= 3


@pytest.mark.unmeasured
def test_two_exits_per_zone_share_its_requests(crawl: Crawl):
    sites = zones(3, items=60, latency=0.02)
    with Sandbox(sites, latency=0.3) as sandbox:
        settings = {"EZCAPTCHA_PROXIES": pool(sandbox, 6), "EZCAPTCHA_PROXIES_PER_ZONE": 2}
        result = crawl(sandbox, requests(3, 180), settings=settings)
        assert len(sandbox.service.tasks) == 6
        assert {len(exits) for exits in exits_of(sandbox).values()} == {2}
        for site in sites:
            pages = [visit for visit in sandbox.edge.visits if visit.host == site.zone]
            carried = Counter(visit.exit for visit in pages if visit.verdict == "page")
            assert len(carried) == 2
            assert all(0.4 <= count / 60 <= 0.6 for count in carried.values())
    assert_all_pages(result, 180)


@pytest.mark.unmeasured
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_an_exit_that_dies_in_mid_crawl_costs_one_further_task_for_each_zone(crawl, scheme):
    with Sandbox(zones(6, items=40, latency=0.02), latency=0.3) as sandbox:
        settings = {
            "EZCAPTCHA_PROXIES": pool(sandbox, 3, own_port=True),
            "DOWNLOAD_DELAY": 0.01,
            "DOWNLOAD_TIMEOUT": 5,  # Scrapy does not notice that a CONNECT is dropped
        }
        crawling = crawl.begin(sandbox, requests(6, 240, scheme), settings=settings)
        wait_for(lambda: sandbox.report()["pages"] > 30)
        before = exits_of(sandbox)
        (dead,) = next(iter(before.values()))
        sandbox.exits.dead(dead)
        result = crawling.result()
        moved = [zone for zone, exits in before.items() if exits == {dead}]
        assert len(sandbox.service.tasks) == 6 + len(moved)
        assert all(len(exits_of(sandbox)[zone]) == 2 for zone in moved)
    assert_all_pages(result, 240)
    assert result.stat("proxies/benched") == 1


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_an_exit_that_never_answers_is_left(crawl: Crawl, scheme: str):
    """It accepts connections, so the requests end by DOWNLOAD_TIMEOUT alone."""
    with Sandbox(zones(1, items=20), latency=0.3) as sandbox:
        proxies = pool(sandbox, 3)
        first = ranked("zone0.example", [Exit.parse(proxy) for proxy in proxies])[0]
        sandbox.exits.slow(first.username, 600)
        settings = {"EZCAPTCHA_PROXIES": proxies, "DOWNLOAD_TIMEOUT": 2, "RETRY_ENABLED": True}
        result = crawl(sandbox, requests(1, 20, scheme), settings=settings)
        assert len(sandbox.service.tasks) == 1
    assert_all_pages(result, 20)


class FailingSandbox(Sandbox):
    """The exit that brings the sixth page is dead from then until another one brings a page."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        visit, died = self.edge.visit, []

        def visit_and_look(host: str, url: str, call: Call, exit: str) -> Reply:
            reply = visit(host, url, call, exit)
            pages = self.report()["pages"]
            if pages == 6 and not died:
                died.append(exit)
                self.exits.dead(exit)
            elif pages > 6 and exit not in died:
                self.exits.working(*died)
            return reply

        self.edge.visit = visit_and_look  # type: ignore[method-assign]


@pytest.mark.unmeasured
def test_an_exit_that_comes_back_is_used_again(crawl: Crawl):
    with FailingSandbox(zones(1, items=150), latency=0.3) as sandbox:
        settings = {
            "EZCAPTCHA_PROXIES": pool(sandbox, 2, own_port=True),
            "EZCAPTCHA_BREAKER_SECONDS": 0.25,
            "EZCAPTCHA_MAX_WAITING": 8,  # who waits in the scheduler has not chosen an exit yet
            "DOWNLOAD_DELAY": 0.02,
        }
        result = crawl(sandbox, requests(1, 150), settings=settings)
        first, *others = sandbox.service.tasks.values()
        assert [one.exit for one in others] != [first.exit]
        assert len(others) == 1
        assert sandbox.edge.visits[-1].exit == first.exit
    assert_all_pages(result, 150)
    assert "works again" in result.log


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("how", ["refuses", "credentials"])
def test_all_exits_are_dead(crawl: Crawl, how: str, scheme: str):
    with Sandbox(zones(4), latency=0.3) as sandbox:
        settings = {"EZCAPTCHA_PROXIES": pool(sandbox, 5, own_port=how == "refuses")}
        kill = sandbox.exits.dead if how == "refuses" else sandbox.exits.other_credentials
        kill(*(f"exit{number}" for number in range(5)))
        result = crawl(sandbox, requests(4, 40, scheme), settings=settings)
        assert sandbox.service.calls["createTask"] == 0
        assert not any(form in result.log for form in forms(sandbox.proxy_password))
    ended = [error["text"] for error in result.errors] + result.pages
    assert len(ended) == 40
    assert "all 5 proxies of EZCAPTCHA_PROXIES failed" in result.errors[-1]["text"]
    assert result.stat("proxies/benched") == 5
    assert len([line for line in warnings_in(result) if "scrapy_ezcaptcha" in line]) == 1
    assert "Traceback" not in result.log


def test_who_waits_for_a_solve_by_an_exit_that_fails_goes_on_by_the_next(crawl: Crawl):
    """The service finds the exit of the first zone dead; its requests wait no longer."""
    with Sandbox(zones(1), latency=0.5) as sandbox:
        settings = {"EZCAPTCHA_PROXIES": pool(sandbox, 3)}
        crawling = crawl.begin(sandbox, requests(1, 20), settings=settings)
        wait_for(lambda: len(sandbox.service.tasks) == 1)
        (task,) = sandbox.service.tasks.values()
        sandbox.exits.dead(task.exit)
        result = crawling.result()
        assert len(sandbox.service.tasks) == 2
    assert_all_pages(result, 20)
    assert result.stat("proxies/benched") == 1
    assert "the service reports that it failed" in result.log


@pytest.mark.unmeasured
def test_eight_workers_on_one_redis_pay_once_for_each_zone(crawl: Crawl, redis_server):
    with Sandbox(zones(20), latency=1) as sandbox:
        settings = {
            "EZCAPTCHA_PROXIES": pool(sandbox, 10),
            "EZCAPTCHA_STORE": redis_server.url,
        }
        plan = requests(20, 400)
        crawls = [crawl.begin(sandbox, plan[n::8], settings=settings) for n in range(8)]
        results = [each.result(120) for each in crawls]
        assert len(sandbox.service.tasks) == 20
    assert sum(len(result.pages) for result in results) == 400
    for result in results:
        assert_all_pages(result, 50)


@pytest.mark.unmeasured
def test_a_benched_exit_is_known_to_other_workers(crawl: Crawl, redis_server):
    with Sandbox(zones(1), latency=0.3) as sandbox:
        settings = {
            "EZCAPTCHA_PROXIES": pool(sandbox, 4, own_port=True),
            "EZCAPTCHA_STORE": redis_server.url,
        }
        crawl(sandbox, requests(1, 5), settings=settings)
        sandbox.exits.dead(sandbox.edge.visits[0].exit)
        first = crawl(sandbox, requests(1, 10)[5:], settings=settings)
        second = crawl(sandbox, requests(1, 15)[10:], settings=settings)
        assert len(sandbox.service.tasks) == 2
    assert first.stat("proxies/benched") == 1
    assert second.stat("proxies/benched") == 0
    assert "it failed in another process" in second.log
    assert_all_pages(second, 5)


def two_zones(proxies: list[str]) -> tuple[str, str, list[str]]:
    """Two zones that use different exits, and these."""
    exits = [Exit.parse(url) for url in proxies]
    firsts = {ranked(site.zone, exits)[0].username: site.zone for site in zones(20)}
    (one, first), (other, second), *_ = firsts.items()
    return first, second, [one, other]


@pytest.mark.parametrize("way", ["redirect", "copied meta"])
def test_a_request_to_another_zone_leaves_by_the_exit_of_that(crawl: Crawl, way: str):
    with Sandbox(zones(20), latency=0.3) as sandbox:
        proxies = pool(sandbox, 10)
        first, second, exits = two_zones(proxies)
        then = f"http://{second}/item/1"
        url = (
            f"http://{first}/redirect?to={then}" if way == "redirect" else f"http://{first}/item/1"
        )
        result = crawl(
            sandbox,
            [{"url": url, "meta": {"ezcaptcha": True}}],
            settings={"EZCAPTCHA_PROXIES": proxies},
            spider="CopyingSpider",
            next={} if way == "redirect" else {url: then},
        )
        used = {
            host: {v.exit for v in sandbox.edge.visits if v.host == host}
            for host in (first, second)
        }
        assert used == {first: {exits[0]}, second: {exits[1]}}
        assert sandbox.refused_by_proxy == 0
        assert len(sandbox.service.tasks) == 2
    assert result.pages[-1]["url"] == then
    assert {page["status"] for page in result.pages} == {200}


def test_a_retry_stays_at_the_exit_of_its_zone_with_credentials(crawl: Crawl):
    with Sandbox([Site("zone0.example")], latency=0.3) as sandbox:
        request = {"url": "http://zone0.example/status?code=503", "meta": {"ezcaptcha": True}}
        settings = {"EZCAPTCHA_PROXIES": pool(sandbox, 10), "RETRY_ENABLED": True}
        result = crawl(sandbox, [request], settings=settings)
        assert len({visit.exit for visit in sandbox.edge.visits}) == 1
        assert len(sandbox.edge.visits) == 3
        assert sandbox.refused_by_proxy == 0
    assert [page["retry_times"] for page in result.pages] == [2]


def test_dead_exits_use_up_no_retries(crawl: Crawl):
    with Sandbox(zones(8), latency=0.3) as sandbox:
        settings = {"EZCAPTCHA_PROXIES": pool(sandbox, 6, own_port=True), "RETRY_ENABLED": True}
        sandbox.exits.dead("exit0", "exit1")  # so that the third exit of any request works
        result = crawl(sandbox, requests(8, 40), settings=settings)
    assert_all_pages(result, 40)
    assert {page["retry_times"] for page in result.pages} == {None}
    assert "retry/count" not in result.stats


def test_which_proxy_goes_before_which(crawl: Crawl):
    with Sandbox([*zones(1), Site("open.example")], latency=0.3) as sandbox:
        url = "http://zone0.example/item/{}".format
        rows: dict[str, tuple[dict[str, Any], str]] = {
            url(1): ({"ezcaptcha": {"proxy": sandbox.proxy_url("option")}}, "option"),
            url(2): ({"ezcaptcha": True, "proxy": sandbox.proxy_url("meta")}, "meta"),
            url(3): ({"ezcaptcha": True}, "pool"),
            url(4): ({"ezcaptcha": False}, "environment"),
            "http://open.example/item/5": ({}, "environment"),
        }
        settings = {
            "EZCAPTCHA_PROXIES": [sandbox.proxy_url("pool")],
            "EZCAPTCHA_PROXY": sandbox.proxy_url("setting"),
        }
        asked = [{"url": asked, "meta": meta} for asked, (meta, _) in rows.items()]
        env = {"http_proxy": sandbox.proxy_url("environment")}
        crawl(sandbox, asked, settings=settings, env=env)
        last = {f"http://{visit.host}{visit.path}": visit.exit for visit in sandbox.edge.visits}
    assert last == {asked: exit for asked, (_, exit) in rows.items()}


def test_a_resumed_job_goes_on_by_the_same_exit(crawl: Crawl, tmp_path: Path):
    with Sandbox(zones(1), latency=60) as sandbox:
        settings = {"EZCAPTCHA_PROXIES": pool(sandbox, 10), "JOBDIR": str(tmp_path / "job")}
        first = crawl.begin(sandbox, requests(1, 20), settings=settings)
        wait_for(lambda: sandbox.service.calls["getTaskResult"] > 0)
        first.interrupt()
        ended = first.result()
        for task in sandbox.service.tasks.values():
            task.ready_at = 0.0
        result = crawl(sandbox, requests(1, 20), settings=settings)
        assert len(sandbox.service.tasks) == 1
        assert len({visit.exit for visit in sandbox.edge.visits}) == 1
        assert sandbox.refused_by_proxy == 0
    assert ended.pages == []
    assert_all_pages(result, 20)


def test_useless_clearances_bench_the_exit_for_that_zone_alone(crawl: Crawl):
    sites = [Site("zone0.example", Protection(accepts=False)), *zones(4)[1:]]
    with Sandbox(sites, latency=0.1) as sandbox:
        settings = {"EZCAPTCHA_PROXIES": pool(sandbox, 6), "EZCAPTCHA_USE_BODY": "never"}
        result = crawl(sandbox, requests(4, 80), settings=settings)
        exits = exits_of(sandbox)
        tasks = Counter(urlsplit(t.website_url).hostname for t in sandbox.service.tasks.values())
    assert len(exits["zone0.example"]) == 3
    assert tasks["zone0.example"] == 3
    assert {tasks[f"zone{number}.example"] for number in (1, 2, 3)} == {1}
    assert Counter(page["status"] for page in result.pages) == {200: 60, 403: 20}
    assert "is not used for zone0.example for" in result.log


class DeadSites(Sandbox):
    """Its proxy refuses tunnels to some hosts, by whatever exit."""

    def _by_exit(self, call: Call, user: str) -> Reply:
        if call.method == "CONNECT" and call.target.startswith("dead"):
            return Reply(502, body=b"no such host")
        return super()._by_exit(call, user)


@pytest.mark.unmeasured
def test_sites_that_are_down_cost_neither_tasks_nor_pages_of_others(crawl: Crawl):
    with DeadSites(zones(30), latency=0.5) as sandbox:
        dead = [
            {"url": f"https://dead{number % 10}.example/{number}", "meta": {"ezcaptcha": True}}
            for number in range(40)
        ]
        plan = requests(30, 120, "https")
        for number, request in enumerate(dead):
            plan.insert(number * 3, request)
        result = crawl(sandbox, plan, settings={"EZCAPTCHA_PROXIES": pool(sandbox, 5)})
        assert len(sandbox.service.tasks) == 30
    assert Counter(page["status"] for page in result.pages) == {200: 120}
    assert {error["type"] for error in result.errors} == {"TunnelError"}
    assert len(result.errors) == 40


def test_a_zone_that_some_exits_do_not_reach_is_solved_by_another(crawl: Crawl):
    with Sandbox(zones(1), latency=0.3) as sandbox:
        proxies = pool(sandbox, 5)
        order = [exit.username for exit in ranked("zone0.example", list(map(Exit.parse, proxies)))]
        sandbox.exits.dead(*order[:3], status=502)
        settings = {"EZCAPTCHA_PROXIES": proxies, "RETRY_ENABLED": True}
        result = crawl(sandbox, requests(1, 20, "https"), settings=settings)
        assert len(sandbox.service.tasks) == 1
    assert_all_pages(result, 20)


def late(zone: str, count: int) -> list[dict[str, Any]]:
    """Requests that a slow site redirects to *zone*."""
    return [
        {
            "url": f"http://slow.example/redirect?to=http://{zone}/item/{number}",
            "meta": {"ezcaptcha": True},
        }
        for number in range(10, 10 + count)
    ]


def first_exit(zone: str, proxies: list[str]) -> str:
    return ranked(zone, [Exit.parse(url) for url in proxies])[0].username


@pytest.mark.parametrize("is_shared", [False, True])
def test_an_exit_whose_time_is_over_is_tried_by_another_zone(crawl, tmp_path, is_shared):
    sites = [*zones(30), Site("slow.example", latency=2.5)]
    with Sandbox(sites, latency=0.3) as sandbox:
        proxies = pool(sandbox, 2, own_port=True)
        first = first_exit("zone0.example", proxies)
        other = next(z.zone for z in zones(30)[1:] if first_exit(z.zone, proxies) == first)
        settings = {"EZCAPTCHA_PROXIES": proxies, "EZCAPTCHA_BREAKER_SECONDS": 0.5}
        if is_shared:
            settings["EZCAPTCHA_STORE"] = str(tmp_path / "store.sqlite")
        sandbox.exits.dead(first)
        crawling = crawl.begin(sandbox, [*requests(1, 3), *late(other, 1)], settings=settings)
        wait_for(lambda: len(sandbox.service.tasks) == 1)
        sandbox.exits.working(first)
        result = crawling.result()
        assert exits_of(sandbox)[other] == {first}
        assert len(sandbox.service.tasks) == 2
    assert_all_pages(result, 4)
    assert "works again" in result.log


def test_an_exit_that_comes_back_during_a_solve_costs_no_second_one(crawl: Crawl):
    with Sandbox([*zones(1), Site("slow.example", latency=2)], latency=4) as sandbox:
        proxies = pool(sandbox, 3, own_port=True)
        first = first_exit("zone0.example", proxies)
        sandbox.exits.dead(first)
        settings = {"EZCAPTCHA_PROXIES": proxies, "EZCAPTCHA_BREAKER_SECONDS": 0.5}
        plan = [*requests(1, 3), *late("zone0.example", 3)]
        crawling = crawl.begin(sandbox, plan, settings=settings)
        wait_for(lambda: len(sandbox.service.tasks) == 1)
        sandbox.exits.working(first)
        result = crawling.result()
        assert len(sandbox.service.tasks) == 1
    assert_all_pages(result, 6)
