import scrapy


class UseBodySpider(scrapy.Spider):
    name = "use_body"
    custom_settings = {"ADDONS": {"scrapy_ezcaptcha.Addon": 500}}

    async def start(self):
        meta = {"ezcaptcha": {"use_body": True}}
        yield scrapy.Request("https://shop.example/item/1", meta=meta)

    def parse(self, response):
        yield {"title": response.css("h1::text").get()}
