"""The reference names everything that is public, and nothing else."""

from __future__ import annotations

import ast
import importlib
import re
from dataclasses import fields
from pathlib import Path

import pytest

import scrapy_ezcaptcha
from scrapy_ezcaptcha import commands, config, errors, sandbox, signals
from scrapy_ezcaptcha.crawl import target
from scrapy_ezcaptcha.solving import giving_up, replay

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "docs" / "reference"
SOURCES = "\n".join(path.read_text() for path in (ROOT / "scrapy_ezcaptcha").rglob("*.py"))
ERRORS_PY = Path(errors.__file__).read_text()
DOCS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
DOCS += sorted((ROOT / "docs" / "examples").glob("*.py"))
PUBLIC = [scrapy_ezcaptcha, errors, sandbox, signals]


def page(name):
    return (REFERENCE / f"{name}.md").read_text(encoding="utf-8")


def first_column(text):
    """The names in backquotes in the first cells of all tables."""
    cells = re.findall(r"^\| (`.*?) \|", text, re.MULTILINE)
    return {name for cell in cells for name in re.findall(r"`([^`]+)`", cell)}


def imported(path):
    """What *path* leads to: a module, or something in one."""
    parts = path.split(".")
    for length in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        for name in parts[length:]:
            found = getattr(found, name)
        return found
    raise AssertionError(path)


class TestImports:
    @pytest.mark.parametrize(
        "path", [f"{module.__name__}.{name}" for module in PUBLIC for name in module.__all__]
    )
    def test_each_public_name_is_there_with_the_path_from_which_it_is_imported(self, path):
        name = path.rpartition(".")[2]
        paths = {path}
        if path.startswith("scrapy_ezcaptcha.errors.") and name in scrapy_ezcaptcha.__all__:
            paths.add(f"scrapy_ezcaptcha.{name}")  # the shorter one
        shown = re.findall(r"^\.\. auto\w+:: (\S+)$", page("api") + page("signals"), re.MULTILINE)
        assert paths & set(shown)
        imported(path)

    def test_each_fixture_is_there(self):
        fixtures = {name for name in SOURCES.split() if name.startswith("ezcaptcha_sandbox")}
        named = {re.match(r"\w+", name)[0] for name in fixtures}
        shown = re.findall(r"scrapy_ezcaptcha\.pytest_plugin\.(\w+)", page("api"))
        assert set(shown) == named == {"ezcaptcha_sandbox", "ezcaptcha_sandbox_factory"}

    @pytest.mark.parametrize("file", DOCS, ids=lambda file: str(file.relative_to(ROOT)))
    def test_each_path_that_is_shown_can_be_imported(self, file):
        text = file.read_text(encoding="utf-8")
        for path in re.findall(r"(?<![/\w-])scrapy_ezcaptcha(?:\.[A-Za-z]\w*)+", text):
            assert imported(path.removesuffix(".py")) is not None, path

    @pytest.mark.parametrize("file", DOCS, ids=lambda file: str(file.relative_to(ROOT)))
    def test_each_name_that_is_imported_is_in_the_reference(self, file):
        text = file.read_text(encoding="utf-8")
        code = "\n".join(re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL))
        for node in ast.walk(ast.parse(text if file.suffix == ".py" else code)):
            if isinstance(node, ast.ImportFrom) and node.module.startswith("scrapy_ezcaptcha"):
                for alias in node.names:
                    path = f"{node.module}.{alias.name}"
                    imported(path)
                    assert f":: {path}" in page("api") + page("signals"), path


#: Each setting has a heading, which is its anchor, and below that its default.
DOCUMENTED = dict(
    re.findall(r"^### (EZCAPTCHA_[A-Z_]+)\n\nDefault: (.+)\n\n\S", page("settings"), re.MULTILINE)
)

#: The stats of the code; ``{}`` stands for what is put in while the crawl runs.
STATS = {
    re.sub(r"{.*?}", "{}", name)
    for name in re.findall(r'"(ezcaptcha/[a-z_/]+[a-z](?:/{[^}]*})?)"', SOURCES)
}

#: The errors of the reference by their paths, with their codes.
ERRORS = re.findall(r"^\| (?:`(scrapy_ezcaptcha\.\S+)` )?\| (.+?) \|", page("errors"), re.MULTILINE)


class TestSettings:
    def test_those_of_the_code_and_no_others(self):
        assert len(config.setting_names()) >= 27
        named = set(re.findall(r'"(EZCAPTCHA_[A-Z_]+)"', SOURCES)) - set(config.SDK_KEYS)
        assert set(DOCUMENTED) == config.setting_names() | named
        assert len(re.findall("^### ", page("settings"), re.MULTILINE)) == len(DOCUMENTED)

    def test_the_defaults(self):
        defaults = {
            f"EZCAPTCHA_{field.name.upper()}": field.default for field in fields(config.Config)
        }
        elsewhere = {config.KEY, config.KEY_FILE}  # in the environment
        for name in set(DOCUMENTED) - elsewhere:
            default = defaults.get(name)
            shown = ast.literal_eval(DOCUMENTED[name].strip("`"))
            assert shown == (list(default) if isinstance(default, tuple) else default), name
        assert all(name in page("settings") for name in config.SDK_KEYS)

    @pytest.mark.parametrize("file", DOCS, ids=lambda file: str(file.relative_to(ROOT)))
    def test_those_that_are_named_elsewhere(self, file):
        named = set(re.findall(r"\bEZCAPTCHA_[A-Z_]*[A-Z]\b", file.read_text(encoding="utf-8")))
        assert named <= set(DOCUMENTED) | set(config.SDK_KEYS)


