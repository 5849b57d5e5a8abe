"""Proxies that the doctor tries, as they answer on the wire."""

from __future__ import annotations

import socket
import ssl
import threading
from contextlib import contextmanager

import pytest
import trustme

from scrapy_ezcaptcha.commands.tunnels import MAX_AT_ONCE, try_tunnels
from scrapy_ezcaptcha.exit import Exit


@contextmanager
def proxy(*script, tls=None):
    """A proxy that, in turn, reads up to so many bytes or sends some; its port, what it read."""
    read = []
    listening = socket.create_server(("127.0.0.1", 0))

    def serve():
        with listening.accept()[0] as plain, secured(plain, tls) as connection:
            for step in script:
                if isinstance(step, bytes):
                    connection.sendall(step)
                else:
                    read.append(connection.recv(step))

    thread = threading.Thread(target=serve)
    thread.start()
    with listening:
        yield listening.getsockname()[1], read
        thread.join()


@contextmanager
def secured(connection, tls):
    if tls is None:
        yield connection
    else:
        with tls.wrap_socket(connection, server_side=True) as secure:
            yield secure


def ask(scheme, port, *, user="user", password="s3cret", **options):
    exit = Exit(scheme, "127.0.0.1", port, user, password)
    (answer,) = try_tunnels([exit], "shop.example", 443, encoding="latin-1", **options)
    return answer


@pytest.mark.parametrize(
    ("sent", "text", "is_open", "is_refused"),
    [
        (b"HTTP/1.1 200 Connection established\r\n\r\n", "200 OK", True, False),
        (b"HTTP/1.0 200\r\n", "200 OK", True, False),
        (b"HTTP/1.1 407 \x1b[31m\r\n\r\n", "407 Proxy Authentication Required", False, True),
        (b"HTTP/1.1 403 No\r\n\r\n", "403 Forbidden", False, False),
        (b"HTTP/1.1 799 No\r\n\r\n", "799", False, False),
        (b"HTTP/1.1 abc\r\n\r\n", "not the answer of a proxy", False, False),
        (b"SSH-2.0-OpenSSH\r\n", "not the answer of a proxy", False, False),
        (b"", "connection closed", False, False),
        (b"x" * 70_000 + b"\n", "not the answer of a proxy", False, False),
    ],
)
def test_http(sent, text, is_open, is_refused):
    with proxy(10_000, sent) as (port, read):
        answer = ask("http", port)
    assert (answer.text, answer.is_open, answer.is_refused) == (text, is_open, is_refused)
    assert read[0].splitlines() == [
        b"CONNECT shop.example:443 HTTP/1.1",
        b"Host: shop.example:443",
        b"Proxy-Authorization: Basic dXNlcjpzM2NyZXQ=",
        b"",
    ]


def test_https():
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    trustme.CA().issue_cert("proxy.example").configure_cert(tls)
    with proxy(10_000, b"HTTP/1.1 200 OK\r\n\r\n", tls=tls) as (port, read):
        assert ask("https", port).is_open
    assert read[0].startswith(b"CONNECT shop.example:443 HTTP/1.1\r\n")


def test_https_to_a_proxy_without_tls():
    with proxy(10_000, b"HTTP/1.1 400 Bad Request\r\n\r\n") as (port, _):
        assert ask("https", port).text == "no TLS"


LOGIN = b"\x01\x04user\x06s3cret"
CONNECT = b"\x05\x01\x00\x03\x0cshop.example\x01\xbb"


@pytest.mark.parametrize(
    ("script", "text", "is_open", "is_refused"),
    [
        ([3, b"\x05\x02", 64, b"\x01\x00", 64, b"\x05\x00"], "connected", True, False),
        ([3, b"\x05\x02", 64, b"\x01\x00", 64, b"\x05\x05"], "refused by the site", False, False),
        ([3, b"\x05\x02", 64, b"\x01\x00", 64, b"\x05\x63"], "reply 99", False, False),
        ([3, b"\x05\x02", 64, b"\x01\x01"], "user name or password refused", False, True),
        ([3, b"\x05\xff"], "takes no user name and password", False, True),
        ([3], "connection closed", False, False),
    ],
)
def test_socks5(script, text, is_open, is_refused):
    with proxy(*script) as (port, read):
        answer = ask("socks5", port)
    assert (answer.text, answer.is_open, answer.is_refused) == (text, is_open, is_refused)
    assert read == [b"\x05\x01\x02", LOGIN, CONNECT][: len(read)]


def test_a_proxy_that_never_answers_has_its_time():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        answer = ask("http", silent.getsockname()[1], timeout=0.2)
    assert answer.text == "no answer within 0.2 s"
    assert not answer.is_open


def test_a_user_name_that_is_too_long_for_socks5():
    with proxy(3, b"\x05\x02") as (port, _):
        assert ask("socks5", port, user="u" * 256).text == "not the answer of a proxy"


def test_so_many_are_tried_at_once_and_no_more():
    """Each is answered once as many are there as are tried at once."""
    listening = socket.create_server(("127.0.0.1", 0), backlog=100)
    gathered, lock, open_now, most = threading.Barrier(MAX_AT_ONCE), threading.Lock(), [], []

    def serve():
        with listening.accept()[0] as connection:
            connection.recv(10_000)
            with lock:
                open_now.append(connection)
                most.append(len(open_now))
            gathered.wait(30)
            with lock:
                open_now.remove(connection)
            connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")

    exits = [Exit("http", "127.0.0.1", listening.getsockname()[1], "u", "p")] * 2 * MAX_AT_ONCE
    threads = [threading.Thread(target=serve) for _ in exits]
    for thread in threads:
        thread.start()
    answers = list(try_tunnels(exits, "shop.example", 443, encoding="latin-1", timeout=30))
    for thread in threads:
        thread.join()
    listening.close()
    assert all(answer.is_open for answer in answers)
    assert max(most) == MAX_AT_ONCE
