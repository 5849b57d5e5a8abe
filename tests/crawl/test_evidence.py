"""A challenge is evidence, not a verdict, and a paid task ends in a page."""

from __future__ import annotations

import json
from collections import Counter

import pytest
from support import solve, via, wait_for

from scrapy_ezcaptcha.sandbox import Fault, Protection, Sandbox, Site
from scrapy_ezcaptcha.sandbox.edge import Edge

pytestmark = pytest.mark.unmeasured


def items(sandbox, count, *, host="shop.example", path="item", user="exit1", **more):
    return [
        {"url": f"http://{host}/{path}/{number}", "meta": via(sandbox, user), **more}
        for number in range(1, count + 1)
    ]


def sandbox_of(protection, *, zone="shop.example", latency=0.1):
    return Sandbox([Site(zone, protection, latency=0.01), Site("open.example")], latency=latency)


def statuses(result, containing=""):
    return Counter(page["status"] for page in result.pages if containing in page["url"])


def test_stray_challenges_throw_no_clearance_away(crawl):
    with sandbox_of(Protection(strays=0.1)) as sandbox:
        result = crawl(sandbox, items(sandbox, 100))
        assert len(sandbox.service.tasks) <= 2
    assert statuses(result) == {200: 100}
    assert result.stat("challenges/stray") > 0
    assert result.stat("clearances/rejected") <= 1  # two in a row may meet the last request


def with_logins(sandbox, pages, logins):
    """Requests of pages, with some of /login among them."""
    requests = items(sandbox, pages)
    for number in range(logins):
        at = number * pages // logins
        requests[at:at] = items(sandbox, 1, path="login", dont_filter=True)
    return requests


@pytest.mark.parametrize("concurrency", [1, 8])
def test_a_path_that_is_always_challenged_leaves_the_zones_clearance_alone(crawl, concurrency):
    settings = {"CONCURRENT_REQUESTS_PER_DOMAIN": concurrency, "EZCAPTCHA_USE_BODY": "never"}
    settings |= {"EZCAPTCHA_MAX_ATTEMPTS": 5}
    with sandbox_of(Protection(always=("/login",))) as sandbox:
        result = crawl(sandbox, with_logins(sandbox, 200, 10), settings=settings)
        assert len(sandbox.service.tasks) <= 5
    assert statuses(result, "/item/") == {200: 200}
    assert result.log.count("Giving up shop.example/login through") == 1
    assert "the last clearance was rejected after" not in result.log


def test_a_clearance_bound_to_the_tls_hello_brings_its_page(crawl):
    with sandbox_of(Protection(binds_tls=True)) as sandbox:
        result = crawl(sandbox, items(sandbox, 30))
        tasks = len(sandbox.service.tasks)
    pages = [page for page in result.pages if page["status"] == 200]
    assert len(pages) >= tasks > 0
    assert all(page["flags"] == ["ezcaptcha", "ezcaptcha-body"] for page in pages)
    assert result.stat("requests/answered_by_body") == len(pages)
    assert result.log.count("EZCAPTCHA_IMPERSONATE=True (now it is not in DOWN") == 1


def test_a_zone_whose_tasks_bring_a_page_or_two_is_warned_about_with_the_price(crawl):
    settings = {"EZCAPTCHA_LOG_BALANCE": True, "EZCAPTCHA_USE_BODY": "never"}
    with sandbox_of(Protection(max_uses=2)) as sandbox:
        requests = items(sandbox, 12)
        one_by_one = {"CONCURRENT_REQUESTS": 1, **settings}
        result = crawl(sandbox, requests, settings=one_by_one)
    assert result.log.count("of shop.example brought 6 pages in total: 0.5 tasks, 10 points") == 1


def test_a_proxys_own_errors_are_no_acceptance(crawl):
    faults = [Fault("proxy", "html", status=502, times=None, chance=0.2)]
    sites = [Site("shop.example", Protection(accepts=False), latency=0.01)]
    settings = {"EZCAPTCHA_USE_BODY": "never"}
    with Sandbox(sites, latency=0.2, faults=faults) as sandbox:
        result = crawl(sandbox, items(sandbox, 40), settings=settings)
        assert len(sandbox.service.tasks) <= 3
    assert set(statuses(result)) <= {403, 502}