class TestStats:
    def test_those_of_the_code_and_no_others(self):
        documented = {
            re.sub(r"{.*?}", "{}", name)
            for name in first_column(page("stats"))
            if name.startswith("ezcaptcha/")
        }
        assert len(STATS) >= 24
        assert documented == STATS

    def test_the_reasons(self):
        text = (ROOT / "scrapy_ezcaptcha" / "clearances" / "known.py").read_text()
        in_code = set(re.findall(r'\("([a-z_]+)", f?"', text))
        documented = {name for name in first_column(page("stats")) if "/" not in name}
        assert documented == in_code

    @pytest.mark.parametrize("file", DOCS, ids=lambda file: str(file.relative_to(ROOT)))
    def test_those_that_are_named_elsewhere(self, file):
        text = file.read_text(encoding="utf-8")
        for name in re.findall(r"`(ezcaptcha/[a-z_/]+[a-z](?:/{\w+})?)`", text):
            assert re.sub(r"{.*?}", "{}", name) in STATS


class TestMeta:
    def test_the_options(self):
        options, _, rest = page("meta").partition("## What is set on responses")
        assert first_column(options) == set(target.CHECKS)
        flags = {replay.SOLVED_FLAG, replay.BODY_FLAG, giving_up.UNSOLVED_FLAG}
        assert set(re.findall(r'^\| `response\.flags` \| `"(.+?)"`', rest, re.MULTILINE)) == flags
        assert f'`response.meta["{giving_up.ERROR_META}"]`' in rest


class TestErrors:
    def test_each_error_with_its_path(self):
        paths = {path for path, _ in ERRORS if path}
        assert all(imported(path) for path in paths)
        assert {path.rpartition(".")[2] for path in paths} == set(errors.__all__)
        at_the_top = set(errors.__all__) & set(scrapy_ezcaptcha.__all__)
        assert {path for path in paths if path.count(".") == 1} == {
            f"scrapy_ezcaptcha.{name}" for name in at_the_top
        }

    def test_each_code(self):
        """Of those that are not the service's, or those of another error."""
        documented = {code for _, cell in ERRORS for code in re.findall(r"`([A-Z_]+)`", cell)}
        internal = {errors.TooManyWaiting.code}  # never gets out
        own = set(re.findall(r'^    code(?:: str)? = "(\w+)"', ERRORS_PY, re.MULTILINE)) - internal
        given_up = set(re.findall(r'GivenUp\(\s*"([A-Z_]+)"', SOURCES))
        in_words = set(re.findall(r"``([A-Z_]+)``", errors.GivenUp.__doc__))
        only_by_command = {"INVALID_URL", "INVALID_RQ_DATA"}
        assert documented == own | in_words
        assert given_up - only_by_command <= in_words
        assert all(f'"{code}"' in SOURCES for code in in_words)

    def test_what_is_not_public_is_no_error_of_ours_that_a_user_meets(self):
        classes = {
            name
            for name, value in vars(errors).items()
            if isinstance(value, type) and issubclass(value, errors.EzCaptchaError)
        }
        assert classes - set(errors.__all__) == {"PutBack", "TooManyWaiting"}

    def test_the_causes_of_an_exit_error(self):
        from scrapy_ezcaptcha import exit as exits

        causes = re.search(r"``cause`` is one of (.*)\.", errors.ExitError.__doc__, re.DOTALL)[1]
        assert set(re.findall(r"``(\w+)``", causes)) == set(exits._MESSAGES)


class TestSignals:
    def test_those_of_the_code_and_no_others(self):
        sent = set(re.findall(r"send\(\s*\w*\.?_?\w+, (challenge_\w+)", SOURCES))
        documented = re.findall(r"autodata:: scrapy_ezcaptcha\.signals\.(\w+)", page("signals"))
        assert sent == set(documented) == set(signals.__all__)
        assert {name for name in vars(signals) if name.startswith("challenge_")} == sent


class TestCommands:
    def test_those_of_the_code_and_no_others(self):
        headings = re.findall(r"^## `(\w+)", page("commands"), re.MULTILINE)
        assert sorted(headings) == sorted(commands.ACTIONS)

    @pytest.mark.parametrize("name", sorted(commands.ACTIONS))
    def test_the_options_of_each(self, name):
        section = re.search(rf"^## `{name}.*?(?=^## |\Z)", page("commands"), re.M | re.S)[0]
        source = Path(importlib.import_module(f"scrapy_ezcaptcha.commands.{name}").__file__)
        in_code = set(re.findall(r'add_argument\(\s*"(--[a-z-]+)"', source.read_text()))
        documented = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", section))
        assert in_code <= documented
        assert documented - in_code <= {"--proxy", "--compressed", "--header", "--cookie"}  # curl's
