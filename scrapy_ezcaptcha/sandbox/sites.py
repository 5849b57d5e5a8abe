"""The simulated sites: how each zone challenges, and what its hosts serve."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Protection:
    """How a zone challenges.

    Args:
        status: the status of the challenge page: 403 today, 503 long ago, 429 for bots.
        mitigated: whether it has the header ``cf-mitigated: challenge``.
        page: the kind of challenge page: ``managed``, ``legacy`` or ``captcha``.
        max_uses: how many requests are accepted with a clearance; None for no limit.
        max_age: how many seconds a clearance is valid; None for no limit.
        accepts: False for a zone that never accepts a clearance.
        per_host: whether each host of the zone needs its own clearance.
        renew_every: after this many uses, send a newer cookie with ``Set-Cookie``.
        strays: the chance, from 0 to 1, that a request is challenged although its clearance is
            valid.
        always: beginnings of paths that never accept a clearance.
        paths: beginnings of paths that are protected; all others are open. None protects all.
        binds_tls: whether a clearance is bound to the TLS handshake of the worker's browser, so
            that no client on this machine can use it.
    """

    status: int = 403
    mitigated: bool = True
    page: str = "managed"
    max_uses: int | None = None
    max_age: float | None = None
    accepts: bool = True
    per_host: bool = False
    renew_every: int | None = None
    strays: float = 0.0
    always: tuple[str, ...] = ()
    paths: tuple[str, ...] | None = None
    binds_tls: bool = False


@dataclass(frozen=True)
class Site:
    """A zone, and what its hosts serve.

    Args:
        zone: the domain of the site; all its subdomains answer too.
        protection: None for a site without challenges.
        kind: ``catalogue``, or a page that only looks like a challenge:
            ``block``, ``rate_limit``, ``turnstile``, ``article``, ``forbidden``.
        items: the number of items in the catalogue.
        latency: seconds before each answer.
        together: the number of first requests that wait for each other: the site answers none of
            them before all have arrived.
        encoding: ``gzip``, ``br`` or ``zstd``, for clients that accept it.
    """

    zone: str
    protection: Protection | None = None
    kind: str = "catalogue"
    items: int = 30
    latency: float = 0.0
    together: int = 1
    encoding: str | None = None


#: The default sites of the sandbox.
DEFAULT_SITES = (
    Site("shop.example", Protection()),
    Site("old.example", Protection(status=503, mitigated=False, page="legacy")),
    Site("captcha.example", Protection(mitigated=False, page="captcha"), encoding="gzip"),
    Site("bots.example", Protection(status=429)),
    Site("open.example"),
    Site("block.example", kind="block"),
    Site("limit.example", kind="rate_limit"),
    Site("form.example", kind="turnstile"),
    Site("article.example", kind="article"),
    Site("forbidden.example", kind="forbidden"),
)
