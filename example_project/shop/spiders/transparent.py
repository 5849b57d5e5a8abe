import scrapy


class TransparentSpider(scrapy.Spider):
    """Crawls whole protected sites, and knows nothing about challenges.

    The proxy is the one that Scrapy takes from the environment (http_proxy, https_proxy).

    scrapy crawl transparent -a url=http://shop.example/,http://bots.example/
    """

    name = "transparent"
    custom_settings = {
        "EZCAPTCHA_TRANSPARENT_MODE": True,
        # Nothing outside of these domains is solved, whatever the spider follows.
        "EZCAPTCHA_ALLOWED_DOMAINS": ["shop.example", "bots.example", "old.example"],
    }

    def __init__(self, url="http://bots.example/,http://old.example/", **kwargs):
        super().__init__(**kwargs)
        self.start_urls = url.split(",")

    def parse(self, response):
        yield from response.follow_all(css="a.item", callback=self.parse_item)

    def parse_item(self, response):
        yield {
            "url": response.url,
            "title": response.css("h1::text").get(),
            "price": response.css(".price::text").get(),
        }
