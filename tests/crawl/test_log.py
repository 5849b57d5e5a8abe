"""The log alone tells where the money went."""

from __future__ import annotations

import re

from support import solve, via, wait_for

from scrapy_ezcaptcha.exit import Exit
from scrapy_ezcaptcha.sandbox import Protection, Sandbox, Site

SITES = [
    Site("shop.example", Protection()),
    Site("news.example", Protection(max_uses=3)),
    Site("www.blog.example", Protection()),
]
CREATED = re.compile(r"INFO: Task (\S+) created for (\S+)(?: \((\S+)\))? through (\S+): (.+)")
READY = re.compile(r"INFO: Task (\S+) for .+ is ready after (\d+\.\d) s")


def items(sandbox, host, count):
    return [
        {"url": f"http://{host}/item/{number}", "meta": via(sandbox)}
        for number in range(1, count + 1)
    ]


def test_for_each_task_zone_exit_reason_seconds_and_outcome(crawl):
    with Sandbox(SITES, latency=0.3) as sandbox:
        requests = [
            *items(sandbox, "shop.example", 5),
            *items(sandbox, "news.example", 5),
            *items(sandbox, "www.blog.example", 5),
        ]
        settings = {"CONCURRENT_REQUESTS_PER_DOMAIN": 1, "LOG_LEVEL": "INFO"}
        result = crawl(sandbox, requests, settings=settings)
        bought = set(sandbox.service.tasks)
    assert [page["status"] for page in result.pages] == [200] * 15
    created = {task: rest for task, *rest in CREATED.findall(result.log)}
    ready = dict(READY.findall(result.log))
    assert created.keys() == ready.keys() == bought
    label = Exit.parse(sandbox.proxy_url()).label
    first = "first challenge of the zone through this proxy"
    rejected = "the last clearance was rejected after 3 pages"
    assert sorted(map(tuple, created.values())) == [
        ("blog.example", "www.blog.example", label, first),
        ("news.example", "", label, first),
        ("news.example", "", label, rejected),
        ("shop.example", "", label, first),
    ]
    took = result.stats["elapsed_time_seconds"]
    assert all(0.3 <= float(seconds) < took for seconds in ready.values())
    assert f"INFO: news.example through {label}: {rejected}" in result.log
    assert result.stat("tasks/reason/first_challenge") == 3
    assert result.stat("tasks/reason/rejected") == 1


def test_a_task_that_fails_is_told_too(crawl):
    site = Site("shop.example", Protection())
    with Sandbox([site], latency=0.1, solution={"cookies": None}) as sandbox:
        settings = {"EZCAPTCHA_USE_BODY": "never"}
        result = crawl(sandbox, items(sandbox, "shop.example", 1), settings=settings)
        first, second = sandbox.service.tasks
    assert re.search(
        rf"WARNING: Task {first} for shop\.example through \S+ failed after", result.log
    )
    assert re.search(
        rf"Task {second} created .+ the last solve failed \(UNEXPECTED_RESP", result.log
    )
    assert result.stat("tasks/reason/solve_failed") == 1


def test_the_sign_of_a_challenge_is_in_the_debug_log(crawl, sandbox):
    requests = [{"url": "http://captcha.example/", "meta": via(sandbox)}]
    result = crawl(sandbox, requests)
    line = "<403 http://captcha.example/> is a challenge, detected by its challenge form"
    assert f"DEBUG: {line}" in result.log
    assert result.signals[0][:4] == ["detected", "http://captcha.example/", 403, "challenge form"]


def progress_of(result):
    return re.findall(r"INFO: (Progress: .+)", result.log)


def test_a_crawl_that_waits_long_says_what_for(crawl):
    with Sandbox(SITES, latency=600) as sandbox:
        settings = {"EZCAPTCHA_PROGRESS_INTERVAL": 0.3, "LOG_LEVEL": "INFO"}
        running = crawl.begin(sandbox, items(sandbox, "shop.example", 3), settings=settings)
        wait_for(lambda: len(progress_of(running)) >= 2)
        solve(sandbox)
        result = running.result()
    lines = progress_of(result)
    label = re.escape(Exit.parse(sandbox.proxy_url()).label)
    assert re.fullmatch(
        rf"Progress: 1 solve in progress \(shop\.example through {label} for \d+ s\);"
        r" \d requests? waiting; 1 task created",
        lines[-1],
    )
    assert sandbox.proxy_password not in result.log


def test_a_crawl_that_waits_for_nothing_is_silent(crawl):
    with Sandbox([Site("open.example")]) as sandbox:
        settings = {"EZCAPTCHA_PROGRESS_INTERVAL": 0.01}
        result = crawl(sandbox, items(sandbox, "open.example", 5), settings=settings)
    assert progress_of(result) == []


def test_at_the_start_scope_store_proxies_and_limits(crawl, sandbox):
    settings = {
        "EZCAPTCHA_MAX_TASKS": 7,
        "EZCAPTCHA_ALLOWED_DOMAINS": ["shop.example"],
        "EZCAPTCHA_PROXIES": [sandbox.proxy_url("one")],
    }
    result = crawl(sandbox, items(sandbox, "shop.example", 1), settings=settings)
    (line,) = re.findall(r"INFO: EzCaptcha: scope: (.+)", result.log)
    assert line == (
        'requests with meta["ezcaptcha"] to shop.example; store: memory; proxies: a pool of 1'
        " proxy; limits: 7 tasks, 16 at once, 2 solves for each request"
    )
    assert "can cost a task" not in result.log


def test_a_transparent_crawl_without_limits_is_warned_of_once(crawl, sandbox):
    said = "WARNING: Every request to any site can cost a task"
    requests = items(sandbox, "shop.example", 1)
    result = crawl(sandbox, requests, settings={"EZCAPTCHA_TRANSPARENT_MODE": True})
    assert result.log.count(said) == 1
    limited = {"EZCAPTCHA_TRANSPARENT_MODE": True, "EZCAPTCHA_MAX_TASKS": 3}
    assert said not in crawl(sandbox, requests, settings=limited).log
