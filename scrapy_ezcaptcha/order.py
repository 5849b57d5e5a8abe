"""Does the middleware stand where it must among the others? Settings only."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scrapy.downloadermiddlewares.httpcompression import HttpCompressionMiddleware
from scrapy.downloadermiddlewares.httpproxy import HttpProxyMiddleware
from scrapy.downloadermiddlewares.redirect import MetaRefreshMiddleware
from scrapy.downloadermiddlewares.retry import RetryMiddleware
from scrapy.utils.misc import load_object

if TYPE_CHECKING:
    from collections.abc import Iterator

    from scrapy.settings import BaseSettings

#: After decompression (590), before meta refreshes (580) and retries (550) are followed.
ORDER = 585

# Responses pass the middlewares from the highest order to the lowest.
_MUST_BE_ABOVE = (
    (HttpCompressionMiddleware, "challenge pages would still be compressed"),
    (HttpProxyMiddleware, "a replay would not get its proxy"),
)
_MUST_BE_BELOW = (
    (MetaRefreshMiddleware, "it would follow the refresh of a challenge page"),
    (RetryMiddleware, "it would retry a challenge of status 503 or 429"),
)


def order_of(settings: BaseSettings, component: type) -> int | None:
    """Return the order of *component*, or of a subclass of it, in DOWNLOADER_MIDDLEWARES.

    None if it is not there.
    """
    return next(
        (order for cls, order in _middlewares(settings) if issubclass(cls, component)), None
    )


def order_problems(settings: BaseSettings, component: type) -> list[str]:
    """Say what is wrong with the place of *component*; empty if nothing is."""
    own = order_of(settings, component)
    if own is None:
        return []
    problems = []
    for is_above, others in ((True, _MUST_BE_ABOVE), (False, _MUST_BE_BELOW)):
        for other, consequence in others:
            order = order_of(settings, other)
            if order is None or (order > own if is_above else order < own):
                continue
            problems.append(
                f"DOWNLOADER_MIDDLEWARES has {component.__name__} at {own} and {other.__name__} at"
                f" {order}, which must be {'above' if is_above else 'below'} it: {consequence}."
                f" The right order is {ORDER}"
            )
    return problems


def _middlewares(settings: BaseSettings) -> Iterator[tuple[type, int]]:
    components: dict[Any, Any] = dict(settings.getwithbase("DOWNLOADER_MIDDLEWARES"))
    for path, order in components.items():
        if order is None:
            continue
        cls = load_object(path)
        if isinstance(cls, type):
            yield cls, order
