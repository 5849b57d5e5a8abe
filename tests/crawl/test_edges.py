"""Nothing is lost or paid twice at the edges: many hosts, delays, credentials in URLs."""

from __future__ import annotations

import socket
import threading
from contextlib import contextmanager, suppress
from urllib.parse import urlsplit

import pytest
from scrapy.settings import default_settings
from support import via, wait_for, waiting_on_disk

from scrapy_ezcaptcha.sandbox import Protection, Sandbox, Site
from scrapy_ezcaptcha.sandbox.service import Fault

pytestmark = pytest.mark.unmeasured


def of_hosts(sandbox, hosts, pages):
    for page in range(pages):
        for host in range(hosts):
            yield {"url": f"http://h{host}.shop.example/item/{page}", "meta": via(sandbox)}


@pytest.mark.parametrize(("hosts", "pages"), [(30, 4), (120, 3)])
def test_each_of_many_hosts_gets_the_clearance_of_its_own(crawl, hosts, pages):
    with Sandbox([Site("shop.example", Protection(per_host=True))], latency=0.2) as sandbox:
        requests = list(of_hosts(sandbox, hosts, pages))
        settings = {"EZCAPTCHA_POLL_INTERVAL": 0.1}
        result = crawl(sandbox, requests, settings=settings, timeout=120)
    assert [page["status"] for page in result.pages] == [200] * hosts * pages
    assert len(sandbox.service.tasks) == hosts


def test_a_page_that_comes_at_the_second_try_is_clean(crawl):
    """RetryMiddleware sends a challenge of status 503 that is given up once more."""
    site = Site("old.example", Protection(status=503, mitigated=False, page="legacy"))
    with Sandbox([site], latency=0.1) as sandbox:
        sandbox.service.faults = [
            Fault("createTask", "error", code="ERROR_REQUEST_PARAMETERS", times=1)
        ]
        requests = [{"url": "http://old.example/", "meta": via(sandbox)}]
        result = crawl(sandbox, requests, settings={"RETRY_ENABLED": True})
    assert [page["status"] for page in result.pages] == [200]
    assert result.stat("requests/gave_up") == 1
    assert result.pages[0]["error"] is None
    assert "ezcaptcha-unsolved" not in result.pages[0]["flags"]


def test_user_and_password_of_the_url_reach_the_site_but_not_the_service(crawl, sandbox):
    url = "http://user:password@shop.example/item/1"
    result = crawl(sandbox, [{"url": url, "meta": via(sandbox)}])
    assert [(page["url"], page["status"]) for page in result.pages] == [(url, 200)]
    (task,) = sandbox.service.tasks.values()
    assert task.website_url == "http://shop.example/item/1"


def test_a_clearance_is_put_on_when_its_request_is_sent(crawl):
    """A delay keeps requests in the queue of their slot, and each clearance serves 20 pages."""
    site = Site("shop.example", Protection(max_uses=20))
    with Sandbox([site], latency=0.1) as sandbox:
        requests = [
            {"url": f"http://shop.example/item/{number}", "meta": via(sandbox)}
            for number in range(100)
        ]
        settings = {"EZCAPTCHA_POLL_INTERVAL": 0.05, "DOWNLOAD_DELAY": 0.01}
        settings |= {"CONCURRENT_REQUESTS_PER_DOMAIN": 1, "CONCURRENT_REQUESTS": 100}
        result = crawl(sandbox, requests, settings=settings)
        verdicts = sandbox.edge.verdicts["shop.example"]
    assert [page["status"] for page in result.pages] == [200] * 100
    assert len(sandbox.service.tasks) <= 6
    assert verdicts["rejected"] <= 30


