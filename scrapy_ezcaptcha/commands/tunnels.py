"""Checks whether proxies open a tunnel to a site, and how long that takes."""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from base64 import b64encode
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from scrapy_ezcaptcha.exit import Exit

#: The number of proxies that are tried at the same time, and the seconds for each.
MAX_AT_ONCE = 32
TIMEOUT = 10.0

_MAX_BYTES = 65_536  # of a proxy's answer
_SOCKS_REPLIES = {1: "failed", 2: "not allowed", 3: "network unreachable", 4: "host unreachable"}
_SOCKS_REPLIES |= {5: "refused by the site", 6: "expired", 7: "not supported", 8: "not supported"}


@dataclass(frozen=True)
class Answer:
    """What a proxy answered. ``is_refused`` is True if it refuses the credentials."""

    text: str
    seconds: float
    is_open: bool = False
    is_refused: bool = False


class _NoTunnel(Exception):
    def __init__(self, text: str, *, is_refused: bool = False) -> None:
        self.is_refused = is_refused
        super().__init__(text)


def try_tunnels(
    exits: Sequence[Exit], host: str, port: int, *, encoding: str, timeout: float = TIMEOUT
) -> Iterator[Answer]:
    """Yield the answer of each of *exits*, in their order.

    *encoding* is for user names and passwords. This uses its own event loop.
    """
    loop = asyncio.new_event_loop()
    slots = asyncio.Semaphore(MAX_AT_ONCE)

    async def try_one(exit: Exit) -> Answer:
        async with slots:
            return await _try_tunnel(exit, host, port, encoding, timeout)

    tasks = [loop.create_task(try_one(exit)) for exit in exits]
    try:
        for task in tasks:
            yield loop.run_until_complete(task)
    finally:
        for task in tasks:
            task.cancel()
        loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        loop.close()


async def _try_tunnel(exit: Exit, host: str, port: int, encoding: str, timeout: float) -> Answer:
    began = time.monotonic()
    is_open = is_refused = False
    try:
        text = await asyncio.wait_for(_open_tunnel(exit, host, port, encoding), timeout)
        is_open = True
    except _NoTunnel as error:
        text, is_refused = str(error), error.is_refused
    except asyncio.TimeoutError:
        text = f"no answer within {timeout:g} s"
    except (OSError, EOFError, OverflowError, ValueError) as error:
        text = _in_words(error)
    return Answer(text, time.monotonic() - began, is_open, is_refused)


def _in_words(error: Exception) -> str:
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"
    if isinstance(error, socket.gaierror):
        return "no such host"
    if isinstance(error, ssl.SSLError):
        return "no TLS"
    if isinstance(error, EOFError | ConnectionError):
        return "connection closed"
    if isinstance(error, OSError):
        return error.strerror or type(error).__name__
    return "not the answer of a proxy"


async def _open_tunnel(exit: Exit, host: str, port: int, encoding: str) -> str:
    """Return the answer of a proxy that opens the tunnel; raise _NoTunnel for other answers."""
    tls = None
    if exit.scheme == "https":
        tls = ssl.create_default_context()
        tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE  # Scrapy's default
    reader, writer = await asyncio.open_connection(exit.host, exit.port, limit=_MAX_BYTES, ssl=tls)
    try:
        speak = _socks if exit.scheme == "socks5" else _connect
        return await speak(reader, writer, exit, f"{host}:{port}", encoding)
    finally:
        writer.transport.abort()


async def _connect(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, exit: Exit, to: str, encoding: str
) -> str:
    credentials = b64encode(f"{exit.username}:{exit.password}".encode(encoding)).decode()
    lines = (f"CONNECT {to} HTTP/1.1", f"Host: {to}", f"Proxy-Authorization: Basic {credentials}")
    writer.write("\r\n".join((*lines, "", "")).encode("ascii"))
    line = await reader.readline()
    if not line:
        raise EOFError
    version, _, rest = line.partition(b" ")
    if not version.startswith(b"HTTP/"):
        raise ValueError("not HTTP")
    status = int(rest[:3])
    phrase = HTTPStatus(status).phrase if status in set(HTTPStatus) else ""
    text = f"{status} {phrase}".strip()
    if not 200 <= status < 300:
        raise _NoTunnel(text, is_refused=status == HTTPStatus.PROXY_AUTHENTICATION_REQUIRED)
    return text


async def _socks(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, exit: Exit, to: str, encoding: str
) -> str:
    """Speak SOCKS 5 (RFC 1928) with user name and password (RFC 1929)."""
    host, _, port = to.rpartition(":")
    user, password = exit.username.encode(encoding), exit.password.encode(encoding)
    writer.write(b"\x05\x01\x02")
    if await reader.readexactly(2) != b"\x05\x02":
        raise _NoTunnel("takes no user name and password", is_refused=True)
    writer.write(b"\x01%c%b%c%b" % (len(user), user, len(password), password))
    if (await reader.readexactly(2))[1] != 0:
        raise _NoTunnel("user name or password refused", is_refused=True)
    address = host.encode("idna")
    writer.write(b"\x05\x01\x00\x03%c%b" % (len(address), address) + int(port).to_bytes(2, "big"))
    reply = (await reader.readexactly(2))[1]
    if reply != 0:
        raise _NoTunnel(_SOCKS_REPLIES.get(reply, f"reply {reply}"))
    return "connected"
