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


def keep_challenges_out(crawler: Crawler, is_in_scope: Callable[[Request], bool]) -> None:
    """Wrap the policy of the HTTP cache of *crawler*, if it has one.

    This affects only requests for which *is_in_scope* returns True.
    """
    cache: Any = crawler.get_downloader_middleware(HttpCacheMiddleware)
    if cache is None:
        return
    # The cache is closer to the network than decompression. What is decoded here is counted when it
    # is decoded for the spider.
    decoder: Any = copy(crawler.get_downloader_middleware(HttpCompressionMiddleware))
    if decoder is not None:
        decoder.stats = None

    def is_unwanted(request: Request, response: Response) -> bool:
        return is_in_scope(request) and _is_challenge(request, response, decoder)

    cache.policy = PolicyWithoutChallenges(cache.policy, is_unwanted)


class PolicyWithoutChallenges:
    """A cache policy that ignores unwanted responses."""

    def __init__(self, policy: Any, is_unwanted: Callable[[Request, Response], bool]) -> None:
        self._policy = policy
        self._is_unwanted = is_unwanted

    def __getattr__(self, name: str) -> Any:
        return getattr(self._policy, name)

    def should_cache_response(self, response: Response, request: Request) -> bool:
        """Whether *response* may be stored."""
        is_unwanted = self._is_unwanted(request, response)
        return not is_unwanted and self._policy.should_cache_response(response, request)

    def is_cached_response_fresh(self, cachedresponse: Response, request: Request) -> bool:
        """Whether a stored response may be served without asking the site."""
        is_unwanted = self._is_unwanted(request, cachedresponse)
        return not is_unwanted and self._policy.is_cached_response_fresh(cachedresponse, request)

    def is_cached_response_valid(
        self, cachedresponse: Response, response: Response, request: Request
    ) -> bool:
        """Whether a stored response may be served after asking the site."""
        if self._is_unwanted(request, cachedresponse):
            return False
        return bool(self._policy.is_cached_response_valid(cachedresponse, response, request))


def _is_challenge(request: Request, response: Response, decoder: Any) -> bool:
    if is_challenge(response):
        return True
    if decoder is None or b"Content-Encoding" not in response.headers or not is_suspect(response):
        return False
    try:
        return is_challenge(decoder.process_response(request, response.copy()))
    except IgnoreRequest:  # too large for Scrapy, so not a challenge
        return False
