"""Through which proxy does a request leave, credentials and all?

A clearance holds for one exit only, so the service must solve through the very
proxy by which the request left. By the time a challenge is seen, Scrapy has moved
the proxy's credentials from ``meta["proxy"]`` into the ``Proxy-Authorization``
header (``HttpProxyMiddleware``, order 750); here they are put together again.
"""

from __future__ import annotations

import ipaddress
from base64 import b64decode
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote, urlsplit

from scrapy import Request
from scrapy.downloadermiddlewares.httpproxy import HttpProxyMiddleware
from scrapy.utils.httpobj import urlparse_cached
from scrapy.utils.misc import load_object

from scrapy_ezcaptcha.errors import ExitError

if TYPE_CHECKING:
    from scrapy.settings import BaseSettings

_DEFAULT_PORTS = {"http": 80, "https": 443, "socks5": 1080}

# The service's worker sits elsewhere: to it these are its own machine or network.
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

# Download handlers that cannot leave by a proxy.
_WITHOUT_PROXIES = frozenset({"scrapy.core.downloader.handlers.http2.H2DownloadHandler"})

_MESSAGES = {
    NO_PROXY: "the request leaves by no proxy, and the service solves only through one;"
    ' set meta["proxy"], EZCAPTCHA_PROXY or an environment proxy'
    " (http://user:password@host:port)",
    NO_CREDENTIALS: "the proxy {address} has no user name and password, which the service"
    " requires; write it as http://user:password@host:port",
    PRIVATE_HOST: "the proxy {address} is on a private or loopback address that the service"
    " cannot reach; use one with a public address",
    UNREADABLE: "the proxy is not a URL of the form scheme://user:password@host:port"
    " with scheme http, https or socks5",
    NO_PROXY_SUPPORT: "the download handler of this scheme cannot leave by a proxy, which a replay"
    " must; take another one in DOWNLOAD_HANDLERS",
}


