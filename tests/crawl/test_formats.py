"""Files that version 0.1.0 left on disk during a solve are resumed; the tests write such files."""

from __future__ import annotations

import json
import pickle
import sqlite3
import time

import pytest
from support import via

from scrapy_ezcaptcha.exit import Exit
from scrapy_ezcaptcha.sandbox import Protection, Sandbox, Site
from scrapy_ezcaptcha.sandbox.service import Task
from scrapy_ezcaptcha.stores import Store
from scrapy_ezcaptcha.stores.sqlite import SqliteBackend

pytestmark = pytest.mark.unmeasured


TABLES = """
CREATE TABLE fields (place TEXT, name TEXT, value TEXT, until REAL, PRIMARY KEY (place, name))
WITHOUT ROWID;
CREATE TABLE rejected (place TEXT, id TEXT, unused INTEGER, until REAL, PRIMARY KEY (place, id))
WITHOUT ROWID;
CREATE TABLE leads (place TEXT PRIMARY KEY, state TEXT) WITHOUT ROWID;
"""
MEMO = {
    "zone": "shop.example", "attempts": 1, "solves": 1, "clearance": None, "run": "before",
    "store": None, "is_put_back": True, "dont_filter": False, "ticket": "t1",
}  # fmt: skip


def write_store(path, place, *, state=None, clearance=None):
    """Write *state* of the lead on *place*, and a clearance of it, as 0.1.0 did."""
    until = time.time() + 1000
    with sqlite3.connect(path) as file:
        file.executescript(TABLES)
        if state is not None:
            file.execute("INSERT INTO leads VALUES (?, ?)", (place, json.dumps(state)))
        for name, value in (clearance or {}).items():
            file.execute("INSERT INTO fields VALUES (?, ?, ?, ?)", (place, name, value, until))


def place_in(tmp_path, sandbox):
    names = Store(SqliteBackend(tmp_path / "unused.sqlite"), sandbox.key)
    return names.name_of(("shop.example", Exit.parse(sandbox.proxy_url("exit1"))))


def test_an_unfinished_task_and_a_waiting_request(crawl, tmp_path):
    job = tmp_path / "job"
    job.mkdir()
    with Sandbox([Site("shop.example", Protection())], latency=0.1) as sandbox:
        task = Task("http://shop.example/item/1", "exit1", None, ready_at=0.0)
        sandbox.service.tasks[task.task_id] = task
        state = {
            "fence": 3, "until": time.time() + 1000, "task_id": task.task_id,
            "task_until": time.time() + 200, "failure": None,
        }  # fmt: skip
        place = place_in(tmp_path, sandbox)
        write_store(job / "ezcaptcha-clearances.sqlite", place, state=state)
        meta = {**via(sandbox), "_ezcaptcha": MEMO}
        waiting = {"url": "http://shop.example/item/1", "callback": "parse", "meta": meta}
        with sqlite3.connect(job / "ezcaptcha-waiting.sqlite") as file:
            file.execute("CREATE TABLE waiting (ticket TEXT PRIMARY KEY, request BLOB)")
            file.execute("INSERT INTO waiting VALUES (?, ?)", ("t1", pickle.dumps(waiting)))
        more = [{"url": "http://shop.example/item/2", "meta": via(sandbox)}]
        result = crawl(sandbox, more, settings={"JOBDIR": str(job)})
        assert list(sandbox.service.tasks) == [task.task_id]
    pages = sorted((page["url"][-1], page["status"]) for page in result.pages)
    assert pages == [("1", 200), ("2", 200)]
    assert result.stat("tasks/taken_over") == 1
    assert result.stat("tasks/created") == 0


def test_a_clearance(crawl, tmp_path):
    path = tmp_path / "clearances.sqlite"
    with Sandbox([Site("shop.example", Protection())], latency=0.1) as sandbox:
        value = sandbox.edge.issue("shop.example", "exit1", "UA/1")
        whole = {
            "zone": "shop.example", "exit": Exit.parse(sandbox.proxy_url()).address,
            "origin": "shop.example", "created": time.time(), "header": {"user-agent": "UA/1"},
            "cookies": {"cf_clearance": value}, "tlsVersion": None,
        }  # fmt: skip
        fields = {
            '["clearance", "task1"]': json.dumps(whole),
            '["accepted", "task1", "shop.example"]': "",
        }
        write_store(path, place_in(tmp_path, sandbox), clearance=fields)
        requests = [{"url": "http://shop.example/item/1", "meta": via(sandbox, "exit1")}]
        result = crawl(sandbox, requests, settings={"EZCAPTCHA_STORE": str(path)})
        assert sandbox.service.tasks == {}
    assert [page["flags"] for page in result.pages] == [["ezcaptcha"]]
