from __future__ import annotations

import logging
import struct
from pathlib import Path

import pytest
import scrapy
from scrapy import Request
from scrapy.core.scheduler import Scheduler
from scrapy.utils.test import get_crawler

from scrapy_ezcaptcha.crawl.journal import FILE_NAME, Journal, remove_empty_files
from scrapy_ezcaptcha.crawl.memo import Memo
from scrapy_ezcaptcha.solving.replay import replay_of


class ShopSpider(scrapy.Spider):
    name = "shop"

    def parse(self, response):
        pass


SPIDER = ShopSpider()
LOG = logging.LoggerAdapter(logging.getLogger("scrapy_ezcaptcha"), {})


def request(number=1, **more):
    return Request(f"http://shop.example/{number}", SPIDER.parse, meta={"number": number}, **more)


def numbers(journal):
    return [request.meta["number"] for request in journal.left_behind()]


def test_who_waits_is_left_behind_by_a_process_that_dies(tmp_path):
    journal = Journal(tmp_path, SPIDER)
    for number in (1, 2, 3):
        journal.add(request(number, priority=number))
    after = Journal(tmp_path, SPIDER)  # the first one was never closed
    assert numbers(after) == [1, 2, 3]
    assert [request.priority for request in after.left_behind()] == [1, 2, 3]
    assert after.left_behind()[0].callback == SPIDER.parse
    after.clear()
    assert numbers(Journal(tmp_path, SPIDER)) == []


def test_who_reached_the_downloader_waits_no_more_be_it_by_a_replay(tmp_path):
    journal = Journal(tmp_path, SPIDER)
    waiting = [request(number) for number in (1, 2, 3)]
    for each in waiting:
        journal.add(each)
    journal.remove(waiting[0])
    journal.remove(replay_of(waiting[1], Memo.on(waiting[1])))
    assert numbers(journal) == [3]
    journal.remove(waiting[0])
    assert numbers(journal) == [3]


def test_who_waits_again_stands_there_once(tmp_path):
    journal = Journal(tmp_path, SPIDER)
    waiting = request()
    journal.add(waiting)
    journal.add(waiting)
    assert numbers(journal) == [1]


def test_what_cannot_be_written_is_left_out(tmp_path):
    journal = Journal(tmp_path, SPIDER)
    journal.add(Request("http://shop.example/", lambda response: None))
    journal.add(Request("http://shop.example/", meta={"odd": lambda: None}))
    assert journal.left_behind() == []


def test_a_clean_end_leaves_nothing(tmp_path):
    journal = Journal(tmp_path, SPIDER)
    journal.add(request())
    assert (tmp_path / FILE_NAME).stat().st_mode & 0o777 == 0o600
    journal.close()
    assert list(tmp_path.iterdir()) == []


def test_without_jobdir_there_is_none(tmp_path):
    crawler = get_crawler()
    assert Journal.of(crawler, LOG) is None


def test_a_job_with_files_that_a_kill_left_empty_opens_again(tmp_path):
    settings = {
        "JOBDIR": str(tmp_path),
        "SCHEDULER_PRIORITY_QUEUE": "scrapy.pqueues.ScrapyPriorityQueue",
    }
    crawler = get_crawler(settings_dict=settings)
    queue = tmp_path / "requests.queue"
    (queue / "0s").mkdir(parents=True)
    (queue / "active.json").write_text("[0, -1]")
    (queue / "-1").write_bytes(b"\0\0\0\0")
    for name in ("0", "0s/info.json"):  # a queue of links, one of start requests
        (queue / name).touch()
        with pytest.raises((struct.error, ValueError)):
            Scheduler.from_crawler(crawler).open(SPIDER)
        remove_empty_files(crawler.settings, LOG)
    scheduler = Scheduler.from_crawler(crawler)
    scheduler.open(SPIDER)
    assert not scheduler.has_pending_requests()


def test_without_a_job_nothing_is_looked_for():
    remove_empty_files(get_crawler().settings, LOG)
    assert not Path("requests.queue").exists()
