"""The state of the exits of the sandbox's proxy: they work until a test changes them."""

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
    """The state of an exit.

    Args:
        is_dead: whether it passes nothing on.
        status: the status that the proxy answers while it is dead; None to drop the connection.
        wants_other_credentials: whether it answers 407 to the password of the other exits.
        delay: seconds before each of its answers.
    """

    is_dead: bool = False
    status: int | None = None
    wants_other_credentials: bool = False
    delay: float = 0.0


class Exits:
    """Changes the state of the proxy's exits, which are its user names.

    Its methods can be called from any thread, even while a crawl runs. Requests that the proxy has
    already accepted still get answers, unless their exit has its own port.
    """

    def __init__(self) -> None:
        self._states: dict[str, ExitState] = {}
        self._ports: dict[str, ExitPort] = {}

    def dead(self, *users: str, status: int | None = None) -> None:
        """Make these exits fail.

        If an exit has its own port, connections to it are refused. The shared port drops the
        connection of a request, or answers with *status* (502), also to ``CONNECT``.
        """
        self._set(users, ExitState(is_dead=True, status=status))

    def slow(self, user: str, seconds: float) -> None:
        """Make this exit wait *seconds* before each answer, also to ``CONNECT``."""
        self._set((user,), ExitState(delay=seconds))

    def other_credentials(self, *users: str) -> None:
        """Make these exits answer 407. Open tunnels continue to work."""
        self._set(users, ExitState(wants_other_credentials=True))

    def working(self, *users: str) -> None:
        """Make these exits work again."""
        self._set(users, ExitState())

    def state(self, user: str) -> ExitState:
        """Return the state of the exit of *user*."""
        return self._states.get(user, ExitState())

    def refuses(self, user: str) -> bool:
        """Whether the exit of *user* refuses the password of the other exits."""
        return self.state(user).wants_other_credentials

    def instead(self, user: str) -> Reply | None:
        """Return the proxy's answer if the exit of *user* is dead, else None."""
        state = self.state(user)
        return Reply(state.status or 0, body=b"the exit is down") if state.is_dead else None

    def delayed(self, user: str, reply: Reply) -> Reply:
        """Return *reply* with the delay of the exit of *user*."""
        return replace(reply, delay=reply.delay + self.state(user).delay)

    def worker_finds(self, user: str) -> str | None:
        """Return why the service's worker cannot use the exit of *user*; None if it can."""
        if self.refuses(user):
            return "the proxy refused the user name and password"
        return "the proxy does not answer" if self.state(user).is_dead else None

    def add_port(self, user: str, port: ExitPort) -> None:
        """Note that the exit of *user* has its own port."""
        self._ports[user] = port
        port.set_open(is_open=not self.state(user).is_dead)

    def port_of(self, user: str) -> ExitPort | None:
        """Return the exit's own port, if the exit of *user* has one."""
        return self._ports.get(user)

    def close(self) -> None:
        """Free all ports."""
        for port in self._ports.values():
            port.give_up()

    def _set(self, users: tuple[str, ...], state: ExitState) -> None:
        for user in users:
            self._states[user] = state
            if port := self._ports.get(user):
                port.set_open(is_open=not state.is_dead)


class ExitPort:
    """The port of one exit; while it is closed, connections to it are refused.

    Args:
        loop: the event loop, which runs in another thread.
        connection: returns the protocol for a new connection.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, connection: Callable[[], HttpConnection]
    ) -> None:
        self._loop = loop
        self._connection = connection
        self._server: asyncio.Server | None = None
        self._connections: set[HttpConnection] = set()
        self._changes: set[asyncio.Task[None]] = set()
        # This socket never listens. It keeps the port reserved while the port is closed.
        self._reserved = _bound_socket(0)
        self.number: int = self._reserved.getsockname()[1]

    def set_open(self, *, is_open: bool) -> None:
        """Listen, or refuse new connections and drop the existing ones."""
        change = self._open() if is_open else self._close()
        if self._is_running_here():  # called during an answer
            task = self._loop.create_task(change)
            self._changes.add(task)
            task.add_done_callback(self._changes.discard)
        else:
            asyncio.run_coroutine_threadsafe(change, self._loop).result()

    def give_up(self) -> None:
        """Free the port; must be called on the loop."""
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
    """Return a socket at *port*, which several of these sockets can share."""
    bound = socket.socket()
    for option in ("SO_REUSEADDR", "SO_REUSEPORT"):
        if hasattr(socket, option):
            bound.setsockopt(socket.SOL_SOCKET, getattr(socket, option), 1)
    bound.bind((_LOOPBACK, port))
    return bound
