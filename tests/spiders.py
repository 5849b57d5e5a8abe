"""The spiders of the crawl tests. Each notes what it gets in its plan."""

from __future__ import annotations

import random
import time
from itertools import cycle
from typing import Any

import scrapy
from scrapy.http import Response
from scrapy.linkextractors import LinkExtractor
from scrapy.resolver import CachingThreadedResolver
from scrapy.spiders import CrawlSpider, Rule
from scrapy.utils.defer import maybe_deferred_to_future
from twisted.internet.defer import Deferred, succeed

import scrapy_ezcaptcha.signals


class PlanSpider(scrapy.Spider):
    """Sends the requests of its plan; with ``follow``, also the links of that CSS class."""

    name = "plan"
    plan: dict[str, Any]
    number = 0

    @classmethod
    def from_crawler(cls, crawler, *args, **kwargs):
        spider = super().from_crawler(crawler, *args, **kwargs)
        spider.allowed_domains = cls.plan.get("allowed_domains", [])
        for name in ("challenge_detected", "challenge_solved", "challenge_failed"):
            crawler.signals.connect(
                getattr(spider, name), signal=getattr(scrapy_ezcaptcha.signals, name)
            )
        return spider

    async def start(self):
        for spec in self.plan["requests"]:
            yield self.request(spec)

    def request(self, spec):
        callbacks = {"callback": self.parse, "errback": self.failed}
        named = {name: getattr(self, spec[name]) for name in callbacks if name in spec}
        return scrapy.Request(**spec | callbacks | named)

    def parse(self, response, **cb_kwargs):
        self.note(response, cb_kwargs=cb_kwargs)
        follow = self.plan.get("follow")
        if follow and isinstance(response, scrapy.http.HtmlResponse):
            for link in response.css(f"a.{follow}"):
                meta = dict(self.plan["follow_meta"])
                yield response.follow(link, self.parse, errback=self.failed, meta=meta)

    def note(self, response: Response, **more: Any) -> None:
        text = response.text if isinstance(response, scrapy.http.TextResponse) else ""
        self.plan["pages"].append(
            {
                "url": response.url,
                "status": response.status,
                "flags": response.flags,
                "body": text,
                "error": response.meta.get("ezcaptcha_error"),
                "meta": sorted(key for key in response.meta if isinstance(key, str)),
                "retry_times": response.meta.get("retry_times"),
                "sent_user_agent": response.request.headers.get("User-Agent", b"").decode(),
                "priority": response.request.priority,
                "slot": response.meta.get("download_slot"),
                "method": response.request.method,
                "request_flags": response.request.flags,
                "dont_filter": response.request.dont_filter,
                "crawler": self.number,
                **more,
            }
        )

    def failed(self, failure):
        self.plan["errors"].append(
            {
                "url": failure.request.url,
                "type": failure.type.__name__,
                "text": failure.getErrorMessage(),
            }
        )

    async def challenge_detected(self, request, response, sign, spider):
        if jump := self.plan.pop("clock_jump", None):
            told = time.time
            time.time = lambda: told() + jump
        self.plan["signals"].append(["detected", request.url, response.status, sign, spider.name])

    def challenge_solved(self, request, response, spider):
        self.plan["signals"].append(["solved", request.url, response.status, None, spider.name])

    def challenge_failed(self, request, response, error, spider):
        said = [request.url, response.status, f"{error.code}: {error}", spider.name]
        self.plan["signals"].append(["failed", *said])


class ItemSpider(PlanSpider):
    """Has callbacks that the other spiders do not have."""

    def parse_item(self, response):
        self.note(response)

    def item_failed(self, failure):
        self.failed(failure)


