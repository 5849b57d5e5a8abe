"""One crawl of a benchmark, in its own process: reads a plan and writes figures as JSON."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import sys
import time
from pathlib import Path

import scrapy
from scrapy import signals
from scrapy.crawler import AsyncCrawlerProcess
from twisted.internet.task import LoopingCall


class PlanSpider(scrapy.Spider):
    """Crawls the pages of the plan, interleaving the hosts."""

    name = "plan"
    plan: dict = {}

    @classmethod
    def from_crawler(cls, crawler, *args, **kwargs):
        spider = super().from_crawler(crawler, *args, **kwargs)
        crawler.signals.connect(spider.opened, signals.spider_opened)
        crawler.signals.connect(spider.closed_signal, signals.spider_closed)
        return spider

    def opened(self):
        self.began = time.monotonic()
        self.cpu = resource.getrusage(resource.RUSAGE_SELF)
        self.done, self.through = {}, {}
        self.first_page = asyncio.Event()
        self.memory = LoopingCall(self.note_memory)
        if self.plan.get("memory_every"):
            self.memory.start(self.plan["memory_every"])
        if self.plan.get("until_waiting"):
            self.watch = LoopingCall(self.look)
            self.watch.start(0.2, now=False)

    def look(self):
        """When all requests wait, note the memory and end the crawl."""
        waiting = len(self.crawler.engine.downloader.active)
        if waiting >= self.plan["until_waiting"]:
            self.watch.stop()
            self.note_memory()
            self.report()
            os._exit(0)

    def note_memory(self):
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        self.plan.setdefault("rss", []).append(pages * resource.getpagesize())

    async def start(self):
        hosts = self.plan["hosts"]  # [[host, pages, meta], ...]
        if self.plan.get("first_alone"):
            host, _, meta = hosts[0]
            yield scrapy.Request(f"http://{host}/item/0", meta=dict(meta))
            await self.first_page.wait()
        if self.plan.get("in_order"):
            for host, pages, meta in hosts:
                for number in range(1, pages + 1):
                    yield scrapy.Request(f"http://{host}/item/{number}", meta=dict(meta))
            return
        most = max(pages for _, pages, _ in hosts)
        sent = dict.fromkeys(range(len(hosts)), 0)
        for step in range(1, most + 1):
            for index, (host, pages, meta) in enumerate(hosts):
                while sent[index] < pages * step // most:
                    number = sent[index] = sent[index] + 1
                    yield scrapy.Request(f"http://{host}/item/{number}", meta=dict(meta))

    def parse(self, response):
        host = response.url.split("/")[2]
        if response.status == 200 and b"Item" in response.body:
            self.done[host] = self.done.get(host, 0) + 1
            self.through[host] = time.monotonic() - self.began
        self.first_page.set()

    def closed_signal(self):
        if self.memory.running:
            self.memory.stop()
        self.plan["seconds"] = time.monotonic() - self.began
        self.report()

    def report(self):
        usage = resource.getrusage(resource.RUSAGE_SELF)
        figures = {
            "seconds": self.plan.get("seconds"),
            "rss": self.plan.get("rss"),
            "through": self.through,
            "cpu": usage.ru_utime + usage.ru_stime - self.cpu.ru_utime - self.cpu.ru_stime,
            "pages": self.done,
            "waiting": self.crawler.stats.get_value("ezcaptcha/requests/waiting_max"),
            "given_up": self.crawler.stats.get_value("ezcaptcha/requests/gave_up", 0),
        }
        Path(self.plan["out"]).write_text(json.dumps(figures))


def main() -> None:
    plan = json.loads(Path(sys.argv[1]).read_text())
    PlanSpider.plan = plan
    settings = {
        "LOG_LEVEL": "ERROR",
        "TELNETCONSOLE_ENABLED": False,
        "HTTPERROR_ALLOW_ALL": True,
        "RETRY_ENABLED": False,
        **plan["settings"],
    }
    process = AsyncCrawlerProcess(settings)
    process.crawl(PlanSpider)
    process.start()


if __name__ == "__main__":
    main()
