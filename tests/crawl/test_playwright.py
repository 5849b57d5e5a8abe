"""Beside scrapy-playwright, with a real browser."""

from __future__ import annotations

import shutil
from importlib.util import find_spec

import pytest

from scrapy_ezcaptcha.sandbox import Protection, Sandbox, Site

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")

pytestmark = [
    pytest.mark.unmeasured,
    pytest.mark.skipif(
        find_spec("scrapy_playwright") is None, reason="scrapy-playwright is not installed"
    ),
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed"),
]


@pytest.fixture
def sandbox():
    with Sandbox([Site("shop.example", Protection())], latency=0.1) as running:
        yield running


def proxy_of(sandbox, user="exit1"):
    server = sandbox.proxy_url(user).rpartition("@")[2]
    return {"server": f"http://{server}", "username": user, "password": sandbox.proxy_password}


def pages_of(sandbox):
    return [visit for visit in sandbox.edge.visits if visit.verdict == "page"]


@pytest.fixture
def browse(crawl):
    """Crawl a shop of 31 pages by the browser."""

    def run(sandbox, url="http://shop.example/", *, proxy=True, settings=None, meta=None, **plan):
        options = {"executable_path": CHROMIUM, "args": ["--no-sandbox"]}  # it may be root's
        if proxy:
            options["proxy"] = proxy_of(sandbox)
        handler = "scrapy_playwright.handler.ScrapyPlaywrightDownloadHandler"
        settings = {
            "DOWNLOAD_HANDLERS": {"http": handler, "https": handler},
            "EZCAPTCHA_TRANSPARENT_MODE": True,
            "EZCAPTCHA_USE_BODY": "never",  # a page that came with its task proves nothing here
            "PLAYWRIGHT_CONTEXTS": {"default": {"ignore_https_errors": True}},
            "PLAYWRIGHT_LAUNCH_OPTIONS": options,
            "PLAYWRIGHT_MAX_PAGES_PER_CONTEXT": 4,
            **(settings or {}),
        }
        requests = [{"url": url, "meta": {"playwright": True, **(meta or {})}}]
        plan = {"follow": "item", "may_be_deprecated": True} | plan
        return crawl(sandbox, requests, settings=settings, timeout=120, **plan)

    return run


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_each_page_arrives_for_one_task(browse, sandbox, scheme):
    result = browse(sandbox, f"{scheme}://shop.example/")
    assert [page["status"] for page in result.pages] == [200] * 31
    assert len(sandbox.service.tasks) == 1
    assert {visit.exit for visit in sandbox.edge.visits} == {"exit1"}
    assert all("playwright_page_init_callback" not in page["meta"] for page in result.pages)
    assert sandbox.proxy_password not in result.log


def test_the_browser_may_keep_its_own_headers(browse, sandbox):
    """The User-Agent is the clearance's nevertheless."""
    result = browse(sandbox, settings={"PLAYWRIGHT_PROCESS_REQUEST_HEADERS": None})
    assert [page["status"] for page in result.pages] == [200] * 31
    assert len(sandbox.service.tasks) == 1


def test_cookies_that_the_site_renews_stay(browse):
    """One page at a time: the site refuses the old cookie at once, also to what is under way."""
    sites = [Site("shop.example", Protection(renew_every=3))]
    with Sandbox(sites, latency=0.1) as sandbox:
        result = browse(sandbox, settings={"CONCURRENT_REQUESTS": 1})
        assert [page["status"] for page in result.pages] == [200] * 31
        assert len(sandbox.service.tasks) == 1


def test_a_callback_of_the_user_is_called_too(browse, sandbox):
    meta = {"playwright_page_init_callback": "spiders.before_page"}
    browse(sandbox, meta=meta, follow=None)
    cookies = [visit.header("cookie") for visit in pages_of(sandbox)]
    assert cookies
    assert all("own=1" in value and "cf_clearance=" in value for value in cookies)


def test_each_context_is_an_exit_of_its_own(browse, sandbox):
    contexts = {"second": {"proxy": proxy_of(sandbox, "exit2")}}
    meta = {"playwright_context": "second"}
    result = browse(sandbox, settings={"PLAYWRIGHT_CONTEXTS": contexts}, meta=meta)
    assert [page["status"] for page in result.pages] == [200] * 31
    assert {visit.exit for visit in sandbox.edge.visits} == {"exit2"}
    assert [task.exit for task in sandbox.service.tasks.values()] == ["exit2"]


@pytest.mark.parametrize("where", ["meta", "setting"])
def test_nothing_is_paid_where_the_browser_leaves_by_no_proxy(browse, sandbox, where):
    settings = {"EZCAPTCHA_PROXY": sandbox.proxy_url()} if where == "setting" else {}
    meta = {"proxy": sandbox.proxy_url()} if where == "meta" else {}
    result = browse(sandbox, sandbox.direct_url, proxy=False, settings=settings, meta=meta)
    assert [page["status"] for page in result.pages] == [403]
    assert "PLAYWRIGHT_LAUNCH_OPTIONS" in result.pages[0]["error"]
    assert sandbox.service.calls == {}
