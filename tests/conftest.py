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
