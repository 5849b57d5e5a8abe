"""Our cache policy works around any other policy."""

from __future__ import annotations

from types import SimpleNamespace

from scrapy import Request
from scrapy.downloadermiddlewares.httpcache import HttpCacheMiddleware
from scrapy.http import Response

from scrapy_ezcaptcha.crawl.httpcache import keep_challenges_out

REQUEST = Request("http://shop.example/")
PAGE = Response(REQUEST.url)
CHALLENGE = Response(REQUEST.url, status=403, headers={"cf-mitigated": "challenge"})


class Policy:
    """A policy that takes everything, and no further attributes."""

    __slots__ = ()
    name = "mine"

    def should_cache_response(self, response, request):
        return True

    def is_cached_response_fresh(self, cachedresponse, request):
        return True


def wrapped(policy, is_in_scope=lambda request: True):
    cache = SimpleNamespace(policy=policy)
    components = {HttpCacheMiddleware: cache}
    keep_challenges_out(SimpleNamespace(get_downloader_middleware=components.get), is_in_scope)
    return cache.policy


def test_a_challenge_is_neither_stored_nor_served_and_all_else_is_left_to_the_policy():
    policy = wrapped(Policy())
    for response, expected in ((PAGE, True), (CHALLENGE, False)):
        assert policy.should_cache_response(response, REQUEST) is expected
        assert policy.is_cached_response_fresh(cachedresponse=response, request=REQUEST) is expected
    assert policy.name == "mine"


def test_two_crawls_that_share_a_policy_have_their_own_scope():
    shared = Policy()
    ours, theirs = wrapped(shared), wrapped(shared, lambda request: False)
    assert not ours.should_cache_response(CHALLENGE, REQUEST)
    assert theirs.should_cache_response(CHALLENGE, REQUEST)


def test_without_a_cache_there_is_nothing_to_do():
    nothing = SimpleNamespace(get_downloader_middleware=lambda component: None)
    assert keep_challenges_out(nothing, lambda request: True) is None
