"""The lines that ``doctor`` prints, and the documentation pages about their subjects."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import metadata

PASS, NOTE, FAIL = "pass", "note", "FAIL"

# The documentation page of each subject, and its section.
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
    """One line of the output; a FAIL says what to do."""

    verdict: str
    subject: str
    text: str


def page_on(subject: str) -> str:
    """Return the URL of the page about *subject*, or its file if the URL is not known."""
    name, section = _PAGES[subject]
    links = metadata("scrapy-ezcaptcha").get_all("Project-URL") or []
    named = dict(link.split(", ", 1) for link in links)
    anchor = f"#{section}" if section else ""
    if base := named.get("Documentation"):
        return f"{base.rstrip('/')}/{name}.html{anchor}"
    return f"docs/{name}.md{anchor}"
