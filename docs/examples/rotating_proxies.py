import os
from itertools import cycle
from urllib.parse import urlsplit
from zlib import crc32

import scrapy

# http://user:password@host:port, one a line; each must keep its address for a while.
POOL = os.environ["PROXIES"].split()
EACH = 2


class RotatingProxiesSpider(scrapy.Spider):
    name = "rotating_proxies"
    custom_settings = {"ADDONS": {"scrapy_ezcaptcha.Addon": 500}}
    sites = ["https://shop.example/", "http://bots.example/"]

    async def start(self):
        self.turns = {}
        for url in self.sites:
            yield self.request(url)

    def request(self, url, **kwargs):
        return scrapy.Request(url, meta={"ezcaptcha": True, "proxy": self.proxy_for(url)}, **kwargs)

    def proxy_for(self, url):
        site = urlsplit(url).hostname
        if site not in self.turns:
            first = crc32(site.encode())
            self.turns[site] = cycle(POOL[(first + n) % len(POOL)] for n in range(EACH))
        return next(self.turns[site])

    def parse(self, response):
        for link in response.css("a.item::attr(href)").getall():
            yield self.request(response.urljoin(link), callback=self.parse_item)

    def parse_item(self, response):
        yield {"url": response.url, "title": response.css("h1::text").get()}
