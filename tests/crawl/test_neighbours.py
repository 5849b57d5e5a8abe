"""The middleware together with Scrapy's other middlewares."""

from __future__ import annotations

import re
from collections import Counter

import pytest
from support import via

from scrapy_ezcaptcha.sandbox import Fault, Protection, Sandbox, Site

pytestmark = pytest.mark.unmeasured

# Without these, RFC 2616 keeps challenges out by itself: they say no-store.
STORES_ANYTHING = {
    "HTTPCACHE_POLICY": "scrapy.extensions.httpcache.RFC2616Policy",
    "HTTPCACHE_ALWAYS_STORE": True,
    "HTTPCACHE_IGNORE_RESPONSE_CACHE_CONTROLS": ["no-store", "no-cache", "private"],
}
RFC2616 = {"HTTPCACHE_POLICY": STORES_ANYTHING["HTTPCACHE_POLICY"]}
DUMMY = {"HTTPCACHE_POLICY": "scrapy.extensions.httpcache.DummyPolicy"}

LEGACY_IN_BROTLI = Site(
    "shop.example", Protection(status=503, mitigated=False, page="legacy"), encoding="br"
)


def places(result):
    return [(page["url"], page["status"]) for page in result.pages]


class TestHttpCache:
    @pytest.fixture
    def cache(self, tmp_path):
        return {"HTTPCACHE_ENABLED": True, "HTTPCACHE_DIR": str(tmp_path / "cache")}

    @pytest.mark.parametrize("policy", [DUMMY, RFC2616, STORES_ANYTHING])
    def test_a_second_run_has_the_page_from_the_cache(self, crawl, sandbox, cache, policy):
        requests = [{"url": "http://shop.example/item/1", "meta": via(sandbox)}]
        first = crawl(sandbox, requests, settings=cache | policy)
        assert [page["status"] for page in first.pages] == [200]
        assert first.stats["httpcache/store"] == 1
        visits = len(sandbox.edge.visits)
        second = crawl(sandbox, requests, settings=cache | policy)
        assert [(page["status"], page["flags"]) for page in second.pages] == [(200, ["cached"])]
        assert len(sandbox.service.tasks) == 1
        assert len(sandbox.edge.visits) == visits

    @pytest.mark.parametrize("policy", [DUMMY, STORES_ANYTHING])
    @pytest.mark.parametrize(
        "site", [Site("shop.example", Protection()), LEGACY_IN_BROTLI], ids=["new", "legacy"]
    )
    def test_a_challenge_that_is_in_the_cache_is_not_served(self, crawl, cache, policy, site):
        with Sandbox([site], latency=0.1) as sandbox:
            requests = [{"url": "http://shop.example/item/1", "meta": via(sandbox)}]
            without = crawl(sandbox, requests, settings=cache | policy, middleware=False)
            assert without.stats["httpcache/store"] == 1
            for _ in range(2):
                result = crawl(sandbox, requests, settings=cache | policy)
                assert [page["status"] for page in result.pages] == [200]
            assert result.pages[0]["flags"] == ["cached"]
            assert len(sandbox.service.tasks) == 1

    def test_a_challenge_out_of_scope_is_cached_as_without_us(self, crawl, sandbox, cache):
        requests = [{"url": "http://shop.example/", "meta": {"proxy": sandbox.proxy_url()}}]
        first = crawl(sandbox, requests, settings=cache)
        second = crawl(sandbox, requests, settings=cache)
        assert first.stats["httpcache/store"] == 1
        assert second.pages[0]["flags"] == ["cached"]

    def test_a_cached_challenge_is_not_served_if_the_site_is_down(self, crawl, cache):
        """The cache hands out what it has when a download fails; not a challenge, though."""
        faults = [Fault("proxy", "close", times=1, after=1)]
        with Sandbox([Site("shop.example", Protection())], latency=0.1, faults=faults) as sandbox:
            requests = [{"url": "http://shop.example/item/1", "meta": via(sandbox)}]
            crawl(sandbox, requests, settings=cache, middleware=False)
            result = crawl(sandbox, requests, settings=cache)
        assert result.stats["httpcache/errorrecovery"] == 1
        assert [page["status"] for page in result.pages] == [200]
        assert len(sandbox.service.tasks) == 1


