"""Which requests are in scope, which options they have, and through which exit they are solved.

Only this module knows the precedence of proxies: ``meta["ezcaptcha"]["proxy"]``; then
``meta["proxy"]`` that the user set; then an exit of ``EZCAPTCHA_PROXIES``, which is put into
``meta["proxy"]``; then the proxy that Scrapy takes from the environment; then
``EZCAPTCHA_PROXY``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from weakref import WeakKeyDictionary

from scrapy.utils.request import fingerprint

from scrapy_ezcaptcha.crawl.memo import location_of
from scrapy_ezcaptcha.crawl.proxies import ProxyFinder
from scrapy_ezcaptcha.errors import ExitError, GivenUp, InvalidOptions, InvalidTask
from scrapy_ezcaptcha.exit import BROWSER, NO_PROXY_SUPPORT, Exit, check_exit, exit_error
from scrapy_ezcaptcha.service.wire import check_page

if TYPE_CHECKING:
    from collections.abc import Callable

    from scrapy import Request
    from scrapy.settings import BaseSettings

    from scrapy_ezcaptcha.clearances.clearance import Place
    from scrapy_ezcaptcha.clearances.record import Location
    from scrapy_ezcaptcha.config import Config

META_KEY = "ezcaptcha"

#: The label of the exit that the pool chose, as long as ``meta["proxy"]`` is that exit.
POOL_KEY = "_ezcaptcha_exit"


@dataclass(frozen=True)
class Options:
    """The options of one request; see ``docs/reference/meta.md``."""

    proxy: Exit | None = None  # used for solve and replay instead of the request's proxy
    rq_data: Mapping[str, Any] | None = field(default=None, repr=False)  # for a POST page
    website_url: str | None = None  # sent to the service instead of the request's URL
    max_attempts: int | None = None  # instead of EZCAPTCHA_MAX_ATTEMPTS
    use_body: bool = False  # the response is the page of the solution, without a replay


CHECKS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "proxy": (lambda v: isinstance(v, str), "a proxy URL"),
    "rq_data": (lambda v: isinstance(v, Mapping), "a dict"),
    "website_url": (lambda v: isinstance(v, str), "an http:// or https:// URL"),
    "max_attempts": (
        lambda v: isinstance(v, int) and not isinstance(v, bool) and v >= 1,
        "a whole number from 1",
    ),
    "use_body": (lambda v: isinstance(v, bool), "True or False"),
}


@dataclass(frozen=True)
class Target:
    """A request in scope: where it goes, through which exit, and with which options.

    Its challenge is solved through ``exit``; the request itself leaves through ``own_exit``.
    """

    request: Request
    location: Location
    exit: Exit | None
    own_exit: Exit | None
    options: Options

    @property
    def zone(self) -> str:
        """The zone of the host."""
        return self.location.zone

    @property
    def host(self) -> str:
        """The host of the request."""
        return self.location.host

    @property
    def place(self) -> Place:
        """The zone and the exit; only for a target that has an exit."""
        assert self.exit is not None
        return self.zone, self.exit

    @property
    def digest(self) -> str:
        """A digest that names the page for which a task is created, without revealing it."""
        task = repr((self.url, self.options.rq_data)).encode()
        return sha256(fingerprint(self.request) + task).hexdigest()

    @property
    def url(self) -> str:
        """The URL for the service, without fragment, user name and password."""
        url = (self.options.website_url or self.request.url).partition("#")[0]
        server = urlsplit(url).netloc
        return url.replace(server, server.rpartition("@")[2], 1)

    @property
    def other_exit(self) -> Exit | None:
        """The exit for a replay, None if the request uses it anyway."""
        return None if self.exit == self.own_exit else self.exit


class Targets:
    """Creates targets from requests, by the settings of a crawl."""

    def __init__(self, config: Config, settings: BaseSettings) -> None:
        self._config = config
        self._defaults = Options(use_body=config.use_body == "always")
        self.proxies = ProxyFinder(settings)
        self._parsed: WeakKeyDictionary[Request, tuple[dict[str, Any], Options]] = (
            WeakKeyDictionary()
        )

    def options(self, request: Request) -> Options | None:
        """Return the options of *request*, None if it is out of scope.

        A request is in scope if it opts in by meta. In transparent mode, every request to an
        allowed domain is in scope, unless its meta says False.

        Raises:
            InvalidOptions: an unknown key or a wrong type; the text says what is allowed.
        """
        value = request.meta.get(META_KEY)
        if value is None:
            is_meant = self._config.transparent_mode and (
                not self._config.allowed_domains
                or META_KEY in request.meta
                or self._is_allowed(location_of(request).host)
            )
            return self._defaults if is_meant else None
        if value is False:
            return None
        return self._defaults if value is True else self._parsed_once(request, value)

    def _parsed_once(self, request: Request, value: Any) -> Options:
        """Return the options in *value*; every hook asks for them, and they seldom change."""
        before, options = self._parsed.get(request, (None, self._defaults))
        if before is None or before != value:
            options = parse_options(value, self._defaults)
            self._parsed[request] = (dict(value), options)
        return options

    def is_in_scope(self, request: Request) -> bool:
        """Whether *request* is in scope; False if its options are invalid."""
        try:
            return self.options(request) is not None
        except InvalidOptions:  # logged when the request is sent
            return False

    def may_replace_exit(self, options: Options) -> bool:
        """Whether a request with *options* may leave through another exit than its own."""
        return options.proxy is not None or self._config.proxy is not None

    def leaves_by_pool(self, request: Request) -> bool:
        """Whether *request*, which is about to be sent, must use an exit of the pool.

        If not, this removes a proxy that the pool chose before, also for the request of which this
        one is a copy.
        """
        meta, chosen = request.meta, request.meta.get(POOL_KEY)
        is_chosen = chosen is not None and _is_exit(meta.get("proxy"), chosen)
        try:
            options = self.options(request)
        except InvalidOptions:  # logged later
            options = None
        is_free = is_chosen or "proxy" not in meta
        if is_free and options is not None and options.proxy is None:
            return self.proxies.can_use_proxies(request)
        if meta.pop(POOL_KEY, None) and is_chosen:
            del meta["proxy"]
        return False

    def leaves_by(self, request: Request, exit: Exit) -> bool:
        """Whether *request* was sent through *exit*, and no later middleware replaced it."""
        try:
            return self.proxies.after_sending(request) == exit
        except ExitError:
            return False

    def before_sending(self, request: Request, options: Options) -> Target:
        """Return the target of a request that is about to be sent.

        Raises ExitError if its proxy is not a proxy URL.
        """
        own = None if options.proxy else self.proxies.before_sending(request)
        return self._target(request, options, own)

    def after_sending(self, request: Request, options: Options) -> Target:
        """Do the same for a request that has passed all middlewares."""
        return self._target(request, options, self.proxies.after_sending(request))

    def check(self, target: Target) -> None:
        """Raise GivenUp or ExitError, with the reason, if *target* cannot be solved."""
        if not self._is_allowed(target.host):
            raise GivenUp("DOMAIN_NOT_ALLOWED", f"EZCAPTCHA_ALLOWED_DOMAINS has no {target.host}")
        check_page(target.url, target.options.rq_data)
        if self.proxies.is_by_browser(target.request) and (
            target.own_exit is None or target.other_exit is not None
        ):
            raise exit_error(BROWSER)
        check_exit(target.exit, allow_private=self._config.service_on_loopback)
        if not (target.options.use_body or self.proxies.can_send(target.request)):
            raise exit_error(NO_PROXY_SUPPORT)

    def _target(self, request: Request, options: Options, own: Exit | None) -> Target:
        exit = options.proxy or own or self._config.proxy
        return Target(request, location_of(request), exit, own, options)

    def _is_allowed(self, host: str) -> bool:
        domains = self._config.allowed_domains
        return not domains or any(
            host == domain or host.endswith("." + domain) for domain in domains
        )


def _is_exit(proxy: Any, label: str) -> bool:
    """Whether *proxy* has the label *label*; Scrapy may have removed its credentials."""
    try:
        exit = Exit.parse(proxy)
    except ExitError:
        return False
    return exit.label == (label if exit.username else label.partition("#")[0])


def parse_options(value: Any, defaults: Options) -> Options:
    """Return the options in the value of ``request.meta["ezcaptcha"]``.

    Raises:
        InvalidOptions: an unknown key or a wrong type; the text says what is allowed.
    """
    where = f'request.meta["{META_KEY}"]'
    if not isinstance(value, Mapping):
        raise InvalidOptions(f"{where} must be True, False or a dict, not {type(value).__name__}")
    given: dict[str, Any] = {}
    for key, entry in value.items():
        if key not in CHECKS:
            known = ", ".join(sorted(CHECKS))
            raise InvalidOptions(f"{where} has an unknown key {key!r}; the keys are {known}")
        fits, allowed = CHECKS[key]
        if entry is not None and not fits(entry):
            raise InvalidOptions(f"{where}[{key!r}] must be {allowed}, not {type(entry).__name__}")
        if entry is not None:
            given[key] = entry
    try:
        if "proxy" in given:
            given["proxy"] = Exit.parse(given["proxy"])
        check_page(given.get("website_url", "https://any.example/"), given.get("rq_data"))
    except (ExitError, InvalidTask) as error:
        raise InvalidOptions(f"{where}: {error}") from None
    return replace(defaults, **given)
