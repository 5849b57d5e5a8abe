"""The crawl of ``soak.py``, in its own process."""

from __future__ import annotations

import gc
import json
import resource
import sys
import time
from pathlib import Path

import scrapy
from scrapy.crawler import AsyncCrawlerRunner
from scrapy.utils.defer import deferred_from_coro, maybe_deferred_to_future
from scrapy.utils.log import configure_logging
from scrapy.utils.reactor import install_reactor

from scrapy_ezcaptcha.signals import challenge_failed

SAMPLE_SECONDS = 0.5
CHAINS = 64  # requests at any time


def memory() -> int:
    """Resident bytes of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def sockets() -> int:
    """Open TCP sockets of this process."""
    count = 0
    for entry in Path("/proc/self/fd").iterdir():
        try:
            count += str(entry.readlink()).startswith("socket:")
        except OSError:
            continue
    return count


class SoakSpider(scrapy.Spider):
    """Requests pages until its time is up."""

    name = "soak"
    plan: dict

    @classmethod
    def from_crawler(cls, crawler, *args, **kwargs):
        spider = super().from_crawler(crawler, *args, **kwargs)
        crawler.signals.connect(spider.failed_challenge, signal=challenge_failed)
        return spider

    async def start(self):
        self.end = time.monotonic() + self.plan["seconds"]
        for _ in range(CHAINS):
            yield self.request()

    def request(self):
        """The next request; each result leads to another one."""
        number = self.plan["requests"]
        self.plan["requests"] += 1
        hosts = self.plan["hosts"][number % len(self.plan["hosts"])]
        host = hosts[number // len(self.plan["hosts"]) % len(hosts)]
        proxy = self.plan["exits"][number // 7 % len(self.plan["exits"])]
        return scrapy.Request(
            f"http://{host}/item/{number % 30 + 1}",
            meta={"proxy": proxy, "ezcaptcha": True},
            dont_filter=True,
            errback=self.failed,
        )

    def next(self):
        if time.monotonic() < self.end:
            yield self.request()

    def parse(self, response):
        self.plan["pages"] += "ezcaptcha-unsolved" not in response.flags
        assert response.status == 200 or "ezcaptcha-unsolved" in response.flags
        yield from self.next()

    def failed(self, failure):
        self.plan["errors"] += 1
        self.logger.warning("Lost %s: %s", failure.request, failure.getErrorMessage())
        yield from self.next()

    def failed_challenge(self, error):
        self.plan["reasons"][error.code] = self.plan["reasons"].get(error.code, 0) + 1


async def main(reactor, plan) -> None:
    from twisted.internet.task import LoopingCall, deferLater

    before = sockets()
    SoakSpider.plan = plan
    runner = AsyncCrawlerRunner(plan["settings"])
    crawler = runner.create_crawler(SoakSpider)
    samples = plan["samples"]

    def sample() -> None:
        if len(samples) % 20 == 0:
            gc.collect()
        calls = len(reactor.getDelayedCalls())
        samples.append({"memory": memory(), "sockets": sockets() - before, "calls": calls})

    sampling = LoopingCall(sample)
    sampling.start(SAMPLE_SECONDS)
    await runner.crawl(crawler)
    sampling.stop()
    for _ in range(50):  # connections need a moment to close
        left = {"sockets": sockets() - before, "calls": len(reactor.getDelayedCalls())}
        if left == {"sockets": 0, "calls": 0}:
            break
        await maybe_deferred_to_future(deferLater(reactor, 0.1))
    plan["left"] = left
    plan["stats"] = {
        name: value
        for name, value in crawler.stats.get_stats().items()
        if isinstance(value, int | float)
    }


def run() -> None:
    plan = json.loads(Path(sys.argv[1]).read_text())
    plan |= {"requests": 0, "pages": 0, "errors": 0, "reasons": {}, "samples": []}
    plan["settings"] |= {
        "DOWNLOADER_MIDDLEWARES": {"scrapy_ezcaptcha.EzCaptchaMiddleware": 585},
        "EZCAPTCHA_HTTP_TIMEOUT": 0.5,
        "EZCAPTCHA_BREAKER_SECONDS": 1.0,
        "HTTPERROR_ALLOW_ALL": True,
        "RETRY_HTTP_CODES": [],  # a challenge that is given up is not to be sent again
        "RETRY_TIMES": 20,
        "TELNETCONSOLE_ENABLED": False,
        "LOG_FILE": plan["log"],
        "LOG_LEVEL": "WARNING",
    }
    configure_logging(plan["settings"])
    install_reactor("twisted.internet.asyncioreactor.AsyncioSelectorReactor")
    from twisted.internet import reactor

    def start():
        done = deferred_from_coro(main(reactor, plan))
        done.addErrback(lambda failure: failure.printTraceback(sys.stderr))
        done.addBoth(lambda _: reactor.stop())

    reactor.callWhenRunning(start)
    reactor.run()
    Path(plan["out"]).write_text(json.dumps(plan))


if __name__ == "__main__":
    run()