class TestRetry:
    def test_a_dead_proxy_during_the_replay_is_retried_with_the_clearance(self, crawl):
        faults = [Fault("proxy", "close", times=2, after=1)]  # Twisted itself asks once more
        with Sandbox([Site("shop.example", Protection())], latency=0.1, faults=faults) as sandbox:
            requests = [{"url": "http://shop.example/item/1", "meta": via(sandbox)}]
            result = crawl(sandbox, requests, settings={"RETRY_ENABLED": True})
        assert [(page["status"], page["retry_times"]) for page in result.pages] == [(200, 1)]
        assert sandbox.report()["hosts"]["shop.example"] == {"challenge": 1, "page": 1}
        assert len(sandbox.service.tasks) == 1

    def test_a_retried_page_keeps_its_clearance_and_its_count(self, crawl, sandbox):
        requests = [{"url": "http://shop.example/status?code=500", "meta": via(sandbox)}]
        settings = {"RETRY_ENABLED": True, "RETRY_TIMES": 2}
        result = crawl(sandbox, requests, settings=settings)
        assert [(page["status"], page["retry_times"]) for page in result.pages] == [(500, 2)]
        assert len(sandbox.service.tasks) == 1
        assert sandbox.report()["hosts"]["shop.example"] == {"challenge": 1, "page": 3}

    def test_a_challenge_with_503_or_429_is_solved_and_not_retried(self, crawl, sandbox):
        urls = ("http://old.example/item/1", "http://bots.example/item/1")
        requests = [{"url": url, "meta": via(sandbox)} for url in urls]
        result = crawl(sandbox, requests, settings={"RETRY_ENABLED": True})
        assert sorted(places(result)) == [(url, 200) for url in sorted(urls)]
        assert "retry/count" not in result.stats


class TestRedirects:
    @pytest.mark.parametrize("path", ["redirect", "refresh"])
    @pytest.mark.parametrize(
        ("target", "tasks"),
        [
            pytest.param("http://www.shop.example/item/1", 1, id="within-the-zone"),
            pytest.param("http://bots.example/item/1", 2, id="into-another-protected-zone"),
            pytest.param("http://open.example/item/1", 1, id="out-of-it"),
        ],
    )
    def test_from_a_protected_zone(self, crawl, sandbox, path, target, tasks):
        url = f"http://shop.example/{path}?to={target}"
        settings = {"EZCAPTCHA_MAX_ATTEMPTS": 1}
        result = crawl(sandbox, [{"url": url, "meta": via(sandbox)}], settings=settings)
        assert places(result) == [(target, 200)]
        assert len(sandbox.service.tasks) == tasks

    @pytest.mark.parametrize("path", ["redirect", "refresh"])
    def test_into_a_protected_zone(self, crawl, sandbox, path):
        url = f"http://open.example/{path}?to=http://shop.example/item/1"
        result = crawl(sandbox, [{"url": url, "meta": via(sandbox)}])
        assert places(result) == [("http://shop.example/item/1", 200)]
        assert len(sandbox.service.tasks) == 1

    @pytest.mark.parametrize("path", ["redirect", "refresh"])
    def test_no_clearance_leaves_its_zone(self, crawl, sandbox, path):
        url = f"http://shop.example/{path}?to=http://open.example/echo"
        crawl(sandbox, [{"url": url, "meta": via(sandbox)}])
        outside = [visit for visit in sandbox.edge.visits if visit.host == "open.example"]
        assert len(outside) == 1
        assert outside[0].header("cookie") is None
        assert "Chrome" not in outside[0].header("user-agent")


