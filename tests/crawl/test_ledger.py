"""The ledger tells where the money went: one line for each paid task."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from support import forms, items, solve, via, wait_for

from scrapy_ezcaptcha.exit import Exit
from scrapy_ezcaptcha.sandbox import Fault, Protection, Sandbox, Site
from scrapy_ezcaptcha.solving.entries import open_paths, pages_path, read_ledger

pytestmark = pytest.mark.unmeasured

SHOP = [Site("shop.example", Protection())]


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "ledger.jsonl"


@pytest.fixture
def settings(path):
    return {"EZCAPTCHA_LEDGER": str(path)}


def lines(path, after=0):
    """The ledger as any program reads it: each line is JSON."""
    return [json.loads(line) for line in path.read_text().splitlines()[after:]]


def assert_all_is_written(path):
    assert open_paths(path) == []
    assert [one.name for one in path.parent.glob(f"{path.name}.*.new")] == []


def is_created(sandbox):
    return lambda: sandbox.service.calls["getTaskResult"] > 0


def test_a_line_for_each_task_with_what_it_brought(crawl, path, settings):
    sites = [Site("shop.example", Protection()), Site("www.news.example", Protection(max_uses=3))]
    settings |= {"CONCURRENT_REQUESTS_PER_DOMAIN": 1, "EZCAPTCHA_LOG_BALANCE": True}
    with Sandbox(sites, latency=0.5) as sandbox:
        news = [
            {"url": f"http://www.news.example/item/{number}", "meta": via(sandbox)}
            for number in range(5)
        ]
        result = crawl(sandbox, items(sandbox, 1, 5) + news, settings=settings)
        report, tasks = sandbox.report(), list(sandbox.service.tasks)
        label = Exit.parse(sandbox.proxy_url()).label
    assert [page["status"] for page in result.pages] == [200] * 10
    written = lines(path)
    assert sorted(line["task"] for line in written) == sorted(tasks)
    by_zone = {
        zone: [one for one in written if one["zone"] == zone]
        for zone in ("shop.example", "news.example")
    }
    (shop,) = by_zone["shop.example"]
    assert (shop["host"], shop["exit"], shop["reason"]) == (
        "shop.example",
        label,
        "first_challenge",
    )
    assert (shop["outcome"], shop["pages"], shop["lifetime"]) == ("ready", 5, None)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", shop["time"])
    first, second = sorted(by_zone["news.example"], key=lambda line: line["time"])
    assert (first["host"], first["pages"], first["reason"]) == (
        "www.news.example",
        3,
        "first_challenge",
    )
    assert first["lifetime"] > 0
    assert (second["reason"], second["pages"], second["lifetime"]) == ("rejected", 2, None)
    assert [line["points"] for line in written] == [20, 20, 20]
    contents = read_ledger(path)
    assert sum(task.pages for task in contents.tasks) == report["pages"]
    seconds = sum(task.seconds for task in contents.tasks)
    assert seconds == pytest.approx(result.stats["ezcaptcha/solve_seconds/total"], abs=0.01)
    assert seconds > report["seconds"] - 0.01  # the service's own
    assert_all_is_written(path)


def test_the_log_ends_with_a_table_of_the_zones(crawl):
    sites = [Site("shop.example", Protection()), Site("news.example", Protection(accepts=False))]
    settings = {"EZCAPTCHA_USE_BODY": "never", "EZCAPTCHA_MAX_ATTEMPTS": 1}
    with Sandbox(sites, latency=0.1) as sandbox:
        news = [{"url": "http://news.example/", "meta": via(sandbox)}]
        result = crawl(sandbox, items(sandbox, 1, 3) + news, settings=settings)
    table = result.log[result.log.index("EzCaptcha, by zone:\n") :].splitlines()[1:4]
    rows = {line.split()[0]: line.split()[1:] for line in table}
    assert rows["zone"] == ["challenges", "tasks", "solved", "pages", "seconds", "given", "up"]
    assert rows["shop.example"][1:4] == ["1", "1", "3"]
    news = rows["news.example"]
    assert (news[1:4], news[5:]) == (["1", "1", "0"], ["1", "(MAX_ATTEMPTS)"])
    assert int(news[0]) + int(rows["shop.example"][0]) == result.stat("challenges")


def test_a_crawl_without_challenges_has_no_table(crawl, sandbox):
    result = crawl(sandbox, [{"url": "http://open.example/", "meta": via(sandbox)}])
    assert "by zone" not in result.log


def test_failed_tasks_have_a_line_too(crawl, path, settings):
    settings |= {"EZCAPTCHA_USE_BODY": "never"}
    with Sandbox(SHOP, latency=0.1, solution={"cookies": None}) as sandbox:
        crawl(sandbox, items(sandbox, 1, 1), settings=settings)
        tasks = list(sandbox.service.tasks)
    assert [line["task"] for line in lines(path)] == tasks
    assert {line["outcome"] for line in lines(path)} == {"UNEXPECTED_RESPONSE"}
    assert [line["reason"] for line in lines(path)] == ["first_challenge", "solve_failed"]


def test_a_page_of_a_solution_is_a_page_of_its_task(crawl, path, settings):
    """Wanted, as a fallback for a clearance that is no good, or without any clearance."""
    with Sandbox([Site("shop.example", Protection(accepts=False))], latency=0.1) as sandbox:
        requests = [
            *items(sandbox, 1, 1),
            {"url": "http://shop.example/item/2", "meta": via(sandbox, use_body=True)},
        ]
        result = crawl(sandbox, requests, settings=settings)
        tasks = len(sandbox.service.tasks)
    assert [page["status"] for page in result.pages] == [200, 200]
    assert [line["pages"] for line in lines(path)] == [1] * tasks == [1, 1]
    with Sandbox(SHOP, latency=0.1, solution={"cookies": None}) as sandbox:
        result = crawl(sandbox, items(sandbox, 1, 1), settings=settings)
    assert [page["status"] for page in result.pages] == [200]
    assert [line["pages"] for line in lines(path)] == [1, 1, 1]


def test_a_task_that_timed_out_and_was_ready_at_the_next_attempt_has_one_line(
    crawl, path, settings
):
    settings |= {"EZCAPTCHA_SOLVE_TIMEOUT": 1.5}
    with Sandbox(SHOP, latency=600) as sandbox:
        running = crawl.begin(sandbox, items(sandbox, 1, 1), settings=settings)
        wait_for(lambda: "failed after" in running.log)
        solve(sandbox)
        result = running.result()
        (task,) = sandbox.service.tasks.values()
    assert result.pages[0]["status"] == 200
    (line,) = lines(path)
    assert (line["outcome"], line["pages"]) == ("ready", 1)
    assert line["seconds"] > task.solved_at - task.created_at - 0.01  # of both attempts
    assert line["seconds"] > 1.5


@pytest.mark.parametrize("end", ["kill", "interrupt"])
def test_a_task_of_a_run_that_ended_in_mid_solve_gets_its_line_from_the_next(
    crawl, path, settings, tmp_path, end
):
    settings |= {"JOBDIR": str(tmp_path / "job")}
    with Sandbox(SHOP, latency=60) as sandbox:
        first = crawl.begin(sandbox, items(sandbox, 1, 3), settings=settings)
        wait_for(is_created(sandbox))
        first.kill() if end == "kill" else first.interrupt()
        if end == "interrupt":
            first.result()
        assert lines(path) == []
        (task,) = read_ledger(path).tasks  # it is accounted for all the same
        assert (task.outcome, task.reason) == ("unfinished", "first_challenge")
        for running in sandbox.service.tasks.values():
            running.ready_at = 0.0
        result = crawl(sandbox, items(sandbox, 1, 3), settings=settings)
        assert list(sandbox.service.tasks) == [task.task]
    (line,) = lines(path)
    assert (line["task"], line["reason"]) == (task.task, "first_challenge")
    assert (line["outcome"], line["pages"]) == ("ready", len(result.pages))
    assert_all_is_written(path)


def test_without_a_store_a_task_that_no_run_can_continue_is_unfinished(crawl, path, settings):
    with Sandbox(SHOP, latency=60) as sandbox:
        running = crawl.begin(sandbox, items(sandbox, 1, 1), settings=settings)
        wait_for(is_created(sandbox))
        running.interrupt()
        running.result()
        tasks = list(sandbox.service.tasks)
    assert [(line["task"], line["outcome"]) for line in lines(path)] == [(tasks[0], "unfinished")]


def test_a_task_that_is_being_created_when_the_crawl_ends_is_in_it(crawl, path, settings):
    fault = Fault("createTask", kind="slow", delay=2)
    with Sandbox(SHOP, latency=60, faults=[fault]) as sandbox:
        running = crawl.begin(sandbox, items(sandbox, 1, 1), settings=settings)
        wait_for(lambda: sandbox.service.tasks)
        running.interrupt()
        running.result()
        tasks = list(sandbox.service.tasks)
    assert [(line["task"], line["outcome"]) for line in lines(path)] == [(tasks[0], "unfinished")]


def test_a_killed_crawl_whose_clearance_was_in_use_is_completed_by_the_next(crawl, path, settings):
    with Sandbox(SHOP, latency=0.1) as sandbox:
        slow = settings | {"DOWNLOAD_DELAY": 0.2}
        running = crawl.begin(sandbox, items(sandbox, 1, 500), settings=slow)
        wait_for(lambda: sandbox.report()["pages"] > 2)
        running.kill()
        assert lines(path) == []
        crawl(sandbox, items(sandbox, 1, 3), settings=settings)
        tasks = list(sandbox.service.tasks)
    killed, whole = lines(path)
    assert [killed["task"], whole["task"]] == tasks
    assert (killed["outcome"], whole["outcome"]) == ("ready", "ready")
    assert whole["pages"] == 3
    assert_all_is_written(path)


def test_four_processes_write_one_ledger(crawl, path, settings):
    """Each buys many tasks, by an exit of its own."""
    site = Site("shop.example", Protection(max_uses=3))
    settings |= {"CONCURRENT_REQUESTS_PER_DOMAIN": 1, "EZCAPTCHA_USE_BODY": "never"}
    with Sandbox([site], latency=0.05) as sandbox:
        crawls = [
            crawl.begin(
                sandbox,
                [
                    {
                        "url": f"http://shop.example/item/{item}",
                        "meta": via(sandbox, f"exit{number}"),
                    }
                    for item in range(40)
                ],
                settings=settings,
            )
            for number in range(4)
        ]
        results = [running.result(120) for running in crawls]
        report, tasks = sandbox.report(), list(sandbox.service.tasks)
    assert [len(result.pages) for result in results] == [40] * 4
    written = lines(path)
    assert len(tasks) >= 40
    assert sorted(line["task"] for line in written) == sorted(tasks)
    assert len({line["exit"] for line in written}) == 4
    contents = read_ledger(path)
    assert sum(task.pages for task in contents.tasks) == report["pages"] == 160
    assert_all_is_written(path)


def test_pages_of_a_clearance_that_another_process_paid_for_are_added(
    crawl, path, settings, tmp_path
):
    settings |= {"EZCAPTCHA_STORE": str(tmp_path / "clearances.sqlite")}
    with Sandbox(SHOP, latency=1) as sandbox:
        crawls = [
            crawl.begin(
                sandbox, items(sandbox, 1 + 30 * number, 30 + 30 * number), settings=settings
            )
            for number in range(4)
        ]
        for running in crawls:
            running.result()
        (task,) = sandbox.service.tasks
        report = sandbox.report()
    (line,) = lines(path)
    assert line["task"] == task
    assert pages_path(path).exists()
    contents = read_ledger(path)
    assert (len(contents.tasks), contents.other_pages, contents.unreadable) == (1, 0, 0)
    assert contents.tasks[0].pages == report["pages"] == 120


def test_a_full_disk_costs_no_request(crawl, path, settings):
    path.write_text("{}\n" * 60_000)  # the log, which is limited too, is shorter
    with Sandbox(SHOP, latency=0.1) as sandbox:
        result = crawl(sandbox, items(sandbox, 1, 5), settings=settings, file_limit=180_100)
        assert [page["status"] for page in result.pages] == [200] * 5
        assert result.log.count("ledger.jsonl cannot be written: ") == 1
        assert path.stat().st_size == 180_100  # a torn line is at its end
        crawl(sandbox, items(sandbox, 1, 5), settings=settings)
        tasks = list(sandbox.service.tasks)
    assert [line["task"] for line in lines(path, after=60_001)] == tasks
    assert_all_is_written(path)


def test_a_ledger_that_cannot_be_written_stops_the_crawl_before_anything_is_paid(crawl, sandbox):
    result = crawl(sandbox, items(sandbox, 1, 1), settings={"EZCAPTCHA_LEDGER": "/proc/ledger"})
    assert "EZCAPTCHA_LEDGER is '/proc/ledger', but this file cannot be written: " in result.log
    assert result.pages == []
    assert sandbox.service.calls == {}


def test_no_secret_is_in_it(crawl, path, settings):
    with Sandbox(SHOP, latency=0.1) as sandbox:
        crawl(sandbox, items(sandbox, 1, 3), settings=settings)
        secrets = {sandbox.key, *Exit.parse(sandbox.proxy_url()).secrets}
        secrets |= {
            task.solution["cookies"]["cf_clearance"] for task in sandbox.service.tasks.values()
        }
    text = path.read_text()
    assert "shop.example" in text
    assert not any(form in text for secret in secrets for form in forms(secret))
