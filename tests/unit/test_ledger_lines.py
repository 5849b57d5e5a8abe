"""The ledger: what is written, what is read, and what survives a killed process or a full disk."""

from __future__ import annotations

import json
import logging
from dataclasses import replace

import pytest
from fakes import LOG, Stats
from hypothesis import given
from hypothesis import strategies as st
from ledger_writer import write_many
from scrapy import Request
from support import FORKSERVER, PATIENCE

from scrapy_ezcaptcha import SolveTimeout, TransportError
from scrapy_ezcaptcha.clearances.clearance import Clearance
from scrapy_ezcaptcha.clearances.known import BODY, FIRST
from scrapy_ezcaptcha.crawl.memo import location_of
from scrapy_ezcaptcha.crawl.target import Options, Target
from scrapy_ezcaptcha.errors import ConfigurationError
from scrapy_ezcaptcha.exit import Exit
from scrapy_ezcaptcha.solving.entries import Entry, open_paths, pages_path, read_ledger
from scrapy_ezcaptcha.solving.ledger import Ledger
from scrapy_ezcaptcha.solving.ledger_file import LedgerFile
from scrapy_ezcaptcha.solving.zones import Zones

EXIT = Exit.parse("http://user:password@proxy.example:1")
START = 1_800_000_000.0

numbers = st.none() | st.floats(0, 1e6).map(lambda value: round(value, 3))
entries = st.builds(
    Entry,
    task=st.text(),
    time=st.integers(0, 10**12).map(lambda value: value / 1000),
    zone=st.text(),
    host=st.text(),
    exit=st.text(),
    reason=st.text(min_size=1),
    outcome=st.none() | st.text(),
    seconds=numbers,
    pages=st.integers(0, 10**9),
    lifetime=numbers,
    points=numbers,
)


def entry(task="task1", **fields):
    given = {"zone": "shop.example", "host": "shop.example", "exit": "proxy.example:1"}
    given |= {"time": START, "reason": "first_challenge", "outcome": "ready", "seconds": 5.0}
    return Entry(task, **{**given, **fields})


def target(url="http://shop.example/"):
    request = Request(url)
    return Target(request, location_of(request), EXIT, EXIT, Options())


def clearance(task="task1", created=START):
    return Clearance("shop.example", "shop.example", EXIT, task, {}, {}, created=created)


class Now:
    """A clock that the test sets."""

    def __init__(self):
        self.seconds = START

    def __call__(self):
        return self.seconds


@pytest.fixture
def now():
    return Now()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "ledger.jsonl"


@pytest.fixture
def opened(path, now):
    """Opens the ledger, as each crawl does."""

    def opened(**options):
        file = LedgerFile(path, LOG, now)
        return Ledger(Stats(), LOG, file, lambda: 20.0, clock=now, **options)

    return opened


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


class TestLines:
    @given(entries)
    def test_what_is_written_is_read(self, one):
        assert vars(Entry.parse(one.line().decode())) == vars(one)

    @given(entries, st.data())
    def test_a_line_behind_a_torn_one_is_read(self, one, data):
        line = one.line()
        torn = data.draw(st.integers(0, len(line) - 1))
        read = Entry.parse((line[:torn] + line).decode())
        assert read.task == one.task

    @given(st.text() | st.sampled_from(["{}", "[]", "1", "null", '{"task": 1}', '{"task": "1"}']))
    def test_what_is_no_line_is_refused(self, text):
        with pytest.raises(ValueError, match=r".*"):
            Entry.parse(text)

    def test_fields_of_a_wrong_type_are_refused(self):
        for field in ("task", "time", "zone", "reason", "pages", "seconds"):
            values = json.loads(entry().line()) | {field: ["odd"]}
            with pytest.raises(ValueError, match="another type"):
                Entry.parse(json.dumps(values))


