"""The edge that protects the simulated sites like Cloudflare."""

from __future__ import annotations

import asyncio
import random
import secrets
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from scrapy_ezcaptcha.sandbox.content import challenge_reply, cookies_of, encoded, page_reply
from scrapy_ezcaptcha.sandbox.http import Reply

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from scrapy_ezcaptcha.sandbox.http import Call
    from scrapy_ezcaptcha.sandbox.sites import Protection, Site


@dataclass(frozen=True)
class Visit:
    """One request that reached a site, for tests. *verdict* is ``page``, ``challenge`` (the request
    has no clearance), ``rejected`` (its clearance is invalid) or ``stray`` (it is challenged
    although its clearance is valid)."""

    host: str
    method: str
    path: str
    exit: str
    verdict: str
    at: float
    headers: tuple[tuple[str, str], ...] = field(repr=False)
    body: bytes = field(repr=False)
    http_version: str = "1.1"

    def header(self, name: str) -> str | None:
        """Return a request header's value, None if it is absent."""
        return next((value for key, value in self.headers if key == name), None)


@dataclass
class _Clearance:
    place: str
    exit: str
    user_agent: str
    issued: float
    uses: int = 0


class Edge:
    """Answers for all sites. A clearance holds for its zone, exit and User-Agent only.

    ``visits`` has each request that arrived, as a :class:`~scrapy_ezcaptcha.sandbox.Visit`.
    """

    def __init__(self, sites: Iterable[Site], clock: Callable[[], float] = time.monotonic) -> None:
        self._sites = {site.zone: site for site in sites}
        self._clock = clock
        self._clearances: dict[str, _Clearance] = {}
        self.visits: list[Visit] = []
        self.verdicts: dict[str, Counter[str]] = {}
        self.most_at_once: Counter[str] = Counter()
        self._busy_until: dict[str, list[float]] = {}
        self._gathered: dict[str, asyncio.Future[None]] = {}  # by zone; done when all have arrived

    def site_of(self, host: str) -> Site | None:
        """Return the site that *host* belongs to, None for an unknown host."""
        labels = host.lower().split(".")
        names = (".".join(labels[start:]) for start in range(len(labels)))
        return next((self._sites[name] for name in names if name in self._sites), None)

    def default_host(self) -> str:
        """Return the host that answers if the request names none."""
        return next(iter(self._sites))

    def issue(self, host: str, exit: str, user_agent: str) -> str | None:
        """Return a new ``cf_clearance`` for *host*, None if it has no challenges."""
        site = self.site_of(host)
        if site is None or site.protection is None:
            return None
        place = host if site.protection.per_host else site.zone
        return self._mint(_Clearance(place, exit, user_agent, self._clock()))

    def visit(self, host: str, url: str, call: Call, exit: str) -> Reply:
        """Answer a request to *host* that arrives through *exit*."""
        site = self.site_of(host)
        if site is None:
            return Reply(502, (("Content-Type", "text/plain"),), b"no such host in the sandbox")
        self._count_at_once(host, site.latency)
        path = urlsplit(url).path or "/"
        verdict, renewed = self._judge(site, host, path, call, exit)
        self.visits.append(
            Visit(
                host,
                call.method,
                path,
                exit,
                verdict,
                time.time(),
                call.headers,
                call.body,
                call.http_version,
            )
        )
        self.verdicts.setdefault(host, Counter())[verdict] += 1
        if verdict == "page":
            reply = page_reply(site, host, url, call, renewed)
        else:
            assert site.protection is not None
            reply = challenge_reply(site, site.protection, host)
        return replace(encoded(reply, site.encoding, call), after=self._gather(site))

    def _gather(self, site: Site) -> asyncio.Future[None] | None:
        """Return what the first requests to *site* wait for, or None."""
        if site.together < 2:
            return None
        new = asyncio.get_running_loop().create_future()
        gathered = self._gathered.setdefault(site.zone, new)
        if not gathered.done():
            came = sum(self.site_of(visit.host) == site for visit in self.visits)
            if came >= site.together:
                gathered.set_result(None)
        return gathered

    def _count_at_once(self, host: str, latency: float) -> None:
        now = self._clock()
        busy = [until for until in self._busy_until.get(host, []) if until > now]
        busy.append(now + latency)
        self._busy_until[host] = busy
        self.most_at_once[host] = max(self.most_at_once[host], len(busy))

    def _judge(
        self, site: Site, host: str, path: str, call: Call, exit: str
    ) -> tuple[str, str | None]:
        """Return the verdict on a request, and a new cookie if its cookie is renewed."""
        protection = site.protection
        if protection is None or not path.startswith(protection.paths or ""):
            return "page", None
        value = cookies_of(call).get("cf_clearance")
        if value is None:
            return "challenge", None
        clearance = self._clearances.get(value)
        if clearance is None or not self._holds(clearance, protection, site, host, call, exit):
            return "rejected", None
        if path.startswith(protection.always or "\0"):
            return "rejected", None
        if random.random() < protection.strays:  # noqa: S311  (no secret)
            return "stray", None
        clearance.uses += 1
        if protection.renew_every and clearance.uses % protection.renew_every == 0:
            del self._clearances[value]
            return "page", self._mint(clearance)
        return "page", None

    def _holds(  # noqa: PLR0917  (what a clearance is bound to)
        self,
        clearance: _Clearance,
        protection: Protection,
        site: Site,
        host: str,
        call: Call,
        exit: str,
    ) -> bool:
        age = self._clock() - clearance.issued
        return (
            protection.accepts
            and not protection.binds_tls
            and clearance.place == (host if protection.per_host else site.zone)
            and clearance.exit == exit
            and clearance.user_agent == call.header("user-agent")
            and (protection.max_uses is None or clearance.uses < protection.max_uses)
            and (protection.max_age is None or age <= protection.max_age)
        )

    def _mint(self, clearance: _Clearance) -> str:
        value = (
            f"{secrets.token_urlsafe(24)}-{int(time.time())}-1.2.1.1-{secrets.token_urlsafe(48)}"
        )
        self._clearances[value] = clearance
        return value
