"""Any answer of the service gives a value or one of our errors, and no malformed header."""

from __future__ import annotations

import json
import logging
import re
import sys

import atheris

with atheris.instrument_imports(include=["scrapy_ezcaptcha", "json"]):
    from scrapy_ezcaptcha.clearances.clearance import Clearance, is_replayed
    from scrapy_ezcaptcha.clearances.headers import ClearanceHeaders
    from scrapy_ezcaptcha.crawl.memo import location_of
    from scrapy_ezcaptcha.errors import EzCaptchaError
    from scrapy_ezcaptcha.exit import Exit
    from scrapy_ezcaptcha.service import wire

from scrapy import Request
from scrapy.utils.python import to_bytes

EXIT = Exit.parse("http://u:p@proxy.example:1")
LOG = logging.LoggerAdapter(logging.getLogger("scrapy_ezcaptcha"), {})
HEADERS = ClearanceHeaders(frozenset({"gzip", "br"}), {}, LOG)
HEADER = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+: ?[\t\x20-\x7e]*")
COOKIE = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+=[\x21-\x3a\x3c-\x7e]*")
NAMES = ("errorId", "errorCode", "status", "taskId", "solution", "header", "cookies", "body")


def answer_of(data: bytes) -> bytes:
    """Raw bytes, or JSON of the documented form with odd values."""
    source = atheris.FuzzedDataProvider(data)
    if source.ConsumeBool():
        return source.ConsumeBytes(4096)
    answer = {name: value_of(source) for name in NAMES[:5]}
    if source.ConsumeBool():
        answer |= {"errorId": 0, "status": "ready"}
        answer["solution"] = {name: value_of(source) for name in (*NAMES[5:], "tlsVersion")}
    return json.dumps(answer).encode()


def value_of(source: atheris.FuzzedDataProvider) -> object:
    choice = source.ConsumeIntInRange(0, 5)
    if choice == 0:
        return source.ConsumeUnicode(40)
    if choice == 1:
        pairs = range(source.ConsumeIntInRange(0, 5))
        return {source.ConsumeUnicode(20): source.ConsumeUnicode(40) for _ in pairs}
    if choice == 2:
        names = ("user-agent", "Host", "cookie", "content-length", "cf_clearance", "x")
        return {name: source.ConsumeString(30) for name in names}
    return (None, source.ConsumeInt(4), [source.ConsumeUnicode(5)])[choice - 3]


def check(data: bytes) -> None:
    body = answer_of(data)
    for parse in (wire.parse_task_id, wire.parse_balance):
        try:
            parse(body, status=200)
        except EzCaptchaError as error:
            assert "\n" not in str(error)
    try:
        solution = wire.parse_task_result(body, status=200, task_id="1")
    except EzCaptchaError as error:
        assert "\n" not in str(error)
        return
    if solution is not None:
        check_replay(solution)


def check_replay(solution: wire.Solution) -> None:
    clearance = Clearance.from_solution(
        solution, ("shop.example", EXIT), "shop.example", "task1", 1.0
    )
    request = Request("http://shop.example/", headers={"X-Mine": "1"})
    before = request.headers.copy()
    HEADERS.put_on(request, clearance, location_of(request), 1)
    for line in to_bytes(request.headers.to_string()).split(b"\r\n"):
        assert HEADER.fullmatch(line), line
    for name in request.headers:
        lower = name.decode().lower()
        assert lower == "cookie" or is_replayed(lower), name
    for cookie in request.headers.get("Cookie", b"").split(b"; "):
        assert not cookie or COOKIE.fullmatch(cookie), cookie
    HEADERS.take_off(request)
    assert request.headers == before


if __name__ == "__main__":
    atheris.Setup(sys.argv, check)
    atheris.Fuzz()
