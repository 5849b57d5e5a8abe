"""The settings, read and checked once into one frozen object."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from hashlib import blake2b
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from scrapy_ezcaptcha.errors import ConfigurationError, ExitError
from scrapy_ezcaptcha.exit import Exit, is_loopback

if TYPE_CHECKING:
    from collections.abc import Mapping

    from scrapy.settings import BaseSettings

API_URL = "https://api.ez-captcha.com"
PREFIX = "EZCAPTCHA_"
KEY = "EZCAPTCHA_CLIENT_KEY"
KEY_FILE = "EZCAPTCHA_CLIENT_KEY_FILE"
#: As the vendor's SDK names it; in the environment only.
SDK_KEY = "EZCAPTCHA_API_KEY"

#: The store of a crawl with JOBDIR, in that folder.
STORE_FILE = "ezcaptcha-clearances.sqlite"

#: Where a key is looked for, in words.
KEY_SOURCES = (
    f"{KEY} or {KEY_FILE} in the settings or the environment, or {SDK_KEY} in the environment"
)


@dataclass(frozen=True)
class Config:
    """Every ``EZCAPTCHA_*`` setting; the defaults are the documented ones."""

    client_key: str = field(default="", repr=False)
    enabled: bool = True
    app_id: int | None = None
    api_url: str = API_URL
    transparent_mode: bool = False
    allowed_domains: tuple[str, ...] = ()
    proxy: Exit | None = None
    poll_interval: float = 3.0
    solve_timeout: float = 120.0
    http_timeout: float = 30.0
    max_attempts: int = 2
    max_tasks: int = 0
    max_concurrent_tasks: int = 16
    max_waiting: int = 1000
    store_file: Path | None = None
    store_is_own: bool = False  # of this crawl alone, in its JOBDIR
    store_url: str = field(default="", repr=False)
    store_lease: float = 15.0
    breaker_failures: int = 3
    breaker_seconds: float = 300.0
    close_spider_on_limit: bool = False
    log_balance: bool = False
    impersonate: bool = False
    warnings: tuple[str, ...] = ()  # what looks like a mistake, but stops nothing

    @property
    def service_on_loopback(self) -> bool:
        """Whether the service is a sandbox here, so that private proxies make sense."""
        return is_loopback(urlsplit(self.api_url).hostname or "")

    @property
    def store_id(self) -> str | None:
        """What tells the store from others; None if no other crawl can use it."""
        where = str(self.store_file.resolve()) if self.store_file else self.store_url
        return blake2b(where.encode(), digest_size=8).hexdigest() if where else None

    @classmethod
    def from_settings(
        cls, settings: BaseSettings, environ: Mapping[str, str] = os.environ
    ) -> Config:
        """Read the settings of a crawl.

        Raises:
            ConfigurationError: names every unusable setting, its value and what is allowed.
        """
        reader = _Reader(settings)
        config = cls(
            client_key=reader.client_key(environ),
            enabled=reader.boolean("EZCAPTCHA_ENABLED", cls.enabled),
            app_id=reader.integer("EZCAPTCHA_APP_ID", cls.app_id),
            api_url=reader.api_url("EZCAPTCHA_API_URL", cls.api_url),
            transparent_mode=reader.boolean("EZCAPTCHA_TRANSPARENT_MODE", cls.transparent_mode),
            allowed_domains=reader.domains("EZCAPTCHA_ALLOWED_DOMAINS"),
            proxy=reader.proxy("EZCAPTCHA_PROXY"),
            poll_interval=reader.seconds("EZCAPTCHA_POLL_INTERVAL", cls.poll_interval),
            solve_timeout=reader.seconds("EZCAPTCHA_SOLVE_TIMEOUT", cls.solve_timeout),
            http_timeout=reader.seconds("EZCAPTCHA_HTTP_TIMEOUT", cls.http_timeout),
            max_attempts=reader.integer("EZCAPTCHA_MAX_ATTEMPTS", cls.max_attempts, least=1),
            max_tasks=reader.integer("EZCAPTCHA_MAX_TASKS", cls.max_tasks),
            max_concurrent_tasks=reader.integer(
                "EZCAPTCHA_MAX_CONCURRENT_TASKS", cls.max_concurrent_tasks, least=1
            ),
            max_waiting=reader.integer("EZCAPTCHA_MAX_WAITING", cls.max_waiting),
            store_lease=reader.seconds("EZCAPTCHA_STORE_LEASE", cls.store_lease),
            breaker_failures=reader.integer(
                "EZCAPTCHA_BREAKER_FAILURES", cls.breaker_failures, least=1
            ),
            breaker_seconds=reader.seconds("EZCAPTCHA_BREAKER_SECONDS", cls.breaker_seconds),
            close_spider_on_limit=reader.boolean(
                "EZCAPTCHA_CLOSE_SPIDER_ON_LIMIT", cls.close_spider_on_limit
            ),
            log_balance=reader.boolean("EZCAPTCHA_LOG_BALANCE", cls.log_balance),
            impersonate=reader.boolean("EZCAPTCHA_IMPERSONATE", cls.impersonate),
        )
        store_file, store_url = reader.store("EZCAPTCHA_STORE")
        job = settings.get("JOBDIR")
        if reader.problems:
            raise ConfigurationError(reader.problems)
        return replace(
            config,
            store_file=store_file,
            store_is_own=bool(job and store_file == Path(job, STORE_FILE)),
            store_url=store_url,
            warnings=tuple(reader.unknown_names()),
        )


class _Reader:
    """Reads one setting at a time and collects what is wrong with them."""

    def __init__(self, settings: BaseSettings) -> None:
        self._settings = settings
        self._asked: set[str] = set()
        self.problems: list[str] = []

    def unknown_names(self) -> list[str]:
        """Return what to say of settings that look like ours and were not asked for."""
        return [
            f"there is no setting {name}; did you mean {self._nearest(name)}?"
            for name in sorted(self._settings)
            if name.startswith(PREFIX) and name not in self._asked
        ]

    def client_key(self, environ: Mapping[str, str]) -> str:
        self._asked |= {KEY, KEY_FILE}
        for source in (self._settings, environ):
            if value := source.get(KEY):
                return self._checked_key(value, KEY)
            if path := source.get(KEY_FILE):
                return self._key_in_file(path)
        return self._checked_key(environ.get(SDK_KEY, ""), SDK_KEY)

    def boolean(self, name: str, default: bool) -> bool:
        self._asked.add(name)
        try:
            return self._settings.getbool(name, default)
        except ValueError:
            self._refuse(name, "True or False")
            return default

    def integer(self, name: str, default: Any, *, least: int = 0) -> Any:
        value = self._get(name)
        if value is None:
            return default
        try:
            number = None if isinstance(value, bool | float) else int(value)
        except (TypeError, ValueError):
            number = None
        if number is None or number < least:
            self._refuse(name, f"a whole number from {least}")
            return default
        return number

    def seconds(self, name: str, default: float) -> float:
        value = self._get(name)
        if value is None:
            return default
        try:
            number = math.nan if isinstance(value, bool) else float(value)
        except (TypeError, ValueError):
            number = math.nan
        if not 0 < number < math.inf:
            self._refuse(name, "a number of seconds above 0")
            return default
        return number

    def domains(self, name: str) -> tuple[str, ...]:
        self._asked.add(name)
        try:
            values = self._settings.getlist(name)
        except TypeError:
            values = [None]
        domains: list[str] = []
        for value in values:
            domain = value.strip().lower().strip(".") if isinstance(value, str) else ""
            if not domain or any(c in domain for c in "/:@*? "):
                self._refuse(name, 'a list of bare domains such as "shop.example"')
                return ()
            domains.append(domain)
        return tuple(domains)

    def api_url(self, name: str, default: str) -> str:
        value = self._get(name, default)
        try:
            parts = urlsplit(value if isinstance(value, str) else "")
            host = parts.hostname or ""
            safe = parts.scheme == "https" or (parts.scheme == "http" and is_loopback(host))
            usable = safe and host and parts.port != 0 and not parts.username
        except ValueError:
            usable = False
        if not usable:
            self.problems.append(
                f"{name} must be an https:// URL without credentials;"
                " plain http:// only toward a loopback host"
            )
            return default
        return str(value).rstrip("/")

    def proxy(self, name: str) -> Exit | None:
        value = self._get(name)
        if value is None or value == "":
            return None
        try:
            return Exit.parse(value)
        except ExitError as error:
            self.problems.append(f"{name}: {error}")
            return None

    def store(self, name: str) -> tuple[Path | None, str]:
        """Return the file or the URL of a server where clearances are kept."""
        value = self._get(name)
        job = self._settings.get("JOBDIR")
        if value in (None, "", "sqlite://"):
            if value and not job:
                self.problems.append(f"{name} names no file, and there is no JOBDIR to put one in")
            return Path(job, STORE_FILE) if job else None, ""
        if value == "memory":
            return None, ""
        text = str(value) if isinstance(value, str | os.PathLike) else ""
        scheme, separator, rest = text.partition("://")
        if separator and scheme in {"redis", "rediss"}:
            if problem := _redis_problem(text):
                self.problems.append(f"{name}: {problem}")
            return None, text
        path = rest.removeprefix("/") if scheme == "sqlite" and rest.startswith("/") else text
        if not path or "://" in path:
            self.problems.append(
                f'{name} must be a path, "sqlite:///path", "redis://host:port/number",'
                ' "rediss://...", or "memory"'
            )
            return None, ""
        file = Path(path).expanduser()
        if not file.parent.is_dir() or file.is_dir():
            self.problems.append(
                f"{name} is the file {str(file)!r}, but"
                + (" that is a folder" if file.is_dir() else f" there is no folder {file.parent}")
            )
        return file, ""

    def _get(self, name: str, default: Any = None) -> Any:
        self._asked.add(name)
        return self._settings.get(name, default)

    def _key_in_file(self, path: Any) -> str:
        try:
            key = Path(path).read_text(encoding="utf-8").strip()
        except (OSError, TypeError, ValueError) as error:
            reason = getattr(error, "strerror", None) or type(error).__name__
            self.problems.append(f"{KEY_FILE} is {path!r}, which cannot be read: {reason}")
            return ""
        if not key:
            self.problems.append(f"{KEY_FILE} is {path!r}, which is empty")
        return self._checked_key(key, KEY_FILE)

    def _checked_key(self, value: Any, name: str) -> str:
        key = value.strip() if isinstance(value, str) else "\0"
        if not (key.isascii() and key.replace(" ", "\0").isprintable()):
            self.problems.append(f"{name} must be one word of printable ASCII")
            return ""
        return key

    def _nearest(self, name: str) -> str:
        if name == SDK_KEY:  # near to another one by its letters
            return KEY
        return get_close_matches(name, sorted(self._asked), n=1, cutoff=0.0)[0]

    def _refuse(self, name: str, allowed: str) -> None:
        self.problems.append(f"{name} is {self._get(name)!r}, must be {allowed}")


def _redis_problem(url: str) -> str | None:
    """Say why no server can be asked at *url*; the text does not repeat it."""
    if find_spec("redis") is None:
        return "a Redis server needs redis-py: pip install 'scrapy-ezcaptcha[redis]'"
    try:
        parts = urlsplit(url)
        sound = bool(parts.hostname) and parts.port != 0
    except ValueError:
        sound = False
    number = parts.path.removeprefix("/") if sound else "?"
    if not sound or (number and not number.isdecimal()):
        return (
            "must be redis://user:password@host:port/number, of which only the host must be there"
        )
    return None
