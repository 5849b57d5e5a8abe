"""Signals for those who want handling of their own.

Connect to them as to Scrapy's; handlers may be coroutine functions. Each challenge
that a request in scope meets is first *detected*, and then either *solved* or
*failed*, unless the crawl ends in between::

    crawler.signals.connect(self.on_failed, signal=signals.challenge_failed)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from scrapy.crawler import Crawler

#: A request in scope met a challenge.
#: Arguments: ``request``, ``response``, ``sign`` (by what it was told, a string), ``spider``.
challenge_detected = object()

#: A challenged request is sent again with a clearance, or its page came with the solution. Of
#: the requests that share one solve, each has this signal.
#: Arguments: ``request``, ``response`` (the challenge), ``spider``.
challenge_solved = object()

#: A challenge stays unsolved and is handed on to the spider.
#: Arguments: ``request``, ``response`` (the challenge), ``error`` (an ``EzCaptchaError``
#: without secrets), ``spider``.
challenge_failed = object()


async def send(crawler: Crawler, signal: object, **arguments: object) -> None:
    """Send *signal*, and wait for its handlers; what they raise is logged."""
    await crawler.signals.send_catch_log_async(signal, spider=crawler.spider, **arguments)
