"""An exit: the proxy through which a request leaves, and what the service requires of it."""

from __future__ import annotations

import ipaddress
import os
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from scrapy_ezcaptcha.errors import ExitError

# Bytes of a user name's digest in a label. Among 200 sessions of one gateway, the chance that two
# have the same label is 0.1%.
_DIGEST_SIZE = 3

_DEFAULT_PORTS = {"http": 80, "https": 443, "socks5": 1080}

# For the service's worker, which runs elsewhere, these are its own machine or network.
_PRIVATE = tuple(
    ipaddress.ip_network(network)
    for network in (
        *("0.0.0.0/8", "10.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16"),
        *("172.16.0.0/12", "192.168.0.0/16", "::/127", "fc00::/7", "fe80::/10"),
    )
)

NO_PROXY = "none"
NO_CREDENTIALS = "credentials"
PRIVATE_HOST = "private"
UNREADABLE = "unreadable"
NO_PROXY_SUPPORT = "handler"
BROWSER = "browser"

_MESSAGES = {
    NO_PROXY: "the request has no proxy, but the service solves only through a proxy;"
    ' set meta["proxy"], EZCAPTCHA_PROXY or an environment proxy'
    " (http://user:password@host:port)",
    NO_CREDENTIALS: "the proxy {label} has no user name and password, which the service"
    " requires; write it as http://user:password@host:port",
    PRIVATE_HOST: "the proxy {label} is on a private or loopback address that the service"
    " cannot reach; use one with a public address",
    UNREADABLE: "the proxy is not a URL of the form scheme://user:password@host:port"
    " with scheme http, https or socks5",
    NO_PROXY_SUPPORT: "the download handler of this scheme does not support proxies, which replays"
    " need; use another one in DOWNLOAD_HANDLERS",
    BROWSER: "the browser of scrapy-playwright does not use the proxy through which the challenge"
    " must be solved, and ignores meta; set that proxy in PLAYWRIGHT_LAUNCH_OPTIONS, or in the"
    " options of its context, as {{'server': 'http://host:port', 'username': 'user', 'password':"
    " 'password'}}",
}


