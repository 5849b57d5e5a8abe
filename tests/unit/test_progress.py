"""What is logged while something is waited for, by a clock of its own."""

from __future__ import annotations

import logging

import pytest
from test_broker import EXITS, World


@pytest.fixture
def lines(caplog):
    caplog.set_level(logging.INFO, "scrapy_ezcaptcha")
    return lambda: [one for one in caplog.messages if one.startswith("Progress: ")]


def advance(world, seconds):
    for _ in range(int(seconds * 4)):
        world.clock.advance(0.25)


def test_a_solve_of_65_seconds_shows_two_lines(lines):
    world = World(max_tasks=100)
    for host in ("shop.example", "www.shop.example"):
        world.ask(host)
    advance(world, 65)
    world.solved()
    advance(world, 100)
    label = EXITS[0].label
    assert lines() == [
        f"Progress: 1 solve in progress (shop.example through {label} for {seconds} s);"
        " 2 requests waiting; 1 of 100 tasks created"
        for seconds in (30, 60)
    ]


def test_a_short_solve_shows_none_and_the_time_begins_anew_with_the_next(lines):
    world = World()
    for number in range(5):
        world.ask(f"shop{number}.example")
        advance(world, 20)
        world.solved()
        advance(world, 20)
    assert lines() == []


def test_the_longest_are_named_and_the_rest_is_counted(lines):
    world = World(max_concurrent_tasks=8)
    for number in range(10):
        world.ask(f"shop{number}.example")
        advance(world, 1)
    advance(world, 25)
    (line,) = lines()
    assert "8 solves in progress (shop0.example through" in line
    assert "shop4.example" in line
    assert "shop5.example" not in line
    assert ", and 3 more); 2 solves waiting for another process or a free place; " in line
    assert line.endswith("10 requests waiting; 8 tasks created")


def test_the_interval_is_a_setting_and_0_means_no_lines(lines):
    world = World(progress_interval=10.0)
    world.ask("shop.example")
    advance(world, 35)
    assert len(lines()) == 3
    world = World(progress_interval=0.0)
    world.ask("shop.example")
    advance(world, 35)
    assert len(lines()) == 3


@pytest.mark.parametrize(("limit", "at"), [(10, 8), (5, 4), (100, 80), (2, None), (0, None)])
def test_one_warning_at_four_fifths_of_the_limit(caplog, limit, at):
    world = World(max_tasks=limit)
    for number in range(limit or 20):
        world.ask(f"shop{number}.example")
        world.solved()
    warnings = [one for one in caplog.messages if "EZCAPTCHA_MAX_TASKS)" in one]
    said = f"{at} of {limit} tasks are created (EZCAPTCHA_MAX_TASKS)"
    assert [one.partition(".")[0] for one in warnings] == ([said] if at else [])
