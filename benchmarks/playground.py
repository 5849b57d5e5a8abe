"""The sandbox, with the service and the site that scrapy-turnstile expects."""

from __future__ import annotations

import json
import secrets
from dataclasses import replace
from urllib.parse import parse_qs

from scrapy_ezcaptcha.sandbox import Edge, Sandbox
from scrapy_ezcaptcha.sandbox.http import Reply

_SITEKEY = b'<div class="cf-turnstile" data-sitekey="0x4AAAAAAASandbox"></div></body>'


class BenchEdge(Edge):
    """Also accepts a token that scrapy-turnstile bought and posts."""

    def __init__(self, sites):
        super().__init__(sites)
        self.tokens = set()

    def visit(self, host, url, call, exit):
        token = parse_qs(call.body.decode("latin-1")).get("cf-turnstile-response", [""])[0]
        if token in self.tokens:
            cookie = ("cookie", f"cf_clearance={self.issue(host, exit, call.header('user-agent'))}")
            call = replace(call, headers=(*call.headers, cookie))
        reply = super().visit(host, url, call, exit)
        if reply.status == 403:
            reply = replace(reply, body=reply.body.replace(b"</body>", _SITEKEY))
        return reply


class Playground(Sandbox):
    """A sandbox whose service answers scrapy-turnstile's calls too."""

    edge_class = BenchEdge

    def __init__(self, sites, *, solve: float, poll: float):
        super().__init__(sites, latency=solve, balance=1e9)
        self.poll_interval = poll
        self.tokens_sold = 0

    def _at_service(self, call):
        if call.target != "/solve":
            return super()._at_service(call)
        self.tokens_sold += 1
        token = secrets.token_hex(8)
        self.edge.tokens.add(token)
        body = json.dumps({"success": True, "data": {"token": token}}).encode()
        return Reply(200, (("Content-Type", "application/json"),), body, delay=self.service.latency)

    @property
    def paid(self) -> int:
        """The number of paid solves."""
        return len(self.service.tasks) + self.tokens_sold
