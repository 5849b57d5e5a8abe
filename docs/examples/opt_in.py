import scrapy

SOLVE = {"ezcaptcha": True}


class OptInSpider(scrapy.Spider):
    name = "opt_in"
    custom_settings = {"ADDONS": {"scrapy_ezcaptcha.Addon": 500}}

    async def start(self):
        yield scrapy.Request("https://shop.example/", meta=SOLVE)

    def parse(self, response):
        for link in response.css("a.item"):
            yield response.follow(link, self.parse_item, meta=SOLVE)

    def parse_item(self, response):
        yield {"title": response.css("h1::text").get()}
