import os

import scrapy

REDIS = os.environ.get("REDIS_URL", "redis://localhost:6379/0")


class WorkersSpider(scrapy.Spider):
    """Run it several times, on several machines. Each page is crawled once."""

    name = "workers"
    custom_settings = {
        "ADDONS": {"scrapy_ezcaptcha.Addon": 500},
        # scrapy-redis: the queue and the duplicate filter of all workers.
        "REDIS_URL": REDIS,
        "SCHEDULER": "scrapy_redis.scheduler.Scheduler",
        "DUPEFILTER_CLASS": "scrapy_redis.dupefilter.RFPDupeFilter",
        "SCHEDULER_PERSIST": True,  # else the first worker to end would empty the queue
        # The clearances of all workers.
        "EZCAPTCHA_STORE": REDIS,
        "EZCAPTCHA_MAX_WAITING": 16,  # leave most of the shared queue to other workers
    }

    async def start(self):
        for number in range(1, 201):
            url = f"http://shop.example/item/{number}"
            yield scrapy.Request(url, meta={"ezcaptcha": True})

    def parse(self, response):
        yield {"title": response.css("h1::text").get()}
