import scrapy


class OptInSpider(scrapy.Spider):
    """Opts in by request, for pages where it expects challenges.

    scrapy crawl opt_in -a url=http://shop.example/item/1 -a proxy=http://user:password@host:port
    """

    name = "opt_in"

    def __init__(self, url="http://shop.example/item/1", proxy=None, **kwargs):
        super().__init__(**kwargs)
        self.url = url
        self.proxy = proxy

    async def start(self):
        yield self.request(self.url)

    def request(self, url):
        meta = {"ezcaptcha": True}
        if self.proxy:
            meta["proxy"] = self.proxy
        return scrapy.Request(url, meta=meta)

    def parse(self, response):
        yield {
            "url": response.url,
            "title": response.css("h1::text, title::text").get(),
            "price": response.css(".price::text").get(),
        }
        for link in response.css("a.next::attr(href)"):
            yield self.request(response.urljoin(link.get()))
