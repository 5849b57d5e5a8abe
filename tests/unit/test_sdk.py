"""The vendor's own SDK takes the sandbox for the service."""

from __future__ import annotations

import json

import pytest

from scrapy_ezcaptcha.sandbox import Fault, Protection, Sandbox, Site

sdk = pytest.importorskip("ezcapsolver", reason="the vendor's SDK needs Python 3.12")

KINDS = ("is_authentication_error", "is_rate_limited", "is_terminal")
SITES = [Site("shop.example", Protection())]


def client(sandbox, key=None):
    polling = sdk.PollingConfig(interval=0.05, max_attempts=20)
    config = sdk.ClientConfig(
        client_key=key or sandbox.key, async_base_url=sandbox.api_url, polling=polling
    )
    return sdk.EzCapSolverClient(config=config)


def error_of(call, *arguments):
    with pytest.raises(sdk.EzCaptchaError) as caught:
        call(*arguments)
    return caught.value


def task(sandbox, **more):
    url = "http://shop.example/item/1"
    return sdk.Cloudflare5sTask(website_url=url, proxy=sandbox.proxy_url(), **more)


def test_a_challenge_is_solved_and_stays_so():
    with Sandbox(SITES, latency=0.2) as sandbox, client(sandbox) as vendor:
        solved = vendor.solve(task(sandbox))
        again = vendor.get_result(solved.task_id)
    assert solved.solution.header["user-agent"].startswith("Mozilla/5.0")
    assert solved.solution.tls_version == "chrome131"
    assert "Item 1" in solved.solution.body
    assert solved.solution.cookies["cf_clearance"] in json.dumps(again.solution)


def test_the_balance():
    with Sandbox(SITES, balance=1_071_810) as sandbox, client(sandbox) as vendor:
        assert vendor.get_balance() == 1_071_810


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (Fault("createTask", code="ERROR_ZERO_BALANCE", status=500), "is_authentication_error"),
        (Fault("createTask", code="ERROR_REQUEST_LIMIT", status=429), "is_rate_limited"),
        (Fault("createTask", code="ERROR_WEBSITE_NOT_ALLOWED", status=500), "is_terminal"),
        (Fault("createTask", code="ERROR_SERVICE_UNAVAILABLE", status=500), None),
    ],
)
def test_each_group_of_errors(fault, kind):
    with Sandbox(SITES, faults=[fault]) as sandbox, client(sandbox) as vendor:
        error = error_of(vendor.create_task, task(sandbox))
    assert isinstance(error, sdk.ApiError)
    said = {name for name in KINDS if getattr(error, name)()}
    assert said - {"is_terminal"} == {kind} - {None, "is_terminal"}
    assert ("is_terminal" in said) == (kind in {"is_terminal", "is_authentication_error"})


def test_a_task_that_failed():
    body = json.dumps({"errorId": 1, "status": "error", "errorCode": "ERROR_PROXY_CONNECT"})
    faults = [Fault("getTaskResult", "raw", body=body.encode(), status=500)]
    with Sandbox(SITES, latency=0.1, faults=faults) as sandbox, client(sandbox) as vendor:
        error = error_of(vendor.solve, task(sandbox))
    assert sdk.task_id_of(error) in sandbox.service.tasks


def test_thirty_wrong_keys_are_a_ban():
    with Sandbox(SITES) as sandbox, client(sandbox, key="wrong") as vendor:
        codes = [str(error_of(vendor.get_balance)) for _ in range(31)]
    assert "ERROR_KEY_DOES_NOT_EXIST" in codes[29]
    assert "ERROR_REQUEST_BANNED" in codes[30]
