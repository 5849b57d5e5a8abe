"""Which requests are in scope, and what ``request.meta["ezcaptcha"]`` asks for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from scrapy.utils.httpobj import urlparse_cached

from scrapy_ezcaptcha.errors import ExitError, InvalidOptions, InvalidTask
from scrapy_ezcaptcha.exit import Exit
from scrapy_ezcaptcha.wire import CloudFlare5STask

if TYPE_CHECKING:
    from collections.abc import Callable

    from scrapy import Request

    from scrapy_ezcaptcha.config import Config

META_KEY = "ezcaptcha"


@dataclass(frozen=True)
class Options:
    """What one request asks for.

    Args:
        proxy: solve and replay by this exit instead of the request's own.
        rq_data: passed to the service, for a page that must be fetched by POST.
        website_url: give the service this URL instead of the request's.
        max_attempts: in place of ``EZCAPTCHA_MAX_ATTEMPTS``.
        use_body: answer with the solution's own body instead of downloading again.
    """

    proxy: Exit | None = None
    rq_data: Mapping[str, Any] | None = field(default=None, repr=False)
    website_url: str | None = None
    max_attempts: int | None = None
    use_body: bool = False


_ALLOWED: dict[str, tuple[Callable[[Any], bool], str]] = {
    "proxy": (lambda v: isinstance(v, str), "a proxy URL"),
    "rq_data": (lambda v: isinstance(v, Mapping), "a dict, not an encoded string"),
    "website_url": (lambda v: isinstance(v, str), "an http:// or https:// URL"),
    "max_attempts": (
        lambda v: isinstance(v, int) and not isinstance(v, bool) and v >= 1,
        "a whole number from 1",
    ),
    "use_body": (lambda v: isinstance(v, bool), "True or False"),
}

_DEFAULTS = Options()


def options_of(request: Request, config: Config) -> Options | None:
    """Return what *request* asks for, None if it is out of scope.

    In scope is what opts in by meta, or everything in transparent mode unless its
    meta says False.

    Raises:
        InvalidOptions: an unknown key or a wrong type; says which, and what is allowed.
    """
    value = request.meta.get(META_KEY)
    if value is None:
        return _DEFAULTS if config.transparent_mode else None
    if value is False:
        return None
    if value is True:
        return _DEFAULTS
    return parse_options(value)


def parse_options(value: Any) -> Options:
    """Check a dict given as ``request.meta["ezcaptcha"]``.

    Raises:
        InvalidOptions: an unknown key or a wrong type; says which, and what is allowed.
    """
    where = f'request.meta["{META_KEY}"]'
    if not isinstance(value, Mapping):
        raise InvalidOptions(f"{where} must be True, False or a dict, is {type(value).__name__}")
    given: dict[str, Any] = {}
    for key, entry in value.items():
        if key not in _ALLOWED:
            raise InvalidOptions(
                f"{where} has an unknown key {key!r}; known are {', '.join(sorted(_ALLOWED))}"
            )
        fits, allowed = _ALLOWED[key]
        if entry is None:
            continue
        if not fits(entry):
            raise InvalidOptions(f"{where}[{key!r}] must be {allowed}, is {type(entry).__name__}")
        given[key] = entry
    try:
        if "proxy" in given:
            given["proxy"] = Exit.parse(given["proxy"])
        CloudFlare5STask(
            given.get("website_url", "https://any.example/"), "unused", given.get("rq_data")
        )
    except (ExitError, InvalidTask) as error:
        raise InvalidOptions(f"{where}: {error}") from None
    return Options(**given)


def is_allowed_domain(request: Request, config: Config) -> bool:
    """Whether ``EZCAPTCHA_ALLOWED_DOMAINS`` lets the host of *request* be solved."""
    if not config.allowed_domains:
        return True
    host = (urlparse_cached(request).hostname or "").lower()
    return any(host == domain or host.endswith("." + domain) for domain in config.allowed_domains)
