from __future__ import annotations

import pytest
from fakes import LOG
from hypothesis import given
from hypothesis import strategies as st
from scrapy import Request
from scrapy.http import Response

from scrapy_ezcaptcha.clearances.clearance import Clearance, zone_of
from scrapy_ezcaptcha.clearances.headers import ClearanceHeaders, merge_cookies
from scrapy_ezcaptcha.crawl.memo import location_of
from scrapy_ezcaptcha.exit import Exit
from scrapy_ezcaptcha.service.wire import Solution

EXIT = Exit.parse("http://u:secret@proxy.example:1")
URL = "https://www.shop.example/"


def clearance(headers=None, cookies=None):
    solution = Solution(
        {"user-agent": "UA/1", **(headers or {})}, {"cf_clearance": "secret", **(cookies or {})}
    )
    return Clearance.from_solution(solution, ("shop.example", EXIT), "shop.example", "task1", 1.0)


def headers_for(encodings=("gzip", "br"), **defaults):
    by_name = {name.replace("_", "-").title().encode(): [value] for name, value in defaults.items()}
    return ClearanceHeaders(frozenset(encodings), by_name, LOG)


@pytest.mark.parametrize(
    ("host", "zone"),
    [
        ("www.shop.co.uk", "shop.co.uk"),
        ("shop.com", "shop.com"),
        ("A.B.Shop.COM.", "shop.com"),
        ("a.github.io", "a.github.io"),
        ("x.a.github.io", "a.github.io"),
        ("b.github.io", "b.github.io"),
        ("www.shop.example", "shop.example"),
        ("127.0.0.1", "127.0.0.1"),
        ("::1", "::1"),
        ("localhost", "localhost"),
        ("co.uk", "co.uk"),
        ("", ""),
        ("www.xn--mnchen-3ya.de", "xn--mnchen-3ya.de"),
        ("a.b.xn--55qx5d.cn", "b.xn--55qx5d.cn"),
        ("xn--a.xn--55qx5d.cn", "xn--a.xn--55qx5d.cn"),  # its first label means nothing
        ("xn--" + 1_000_000 * "a" + ".xn--55qx5d.cn", "xn--" + 1_000_000 * "a" + ".xn--55qx5d.cn"),
    ],
    ids=lambda value: value[:30],
)
def test_zones(host, zone):
    assert zone_of(host) == zone


def test_what_belongs_to_one_connection_or_request_is_not_replayed():
    unwanted = ["connection", "host", "cookie", "content-length", "content-type", "te", "upgrade"]
    unwanted += [
        "transfer-encoding",
        "proxy-authorization",
        "authorization",
        "if-none-match",
        "range",
    ]
    kept = clearance(dict.fromkeys(unwanted, "x") | {"sec-ch-ua": "y"}).headers
    assert dict(kept) == {"user-agent": "UA/1", "sec-ch-ua": "y"}


def test_no_repr_shows_a_secret():
    assert "secret" not in repr(clearance())


def test_it_is_put_on_and_taken_off_without_a_trace():
    request = Request(URL, headers={"User-Agent": "mine", "Accept": "*/*", "Cookie": "a=1"})
    before = dict(request.headers)
    headers = headers_for(accept=b"*/*")
    headers.put_on(
        request, clearance({"accept": "text/html", "x-new": "1"}), location_of(request), 1
    )
    assert request.headers["User-Agent"] == b"UA/1"
    assert request.headers["Accept"] == b"text/html"
    assert request.headers["X-New"] == b"1"
    assert request.headers["Cookie"] == b"a=1; cf_clearance=secret"
    headers.take_off(request)
    assert dict(request.headers) == before
    headers.take_off(request)  # once more does nothing
    assert dict(request.headers) == before


def test_who_carried_what_is_told_until_it_is_forgotten():
    request, one, headers = Request(URL), clearance(), headers_for()
    assert headers.carried_by(request) is None
    headers.put_on(request, one, location_of(request), 7)
    headers.take_off(request)
    carried = headers.carried_by(request)
    assert (carried.clearance, carried.number, carried.location.path) == (
        one,
        7,
        "www.shop.example/",
    )
    assert headers.forget(request) is carried
    assert headers.carried_by(request) is None


