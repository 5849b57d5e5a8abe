"""What the made-up sites are: how each zone challenges, and what its hosts serve."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Protection:
    """How a zone challenges.

    Args:
        status: of the challenge page: 403 today, 503 long ago, 429 for bots.
        mitigated: whether it carries ``cf-mitigated: challenge``.
        page: which machinery is on it: ``managed``, ``legacy`` or ``captcha``.
        max_uses: how many requests a clearance lets through; None for any number.
        max_age: for how many seconds it holds; None for ever.
        accepts: False for a zone that challenges again whatever comes.
        per_host: whether each host of the zone wants a clearance of its own.
        renew_every: after so many uses, send a newer cookie by ``Set-Cookie``.
        strays: the chance, from 0 to 1, that a request is challenged although its clearance is
            good.
        always: beginnings of paths that are challenged whatever comes.
        paths: beginnings of paths that are protected; all others are open. None protects all.
        binds_tls: whether a clearance is bound to the TLS handshake of the worker's browser, so
            that it is refused to every client of this machine.
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
    """A zone and what its hosts serve.

    Args:
        zone: the site's domain; all its subdomains answer too.
        protection: None for a site without challenges.
        kind: ``catalogue``, or one of the pages that only look like a challenge:
            ``block``, ``rate_limit``, ``turnstile``, ``article``, ``forbidden``.
        items: pages of the catalogue.
        latency: seconds before each answer.
        together: its first requests wait for each other: none of them is answered before so many
            have come.
        encoding: ``gzip``, ``br`` or ``zstd``, in which it sends pages and challenges to
            clients that accept it.
    """

    zone: str
    protection: Protection | None = None
    kind: str = "catalogue"
    items: int = 30
    latency: float = 0.0
    together: int = 1
    encoding: str | None = None


#: What stands in the sandbox unless told otherwise.
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
