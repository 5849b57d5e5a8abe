import os

import scrapy


class RotatingProxiesSpider(scrapy.Spider):
    name = "rotating_proxies"
    custom_settings = {
        "ADDONS": {"scrapy_ezcaptcha.Addon": 500},
        # http://user:password@host:port, separated by commas; each must keep its address.
        "EZCAPTCHA_PROXIES": os.environ["PROXIES"],
        "EZCAPTCHA_PROXIES_PER_ZONE": 2,
    }
    sites = ["https://shop.example/", "http://bots.example/"]

    async def start(self):
        for url in self.sites:
            yield self.request(url)

    def request(self, url, **kwargs):
        return scrapy.Request(url, meta={"ezcaptcha": True}, **kwargs)

    def parse(self, response):
        for link in response.css("a.item::attr(href)").getall():
            yield self.request(response.urljoin(link), callback=self.parse_item)

    def parse_item(self, response):
        yield {"url": response.url, "title": response.css("h1::text").get()}
