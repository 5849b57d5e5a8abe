from __future__ import annotations

import pytest
from scrapy.settings import Settings

from scrapy_ezcaptcha import EzCaptchaMiddleware
from scrapy_ezcaptcha.crawl.order import order_of, order_problems

PATH = "scrapy_ezcaptcha.EzCaptchaMiddleware"
RETRY = "scrapy.downloadermiddlewares.retry.RetryMiddleware"
PROXY = "scrapy.downloadermiddlewares.httpproxy.HttpProxyMiddleware"


class Derived(EzCaptchaMiddleware):
    pass


def problems(**middlewares):
    settings = Settings({"DOWNLOADER_MIDDLEWARES": middlewares})
    return order_problems(settings, EzCaptchaMiddleware)


@pytest.mark.parametrize("order", [581, 585, 589])
def test_between_meta_refresh_and_decompression_all_is_well(order):
    assert problems(**{PATH: order}) == []


def test_who_is_not_there_stands_nowhere_wrong():
    assert problems() == []
    assert problems(**{PATH: None}) == []


def test_each_neighbour_on_the_wrong_side_is_named():
    said = problems(**{PATH: 800})
    assert len(said) == 2
    assert "HttpCompressionMiddleware at 590, which must be above it" in said[0]
    assert "HttpProxyMiddleware at 750" in said[1]
    said = problems(**{PATH: 100})
    assert "MetaRefreshMiddleware at 580, which must be below it" in said[0]
    assert "RetryMiddleware at 550" in said[1]


def test_the_same_order_is_wrong_too():
    assert len(problems(**{PATH: 590})) == 1


def test_neighbours_that_were_moved_or_removed_count_as_they_are():
    assert "RetryMiddleware at 700" in problems(**{PATH: 585, RETRY: 700})[0]
    assert problems(**{PATH: 760, RETRY: None, PROXY: None})[0].startswith("DOWNLOADER")


def test_a_class_and_a_subclass_are_found_like_a_path():
    settings = Settings({"DOWNLOADER_MIDDLEWARES": {Derived: 900}})
    assert order_of(settings, EzCaptchaMiddleware) == 900
    assert "Derived" not in order_problems(settings, EzCaptchaMiddleware)[0]