class TestReading:
    def test_a_task_counts_once_whoever_wrote_of_it(self, path):
        both = [entry(outcome="unfinished", seconds=None), entry(pages=3)]
        path.write_bytes(b"\n".join(one.line() for one in [*both, both[0], entry("task2")]))
        first, second = read_ledger(path).tasks
        assert (first.task, first.outcome, first.pages, second.task) == (
            "task1",
            "ready",
            3,
            "task2",
        )

    def test_pages_in_other_processes_are_added(self, path):
        path.write_bytes(entry(pages=3).line())
        later = [entry(reason="", pages=4, lifetime=60.0), entry("unknown", reason="", pages=5)]
        pages_path(path).write_bytes(b"\n".join(one.line() for one in later))
        contents = read_ledger(path)
        (task,) = contents.tasks
        assert (task.pages, task.lifetime, contents.other_pages) == (7, 60.0, 5)

    def test_lines_that_cannot_be_read_are_counted(self, path):
        path.write_bytes(
            b"\n\nodd\n\xff\xfe\n" + entry().line()[:-5] + b"\n" + entry("task2").line()
        )
        contents = read_ledger(path)
        assert ([task.task for task in contents.tasks], contents.unreadable) == (["task2"], 3)

    def test_open_tasks_count_as_they_are_known(self, path, opened):
        ledger = opened()
        ledger.created("task1", target(), FIRST)
        ledger.created("task2", target(), FIRST)
        ledger.ready("task2", target(), 4.0)
        assert path.read_bytes() == b""
        assert {task.task: task.outcome for task in read_ledger(path).tasks} == {
            "task1": "unfinished",
            "task2": "ready",
        }


class TestWriting:
    def test_a_clearance_that_is_rejected_ends_its_task(self, path, opened, now):
        ledger = opened()
        ledger.created("task1", target("http://www.shop.example/"), FIRST)
        now.seconds += 5
        ledger.ready("task1", target(), 5.0)
        ledger.served(clearance())
        now.seconds += 60
        ledger.rejected("task1")
        ledger.served(clearance())  # was under way
        assert lines(path) == []
        now.seconds += 30
        ledger.served(clearance("task0"))
        (line,) = lines(path)
        assert line == {
            "task": "task1",
            "time": "2027-01-15T08:00:00.000Z",
            "zone": "shop.example",
            "host": "www.shop.example",
            "exit": EXIT.label,
            "reason": "first_challenge",
            "outcome": "ready",
            "seconds": 5.0,
            "pages": 2,
            "lifetime": 60.0,
            "points": 20.0,
        }
        ledger.close()
        assert len(lines(path)) == 1
        assert open_paths(path) == []

    def test_a_lifetime_begins_with_the_result_however_long_the_creation_took(
        self, path, opened, now
    ):
        ledger = opened()
        ledger.created("task1", target(), FIRST)
        now.seconds += 5
        ledger.ready("task1", target(), 7.0)  # two of them before the task was there
        now.seconds += 1
        ledger.rejected("task1")
        ledger.close()
        (line,) = lines(path)
        assert (line["seconds"], line["lifetime"]) == (7.0, 1.0)

    def test_pages_after_the_line_was_written_are_not_lost(self, path, opened, now):
        ledger = opened()
        ledger.created("task1", target(), FIRST)
        ledger.ready("task1", target(), 5.0)
        ledger.served(clearance())
        ledger.rejected("task1")
        now.seconds += 60
        ledger.served(clearance("task0"))
        assert len(lines(path)) == 1
        ledger.served(clearance())
        ledger.close()
        assert (len(lines(path)), read_ledger(path).tasks[0].pages) == (1, 2)

    def test_a_task_whose_page_alone_was_wanted_ends_with_it(self, path, opened, now):
        ledger = opened()
        ledger.created("task1", wanted := target(), BODY)
        ledger.ready("task1", wanted, 5.0)
        ledger.answered(wanted.request)
        now.seconds += 60
        ledger.created("task2", target(), BODY)
        assert [(line["task"], line["pages"]) for line in lines(path)] == [("task1", 1)]

    def test_unless_its_clearance_is_used(self, path, opened, now):
        ledger = opened()
        ledger.created("task1", target(), BODY)
        ledger.ready("task1", target(), 5.0)
        ledger.served(clearance())
        now.seconds += 60
        ledger.served(clearance())
        assert lines(path) == []

    def test_more_open_tasks_than_are_kept(self, path, opened, now, monkeypatch):
        monkeypatch.setattr("scrapy_ezcaptcha.solving.ledger._MAX_OPEN", 2)
        ledger = opened()
        for number in range(4):
            ledger.created(f"task{number}", target(), FIRST)
            if number:
                ledger.ready(f"task{number}", target(), 5.0)
        now.seconds += 60
        ledger.served(clearance("task1"))
        assert [line["task"] for line in lines(path)] == ["task2", "task3"]

    def test_a_failure_ends_a_task_and_a_timeout_does_not(self, path, opened, now):
        ledger = opened()
        for number, error in enumerate([SolveTimeout(5), TransportError("cut", sent=True)]):
            ledger.created(f"task{number}", target(), FIRST)
            ledger.failed(f"task{number}", error)
        ledger.failed(None, TransportError("refused", sent=False))
        now.seconds += 60
        ledger.created("task2", target(), FIRST)
        assert [(line["task"], line["outcome"]) for line in lines(path)] == [
            ("task1", "TRANSPORT_ERROR")
        ]
        ledger.close()
        assert sorted((line["task"], line["outcome"]) for line in lines(path)) == [
            ("task0", "SOLVE_TIMEOUT"),
            ("task1", "TRANSPORT_ERROR"),
            ("task2", "unfinished"),
        ]

    def test_a_line_that_cannot_be_written_is_written_later(self, path, opened, now, caplog):
        ledger = opened()
        real, ledger._file._file = ledger._file._file, Full()
        for number in range(2):
            ledger.created(f"task{number}", target(), FIRST)
            ledger.failed(f"task{number}", TransportError("cut", sent=True))
        now.seconds += 60
        with caplog.at_level(logging.WARNING):
            ledger.created("task2", target(), FIRST)
        (record,) = caplog.records
        said = f"The ledger {path} cannot be written: No space left on device. The crawl continues"
        assert record.getMessage().startswith(said)
        ledger._file._file = real
        ledger.close()
        assert len(lines(path)) == 3

    def test_what_cannot_be_written_at_the_end_is_left_for_the_next(self, path, opened):
        ledger = opened()
        ledger.created("task1", target(), FIRST)
        ledger._file._file = Full()
        ledger.close()
        assert lines(path) == []
        opened(keeps_tasks=False)
        assert [line["task"] for line in lines(path)] == ["task1"]

    def test_a_torn_end_does_not_spoil_the_next_line(self, path, opened):
        path.write_bytes(entry("task0").line() + b"\n" + entry("torn").line()[:20])
        ledger = opened()
        ledger.created("task1", target(), FIRST)
        ledger.close()
        first, torn, last = path.read_text().splitlines()
        assert (json.loads(first)["task"], json.loads(last)["task"]) == ("task0", "task1")
        assert torn == entry("torn").line()[:20].decode()

    @pytest.mark.parametrize("name", ["", "missing/ledger.jsonl"])
    def test_where_no_file_can_be_is_said(self, tmp_path, name):
        said = r"EZCAPTCHA_LEDGER is '.*', but this file cannot be"
        with pytest.raises(ConfigurationError, match=said):
            LedgerFile(tmp_path / name, LOG)

    def test_no_line_of_four_processes_is_lost_or_torn(self, path):
        writers = [FORKSERVER.Process(target=write_many, args=(path, n)) for n in range(4)]
        for writer in writers:
            writer.start()
        for writer in writers:
            writer.join(PATIENCE)
        assert [writer.exitcode for writer in writers] == [0] * 4
        assert sorted(line["task"] for line in lines(path)) == sorted(
            f"task{writer}-{number}" for writer in range(4) for number in range(500)
        )


