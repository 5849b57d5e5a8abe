"""Other download handlers: HTTP/2, and scrapy-impersonate."""

from __future__ import annotations

from importlib.util import find_spec

import pytest
from support import via

from scrapy_ezcaptcha.sandbox import Protection, Sandbox, Site

HTTP2 = {"DOWNLOAD_HANDLERS": {"https": "scrapy.core.downloader.handlers.http2.H2DownloadHandler"}}
HTTPX = "scrapy.core.downloader.handlers._httpx.HttpxDownloadHandler"
IMPERSONATE = {
    "DOWNLOAD_HANDLERS": dict.fromkeys(
        ("http", "https"), "scrapy_impersonate.ImpersonateDownloadHandler"
    ),
    "EZCAPTCHA_IMPERSONATE": True,
}


class TestH2DownloadHandler:
    """Scrapy's own HTTP/2 handler knows no proxies, so there is nothing to replay by."""

    @pytest.fixture
    def settings(self, sandbox):
        return HTTP2 | {"EZCAPTCHA_PROXY": sandbox.proxy_url()}

    def test_nothing_is_paid_for_what_cannot_be_replayed(self, crawl, sandbox, settings):
        requests = [{"url": f"{sandbox.direct_https_url}/item/1", "meta": {"ezcaptcha": True}}]
        result = crawl(sandbox, requests, settings=settings)
        assert [page["status"] for page in result.pages] == [403]
        assert "does not support proxies" in result.pages[0]["error"]
        assert [visit.http_version for visit in sandbox.edge.visits] == ["2"]
        assert sandbox.service.calls == {}

    def test_the_service_s_own_page_will_do(self, crawl, sandbox, settings):
        meta = {"ezcaptcha": {"use_body": True, "website_url": "https://shop.example/item/29"}}
        start = [{"url": f"{sandbox.direct_https_url}/item/1", "meta": meta}]
        result = crawl(sandbox, start, settings=settings, follow="next")
        assert [page["status"] for page in result.pages] == [200, 200]
        assert result.errors == []


@pytest.mark.skipif(
    not (find_spec("httpx2") and find_spec(HTTPX.rpartition(".")[0])),
    reason="this Scrapy has no handler on httpx2",
)
def test_http_2_by_a_proxy(crawl, sandbox):
    settings = {"DOWNLOAD_HANDLERS": {"https": HTTPX}, "HTTPX_HTTP2_ENABLED": True}
    start = [{"url": "https://shop.example/item/1", "meta": via(sandbox)}]
    result = crawl(sandbox, start, settings=settings, follow="next")
    assert [page["status"] for page in result.pages] == [200] * 30
    assert {visit.http_version for visit in sandbox.edge.visits} == {"2"}
    assert len(sandbox.service.tasks) == 1


class TestImpersonate:
    def get(self, crawl, settings, solution=None, **meta):
        with Sandbox(
            [Site("shop.example", Protection())], latency=0.1, solution=solution
        ) as sandbox:
            requests = [{"url": "http://shop.example/item/1", "meta": {**via(sandbox), **meta}}]
            result = crawl(sandbox, requests, settings=settings)
        assert [page["status"] for page in result.pages] == [200]
        page, self.log = result.pages[0], result.log
        assert ("impersonate" in page["meta"]) == ("impersonate" in meta)
        return page["flags"], sandbox.edge.visits

    def test_the_replay_has_the_browser_of_the_solution(self, crawl):
        flags, (challenged, replayed) = self.get(crawl, IMPERSONATE)
        assert flags == ["impersonate", "ezcaptcha"]
        assert challenged.header("sec-ch-ua-platform") is None
        assert "Chrome/131" in replayed.header("user-agent")

    def test_the_nearest_older_version_is_played_and_said(self, crawl):
        flags, _ = self.get(crawl, IMPERSONATE, solution={"tlsVersion": "chrome149"})
        assert flags == ["impersonate", "ezcaptcha"]
        assert "does not know the browser chrome149; chrome" in self.log

    def test_a_browser_that_it_does_not_know_is_not_passed(self, crawl):
        flags, _ = self.get(crawl, IMPERSONATE, solution={"tlsVersion": "netscape4"})
        assert flags == ["ezcaptcha"]

    def test_only_who_asked_for_it_gets_it(self, crawl):
        flags, _ = self.get(crawl, IMPERSONATE | {"EZCAPTCHA_IMPERSONATE": False})
        assert flags == ["ezcaptcha"]

    def test_a_browser_that_the_spider_chose_is_left(self, crawl):
        flags, _ = self.get(crawl, IMPERSONATE, impersonate="firefox133")
        assert flags == ["impersonate", "ezcaptcha"]
