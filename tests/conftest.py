from __future__ import annotations

from pathlib import Path

import pytest
from support import Crawl

from scrapy_ezcaptcha.sandbox import Sandbox


@pytest.fixture
def crawl(tmp_path: Path) -> Crawl:
    """Runs crawls in processes of their own."""
    return Crawl(tmp_path)


@pytest.fixture
def sandbox():
    """The sandbox as it is by default, with a quick service."""
    with Sandbox(latency=0.3) as running:
        yield running


@pytest.fixture
def redis_server(tmp_path: Path):
    """A Redis server of the test's own."""
    from redis_server import RedisServer

    if not RedisServer.is_installed():
        pytest.skip("redis-server is not installed")
    folder = tmp_path / "redis"
    folder.mkdir()
    server = RedisServer(folder)
    server.start()
    yield server
    server.stop()
