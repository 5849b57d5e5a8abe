import scrapy


class PostSpider(scrapy.Spider):
    name = "post"
    custom_settings = {"ADDONS": {"scrapy_ezcaptcha.Addon": 500}}

    async def start(self):
        # The challenge of this URL is solved, and then the form is sent again.
        yield scrapy.FormRequest(
            "https://shop.example/echo",
            formdata={"query": "bottle opener"},
            meta={"ezcaptcha": True},
        )
        # This page is challenged by POST only; the service sends the form as JSON.
        yield scrapy.http.JsonRequest(
            "https://bots.example/echo",
            data={"page": 2},
            meta={"ezcaptcha": {"rq_data": {"mode": "JSON", "page": 2}}},
        )

    def parse(self, response):
        yield {"method": response.json()["method"], "body": response.json()["body"]}
