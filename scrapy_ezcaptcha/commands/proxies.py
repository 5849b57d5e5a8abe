"""How ``doctor`` checks the proxies of the settings and the environment: it tries each one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from urllib.request import getproxies

from scrapy.exceptions import UsageError

from scrapy_ezcaptcha.commands.findings import FAIL, NOTE, PASS, Finding
from scrapy_ezcaptcha.commands.tunnels import try_tunnels
from scrapy_ezcaptcha.errors import ExitError
from scrapy_ezcaptcha.exit import Exit, check_exit
from scrapy_ezcaptcha.words import counted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from scrapy.settings import BaseSettings

    from scrapy_ezcaptcha.config import Config


def check_proxies(
    settings: BaseSettings, config: Config, url: str | None, *, offline: bool
) -> Iterator[Finding]:
    """Try the proxies of the settings and the environment with a site, by default the service."""
    found, site = False, _Site.of(url, config)
    named: dict[str, Exit | str] = {"EZCAPTCHA_PROXY": config.proxy} if config.proxy else {}
    if settings.getbool("HTTPPROXY_ENABLED"):
        named |= {
            f"{scheme}_proxy": proxy
            for scheme, proxy in getproxies().items()
            if scheme in {"http", "https"}
        }
    for name, proxy in named.items():
        found = True
        try:
            exit = proxy if isinstance(proxy, Exit) else Exit.parse(proxy)
            check_exit(exit, allow_private=config.service_on_loopback)
        except ExitError as error:
            yield Finding(FAIL, "proxy", f"{name}: {error}")
        else:
            yield _tried(name, exit, settings, site, offline=offline)
    if set(named) == {"EZCAPTCHA_PROXY"} and not config.proxies:
        yield Finding(
            NOTE,
            "proxy",
            "requests leave without EZCAPTCHA_PROXY until their site challenges one of them",
        )
    if not found and not config.proxies:
        yield Finding(
            NOTE,
            "proxy",
            'none in the settings or the environment: each request needs its own meta["proxy"], or'
            " set EZCAPTCHA_PROXIES, EZCAPTCHA_PROXY, or http_proxy and https_proxy",
        )


def _tried(name: str, exit: Exit, settings: BaseSettings, site: _Site, *, offline: bool) -> Finding:
    if offline:
        return Finding(NOTE, "proxy", f"{name}: {exit.label}; --offline: not tried")
    (answer,) = try_tunnels(
        [exit], site.host, site.port, encoding=settings["HTTPPROXY_AUTH_ENCODING"]
    )
    if answer.is_open:
        text = f"{name}: {exit.label} opens a tunnel to {site}, {answer.seconds:.2f} s"
        return Finding(PASS, "proxy", text)
    advice = "; check user name and password" if answer.is_refused else ""
    text = f"{name}: {exit.label} opens no tunnel to {site}: {answer.text}{advice}"
    return Finding(FAIL, "proxy", text)


def check_pool(
    settings: BaseSettings, config: Config, url: str | None, *, offline: bool
) -> Iterator[Finding]:
    """Try the proxies of the pool at the same time with a site, by default the service."""
    exits, site = config.proxies, _Site.of(url, config)
    if not exits:
        return
    count = counted(len(exits), "proxy", "proxies")
    if offline:
        yield Finding(NOTE, "pool", f"{count}; --offline: not tried")
        return
    width = max(len(exit.label) for exit in exits)
    answers = try_tunnels(exits, site.host, site.port, encoding=settings["HTTPPROXY_AUTH_ENCODING"])
    opened = 0
    for number, (exit, answer) in enumerate(zip(exits, answers, strict=True), 1):
        opened += answer.is_open
        verdict = PASS if answer.is_open else FAIL if answer.is_refused else NOTE
        line = f"{number:>4} {exit.label:<{width}}  {answer.text:<33} {answer.seconds:5.2f} s"
        yield Finding(verdict, "pool", line)
    verb = "opens" if len(exits) == 1 else "open"
    words = f"{opened} of {count} {verb} a tunnel to {site}"
    advice = "" if opened else "; are they paid for, and do they allow this site?"
    yield Finding(PASS if opened else FAIL, "pool", words + advice)


@dataclass(frozen=True)
class _Site:
    """Where a tunnel leads to: the site of the user, or the service."""

    host: str
    port: int
    is_service: bool

    @classmethod
    def of(cls, url: str | None, config: Config) -> _Site:
        """Return the site of *url*, by default the service; many proxies allow only port 443."""
        parts = urlsplit(url or config.api_url)
        host = (parts.hostname or "").encode("idna").decode()
        return cls(f"[{host}]" if ":" in host else host, parts.port or 443, not url)

    def __str__(self) -> str:
        return f"{self.host}:{self.port}{' (the service)' if self.is_service else ''}"


def checked_url(url: str) -> str:
    """Return *url*; raise UsageError if it does not name a site."""
    try:
        parts = urlsplit(url)
        is_sound = parts.scheme in {"http", "https"} and parts.port != 0
        host = (parts.hostname or "").encode("idna").decode()
    except ValueError:
        is_sound, host = False, ""
    if not is_sound or not host or not host.isprintable() or " " in host:
        raise UsageError("--url must begin with http:// or https:// and name a site")
    return url
