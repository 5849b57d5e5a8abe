from __future__ import annotations

import logging
import pickle
import resource
import sqlite3
import struct
from contextlib import closing, contextmanager
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


class ItemSpider(ShopSpider):
    def parse_item(self, response):
        pass

    def item_failed(self, failure):
        pass


SPIDER = ShopSpider()
FORMER = ItemSpider()  # the same spider, before its callbacks were renamed
LOG = logging.LoggerAdapter(logging.getLogger("scrapy_ezcaptcha"), {})


def request(number=1, **more):
    return Request(f"http://shop.example/{number}", SPIDER.parse, meta={"number": number}, **more)


def numbers(journal):
    return [request.meta["number"] for request in journal.left_behind()]


def kill_with(folder, *requests):
    """Leave *requests* behind, as a process that is killed."""
    journal = Journal(folder, FORMER)
    for each in requests:
        journal.add(each)


def write_row(folder, record):
    with closing(sqlite3.connect(folder / FILE_NAME)) as file, file:
        file.execute("INSERT INTO waiting VALUES ('t', ?)", (record,))


def run(folder, spider=SPIDER):
    """The numbers of the requests that a run sends, which then ends."""
    journal = Journal(folder, spider)
    sent = numbers(journal)
    journal.clear()
    journal.add(request(99))
    journal.close()
    return sent


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def warnings(caplog):
    return [entry.getMessage() for entry in caplog.records if entry.levelname == "WARNING"]


