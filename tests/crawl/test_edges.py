"""Nothing is lost or paid twice at the edges: many hosts, delays, credentials in URLs."""

from __future__ import annotations

import pytest
from support import via

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
