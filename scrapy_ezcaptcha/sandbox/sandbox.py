"""The sandbox: a simulated service, protected sites and a proxy, on loopback in one thread."""

from __future__ import annotations

import asyncio
import json
import ssl
import threading
from base64 import b64decode
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import quote, urlsplit

import trustme

from scrapy_ezcaptcha.sandbox.edge import Edge
from scrapy_ezcaptcha.sandbox.exits import ExitPort, Exits
from scrapy_ezcaptcha.sandbox.http import HttpConnection, Reply
from scrapy_ezcaptcha.sandbox.http2 import ALPN_PROTOCOLS, TlsConnection
from scrapy_ezcaptcha.sandbox.service import Service, faulty_reply
from scrapy_ezcaptcha.sandbox.sites import DEFAULT_SITES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    from typing_extensions import Self

    from scrapy_ezcaptcha.sandbox.http import Call
    from scrapy_ezcaptcha.sandbox.service import Fault
    from scrapy_ezcaptcha.sandbox.sites import Site

_LOOPBACK = "127.0.0.1"
_DIRECT = "direct"  # the exit of clients without the proxy


class Sandbox:
    """Simulates everything that a crawl of protected sites needs.

    Use it as a context manager, or call :meth:`start` and :meth:`stop`. Its hosts are reached
    through its proxy, with http and https. Each user name of the proxy is another exit. ``exits``
    changes their state, even while a crawl runs.

    Args:
        sites: the sites that the proxy can reach.
        latency: seconds that a solve takes.
        balance: points in the account at the start.
        faults: what goes wrong in the service or in the proxy.
        solution: replaces fields of every solution; ``header`` and ``cookies`` are merged, and
            None makes a field null.
        service_tls: serve the service with https, with a certificate of :meth:`write_ca`.
        key: the client key that the service accepts.
        proxy_password: the password that the proxy accepts, with any user name.
    """

    edge_class: ClassVar[type[Edge]] = Edge

    def __init__(
        self,
        sites: Iterable[Site] = DEFAULT_SITES,
        *,
        latency: float = 1.0,
        balance: float = 100_000,
        faults: Iterable[Fault] = (),
        tasks_at_once: int | None = None,
        solution: Mapping[str, Any] | None = None,
        service_tls: bool = False,
        key: str = "sandbox-key",
        proxy_password: str = "sandbox-password",  # noqa: S107  (of a made-up proxy)
    ) -> None:
        self.key = key
        self.proxy_password = proxy_password
        self.edge = self.edge_class(sites)
        self.exits = Exits()
        self.service = Service(
            self.edge,
            key=key,
            proxy_password=proxy_password,
            latency=latency,
            balance=balance,
            faults=tuple(faults),
            tasks_at_once=tasks_at_once,
            solution=solution,
            exits=self.exits,
        )
        self.refused_by_proxy = 0
        self.service_connections = 0
        self._service_tls = service_tls
        self._authority = trustme.CA()
        self._contexts: dict[str, ssl.SSLContext] = {}
        self._loop = asyncio.new_event_loop()
        self._thread: threading.Thread | None = None
        self._servers: list[asyncio.Server] = []
        self._ports = (0, 0, 0, 0)
        self._background: set[asyncio.Task[int]] = set()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def start(self, *, service_port: int = 0, proxy_port: int = 0) -> None:
        """Listen; the system chooses a port that is 0."""
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        listening = self._listen(service_port, proxy_port)
        self._ports = asyncio.run_coroutine_threadsafe(listening, self._loop).result()

    def stop(self) -> None:
        """Stop listening, and drop all connections."""
        if self._thread is None:
            return
        asyncio.run_coroutine_threadsafe(self._shut(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._thread = None
        self._loop.close()

    @property
    def api_url(self) -> str:
        """The URL of the service, for ``EZCAPTCHA_API_URL``."""
        return f"{'https' if self._service_tls else 'http'}://{_LOOPBACK}:{self._ports[0]}"

    @property
    def direct_url(self) -> str:
        """The URL of the first site without a proxy."""
        return f"http://{_LOOPBACK}:{self._ports[2]}"

    @property
    def direct_https_url(self) -> str:
        """The https URL of the first site without a proxy; HTTP/2 if the client asks for it."""
        return f"https://{_LOOPBACK}:{self._ports[3]}"

    def proxy_url(self, user: str = "exit1", *, own_port: bool = False) -> str:
        """Return the URL of the proxy for the exit *user*, with credentials.

        With *own_port*, the exit gets its own port, which refuses connections while it is dead.
        """
        password = quote(self.proxy_password, safe="")
        port = self._port_of(user) if own_port else self._ports[1]
        return f"http://{quote(user, safe='')}:{password}@{_LOOPBACK}:{port}"

    def _port_of(self, user: str) -> int:
        port = self.exits.port_of(user)
        if port is None:
            port = ExitPort(self._loop, self._proxy_connection)
            self.exits.add_port(user, port)
        return port.number

    def settings(self) -> dict[str, Any]:
        """Return the Scrapy settings that make a crawl use this sandbox."""
        return {
            "EZCAPTCHA_CLIENT_KEY": self.key,
            "EZCAPTCHA_API_URL": self.api_url,
            "EZCAPTCHA_POLL_INTERVAL": max(0.05, self.service.latency / 10),
        }

    def environment(self, user: str = "exit1") -> dict[str, str]:
        """Return environment variables for a crawl: the key, and the proxy with the exit *user*."""
        proxy = self.proxy_url(user)
        return {"EZCAPTCHA_CLIENT_KEY": self.key, "http_proxy": proxy, "https_proxy": proxy}

    def arguments(self) -> list[str]:
        """Return :meth:`settings` as arguments of ``scrapy crawl``, without the key."""
        settings = self.settings()
        del settings["EZCAPTCHA_CLIENT_KEY"]
        return [part for name, value in settings.items() for part in ("-s", f"{name}={value}")]

    def interrupt_service(self, seconds: float) -> None:
        """Make the service refuse connections for *seconds*."""
        asyncio.run_coroutine_threadsafe(self._stop_service(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.call_later, seconds, self._resume_service)

    def write_ca(self, path: Path) -> None:
        """Write the CA certificate of the sandbox's https hosts, as PEM."""
        self._authority.cert_pem.write_to_path(str(path))

    def report(self) -> dict[str, Any]:
        """Return what the sandbox saw: calls to the service, tasks, pages and challenges by host.

        ``seconds`` is the time from the creation of each task until its solution was fetched.
        """
        service = self.service
        verdicts = {host: dict(counts) for host, counts in self.edge.verdicts.items()}
        return {
            "calls": dict(service.calls),
            "tasks": len(service.tasks),
            "tasks_at_once": service.most_at_once,
            "seconds": sum(
                task.solved_at - task.created_at
                for task in service.tasks.values()
                if task.solved_at
            ),
            "balance": service.balance,
            "pages": sum(counts.get("page", 0) for counts in verdicts.values()),
            "challenges": sum(
                sum(counts.values()) - counts.get("page", 0) for counts in verdicts.values()
            ),
            "hosts": verdicts,
            "refused_by_proxy": self.refused_by_proxy,
        }

    async def _listen(self, service_port: int, proxy_port: int) -> tuple[int, int, int, int]:
        tls = self._context_for(_LOOPBACK)
        return (
            await self._serve(
                self._service_connection, service_port, tls if self._service_tls else None
            ),
            await self._serve(self._proxy_connection, proxy_port),
            await self._serve(lambda: HttpConnection(self._at_site), 0),
            await self._serve(lambda: TlsConnection(self._at_site), 0, tls),
        )

    def _proxy_connection(self) -> HttpConnection:
        return HttpConnection(self._at_proxy, self._tunnel)

    def _tunnel(self, host: str, exit: str | None) -> tuple[ssl.SSLContext, TlsConnection]:
        return self._context_for(host), TlsConnection(self._at_proxy, exit=exit, host=host)

    async def _stop_service(self) -> None:
        for server in self._servers:
            if server.sockets and server.sockets[0].getsockname()[1] == self._ports[0]:
                server.close()

    def _resume_service(self) -> None:
        tls = self._context_for(_LOOPBACK) if self._service_tls else None
        self._background.add(
            self._loop.create_task(self._serve(self._service_connection, self._ports[0], tls))
        )

    async def _serve(
        self,
        factory: Callable[[], asyncio.Protocol],
        port: int,
        tls: ssl.SSLContext | None = None,
    ) -> int:
        server = await self._loop.create_server(factory, _LOOPBACK, port, ssl=tls, backlog=1000)
        self._servers.append(server)
        bound: int = server.sockets[0].getsockname()[1]
        return bound

    async def _shut(self) -> None:
        for server in self._servers:
            server.close()
        self.exits.close()
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _service_connection(self) -> asyncio.Protocol:
        self.service_connections += 1
        connection = TlsConnection if self._service_tls else HttpConnection
        return connection(self._at_service)

    def _at_service(self, call: Call) -> Reply:
        if call.target == "/_sandbox":
            body = json.dumps(self.report()).encode()
            return Reply(200, (("Content-Type", "application/json"),), body)
        return self.service.handle(call)

    def _at_site(self, call: Call) -> Reply:
        return self.edge.visit(self.edge.default_host(), call.target, call, _DIRECT)

    def _at_proxy(self, call: Call) -> Reply:
        fault = next((f for f in self.service.faults if f.call == "proxy" and f.strikes()), None)
        if fault is not None:
            return faulty_reply(fault, {})
        is_in_tunnel = call.host is not None
        user = call.exit if is_in_tunnel else self._user(call)
        if user is None or (self.exits.refuses(user) and not is_in_tunnel):
            self.refused_by_proxy += 1
            return Reply(407, (("Proxy-Authenticate", 'Basic realm="sandbox"'),))
        reply = self.exits.instead(user) or self._by_exit(call, user)
        return self.exits.delayed(user, reply)

    def _by_exit(self, call: Call, user: str) -> Reply:
        """Answer a call to the proxy that uses the exit of *user*."""
        if call.host is not None:  # in a tunnel
            return self.edge.visit(call.host, call.target, call, user)
        if call.method == "CONNECT":
            return Reply(tunnel_to=call.target.rpartition(":")[0], exit=user)
        host = urlsplit(call.target).hostname
        if host is None:
            return Reply(400, (), b"a proxy needs absolute URLs")
        return self.edge.visit(host, call.target, call, user)

    def _user(self, call: Call) -> str | None:
        """Return the user name of *call* if the proxy accepts its credentials, else None."""
        scheme, _, encoded = (call.header("proxy-authorization") or "").partition(" ")
        try:
            user, _, password = b64decode(encoded).decode("latin-1").partition(":")
        except ValueError:
            return None
        accepted = scheme.lower() == "basic" and user and password == self.proxy_password
        return user if accepted else None

    def _context_for(self, host: str) -> ssl.SSLContext:
        if host not in self._contexts:
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            self._authority.issue_cert(host).configure_cert(context)
            context.set_alpn_protocols(ALPN_PROTOCOLS)
            self._contexts[host] = context
        return self._contexts[host]
