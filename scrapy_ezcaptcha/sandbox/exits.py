"""How the exits of the sandbox's proxy are: they work until told otherwise."""

from __future__ import annotations

import asyncio
import socket
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from scrapy_ezcaptcha.sandbox.http import Reply

if TYPE_CHECKING:
    from collections.abc import Callable

    from scrapy_ezcaptcha.sandbox.http import HttpConnection

_LOOPBACK = "127.0.0.1"


@dataclass(frozen=True)
class ExitState:
    """How an exit is.

    Args:
        is_dead: whether it lets nothing through.
        status: what the proxy answers for it while it is dead; None to drop the connection.
        wants_other_credentials: whether it answers 407 to the password of all others.
        delay: seconds before each of its answers.
    """

    is_dead: bool = False
    status: int | None = None
    wants_other_credentials: bool = False
    delay: float = 0.0


class Exits:
    """Tells the proxy's exits, which are its user names, how to be from now on.

    Callable from any thread, also while a crawl runs. Requests that the proxy has already
    accepted are still answered, unless their exit has a port of its own.
    """

    def __init__(self) -> None:
        self._states: dict[str, ExitState] = {}
        self._ports: dict[str, ExitPort] = {}

    def dead(self, *users: str, status: int | None = None) -> None:
        """Let these exits die.

        Connections to one with a port of its own are refused. The shared port drops the connection
        of a request, or answers with *status* (502), also to ``CONNECT``.
        """
        self._set(users, ExitState(is_dead=True, status=status))

    def slow(self, user: str, seconds: float) -> None:
        """Have this exit wait so many seconds before each answer, also to ``CONNECT``."""
        self._set((user,), ExitState(delay=seconds))

    def other_credentials(self, *users: str) -> None:
        """Have these exits answer 407 from now on. Open tunnels go on."""
        self._set(users, ExitState(wants_other_credentials=True))

    def working(self, *users: str) -> None:
        """Have these exits work again."""
        self._set(users, ExitState())

    def state(self, user: str) -> ExitState:
        """Return how the exit of *user* is."""
        return self._states.get(user, ExitState())

    def refuses(self, user: str) -> bool:
        """Whether the exit of *user* refuses the password that all exits accept."""
        return self.state(user).wants_other_credentials

    def instead(self, user: str) -> Reply | None:
        """Return what the proxy answers for a dead exit; None if it is not."""
        state = self.state(user)
        return Reply(state.status or 0, body=b"the exit is down") if state.is_dead else None

    def delayed(self, user: str, reply: Reply) -> Reply:
        """Return *reply* as it leaves the proxy by the exit of *user*."""
        return replace(reply, delay=reply.delay + self.state(user).delay)

    def worker_finds(self, user: str) -> str | None:
        """Return why the service's worker cannot use the exit of *user*; None if it can."""
        if self.refuses(user):
            return "the proxy refused the user name and password"
        return "the proxy does not answer" if self.state(user).is_dead else None

    def add_port(self, user: str, port: ExitPort) -> None:
        """Note that the exit of *user* has a port of its own."""
        self._ports[user] = port
        port.set_open(is_open=not self.state(user).is_dead)

    def port_of(self, user: str) -> ExitPort | None:
        """Return the port of its own that the exit of *user* has, if any."""
        return self._ports.get(user)

    def close(self) -> None:
        """Give all ports up."""
        for port in self._ports.values():
            port.give_up()

    def _set(self, users: tuple[str, ...], state: ExitState) -> None:
        for user in users:
            self._states[user] = state
            if port := self._ports.get(user):
                port.set_open(is_open=not state.is_dead)


class ExitPort:
    """A port of one exit's own: while that is closed, connections to it are refused.

    Args:
        loop: on which it listens; that runs in another thread.
        connection: makes the protocol of a connection.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, connection: Callable[[], HttpConnection]
    ) -> None:
        self._loop = loop
        self._connection = connection
        self._server: asyncio.Server | None = None
        self._connections: set[HttpConnection] = set()
        self._changes: set[asyncio.Task[None]] = set()
        # It never listens, and keeps the port from being given away while that is closed.
        self._reserved = _bound_socket(0)
        self.number: int = self._reserved.getsockname()[1]

    def set_open(self, *, is_open: bool) -> None:
        """Listen, or refuse connections and drop those that are there."""
        change = self._open() if is_open else self._close()
        if self._is_running_here():  # called while it answers somebody
            task = self._loop.create_task(change)
            self._changes.add(task)
            task.add_done_callback(self._changes.discard)
        else:
            asyncio.run_coroutine_threadsafe(change, self._loop).result()

    def give_up(self) -> None:
        """Free the port; called on the loop."""
        if self._server is not None:
            self._server.close()
        self._reserved.close()

    def _is_running_here(self) -> bool:
        try:
            return asyncio.get_running_loop() is self._loop
        except RuntimeError:
            return False

    async def _open(self) -> None:
        if self._server is None:
            listening = _bound_socket(self.number)
            self._server = await self._loop.create_server(
                self._connected, sock=listening, backlog=1000
            )

    async def _close(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        for connection in self._connections:
            connection.abort()
        self._connections.clear()

    def _connected(self) -> HttpConnection:
        connection = self._connection()
        self._connections.add(connection)
        return connection


def _bound_socket(port: int) -> socket.socket:
    """Return a socket at *port*, where others of these may be bound too."""
    bound = socket.socket()
    for option in ("SO_REUSEADDR", "SO_REUSEPORT"):
        if hasattr(socket, option):
            bound.setsockopt(socket.SOL_SOCKET, getattr(socket, option), 1)
    bound.bind((_LOOPBACK, port))
    return bound
