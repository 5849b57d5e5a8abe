from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scrapy.http import Headers, HtmlResponse, Response

from scrapy_ezcaptcha import is_challenge
from scrapy_ezcaptcha.challenge import (
    MAX_SCAN,
    SIGN_FORM,
    SIGN_HEADER,
    SIGN_OPTIONS,
    SIGN_ORCHESTRATE,
    SIGN_SCRIPT,
    challenge_sign,
    page_sign,
)
from scrapy_ezcaptcha.sandbox import pages

CAPTURED = Path(__file__).parents[3] / "shared" / "challenge-pages" / "pages.jsonl"
CLOUDFLARE = {"Server": "cloudflare", "CF-RAY": "8f0000000000-LHR"}

OPTIONS = b"<script>(function(){window._cf_chl_opt={cvId:'3',cType:'managed'};}());</script>"
ORCHESTRATE = (
    b'<script src="/cdn-cgi/challenge-platform/h/b/orchestrate/chl_page/v1?ray=1"></script>'
)


def response(status=403, headers=None, body=b""):
    return HtmlResponse(
        "https://shop.example/", status=status, headers={**CLOUDFLARE, **(headers or {})}, body=body
    )


def captured_pages():
    if not CAPTURED.exists():
        return [pytest.param(None, marks=pytest.mark.skip("the captured pages are not here"))]
    with CAPTURED.open(encoding="utf-8") as lines:
        return [pytest.param(page, id=page["id"]) for page in map(json.loads, lines)]


@pytest.mark.parametrize("page", captured_pages())
def test_captured_pages_are_judged_right(page):
    seen = HtmlResponse(
        "https://any.example/", page["status"], page["headers"], page["body"].encode()
    )
    assert is_challenge(seen) is (page["kind"] == "challenge")


@pytest.mark.parametrize("page", captured_pages())
def test_captured_pages_are_judged_right_when_a_proxy_dropped_the_header(page):
    headers = {k: v for k, v in page["headers"].items() if k.lower() != "cf-mitigated"}
    seen = HtmlResponse("https://any.example/", page["status"], headers, page["body"].encode())
    assert is_challenge(seen) is (page["kind"] == "challenge")


@pytest.mark.parametrize("status", [200, 403, 429, 503, 404])
@pytest.mark.parametrize("value", ["challenge", "Challenge", " challenge "])
def test_the_header_decides_alone_at_any_status(status, value):
    seen = Response("https://x.example/", status=status, headers={"cf-mitigated": value})
    assert challenge_sign(seen) == SIGN_HEADER


def test_head_without_a_body_is_a_challenge_by_its_header():
    assert is_challenge(Response("https://x.example/", 403, {"cf-mitigated": "challenge"}, b""))


@pytest.mark.parametrize("value", ["block", "", "challenged", "no-challenge"])
def test_no_other_value_of_the_header_is_a_challenge(value):
    assert not is_challenge(response(headers={"cf-mitigated": value}, body=b"<p>no</p>"))


@pytest.mark.parametrize(
    ("body", "sign"),
    [
        (OPTIONS, SIGN_OPTIONS),
        (OPTIONS.replace(b"script", b"SCRIPT"), SIGN_OPTIONS),
        (b"<script>window._cf_chl_opt = {\n cRay: '1',", SIGN_OPTIONS),  # truncated
        (ORCHESTRATE, SIGN_ORCHESTRATE),
        (
            b"<script>cpo.src='/cdn-cgi/challenge-platform/h/g/orchestrate/jsch/v1'</script>",
            SIGN_ORCHESTRATE,
        ),
        (b'<script src="/cdn-cgi/scripts/cf.challenge.js" data-ray="1"></script>', SIGN_SCRIPT),
        (b'<form><input type="hidden" name="jschl_vc" value="1">', SIGN_FORM),
        (b'<input type="hidden" id="jschl-answer" name="jschl_answer"/>', SIGN_FORM),
        (b"<input name=cf_captcha_kind value=h>", SIGN_FORM),
        (
            b"<title>\xd0\x9e\xd0\xb4\xd0\xb8\xd0\xbd</title>" + b"<p>" * 5000 + OPTIONS,
            SIGN_OPTIONS,
        ),
        (b"<!-- a comment --><style>p{}</style>" + ORCHESTRATE, SIGN_ORCHESTRATE),
    ],
)
@pytest.mark.parametrize("status", [403, 429, 503])
def test_the_pages_machinery_is_a_sign(body, sign, status):
    assert challenge_sign(response(status, body=body)) == sign


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"<title>Just a moment...</title>", id="words"),
        pytest.param(b"<h1>Sorry, you have been blocked</h1> error 1020", id="block"),
        pytest.param(
            b"<script>window['__CF$cv$params']={r:'1'};d.src="
            b"'/cdn-cgi/challenge-platform/scripts/jsd/main.js'</script>",
            id="javascript-detections",
        ),
        pytest.param(
            b'<script src="https://challenges.cloudflare.com/turnstile/v0/api.js"></script>',
            id="turnstile",
        ),
        pytest.param(b"<pre>window._cf_chl_opt={cType: 'managed'}</pre>", id="quoted"),
        pytest.param(b"<!-- " + OPTIONS + ORCHESTRATE + b" -->", id="commented-out"),
        pytest.param(b"<textarea>" + OPTIONS + b"</textarea>", id="textarea"),
        pytest.param(b"<title>" + OPTIONS + b"</title>", id="title"),
        pytest.param(
            b'<script type="application/ld+json">{"text": "_cf_chl_opt={cType:1}"}</script>',
            id="json",
        ),
        pytest.param(b"<script>x('_cf_chl_opt'); y.cType = 1</script>", id="only-named"),
        pytest.param(b'{"error": "forbidden", "field": "jschl_vc"}', id="json-body"),
        pytest.param(b'<a href="/cdn-cgi/challenge-platform/h/b/orchestrate/x">x</a>', id="link"),
        pytest.param(b"", id="empty"),
    ],
)
def test_what_only_looks_like_one_is_none(body):
    assert not is_challenge(response(body=body))