def test_an_open_path_says_nothing_about_a_protected_one(crawl):
    protection = Protection(accepts=False, paths=("/item/",))
    with sandbox_of(protection) as sandbox:
        requests = [
            request
            for pair in zip(items(sandbox, 40), items(sandbox, 40, path="page"), strict=True)
            for request in pair
        ]
        settings = {"EZCAPTCHA_USE_BODY": "never"}
        result = crawl(sandbox, requests, settings=settings)
        assert len(sandbox.service.tasks) <= 4
    assert statuses(result, "/page/") == {200: 40}
    assert statuses(result, "/item/") == {403: 40}


def test_hosts_that_want_their_own_get_one_each(crawl):
    hosts = [f"h{number}.shop.example" for number in range(6)]
    with sandbox_of(Protection(per_host=True)) as sandbox:
        requests = [one for host in hosts for one in items(sandbox, 4, host=host)]
        result = crawl(sandbox, requests)
        assert len(sandbox.service.tasks) == 6
    assert statuses(result) == {200: 24}


def test_attempts_belong_to_the_request_also_when_it_is_retried(crawl):
    protection = Protection(accepts=False, status=503)
    settings = {"EZCAPTCHA_MAX_ATTEMPTS": 1, "RETRY_ENABLED": True, "EZCAPTCHA_USE_BODY": "never"}
    with sandbox_of(protection) as sandbox:
        result = crawl(sandbox, items(sandbox, 1), settings=settings)
        assert len(sandbox.service.tasks) == 1
    assert statuses(result) == {503: 1}


def test_an_expired_clearance_costs_few_requests(crawl):
    with sandbox_of(Protection(max_uses=50)) as sandbox:
        result = crawl(sandbox, items(sandbox, 200))
        assert len(sandbox.service.tasks) == 4
    assert statuses(result) == {200: 200}
    # Each time those in flight, and as many that are sent until their answers are there.
    assert result.stat("challenges") <= 4 * 2 * 16


def test_redirects_count_as_pages(crawl):
    with sandbox_of(Protection(max_uses=20)) as sandbox:
        requests = [
            {
                "url": f"http://shop.example/redirect?to=http://open.example/item/{number}",
                "meta": via(sandbox),
            }
            for number in range(200)
        ]
        result = crawl(sandbox, requests)
        assert len(sandbox.service.tasks) <= 10
    assert statuses(result) == {200: 200}


def test_renewals_cost_nothing(crawl):
    with sandbox_of(Protection(renew_every=10)) as sandbox:
        result = crawl(sandbox, items(sandbox, 200))
        assert len(sandbox.service.tasks) == 1
    assert statuses(result) == {200: 200}


def test_a_zone_of_many_hosts_pays_once_for_each_lifetime(crawl):
    hosts = [f"h{number}.shop.example" for number in range(200)]
    with sandbox_of(Protection(max_uses=100), latency=0.5) as sandbox:
        requests = [one for host in hosts for one in items(sandbox, 4, host=host)]
        result = crawl(sandbox, requests)
        tasks = len(sandbox.service.tasks)
    assert tasks <= 10
    assert statuses(result) == {200: 800}
    assert result.stat("challenges") <= tasks * 6 * 16  # those in flight, and a few more


def test_an_exit_that_is_dead_for_the_service_costs_only_its_own_pages(crawl):
    class Half(Sandbox):
        """Its worker cannot use exit2."""

    with sandbox_of(Protection()) as sandbox:
        create = sandbox.service._create_task

        def refuse_exit2(payload):
            if "exit2" in payload["task"]["proxy"]:
                from scrapy_ezcaptcha.sandbox.service import _error

                return _error("ERROR_PROXY_CONNECT", "no route", status=500)
            return create(payload)

        sandbox.service._create_task = refuse_exit2
        requests = [
            request
            for pair in zip(
                items(sandbox, 100), items(sandbox, 100, path="other", user="exit2"), strict=True
            )
            for request in pair
        ]
        result = crawl(sandbox, requests)
    assert statuses(result, "/item/") == {200: 100}
    assert statuses(result, "/other/") == {403: 100}


