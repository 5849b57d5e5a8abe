"""What the browser of scrapy-playwright gets, and by which proxy it leaves; without a browser."""

from __future__ import annotations

from weakref import ref

import pytest
from scrapy import Request
from scrapy.settings import Settings

from scrapy_ezcaptcha.clearances.clearance import Clearance
from scrapy_ezcaptcha.clearances.playwright import BrowserCookies
from scrapy_ezcaptcha.crawl.playwright import Browser
from scrapy_ezcaptcha.errors import ExitError
from scrapy_ezcaptcha.exit import Exit

URL = "https://www.shop.example/"
KEY = "playwright_page_init_callback"
PROXY = {"server": "http://proxy.example:1", "username": "user", "password": "p@ss"}
EXIT = Exit.parse("http://user:p%40ss@proxy.example:1")
OTHER = {"server": "proxy.example:2", "username": "other", "password": "secret"}


class Context:
    """As much of a browser context as is used."""

    def __init__(self, **cookies):
        self.there = cookies
        self.added = []

    async def cookies(self, url):
        return [{"name": name, "value": value} for name, value in self.there.items()]

    async def add_cookies(self, cookies):
        self.added.append(cookies)
        self.there |= {cookie["name"]: cookie["value"] for cookie in cookies}


class Page:
    """As much of a browser page as is used."""

    def __init__(self, context):
        self.context = context
        self.headers = {}

    async def set_extra_http_headers(self, headers):
        self.headers |= headers


def clearance(task="task1", zone="shop.example", **cookies):
    cookies = {"cf_clearance": "x", **cookies}
    return Clearance(zone, "www.shop.example", EXIT, task, {"user-agent": "UA"}, cookies)


def visit(cookies, context, given, **meta):
    """Open a page in *context* for a request on which *given* was put."""
    request = Request(URL, meta={"playwright": True, **meta})
    cookies.put_on(request, given)
    page = Page(context)
    with pytest.raises(StopIteration):  # nothing in it waits
        request.meta[KEY](page, request).send(None)
    cookies.take_off(request)
    return page


class TestCookies:
    def test_all_hosts_of_the_zone_get_them(self):
        context = Context()
        visit(BrowserCookies(), context, clearance(__cf_bm="y"))
        assert [cookie["name"] for cookie in context.added[0]] == ["cf_clearance", "__cf_bm"]
        assert {cookie["domain"] for cookie in context.added[0]} == {".shop.example"}
        assert {cookie["path"] for cookie in context.added[0]} == {"/"}

    @pytest.mark.parametrize("zone", ["127.0.0.1", "localhost"])
    def test_an_address_has_no_other_hosts(self, zone):
        context = Context()
        visit(BrowserCookies(), context, clearance(zone=zone))
        assert context.added[0][0]["domain"] == zone

    def test_they_replace_those_of_an_older_clearance(self):
        cookies, context = BrowserCookies(), Context(cf_clearance="of somebody else")
        visit(cookies, context, clearance())
        assert context.there == {"cf_clearance": "x"}
        visit(cookies, context, clearance("task2", cf_clearance="newer"))
        assert context.there == {"cf_clearance": "newer"}

    def test_those_that_the_site_renewed_in_the_browser_stay(self):
        cookies, context = BrowserCookies(), Context()
        visit(cookies, context, clearance(__cf_bm="y"))
        context.there["cf_clearance"] = "renewed"
        visit(cookies, context, clearance(__cf_bm="y"))
        assert context.there == {"cf_clearance": "renewed", "__cf_bm": "y"}
        assert len(context.added) == 1

    def test_the_site_s_own_cookies_stay(self):
        context = Context(session="of the browser")
        visit(BrowserCookies(), context, clearance(session="of the solution", shown="1"))
        assert context.there == {"session": "of the browser", "cf_clearance": "x", "shown": "1"}

    def test_each_context_has_its_own(self):
        cookies, contexts = BrowserCookies(), [Context(), Context()]
        for context in contexts:
            visit(cookies, context, clearance())
        assert [len(context.added) for context in contexts] == [1, 1]

    def test_no_context_is_kept_alive(self):
        cookies, context = BrowserCookies(), Context()
        visit(cookies, context, clearance())
        kept = ref(context)
        del context
        assert kept() is None