class Full:
    """A file on a full disk."""

    def write(self, data):
        raise OSError(28, "No space left on device")

    def close(self):
        pass


class TestAfterAKill:
    def kill(self, ledger):
        """Let go of its files as the system does when a process dies."""
        ledger._file.close()

    def test_what_is_known_of_each_task_is_written_by_the_next_crawl(self, path, opened, now):
        killed = opened()
        killed.created("task1", target(), FIRST)
        killed.ready("task1", target(), 5.0)
        killed.served(clearance())
        now.seconds += 60
        killed.served(clearance())  # this is noted
        killed.served(clearance())  # this is not
        killed.served(clearance("shared", created=START - 100))
        self.kill(killed)
        (beside,) = open_paths(path)
        opened()
        (line,) = lines(path)
        assert (line["task"], line["outcome"], line["pages"]) == ("task1", "ready", 2)
        assert not beside.exists()

    def test_pages_of_shared_clearances_are_written_too(self, path, opened, now):
        killed = opened()
        killed.created("task1", target(), FIRST)
        killed.served(clearance("shared"))
        now.seconds += 60
        killed.served(clearance("shared"))
        self.kill(killed)
        now.seconds += 600
        opened()
        assert [line["task"] for line in lines(path)] == ["task1"]
        assert read_ledger(path).other_pages == 2

    def test_a_crawl_that_runs_is_left_alone(self, path, opened, now):
        running = opened()
        running.created("task1", target(), FIRST)
        now.seconds += 3600
        opened()
        assert lines(path) == []
        running.close()
        assert [line["outcome"] for line in lines(path)] == ["unfinished"]

    def test_also_after_its_file_was_written_anew(self, path, opened, now):
        running = opened()
        running.created("task1", target(), FIRST)
        running.ready("task1", target(), 5.0)
        now.seconds += 3600
        running.served(clearance())
        opened()
        assert lines(path) == []

    def test_a_task_that_may_be_continued_waits_for_that(self, path, opened, now):
        killed = opened()
        killed.created("task1", target(), FIRST)
        killed.created("task2", target(), FIRST)
        self.kill(killed)
        now.seconds += 200
        nexts = [opened(), opened()]
        assert lines(path) == []
        nexts[1].continued("task1", target())
        nexts[1].ready("task1", target(), 2.0)
        for one in nexts:
            one.close()
        (line,) = lines(path)
        assert (line["task"], line["reason"], line["seconds"]) == ("task1", "first_challenge", 200)
        now.seconds += 200
        opened()
        assert [(line["task"], line["outcome"]) for line in lines(path)] == [
            ("task1", "ready"),
            ("task2", "unfinished"),
        ]
        assert open_paths(path) == []

    def test_a_task_that_the_next_run_may_continue_is_left_to_it(self, path, opened):
        ledger = opened(keeps_tasks=True)
        ledger.created("task1", target(), FIRST)
        ledger.close()
        assert lines(path) == []
        resumed = opened(keeps_tasks=True)
        resumed.continued("task1", target())
        resumed.failed("task1", TransportError("gone", sent=True))
        resumed.close()
        assert [(line["task"], line["outcome"]) for line in lines(path)] == [
            ("task1", "TRANSPORT_ERROR")
        ]

    def test_a_task_continued_before_its_crawl_has_ended_is_written_once(self, path, opened, now):
        ending, other = opened(keeps_tasks=True), opened(keeps_tasks=True)
        ending.created("task1", target("http://www.shop.example/"), FIRST)
        now.seconds += 10
        other.continued("task1", target())
        other.ready("task1", target(), 2.0)
        ending.close()
        other.close()
        (line,) = lines(path)
        assert (line["reason"], line["host"]) == ("first_challenge", "www.shop.example")
        now.seconds += 600
        opened()
        assert (len(lines(path)), open_paths(path)) == (1, [])

    def test_a_task_of_another_ledger_has_a_line_here_too(self, path, opened):
        ledger = opened()
        ledger.continued("task1", target())
        ledger.ready("task1", target(), 2.0)
        ledger.close()
        assert [(line["task"], line["reason"]) for line in lines(path)] == [("task1", "continued")]

    def test_a_task_that_is_written_already_is_not_written_again(self, path, opened):
        killed = opened()
        killed.created("task1", target(), FIRST)
        killed.failed("task1", TransportError("cut", sent=True))
        path.write_bytes(replace(entry(), outcome="TRANSPORT_ERROR").line() + b"\n")
        self.kill(killed)
        opened()
        assert (len(lines(path)), open_paths(path)) == (1, [])


