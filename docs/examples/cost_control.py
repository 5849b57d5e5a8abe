import scrapy


class CostControlSpider(scrapy.Spider):
    name = "cost_control"
    start_urls = ["https://shop.example/"]
    custom_settings = {
        "ADDONS": {"scrapy_ezcaptcha.Addon": 500},
        "EZCAPTCHA_TRANSPARENT_MODE": True,
        # Nothing outside of these is ever paid for.
        "EZCAPTCHA_ALLOWED_DOMAINS": ["shop.example"],
        # At most so many tasks in this crawl; then close it, rather than get challenge pages.
        "EZCAPTCHA_MAX_TASKS": 20,
        "EZCAPTCHA_CLOSE_SPIDER_ON_LIMIT": True,
        # So many for one request, so many useless ones in a row for one site.
        "EZCAPTCHA_MAX_ATTEMPTS": 1,
        "EZCAPTCHA_BREAKER_FAILURES": 2,
        # Say at the end what was spent.
        "EZCAPTCHA_LOG_BALANCE": True,
    }

    def parse(self, response):
        yield {"title": response.css("h1::text").get()}