@pytest.mark.parametrize("setting", ["always", "never"])
def test_the_page_of_a_solution_by_setting(crawl, setting):
    with sandbox_of(Protection(binds_tls=True)) as sandbox:
        result = crawl(sandbox, items(sandbox, 4), settings={"EZCAPTCHA_USE_BODY": setting})
        tasks = len(sandbox.service.tasks)
    if setting == "always":
        assert (statuses(result), tasks) == ({200: 4}, 4)
    else:
        assert statuses(result) == {403: 4}
        assert "ezcaptcha/requests/answered_by_body" not in result.stats


class VisitsEdge(Edge):
    """Its clock goes by the requests that come: a clearance is as old as many came since."""

    def __init__(self, sites):
        super().__init__(sites, clock=lambda: float(len(self.visits)))


class VisitsSandbox(Sandbox):
    edge_class = VisitsEdge


def test_sixty_pages_through_short_lived_clearances(crawl):
    site = Site("shop.example", Protection(max_age=13.0))
    with VisitsSandbox([site], latency=0.1) as sandbox:
        settings = {"CONCURRENT_REQUESTS_PER_DOMAIN": 2}
        result = crawl(sandbox, items(sandbox, 60), settings=settings)
        issued, age = len(sandbox.service.tasks), len(sandbox.edge.visits)
    assert statuses(result) == {200: 60}
    assert 60 / 13 <= issued <= age / 13 + 1


LATE = {"EZCAPTCHA_SOLVE_TIMEOUT": 1.5, "EZCAPTCHA_POLL_INTERVAL": 0.1}


def test_a_result_that_is_late_is_waited_for_and_not_bought_again(crawl):
    with sandbox_of(Protection(), latency=600) as sandbox:
        running = crawl.begin(sandbox, items(sandbox, 1), settings=LATE)
        wait_for(lambda: "failed after" in running.log)
        solve(sandbox)
        result = running.result()
        assert len(sandbox.service.tasks) == 1
    assert statuses(result) == {200: 1}
    assert result.stat("tasks/failed/SOLVE_TIMEOUT") == 1
    assert result.stat("tasks/taken_over") == 1


def test_the_next_run_goes_on_waiting_for_a_late_result(crawl, tmp_path):
    settings = {**LATE, "EZCAPTCHA_MAX_ATTEMPTS": 1, "EZCAPTCHA_STORE": str(tmp_path / "c.sqlite")}
    with sandbox_of(Protection(), latency=600) as sandbox:
        first = crawl(sandbox, items(sandbox, 1), settings=settings)
        solve(sandbox)
        second = crawl(sandbox, items(sandbox, 1), settings=settings)
        assert len(sandbox.service.tasks) == 1
    assert [statuses(first), statuses(second)] == [{403: 1}, {200: 1}]


@pytest.mark.parametrize(
    "answer",
    [
        {"errorId": 1, "status": "error", "errorCode": "ERROR_SERVICE_TIMEOUT", "requestId": "r-7"},
        {"errorId": 0, "status": "error", "errorCode": "ERROR_PROXY_CONNECT", "requestId": "r-7"},
    ],
)
def test_a_task_that_has_failed_is_not_asked_for_again(crawl, answer):
    body = json.dumps(answer).encode()
    faults = [Fault("getTaskResult", "raw", body=body, status=500, times=None)]
    with Sandbox([Site("shop.example", Protection())], latency=0.1, faults=faults) as sandbox:
        result = crawl(sandbox, items(sandbox, 1), settings={"EZCAPTCHA_MAX_ATTEMPTS": 1})
        assert sandbox.service.calls == {"createTask": 1, "getTaskResult": 1}
    assert f"{answer['errorCode']} (request r-7)" in result.log


