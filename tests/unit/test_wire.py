from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scrapy_ezcaptcha import ApiError, CloudFlare5STask, EzCaptchaError, Solution
from scrapy_ezcaptcha.errors import (
    CREDENTIAL_CODES,
    OUTAGE_CODES,
    TERMINAL_CODES,
    THROTTLE_CODES,
    InvalidTask,
    UnexpectedResponse,
)
from scrapy_ezcaptcha.service.wire import (
    create_task_payload,
    parse_balance,
    parse_task_id,
    parse_task_result,
)

PROXY = "http://user:secret@proxy.example:8080"


def result(body, status=200):
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return parse_task_result(raw, status=status, task_id="t1", hide=("secret",))


def ready(**solution):
    return {"errorId": 0, "status": "ready", "solution": solution}


def test_a_task_goes_out_as_documented():
    task = CloudFlare5STask("https://shop.example/", PROXY, {"mode": "FORM", "q": "1"})
    assert create_task_payload("key", task, 7) == {
        "clientKey": "key",
        "appId": 7,
        "task": {
            "type": "CloudFlare5STask",
            "websiteURL": "https://shop.example/",
            "proxy": PROXY,
            "rqData": {"mode": "FORM", "q": "1"},
        },
    }


def test_what_is_not_given_is_left_out():
    payload = create_task_payload("key", CloudFlare5STask("https://shop.example/", PROXY), None)
    assert set(payload) == {"clientKey", "task"}
    assert "rqData" not in payload["task"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("shop.example", PROXY), "website_url"),
        (("ftp://shop.example/", PROXY), "website_url"),
        ((None, PROXY), "website_url"),
        (("http://[", PROXY), "website_url"),
        (("https://shop.example/", ""), "proxy"),
        (("https://shop.example/", None), "proxy"),
        (("https://shop.example/", PROXY, "a=1"), "not an encoded string"),
        (("https://shop.example/", PROXY, {"a": object()}), "JSON"),
    ],
)
def test_a_wrong_task_is_refused_before_it_costs_anything(arguments, said):
    with pytest.raises(InvalidTask, match=said):
        CloudFlare5STask(*arguments)


def test_no_repr_shows_a_secret():
    task = CloudFlare5STask("https://shop.example/", PROXY, {"token": "secret"})
    solution = Solution({"user-agent": "UA"}, {"cf_clearance": "secret"}, "secret", "chrome131")
    assert "secret" not in repr(task) + repr(solution)
    assert "cf_clearance" in repr(solution)


def test_processing_is_no_solution_yet():
    assert result({"errorId": 0, "errorCode": None, "status": "processing"}) is None


def test_a_solution_is_read():
    solution = result(
        ready(
            header={"User-Agent": "UA/1", "accept": "*/*"},
            cookies={"cf_clearance": "abc.def-1", "session": "x"},
            body="<html>",
            tlsVersion="chrome149",
            sToken="ignored",
        )
    )
    assert solution.user_agent == "UA/1"
    assert dict(solution.headers) == {"user-agent": "UA/1", "accept": "*/*"}
    assert dict(solution.cookies) == {"cf_clearance": "abc.def-1", "session": "x"}
    assert solution.body == "<html>"
    assert solution.tls_version == "chrome149"


@pytest.mark.parametrize("missing", [None, [], "x", 1, {}])
def test_fields_of_a_solution_may_be_missing_or_odd(missing):
    solution = result(ready(header=missing, cookies=missing, body=None, tlsVersion=missing))
    assert dict(solution.headers) == {}
    assert dict(solution.cookies) == {}
    assert solution.body is None
    assert solution.user_agent is None


@pytest.mark.parametrize(
    "value", ["a\r\nX-Evil: 1", "a\nb", "a\0b", "snow ☃", "x" * 10_000, 7, None, ["a"], {"a": 1}]
)
def test_malformed_headers_are_left_out(value):
    solution = result(ready(header={"user-agent": "UA", "x-odd": value}))
    assert dict(solution.headers) == {"user-agent": "UA"}


@pytest.mark.parametrize("name", ["", "a b", "a:b", ":authority", "a\r\nb", "é", "x" * 300])
def test_malformed_names_are_left_out(name):
    solution = result(ready(header={name: "v"}, cookies={name: "v"}))
    assert dict(solution.headers) == {}
    assert dict(solution.cookies) == {}


@pytest.mark.parametrize("value", ["a; Domain=other.example", "a b", "a\r\nb", "é", None, 3])
def test_malformed_cookies_are_left_out(value):
    assert dict(result(ready(cookies={"odd": value, "ok": "1"})).cookies) == {"ok": "1"}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>502</html>",
        b'{"errorId": 0, "sta',
        b"[]",
        b"null",
        b'"x"',
        b"\xff\xfe",
        b"[" * 100_000,
        b"{}",
        b'{"errorId": null}',
        b'{"errorId": false}',
        b'{"errorId": 0.5}',
        b'{"errorId": 0, "status": "queued"}',
        b'{"errorId": 0, "status": 7}',
        b'{"errorId": 0, "status": "ready"}',
        b'{"errorId": 0, "status": "ready", "solution": null}',
        b'{"errorId": 0, "status": "ready", "solution": "x"}',
    ],
)
def test_what_is_not_documented_is_unexpected(body):
    with pytest.raises(UnexpectedResponse) as caught:
        result(body)
    assert caught.value.task_id == "t1"
    assert caught.value.status == 200