@pytest.mark.parametrize("apart", [60, -60])
def test_two_machines_whose_clocks_are_a_minute_apart_share_one_task(crawl, redis_server, apart):
    with Sandbox([Site("shop.example", Protection())], latency=1) as sandbox:
        settings = {"EZCAPTCHA_STORE": redis_server.url, "EZCAPTCHA_POLL_INTERVAL": 0.1}
        requests = [
            {"url": f"http://shop.example/item/{number}", "meta": via(sandbox)}
            for number in range(20)
        ]
        running = [
            crawl.begin(sandbox, requests, settings=settings, clock=clock) for clock in (0, apart)
        ]
        results = [one.result() for one in running]
        results.append(crawl(sandbox, requests, settings=settings, clock=-apart))
    for result in results:
        assert [page["status"] for page in result.pages] == [200] * 20
    assert len(sandbox.service.tasks) == 1


def test_a_proxy_that_changes_with_each_try_costs_one_task_for_each_exit(crawl, sandbox):
    """Also for replays, which then leave by another exit than the one they were solved for."""
    requests = [
        {"url": f"http://shop.example/item/{number}", "meta": {"ezcaptcha": True}}
        for number in range(20)
    ]
    settings = {
        "DOWNLOADER_MIDDLEWARES": {
            "spiders.RotatingProxies": 610,
            "scrapy_ezcaptcha.EzCaptchaMiddleware": 585,
        },
        "PROXIES": [sandbox.proxy_url("exit1"), sandbox.proxy_url("exit2")],
    }
    result = crawl(sandbox, requests, settings=settings)
    assert [page["status"] for page in result.pages] == [200] * 20
    assert len(sandbox.service.tasks) == 2


def test_hosts_and_proxies_of_ipv6(crawl):
    with (
        Sandbox([Site("2001:db8::1", Protection())], latency=0.1) as sandbox,
        forwarding(urlsplit(sandbox.proxy_url()).port) as port,
    ):
        credentials = sandbox.proxy_url().removeprefix("http://").rpartition("@")[0]
        meta = {"ezcaptcha": True, "proxy": f"http://{credentials}@[::1]:{port}"}
        requests = [
            {"url": f"http://[2001:db8::1]/item/{number}", "meta": meta} for number in range(5)
        ]
        is_new = hasattr(default_settings, "TWISTED_DNS_RESOLVER")
        resolver = "TWISTED_DNS_RESOLVER" if is_new else "DNS_RESOLVER"
        settings = {resolver: "scrapy.resolver.CachingHostnameResolver"}  # which knows IPv6
        result = crawl(sandbox, requests, settings=settings)
    assert [page["status"] for page in result.pages] == [200] * 5
    (task,) = sandbox.service.tasks.values()
    assert task.website_url.startswith("http://[2001:db8::1]/item/")


