import os

import scrapy

from scrapy_ezcaptcha import signals

POOL = os.environ["PROXIES"].split(",")


class AnotherExitSpider(scrapy.Spider):
    name = "another_exit"
    custom_settings = {"ADDONS": {"scrapy_ezcaptcha.Addon": 500}, "EZCAPTCHA_MAX_ATTEMPTS": 1}

    @classmethod
    def from_crawler(cls, crawler, *args, **kwargs):
        spider = super().from_crawler(crawler, *args, **kwargs)
        crawler.signals.connect(spider.on_failed, signal=signals.challenge_failed)
        return spider

    async def start(self):
        yield self.request("http://shop.example/item/1", 0)

    def request(self, url, number):
        meta = {"ezcaptcha": True, "proxy": POOL[number], "number": number}
        return scrapy.Request(url, meta=meta, dont_filter=True)

    def on_failed(self, request, error):
        self.logger.info("No page of %s: %s", request.url, error)
        number = request.meta["number"] + 1
        if number < len(POOL):
            self.crawler.engine.crawl(self.request(request.url, number))

    def parse(self, response):
        yield {"title": response.css("h1::text").get(), "exit": response.meta["number"]}
