from __future__ import annotations

import os
import pickle
import re
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scrapy import Request
from scrapy.downloadermiddlewares.httpproxy import HttpProxyMiddleware
from scrapy.settings import Settings

from scrapy_ezcaptcha.crawl.proxies import ProxyFinder
from scrapy_ezcaptcha.errors import ExitError
from scrapy_ezcaptcha.exit import Exit, check_exit, exit_error, is_loopback, is_private

FULL = "http://user:pa%40ss@proxy.example:8080"
PROXY_VARIABLES = ("http_proxy", "https_proxy", "no_proxy")


@pytest.fixture(autouse=True)
def no_proxies_around(monkeypatch):
    for name in PROXY_VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def finder(**settings):
    return ProxyFinder(Settings(settings))


def sent(url="http://shop.example/", **meta):
    """A request as it is when its response comes: after Scrapy's HttpProxyMiddleware."""
    request = Request(url, meta=meta)
    HttpProxyMiddleware("latin-1").process_request(request)
    return request


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        (FULL, ("http", "proxy.example", 8080, "user", "pa@ss")),
        ("socks5://u:p@10.0.0.1", ("socks5", "10.0.0.1", 1080, "u", "p")),
        ("https://u:p@Proxy.Example", ("https", "proxy.example", 443, "u", "p")),
        ("u:p@proxy.example:3128", ("http", "proxy.example", 3128, "u", "p")),
        ("http://[2001:db8::1]:80", ("http", "2001:db8::1", 80, "", "")),
    ],
)
def test_a_proxy_url_is_read(url, expected):
    exit = Exit.parse(url)
    assert (exit.scheme, exit.host, exit.port, exit.username, exit.password) == expected


@pytest.mark.parametrize(
    "url",
    ["", "http://", "ftp://u:p@h:1", "http://h:99999", "http://h:x", "http://[", None, 7, "a b"],
)
def test_what_is_no_proxy_url_is_said_without_repeating_it(url):
    with pytest.raises(ExitError, match="not a URL of the form") as caught:
        Exit.parse(url)
    assert caught.value.cause == "unreadable"


names = st.text(st.characters(min_codepoint=33, max_codepoint=0xFF), min_size=1, max_size=12)


@given(names, names)
def test_any_credentials_survive_the_way_there_and_back(username, password):
    exit = Exit("http", "proxy.example", 8080, username, password)
    assert Exit.parse(exit.url) == exit


def test_it_is_found_again_in_a_process_that_hashes_strings_in_another_way():
    script = (
        "import pickle, sys; exit = pickle.load(sys.stdin.buffer); {exit};"
        " sys.stdout.buffer.write(pickle.dumps(exit))"
    )
    there_and_back = subprocess.run(
        [sys.executable, "-c", script],
        input=pickle.dumps(Exit.parse(FULL)),
        env={**os.environ, "PYTHONHASHSEED": "7"},
        capture_output=True,
        check=True,
    )
    assert pickle.loads(there_and_back.stdout) in {Exit.parse(FULL)}


def test_neither_repr_nor_str_shows_credentials():
    exit = Exit.parse(FULL)
    assert "pa@ss" not in repr(exit)
    assert "user" not in f"{exit!r}{exit}".replace("username", "")
    assert str(exit) == exit.label
    assert "pa@ss" in exit.secrets
    assert Exit.parse("http://proxy.example:1").secrets == ()


def test_a_label_is_short_and_the_same_in_every_process():
    assert Exit.parse(FULL).label == "proxy.example:8080#258206"
    assert Exit.parse("http://user:another@proxy.example:8080").label == Exit.parse(FULL).label
    assert Exit.parse("socks5://[2001:db8::1]").label == "[2001:db8::1]:1080"
    assert (
        exit_error("private", Exit.parse(FULL)).args[0].startswith("the proxy proxy.example:8080#")
    )


def test_labels_tell_the_sessions_of_one_gateway_apart():
    labels = {
        Exit.parse(f"http://user-session-{number}:secret@gate.example:8000").label
        for number in range(1, 101)
    }
    assert len(labels) == 100


