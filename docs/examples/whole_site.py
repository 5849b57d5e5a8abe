from scrapy.linkextractors import LinkExtractor
from scrapy.spiders import CrawlSpider, Rule


class WholeSiteSpider(CrawlSpider):
    name = "whole_site"
    start_urls = ["https://shop.example/"]
    rules = [Rule(LinkExtractor(allow="/item/"), callback="parse_item")]
    custom_settings = {
        "ADDONS": {"scrapy_ezcaptcha.Addon": 500},
        "EZCAPTCHA_TRANSPARENT_MODE": True,
        "EZCAPTCHA_ALLOWED_DOMAINS": ["shop.example"],
        "ROBOTSTXT_OBEY": True,
    }

    def parse_item(self, response):
        yield {"title": response.css("h1::text").get()}
