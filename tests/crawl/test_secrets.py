"""No key, proxy password or cookie value in anything that a crawl leaves behind."""

from __future__ import annotations

import json

import pytest
from support import forms, via

from scrapy_ezcaptcha.config import STORE_FILE
from scrapy_ezcaptcha.sandbox import Fault, Protection, Sandbox, Site

pytestmark = pytest.mark.unmeasured

KEY = "key-7f3a+/=secret"
PASSWORD = "p@ss/w0rd:secret"
ECHO = "your key {key} by {proxy} is refused"
LOWER_ECHO = "no route by http://exit1:p%40ss%2fw0rd%3asecret@proxy.example:8080"

FAULTS = {
    "none": [],
    "echoed": [Fault("createTask", code="ERROR_REQUEST_PARAMETERS", description=ECHO, times=None)],
    "credentials": [Fault("createTask", code="ERROR_ZERO_BALANCE", description=ECHO)],
    "closed": [Fault("createTask", "close", times=None)],
    "task-failed": [
        Fault("getTaskResult", code="ERROR_OF_THE_WORKER", description=ECHO, times=None)
    ],
    "task-failed-lower-case": [
        Fault("getTaskResult", code="ERROR_OF_THE_WORKER", description=LOWER_ECHO, times=None)
    ],
}


@pytest.mark.parametrize("fault", FAULTS)
def test_no_secret_is_left_behind(crawl, fault):
    sites = [
        Site("shop.example", Protection()),
        Site("never.example", Protection(accepts=False)),
        Site("renewing.example", Protection(renew_every=2)),
    ]
    with Sandbox(
        sites, latency=0.1, faults=FAULTS[fault], key=KEY, proxy_password=PASSWORD
    ) as sandbox:
        requests = [
            {"url": f"http://{site.zone}/item/{number}", "meta": via(sandbox, "exit1")}
            for site in sites
            for number in range(1, 8)
        ]
        requests += [
            {"url": "http://shop.example/2", "meta": via(sandbox, proxy=sandbox.proxy_url("x"))},
            {"url": "http://shop.example/3", "meta": via(sandbox, proxy="http://u:" + PASSWORD)},
            {"url": "http://shop.example/4", "meta": via(sandbox, use_body=True)},
        ]
        settings = {
            "EZCAPTCHA_PROXY": sandbox.proxy_url("default"),
            "EZCAPTCHA_POLL_INTERVAL": 0.05,
            "RETRY_ENABLED": True,
        }
        result = crawl(sandbox, requests, settings=settings)
        clearances = list(sandbox.edge._clearances)
    if fault == "none":
        assert clearances
        assert result.stat("tasks/ready") >= 3
    assert result.stat("requests/gave_up") >= 1
    if fault == "task-failed-lower-case":
        assert "no route by http://exit1:***@" in result.log
    left_behind = result.log + json.dumps([result.stats, result.pages, result.errors])
    secrets = {KEY, PASSWORD, f"exit1:{PASSWORD}", *clearances}
    for form in set().union(*(forms(secret) for secret in secrets)):
        assert form not in left_behind


def test_nothing_of_ours_goes_to_the_disk_queue(crawl, sandbox, tmp_path):
    """Replays wait in JOBDIR without the clearance that they will carry."""
    start = [{"url": "http://shop.example/item/1", "meta": via(sandbox)}]
    settings = {"JOBDIR": str(tmp_path / "job"), "SCHEDULER_DEBUG": True}
    result = crawl(sandbox, start, settings=settings, follow="next")
    assert len(result.pages) == 30
    assert result.stats["scheduler/enqueued/disk"] >= 30
    files = (path for path in (tmp_path / "job").rglob("*") if path.is_file())
    stored = b"".join(path.read_bytes() for path in files if not path.name.startswith(STORE_FILE))
    assert not any(value.encode() in stored for value in sandbox.edge._clearances)
