"""Is the middleware at the right place among the others? Examines settings only."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scrapy.downloadermiddlewares.httpcompression import HttpCompressionMiddleware
from scrapy.downloadermiddlewares.httpproxy import HttpProxyMiddleware
from scrapy.downloadermiddlewares.redirect import MetaRefreshMiddleware
from scrapy.downloadermiddlewares.retry import RetryMiddleware
from scrapy.utils.misc import load_object

if TYPE_CHECKING:
    from scrapy.settings import BaseSettings

#: After decompression (590), and before meta refreshes (580) and retries (550).
ORDER = 585

# Responses pass the middlewares from the highest order to the lowest.
_NEIGHBOURS = (
    ("above", HttpCompressionMiddleware, "challenge pages would still be compressed"),
    ("above", HttpProxyMiddleware, "a replay would not get its proxy"),
    ("below", MetaRefreshMiddleware, "it would follow the refresh of a challenge page"),
    ("below", RetryMiddleware, "it would retry a challenge of status 503 or 429"),
)

# Class names of middlewares in other packages that treat a 403 as a ban.
_BAN_DETECTORS = ("RotatingProxyMiddleware", "BanDetectionMiddleware", "ProxyPoolMiddleware")


def order_of(settings: BaseSettings, component: type) -> int | None:
    """Return the order of *component*, or of a subclass of it, in DOWNLOADER_MIDDLEWARES.

    None if it is not there.
    """
    for path, order in dict(settings.getwithbase("DOWNLOADER_MIDDLEWARES")).items():
        cls: Any = load_object(path) if order is not None else None
        if isinstance(cls, type) and issubclass(cls, component):
            return int(order)
    return None


def ban_detectors(settings: BaseSettings) -> list[tuple[int, str, str]]:
    """Return order, name and path of each middleware that is known to treat a 403 as a ban."""
    found = []
    for path, order in dict(settings.getwithbase("DOWNLOADER_MIDDLEWARES")).items():
        cls: Any = load_object(path) if order is not None else None
        if any(base.__name__ in _BAN_DETECTORS for base in getattr(cls, "__mro__", ())):
            named = path if isinstance(path, str) else f"{cls.__module__}.{cls.__qualname__}"
            found.append((int(order), cls.__name__, named))
    return sorted(found)


def order_problems(settings: BaseSettings, component: type) -> list[str]:
    """Return what is wrong with the place of *component*; empty if nothing is wrong."""
    own = order_of(settings, component)
    if own is None:
        return []
    problems = []
    for side, other, consequence in _NEIGHBOURS:
        order = order_of(settings, other)
        if order is None or (order > own if side == "above" else order < own):
            continue
        problems.append(
            f"DOWNLOADER_MIDDLEWARES has {component.__name__} at {own} and {other.__name__} at"
            f" {order}, which must be {side} it: {consequence}. The right order is {ORDER}"
        )
    return problems + _detector_problems(settings, component, own)


def _detector_problems(settings: BaseSettings, component: type, own: int) -> list[str]:
    """Return which ban detectors would see challenges first, and the right settings."""
    found = ban_detectors(settings)
    above = [f"{name} at {order}" for order, name, _ in found if order >= own]
    if not above:
        return []
    orders = [own - 15 + 5 * number for number in range(len(found))]
    lines = ", ".join(f'"{path}": {n}' for n, (_, _, path) in zip(orders, found, strict=True))
    said = (
        f"DOWNLOADER_MIDDLEWARES has {component.__name__} at {own}, and {' and '.join(above)}: a"
        " challenge would be treated as a ban, and sent again through other proxies, before it can"
        f" be solved. Put the ban detectors below {own}: {lines}"
    )
    return [said]
