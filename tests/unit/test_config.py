from __future__ import annotations

from pathlib import Path

import pytest
from scrapy.settings import Settings

from scrapy_ezcaptcha.config import Config
from scrapy_ezcaptcha.errors import ConfigurationError


def read(environ=None, **settings):
    return Config.from_settings(Settings(settings), environ or {})


def test_the_defaults_are_the_documented_ones():
    assert read() == Config()
    config = Config()
    assert config.api_url == "https://api.ez-captcha.com"
    assert (config.poll_interval, config.solve_timeout, config.http_timeout) == (3.0, 150.0, 30.0)
    assert (config.max_attempts, config.max_tasks, config.max_concurrent_tasks) == (2, 0, 16)
    assert config.max_waiting == 1000
    assert config.enabled
    assert not config.transparent_mode


def test_settings_may_be_strings_from_the_command_line():
    config = read(
        EZCAPTCHA_MAX_TASKS="5",
        EZCAPTCHA_POLL_INTERVAL="0.5",
        EZCAPTCHA_TRANSPARENT_MODE="True",
        EZCAPTCHA_ALLOWED_DOMAINS="Shop.example,.other.example",
        EZCAPTCHA_APP_ID="12",
        EZCAPTCHA_API_URL="http://127.0.0.1:8000/",
        EZCAPTCHA_PROXY="http://u:p@proxy.example:1",
    )
    assert (config.max_tasks, config.poll_interval, config.app_id) == (5, 0.5, 12)
    assert config.transparent_mode
    assert config.allowed_domains == ("shop.example", "other.example")
    assert config.api_url == "http://127.0.0.1:8000"
    assert config.service_on_loopback
    assert config.proxy.host == "proxy.example"


@pytest.mark.parametrize(
    ("settings", "environ", "key"),
    [
        ({"EZCAPTCHA_CLIENT_KEY": " mine "}, {"EZCAPTCHA_CLIENT_KEY": "env"}, "mine"),
        ({}, {"EZCAPTCHA_CLIENT_KEY": "env", "EZCAPTCHA_API_KEY": "sdk"}, "env"),
        ({"EZCAPTCHA_CLIENT_KEY": ""}, {"EZCAPTCHA_API_KEY": "sdk"}, "sdk"),
        ({}, {"EZCAPSOLVER_API_KEY": "new", "EZCAPTCHA_API_KEY": "old"}, "new"),
        ({}, {}, ""),
    ],
)
def test_where_the_key_comes_from(settings, environ, key):
    assert read(environ, **settings).client_key == key


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("EZCAPTCHA_MAX_TASKS", "ten", "whole number from 0"),
        ("EZCAPTCHA_MAX_TASKS", -1, "whole number from 0"),
        ("EZCAPTCHA_MAX_TASKS", 1.5, "whole number from 0"),
        ("EZCAPTCHA_MAX_TASKS", True, "whole number from 0"),
        ("EZCAPTCHA_MAX_ATTEMPTS", 0, "whole number from 1"),
        ("EZCAPTCHA_POLL_INTERVAL", 0, "seconds above 0"),
        ("EZCAPTCHA_POLL_INTERVAL", "soon", "seconds above 0"),
        ("EZCAPTCHA_SOLVE_TIMEOUT", float("inf"), "seconds above 0"),
        ("EZCAPTCHA_HTTP_TIMEOUT", True, "seconds above 0"),
        ("EZCAPTCHA_ENABLED", "perhaps", "True or False"),
        ("EZCAPTCHA_ALLOWED_DOMAINS", ["https://shop.example"], "bare domains"),
        ("EZCAPTCHA_ALLOWED_DOMAINS", [7], "bare domains"),
        ("EZCAPTCHA_ALLOWED_DOMAINS", 7, "bare domains"),
    ],
)
def test_an_unusable_setting_is_named_with_its_value_and_what_is_allowed(name, value, allowed):
    with pytest.raises(ConfigurationError) as caught:
        read(**{name: value})
    (problem,) = caught.value.problems
    assert name in problem
    assert repr(value) in problem
    assert allowed in problem


@pytest.mark.parametrize(
    "url",
    [
        "http://api.ez-captcha.com",
        "http://10.0.0.1",
        "ftp://127.0.0.1",
        "api.ez-captcha.com",
        "https://key-in-url:x@api.ez-captcha.com",
        "https://",
        "http://[",
        7,
    ],
)
def test_the_service_is_reached_by_https_unless_on_loopback(url):
    with pytest.raises(ConfigurationError, match="EZCAPTCHA_API_URL must be an https:// URL") as e:
        read(EZCAPTCHA_API_URL=url)
    assert "key-in-url" not in str(e.value)


def test_all_problems_are_told_at_once_and_no_secret_with_them():
    with pytest.raises(ConfigurationError) as caught:
        read(
            EZCAPTCHA_CLIENT_KEY=12345,
            EZCAPTCHA_PROXY="ftp://user:secret@proxy.example",
            EZCAPTCHA_STORE="redis://:secret@host:port",
        )
    assert len(caught.value.problems) == 3
    assert "secret" not in str(caught.value)
    assert "12345" not in str(caught.value)


def test_no_repr_shows_the_key_or_a_password():
    config = read(
        EZCAPTCHA_CLIENT_KEY="secret-key", EZCAPTCHA_PROXY="http://user:secret@h.example:1"
    )
    assert "secret" not in repr(config)


def test_the_key_may_come_from_a_file(tmp_path):
    file = tmp_path / "key"
    file.write_text("from-a-file\n")
    named = {"EZCAPTCHA_CLIENT_KEY_FILE": str(file)}
    assert read(**named).client_key == "from-a-file"
    assert read(named).client_key == "from-a-file"
    assert read({"EZCAPTCHA_CLIENT_KEY": "env"}, **named).client_key == "from-a-file"
    assert read({"EZCAPTCHA_API_KEY": "sdk", **named}).client_key == "from-a-file"
    assert read(named, EZCAPTCHA_CLIENT_KEY="mine").client_key == "mine"