def test_a_task_that_is_ready_without_a_solution_twice_has_failed(crawl):
    body = json.dumps({"errorId": 0, "status": "ready", "solution": None}).encode()
    faults = [Fault("getTaskResult", "raw", body=body, times=None)]
    with Sandbox([Site("shop.example", Protection())], latency=0.1, faults=faults) as sandbox:
        crawl(sandbox, items(sandbox, 1), settings={"EZCAPTCHA_MAX_ATTEMPTS": 1})
        assert sandbox.service.calls == {"createTask": 1, "getTaskResult": 2}


@pytest.mark.parametrize("error_id", [{}, {"errorId": None}])
def test_an_answer_without_error_id_is_a_good_one(crawl, error_id):
    body = json.dumps({**error_id, "status": "processing"}).encode()
    faults = [Fault("getTaskResult", "raw", body=body, times=3)]
    with Sandbox([Site("shop.example", Protection())], latency=0.1, faults=faults) as sandbox:
        result = crawl(sandbox, items(sandbox, 1))
        assert len(sandbox.service.tasks) == 1
    assert statuses(result) == {200: 1}


def test_a_solution_without_a_clearance_is_answered_by_its_page(crawl):
    solution = {"cookies": None}
    with Sandbox([Site("shop.example", Protection())], latency=0.1, solution=solution) as sandbox:
        result = crawl(sandbox, items(sandbox, 2))
        tasks = len(sandbox.service.tasks)
    pages = [page for page in result.pages if page["flags"] == ["ezcaptcha", "ezcaptcha-body"]]
    assert len(pages) == tasks == 2


def test_throttling_costs_neither_pages_nor_tasks(crawl):
    zones = [Site(f"shop{number}.example", Protection()) for number in range(40)]
    with Sandbox(zones, latency=0.2, tasks_at_once=4) as sandbox:
        requests = [one for site in zones for one in items(sandbox, 3, host=site.zone)]
        result = crawl(sandbox, requests)
        assert len(sandbox.service.tasks) == 40
    assert statuses(result) == {200: 120}
    assert "ezcaptcha/tasks/failed" not in result.stats


def test_a_refused_task_does_not_use_the_limit_up(crawl):
    faults = [Fault("createTask", "slow", times=1, delay=0.5)]
    faults += [Fault("createTask", code="ERROR_WEBSITE_NOT_ALLOWED", times=1)]
    zones = [Site(f"shop{number}.example", Protection()) for number in range(4)]
    with Sandbox(zones, latency=0.2, faults=faults) as sandbox:
        requests = [one for site in zones for one in items(sandbox, 1, host=site.zone)]
        result = crawl(sandbox, requests, settings={"EZCAPTCHA_MAX_TASKS": 2})
        assert len(sandbox.service.tasks) == 2
    assert statuses(result) == {200: 2, 403: 2}


def test_a_creation_that_may_have_arrived_is_not_sent_again(crawl):
    faults = [Fault("createTask", code="ERROR_INTERNAL_SERVER_ERROR", status=500, times=None)]
    with Sandbox([Site("shop.example", Protection())], latency=0.1, faults=faults) as sandbox:
        result = crawl(sandbox, items(sandbox, 1))
        assert sandbox.service.calls == {"createTask": 1}
    assert statuses(result) == {403: 1}


def test_a_task_whose_creation_is_answered_after_ctrl_c_is_left_to_the_next_run(crawl, tmp_path):
    settings = {"EZCAPTCHA_STORE": str(tmp_path / "c.sqlite"), "EZCAPTCHA_STORE_LEASE": 1.5}
    faults = [Fault("createTask", "slow", times=1, delay=1.5)]
    with Sandbox([Site("shop.example", Protection())], latency=0.2, faults=faults) as sandbox:
        first = crawl.begin(sandbox, items(sandbox, 1), settings=settings)
        wait_for(lambda: sandbox.service.calls["createTask"])
        first.interrupt()
        first.result()
        second = crawl(sandbox, items(sandbox, 1), settings=settings)
        assert len(sandbox.service.tasks) == 1
    assert statuses(second) == {200: 1}
    assert second.stat("tasks/taken_over") == 1


