from __future__ import annotations

import pytest
from scrapy import Request
from scrapy.exceptions import IgnoreRequest

from scrapy_ezcaptcha import EzCaptchaError
from scrapy_ezcaptcha.config import Config
from scrapy_ezcaptcha.errors import InvalidOptions
from scrapy_ezcaptcha.options import Options, is_allowed_domain, options_of

OPT_IN = Config()
TRANSPARENT = Config(transparent_mode=True)


def options(meta, config=OPT_IN):
    return options_of(Request("http://shop.example/", meta=meta), config)


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


def test_none_means_not_given():
    assert options({"ezcaptcha": {"proxy": None, "max_attempts": None}}) == Options()


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("yes", "True, False or a dict, is str"),
        (1, "True, False or a dict, is int"),
        ([], "True, False or a dict, is list"),
        ({"Proxy": "x"}, "unknown key 'Proxy'; known are max_attempts, proxy"),
        ({1: 2}, "unknown key 1"),
        ({"proxy": 1}, "must be a proxy URL, is int"),
        ({"proxy": "ftp://u:secret@h"}, "not a URL of the form"),
        ({"rq_data": "a=1"}, "a dict, not an encoded string, is str"),
        ({"rq_data": {"a": object()}}, "what JSON can carry"),
        ({"website_url": "shop.example"}, "http:// or https:// URL"),
        ({"website_url": 1}, "http:// or https:// URL, is int"),
        ({"max_attempts": 0}, "whole number from 1"),
        ({"max_attempts": True}, "whole number from 1"),
        ({"max_attempts": "2"}, "whole number from 1, is str"),
        ({"use_body": 1}, "True or False, is int"),
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
    config = Config(allowed_domains=("shop.example",))
    assert is_allowed_domain(Request(url), config) is allowed
    assert is_allowed_domain(Request(url), Config())
