"""Problems with the file of waiting requests lose no request, and never stop the crawl."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest
from support import items, wait_for, waiting_on_disk

from scrapy_ezcaptcha.crawl.journal import FILE_NAME
from scrapy_ezcaptcha.sandbox import Protection, Sandbox, Site

pytestmark = pytest.mark.unmeasured

# With Scrapy's default, only a few requests wait at once.
ALL_WAIT = {"SCHEDULER_PRIORITY_QUEUE": "scrapy.pqueues.ScrapyPriorityQueue"}


def got(result):
    """The numbers of the pages that came."""
    assert all(page["status"] == 200 for page in result.pages)
    return sorted(int(page["url"].rpartition("/")[2]) for page in result.pages)


def warnings(result):
    """What the log warns of about the journal."""
    assert "Traceback" not in result.log
    lines = result.log.splitlines()
    return [line for line in lines if "] WARNING: " in line and FILE_NAME in line]


@pytest.fixture
def site():
    with Sandbox([Site("shop.example", Protection())], latency=20) as sandbox:
        yield sandbox


@pytest.fixture
def job(tmp_path):
    folder = tmp_path / "job"
    folder.mkdir()
    return folder


def kill_while_waiting(crawl, sandbox, job, requests):
    """Kill a crawl of *requests* when all of them wait."""
    settings = {"JOBDIR": str(job), "EZCAPTCHA_STORE": "memory", **ALL_WAIT}
    crawling = crawl.begin(sandbox, requests, settings=settings, spider="ItemSpider")
    wait_for(lambda: waiting_on_disk(job) == len(requests))
    crawling.kill()
    sandbox.service.latency = 0.2


@pytest.mark.parametrize("name", [{"callback": "parse_item"}, {"errback": "item_failed"}])
def test_a_request_whose_callback_was_renamed_is_kept_and_the_others_are_sent(
    crawl, site, job, name
):
    kill_while_waiting(crawl, site, job, items(site, 1, 19) + items(site, 20, 20, **name))
    settings = {"JOBDIR": str(job)}
    renamed = crawl(site, items(site, 21, 21), settings=settings)
    assert got(renamed) == [*range(1, 20), 21]
    (line,) = warnings(renamed)
    assert "http://shop.example/item/20 (ValueError: Method" in line
    again = crawl(site, items(site, 22, 22), settings=settings)
    assert got(again) == [22]
    assert len(warnings(again)) == 1
    back = crawl(site, items(site, 23, 23), settings=settings, spider="ItemSpider")
    assert got(back) == [20, 23]
    assert warnings(back) == []
    assert list(job.glob(f"{FILE_NAME}*")) == []


def test_what_stays_unrestored_survives_a_further_kill(crawl, site, job):
    kill_while_waiting(crawl, site, job, items(site, 1, 1, callback="parse_item"))
    site.service.latency = 20
    crawling = crawl.begin(site, items(site, 2, 4), settings={"JOBDIR": str(job), **ALL_WAIT})
    wait_for(lambda: waiting_on_disk(job) == 4)
    crawling.kill()
    site.service.latency = 0.2
    for task in site.service.tasks.values():
        task.ready_at = 0.0
    back = crawl(site, items(site, 5, 5), settings={"JOBDIR": str(job)}, spider="ItemSpider")
    assert got(back) == [1, 2, 3, 4, 5]


def other_columns(path):
    with closing(sqlite3.connect(path)) as file:
        file.execute("CREATE TABLE waiting (request BLOB)")


def no_database(path):
    path.write_text("no journal " * 1000)


def cut(path):
    with closing(sqlite3.connect(path)) as file, file:
        file.execute("CREATE TABLE waiting (ticket TEXT PRIMARY KEY, request BLOB)")
        file.executemany(
            "INSERT INTO waiting VALUES (?, ?)", [(str(number), b"x" * 500) for number in range(99)]
        )
    path.write_bytes(path.read_bytes()[:-20_000])


@pytest.mark.parametrize("damage", [no_database, cut, other_columns])
def test_what_is_no_journal_is_set_aside(crawl, site, job, damage):
    site.service.latency = 0.2
    damage(job / FILE_NAME)
    before = (job / FILE_NAME).read_bytes()
    first, second = (
        crawl(site, items(site, run, run), settings={"JOBDIR": str(job)}) for run in (1, 2)
    )
    assert (got(first), got(second)) == ([1], [2])
    (line,) = warnings(first)
    assert f"it is now {FILE_NAME}.broken" in line
    assert warnings(second) == []
    assert [path.name for path in job.glob(f"{FILE_NAME}*")] == [f"{FILE_NAME}.broken"]
    aside = (job / f"{FILE_NAME}.broken").read_bytes()
    assert aside[100:] == before[100:]  # opening it may write its header


def test_on_a_full_disk_every_page_comes_once(crawl, site, job):
    site.service.latency = 1
    settings = {"JOBDIR": str(job), "EZCAPTCHA_STORE": "memory", "LOG_LEVEL": "INFO", **ALL_WAIT}
    requests = items(site, 1, 100, dont_filter=True)
    result = crawl(site, requests, settings=settings, file_limit=100_000)
    assert got(result) == [*range(1, 101)]
    assert result.errors == []
    (line,) = warnings(result)
    assert "continuing without it" in line
    assert list(job.glob(f"{FILE_NAME}*")) == []


def test_after_a_kill_on_a_full_disk_nothing_is_sent_twice(crawl, site, job):
    """Nothing is left that was written before and has been answered since."""
    settings = {"JOBDIR": str(job), "EZCAPTCHA_STORE": "memory", "LOG_LEVEL": "INFO", **ALL_WAIT}
    requests = items(site, 1, 100, dont_filter=True)
    crawling = crawl.begin(site, requests, settings=settings, file_limit=100_000)
    wait_for(lambda: "continuing without it" in crawling.log)
    crawling.kill()
    site.service.latency = 0.2
    result = crawl(site, items(site, 101, 101), settings={"JOBDIR": str(job)})
    assert got(result) == [101]
    assert warnings(result) == []
