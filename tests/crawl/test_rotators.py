"""Beside middlewares that choose a proxy for each request."""

from __future__ import annotations

from importlib.util import find_spec

import pytest
from scrapy.settings import default_settings

from scrapy_ezcaptcha.sandbox import Protection, Sandbox, Site
from scrapy_ezcaptcha.sandbox.service import Fault

pytestmark = pytest.mark.unmeasured

OURS = {"scrapy_ezcaptcha.EzCaptchaMiddleware": 585}
ROTATOR = "rotating_proxies.middlewares.RotatingProxyMiddleware"
DETECTOR = "rotating_proxies.middlewares.BanDetectionMiddleware"
RIGHT = {ROTATOR: 570, DETECTOR: 575}
AS_IN_ITS_README = {ROTATOR: 610, DETECTOR: 620}
NEEDS_PLUGIN = pytest.mark.skipif(
    find_spec("rotating_proxies") is None, reason="scrapy-rotating-proxies is not installed"
)
SEEDS = range(8)


@pytest.fixture
def sandbox():
    with Sandbox([Site("shop.example", Protection())], latency=0.1) as running:
        yield running


def exits_of(sandbox, *verdicts):
    return {visit.exit for visit in sandbox.edge.visits if visit.verdict in verdicts}


@pytest.fixture
def crawl_all(crawl, sandbox):
    """Crawl the shop, which has 31 pages, by 20 proxies."""

    def run(middlewares, *, scheme="http", proxies=None, settings=None, **plan):
        proxies = proxies or [sandbox.proxy_url(f"exit{number}") for number in range(1, 21)]
        settings = {
            "DOWNLOADER_MIDDLEWARES": OURS | middlewares,
            "EZCAPTCHA_TRANSPARENT_MODE": True,
            "EZCAPTCHA_USE_BODY": "never",  # a page that came with its task proves nothing here
            "PROXIES": proxies,
            "ROTATING_PROXY_LIST": proxies,
            **(settings or {}),
        }
        start = [{"url": f"{scheme}://shop.example/"}]
        return crawl(sandbox, start, settings=settings, follow="item", **plan)

    return run


class TestRandomProxies:
    """A middleware that sets meta["proxy"] unconditionally."""

    @pytest.mark.parametrize("seed", SEEDS)
    @pytest.mark.parametrize("scheme", ["http", "https"])
    @pytest.mark.parametrize(
        "order", [pytest.param(100, id="before"), pytest.param(740, id="after")]
    )
    def test_each_page_arrives_for_one_task_an_exit(self, crawl_all, sandbox, order, scheme, seed):
        """Where the rotator sends a page the first time, a clearance of that exit is needed."""
        result = crawl_all({"spiders.RandomProxies": order}, scheme=scheme, seed=seed)
        assert [page["status"] for page in result.pages] == [200] * 31
        assert len(sandbox.service.tasks) == len(exits_of(sandbox, "challenge"))
        assert exits_of(sandbox, "rejected") == set()

    def test_it_is_said_once_and_counted(self, crawl_all, sandbox):
        result = crawl_all({"spiders.RotatingProxies": 740})
        assert result.stat("requests/pinned") > 1
        assert result.log.count("use the proxy of their clearance instead") == 1
        assert sandbox.proxy_password not in result.log

    def test_where_nothing_rotates_nothing_is_said(self, crawl_all, sandbox):
        result = crawl_all({"spiders.RotatingProxies": 740}, proxies=[sandbox.proxy_url()])
        assert len(sandbox.service.tasks) == 1
        assert result.stat("requests/pinned") == 0
        assert "proxy of their clearance" not in result.log

    def test_a_redirect_within_the_zone_leaves_by_the_same_exit(self, crawl, sandbox):
        settings = {
            "DOWNLOADER_MIDDLEWARES": OURS | {"spiders.RotatingProxies": 740},
            "EZCAPTCHA_USE_BODY": "never",
            "PROXIES": [sandbox.proxy_url(f"exit{number}") for number in range(1, 21)],
        }
        url = "http://shop.example/redirect?to=http://www.shop.example/item/1"
        result = crawl(sandbox, [{"url": url, "meta": {"ezcaptcha": True}}], settings=settings)
        assert [page["status"] for page in result.pages] == [200]
        assert len(sandbox.service.tasks) == 1
        assert exits_of(sandbox, "page") == {"exit1"}

    def test_a_retry_by_another_proxy_costs_no_attempt(self, crawl):
        """The exit fails at the replay; the next one, by which it is tried again, needs a task."""
        faults = [Fault("proxy", "close", after=1, times=2)]  # Twisted tries once more itself
        sites = [Site("shop.example", Protection())]
        with Sandbox(sites, latency=0.1, faults=faults) as sandbox:
            settings = {
                "DOWNLOADER_MIDDLEWARES": OURS | {"spiders.RotatingProxies": 740},
                "EZCAPTCHA_MAX_ATTEMPTS": 1,
                "EZCAPTCHA_USE_BODY": "never",
                "PROXIES": [sandbox.proxy_url(f"exit{number}") for number in range(1, 21)],
                "RETRY_ENABLED": True,
            }
            requests = [{"url": "http://shop.example/", "meta": {"ezcaptcha": True}}]
            result = crawl(sandbox, requests, settings=settings)
            assert [page["status"] for page in result.pages] == [200]
            assert len(sandbox.service.tasks) == 2
            assert exits_of(sandbox, "page") == {"exit3"}  # the second one was that of the replay
        assert result.stats["retry/count"] == 1
        assert result.log.count("such challenges do not count as attempts") == 1