class TestCallback:
    def test_it_is_there_only_while_the_request_is_sent(self):
        cookies, request = BrowserCookies(), Request(URL, meta={"playwright": True})
        cookies.put_on(request, clearance())
        assert callable(request.meta[KEY])
        cookies.take_off(request)
        assert request.meta == {"playwright": True}

    def test_a_callback_of_the_user_comes_first_and_is_given_back(self):
        called = []

        async def own(page, request):
            called.append(dict(page.context.there))
            raise ValueError

        cookies, context = BrowserCookies(), Context()
        request = Request(URL, meta={"playwright": True, KEY: own})
        cookies.put_on(request, clearance())
        with pytest.raises(ValueError):  # noqa: PT011  (which scrapy-playwright logs)
            request.meta[KEY](Page(context), request).send(None)
        cookies.take_off(request)
        assert called == [{}]
        assert context.there == {"cf_clearance": "x"}
        assert request.meta[KEY] is own

    def test_other_requests_have_none(self):
        cookies, request = BrowserCookies(), Request(URL)
        cookies.put_on(request, clearance())
        cookies.take_off(request)
        assert request.meta == {}

    @pytest.mark.parametrize(
        ("settings", "headers"),
        [
            ({}, {}),
            ({"PLAYWRIGHT_PROCESS_REQUEST_HEADERS": "of.the.user"}, {}),
            ({"PLAYWRIGHT_PROCESS_REQUEST_HEADERS": None}, {"user-agent": "UA"}),
        ],
    )
    def test_the_user_agent_is_set_where_the_browser_keeps_its_headers(self, settings, headers):
        cookies = BrowserCookies.from_settings(Settings(settings))
        assert visit(cookies, Context(), clearance()).headers == headers


class TestProxy:
    def exit_of(self, settings, **meta):
        return Browser(Settings(settings), {"https"}).exit_of(Request(URL, meta=meta))

    @pytest.mark.parametrize(
        ("meta", "sends"),
        [({}, False), ({"playwright": False}, False), ({"playwright": True}, True)],
    )
    def test_which_requests_it_sends(self, meta, sends):
        browser = Browser(Settings(), {"https"})
        assert browser.sends(Request(URL, meta=meta)) is sends
        assert not browser.sends(Request("http://shop.example/", meta=meta))

    def test_that_of_the_launch(self):
        assert self.exit_of({"PLAYWRIGHT_LAUNCH_OPTIONS": {"proxy": PROXY}}) == EXIT

    def test_that_of_the_context_goes_before(self):
        settings = {
            "PLAYWRIGHT_LAUNCH_OPTIONS": {"proxy": PROXY},
            "PLAYWRIGHT_CONTEXTS": {"second": {"proxy": OTHER}, "third": {}},
        }
        other = Exit.parse("http://other:secret@proxy.example:2")
        assert self.exit_of(settings, playwright_context="second") == other
        assert self.exit_of(settings, playwright_context="third") == EXIT
        kwargs = {"proxy": OTHER}
        assert self.exit_of(settings, playwright_context_kwargs=kwargs) == other
        in_vain = {"playwright_context": "third", "playwright_context_kwargs": kwargs}
        assert self.exit_of(settings, **in_vain) == EXIT

    @pytest.mark.parametrize("setting", ["PLAYWRIGHT_CDP_URL", "PLAYWRIGHT_CONNECT_URL"])
    def test_a_remote_browser_is_not_launched_by_us(self, setting):
        settings = {setting: "ws://browser:1", "PLAYWRIGHT_LAUNCH_OPTIONS": {"proxy": PROXY}}
        assert self.exit_of(settings) is None
        assert self.exit_of(settings, playwright_context_kwargs={"proxy": PROXY}) == EXIT

    def test_none(self):
        assert self.exit_of({}, proxy=EXIT.url) is None

    @pytest.mark.parametrize("proxy", [{"server": "no proxy"}, {"username": "user"}, "no proxy"])
    def test_one_that_is_no_proxy(self, proxy):
        with pytest.raises(ExitError):
            self.exit_of({"PLAYWRIGHT_LAUNCH_OPTIONS": {"proxy": proxy}})
