"""Spiders of every kind, and other ways to download than a spider's requests."""

from __future__ import annotations

from collections import Counter

import pytest
from support import clean_environment, run_command, via

from scrapy_ezcaptcha.sandbox import Protection, Sandbox, Site

pytestmark = pytest.mark.unmeasured

TRANSPARENT = {"EZCAPTCHA_TRANSPARENT_MODE": True}


def test_links_followed_from_a_solved_page_are_solved_too(crawl, sandbox):
    start = [{"url": "http://shop.example/", "meta": via(sandbox)}]
    result = crawl(sandbox, start, follow="item")
    assert Counter(page["status"] for page in result.pages) == {200: 31}
    assert len(sandbox.service.tasks) == 1


def test_links_followed_by_rules(crawl, sandbox):
    start = [{"url": "http://shop.example/"}]
    env = {"http_proxy": sandbox.proxy_url()}
    result = crawl(sandbox, start, settings=TRANSPARENT, env=env, spider="RuleSpider")
    assert Counter(page["status"] for page in result.pages) == {200: 30}
    assert len(sandbox.service.tasks) == 1


def test_downloads_from_within_a_callback(crawl, sandbox):
    start = [{"url": "http://open.example/", "meta": via(sandbox)}]
    downloads = [f"http://shop.example/item/{number}" for number in range(1, 4)]
    result = crawl(sandbox, start, spider="DownloadingSpider", downloads=downloads)
    assert [page["status"] for page in result.pages] == [200] * 4
    assert [page["url"] for page in result.pages][1:] == downloads
    assert len(sandbox.service.tasks) == 1


@pytest.mark.parametrize("pipeline", ["files.FilesPipeline", "images.ImagesPipeline"])
def test_media_of_a_protected_site(crawl, sandbox, tmp_path, pipeline):
    """Also where only the pictures' host is protected and nothing before it was challenged."""
    start = [{"url": f"http://shop.example/item/{number}"} for number in range(1, 6)]
    settings = {
        **TRANSPARENT,
        "ITEM_PIPELINES": {f"scrapy.pipelines.{pipeline}": 1},
        "FILES_STORE": str(tmp_path / "store"),
        "IMAGES_STORE": str(tmp_path / "store"),
    }
    env = {"http_proxy": sandbox.proxy_url()}
    result = crawl(sandbox, start, settings=settings, env=env, spider="MediaSpider")
    assert [page["status"] for page in result.pages] == [200] * 5
    assert result.stats["file_status_count/downloaded"] == 5
    assert len([path for path in (tmp_path / "store").rglob("*") if path.is_file()]) == 5
    assert len(sandbox.service.tasks) == 1


def test_several_crawlers_in_one_process_have_their_own_limits_and_clearances(crawl, sandbox):
    start = [
        {"url": f"http://shop.example/item/{number}", "meta": via(sandbox)}
        for number in range(1, 11)
    ]
    others = [{"EZCAPTCHA_MAX_ATTEMPTS": 1}, {"EZCAPTCHA_ENABLED": False}]
    result = crawl(sandbox, start, crawlers=others)
    by_crawler = Counter((page["crawler"], page["status"]) for page in result.pages)
    assert by_crawler == {(0, 200): 10, (1, 200): 10, (2, 403): 10}
    tasks = [stats.get("ezcaptcha/tasks/created") for stats in result.stats_of_each]
    assert tasks == [1, 1, None]
    assert len(sandbox.service.tasks) == 2


def test_the_signals_tell_every_challenge_and_how_it_ended(crawl, sandbox):
    """Handlers may be coroutines."""
    urls = ("http://shop.example/item/1", "http://bots.example/item/1")
    requests = [
        {"url": urls[0], "meta": via(sandbox)},
        {"url": urls[1], "meta": {"ezcaptcha": True, "proxy": "http://no-password.example:1"}},
    ]
    requests[1]["url"] = f"{sandbox.direct_url}/item/1"
    requests[1]["meta"] = {"ezcaptcha": True}
    result = crawl(sandbox, requests)
    said = {tuple(entry[:3]) for entry in result.signals}
    assert said == {
        ("detected", urls[0], 403),
        ("solved", urls[0], 403),
        ("detected", f"{sandbox.direct_url}/item/1", 403),
        ("failed", f"{sandbox.direct_url}/item/1", 403),
    }
    details = {entry[0]: entry[3] for entry in result.signals}
    assert details["detected"] == "cf-mitigated header"
    assert details["failed"].startswith("EXIT: the request has no proxy")
    assert {entry[4] for entry in result.signals} == {"plan"}


@pytest.fixture
def scrapy_here(tmp_path):
    """Runs a command of Scrapy outside of any project."""

    def run(sandbox, *arguments, **settings):
        given = {"DOWNLOADER_MIDDLEWARES": '{"scrapy_ezcaptcha.EzCaptchaMiddleware": 585}'}
        given |= {"EZCAPTCHA_TRANSPARENT_MODE": "True"} | settings
        options = [part for name, value in given.items() for part in ("-s", f"{name}={value}")]
        done = run_command(
            [*arguments, *sandbox.arguments(), *options],
            env=clean_environment(**sandbox.environment()),
            cwd=tmp_path,
        )
        assert done.returncode == 0, done.stderr
        return done

    return run


def test_scrapy_fetch_prints_the_page(scrapy_here, sandbox):
    done = scrapy_here(sandbox, "fetch", "http://shop.example/item/1")
    assert "<h1>Item 1</h1>" in done.stdout
    assert len(sandbox.service.tasks) == 1


def test_scrapy_shell_has_the_page(scrapy_here, sandbox):
    code = "print(response.status, response.css('h1::text').get(), response.flags)"
    done = scrapy_here(sandbox, "shell", "http://shop.example/item/1", "-c", code)
    assert "200 Item 1 ['ezcaptcha']" in done.stdout
    assert len(sandbox.service.tasks) == 1


def test_a_second_fetch_in_the_shell_needs_no_second_task(scrapy_here, sandbox):
    code = "[fetch('http://shop.example/item/2'), response.css('h1::text').get()]"
    done = scrapy_here(sandbox, "shell", "http://shop.example/item/1", "-c", code)
    assert "Item 2" in done.stdout
    assert len(sandbox.service.tasks) == 1


def test_clearances_of_one_crawler_are_unknown_to_another(crawl):
    """Two exits and two crawlers: four clearances, none used by the wrong one."""
    with Sandbox([Site("shop.example", Protection())], latency=0.2) as sandbox:
        start = [
            {"url": f"http://shop.example/item/{number}", "meta": via(sandbox, f"exit{number % 2}")}
            for number in range(1, 21)
        ]
        result = crawl(sandbox, start, crawlers=[{}])
    assert Counter(page["status"] for page in result.pages) == {200: 40}
    assert len(sandbox.service.tasks) == 4
    assert "rejected" not in sandbox.report()["hosts"]["shop.example"]
