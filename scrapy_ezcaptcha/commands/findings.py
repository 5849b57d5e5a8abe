"""The lines that ``doctor`` prints, and the documentation pages about their subjects."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import metadata

PASS, NOTE, FAIL = "pass", "note", "FAIL"

# The documentation page of each subject with its title, and the section.
_PAGES = {
    "version": ("setup", "Setup", ""),
    "reactor": ("setup", "Setup", "Reactors"),
    "middleware": ("setup", "Setup", "Enable the middleware"),
    "settings": ("reference/settings", "Settings", ""),
    "scope": ("usage", "Usage", ""),
    "store": ("stores", "Sharing clearances", ""),
    "proxy": ("setup", "Setup", "Set the proxy"),
    "pool": ("proxies", "Proxies", "Check the proxies"),
    "handler": ("proxies", "Proxies", "Which kinds work"),
    "key": ("setup", "Setup", "Set the key"),
    "balance": ("costs", "Costs", ""),
    "service": ("troubleshooting", "Troubleshooting", "Nothing is solved"),
}


@dataclass(frozen=True)
class Finding:
    """One line of the output; a FAIL says what to do."""

    verdict: str
    subject: str
    text: str


def page_on(subject: str) -> str:
    """Return the URL of the page about *subject*, or its title if the URL is not known."""
    name, title, section = _PAGES[subject]
    links = metadata("scrapy-ezcaptcha").get_all("Project-URL") or []
    named = dict(link.split(", ", 1) for link in links)
    if base := named.get("Documentation"):
        anchor = f"#{section.lower().replace(' ', '-')}" if section else ""
        return f"{base.rstrip('/')}/{name}.html{anchor}"
    return f"{title}, {section}" if section else title
