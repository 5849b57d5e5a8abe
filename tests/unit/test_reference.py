"""Every public name stands in the reference."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import scrapy_ezcaptcha
from scrapy_ezcaptcha import commands, config, errors, signals
from scrapy_ezcaptcha.crawl import target

ROOT = Path(__file__).parents[2]
REFERENCE = "\n".join(
    path.read_text(encoding="utf-8") for path in (ROOT / "docs" / "reference").glob("*.md")
)
SOURCES = "\n".join(path.read_text() for path in (ROOT / "scrapy_ezcaptcha").rglob("*.py"))


def settings():
    named = set(re.findall(r'"(EZCAPTCHA_[A-Z_]+)"', SOURCES))
    assert len(config.setting_names()) >= 20
    return config.setting_names() | named


def stats():
    found = re.findall(r'"(ezcaptcha/[a-z_/]+[a-z])(?:"|/)', SOURCES)
    assert len(set(found)) >= 12
    return set(found)


def is_public_error(name):
    value = getattr(errors, name)
    return isinstance(value, type) and issubclass(value, errors.EzCaptchaError)


@pytest.mark.parametrize("name", sorted(settings() | stats()))
def test_settings_and_stats(name):
    assert f"`{name}" in REFERENCE


@pytest.mark.parametrize("name", sorted(target.CHECKS))
def test_meta_keys(name):
    assert f"| `{name}` |" in REFERENCE


@pytest.mark.parametrize("name", sorted(commands.ACTIONS))
def test_commands(name):
    assert f"## `{name}" in REFERENCE


@pytest.mark.parametrize("name", scrapy_ezcaptcha.__all__)
def test_what_can_be_imported(name):
    is_error = hasattr(errors, name)
    assert f"scrapy_ezcaptcha.{name}" in REFERENCE or (is_error and f"`{name}`" in REFERENCE)


def test_errors_and_signals_are_taken_from_their_modules():
    assert ".. automodule:: scrapy_ezcaptcha.errors" in REFERENCE
    assert ".. automodule:: scrapy_ezcaptcha.signals" in REFERENCE
    assert all(getattr(errors, name).__doc__ for name in dir(errors) if is_public_error(name))
    assert {name for name in vars(signals) if name.startswith("challenge")} == {
        "challenge_detected",
        "challenge_solved",
        "challenge_failed",
    }


def test_no_setting_is_documented_that_is_not_read():
    documented = set(re.findall(r"^\| `(EZCAPTCHA_[A-Z_]+)`", REFERENCE, re.MULTILINE))
    assert documented == settings() - {"EZCAPTCHA_API_KEY"}
