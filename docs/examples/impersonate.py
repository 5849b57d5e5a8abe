import scrapy


class ImpersonateSpider(scrapy.Spider):
    name = "impersonate"
    custom_settings = {
        "ADDONS": {"scrapy_ezcaptcha.Addon": 500},
        "EZCAPTCHA_IMPERSONATE": True,
        "DOWNLOAD_HANDLERS": {
            "http": "scrapy_impersonate.ImpersonateDownloadHandler",
            "https": "scrapy_impersonate.ImpersonateDownloadHandler",
        },
    }

    async def start(self):
        yield scrapy.Request("http://shop.example/item/1", meta={"ezcaptcha": True})

    def parse(self, response):
        yield {"title": response.css("h1::text").get(), "flags": response.flags}