@NEEDS_PLUGIN
class TestRotatingProxies:
    """scrapy-rotating-proxies; it passes arguments that Scrapy has deprecated."""

    @pytest.mark.parametrize("seed", SEEDS)
    @pytest.mark.parametrize("scheme", ["http", "https"])
    def test_each_page_arrives_for_one_task_an_exit(self, crawl_all, sandbox, scheme, seed):
        result = crawl_all(RIGHT, scheme=scheme, seed=seed, may_be_deprecated=True)
        assert [page["status"] for page in result.pages] == [200] * 31
        assert len(sandbox.service.tasks) == len(exits_of(sandbox, "challenge"))
        assert "bans/status/403" not in result.stats
        assert "DOWNLOADER_MIDDLEWARES has" not in result.log

    @pytest.mark.parametrize("seed", SEEDS)
    def test_where_it_sees_challenges_first_each_page_arrives_too(self, crawl_all, sandbox, seed):
        """It takes each challenge for a ban five times before it lets us see one."""
        result = crawl_all(AS_IN_ITS_README, seed=seed, may_be_deprecated=True)
        assert [page["status"] for page in result.pages] == [200] * 31
        assert len(sandbox.service.tasks) <= 20
        assert result.stats["bans/status/403"] >= 6
        lines = f'Put the ban detectors below 585: "{ROTATOR}": 570, "{DETECTOR}": 575'
        assert result.log.count(lines) == 1

    def test_it_credits_the_exits_by_which_pages_came(self, crawl_all, sandbox):
        """It knows proxies by host and port, so here each has a host name of its own."""
        proxies = [
            sandbox.proxy_url(f"exit{number}").replace("127.0.0.1", f"exit{number}.example")
            for number in range(1, 21)
        ]
        is_new = hasattr(default_settings, "TWISTED_DNS_RESOLVER")
        resolver = "TWISTED_DNS_RESOLVER" if is_new else "DNS_RESOLVER"
        settings = {resolver: "spiders.LoopbackResolver"}
        result = crawl_all(RIGHT, proxies=proxies, settings=settings, may_be_deprecated=True)
        assert [page["status"] for page in result.pages] == [200] * 31
        assert result.stats["proxies/good"] == len(exits_of(sandbox, "page"))
        assert "proxies/dead" not in result.stats

    def test_a_page_that_is_given_up_is_a_ban_and_pays_no_more(self, crawl):
        """Its copies keep the attempts, so that the plugin's retries by other proxies are free."""
        with Sandbox([Site("shop.example", Protection(accepts=False))], latency=0.1) as sandbox:
            settings = {
                "DOWNLOADER_MIDDLEWARES": OURS | RIGHT,
                "EZCAPTCHA_USE_BODY": "never",
                "ROTATING_PROXY_LIST": [sandbox.proxy_url(f"exit{n}") for n in range(1, 21)],
            }
            requests = [{"url": "http://shop.example/", "meta": {"ezcaptcha": True}}]
            result = crawl(sandbox, requests, settings=settings, may_be_deprecated=True)
            assert len(sandbox.service.tasks) == 2
        assert [page["status"] for page in result.pages] == [403]
        assert result.stats["bans/status/403"] == 6
