"""Signals that are sent for each challenge.

Connect to them as to Scrapy's signals. Handlers can be coroutine functions. Each challenge
to a request in scope is first *detected*, and then either *solved* or *failed*, unless the
crawl ends in between::

    crawler.signals.connect(self.on_failed, signal=signals.challenge_failed)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from scrapy.crawler import Crawler

__all__ = ["challenge_detected", "challenge_failed", "challenge_solved"]

#: The response to a request in scope is a challenge.
#: Arguments: ``request``, ``response``, ``sign`` (a string, how it was detected), ``spider``.
challenge_detected = object()

#: A challenged request is sent again with a clearance, or its page came with the solution. If
#: several requests share one solve, the signal is sent for each of them.
#: Arguments: ``request``, ``response`` (the challenge), ``spider``.
challenge_solved = object()

#: A challenge stays unsolved, and its page goes on to the spider.
#: Arguments: ``request``, ``response`` (the challenge), ``error`` (an ``EzCaptchaError``
#: without secrets), ``spider``.
challenge_failed = object()


async def send(crawler: Crawler, signal: object, **arguments: object) -> None:
    """Send *signal*, and wait for its handlers; log the exceptions that they raise."""
    await crawler.signals.send_catch_log_async(signal, spider=crawler.spider, **arguments)
