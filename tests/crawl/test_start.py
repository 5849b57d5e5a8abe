"""What is noticed when a crawl starts."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from support import PATIENCE, clean_environment, run_command, via

SPIDER = """
import scrapy

class ShopSpider(scrapy.Spider):
    name = "shop"
    start_urls = ["http://shop.example/"]

    async def start(self):
        for url in self.start_urls:
            yield scrapy.Request(url, meta={"ezcaptcha": True})

    def parse(self, response):
        yield {"url": response.url, "title": response.css("h1::text").get()}
        for link in response.css("a.item"):
            yield response.follow(link, self.parse, meta={"ezcaptcha": True})
"""


class TestNewProject:
    @pytest.fixture
    def project(self, tmp_path):
        """As by ``scrapy startproject``, plus one line."""
        done = run_command(["startproject", "demo"], env=clean_environment(), cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        folder = tmp_path / "demo"
        with (folder / "demo" / "settings.py").open("a") as settings:
            settings.write('\nADDONS = {"scrapy_ezcaptcha.Addon": 500}\n')
        (folder / "demo" / "spiders" / "shop.py").write_text(SPIDER)
        return folder

    def crawl(self, project: Path, sandbox, **environment):
        arguments = [*sandbox.arguments(), "-s", "DOWNLOAD_DELAY=0", "-O", "items.json"]
        done = subprocess.run(
            [sys.executable, "-m", "scrapy", "crawl", "shop", *arguments],
            cwd=project,
            env=clean_environment(**environment),
            timeout=PATIENCE,
            capture_output=True,
            text=True,
            check=True,
        )
        return json.loads((project / "items.json").read_text() or "[]"), done.stderr

    def test_with_a_key_it_crawls_a_protected_site(self, project, sandbox):
        items, log = self.crawl(project, sandbox, **sandbox.environment())
        assert len(items) == 31
        assert "ERROR" not in log
        assert len(sandbox.service.tasks) == 1

    def test_without_one_it_says_what_to_set_and_crawls_as_if_we_were_not_there(
        self, project, sandbox
    ):
        environment = sandbox.environment()
        del environment["EZCAPTCHA_CLIENT_KEY"]
        items, log = self.crawl(project, sandbox, **environment)
        assert items == []
        assert "no EzCaptcha key; set EZCAPTCHA_CLIENT_KEY" in log
        assert "Ignoring response <403 http://shop.example/>" in log
        assert sandbox.service.calls == {}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            {"EZCAPTCHA_MAX_TASKS": "ten"},
            "EZCAPTCHA_MAX_TASKS is 'ten', but must be a whole number",
        ),
        ({"EZCAPTCHA_STORE": "mysql://h"}, 'EZCAPTCHA_STORE must be a path, "sqlite:///path"'),
        ({"EZCAPTCHA_CLIENT_KEY": "two words"}, "EZCAPTCHA_CLIENT_KEY must be one word"),
    ],
)
def test_unusable_settings_end_the_crawl_before_it_begins(crawl, sandbox, settings, said):
    requests = [{"url": "http://shop.example/", "meta": via(sandbox)}]
    result = crawl(sandbox, requests, settings=settings)
    assert f"ConfigurationError: {said}" in result.log
    assert result.pages == []
    assert sandbox.edge.visits == []


def test_a_misspelt_setting_is_said_with_the_right_name(crawl, sandbox):
    requests = [{"url": "http://shop.example/", "meta": via(sandbox)}]
    result = crawl(sandbox, requests, settings={"EZCAPTCHA_MAX_TASK": 3})
    said = "the setting EZCAPTCHA_MAX_TASK does not exist; did you mean EZCAPTCHA_MAX_TASKS?"
    assert result.log.count(said) == 1
    assert [page["status"] for page in result.pages] == [200]


@pytest.mark.parametrize(
    ("order", "neighbour"),
    [(540, "RetryMiddleware at 550"), (595, "HttpCompressionMiddleware at 590")],
)
def test_a_wrong_order_is_said_with_the_right_one(crawl, sandbox, order, neighbour):
    requests = [{"url": "http://shop.example/", "meta": via(sandbox)}]
    placed = {"DOWNLOADER_MIDDLEWARES": {"scrapy_ezcaptcha.EzCaptchaMiddleware": order}}
    result = crawl(sandbox, requests, settings=placed)
    assert f"EzCaptchaMiddleware at {order} and {neighbour}" in result.log
    assert "The right order is 585" in result.log


def test_the_right_order_is_nothing_to_speak_of(crawl, sandbox):
    requests = [{"url": "http://shop.example/", "meta": via(sandbox)}]
    assert "The right order" not in crawl(sandbox, requests).log


def test_without_a_reactor_it_says_so_and_stays_out(crawl, sandbox):
    settings = {"TWISTED_REACTOR_ENABLED": False}
    requests = [{"url": "http://shop.example/", "meta": via(sandbox)}]
    result = crawl(sandbox, requests, settings=settings)
    assert "[scrapy_ezcaptcha] INFO: Disabled: TWISTED_REACTOR_ENABLED is False" in result.log
    assert "Disabled EzCaptchaMiddleware" not in result.log  # Scrapy's own line is a warning
    assert sandbox.service.calls == {}