@pytest.mark.parametrize("error_id", [1, 12, "1", -1])
@pytest.mark.parametrize("status", [200, 400, 429, 500])
def test_error_id_is_the_one_discriminator(error_id, status):
    body = {"errorId": error_id, "errorCode": "ERROR_TASK_NOT_EXIST", "errorDescription": "gone"}
    with pytest.raises(ApiError) as caught:
        result(body, status)
    assert (caught.value.code, caught.value.description) == ("ERROR_TASK_NOT_EXIST", "gone")
    assert (caught.value.status, caught.value.task_id) == (status, "t1")
    assert str(caught.value) == "ERROR_TASK_NOT_EXIST: gone"


def test_error_id_zero_as_a_string_is_no_error():
    assert result({"errorId": "0", "status": "processing"}) is None


def test_status_error_is_an_error():
    with pytest.raises(ApiError) as caught:
        result({"errorId": 0, "status": "error", "errorDescription": "worker died"})
    assert caught.value.code == "ERROR_UNKNOWN"
    assert caught.value.is_worth_another_task()


def test_the_services_words_lose_secrets_and_line_breaks():
    body = {
        "errorId": 1,
        "errorCode": "BAD CODE\n",
        "errorDescription": "proxy secret refused\nreally",
        "errors": {"task.proxy": "c2VjcmV0", "n": 3},
        "requestId": "r-secret",
    }
    with pytest.raises(ApiError) as caught:
        result(body)
    assert caught.value.code == "ERROR_UNKNOWN"
    assert caught.value.description == "proxy *** refused really; task.proxy: ***; n: 3"
    assert caught.value.request_id == "r-***"


def test_every_code_belongs_to_one_group():
    groups = [CREDENTIAL_CODES, THROTTLE_CODES, TERMINAL_CODES, OUTAGE_CODES]
    assert sum(map(len, groups)) == len(frozenset().union(*groups)) == 23
    for code in CREDENTIAL_CODES | TERMINAL_CODES:
        assert ApiError(code).is_terminal()
    for code in THROTTLE_CODES:
        assert ApiError(code).is_throttled()
        assert not ApiError(code).is_terminal()
    for code in OUTAGE_CODES:
        assert ApiError(code).is_outage()
    assert ApiError("ANY", status=429).is_throttled()
    assert str(ApiError("ONLY_CODE")) == "ONLY_CODE"


def test_a_task_id_is_read_and_required():
    assert parse_task_id(b'{"errorId": 0, "taskId": "abc"}', status=200) == "abc"
    assert parse_task_id(b'{"errorId": 0, "taskId": 17}', status=200) == "17"
    for body in (
        b'{"errorId": 0}',
        b'{"errorId": 0, "taskId": ""}',
        b'{"errorId":0,"taskId":true}',
    ):
        with pytest.raises(UnexpectedResponse, match="taskId"):
            parse_task_id(body, status=200)


def test_a_balance_is_read_and_required():
    assert parse_balance(b'{"errorId": 0, "balance": 1071810}', status=200) == 1071810
    for body in (b'{"errorId": 0}', b'{"errorId": 0, "balance": true}'):
        with pytest.raises(UnexpectedResponse, match="balance"):
            parse_balance(body, status=200)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=12,
)
answers = st.fixed_dictionaries(
    {},
    optional={
        "errorId": st.just(0) | json_values,
        "errorCode": json_values,
        "errorDescription": json_values,
        "requestId": json_values,
        "errors": json_values,
        "status": st.sampled_from(["processing", "ready", "error"]) | json_values,
        "taskId": json_values,
        "balance": json_values,
        "solution": json_values
        | st.fixed_dictionaries(
            {},
            optional={
                "header": st.dictionaries(st.text(), json_values) | json_values,
                "cookies": st.dictionaries(st.text(), json_values) | json_values,
                "body": json_values,
                "tlsVersion": json_values,
            },
        ),
    },
)


@given(answers.map(lambda answer: json.dumps(answer).encode()) | st.binary(max_size=200))
def test_any_answer_is_a_value_or_one_of_our_errors(body):
    for parse in (parse_task_id, parse_balance):
        try:
            assert isinstance(parse(body, status=200), str | int | float)
        except EzCaptchaError as error:
            assert "\n" not in str(error)
    try:
        solution = result(body)
    except EzCaptchaError as error:
        assert "\n" not in str(error)
        return
    if solution is None:
        return
    for name, value in [*solution.headers.items(), *solution.cookies.items()]:
        assert name
        assert not set("\r\n\0") & set(name + value)
    assert all(";" not in value and " " not in value for value in solution.cookies.values())
    repr(solution)
