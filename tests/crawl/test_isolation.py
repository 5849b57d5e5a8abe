"""A clearance never crosses zone or exit, wherever redirects lead."""

from __future__ import annotations

import tempfile
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import Crawl, via

from scrapy_ezcaptcha.clearances.clearance import zone_of
from scrapy_ezcaptcha.sandbox import Edge, Protection, Sandbox, Site
from scrapy_ezcaptcha.sandbox.content import cookies_of

pytestmark = pytest.mark.unmeasured

SITES = [
    Site("one.example", Protection(), encoding="gzip"),
    Site("two.example", Protection(max_uses=5)),
    Site("hosts.example", Protection(per_host=True)),
    Site("open.example"),
]
HOSTS = [f"{sub}{site.zone}" for site in SITES for sub in ("", "www.", "img.")]
EXITS = ["exit0", "exit1", "exit2"]

chains = st.lists(
    st.tuples(
        st.lists(st.sampled_from(HOSTS), min_size=1, max_size=5),
        st.sampled_from(EXITS),
        st.sampled_from(["jar-a", "jar-b"]),
        st.sampled_from(["redirect", "refresh"]),
    ),
    min_size=10,
    max_size=30,
)


class NotingEdge(Edge):
    """Remembers for whom each clearance was issued."""

    def __init__(self, *args):
        super().__init__(*args)
        self.issued = {}

    def issue(self, host, exit, user_agent):
        value = super().issue(host, exit, user_agent)
        self.issued[value] = (zone_of(host), exit)
        return value


class NotingSandbox(Sandbox):
    edge_class = NotingEdge


def url_of(hosts, how, number):
    """The first of *hosts*, redirecting to the second, and so on; the last shows a cookie jar."""
    url = f"http://{hosts[-1]}/item/{number}"
    for host in reversed(hosts[:-1]):
        url = f"http://{host}/{how}?to={quote(url, safe='')}"
    return url


@settings(max_examples=5)  # each is a crawl
@given(chains)
def test_over_random_redirect_chains(chosen):
    with tempfile.TemporaryDirectory() as folder, NotingSandbox(SITES, latency=0.1) as sandbox:
        requests = [
            {
                "url": url_of(hosts, how, number),
                "meta": {**via(sandbox, exit), "cookiejar": jar},
                "dont_filter": True,
            }
            for number, (hosts, exit, jar, how) in enumerate(chosen)
        ]
        result = Crawl(Path(folder))(sandbox, requests, settings={"EZCAPTCHA_MAX_ATTEMPTS": 5})
    assert [page["status"] for page in result.pages] == [200] * len(chosen)
    carried = 0
    for visit in sandbox.edge.visits:
        value = cookies_of(visit).get("cf_clearance")
        if value is not None:
            carried += 1
            assert sandbox.edge.issued[value] == (zone_of(visit.host), visit.exit)
    assert carried or all(zone_of(host) == "open.example" for hosts, *_ in chosen for host in hosts)
