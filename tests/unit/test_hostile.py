"""Only well-formed and allowed parts of an answer of the service get into requests."""

from __future__ import annotations

import json
import re

import pytest
from fakes import LOG
from hypothesis import given
from hypothesis import strategies as st
from scrapy import Request
from scrapy.http import Response

from scrapy_ezcaptcha.clearances.clearance import Clearance, is_replayed
from scrapy_ezcaptcha.clearances.headers import ClearanceHeaders
from scrapy_ezcaptcha.crawl.memo import location_of
from scrapy_ezcaptcha.errors import EzCaptchaError
from scrapy_ezcaptcha.exit import Exit
from scrapy_ezcaptcha.service.wire import parse_task_result

EXIT = Exit.parse("http://u:p@proxy.example:1")
HEADER = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+: ?[\t\x20-\x7e]*")
COOKIE = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+=[\x21-\x3a\x3c-\x7e]*")

NEVER_OUT = [
    "Host", "Content-Length", "Content-Type", "Transfer-Encoding", "Cookie", "Proxy-Authorization",
    "Authorization", "Connection", "Keep-Alive", "TE", "Trailer", "Upgrade", "Expect", "Range",
    "If-None-Match", "If-Modified-Since", "Via", "Forwarded", "Proxy-Connection",
]  # fmt: skip
UGLY = [
    "a\r\nX-Evil: 1",
    "a\nb",
    "a\0b",
    "ünï",
    "\u2028",
    "\ud800",
    "x" * 1_000_000,
    "",
    " ",
    "\x7f",
]

texts = st.one_of(st.text(max_size=20), st.sampled_from(UGLY), st.sampled_from(["gzip", "x;y=z"]))
scalars = st.one_of(
    texts, st.none(), st.integers(), st.booleans(), st.floats(), st.binary().map(str)
)
names = st.one_of(texts, st.sampled_from([*NEVER_OUT, "user-agent", "cf_clearance", "__cf_bm"]))
maps = st.dictionaries(names, scalars | st.lists(texts, max_size=2), max_size=8)
solutions = st.fixed_dictionaries(
    {}, optional={"header": maps | scalars, "cookies": maps | scalars, "body": scalars}
)


def clearance_of(solution: dict) -> Clearance | None:
    body = json.dumps({"errorId": 0, "status": "ready", "solution": solution}).encode()
    try:
        parsed = parse_task_result(body, status=200, task_id="1")
    except EzCaptchaError:
        return None
    assert parsed is not None
    return Clearance.from_solution(parsed, ("shop.example", EXIT), "www.shop.example", "task1", 1.0)


@given(solutions, st.dictionaries(st.sampled_from(["Cookie", "X-Mine"]), st.just("a=b; c=d")))
def test_only_well_formed_headers_of_allowed_names_go_out(solution, own):
    clearance = clearance_of(solution)
    if clearance is None:
        return
    request = Request("http://shop.example/", headers=own)
    before = request.headers.copy()
    headers = ClearanceHeaders(frozenset({"gzip"}), {}, LOG)
    headers.put_on(request, clearance, location_of(request), 1)
    lines = request.headers.to_string().split(b"\r\n")
    assert all(HEADER.fullmatch(line) for line in lines)
    sent = {name.decode().lower() for name in request.headers} - {"cookie"}
    assert all(is_replayed(name) for name in sent)
    assert sent <= {name.lower() for name in own} | set(clearance.headers)
    cookies = [cookie for cookie in request.headers["Cookie"].split(b"; ") if cookie]
    assert all(COOKIE.fullmatch(cookie) for cookie in cookies)
    assert len(cookies) <= 2 + len(clearance.cookies)
    headers.take_off(request)
    assert request.headers == before


@pytest.mark.parametrize("name", NEVER_OUT)
def test_names_that_never_go_out(name):
    clearance = clearance_of({"header": {name: "x", name.lower(): "y", name.upper(): "z"}})
    assert clearance is not None
    assert clearance.headers == {}


@pytest.mark.parametrize("value", [*UGLY[:7], 1, None, ["x"], {"x": "y"}, True])
@pytest.mark.parametrize("field", ["header", "cookies"])
def test_values_that_never_go_out(field, value):
    clearance = clearance_of({field: {"x-name": value}})
    assert clearance is not None
    assert dict(clearance.headers) == dict(clearance.cookies) == {}


@pytest.mark.parametrize("value", ["a;b", "a; evil=1", "a b", "a\tb", "a,b\r\n"])
def test_a_cookie_s_value_cannot_add_another(value):
    clearance = clearance_of({"cookies": {"cf_clearance": value}})
    assert clearance is not None
    assert clearance.cookies == {}


def test_no_more_headers_and_cookies_than_any_browser_sends():
    many = {f"x{number}": "y" for number in range(5000)}
    clearance = clearance_of({"header": many, "cookies": many})
    assert clearance is not None
    assert len(clearance.headers) == len(clearance.cookies) == 100


@pytest.mark.parametrize(
    ("cookie", "renews"),
    [
        ("cf_clearance=new; Path=/; Domain=.shop.example", True),
        ("cf_clearance=new; Path=/", True),
        ("cf_clearance=new; Path=/; Domain=other.example", False),
        ("cf_clearance=new; Path=/; Domain=example", False),
        ('cf_clearance="a b"; Path=/', False),
        ("cf_clearance=a\x01b; Path=/", False),
        ("cf_clearance=; Path=/", False),
        ("cf_clearance=new; Path=/; Max-Age=0", False),
    ],
)
def test_a_renewed_cookie_must_be_one_of_the_zone(cookie, renews):
    clearance = clearance_of({"cookies": {"cf_clearance": "old"}})
    assert clearance is not None
    request = Request("http://www.shop.example/")
    response = Response(request.url, headers={"Set-Cookie": cookie}, request=request)
    fresh = clearance.fresh_cookies(request, response)
    assert fresh == ({"cf_clearance": "new"} if renews else {})


@pytest.mark.parametrize("body", ["\ud800", "\0", "plain", "<meta charset=utf-16>é"])
def test_a_page_in_odd_characters_can_be_answered_with(body):
    answer = json.dumps({"errorId": 0, "status": "ready", "solution": {"body": body}}).encode()
    solution = parse_task_result(answer, status=200, task_id="1")
    assert solution is not None
    assert solution.body is not None
    assert solution.body.encode("utf-8", "replace")