class LateSpider(PlanSpider):
    """Sends further requests once those of the plan have all been challenged."""

    async def start(self):
        self.all_challenged = Deferred()
        async for request in super().start():
            yield request
        await maybe_deferred_to_future(self.all_challenged)
        for spec in self.plan["later"]:
            yield self.request(spec)

    async def challenge_detected(self, request, response, sign, spider):
        await super().challenge_detected(request, response, sign, spider)
        if len(self.plan["signals"]) == len(self.plan["requests"]):
            self.all_challenged.callback(None)


class SchedulingSpider(PlanSpider):
    """Logs each request that goes into the scheduler, or back."""

    @classmethod
    def from_crawler(cls, crawler, *args, **kwargs):
        spider = super().from_crawler(crawler, *args, **kwargs)
        crawler.signals.connect(spider.scheduled, signal=scrapy.signals.request_scheduled)
        return spider

    def scheduled(self, request):
        self.logger.info("Scheduled %s", request)


class PacedSpider(PlanSpider):
    """Notes when the downloader's slot sent each request, by the clock of the slot."""

    async def start(self):
        downloader = self.crawler.engine.downloader
        send = downloader.handlers.download_request_async

        async def note_and_send(request):
            slot = downloader.slots[downloader.get_slot_key(request)]
            self.plan["signals"].append(["sent", request.url, slot.lastseen])
            return await send(request)

        downloader.handlers.download_request_async = note_and_send
        async for request in super().start():
            yield request


class CopyingSpider(PlanSpider):
    """Sends a further request for some pages, with the meta of the response."""

    def parse(self, response):
        self.note(response)
        if url := self.plan["next"].get(response.url):
            yield scrapy.Request(url, self.parse, errback=self.failed, meta=response.meta)


class DownloadingSpider(PlanSpider):
    """Downloads by itself, from within a callback."""

    async def parse(self, response):
        self.note(response)
        engine = self.crawler.engine
        for url in self.plan["downloads"]:
            request = scrapy.Request(url, meta=dict(self.plan["follow_meta"]))
            self.note(await engine.download_async(request))


class MediaSpider(PlanSpider):
    """Has the images of its pages fetched by the media pipelines."""

    def parse(self, response):
        self.note(response)
        urls = [response.urljoin(url) for url in response.css("img::attr(src)").getall()]
        yield {"image_urls": urls, "file_urls": urls}


class RuleSpider(CrawlSpider, PlanSpider):
    """Follows links by rules."""

    rules = (Rule(LinkExtractor(allow=r"/item/"), callback="on_item"),)

    def request(self, spec):
        return scrapy.Request(**spec)

    parse = CrawlSpider.parse

    def on_item(self, response):
        self.note(response)


class AnswersAtTheSecondTime:
    """A downloader middleware that answers a request by itself when that comes again."""

    def __init__(self):
        self.seen = set()

    def process_request(self, request):
        if request.url in self.seen:
            return scrapy.http.HtmlResponse(request.url, body=b"mine", request=request)
        self.seen.add(request.url)
        return None


class RotatingProxies:
    """A downloader middleware that sends each try of each request through the next proxy."""

    def __init__(self, proxies):
        self.proxies = cycle(proxies)

    @classmethod
    def from_crawler(cls, crawler):
        return cls(crawler.settings.getlist("PROXIES"))

    def process_request(self, request):
        request.meta["proxy"] = next(self.proxies)


class RandomProxies:
    """A downloader middleware that sends each try of each request through a random proxy."""

    def __init__(self, proxies):
        self.proxies = proxies

    @classmethod
    def from_crawler(cls, crawler):
        return cls(crawler.settings.getlist("PROXIES"))

    def process_request(self, request):
        request.meta["proxy"] = random.choice(self.proxies)


async def before_page(page, request):
    """A callback of the user's own, for scrapy-playwright."""
    await page.context.add_cookies([{"name": "own", "value": "1", "url": request.url}])


class LoopbackResolver(CachingThreadedResolver):
    """Takes every name for a name of this machine."""

    def getHostByName(self, name, timeout=()):  # noqa: N802
        return succeed("127.0.0.1")