@given(names, names)
def test_a_label_shows_neither_user_name_nor_password(username, password):
    label = Exit("http", "proxy.example", 8080, username, password).label
    assert re.fullmatch(r"proxy\.example:8080#[0-9a-f]{6}", label)
    assert Exit("http", "proxy.example", 8080, username, password + "x").label == label


def test_meta_proxy_is_put_together_with_the_header_that_scrapy_made():
    request = sent(proxy=FULL)
    assert request.meta["proxy"] == "http://proxy.example:8080"
    assert finder().after_sending(request) == Exit.parse(FULL)


def test_before_sending_meta_proxy_still_has_its_credentials():
    assert finder().before_sending(
        Request("http://x.example/", meta={"proxy": FULL})
    ) == Exit.parse(FULL)


def test_a_replayed_request_keeps_its_exit():
    assert finder().before_sending(sent(proxy=FULL).copy()) == Exit.parse(FULL)


def test_credentials_of_another_proxy_are_not_taken_over():
    request = sent(proxy=FULL)
    request.meta["proxy"] = "http://other.example:1"
    assert finder().before_sending(request) == Exit.parse("http://other.example:1")


def test_the_environment_and_no_proxy_count(monkeypatch):
    monkeypatch.setenv("http_proxy", FULL)
    monkeypatch.setenv("no_proxy", "inside.example")
    find = finder().before_sending
    assert find(Request("http://shop.example/")) == Exit.parse(FULL)
    assert find(Request("https://shop.example/")) is None
    assert find(Request("http://inside.example/")) is None
    assert find(Request("http://shop.example/", meta={"proxy": None})) is None
    assert finder(HTTPPROXY_ENABLED=False).before_sending(Request("http://shop.example/")) is None


def test_no_proxy_is_no_exit():
    assert finder().before_sending(Request("http://shop.example/")) is None
    assert finder().after_sending(sent()) is None


@pytest.mark.parametrize("header", [b"Bearer x", b"Basic !!!", b"Basic", b""])
def test_an_odd_authorization_header_carries_no_credentials(header):
    request = Request("http://x.example/", headers={"Proxy-Authorization": header})
    request.meta["proxy"] = "http://proxy.example:1"
    assert finder().after_sending(request) == Exit.parse("http://proxy.example:1")


@pytest.mark.parametrize("url", ["http://h:x", "http://"])
def test_an_unreadable_proxy_is_named_before_and_after_sending(url):
    for find in (finder().before_sending, finder().after_sending):
        with pytest.raises(ExitError, match="not a URL"):
            find(Request("http://x.example/", meta={"proxy": url}))


@pytest.mark.parametrize(
    ("url", "cause", "says"),
    [
        (None, "none", "EZCAPTCHA_PROXY"),
        ("http://proxy.example:1", "credentials", "http://user:password@host:port"),
        ("http://user@proxy.example:1", "credentials", "user name and password"),
        ("http://u:p@127.0.0.1:1", "private", "public address"),
        ("http://u:p@localhost:1", "private", "public address"),
    ],
)
def test_an_exit_of_no_use_says_what_to_set(url, cause, says):
    with pytest.raises(ExitError, match=says) as caught:
        check_exit(Exit.parse(url) if url else None)
    assert caught.value.cause == cause
    assert caught.value.is_terminal()


def test_private_is_fine_while_the_service_is_on_loopback():
    exit = Exit.parse("http://u:p@127.0.0.1:1")
    assert check_exit(exit, allow_private=True) is exit


@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1", "127.9.9.9", "10.1.2.3", "172.16.0.1", "172.31.9.9", "192.168.1.1"),
        *("169.254.1.1", "0.0.0.0", "::1", "fd00::1", "fe80::1", "::ffff:10.0.0.1"),
        *("localhost", "a.localhost"),
    ],
)
def test_private_hosts(host):
    assert is_private(host)


@pytest.mark.parametrize(
    "host", ["8.8.8.8", "172.32.0.1", "203.0.113.7", "2001:db8::1", "proxy.example", "10.example"]
)
def test_public_hosts(host):
    assert not is_private(host)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_loopback_hosts(host):
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["10.0.0.1", "localhost.example", "", "api.ez-captcha.com"])
def test_hosts_elsewhere(host):
    assert not is_loopback(host)
