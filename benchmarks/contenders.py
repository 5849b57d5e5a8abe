"""The middlewares that are compared."""

from __future__ import annotations

import random

from scrapy.utils.defer import maybe_deferred_to_future
from twisted.internet.defer import Deferred

from scrapy_ezcaptcha import CloudFlare5STask, EzCaptchaClient, is_challenge
from scrapy_ezcaptcha.crawl.proxies import ProxyFinder
from scrapy_ezcaptcha.sandbox import USER_AGENT

# The headers of a clearance in the sandbox.
HEADERS = {
    "User-Agent": USER_AGENT,
    "Accept-Language": "en-US,en;q=0.9",
    "Sec-Ch-Ua": '"Google Chrome";v="131", "Chromium";v="131", "Not_A Brand";v="24"',
    "Sec-Fetch-Mode": "navigate",
    "Upgrade-Insecure-Requests": "1",
}

OURS = {"scrapy_ezcaptcha.EzCaptchaMiddleware": 585}


class InlineMiddleware:
    """The baseline: has each challenge solved in place, with a plain await."""

    def __init__(self, crawler):
        settings = crawler.settings
        self.exits = ProxyFinder(settings)
        self.client = EzCaptchaClient(
            settings["EZCAPTCHA_CLIENT_KEY"],
            api_url=settings["EZCAPTCHA_API_URL"],
            poll_interval=settings.getfloat("EZCAPTCHA_POLL_INTERVAL"),
        )

    @classmethod
    def from_crawler(cls, crawler):
        return cls(crawler)

    async def process_response(self, request, response):
        if not is_challenge(response):
            return response
        exit = self.exits.after_sending(request)
        solution = await self.client.solve(CloudFlare5STask(request.url, exit.url))
        return request.replace(
            headers={**request.headers, "User-Agent": solution.user_agent},
            cookies=dict(solution.cookies),
            dont_filter=True,
        )


class RandomProxyMiddleware:
    """Naive rotation: each request of the spider gets a random proxy; replays keep theirs."""

    def __init__(self, crawler):
        self.proxies = crawler.settings.getlist("RANDOM_PROXIES")
        self.random = random.Random(7)

    @classmethod
    def from_crawler(cls, crawler):
        return cls(crawler)

    def process_request(self, request):
        request.meta.setdefault("proxy", self.random.choice(self.proxies))


class FutureMiddleware:
    """Awaits a future that never fires: the cost of any waiting request."""

    def __init__(self):
        self.waiting = []

    async def process_request(self, request):
        never = Deferred()
        self.waiting.append(never)
        await maybe_deferred_to_future(never)


def settings_of(contender: str, sandbox) -> dict:
    """Return the Scrapy settings of a contender."""
    service = {
        "EZCAPTCHA_CLIENT_KEY": sandbox.key,
        "EZCAPTCHA_API_URL": sandbox.api_url,
        "EZCAPTCHA_POLL_INTERVAL": sandbox.poll_interval,
        "EZCAPTCHA_TRANSPARENT_MODE": True,
    }
    if contender in {"none", "free"}:
        return {}
    if contender == "turnstile":
        return {
            "PEAK_API_KEY": "pk_sandbox",
            "PEAK_API_URL": f"{sandbox.api_url}/solve",
            "DOWNLOADER_MIDDLEWARES": {"scrapy_turnstile.TurnstileMiddleware": 585},
        }
    if contender == "headers":
        cookie = sandbox.edge.issue(sandbox.edge.default_host(), "exit1", USER_AGENT)
        return {
            "BOUGHT_HEADERS": {**HEADERS, "Cookie": f"cf_clearance={cookie}"},
            "DOWNLOADER_MIDDLEWARES": {"yardstick.HeadersMiddleware": 750},  # after cookies
        }
    classes = {
        "inline": {f"{__name__}.InlineMiddleware": 585},
        "random": {**OURS, f"{__name__}.RandomProxyMiddleware": 350},
    }
    settings = {**service, "DOWNLOADER_MIDDLEWARES": classes.get(contender, OURS)}
    if contender == "ours, plain priority queue":
        settings["SCHEDULER_PRIORITY_QUEUE"] = "scrapy.pqueues.ScrapyPriorityQueue"
    return settings
