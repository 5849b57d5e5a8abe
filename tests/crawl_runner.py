"""Runs one real crawl in a process of its own: a plan by JSON in, a result by JSON out.

``python crawl_runner.py plan.json``. The plan: ``settings``, ``requests`` (keyword
arguments of ``scrapy.Request``), ``follow`` (follow links with this CSS class, one at a
time), ``out`` (where the result goes).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import scrapy
from scrapy.crawler import AsyncCrawlerProcess, CrawlerProcess


class PlanSpider(scrapy.Spider):
    name = "plan"
    plan: dict[str, Any]

    async def start(self):
        for spec in self.plan["requests"]:
            yield self.request(spec)

    def request(self, spec):
        return scrapy.Request(**{"callback": self.parse, "errback": self.failed, **spec})

    def parse(self, response, **cb_kwargs):
        text = response.text if isinstance(response, scrapy.http.TextResponse) else ""
        self.plan["pages"].append(
            {
                "url": response.url,
                "status": response.status,
                "flags": response.flags,
                "body": text,
                "error": response.meta.get("ezcaptcha_error"),
                "meta": sorted(key for key in response.meta if isinstance(key, str)),
                "retry_times": response.meta.get("retry_times"),
                "sent_user_agent": response.request.headers.get("User-Agent", b"").decode(),
                "cb_kwargs": cb_kwargs,
                "priority": response.request.priority,
                "method": response.request.method,
                "request_flags": response.request.flags,
            }
        )
        follow = self.plan.get("follow")
        if follow and isinstance(response, scrapy.http.HtmlResponse):
            for link in response.css(f"a.{follow}"):
                meta = dict(self.plan["follow_meta"])
                yield response.follow(link, self.parse, errback=self.failed, meta=meta)

    def failed(self, failure):
        self.plan["errors"].append(
            {
                "url": failure.request.url,
                "type": failure.type.__name__,
                "text": failure.getErrorMessage(),
            }
        )


def main() -> None:
    plan = json.loads(Path(sys.argv[1]).read_text())
    plan |= {"pages": [], "errors": []}
    plan.setdefault("follow_meta", plan["requests"][0].get("meta", {}))
    settings = {
        "LOG_LEVEL": "DEBUG",
        "LOG_FILE": plan["log"],
        "TELNETCONSOLE_ENABLED": False,
        "RETRY_ENABLED": False,
        "HTTPERROR_ALLOW_ALL": True,
        **plan["settings"],
    }
    reactor = settings.get("TWISTED_REACTOR", "asyncio")
    process_class = AsyncCrawlerProcess if "asyncio" in reactor else CrawlerProcess
    PlanSpider.plan = plan
    process = process_class(settings)
    crawler = process.create_crawler(PlanSpider)
    process.crawl(crawler)
    process.start()
    stats = {
        key: value
        for key, value in crawler.stats.get_stats().items()
        if isinstance(value, int | float | str)
    }
    result = {"pages": plan["pages"], "errors": plan["errors"], "stats": stats}
    Path(plan["out"]).write_text(json.dumps(result))


if __name__ == "__main__":
    main()
