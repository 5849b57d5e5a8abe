"""What is learnt of downloads: by a call around each, or by signals where that is not possible."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from fakes import LOG, EngineSlot, crawler_with
from scrapy import Request, signals
from scrapy.http import Response
from scrapy.utils.test import get_crawler
from twisted.internet.defer import Deferred

from scrapy_ezcaptcha.crawl.engine import Engine

REQUEST = Request("http://shop.example/")
RESPONSE = Response(REQUEST.url)


class Calls:
    """Notes what is called, and fails where it is told to."""

    def __init__(self, fails=None):
        self.names = []
        self.fails = fails

    def note(self, name):
        self.names.append(name)
        if name == self.fails:
            raise ValueError(name)

    def before(self, request):
        self.note("before")

    def after(self, request, response):
        self.note("after")

    def at_end(self, request):
        self.note("at_end")

    async def download_request_async(self, request):
        self.note("download")
        return RESPONSE


def download_with(calls):
    """Download one request; return the Deferred of its response."""
    handlers = SimpleNamespace(download_request_async=calls.download_request_async)
    engine = Engine(crawler_with(SimpleNamespace(handlers=handlers), EngineSlot()), LOG)
    engine.follow_downloads(calls.before, calls.after, calls.at_end)
    return Deferred.fromCoroutine(handlers.download_request_async(REQUEST))


def test_a_download_is_followed_from_its_beginning_to_its_end():
    calls = Calls()
    assert download_with(calls).result is RESPONSE
    assert calls.names == ["before", "download", "after", "at_end"]


def test_a_download_that_fails_has_an_end_too():
    calls, failures = Calls(fails="download"), []
    download_with(calls).addErrback(failures.append)
    assert failures[0].check(ValueError)
    assert calls.names == ["before", "download", "at_end"]


@pytest.mark.parametrize("name", ["after", "at_end"])
def test_an_error_in_what_follows_costs_no_page(name, caplog):
    calls = Calls(fails=name)
    assert download_with(calls).result is RESPONSE
    assert calls.names == ["before", "download", "after", "at_end"]
    assert f"Calls.{name} failed after a download" in caplog.text


def test_where_it_is_not_possible_signals_tell_it(caplog):
    crawler, calls = get_crawler(), Calls()
    crawler.engine = SimpleNamespace(downloader=SimpleNamespace())
    Engine(crawler, LOG).follow_downloads(calls.before, calls.after, calls.at_end)
    send = crawler.signals.send_catch_log
    send(signals.request_reached_downloader, request=REQUEST, spider=None)
    send(signals.response_downloaded, request=REQUEST, response=RESPONSE, spider=None)
    send(signals.request_left_downloader, request=REQUEST, spider=None)
    assert calls.names == ["before", "after", "at_end"]
    assert "does not tell when a request is sent" in caplog.text