class TestRobotsTxt:
    def test_it_is_obeyed_on_a_protected_site(self, crawl, sandbox):
        proxy = {"proxy": sandbox.proxy_url()}
        requests = [
            {"url": f"http://shop.example/{path}", "meta": proxy}
            for path in ("private/x", "item/1")
        ]
        settings = {"ROBOTSTXT_OBEY": True, "EZCAPTCHA_TRANSPARENT_MODE": True}
        env = {"http_proxy": sandbox.proxy_url()}
        result = crawl(sandbox, requests, settings=settings, env=env)
        assert [page["url"] for page in result.pages] == ["http://shop.example/item/1"]
        assert result.stats["robotstxt/forbidden"] == 1
        assert len(sandbox.service.tasks) == 1

    def test_if_only_pages_opt_in_robots_txt_is_not_solved(self, crawl, sandbox):
        """Nothing opts in for robots.txt, so it costs nothing, and nothing hangs."""
        requests = [
            {"url": f"http://shop.example/item/{number}", "meta": via(sandbox)}
            for number in range(1, 21)
        ]
        env = {"http_proxy": sandbox.proxy_url()}
        result = crawl(sandbox, requests, settings={"ROBOTSTXT_OBEY": True}, env=env)
        assert Counter(page["status"] for page in result.pages) == {200: 20}
        assert result.stats["robotstxt/response_status_count/403"] == 1
        assert len(sandbox.service.tasks) == 1


def test_offsite_redirects_of_a_replayed_request_are_filtered(crawl, sandbox):
    """A replay passes the duplicate filter once, but is filtered like any other after that."""
    inside = "http://shop.example/redirect?to=http://www.shop.example/item/1"
    outside = "http://shop.example/redirect?to=http://bots.example/item/1"
    requests = [{"url": url, "meta": via(sandbox)} for url in (outside, inside)]
    result = crawl(sandbox, requests, allowed_domains=["shop.example"])
    assert places(result) == [("http://www.shop.example/item/1", 200)]
    assert result.stats["offsite/filtered"] == 1
    assert len(sandbox.service.tasks) == 1
    assert not result.pages[0]["dont_filter"]


@pytest.mark.parametrize("encoding", ["gzip", "br", "zstd"])
def test_compressed_challenges_are_seen_and_compressed_pages_read(crawl, encoding):
    protection = Protection(status=503, mitigated=False, page="legacy")
    site = Site("shop.example", protection, encoding=encoding)
    with Sandbox([site], latency=0.1) as sandbox:
        result = crawl(sandbox, [{"url": "http://shop.example/item/1", "meta": via(sandbox)}])
    assert [page["status"] for page in result.pages] == [200]
    assert "<h1>Item 1</h1>" in result.pages[0]["body"]
    assert result.stats["httpcompression/response_count"] == 2


def test_no_encoding_is_asked_for_that_scrapy_does_not_decode(crawl):
    """The solution's Accept-Encoding has br; this Scrapy decodes nothing."""
    with Sandbox([Site("shop.example", Protection(), encoding="br")], latency=0.1) as sandbox:
        requests = [{"url": "http://shop.example/item/1", "meta": via(sandbox)}]
        result = crawl(sandbox, requests, settings={"COMPRESSION_ENABLED": False})
    assert "<h1>Item 1</h1>" in result.pages[0]["body"]


def test_autothrottle_does_not_take_a_solve_for_latency(crawl):
    with Sandbox([Site("shop.example", Protection())], latency=2) as sandbox:
        requests = [
            {"url": f"http://shop.example/item/{number}", "meta": via(sandbox)}
            for number in range(1, 6)
        ]
        settings = {
            "AUTOTHROTTLE_ENABLED": True,
            "AUTOTHROTTLE_DEBUG": True,
            "AUTOTHROTTLE_START_DELAY": 0.1,
        }
        result = crawl(sandbox, requests, settings=settings)
    assert [page["status"] for page in result.pages] == [200] * 5
    latencies = [int(ms) for ms in re.findall(r"latency: *(\d+) ms", result.log)]
    delays = [int(ms) for ms in re.findall(r"delay: *(\d+) ms", result.log)]
    assert len(latencies) >= 5
    solve = 1000 * result.stat("solve_seconds/max")
    assert solve >= 2000
    assert max(latencies) < solve
    assert max(delays) < solve


def test_a_balance_that_cannot_be_asked_for_stops_nothing(crawl):
    faults = [Fault("getBalance", "html", times=None)]
    with Sandbox([Site("shop.example", Protection())], latency=0.1, faults=faults) as sandbox:
        requests = [{"url": "http://shop.example/", "meta": via(sandbox)}]
        result = crawl(sandbox, requests, settings={"EZCAPTCHA_LOG_BALANCE": True})
    assert [page["status"] for page in result.pages] == [200]
    assert "Could not get the balance" in result.log