@pytest.mark.parametrize(
    ("content", "said"), [(None, "No such file"), ("", "file is empty"), ("a b", "one word")]
)
def test_a_key_file_that_is_of_no_use_is_said_without_its_content(tmp_path, content, said):
    file = tmp_path / "key"
    if content is not None:
        file.write_text(content)
    with pytest.raises(ConfigurationError) as caught:
        read(EZCAPTCHA_CLIENT_KEY_FILE=str(file))
    assert said in str(caught.value)
    assert "a b" not in str(caught.value)


@pytest.mark.parametrize("key", ["two words", "line\nbreak", "schlüssel", 12])
def test_a_key_that_cannot_be_one_is_refused_without_repeating_it(key):
    with pytest.raises(ConfigurationError) as caught:
        read(EZCAPTCHA_CLIENT_KEY=key)
    assert "one word of printable ASCII" in str(caught.value)
    assert str(key) not in str(caught.value)


def test_an_unknown_name_that_is_like_no_other_gets_no_suggestion():
    assert read(EZCAPTCHA_FOO=1).warnings == ("the setting EZCAPTCHA_FOO does not exist",)


@pytest.mark.parametrize(("value", "seconds"), [(0, 0.0), ("0", 0.0), ("2.5", 2.5), (None, 30.0)])
def test_the_progress_interval_may_be_0(value, seconds):
    assert read(EZCAPTCHA_PROGRESS_INTERVAL=value).progress_interval == seconds


@pytest.mark.parametrize("value", [-1, "often", False, float("inf"), [], float("nan")])
def test_a_progress_interval_that_is_none(value):
    with pytest.raises(ConfigurationError, match="must be a number of seconds, or 0"):
        read(EZCAPTCHA_PROGRESS_INTERVAL=value)


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("EZCAPTCHA_MAX_TASK", "EZCAPTCHA_MAX_TASKS"),
        ("EZCAPTCHA_TRANSPARENT", "EZCAPTCHA_TRANSPARENT_MODE"),
        ("EZCAPTCHA_TIMEOUT", "EZCAPTCHA_HTTP_TIMEOUT"),
        ("EZCAPTCHA_API_KEY", "EZCAPTCHA_CLIENT_KEY"),
        ("EZCAPTCHA_CLIENTKEY", "EZCAPTCHA_CLIENT_KEY"),
    ],
)
def test_an_unknown_name_is_said_with_the_nearest(name, nearest):
    config = read(**{name: "value-not-repeated"})
    assert config.warnings == (f"the setting {name} does not exist; did you mean {nearest}?",)


def test_known_names_are_not_warned_about():
    names = ("CLIENT_KEY", "CLIENT_KEY_FILE", "APP_ID", "PROXY", "STORE", "ALLOWED_DOMAINS")
    assert read(**{f"EZCAPTCHA_{name}": None for name in names}).warnings == ()


@pytest.mark.parametrize(
    ("value", "file", "url"),
    [
        (None, None, ""),
        ("", None, ""),
        ("memory", None, ""),
        ("clearances.sqlite", "clearances.sqlite", ""),
        (Path("clearances.sqlite"), "clearances.sqlite", ""),
        ("sqlite:///clearances.sqlite", "clearances.sqlite", ""),
        ("sqlite:////tmp/clearances.sqlite", "/tmp/clearances.sqlite", ""),
        ("redis://host", None, "redis://host"),
        ("rediss://user:pw@host:1/2", None, "rediss://user:pw@host:1/2"),
    ],
)
def test_where_clearances_are_kept(value, file, url):
    config = read(EZCAPTCHA_STORE=value)
    assert config.store_file == (None if file is None else Path(file))
    assert config.store_url == url
    assert "pw" not in repr(config)
    assert (config.store_id is None) == (file is None and not url)


def test_a_job_has_a_store_of_its_own(tmp_path):
    job = str(tmp_path / "job")  # not there before the crawl begins
    for value in (None, "sqlite://"):
        config = read(JOBDIR=job, EZCAPTCHA_STORE=value)
        assert config.store_file == Path(job, "ezcaptcha-clearances.sqlite")
        assert config.store_is_own
    assert read(JOBDIR=job, EZCAPTCHA_STORE="memory").store_file is None
    shared = read(JOBDIR=job, EZCAPTCHA_STORE=str(tmp_path / "shared.sqlite"))
    assert (shared.store_file, shared.store_is_own) == (tmp_path / "shared.sqlite", False)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (7, "must be a path"),
        ("mysql://host", "must be a path"),
        ("sqlite://", "JOBDIR is not set"),
        ("no/such/folder/c.sqlite", "the folder no/such/folder does not exist"),
        (".", "this is a folder"),
        ("redis://", "only the host is required"),
        ("redis://:s3cret@host:port", "only the host is required"),
        ("redis://host/name", "only the host is required"),
    ],
)
def test_a_store_that_cannot_be_is_said_before_the_crawl(value, said):
    with pytest.raises(ConfigurationError, match=said) as caught:
        read(EZCAPTCHA_STORE=value)
    assert "s3cret" not in str(caught.value)


def test_redis_without_its_client_is_said_with_what_to_install(monkeypatch):
    monkeypatch.setattr("scrapy_ezcaptcha.config.find_spec", lambda name: None)
    with pytest.raises(ConfigurationError, match=r"pip install 'scrapy-ezcaptcha\[redis\]'"):
        read(EZCAPTCHA_STORE="redis://host")
