"""Beside Scrapy's other middlewares."""

from __future__ import annotations

import pytest
from support import via

from scrapy_ezcaptcha.sandbox import Fault, Protection, Sandbox, Site


def test_a_challenge_in_the_http_cache_is_not_served_for_ever(crawl, sandbox, tmp_path):
    """A cached challenge is neither solved again and again nor handed to the spider."""
    requests = [{"url": "http://shop.example/item/1", "meta": via(sandbox)}]
    settings = {"HTTPCACHE_ENABLED": True, "HTTPCACHE_DIR": str(tmp_path / "cache")}
    first = crawl(sandbox, requests, settings=settings)
    assert [page["status"] for page in first.pages] == [200]
    assert len(sandbox.service.tasks) == 1
    second = crawl(sandbox, requests, settings=settings)
    assert [page["status"] for page in second.pages] == [200]
    assert len(sandbox.service.tasks) <= 2


def test_a_redirect_into_a_protected_zone_is_solved(crawl, sandbox):
    url = "http://open.example/redirect?to=http://shop.example/item/1"
    settings = {"EZCAPTCHA_MAX_ATTEMPTS": 1}
    result = crawl(sandbox, [{"url": url, "meta": via(sandbox)}], settings=settings)
    assert [(page["url"], page["status"]) for page in result.pages] == [
        ("http://shop.example/item/1", 200)
    ]


def test_a_redirect_from_one_protected_zone_into_another_has_its_own_attempts(crawl, sandbox):
    url = "http://shop.example/redirect?to=http://bots.example/item/1"
    settings = {"EZCAPTCHA_MAX_ATTEMPTS": 1}
    result = crawl(sandbox, [{"url": url, "meta": via(sandbox)}], settings=settings)
    assert [(page["url"], page["status"]) for page in result.pages] == [
        ("http://bots.example/item/1", 200)
    ]
    assert len(sandbox.service.tasks) == 2


def test_a_retried_page_keeps_its_clearance_and_its_count(crawl, sandbox):
    requests = [{"url": "http://shop.example/status?code=500", "meta": via(sandbox)}]
    settings = {"RETRY_ENABLED": True, "RETRY_TIMES": 2}
    result = crawl(sandbox, requests, settings=settings)
    assert [(page["status"], page["retry_times"]) for page in result.pages] == [(500, 2)]
    assert len(sandbox.service.tasks) == 1
    assert sandbox.report()["hosts"]["shop.example"] == {"challenge": 1, "page": 3}


def test_robots_txt_is_obeyed_on_a_protected_site(crawl, sandbox):
    proxy = {"proxy": sandbox.proxy_url()}
    requests = [
        {"url": f"http://shop.example/{path}", "meta": proxy} for path in ("private/x", "item/1")
    ]
    settings = {"ROBOTSTXT_OBEY": True, "EZCAPTCHA_TRANSPARENT_MODE": True}
    env = {"http_proxy": sandbox.proxy_url()}
    result = crawl(sandbox, requests, settings=settings, env=env)
    assert [page["url"] for page in result.pages] == ["http://shop.example/item/1"]
    assert result.stats["robotstxt/forbidden"] == 1
    assert len(sandbox.service.tasks) == 1


def test_a_balance_that_cannot_be_asked_for_stops_nothing(crawl):
    faults = [Fault("getBalance", "html", times=None)]
    with Sandbox([Site("shop.example", Protection())], latency=0.1, faults=faults) as sandbox:
        requests = [{"url": "http://shop.example/", "meta": via(sandbox)}]
        result = crawl(sandbox, requests, settings={"EZCAPTCHA_LOG_BALANCE": True})
    assert [page["status"] for page in result.pages] == [200]
    assert "Could not ask for the balance" in result.log


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"EZCAPTCHA_MAX_TASKS": "ten"}, "EZCAPTCHA_MAX_TASKS is 'ten', must be a whole number"),
        ({"EZCAPTCHA_STORE": "redis://h"}, "EZCAPTCHA_STORE must be None in this version"),
    ],
)
def test_unusable_settings_end_the_crawl_before_it_begins(crawl, sandbox, settings, said):
    requests = [{"url": "http://shop.example/", "meta": via(sandbox)}]
    result = crawl(sandbox, requests, settings=settings)
    assert f"ConfigurationError: {said}" in result.log
    assert result.pages == []
    assert sandbox.edge.visits == []


def test_without_a_reactor_it_says_so_and_stays_out(crawl, sandbox):
    settings = {"TWISTED_REACTOR_ENABLED": False}
    requests = [{"url": "http://shop.example/", "meta": via(sandbox)}]
    result = crawl(sandbox, requests, settings=settings)
    assert "TWISTED_REACTOR_ENABLED is False" in result.log
    assert sandbox.service.calls == {}
