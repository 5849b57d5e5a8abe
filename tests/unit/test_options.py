from __future__ import annotations

import pytest
from scrapy import Request
from scrapy.exceptions import IgnoreRequest
from scrapy.utils.test import get_crawler

from scrapy_ezcaptcha import EzCaptchaError
from scrapy_ezcaptcha.config import Config
from scrapy_ezcaptcha.crawl.target import Options, Targets
from scrapy_ezcaptcha.errors import GivenUp, InvalidOptions
from scrapy_ezcaptcha.exit import Exit

OPT_IN = Config()
TRANSPARENT = Config(transparent_mode=True)


def targets(config):
    return Targets(config, get_crawler().settings)


def options(meta, config=OPT_IN):
    return targets(config).options(Request("http://shop.example/", meta=meta))


@pytest.mark.parametrize(
    ("meta", "config", "in_scope"),
    [
        ({}, OPT_IN, False),
        ({}, TRANSPARENT, True),
        ({"ezcaptcha": True}, OPT_IN, True),
        ({"ezcaptcha": {}}, OPT_IN, True),
        ({"ezcaptcha": False}, OPT_IN, False),
        ({"ezcaptcha": False}, TRANSPARENT, False),
        ({"ezcaptcha": None}, OPT_IN, False),
        ({"ezcaptcha": None}, TRANSPARENT, True),
    ],
)
def test_scope(meta, config, in_scope):
    assert (options(meta, config) is not None) is in_scope


def test_a_dict_is_read():
    given = {
        "proxy": "http://u:p@proxy.example:1",
        "rq_data": {"mode": "JSON"},
        "website_url": "https://shop.example/x",
        "max_attempts": 3,
        "use_body": True,
    }
    read = options({"ezcaptcha": given})
    assert read.proxy.host == "proxy.example"
    assert (read.rq_data, read.website_url) == ({"mode": "JSON"}, "https://shop.example/x")
    assert (read.max_attempts, read.use_body) == (3, True)


def test_a_dict_is_read_once_and_again_when_it_changes():
    some = targets(OPT_IN)
    request = Request("http://shop.example/", meta={"ezcaptcha": {"max_attempts": 3}})
    first = some.options(request)
    assert some.options(request) is first
    request.meta["ezcaptcha"]["max_attempts"] = 4
    assert some.options(request) == Options(max_attempts=4)
    request.meta["ezcaptcha"]["max_attempts"] = 0
    with pytest.raises(InvalidOptions):
        some.options(request)


def test_none_means_not_given():
    assert options({"ezcaptcha": {"proxy": None, "max_attempts": None}}) == Options()


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("yes", "True, False or a dict, not str"),
        (1, "True, False or a dict, not int"),
        ([], "True, False or a dict, not list"),
        ({"Proxy": "x"}, "unknown key 'Proxy'; the keys are max_attempts, proxy"),
        ({1: 2}, "unknown key 1"),
        ({"proxy": 1}, "must be a proxy URL, not int"),
        ({"proxy": "ftp://u:secret@h"}, "not a URL of the form"),
        ({"rq_data": "a=1"}, "must be a dict, not str"),
        ({"rq_data": {"a": object()}}, "must be serializable as JSON"),
        ({"website_url": "shop.example"}, "http:// or https:// URL"),
        ({"website_url": 1}, "http:// or https:// URL, not int"),
        ({"max_attempts": 0}, "whole number from 1"),
        ({"max_attempts": True}, "whole number from 1"),
        ({"max_attempts": "2"}, "whole number from 1, not str"),
        ({"use_body": 1}, "True or False, not int"),
    ],
)
def test_what_is_wrong_is_said(value, said):
    with pytest.raises(InvalidOptions) as caught:
        options({"ezcaptcha": value})
    assert said in str(caught.value)
    assert "secret" not in str(caught.value)
    assert isinstance(caught.value, EzCaptchaError)
    assert isinstance(caught.value, IgnoreRequest)  # reaches the errback without a traceback


@pytest.mark.parametrize(
    ("url", "allowed"),
    [
        ("http://shop.example/", True),
        ("http://WWW.Shop.example/", True),
        ("http://a.b.shop.example:8080/", True),
        ("http://myshop.example/", False),
        ("http://shop.example.org/", False),
    ],
)
def test_allowed_domains_and_their_subdomains(url, allowed):
    limited = {"transparent_mode": True, "allowed_domains": ("shop.example",)}
    assert targets(Config(**limited)).is_in_scope(Request(url)) is allowed
    assert targets(TRANSPARENT).is_in_scope(Request(url))


def test_outside_the_allowed_domains_nothing_is_solved_even_if_meta_asks_for_it():
    limited = targets(Config(allowed_domains=("shop.example",)))
    proxy = "http://u:p@proxy.example:1"
    for url, allowed in (("http://shop.example/", True), ("http://other.example/", False)):
        request = Request(url, meta={"ezcaptcha": True, "proxy": proxy})
        target = limited.after_sending(request, limited.options(request))
        if allowed:
            assert limited.check(target) is None  # it raises otherwise
        else:
            with pytest.raises(GivenUp, match=r"has no other\.example"):
                limited.check(target)


def proxy_of(name):
    return f"http://u:p@{name}.example:1"


@pytest.mark.parametrize(
    ("given", "exit"),
    [
        (("option", "meta", "env", "setting"), "option"),
        ((None, "meta", "env", "setting"), "meta"),
        ((None, None, "env", "setting"), "env"),
        ((None, None, None, "setting"), "setting"),
        ((None, None, None, None), None),
        (("option", None, None, None), "option"),
    ],
)
def test_the_precedence_of_proxies(monkeypatch, given, exit):
    meta_option, meta, environment, setting = given
    monkeypatch.delenv("http_proxy", raising=False)
    if environment:
        monkeypatch.setenv("http_proxy", proxy_of(environment))
    config = Config(proxy=Exit.parse(proxy_of(setting)) if setting else None)
    asked = {"proxy": proxy_of(meta_option)} if meta_option else True
    request = Request("http://shop.example/", meta={"ezcaptcha": asked})
    if meta:
        request.meta["proxy"] = proxy_of(meta)
    by_config = targets(config)
    target = by_config.before_sending(request, by_config.options(request))
    assert (target.exit and target.exit.host) == (exit and f"{exit}.example")
    assert (target.host, target.zone, target.url) == ("shop.example",) * 2 + (request.url,)