class TestZones:
    def test_a_row_for_each_zone_those_with_most_tasks_first(self):
        zones = Zones()
        zones.of("b.example").tasks += 1
        zones.of("b.example").given_up["MAX_TASKS"] = 1200
        zones.of("a.example").tasks += 2
        zones.of("a.example").given_up.update(["STOPPED", "STOPPED", "MAX_TASKS"])
        zones.of("a.example").seconds += 1234.56
        assert zones.table() == (
            "zone       challenges  tasks  solved  pages  seconds  given up\n"
            "a.example           0      2       0      0  1,234.6  3 (2 x STOPPED, 1 x MAX_TASKS)\n"
            "b.example           0      1       0      0      0.0  1,200 (MAX_TASKS)"
        )

    def test_no_table_where_nothing_happened(self):
        assert Zones().table() is None

    def test_zones_beyond_twenty_are_summed_up(self, monkeypatch):
        monkeypatch.setattr("scrapy_ezcaptcha.solving.zones._MAX_ZONES", 50)
        zones = Zones()
        for number in range(60):
            zones.of(f"{number}.example").pages += 2
        rows = zones.table().splitlines()
        assert len(rows) == 22
        assert rows[-1].split() == [
            "30",
            "or",
            "more",
            "other",
            "zones",
            "0",
            "0",
            "0",
            "80",
            "0.0",
            "0",
        ]