@dataclass(frozen=True)
class Exit:
    """A proxy as the service needs it. Neither repr nor str shows its credentials."""

    scheme: str
    host: str
    port: int
    username: str = field(default="", repr=False)
    password: str = field(default="", repr=False)

    @classmethod
    def parse(cls, url: Any, *, credentials: tuple[str, str] | None = None) -> Exit:
        """Read a proxy URL; without a scheme it is http, as for Scrapy.

        Args:
            url: ``scheme://user:password@host:port``, URL-quoted.
            credentials: user name and password, unquoted, in place of those in the URL.

        Raises:
            ExitError: not such a URL. The text does not repeat it.
        """
        try:
            parts = urlsplit(url if "://" in url else f"http://{url}")
            scheme, host = parts.scheme.lower(), (parts.hostname or "").lower()
            default_port = _DEFAULT_PORTS[scheme]
            port = parts.port or default_port
        except (AttributeError, KeyError, TypeError, ValueError):
            host = ""
        if not host or any(c in host for c in " %\\") or not host.isprintable():
            raise ExitError(UNREADABLE, _MESSAGES[UNREADABLE])
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
    def address(self) -> str:
        """The proxy without its credentials, for logs."""
        return f"{self.scheme}://{self._host_and_port}"

    @property
    def _host_and_port(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def secrets(self) -> tuple[str, ...]:
        """What must not be shown to anybody, in the forms in which it travels."""
        if not self.password:
            return ()
        return (self.url, f"{self.username}:{self.password}", self.password)

    def __str__(self) -> str:
        return self.address


def check_exit(exit: Exit | None, *, allow_private: bool = False) -> Exit:
    """Return *exit* if the service can use it.

    Args:
        exit: the proxy, None if there is none.
        allow_private: True while the service itself is on loopback.

    Raises:
        ExitError: says what is missing and what to set. The service would refuse such
            a proxy too, at the cost of a round trip.
    """
    if exit is None:
        raise exit_error(NO_PROXY)
    if not (exit.username and exit.password):
        raise exit_error(NO_CREDENTIALS, exit)
    if not allow_private and is_private(exit.host):
        raise exit_error(PRIVATE_HOST, exit)
    return exit


def is_loopback(host: str) -> bool:
    """Whether *host* is this machine itself."""
    address = _ip_address(host)
    return address.is_loopback if address else _is_localhost(host)


def is_private(host: str) -> bool:
    """Whether *host* is, by its looks, out of reach for anybody outside its network."""
    address = _ip_address(host)
    if address is None:
        return _is_localhost(host)
    mapped = getattr(address, "ipv4_mapped", None) or address
    return any(mapped.version == network.version and mapped in network for network in _PRIVATE)


class ExitFinder:
    """Finds the exit of a request before it is sent, and after.

    Which proxy a request will leave by is left to Scrapy's own
    ``HttpProxyMiddleware``, tried on a stand-in, so that ``meta["proxy"]``, the
    environment and ``no_proxy`` count here exactly as they count there.
    """

    def __init__(self, settings: BaseSettings) -> None:
        self._encoding: str = settings.get("HTTPPROXY_AUTH_ENCODING") or "latin-1"
        self._proxies = (
            HttpProxyMiddleware(self._encoding) if settings.getbool("HTTPPROXY_ENABLED") else None
        )
        self.schemes_without_proxies = frozenset(
            scheme
            for scheme, handler in settings.getwithbase("DOWNLOAD_HANDLERS").items()
            if handler is not None and _is_without_proxies(handler)
        )

    def can_use_proxies(self, request: Request) -> bool:
        """Whether Scrapy's download handler could send *request* by a proxy."""
        return urlparse_cached(request).scheme not in self.schemes_without_proxies

    def before_sending(self, request: Request) -> Exit | None:
        """Return by which proxy *request* is going to leave, None if by none.

        Raises:
            ExitError: its proxy is no proxy URL.
        """
        stand_in = Request(request.url, meta=_proxy_meta(request))
        if authorization := request.headers.get(b"Proxy-Authorization"):
            stand_in.headers[b"Proxy-Authorization"] = authorization
        if self._proxies is not None:
            try:
                self._proxies.process_request(stand_in)
            except ValueError:
                raise ExitError(UNREADABLE, _MESSAGES[UNREADABLE]) from None
        return self.after_sending(stand_in)

    def after_sending(self, request: Request) -> Exit | None:
        """Return by which proxy *request* left, None if by none.

        Raises:
            ExitError: its proxy is no proxy URL.
        """
        url = request.meta.get("proxy")
        if not url:
            return None
        authorization = request.headers.get(b"Proxy-Authorization")
        return Exit.parse(url, credentials=self._credentials(authorization))

    def _credentials(self, authorization: bytes | None) -> tuple[str, str] | None:
        scheme, _, encoded = (authorization or b"").partition(b" ")
        if scheme.lower() != b"basic":
            return None
        try:
            pair = b64decode(encoded, validate=True).decode(self._encoding)
        except ValueError:
            return None
        username, _, password = pair.partition(":")
        return username, password


def _is_without_proxies(handler: Any) -> bool:
    try:
        cls = load_object(handler)
    except ImportError:  # Scrapy says so when it is needed
        return False
    names = (f"{base.__module__}.{base.__qualname__}" for base in getattr(cls, "__mro__", ()))
    return not _WITHOUT_PROXIES.isdisjoint(names)


def _proxy_meta(request: Request) -> dict[str, Any]:
    keys = ("proxy", "_auth_proxy", "_scheme_proxy")
    return {key: request.meta[key] for key in keys if key in request.meta}


def exit_error(cause: str, exit: Exit | None = None) -> ExitError:
    """Return the error for *cause*, in words."""
    return ExitError(cause, _MESSAGES[cause].format(address=exit.address if exit else ""))


def _ip_address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return None


def _is_localhost(host: str) -> bool:
    return host == "localhost" or host.endswith(".localhost")
