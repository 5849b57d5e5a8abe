"""What the documentation shows is run as it stands there."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from fnmatch import fnmatchcase
from pathlib import Path
from string import Template

import pytest
import scrapy
from scrapy.settings import Settings
from support import clean_environment, run_command, run_program
from sybil import Sybil
from sybil.parsers.markdown import CodeBlockParser, PythonCodeBlockParser

from scrapy_ezcaptcha.config import Config
from scrapy_ezcaptcha.sandbox import Fault

pytestmark = pytest.mark.unmeasured

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
EXAMPLES = DOCS / "examples"
# The page of the first crawl is run by test_newcomer.
PAGES = [
    ROOT / "README.md",
    *sorted(page for page in DOCS.rglob("*.md") if page.name != "tutorial.md"),
]

# Run elsewhere: make wheel installs the package, the unit tests start the sandbox from the shell.
NOT_RUN_HERE = ("pip install ", "python -m scrapy_ezcaptcha.sandbox", "export ")


@pytest.fixture
def environment(sandbox):
    """In which the commands of the documentation run."""
    proxies = ",".join(sandbox.proxy_url(f"exit{number}") for number in range(4))
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return clean_environment(PATH=path, PROXIES=proxies, **sandbox.environment())


@pytest.fixture
def project(tmp_path, sandbox):
    """A project whose settings say what the sandbox wants."""
    (tmp_path / "scrapy.cfg").write_text("[settings]\ndefault = project_settings\n")
    lines = [f"{name} = {value!r}" for name, value in sandbox.settings().items()]
    lines.append('ADDONS = {"scrapy_ezcaptcha.Addon": 500}')
    (tmp_path / "project_settings.py").write_text("\n".join(lines))
    return tmp_path


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_code_blocks(page, sandbox, environment, project):
    """Python blocks run, with settings that are fit; commands print what is shown."""
    python = PythonCodeBlockParser()

    class ConsoleParser(CodeBlockParser):
        language = "console"

        def evaluate(self, example):
            run_commands(example.parsed, environment, project)

    class TestParser(PythonCodeBlockParser):
        """Tests are run by pytest, not merely defined."""

        def evaluate(self, example):
            if "def test_" in example.parsed:
                (project / "test_block.py").write_text(example.parsed)
                shutil.copy(EXAMPLES / "opt_in.py", project)
                run_commands("$ pytest test_block.py\n", environment, project)
            else:
                python.evaluate(example)

    document = Sybil([TestParser(), ConsoleParser()]).parse(page)
    document.namespace.update(scrapy=scrapy, url="http://shop.example/")
    for example in document.examples():
        example.evaluate()
    ours = {k: v for k, v in document.namespace.items() if k.startswith("EZCAPTCHA_")}
    assert Config.from_settings(Settings(ours), {}).warnings == ()


WRONG = [
    pytest.param("self.parse_item, meta=SOLVE", "self.parse_item", id="meta-is-forgotten"),
    pytest.param(
        "meta=SOLVE)\n\n    def parse_item",
        """meta={**SOLVE, "proxy": another()})

    def parse_item""",
        id="many-proxies",
    ),
]
ANOTHER = """
import itertools, os
from urllib.parse import urlsplit

NUMBERS = itertools.count()


def another():
    user, host = f"exit{next(NUMBERS)}", os.environ["http_proxy"].partition("@")[2]
    return f"http://{user}:{urlsplit(os.environ['http_proxy']).password}@{host}"
"""


@pytest.mark.parametrize(("right", "wrong"), WRONG)
@pytest.mark.parametrize("test", ["test_shop.py", "testing.md"])
def test_the_tests_that_are_shown_fail_for_a_wrong_spider(test, right, wrong, environment, project):
    spider = (EXAMPLES / "opt_in.py").read_text()
    assert right in spider
    (project / "opt_in.py").write_text(spider.replace(right, wrong) + ANOTHER)
    if test == "testing.md":
        blocks = re.findall(r"^```python\n(.*?)^```$", (DOCS / test).read_text(), re.M | re.S)
        (shown,) = (block for block in blocks if "def test_" in block)
    else:
        shown = (EXAMPLES / test).read_text()
    (project / "test_shown.py").write_text(shown)
    command = ["pytest", "-p", "no:cacheprovider", "test_shown.py"]
    done = run_program(command, env=environment, cwd=project)
    assert done.returncode == 1, done.stdout
    assert "E       assert" in done.stdout or "E       AssertionError" in done.stdout
    assert "1 failed" in done.stdout


def run_commands(block: str, environment, folder: Path) -> None:
    for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
        command, _, shown = part.partition("\n")
        if command.startswith(NOT_RUN_HERE):
            continue
        for name in re.findall(r"\S+\.py", command):
            if (EXAMPLES / name).exists():
                shutil.copy(EXAMPLES / name, folder)
        if command == "pytest":
            for name in ("test_shop.py", "opt_in.py"):
                shutil.copy(EXAMPLES / name, folder)
        done = run_shell(command, environment, folder)
        assert done.returncode == 0, done.stdout + done.stderr
        printed = done.stdout.splitlines()
        for line in shown.splitlines():
            pattern = line.replace("[", "[[]").replace("...", "*")
            assert any(fnmatchcase(other, pattern) for other in printed), (line, done.stdout)


def run_shell(command: str, environment, folder: Path) -> subprocess.CompletedProcess[str]:
    first, *arguments = shlex.split(Template(command).substitute(environment))
    if first == "scrapy":
        return run_command(arguments, env=environment, cwd=folder)
    return run_program([first, *arguments], env=environment, cwd=folder)


SPIDERS = {
    "another_exit.py": [{"title": "Item 1", "exit": 1}],
    "cost_control.py": [{"title": "Catalogue"}],
    "impersonate.py": [{"title": "Item 1", "flags": ["impersonate", "ezcaptcha"]}],
    "opt_in.py": 30,
    "post.py": 2,
    "rotating_proxies.py": 60,
    "use_body.py": [{"title": "Item 1"}],
    "whole_site.py": 30,
}
TASKS = {"post.py": 2, "rotating_proxies.py": 4}


def test_every_example_is_run():
    assert {path.name for path in EXAMPLES.glob("*.py")} == {*SPIDERS, "test_shop.py", "workers.py"}


@pytest.mark.parametrize("name", SPIDERS)
def test_example(name, sandbox, environment, tmp_path):
    if name == "another_exit.py":
        sandbox.service.faults.append(Fault("createTask", code="ERROR_WEBSITE_NOT_ALLOWED"))
    arguments = ["runspider", str(EXAMPLES / name), "-O", "items.json", *sandbox.arguments()]
    done = run_command(arguments, env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "] ERROR:" not in done.stderr
    items = json.loads((tmp_path / "items.json").read_text() or "[]")
    expected = SPIDERS[name]
    assert items == expected if isinstance(expected, list) else len(items) == expected
    assert len(sandbox.service.tasks) == TASKS.get(name, 1)
