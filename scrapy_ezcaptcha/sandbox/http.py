"""HTTP/1.1 for the sandbox: a handler gets a :class:`Call` and returns a :class:`Reply`.

h11 implements the protocol. This module adds the sockets, and ``CONNECT`` with TLS in the tunnel.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, cast

import h11

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable


@dataclass(frozen=True)
class Call:
    """A request. Header names are lower-case."""

    method: str
    target: str
    headers: tuple[tuple[str, str], ...] = field(repr=False)
    body: bytes = b""
    exit: str | None = None
    host: str | None = None  # set in a tunnel
    http_version: str = "1.1"

    def header(self, name: str) -> str | None:
        """Return the last value of a header, None if it is absent."""
        return next((value for key, value in reversed(self.headers) if key == name), None)


@dataclass(frozen=True)
class Reply:
    """An answer, or a way to give none.

    ``after``: send it when this future is done. ``delay``: wait this many seconds after that.
    ``cut``: send only this many bytes of the body, then close.
    ``drip``: after the body, send a byte every this many seconds, without end.
    ``silent``: never answer. ``status`` 0: close at once. ``tunnel_to``: accept a
    ``CONNECT`` to this host, for a client that uses ``exit``.
    """

    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = field(default=b"", repr=False)
    after: asyncio.Future[None] | None = field(default=None, compare=False)
    delay: float = 0.0
    cut: int | None = None
    drip: float = 0.0
    silent: bool = False
    tunnel_to: str | None = None
    exit: str | None = None


def when_due(reply: Reply, send: Callable[[Reply], None]) -> None:
    """Call *send* with *reply* when it is due."""
    if reply.after is not None:
        reply.after.add_done_callback(lambda _: when_due(replace(reply, after=None), send))
    elif reply.delay:
        asyncio.get_running_loop().call_later(reply.delay, send, replace(reply, delay=0.0))
    else:
        send(reply)


class HttpConnection(asyncio.Protocol):
    """A connection of a client.

    Args:
        handler: answers a call.
        tunnel: returns the TLS context and the protocol for a tunnel to a host through an exit.
        exit: the exit of calls in a tunnel.
        host: the host to which a tunnel leads.
    """

    def __init__(
        self,
        handler: Callable[[Call], Reply],
        tunnel: Callable[[str, str | None], tuple[ssl.SSLContext, asyncio.Protocol]] | None = None,
        *,
        exit: str | None = None,
        host: str | None = None,
    ) -> None:
        self._handler = handler
        self._tunnel = tunnel
        self._exit = exit
        self._host = host
        self._http = h11.Connection(h11.SERVER)
        self._request: h11.Request | None = None
        self._body: list[bytes] = []
        self._transport: asyncio.Transport | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport; in a tunnel, the first call may arrive before it."""
        self._transport = cast("asyncio.Transport", transport)
        self._advance()

    def data_received(self, data: bytes) -> None:
        """Feed the parser, and answer complete requests."""
        self._http.receive_data(data)
        self._advance()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        """Drop unanswered requests."""
        self._transport = None

    def abort(self) -> None:
        """Drop the connection, and its tunnel if there is one."""
        if self._transport is not None:
            self._transport.abort()

    def _advance(self) -> None:
        while self._transport is not None:
            try:
                event = self._http.next_event()
            except h11.RemoteProtocolError:
                self._transport.close()
                return
            if isinstance(event, h11.Request):
                self._request, self._body = event, []
            elif isinstance(event, h11.Data):
                self._body.append(bytes(event.data))
            elif isinstance(event, h11.EndOfMessage):
                self._answer(self._take_call())
            else:
                return

    def _take_call(self) -> Call:
        assert self._request is not None
        return Call(
            self._request.method.decode(),
            self._request.target.decode("latin-1"),
            tuple((k.decode("latin-1"), v.decode("latin-1")) for k, v in self._request.headers),
            b"".join(self._body),
            self._exit,
            self._host,
        )

    def _answer(self, call: Call) -> None:
        reply = self._handler(call)
        if not reply.silent:
            when_due(reply, self._send)

    def _send(self, reply: Reply) -> None:
        if self._transport is None:
            return
        if reply.status == 0:
            self._transport.abort()
        elif reply.tunnel_to is not None:
            self._transport.pause_reading()  # the next bytes are for TLS
            self._write(h11.Response(status_code=200, headers=[]))
            task = asyncio.get_running_loop().create_task(self._open_tunnel(reply))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        else:
            self._send_response(reply)

    def _send_response(self, reply: Reply) -> None:
        assert self._request is not None
        assert self._transport is not None
        body = b"" if self._request.method == b"HEAD" else reply.body
        size = ("Transfer-Encoding", "chunked") if reply.drip else _content_length(reply.body)
        self._write(h11.Response(status_code=reply.status, headers=[*reply.headers, size]))
        if reply.drip:
            self._drip(reply.drip)
            return
        if reply.cut is not None:
            self._write(h11.Data(data=body[: reply.cut]))
            self._transport.close()
            return
        if body:
            self._write(h11.Data(data=body))
        self._write(h11.EndOfMessage())
        if self._http.our_state is h11.MUST_CLOSE:
            self._transport.close()
            return
        self._http.start_next_cycle()
        # Not called directly, because a client may have sent its next request already.
        asyncio.get_running_loop().call_soon(self._advance)

    def _drip(self, pause: float) -> None:
        if self._transport is not None:
            self._write(h11.Data(data=b" "))
            asyncio.get_running_loop().call_later(pause, self._drip, pause)

    def _write(self, event: Any) -> None:
        data = self._http.send(event)
        if data and self._transport is not None:
            self._transport.write(data)

    async def _open_tunnel(self, reply: Reply) -> None:
        assert self._transport is not None
        assert self._tunnel is not None
        assert reply.tunnel_to is not None
        context, inside = self._tunnel(reply.tunnel_to, reply.exit)
        loop = asyncio.get_running_loop()
        try:
            transport = await loop.start_tls(self._transport, inside, context, server_side=True)
        except OSError:  # the client closed the connection, or does not use TLS
            self._transport.close()
            return
        if transport is not None:
            inside.connection_made(transport)


def _content_length(body: bytes) -> tuple[str, str]:
    return "Content-Length", str(len(body))