def test_the_spiders_own_headers_win_except_for_the_user_agent():
    request = Request(URL, headers={"User-Agent": "mine", "Accept-Language": "de", "Accept": "x"})
    one = clearance({"accept-language": "en", "accept": "text/html", "sec-ch-ua": "y"})
    headers_for(accept_language=b"en-GB", accept=b"*/*").put_on(
        request, one, location_of(request), 1
    )
    assert request.headers["User-Agent"] == b"UA/1"
    assert request.headers["Accept-Language"] == b"de"
    assert request.headers["Accept"] == b"x"
    assert request.headers["Sec-Ch-Ua"] == b"y"


@pytest.mark.parametrize(
    ("encodings", "sent"),
    [
        (("gzip", "deflate"), b"gzip, deflate"),
        (("gzip", "deflate", "br", "zstd"), b"gzip, deflate, br;q=0.9, zstd"),
        ((), None),
    ],
)
def test_accept_encoding_is_cut_to_what_this_scrapy_decodes(encodings, sent):
    request = Request(URL)
    headers_for(encodings).put_on(
        request,
        clearance({"accept-encoding": "gzip, deflate, br;q=0.9, zstd, x-new"}),
        location_of(request),
        1,
    )
    assert request.headers.get("Accept-Encoding") == sent


@pytest.mark.parametrize(
    ("own", "given", "sent"),
    [
        ([], {"cf_clearance": "c"}, b"cf_clearance=c"),
        ([b"a=1; b=2"], {"cf_clearance": "c"}, b"a=1; b=2; cf_clearance=c"),
        ([b"a=1; cf_clearance=old; a=2"], {"cf_clearance": "c"}, b"a=1; a=2; cf_clearance=c"),
        ([b"a=1"], {"a": "9", "b": "2"}, b"a=1; b=2"),
        ([b"__cf_bm=old"], {"__cf_bm": "new"}, b"__cf_bm=new"),
        ([b"__cf_bm=site"], {"cf_clearance": "c"}, b"__cf_bm=site; cf_clearance=c"),
        ([b"a=1", b"b=2"], {}, b"a=1; b=2"),
        ([b"; ;odd"], {}, b"odd"),
    ],
)
def test_cookies_are_merged(own, given, sent):
    assert merge_cookies(own, given) == sent


cookie_names = st.text("abcdef_", min_size=1, max_size=6)


@given(
    st.lists(st.tuples(cookie_names, st.text("xyz=", max_size=4)), max_size=5),
    st.dictionaries(cookie_names, st.text("xyz", max_size=4), max_size=5),
)
def test_every_own_cookie_of_another_name_stays(own, given):
    header = "; ".join(f"{name}={value}" for name, value in own).encode()
    merged = merge_cookies([header], {**given, "cf_clearance": "c"}).decode().split("; ")
    assert merged.count("cf_clearance=c") == 1
    for name, value in own:
        assert f"{name}={value}" in merged


def renewed(*set_cookies, url=URL):
    response = Response(url, headers={"Set-Cookie": list(set_cookies)})
    one = clearance()
    return dict(one.with_cookies(one.fresh_cookies(Request(url), response)).cookies)


@pytest.mark.parametrize(
    ("set_cookie", "cookies"),
    [
        ("cf_clearance=new; Path=/; Domain=.shop.example; Secure", {"cf_clearance": "new"}),
        ("__cf_bm=bm; Path=/", {"cf_clearance": "secret", "__cf_bm": "bm"}),
        ("session=x; Path=/", {"cf_clearance": "secret"}),
        ("xcf_clearance=x", {"cf_clearance": "secret"}),
        ("cf_clearance=; Max-Age=0", {"cf_clearance": "secret"}),
        ("cf_clearance=old; Expires=Thu, 01 Jan 1970 00:00:00 GMT", {"cf_clearance": "secret"}),
    ],
)
def test_the_site_renews_what_is_the_edges(set_cookie, cookies):
    assert renewed(set_cookie) == cookies


def test_cookies_that_scrapy_playwright_joined_are_told_apart():
    joined = "session=x; Path=/\ncf_clearance=new; Path=/; Domain=.shop.example\n__cf_bm=bm"
    assert renewed(joined) == {"cf_clearance": "new", "__cf_bm": "bm"}


def test_a_renewed_clearance_keeps_its_id():
    response = Response(URL, headers={"Set-Cookie": "cf_clearance=new"})
    one = clearance()
    fresh = one.fresh_cookies(Request(URL), response)
    assert one.with_cookies(fresh).id == one.id
    assert one.fresh_cookies(Request(URL), Response(URL)) == {}