@pytest.mark.parametrize("status", [200, 301, 404, 500, 520, 530])
def test_other_statuses_are_none_whatever_their_body(status):
    assert not is_challenge(response(status, body=OPTIONS))


def test_a_page_that_did_not_come_through_cloudflare_is_not_a_challenge():
    seen = HtmlResponse("https://x.example/", 403, {"Server": "nginx"}, body=OPTIONS)
    assert not is_challenge(seen)


@pytest.mark.parametrize("headers", [{"Server": "cloudflare"}, {"CF-RAY": "1-LHR"}])
def test_either_sign_of_cloudflare_is_enough(headers):
    assert is_challenge(HtmlResponse("https://x.example/", 403, headers, body=OPTIONS))


def test_the_body_is_read_only_if_status_and_headers_do_not_decide():
    class Untouchable:
        def __init__(self, status, headers):
            self.status = status
            self.headers = Headers(headers)

        @property
        def body(self):
            raise AssertionError("the body was read")

    assert not is_challenge(Untouchable(200, CLOUDFLARE))
    assert not is_challenge(Untouchable(403, {"Server": "nginx"}))
    assert is_challenge(Untouchable(403, {"cf-mitigated": "challenge"}))
    with pytest.raises(AssertionError, match="was read"):
        is_challenge(Untouchable(403, CLOUDFLARE))


@pytest.mark.parametrize(("kind", "sign"), [("managed", 1), ("legacy", 1), ("captcha", 1)])
def test_the_sandboxs_challenges_are_challenges(kind, sign):
    assert page_sign(pages.challenge_page(kind, "shop.example").encode())


@pytest.mark.parametrize("kind", ["block", "rate_limit", "turnstile", "article", "forbidden"])
def test_the_sandboxs_look_alikes_are_none(kind):
    status, page = pages.look_alike(kind, "shop.example")
    assert not is_challenge(response(status, body=page.encode()))


@given(st.binary(max_size=400), st.sampled_from([OPTIONS, ORCHESTRATE, b"<script", b"<!--", b""]))
def test_it_never_raises(noise, marker):
    page_sign(noise + marker + noise)


@pytest.mark.parametrize("machinery", [OPTIONS, ORCHESTRATE])
@pytest.mark.parametrize("size", [340_000, 3_000_000])
@pytest.mark.parametrize(
    ("before", "filler", "after"),
    [
        (b"<style>@font-face{src:url(data:font/woff2;base64,", b"A", b")}</style>"),
        (b"<script>var picture = '", b"A", b"'</script>"),
        (b"", b"<p>Please wait</p>", b""),
        (b"<!--", b" a comment ", b"-->"),
    ],
    ids=["font", "script", "markup", "comment"],
)
def test_a_site_can_have_much_before_the_challenge_script(machinery, size, before, filler, after):
    body = before + filler * (size // len(filler)) + after + machinery
    assert page_sign(body) is not None


@pytest.mark.parametrize(
    "part",
    [
        b"x('_cf_chl_opt');",
        b"<pre>window._cf_chl_opt={cType: 'managed'}</pre>",
        b"<!-- " + OPTIONS + b" -->",
        b"<script>_cf_chl_opt={ x:1; ",
        b"<script>a._cf_chl_opt={cType:1}",
        b'<a href="/cdn-cgi/challenge-platform/h/b/orchestrate/x">x</a>',
        b"<script src='/cdn-cgi/challenge-platform/scripts/jsd/main.js'></script>",
        b'{"field": "jschl_vc"}',
    ],
)
def test_a_look_alike_that_is_repeated_is_not_a_challenge(part):
    assert page_sign(part * 10_000) is None


def test_beyond_the_bound_nothing_is_read():
    assert page_sign(b" " * MAX_SCAN + OPTIONS) is None
    assert page_sign(OPTIONS + b" " * MAX_SCAN) == SIGN_OPTIONS
