import scrapy


class CostControlSpider(scrapy.Spider):
    name = "cost_control"
    start_urls = ["https://shop.example/"]
    custom_settings = {
        "ADDONS": {"scrapy_ezcaptcha.Addon": 500},
        "EZCAPTCHA_TRANSPARENT_MODE": True,
        # Nothing outside of these domains is ever solved.
        "EZCAPTCHA_ALLOWED_DOMAINS": ["shop.example"],
        # The maximum number of tasks in this crawl. At the limit, close the crawl.
        "EZCAPTCHA_MAX_TASKS": 20,
        "EZCAPTCHA_CLOSE_SPIDER_ON_LIMIT": True,
        # The maximum number of solves for one request, and of useless solves in a row for one site.
        "EZCAPTCHA_MAX_ATTEMPTS": 1,
        "EZCAPTCHA_BREAKER_FAILURES": 2,
        # Log at the end what the crawl cost.
        "EZCAPTCHA_LOG_BALANCE": True,
    }

    def parse(self, response):
        yield {"title": response.css("h1::text").get()}