@contextmanager
def forwarding(port):
    """Listen on the loopback address of IPv6, and forward connections to *port* of IPv4."""
    try:
        listener = socket.create_server(("::1", 0), family=socket.AF_INET6)
    except OSError:
        pytest.skip("there is no IPv6 here")

    def copy(source, target):
        with suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)

    def accept():
        with suppress(OSError):
            while True:
                client, _ = listener.accept()
                server = socket.create_connection(("127.0.0.1", port))
                for pair in ((client, server), (server, client)):
                    threading.Thread(target=copy, args=pair, daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    yield listener.getsockname()[1]
    listener.close()


@pytest.mark.parametrize(
    ("ends", "queue"),
    [
        (["interrupt"], "DownloaderAwarePriorityQueue"),
        (["kill"], "DownloaderAwarePriorityQueue"),
        (["interrupt", "kill"], "DownloaderAwarePriorityQueue"),
        (["interrupt"], "ScrapyPriorityQueue"),
        (["kill"], "ScrapyPriorityQueue"),
    ],
)
def test_what_is_put_off_is_there_in_the_next_run(crawl, tmp_path, ends, queue):
    """Two requests wait, and 28 have gone back to the scheduler when the crawl ends."""
    job = tmp_path / "job"
    zones = [f"shop{number}.example" for number in range(10)]
    with Sandbox([Site(zone, Protection()) for zone in zones], latency=20) as sandbox:
        requests = [
            {"url": f"http://{zone}/item/{number}", "meta": via(sandbox)}
            for zone in zones
            for number in range(3)
        ]
        settings = {
            "EZCAPTCHA_MAX_WAITING": 2,
            "EZCAPTCHA_POLL_INTERVAL": 0.1,
            "EZCAPTCHA_STORE": "memory",
            "JOBDIR": str(job),
            "SCHEDULER_PRIORITY_QUEUE": f"scrapy.pqueues.{queue}",
        }
        for end in ends:
            crawling = crawl.begin(sandbox, requests, settings=settings)
            wait_for(lambda: waiting_on_disk(job) == 30)
            getattr(crawling, end)()
            crawling.process.join()
        sandbox.service.latency = 0.1
        result = crawl(sandbox, requests, settings=settings)
    assert {(page["url"], page["status"]) for page in result.pages} == {
        (request["url"], 200) for request in requests
    }
    assert {page["priority"] for page in result.pages} == {0}


def test_a_page_that_needs_a_solve_each_time_is_not_sent_over_and_over_while_there_is_no_room(
    crawl,
):
    """There is no room to wait; its zone has a clearance, but it is challenged all the same."""
    zones = [f"shop{number}.example" for number in range(4)]
    sites = [Site(zone, Protection(always=("/item",))) for zone in zones]
    with Sandbox(sites, latency=0.5) as sandbox:
        requests = [
            {"url": f"http://{zone}/item/{number}", "meta": via(sandbox, use_body=True)}
            for number in range(3)
            for zone in zones
        ]
        settings = {"EZCAPTCHA_MAX_WAITING": 1, "EZCAPTCHA_POLL_INTERVAL": 0.1}
        result = crawl(sandbox, requests, settings=settings)
    assert [page["status"] for page in result.pages] == [200] * 12
    assert len(sandbox.service.tasks) == 12
    assert len(sandbox.edge.visits) <= 5 * 12


def test_a_site_that_comes_later_is_crawled_at_once_while_others_are_put_off(crawl):
    """Its first page is there before the first solve ends."""
    zones = [f"shop{number}.example" for number in range(24)]
    sites = [*(Site(zone, Protection()) for zone in zones), Site("open.example")]
    with Sandbox(sites, latency=60) as sandbox:
        plan = {
            "requests": [{"url": f"http://{zone}/", "meta": via(sandbox)} for zone in zones],
            "later": [{"url": "http://open.example/", "meta": {"proxy": sandbox.proxy_url()}}],
        }
        settings = {"EZCAPTCHA_MAX_WAITING": 2, "EZCAPTCHA_POLL_INTERVAL": 0.1}
        crawling = crawl.begin(sandbox, settings=settings, spider="LateSpider", **plan)
        wait_for(lambda: any(visit.host == "open.example" for visit in sandbox.edge.visits))
        sandbox.service.latency = 0.0
        for task in list(sandbox.service.tasks.values()):
            task.ready_at = 0.0
        result = crawling.result()
    assert [page["status"] for page in result.pages] == [200] * 25


def test_if_another_middleware_answers_the_spider_sees_its_own_request(crawl):
    """A middleware nearer to the spider answers what was put off when that comes again."""
    zones = [f"shop{number}.example" for number in range(6)]
    with Sandbox([Site(zone, Protection()) for zone in zones], latency=0.3) as sandbox:
        requests = [{"url": f"http://{zone}/", "meta": via(sandbox)} for zone in zones]
        settings = {
            "EZCAPTCHA_MAX_WAITING": 1,
            "DOWNLOADER_MIDDLEWARES": {
                "spiders.AnswersAtTheSecondTime": 10,
                "scrapy_ezcaptcha.EzCaptchaMiddleware": 585,
            },
        }
        result = crawl(sandbox, requests, settings=settings)
    assert result.stat("requests/put_off") > 0
    assert [page["status"] for page in result.pages] == [200] * 6
    assert {page["priority"] for page in result.pages} == {0}
    assert {page["slot"] for page in result.pages} == set(zones)