@contextmanager
def full_disk():
    """Let no file grow."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1, hard))  # Python ignores SIGXFSZ
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_killed_process_leaves_its_waiting_requests(tmp_path):
    journal = Journal(tmp_path, SPIDER)
    for number in (1, 2, 3):
        journal.add(request(number, priority=number))
    after = Journal(tmp_path, SPIDER)  # the first one was never closed
    assert numbers(after) == [1, 2, 3]
    assert [request.priority for request in after.left_behind()] == [1, 2, 3]
    assert after.left_behind()[0].callback == SPIDER.parse
    after.clear()
    assert numbers(Journal(tmp_path, SPIDER)) == []


def test_a_request_that_reached_the_downloader_no_longer_waits_even_as_a_replay(tmp_path):
    journal = Journal(tmp_path, SPIDER)
    waiting = [request(number) for number in (1, 2, 3)]
    for each in waiting:
        journal.add(each)
    journal.remove(waiting[0])
    journal.remove(replay_of(waiting[1], Memo.on(waiting[1])))
    assert numbers(journal) == [3]
    journal.remove(waiting[0])
    assert numbers(journal) == [3]


def test_a_request_that_waits_again_is_in_the_journal_once(tmp_path):
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


@pytest.mark.parametrize("method", ["callback", "errback"])
def test_a_request_whose_callback_is_gone_is_sent_by_a_run_that_has_it_again(
    tmp_path, caplog, method
):
    gone = {"callback": "parse_item", "errback": "item_failed"}[method]
    kill_with(tmp_path, request(1), request(2).replace(**{method: getattr(FORMER, gone)}))
    assert run(tmp_path) == [1]
    assert run(tmp_path) == []
    first, second = warnings(caplog)
    assert first == second
    assert f"http://shop.example/2 (ValueError: Method '{gone}' not found" in first
    assert run(tmp_path, FORMER) == [2]
    assert names(tmp_path) == []


def test_what_is_kept_is_named_without_credentials_and_not_all_of_it(tmp_path, caplog):
    Journal(tmp_path, SPIDER)
    kill_with(
        tmp_path,
        *(
            Request(f"http://user:secret@shop.example/{number}", FORMER.parse_item)
            for number in range(30)
        ),
    )
    assert run(tmp_path) == []
    (line,) = warnings(caplog)
    assert line.startswith("30 requests ")
    assert line.count("http://shop.example/") == 10
    assert line.endswith("; and 20 more")
    assert "secret" not in line


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (b"no pickle", "a request (UnpicklingError"),
        (b"", "a request (EOFError"),
        (None, "a request (TypeError"),
        (b"cno_module\nRequest\n.", "a request (ModuleNotFoundError"),
        (pickle.dumps([]), "a request (TypeError"),
        (pickle.dumps({"url": 5}), "a request (AttributeError"),
        (
            pickle.dumps({"url": "http://a:pw@x.example/", "_class": "shop.Gone"}),
            "http://x.example/ (ModuleNotFoundError: No module named 'shop'",
        ),
        (
            pickle.dumps({"url": "//a:pw@x.example/"}),
            "//x.example/ (ValueError: Missing scheme in request url: //x.example/)",
        ),
    ],
)
def test_a_record_that_makes_no_request_is_kept_too(tmp_path, caplog, record, reason):
    kill_with(tmp_path, request(1))
    write_row(tmp_path, record)
    assert run(tmp_path) == [1]
    (line,) = warnings(caplog)
    assert reason in line
    assert "pw" not in line
    assert FILE_NAME in names(tmp_path)


def test_a_run_that_ends_before_it_sends_what_was_left_behind_leaves_it_there(tmp_path):
    kill_with(tmp_path, request(1))
    Journal(tmp_path, SPIDER).close()
    assert run(tmp_path) == [1]


def test_a_file_that_is_no_journal_is_renamed_each_time_to_a_free_name(tmp_path, caplog):
    for _ in range(2):
        (tmp_path / FILE_NAME).write_text("no database" * 100)
        (tmp_path / f"{FILE_NAME}-wal").write_text("nor this")
        assert run(tmp_path) == []
    assert warnings(caplog) == [
        f"{FILE_NAME} is broken (file is not a database); it is now {FILE_NAME}.broken{number}"
        for number in ("", "2")
    ]
    assert (tmp_path / f"{FILE_NAME}.broken").read_text() == "no database" * 100
    assert FILE_NAME not in names(tmp_path)


def test_a_journal_with_a_damaged_page_is_renamed(tmp_path, caplog):
    with closing(sqlite3.connect(tmp_path / FILE_NAME)) as file, file:
        file.execute("CREATE TABLE waiting (ticket TEXT PRIMARY KEY, request BLOB)")
        file.execute("INSERT INTO waiting VALUES ('t', NULL)")
    with (tmp_path / FILE_NAME).open("r+b") as file:
        file.seek(2 * 4096 + 3)  # the third page is the index of the tickets
        file.write(b"\0\0")  # which now says that it is empty
    assert run(tmp_path) == []
    (line,) = warnings(caplog)
    assert "is broken (" in line
    assert f"{FILE_NAME}.broken" in names(tmp_path)


def test_a_journal_that_cannot_be_read_is_renamed_with_what_was_left_behind(tmp_path, caplog):
    kill_with(tmp_path, request(1))
    journal = Journal(tmp_path, SPIDER)
    with closing(sqlite3.connect(tmp_path / FILE_NAME)) as file:
        file.execute("ALTER TABLE waiting RENAME TO other")
    assert journal.left_behind() == []
    journal.clear()
    journal.close()
    (line,) = warnings(caplog)
    assert line.endswith(f"it is now {FILE_NAME}.broken")
    assert f"{FILE_NAME}.broken" in names(tmp_path)


def test_a_journal_with_other_columns_is_renamed_with_all_that_is_in_it(tmp_path, caplog):
    with closing(sqlite3.connect(tmp_path / FILE_NAME)) as file, file:
        file.execute("CREATE TABLE waiting (request BLOB, url TEXT)")
        file.execute("INSERT INTO waiting VALUES (NULL, 'http://shop.example/')")
    assert run(tmp_path) == []
    (line,) = warnings(caplog)
    assert "its table has the columns request, url" in line
    with closing(sqlite3.connect(tmp_path / f"{FILE_NAME}.broken")) as file:
        assert file.execute("SELECT url FROM waiting").fetchall() == [("http://shop.example/",)]


def test_a_file_that_cannot_be_opened_stays(tmp_path, caplog):
    (tmp_path / FILE_NAME).mkdir()
    crawler = get_crawler(ShopSpider, settings_dict={"JOBDIR": str(tmp_path)})
    crawler.spider = SPIDER
    assert Journal.of(crawler, LOG) is None
    (line,) = warnings(caplog)
    assert "cannot be opened" in line
    assert names(tmp_path) == [FILE_NAME]


@pytest.mark.parametrize("call", ["add", "remove", "clear"])
def test_on_a_full_disk_the_journal_is_given_up_once(tmp_path, caplog, call):
    kill_with(tmp_path, request(1))
    journal, waits = Journal(tmp_path, SPIDER), request(2)
    journal.add(waits)
    assert numbers(journal) == [1, 2]
    with full_disk():
        journal.clear() if call == "clear" else getattr(journal, call)(waits)
    (line,) = warnings(caplog)
    assert "continuing without it" in line
    assert line.endswith("it is removed")
    assert names(tmp_path) == []
    journal.add(waits)
    journal.remove(waits)
    journal.clear()
    assert journal.left_behind() == []
    journal.close()
    assert len(warnings(caplog)) == 1
    assert names(tmp_path) == []


def test_on_a_full_disk_requests_of_a_killed_run_are_still_sent(tmp_path):
    kill_with(tmp_path, request(1))
    journal = Journal(tmp_path, SPIDER)
    with full_disk():
        assert numbers(journal) == [1]
        journal.clear()
    assert run(tmp_path) == []


def test_on_a_full_disk_what_cannot_be_restored_stays_under_another_name(tmp_path, caplog):
    kill_with(tmp_path, request(1).replace(callback=FORMER.parse_item))
    journal = Journal(tmp_path, SPIDER)
    assert journal.left_behind() == []
    journal.clear()
    with full_disk():
        journal.add(request(2))
    journal.close()
    assert warnings(caplog)[1].endswith(f"it is now {FILE_NAME}.broken")
    assert FILE_NAME not in names(tmp_path)
    for path in list(tmp_path.iterdir()):
        path.rename(tmp_path / path.name.replace(".broken", ""))
    assert run(tmp_path, FORMER) == [1]


def test_a_file_that_cannot_even_be_removed_is_a_warning(tmp_path, caplog, monkeypatch):
    def refuse(self, missing_ok=False):
        raise PermissionError("not yours")

    failing, ending = (Journal(tmp_path, SPIDER) for _ in range(2))
    monkeypatch.setattr(Path, "unlink", refuse)
    ending.close()
    with full_disk():
        failing.add(request())
    assert all("remove it before the next run" in line for line in warnings(caplog))
    assert len(warnings(caplog)) == 2


def test_without_jobdir_there_is_none(tmp_path):
    crawler = get_crawler()
    assert Journal.of(crawler, LOG) is None


def test_a_job_opens_again_after_a_kill_left_empty_files(tmp_path):
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
