"""The settings: read once, checked, and kept in one frozen object."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field
from functools import partial
from hashlib import blake2b
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_origin, get_type_hints
from urllib.parse import urlsplit

from scrapy.settings import BaseSettings

from scrapy_ezcaptcha.errors import ConfigurationError, ExitError
from scrapy_ezcaptcha.exit import Exit, is_loopback, read_pool
from scrapy_ezcaptcha.words import unknown_settings

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

API_URL = "https://api.ez-captcha.com"
PREFIX = "EZCAPTCHA_"
KEY = "EZCAPTCHA_CLIENT_KEY"
KEY_FILE = "EZCAPTCHA_CLIENT_KEY_FILE"
STORE = "EZCAPTCHA_STORE"
PROXIES = "EZCAPTCHA_PROXIES"
#: The names of the key in the vendor's SDKs, the newest first; only in the environment.
SDK_KEYS = ("EZCAPSOLVER_API_KEY", "EZCAPTCHA_API_KEY")

#: The file name of a crawl's own store, in its JOBDIR.
STORE_FILE = "ezcaptcha-clearances.sqlite"

#: The class of the backend, by the scheme of ``EZCAPTCHA_STORE``. All schemes except ``sqlite``
#: are servers. The package that a server needs has the same name as the module.
STORE_BACKENDS = {
    "sqlite": "scrapy_ezcaptcha.stores.sqlite.SqliteBackend",
    "redis": "scrapy_ezcaptcha.stores.redis.RedisBackend",
    "rediss": "scrapy_ezcaptcha.stores.redis.RedisBackend",
}

#: Where the key can be set, in words.
KEY_SOURCES = (
    f"{KEY} or {KEY_FILE} in the settings or the environment, or {' or '.join(SDK_KEYS)} in the"
    " environment"
)


def _boolean(value: Any) -> bool:
    try:
        return BaseSettings({"value": value}).getbool("value")
    except (TypeError, ValueError):
        raise ValueError("{name} is {value!r}, but must be True or False") from None


def _whole(least: int) -> Callable[[Any], int]:
    def parse(value: Any) -> int:
        try:
            number = least - 1 if isinstance(value, bool | float) else int(value)
        except (TypeError, ValueError):
            number = least - 1
        if number < least:
            raise ValueError(f"{{name}} is {{value!r}}, but must be a whole number from {least}")
        return number

    return parse


def _seconds(value: Any) -> float:
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (OverflowError, TypeError, ValueError):
        number = math.nan
    if not 0 < number < math.inf:
        raise ValueError("{name} is {value!r}, but must be a number of seconds above 0")
    return number


def _seconds_or_zero(value: Any) -> float:
    if value in (0, "0") and value is not False:
        return 0.0
    try:
        return _seconds(value)
    except ValueError:
        raise ValueError("{name} is {value!r}, but must be a number of seconds, or 0") from None


def _choice(*allowed: str) -> Callable[[Any], str]:
    def parse(value: Any) -> str:
        if value not in allowed:
            words = ", ".join(f'"{one}"' for one in allowed)
            raise ValueError(f"{{name}} is {{value!r}}, but must be one of {words}")
        return str(value)

    return parse


def _domains(value: Any) -> tuple[str, ...]:
    try:
        values = BaseSettings({"value": value}).getlist("value")
    except TypeError:
        values = [None]
    domains = tuple(
        one.strip().lower().strip(".") if isinstance(one, str) else "" for one in values
    )
    if any(not domain or any(c in domain for c in "/:@*? ") for domain in domains):
        example = 'a list of bare domains such as "shop.example"'
        raise ValueError(f"{{name}} is {{value!r}}, but must be {example}")
    return domains


def _api_url(value: Any) -> str:
    try:
        parts = urlsplit(value if isinstance(value, str) else "")
        host = parts.hostname or ""
        safe = parts.scheme == "https" or (parts.scheme == "http" and is_loopback(host))
        usable = safe and host and parts.port != 0 and not parts.username
    except ValueError:
        usable = False
    if not usable:
        raise ValueError(
            "{name} must be an https:// URL without credentials;"
            " http:// is allowed only for a loopback host"
        )
    return str(value).rstrip("/")


def _file(value: Any) -> Path | None:
    """Return the path of a file that exists or can be created."""
    if value == "":
        return None
    try:
        file = Path(value).expanduser()
    except (TypeError, RuntimeError):
        raise ValueError("{name} is {value!r}, but must be the path of a file") from None
    if not file.parent.is_dir() or file.is_dir():
        reason = "this is a folder" if file.is_dir() else f"the folder {file.parent} does not exist"
        raise ValueError("{name} is {value!r}, but " + reason.replace("{", "{{").replace("}", "}}"))
    return file


def _proxy(value: Any) -> Exit | None:
    try:
        return Exit.parse(value) if value != "" else None
    except ExitError as error:
        raise ValueError(f"{{name}}: {error}") from None


@dataclass(frozen=True)
class Config:
    """All ``EZCAPTCHA_*`` settings, with the documented defaults.

    Each setting is named like its field: ``EZCAPTCHA_MAX_TASKS`` is ``max_tasks``.
    """

    client_key: str = field(default="", repr=False)
    enabled: Annotated[bool, _boolean] = True
    app_id: Annotated[int | None, _whole(0)] = None
    api_url: Annotated[str, _api_url] = API_URL
    transparent_mode: Annotated[bool, _boolean] = False
    allowed_domains: Annotated[tuple[str, ...], _domains] = ()
    proxy: Annotated[Exit | None, _proxy] = None
    proxies: tuple[Exit, ...] = field(default=(), repr=False)
    proxies_per_zone: Annotated[int, _whole(1)] = 1
    poll_interval: Annotated[float, _seconds] = 3.0
    solve_timeout: Annotated[float, _seconds] = 150.0
    http_timeout: Annotated[float, _seconds] = 30.0
    max_attempts: Annotated[int, _whole(1)] = 2
    max_tasks: Annotated[int, _whole(0)] = 0
    max_concurrent_tasks: Annotated[int, _whole(1)] = 16
    max_waiting: Annotated[int, _whole(0)] = 1000
    store_file: Path | None = None
    store_url: str = field(default="", repr=False)
    store_is_own: bool = False  # in JOBDIR, for this crawl only
    store_lease: Annotated[float, _seconds] = 15.0
    use_body: Annotated[str, _choice("fallback", "never", "always")] = "fallback"
    breaker_failures: Annotated[int, _whole(1)] = 3
    breaker_seconds: Annotated[float, _seconds] = 300.0
    close_spider_on_limit: Annotated[bool, _boolean] = False
    log_balance: Annotated[bool, _boolean] = False
    impersonate: Annotated[bool, _boolean] = False
    ledger: Annotated[Path | None, _file] = None
    progress_interval: Annotated[float, _seconds_or_zero] = 30.0
    warnings: tuple[str, ...] = ()  # likely mistakes that do not stop the crawl

    @property
    def service_on_loopback(self) -> bool:
        """Whether the service is a sandbox on this machine, which can use private proxies."""
        return is_loopback(urlsplit(self.api_url).hostname or "")

    @property
    def store_id(self) -> str | None:
        """An id of the store; None if no other crawl can use it."""
        where = str(self.store_file.resolve()) if self.store_file else self.store_url
        return blake2b(where.encode(), digest_size=8).hexdigest() if where else None

    @property
    def has_shared_store(self) -> bool:
        """Whether other crawls can use the store too."""
        return bool(self.store_file or self.store_url) and not self.store_is_own

    @classmethod
    def from_settings(
        cls, settings: BaseSettings, environ: Mapping[str, str] = os.environ
    ) -> Config:
        """Read the settings of a crawl.

        Raises:
            ConfigurationError: names each unusable setting, its value, and what is allowed.
        """
        readers: dict[str, Callable[[], Any]] = {
            "client_key": lambda: _client_key(settings, environ),
            "store": lambda: _store(settings),
            "proxies": lambda: _proxies(settings),
            **{name: partial(_value, settings, name, parse) for name, parse in _parsers().items()},
        }
        values: dict[str, Any] = {}
        problems: list[str] = []
        for name, read in readers.items():
            try:
                values[name] = read()
            except ValueError as error:  # noqa: PERF203  (a few settings)
                problems.append(str(error))
        if problems:
            raise ConfigurationError(problems)
        store, job = values.pop("store"), settings.get("JOBDIR")
        return cls(
            **values,
            store_file=store if isinstance(store, Path) else None,
            store_url=store if isinstance(store, str) else "",
            store_is_own=bool(job and store == Path(job, STORE_FILE)),
            warnings=tuple(unknown_settings(settings, setting_names(), PREFIX)),
        )


def setting_names() -> set[str]:
    """Return the names of all settings."""
    return {KEY, KEY_FILE, STORE, PROXIES} | {PREFIX + name.upper() for name in _parsers()}


def _parsers() -> dict[str, Callable[[Any], Any]]:
    """Return the function that reads each setting, by the name of its field."""
    hints = get_type_hints(Config, include_extras=True)
    read = {name: hint for name, hint in hints.items() if get_origin(hint) is Annotated}
    return {name: hint.__metadata__[0] for name, hint in read.items()}


def _value(settings: BaseSettings, field_name: str, parse: Callable[[Any], Any]) -> Any:
    name = PREFIX + field_name.upper()
    value = settings.get(name)
    try:
        return getattr(Config, field_name) if value is None else parse(value)
    except ValueError as error:
        raise ValueError(str(error).format(name=name, value=value)) from None


def _client_key(settings: BaseSettings, environ: Mapping[str, str]) -> str:
    for source in (settings, environ):
        if value := source.get(KEY):
            return _checked_key(value, KEY)
        if path := source.get(KEY_FILE):
            return _checked_key(_content_of(path), KEY_FILE)
    name = next((name for name in SDK_KEYS if environ.get(name)), SDK_KEYS[0])
    return _checked_key(environ.get(name, ""), name)


def _proxies(settings: BaseSettings) -> tuple[Exit, ...]:
    url = settings.get(f"{PREFIX}API_URL") or API_URL
    try:
        host = urlsplit(url).hostname or ""
    except (AttributeError, TypeError, ValueError):  # the error of that setting says it
        host = ""
    return read_pool(settings.get(PROXIES), PROXIES, allow_private=is_loopback(host))


def _content_of(path: Any) -> str:
    try:
        content = Path(path).read_text(encoding="utf-8").strip()
    except (OSError, TypeError, ValueError) as error:
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise ValueError(f"{KEY_FILE} is {path!r}, but the file cannot be read: {reason}") from None
    if not content:
        raise ValueError(f"{KEY_FILE} is {path!r}, but the file is empty")
    return content


def _checked_key(value: Any, name: str) -> str:
    key = value.strip() if isinstance(value, str) else "\0"
    if not (key.isascii() and key.replace(" ", "\0").isprintable()):
        raise ValueError(f"{name} must be one word of printable ASCII")
    return key


def _store(settings: BaseSettings) -> Path | str | None:
    """Return the file or the server's URL where clearances are kept, None for memory."""
    value, job = settings.get(STORE), settings.get("JOBDIR")
    if value in (None, "", "sqlite://"):
        if value and not job:
            raise ValueError(f"{STORE} names no file, and JOBDIR is not set")
        return Path(job, STORE_FILE) if job else None
    if value == "memory":
        return None
    text = str(value) if isinstance(value, str | os.PathLike) else ""
    scheme, separator, rest = text.partition("://")
    if separator and scheme in STORE_BACKENDS and scheme != "sqlite":
        _check_server(text)
        return text
    path = rest.removeprefix("/") if scheme == "sqlite" and rest.startswith("/") else text
    if not path or "://" in path:
        allowed = '"sqlite:///path", "redis://host:port/number", "rediss://...", or "memory"'
        raise ValueError(f"{STORE} must be a path, {allowed}")
    try:
        return _file(path)
    except ValueError as error:
        raise ValueError(str(error).format(name=STORE, value=value)) from None


def _check_server(url: str) -> None:
    """Raise ValueError if *url* cannot be the URL of a server; the text does not repeat it."""
    scheme = url.partition("://")[0]
    package = STORE_BACKENDS[scheme].split(".")[-2]
    if find_spec(package) is None:
        install = f"pip install 'scrapy-ezcaptcha[{package}]'"
        raise ValueError(f"{STORE}: {scheme}:// needs a package: {install}")
    try:
        parts = urlsplit(url)
        number = parts.path.removeprefix("/")
        is_sound = parts.hostname and parts.port != 0 and (not number or number.isdecimal())
    except ValueError:
        is_sound = False
    if not is_sound:
        form = f"{package}://user:password@host:port/number"
        raise ValueError(f"{STORE} must be {form}; only the host is required")
