"""A real Redis server of the test's own, on a free port of loopback."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import redis


class RedisServer:
    """Debian's ``redis-server``, in memory alone: what it knew is gone when it stops."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self.options: dict[str, Any]
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        self.options = {"port": self.port, "bind": "127.0.0.1", "save": "", "appendonly": "no"}

    @staticmethod
    def is_installed() -> bool:
        return shutil.which("redis-server") is not None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def client(self) -> Any:
        return redis.Redis(port=self.port, decode_responses=True)

    def start(self) -> None:
        command = ["redis-server"]
        for name, value in self.options.items():
            command += [f"--{name}", str(value)]
        with (self._folder / "redis.log").open("ab") as log:
            self._process = subprocess.Popen(command, cwd=self._folder, stdout=log, stderr=log)
        deadline = time.monotonic() + 10
        while not self._answers():
            assert time.monotonic() < deadline, (self._folder / "redis.log").read_text()
            time.sleep(0.01)

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1):
                return True
        except OSError:
            return False
