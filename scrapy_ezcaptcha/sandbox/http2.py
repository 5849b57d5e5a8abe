"""HTTP/2 for the sandbox, if a TLS client asks for it with ALPN. h2 implements the protocol."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import DataReceived, RequestReceived, StreamEnded, StreamReset, WindowUpdated
from h2.exceptions import ProtocolError

from scrapy_ezcaptcha.sandbox.http import Call, HttpConnection, when_due

if TYPE_CHECKING:
    from collections.abc import Callable

    from h2.events import Event

    from scrapy_ezcaptcha.sandbox.http import Reply

ALPN_PROTOCOLS = ("h2", "http/1.1")


class TlsConnection(asyncio.Protocol):
    """A TLS connection with HTTP/1.1 or HTTP/2, as agreed in the handshake.

    Args:
        handler: answers a call.
        exit: the exit of the calls.
        host: the host to which the connection leads; None for the hosts that the calls name.
    """

    def __init__(
        self,
        handler: Callable[[Call], Reply],
        *,
        exit: str | None = None,
        host: str | None = None,
    ) -> None:
        self._handler = handler
        self._exit = exit
        self._host = host
        self._early = b""
        self._chosen: asyncio.Protocol | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Choose the protocol; in a tunnel, the first bytes may have arrived before."""
        tls = transport.get_extra_info("ssl_object")
        speaks_http2 = tls is not None and tls.selected_alpn_protocol() == "h2"
        if speaks_http2:
            self._chosen = Http2Connection(self._handler, exit=self._exit, host=self._host)
        else:
            self._chosen = HttpConnection(self._handler, exit=self._exit, host=self._host)
        self._chosen.connection_made(transport)
        if self._early:
            self._chosen.data_received(self._early)

    def data_received(self, data: bytes) -> None:
        """Pass the data on, or keep it until the protocol is chosen."""
        if self._chosen is None:
            self._early += data
        else:
            self._chosen.data_received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """Pass this on."""
        if self._chosen is not None:
            self._chosen.connection_lost(exc)


@dataclass
class _Stream:
    headers: list[tuple[str, str]]
    body: bytearray = field(default_factory=bytearray)
    unsent: bytes = b""


class Http2Connection(asyncio.Protocol):
    """An HTTP/2 connection of a client, with the arguments of :class:`TlsConnection`."""

    def __init__(
        self, handler: Callable[[Call], Reply], *, exit: str | None, host: str | None
    ) -> None:
        self._handler = handler
        self._exit = exit
        self._host = host
        self._h2 = H2Connection(H2Configuration(client_side=False, header_encoding="latin-1"))
        self._streams: dict[int, _Stream] = {}
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the preface."""
        self._transport = cast("asyncio.Transport", transport)
        self._h2.initiate_connection()
        self._flush()

    def data_received(self, data: bytes) -> None:
        """Feed the protocol, and answer complete requests."""
        try:
            events = self._h2.receive_data(data)
        except ProtocolError:
            events = []
            if self._transport is not None:
                self._transport.close()
        for event in events:
            self._take(event)
        self._flush()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        """Drop unanswered requests."""
        self._transport = None

    def _take(self, event: Event) -> None:
        if isinstance(event, RequestReceived):
            headers = cast("list[tuple[str, str]]", event.headers)
            self._streams[event.stream_id] = _Stream(headers)
        elif isinstance(event, DataReceived):
            number = event.stream_id
            self._streams[number].body += event.data or b""
            self._h2.acknowledge_received_data(event.flow_controlled_length or 0, number)
        elif isinstance(event, StreamEnded):
            self._answer(event.stream_id)
        elif isinstance(event, StreamReset):
            self._streams.pop(event.stream_id, None)
        elif isinstance(event, WindowUpdated):
            for number in list(self._streams):
                self._send_body(number)

    def _answer(self, number: int) -> None:
        stream = self._streams[number]
        pseudo = dict(pair for pair in stream.headers if pair[0].startswith(":"))
        plain = [pair for pair in stream.headers if not pair[0].startswith(":")]
        headers = (("host", pseudo.get(":authority", "")), *plain)
        call = Call(
            pseudo[":method"],
            pseudo[":path"],
            headers,
            bytes(stream.body),
            self._exit,
            self._host or pseudo.get(":authority", "").partition(":")[0],
            "2",
        )
        reply = self._handler(call)
        if not reply.silent:
            when_due(reply, lambda due: self._send(number, due, call.method))

    def _send(self, number: int, reply: Reply, method: str) -> None:
        stream = self._streams.get(number)
        if self._transport is None or stream is None:
            return
        if reply.status == 0 or reply.cut is not None:
            self._h2.reset_stream(number, ErrorCodes.INTERNAL_ERROR)
            del self._streams[number]
        else:
            headers = [(":status", str(reply.status))]
            headers += [(name.lower(), value) for name, value in reply.headers]
            headers.append(("content-length", str(len(reply.body))))
            stream.unsent = b"" if method == "HEAD" else reply.body
            self._h2.send_headers(number, headers, end_stream=not stream.unsent)
            self._send_body(number)
        self._flush()

    def _send_body(self, number: int) -> None:
        stream = self._streams[number]
        while stream.unsent:
            room = min(self._h2.local_flow_control_window(number), self._h2.max_outbound_frame_size)
            if room <= 0:
                return
            chunk, stream.unsent = stream.unsent[:room], stream.unsent[room:]
            self._h2.send_data(number, chunk, end_stream=not stream.unsent)

    def _flush(self) -> None:
        data = self._h2.data_to_send()
        if data and self._transport is not None:
            self._transport.write(data)
