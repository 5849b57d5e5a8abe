"""One call to the service with treq: a time limit, a size limit, verified TLS, no redirects."""

from __future__ import annotations

import json
from importlib.metadata import version
from typing import Any

from OpenSSL.SSL import Error as TlsError
from scrapy.utils.defer import maybe_deferred_to_future
from treq.client import HTTPClient
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.defer import TimeoutError as DeferredTimeoutError
from twisted.internet.error import ConnectError, ConnectingCancelledError, DNSLookupError
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web._newclient import RequestNotSent
from twisted.web.client import Agent, BrowserLikePolicyForHTTPS, HTTPConnectionPool, ResponseDone
from twisted.web.http import PotentialDataLoss
from twisted.web.http_headers import Headers

from scrapy_ezcaptcha.errors import (
    EzCaptchaError,
    TransportError,
    UnexpectedResponse,
    redact,
)

#: Bytes of an answer that are read; a solution contains a whole page.
MAX_ANSWER = 16 * 1024 * 1024

_USER_AGENT = f"scrapy-ezcaptcha/{version('scrapy-ezcaptcha')}".encode()
_HANDSHAKE_SIGNS = ("certificate", "handshake", "wrong version", "unknown protocol")
_IDLE_CONNECTION_SECONDS = 20
_MAX_CONNECT_SECONDS = 10.0


class Transport:
    """Posts JSON to the service through one pool of persistent connections.

    The key is sent as ``X-API-Key``, as in the vendor's SDK, and is kept out of errors. *timeout*
    is in seconds, for one call, including connecting and reading.
    """

    def __init__(self, api_url: str, client_key: str, timeout: float, reactor: Any) -> None:
        self._api_url = api_url
        self._client_key = client_key
        self._timeout = timeout
        self._reactor = reactor
        self._pool = HTTPConnectionPool(reactor, persistent=True)
        self._pool.cachedConnectionTimeout = _IDLE_CONNECTION_SECONDS
        agent: Any = Agent(
            reactor,
            contextFactory=BrowserLikePolicyForHTTPS(),
            connectTimeout=min(_MAX_CONNECT_SECONDS, timeout),
            pool=self._pool,
        )
        self._http = HTTPClient(agent)

    async def call(self, method: str, payload: Any) -> tuple[int, bytes]:
        """Send one call, and return the HTTP status and the body of the answer.

        Raises:
            TransportError: no answer; its ``sent`` tells whether the call may have arrived.
            UnexpectedResponse: an answer of more than :data:`MAX_ANSWER` bytes.
        """
        exchange = Deferred.fromCoroutine(self._exchange(method, payload))
        exchange.addTimeout(self._timeout, self._reactor, _timed_out)
        try:
            return await maybe_deferred_to_future(exchange)
        except (EzCaptchaError, CancelledError):
            raise
        except Exception as error:  # sockets, TLS and HTTP raise many kinds
            cause = _cause_of(error)
            if isinstance(cause, CancelledError):
                raise cause from None
            text, sent = self._reason_of(error, cause)
        raise TransportError(f"{method}: {text}", sent=sent)

    async def close(self) -> None:
        """Close the idle connections."""
        await maybe_deferred_to_future(self._pool.closeCachedConnections())

    async def _exchange(self, method: str, payload: Any) -> tuple[int, bytes]:
        response = await self._http.post(
            f"{self._api_url}/{method}",
            data=json.dumps(payload).encode(),
            headers=Headers(
                {
                    b"Content-Type": [b"application/json"],
                    b"Accept": [b"application/json"],
                    b"X-API-Key": [self._client_key.encode()],
                    b"User-Agent": [_USER_AGENT],
                }
            ),
            allow_redirects=False,  # the key must go nowhere else
            unbuffered=True,
            reactor=self._reactor,
        )
        return response.code, await _read_body(response)

    def _reason_of(self, error: Exception, cause: BaseException) -> tuple[str, bool]:
        """Return why there is no answer, and whether the call may have arrived."""
        if isinstance(error, DeferredTimeoutError):
            return f"no answer within {self._timeout:g} s", True
        sent = not isinstance(
            error, ConnectError | ConnectingCancelledError | DNSLookupError | RequestNotSent
        )
        if isinstance(cause, TlsError):
            words = _tls_words(cause)
            is_handshake = any(sign in words for sign in _HANDSHAKE_SIGNS)
            return f"TLS failed: {words}", sent and not is_handshake
        words = redact(str(cause), (self._client_key,))
        name = type(cause).__name__
        return f"{name}: {words}" if words else name, sent


def _tls_words(error: TlsError) -> str:
    """Return OpenSSL's own words; its errors are lists of (library, function, reason)."""
    try:
        return str(error.args[0][-1][-1])
    except (IndexError, TypeError):
        return "no reason given"


def _timed_out(result: Any, timeout: float) -> Any:
    """Turn the error of the cancelled call into a timeout."""
    if not isinstance(result, Failure) or result.check(ConnectingCancelledError):
        return result
    raise DeferredTimeoutError(timeout)


def _cause_of(error: Exception) -> BaseException:
    """Return the error that twisted.web wrapped in *error*, or *error* itself."""
    reasons = getattr(error, "reasons", None)
    return reasons[0].value if reasons else error


class _BodyReader(Protocol):
    """Collects a body up to :data:`MAX_ANSWER` bytes; *done* fires with it."""

    def __init__(self, done: Deferred[bytes]) -> None:
        self._done: Deferred[bytes] | None = done
        self._chunks: list[bytes] = []
        self._size = 0

    def dataReceived(self, data: bytes) -> None:  # noqa: N802
        self._size += len(data)
        if self._size <= MAX_ANSWER:
            self._chunks.append(data)
            return
        done = self._done
        self.stop()
        if done is not None:
            done.errback(UnexpectedResponse(f"an answer of more than {MAX_ANSWER} bytes"))

    def connectionLost(self, reason: Failure = connectionDone) -> None:  # noqa: N802
        done, self._done = self._done, None
        if done is None:
            return
        if reason.check(ResponseDone, PotentialDataLoss):
            done.callback(b"".join(self._chunks))
        else:
            done.errback(reason)

    def stop(self) -> None:
        """Close the connection, because the rest is not needed."""
        self._done = None
        self._chunks.clear()
        transport: Any = self.transport
        if transport is not None:
            transport.loseConnection()


async def _read_body(response: Any) -> bytes:
    if response.length == 0:
        return b""
    done: Deferred[bytes] = Deferred(lambda _: reader.stop())
    reader = _BodyReader(done)
    response.deliverBody(reader)
    return await done