@pytest.mark.parametrize("end", ["kill", "interrupt"])
@pytest.mark.parametrize("wanted", ["page", "path"])
def test_a_task_for_one_page_or_path_is_left_to_the_next_run(crawl, tmp_path, end, wanted):
    settings = {"EZCAPTCHA_STORE": str(tmp_path / "c.sqlite"), "EZCAPTCHA_STORE_LEASE": 1.5}
    settings |= {"EZCAPTCHA_POLL_INTERVAL": 0.1}
    sites = [Site("shop.example", Protection(per_host=True), latency=0.02)]
    with Sandbox(sites, latency=0) as sandbox:
        service, tasks = sandbox.service, 0
        if wanted == "page":
            requests = [{**items(sandbox, 1)[0], "meta": via(sandbox, use_body=True)}]
        else:  # one that another host of the zone has no use for, while that has a good one
            crawl(sandbox, items(sandbox, 3), settings=settings)
            requests = items(sandbox, 1, host="www.shop.example") + items(sandbox, 40)
            tasks = 1
        service.latency = 60
        first = crawl.begin(sandbox, requests, settings=settings)
        wait_for(lambda: len(service.tasks) > tasks and service.calls["getTaskResult"] >= 3)
        if end == "kill":
            first.kill()
        else:
            first.interrupt()
            first.result()
        for task in service.tasks.values():
            task.ready_at = 0.0
        second = crawl(sandbox, requests, settings=settings)
        assert len(service.tasks) == tasks + 1
    assert set(statuses(second)) == {200}
    assert second.stat("tasks/taken_over") == 1


def test_at_the_limit_what_is_paid_for_is_served_before_the_spider_is_closed(crawl):
    zones = [Site(f"shop{number}.example", Protection(), latency=0.02) for number in range(3)]
    settings = {"EZCAPTCHA_MAX_TASKS": 2, "EZCAPTCHA_CLOSE_SPIDER_ON_LIMIT": True}
    with Sandbox(zones, latency=0.5) as sandbox:
        requests = [one for site in zones for one in items(sandbox, 5, host=site.zone)]
        result = crawl(sandbox, requests, settings=settings)
        assert len(sandbox.service.tasks) == 2
    assert statuses(result)[200] == 10
    assert result.stats["finish_reason"] == "ezcaptcha_limit"


def test_a_site_with_a_path_of_its_own_for_each_page(crawl):
    """An expired clearance is told from one that only some paths refuse."""
    with sandbox_of(Protection(max_uses=20)) as sandbox:
        requests = [
            {"url": f"http://shop.example/page-{number}", "meta": via(sandbox)}
            for number in range(120)
        ]
        result = crawl(sandbox, requests)
        assert len(sandbox.service.tasks) <= 8
    assert statuses(result) == {200: 120}


def test_the_page_of_a_late_task_answers_no_other_request(crawl, tmp_path):
    settings = {**LATE, "EZCAPTCHA_MAX_ATTEMPTS": 1, "EZCAPTCHA_STORE": str(tmp_path / "c.sqlite")}
    with sandbox_of(Protection(binds_tls=True), latency=600) as sandbox:
        crawl(sandbox, items(sandbox, 1), settings=settings)
        solve(sandbox)
        others = items(sandbox, 3)[1:]
        result = crawl(sandbox, others, settings=settings)
        always = crawl(sandbox, others, settings=settings | {"EZCAPTCHA_USE_BODY": "always"})
    for page in result.pages + always.pages:
        assert "<h1>Item 1</h1>" not in page["body"]


def test_use_body_on_a_path_whose_page_is_a_challenge_too_ends(crawl):
    page = "<script>window._cf_chl_opt={cType: 'managed'};</script>"
    protection = Protection(always=("/login",))
    sites = [Site("shop.example", protection, latency=0.01)]
    with Sandbox(sites, latency=0.1, solution={"body": page}) as sandbox:
        requests = items(sandbox, 3)
        requests += [{"url": "http://shop.example/login/1", "meta": via(sandbox, use_body=True)}]
        result = crawl(sandbox, requests)
        assert len(sandbox.service.tasks) <= 1 + 10
    assert statuses(result, "/item/") == {200: 3}
