"""What the simulated sites answer: pages, challenges, and a few paths with a special effect."""

from __future__ import annotations

import gzip
import json
import secrets
from dataclasses import replace
from http.cookies import CookieError, SimpleCookie
from importlib import import_module
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

from scrapy_ezcaptcha.sandbox import pages
from scrapy_ezcaptcha.sandbox.http import Reply

if TYPE_CHECKING:
    from collections.abc import Callable

    from scrapy_ezcaptcha.sandbox.http import Call
    from scrapy_ezcaptcha.sandbox.sites import Protection, Site

    _Content = tuple[int, str, bytes, list[tuple[str, str]]]  # status, type, body, headers

_HTML = "text/html; charset=UTF-8"


def cookies_of(call: Call) -> dict[str, str]:
    """Return the cookies of a request."""
    jar: SimpleCookie = SimpleCookie()
    try:
        jar.load(call.header("cookie") or "")
    except CookieError:
        return {}
    return {name: morsel.value for name, morsel in jar.items()}


def page_body(site: Site, host: str, url: str) -> bytes:
    """Return the page that a browser sees at *url* after the challenge."""
    parts = urlsplit(url)
    return pages.catalogue_page(host, parts.path or "/", site.items).encode()


def challenge_reply(site: Site, protection: Protection, host: str) -> Reply:
    """Return the challenge of *host*."""
    body = pages.challenge_page(protection.page, host).encode()
    headers = [*_edge_headers(), ("Content-Type", "text/html; charset=UTF-8")]
    headers.append(("Cache-Control", "private, max-age=0, no-store, no-cache, must-revalidate"))
    if protection.mitigated:
        headers.append(("cf-mitigated", "challenge"))
    return Reply(protection.status, tuple(headers), body, delay=site.latency)


def page_reply(site: Site, host: str, url: str, call: Call, renewed: str | None) -> Reply:
    """Return the page of *url* for a request that is not challenged."""
    status, content_type, body, extra = _content(site, host, url, call)
    headers = [*_edge_headers(), ("Content-Type", content_type), *extra]
    if renewed is not None:
        domain = site.zone if not (site.protection and site.protection.per_host) else host
        headers.append(
            (
                "Set-Cookie",
                f"cf_clearance={renewed}; Path=/; Domain=.{domain}; HttpOnly; Max-Age=1800",
            )
        )
    return Reply(status, tuple(headers), body, delay=site.latency)


def _content(site: Site, host: str, url: str, call: Call) -> _Content:
    if site.kind != "catalogue":
        status, text = pages.look_alike(site.kind, host)
        return status, "application/json" if text.startswith("{") else _HTML, text.encode(), []
    parts = urlsplit(url)
    query = parse_qs(parts.query)
    if parts.path.startswith("/image/"):
        return 200, "image/png", pages.IMAGE, []
    answer = _SPECIAL_PAGES.get(parts.path)
    if answer is not None:
        return answer(lambda name, default: query.get(name, [default])[0], call)
    return 200, _HTML, page_body(site, host, url), [("Cache-Control", "max-age=600")]


def _echo(call: Call) -> _Content:
    echo = {
        "method": call.method,
        "headers": dict(call.headers),
        "cookies": cookies_of(call),
        "body": call.body.decode("latin-1"),
    }
    return 200, "application/json", json.dumps(echo).encode(), []


_SPECIAL_PAGES: dict[str, Callable[[Callable[[str, str], str], Call], _Content]] = {
    "/robots.txt": lambda _, __: (200, "text/plain", b"User-agent: *\nDisallow: /private/\n", []),
    "/echo": lambda _, call: _echo(call),
    "/redirect": lambda query, _: (302, _HTML, b"", [("Location", query("to", "/"))]),
    "/refresh": lambda query, _: (200, _HTML, pages.refresh_page(query("to", "/")).encode(), []),
    "/set-cookie": lambda query, _: (
        200,
        _HTML,
        b"<p>cookie set</p>",
        [("Set-Cookie", query("cookie", "session=of-the-site; Path=/"))],
    ),
    "/status": lambda query, _: (int(query("code", "200")), _HTML, b"<p>as requested</p>", []),
}


def encoded(reply: Reply, encoding: str | None, call: Call) -> Reply:
    """Return *reply* in *encoding*, if the client accepts that."""
    accepted = [
        item.partition(";")[0].strip() for item in (call.header("accept-encoding") or "").split(",")
    ]
    if encoding is None or encoding not in accepted:
        return reply
    headers = (*reply.headers, ("Content-Encoding", encoding))
    return replace(reply, headers=headers, body=_compress(reply.body, encoding))


def _compress(body: bytes, encoding: str) -> bytes:
    if encoding == "gzip":
        return gzip.compress(body)
    library = import_module({"br": "brotli", "zstd": "zstandard"}[encoding])
    return bytes(library.compress(body))


def _edge_headers() -> list[tuple[str, str]]:
    return [("Server", "cloudflare"), ("CF-RAY", f"{secrets.token_hex(8)}-LHR")]
