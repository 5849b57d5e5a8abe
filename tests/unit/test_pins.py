from __future__ import annotations

from base64 import b64encode
from dataclasses import replace

import pytest
from fakes import LOG, Stats
from scrapy import Request
from scrapy.http import Response
from scrapy.settings import Settings

from scrapy_ezcaptcha.clearances.clearance import Clearance
from scrapy_ezcaptcha.clearances.known import KnownClearances
from scrapy_ezcaptcha.config import Config
from scrapy_ezcaptcha.crawl.memo import Memo
from scrapy_ezcaptcha.crawl.pins import Pins
from scrapy_ezcaptcha.crawl.target import POOL_KEY, Options, Targets
from scrapy_ezcaptcha.exit import Exit

URL = "https://www.shop.example/item/1"
ONE, TWO = (Exit.parse(f"http://exit{number}:secret@proxy.example:1") for number in (1, 2))
CLEARANCE = Clearance(
    "shop.example", "www.shop.example", ONE, "task1", {"user-agent": "UA"}, {"cf_clearance": "x"}
)


def authorization(exit):
    return b"Basic " + b64encode(f"{exit.username}:{exit.password}".encode())


class Crawl:
    """Pins over a clearance for the first exit."""

    def __init__(self, **settings):
        self.known = KnownClearances()
        self.known.add(CLEARANCE)
        self.targets = Targets(Config(), Settings(settings))
        self.stats = Stats()
        self.pins = Pins(self.known, self.targets.proxies, self.stats, LOG)

    def target(self, request):
        return self.targets.after_sending(request, Options())

    def replay(self, **meta):
        """A replay that is pinned to the first exit, and to which the second one was given."""
        request = Request(URL, meta={"proxy": ONE.url, **meta})
        pin = self.pins.pin_for(self.target(request), CLEARANCE)
        Memo("shop.example", clearance=pin, pin=pin).put_on(request)
        request.meta.update({"proxy": TWO.address, "_auth_proxy": TWO.address})
        request.headers["Proxy-Authorization"] = authorization(TWO)
        return request


@pytest.mark.parametrize("enabled", [True, False])
def test_a_replay_is_as_scrapy_s_own_middleware_leaves_it(enabled):
    crawl = Crawl(HTTPPROXY_ENABLED=enabled)
    request = crawl.replay()
    assert crawl.pins.exit_when_sent(request) == ONE
    assert request.meta["proxy"] == request.meta["_auth_proxy"] == ONE.address
    assert request.headers["Proxy-Authorization"] == authorization(ONE)
    assert crawl.stats == {"ezcaptcha/requests/pinned": 1}


def test_the_middlewares_that_come_later_are_told():
    crawl = Crawl()
    request = crawl.replay()
    crawl.pins.before_middlewares(request)
    assert request.meta["proxy"] == ONE.url


def test_an_exit_that_the_pool_has_left_is_left():
    crawl = Crawl()
    request = crawl.replay()
    request.meta.update({"proxy": TWO.url, POOL_KEY: TWO.label})
    crawl.pins.before_middlewares(request)
    assert crawl.pins.exit_when_sent(request) == TWO


def test_a_replay_that_leaves_by_its_exit_anyway_is_left_alone():
    crawl = Crawl()
    request = crawl.replay()
    request.meta["proxy"] = ONE.url
    del request.headers["Proxy-Authorization"]
    assert crawl.pins.exit_when_sent(request) == ONE
    assert request.meta["proxy"] == ONE.url
    assert crawl.stats == {}


def test_no_other_request_is_touched():
    crawl = Crawl()
    request = Request(URL, meta={"proxy": TWO.url})
    crawl.pins.before_middlewares(request)
    assert crawl.pins.exit_when_sent(request) == TWO
    assert request.meta == {"proxy": TWO.url}


def test_once_the_clearance_is_rejected_nothing_is_pinned():
    crawl = Crawl()
    request = crawl.replay()
    crawl.known.learn(CLEARANCE.place, [], {CLEARANCE.id: False})
    assert crawl.pins.exit_when_sent(request) == TWO


def test_a_proxy_that_is_none_is_replaced():
    crawl = Crawl()
    request = crawl.replay()
    request.meta["proxy"] = "no proxy at all"
    crawl.pins.before_middlewares(request)
    assert request.meta["proxy"] == ONE.url
    request.meta["proxy"] = "no proxy at all"
    assert crawl.pins.exit_when_sent(request) == ONE


def test_a_clearance_of_another_exit_pins_nothing():
    crawl = Crawl()
    target = crawl.target(Request(URL, meta={"proxy": TWO.url}))
    assert crawl.pins.pin_for(target, CLEARANCE) is None


@pytest.mark.parametrize(
    ("status", "exit"), [(302, ONE), (200, TWO), (403, TWO), (None, TWO)], ids=str
)
def test_a_pin_holds_for_one_download_and_for_its_redirect(status, exit):
    """None: it failed. Who sends it again then has chosen the second exit."""
    crawl = Crawl()
    request = crawl.replay()
    crawl.pins.exit_when_sent(request)
    if status is not None:
        crawl.pins.downloaded(request, Response(URL, status=status))
    again = request.replace(url="https://www.shop.example/item/2")
    again.meta["proxy"] = TWO.url
    del again.headers["Proxy-Authorization"]
    assert crawl.pins.exit_when_sent(again) == exit


class TestLeftByAnother:
    def test_a_challenge_there_says_nothing_about_the_clearance(self):
        crawl = Crawl()
        request = crawl.replay()
        assert crawl.pins.left_by_another(crawl.target(request), Memo.on(request))

    def test_nor_is_it_so_where_the_exit_or_the_clearance_is_another(self):
        crawl = Crawl()
        request = crawl.replay()
        memo = Memo.on(request)
        target = crawl.target(request)
        assert not crawl.pins.left_by_another(replace(target, own_exit=ONE), memo)
        assert not crawl.pins.left_by_another(target, replace(memo, clearance="task2"))
        assert not crawl.pins.left_by_another(target, replace(memo, clearance=None))
        crawl.known.learn(CLEARANCE.place, [], {CLEARANCE.id: False})
        assert not crawl.pins.left_by_another(target, memo)


def test_what_a_browser_sends_is_not_pinned():
    """It has a proxy of its own, and would send the header on to the site."""
    pytest.importorskip("scrapy_playwright")
    handler = "scrapy_playwright.handler.ScrapyPlaywrightDownloadHandler"
    options = {"proxy": {"server": TWO.address, "username": "exit2", "password": "secret"}}
    crawl = Crawl(DOWNLOAD_HANDLERS={"https": handler}, PLAYWRIGHT_LAUNCH_OPTIONS=options)
    request = crawl.replay()
    del request.headers["Proxy-Authorization"]
    request.meta.update({"playwright": True, "proxy": None})
    crawl.pins.before_middlewares(request)
    assert crawl.pins.exit_when_sent(request) == TWO
    assert request.meta["proxy"] is None
    assert "Proxy-Authorization" not in request.headers
