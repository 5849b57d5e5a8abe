"""Scrapy's HTTP cache neither stores a challenge nor serves one."""

from __future__ import annotations

from copy import copy
from typing import TYPE_CHECKING, Any

from scrapy.downloadermiddlewares.httpcache import HttpCacheMiddleware
from scrapy.downloadermiddlewares.httpcompression import HttpCompressionMiddleware
from scrapy.exceptions import IgnoreRequest

from scrapy_ezcaptcha.challenge import is_challenge, is_suspect

if TYPE_CHECKING:
    from collections.abc import Callable

    from scrapy import Request
    from scrapy.crawler import Crawler
    from scrapy.http import Response

# Methods of a cache policy that allow a response to be stored or served. Each takes that
# response first and the request last.
_ALLOWING = ("should_cache_response", "is_cached_response_fresh", "is_cached_response_valid")


def keep_challenges_out(crawler: Crawler, is_in_scope: Callable[[Request], bool]) -> None:
    """Have the HTTP cache of *crawler*, if it has one, treat challenges as if not there.

    Only requests for which *is_in_scope* is true are concerned.
    """
    cache: Any = crawler.get_downloader_middleware(HttpCacheMiddleware)
    if cache is None:
        return
    # The cache stands nearer to the network than decompression. What is decoded here is
    # counted where it is decoded for the spider.
    decoder: Any = copy(crawler.get_downloader_middleware(HttpCompressionMiddleware))
    if decoder is not None:
        decoder.stats = None

    def guarded(allows: Callable[..., Any]) -> Callable[..., bool]:
        def allows_no_challenge(*args: Any) -> bool:
            response, request = args[0], args[-1]
            if is_in_scope(request) and _is_challenge(request, response, decoder):
                return False
            return bool(allows(*args))

        return allows_no_challenge

    for name in _ALLOWING:
        setattr(cache.policy, name, guarded(getattr(cache.policy, name)))


def _is_challenge(request: Request, response: Response, decoder: Any) -> bool:
    if is_challenge(response):
        return True
    if decoder is None or b"Content-Encoding" not in response.headers or not is_suspect(response):
        return False
    try:
        return is_challenge(decoder.process_response(request, response.copy()))
    except IgnoreRequest:  # too large for Scrapy, and no challenge
        return False
