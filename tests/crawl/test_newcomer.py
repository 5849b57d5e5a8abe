"""The first crawl of a newcomer: exactly what docs/tutorial.md shows, up to the items."""

from __future__ import annotations

import fcntl
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
from fnmatch import fnmatchcase
from importlib.metadata import metadata
from pathlib import Path

import pytest
from support import clean_environment, run_command, run_program

pytestmark = pytest.mark.unmeasured

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
PORTS = (8901, 8902)  # that the page names


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def commands():
    lines = [line for block in blocks("console") for line in block.splitlines()]
    assert all(line.startswith("$ ") for line in lines)
    return [line.removeprefix("$ ") for line in lines]


@pytest.fixture
def environment():
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return clean_environment(PATH=path)


@pytest.fixture
def ports():
    """Nobody else has the ports: other runs of this test wait."""
    with Path(tempfile.gettempdir(), "scrapy-ezcaptcha-ports.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        for port in PORTS:
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind(("127.0.0.1", port))
                except OSError as error:
                    pytest.skip(f"port {port} of the page: {error}")
        yield


class Terminal:
    """What runs in the first terminal, until Ctrl-C."""

    def __init__(self, command, environment):
        self.process = subprocess.Popen(
            f"exec {command}", shell=True, env=environment, stdout=subprocess.PIPE, text=True
        )
        self.lines = []
        while not self.lines or "Ctrl-C" not in self.lines[-1]:
            self.lines.append(self.process.stdout.readline())
            assert self.lines[-1], self.lines

    def press_ctrl_c(self):
        self.process.send_signal(signal.SIGINT)
        report, _ = self.process.communicate(timeout=30)
        assert self.process.returncode == 0
        return json.loads(report)


def test_the_page_has_four_commands_and_one_file():
    """With ``git clone`` five."""
    install, sandbox, export, crawl = commands()
    assert install == "pip install '.[sandbox]'"
    assert sandbox.startswith("python -m scrapy_ezcaptcha.sandbox ")
    assert export.startswith("export ")
    (spider,) = re.findall(r"Save this spider as `(\S+)`", PAGE)
    assert crawl.startswith(f"scrapy runspider {spider} ")
    assert len(blocks("python")) == 1


def test_the_page_leads_to_items(environment, ports, tmp_path):
    """Only ``pip install`` is not run: it needs a network, and the package is installed here."""
    _, sandbox, *rest = commands()
    assert "sandbox" in metadata("scrapy-ezcaptcha").get_all("Provides-Extra")
    (spider,) = blocks("python")
    (tmp_path / "shop_spider.py").write_text(spider)
    terminal = Terminal(sandbox, environment)
    try:
        export, crawl = (
            line.strip() for line in terminal.lines if re.match("export |scrapy ", line)
        )
        shell = ["sh", "-e", "-c", "\n".join(rest)]
        done = run_program(shell, env=environment, cwd=tmp_path)
    finally:
        report = terminal.press_ctrl_c()
    assert done.returncode == 0, done.stderr
    assert not re.search(r"\] (WARNING|ERROR|CRITICAL):|Traceback", done.stderr), done.stderr
    items = json.loads((tmp_path / "items.json").read_text())
    assert len(items) == 30
    assert all(item["title"] and item["price"] for item in items)
    assert report["tasks"] == 1
    # What the page shows of the log and of the sandbox is what they said.
    (shown,) = blocks("text")
    logged = [line.partition("] INFO: ")[2] or line for line in done.stderr.splitlines()]
    for line in shown.splitlines():
        pattern = re.sub(" *\\.\\.\\.", "*", line)
        assert any(fnmatchcase(other, pattern) for other in logged), (line, done.stderr)
    assert rest[0] == export
    assert rest[1].endswith(crawl.removeprefix("scrapy crawl NAME"))


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_pool_reaches_the_sites_without_a_proxy_in_the_environment(
    scheme, environment, sandbox, tmp_path
):
    """As docs/sandbox.md says; with robots.txt, which is in scope in transparent mode."""
    (spider,) = blocks("python")
    (tmp_path / "shop_spider.py").write_text(spider.replace("https:", f"{scheme}:"))
    pool = f"EZCAPTCHA_PROXIES={sandbox.proxy_url()}"
    settings = [*sandbox.arguments(), "-s", pool, "-s", "ROBOTSTXT_OBEY=True"]
    done = run_command(
        ["runspider", "shop_spider.py", "-O", "items.json", *settings],
        env={**environment, "EZCAPTCHA_CLIENT_KEY": sandbox.key},
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert not re.search(r"\] (ERROR|CRITICAL):|Traceback", done.stderr), done.stderr
    assert len(json.loads((tmp_path / "items.json").read_text())) == 30
