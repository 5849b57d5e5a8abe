"""One line of what ``doctor`` says, and the page of the documentation that has more on it."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import metadata

PASS, NOTE, FAIL = "pass", "note", "FAIL"

# By subject: the page of the documentation, and its section.
_PAGES = {
    "version": ("setup", ""),
    "reactor": ("setup", "reactors"),
    "middleware": ("setup", "enable-the-middleware"),
    "settings": ("reference/settings", ""),
    "scope": ("usage", ""),
    "store": ("stores", ""),
    "proxy": ("setup", "set-the-proxy"),
    "pool": ("proxies", "do-they-answer"),
    "handler": ("proxies", "which-kinds-work"),
    "key": ("setup", "set-the-key"),
    "balance": ("costs", ""),
    "service": ("troubleshooting", "nothing-is-solved"),
}


@dataclass(frozen=True)
class Finding:
    """One line of the report; a FAIL says what to do."""

    verdict: str
    subject: str
    text: str


def page_on(subject: str) -> str:
    """Return the address of the page on *subject*, or its file if no address is known."""
    name, section = _PAGES[subject]
    links = metadata("scrapy-ezcaptcha").get_all("Project-URL") or []
    named = dict(link.split(", ", 1) for link in links)
    anchor = f"#{section}" if section else ""
    if base := named.get("Documentation"):
        return f"{base.rstrip('/')}/{name}.html{anchor}"
    return f"docs/{name}.md{anchor}"