@dataclass(frozen=True)
class Exit:
    """A proxy in the form that the service needs. Neither repr nor str shows its credentials."""

    scheme: str
    host: str
    port: int
    username: str = field(default="", repr=False)
    password: str = field(default="", repr=False)

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:  # every lookup of a clearance needs it
        return hash(self._fields)

    @property
    def _fields(self) -> tuple[str, str, int, str, str]:
        return self.scheme, self.host, self.port, self.username, self.password

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), self._fields  # without the hash: another process has other hashes

    @classmethod
    def parse(cls, url: Any, *, credentials: tuple[str, str] | None = None) -> Exit:
        """Read ``scheme://user:password@host:port``, URL-quoted; the scheme is http by default.

        *credentials* are user name and password, unquoted, instead of those in the URL. Raises
        ExitError if it is not such a URL; the text does not repeat it.
        """
        try:
            parts = urlsplit(url if "://" in url else f"http://{url}")
            scheme, host = parts.scheme.lower(), (parts.hostname or "").lower()
            default_port = _DEFAULT_PORTS[scheme]
            port = parts.port or default_port
        except (AttributeError, KeyError, TypeError, ValueError):
            host = ""
        if not host or any(c in host for c in " %\\") or not host.isprintable():
            raise exit_error(UNREADABLE)
        username, password = credentials or (
            unquote(parts.username or ""),
            unquote(parts.password or ""),
        )
        return cls(scheme, host, port, username, password)

    @property
    def url(self) -> str:
        """The full proxy URL, credentials included: a secret."""
        user_info = ""
        if self.username or self.password:
            user_info = f"{quote(self.username, safe='')}:{quote(self.password, safe='')}@"
        return f"{self.scheme}://{user_info}{self._host_and_port}"

    @property
    def label(self) -> str:
        """What the proxy is called in logs, errors and lists, such as ``gate.example:8000#3f2a1c``.

        After ``#`` is the beginning of a digest of the user name, if there is one. It distinguishes
        the sessions of one gateway, and is the same in all processes and runs. Proxies that
        differ only in the password have the same label.
        """
        if not self.username:
            return self._host_and_port
        digest = blake2b(self.username.encode(errors="replace"), digest_size=_DIGEST_SIZE)
        return f"{self._host_and_port}#{digest.hexdigest()}"

    @property
    def address(self) -> str:
        """The proxy's URL without credentials."""
        return f"{self.scheme}://{self._host_and_port}"

    @property
    def _host_and_port(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def secrets(self) -> tuple[str, ...]:
        """The secrets that must not be shown, in the forms in which they are sent."""
        if not self.password:
            return ()
        return (self.url, f"{self.username}:{self.password}", self.password)

    def __str__(self) -> str:
        return self.label


def check_exit(exit: Exit | None, *, allow_private: bool = False) -> Exit:
    """Return *exit* if the service can use it; otherwise raise ExitError, which says what to set.

    The service would refuse such a proxy too, but only after a call. *allow_private* is True if the
    service itself is on loopback.
    """
    if exit is None:
        raise exit_error(NO_PROXY)
    if not (exit.username and exit.password):
        raise exit_error(NO_CREDENTIALS, exit)
    if not allow_private and is_private(exit.host):
        raise exit_error(PRIVATE_HOST, exit)
    return exit


def read_pool(value: Any, name: str, *, allow_private: bool = False) -> tuple[Exit, ...]:
    """Read a pool of proxies: a list of URLs, or a path to a file with one URL per line.

    A string with commas or URLs is a list too. In a file, empty lines and lines that begin with
    ``#`` are ignored. Raises ValueError, whose text begins with *name*. It says which entry is
    unusable and why, and does not repeat the entry.
    """
    entries, kind = _entries(value, name)
    exits: dict[Exit, int] = {}
    problems = []
    for number, entry in entries:
        try:
            exit = check_exit(Exit.parse(entry), allow_private=allow_private)
        except ExitError as error:
            problems.append(f"{kind} {number}: {error}")
            continue
        if exit in exits:
            problems.append(f"{kind} {number} is the same as {kind} {exits[exit]}")
        exits.setdefault(exit, number)
    if problems:
        raise ValueError(f"{name}: {'; '.join(problems)}")
    return tuple(exits)


def _entries(value: Any, name: str) -> tuple[list[tuple[int, Any]], str]:
    """Return the entries of a pool with their numbers, and the word for an entry."""
    if isinstance(value, list | tuple):
        return list(enumerate(value, 1)), "entry"
    text = str(value or "").strip() if isinstance(value, str | os.PathLike | None) else ","
    if "," in text or "://" in text or not text:
        parts = text.split(",") if text else []
        return list(enumerate((part.strip() for part in parts), 1)), "entry"
    try:
        lines = Path(text).expanduser().read_text(encoding="utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or type(error).__name__
        hint = "; it must be a list of proxy URLs, or a path to a file with one URL per line"
        raise ValueError(f"{name} names a file that cannot be read: {reason}{hint}") from None
    numbered = ((number, line.strip()) for number, line in enumerate(lines, 1))
    proxies = [(n, line) for n, line in numbered if line and not line.startswith("#")]
    if not proxies:  # requests would have no proxy
        raise ValueError(f"{name} names a file without a proxy")
    return proxies, "line"


def is_loopback(host: str) -> bool:
    """Whether *host* is this machine."""
    address = _ip_address(host)
    return address.is_loopback if address else f".{host}".endswith(".localhost")


def is_private(host: str) -> bool:
    """Whether *host* looks like one that cannot be reached from outside its network."""
    address = _ip_address(host)
    if address is None:
        return f".{host}".endswith(".localhost")
    mapped = getattr(address, "ipv4_mapped", None) or address
    return any(mapped.version == network.version and mapped in network for network in _PRIVATE)


def exit_error(cause: str, exit: Exit | None = None) -> ExitError:
    """Return the error for *cause*, with its text."""
    return ExitError(cause, _MESSAGES[cause].format(label=exit.label if exit else ""))


def _ip_address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return None
