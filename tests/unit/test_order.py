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
def test_between_meta_refresh_and_decompression_is_right(order):
    assert problems(**{PATH: order}) == []


def test_a_middleware_that_is_absent_is_no_problem():
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


class RotatingProxyMiddleware:
    pass


class BanDetectionMiddleware:
    pass


class MyBanDetection(BanDetectionMiddleware):
    pass


class TestBanDetectors:
    ROTATOR = f"{__name__}.RotatingProxyMiddleware"
    DETECTOR = f"{__name__}.BanDetectionMiddleware"

    def test_those_above_ours_are_named_with_the_right_settings(self):
        [said] = problems(**{PATH: 585, self.ROTATOR: 610, self.DETECTOR: 620})
        assert "RotatingProxyMiddleware at 610 and BanDetectionMiddleware at 620" in said
        assert said.endswith(f': "{self.ROTATOR}": 570, "{self.DETECTOR}": 575')

    def test_the_suggested_settings_are_right(self):
        assert problems(**{PATH: 585, self.ROTATOR: 570, self.DETECTOR: 575}) == []

    def test_one_of_them_is_enough_and_so_is_the_same_order(self):
        [said] = problems(**{PATH: 585, self.ROTATOR: 570, self.DETECTOR: 585})
        assert "and BanDetectionMiddleware at 585:" in said
        assert f'"{self.ROTATOR}": 570' in said

    def test_a_subclass_given_as_a_class_is_named_by_its_path(self):
        settings = Settings({"DOWNLOADER_MIDDLEWARES": {PATH: 585, MyBanDetection: 620}})
        [said] = order_problems(settings, EzCaptchaMiddleware)
        assert said.endswith(f'"{__name__}.MyBanDetection": 570')

    def test_disabled_middlewares_and_other_names_are_ignored(self):
        assert problems(**{PATH: 585, self.DETECTOR: None, f"{__name__}.Derived": 620}) == []
