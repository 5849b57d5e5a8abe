"""Links between the pages work where the repository is read, and where the pages are built."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest

from scrapy_ezcaptcha.commands.findings import _PAGES

ROOT = Path(__file__).parents[2]
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "newsfragments").glob("*.md")]
PAGES = sorted(page for page in PAGES if "_build" not in page.parts)
CONF = (ROOT / "docs" / "conf.py").read_text()


def text_of(page):
    """The text without blocks of code."""
    return re.sub(r"^(```|~~~).*?^\1", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)


def slug(heading):
    """The anchor that GitHub gives a heading, and MyST after it."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


@cache
def headings(page):
    depth = int(re.search(r"^myst_heading_anchors = (\d)$", CONF, re.MULTILINE)[1])
    return re.findall(rf"^#{{1,{depth}}} (.+)$", text_of(page), re.MULTILINE)


def links(page):
    return re.findall(r"\[([^\]]*)\]\(([^)\s]+)\)", text_of(page))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
class TestEachPage:
    def test_its_links_lead_somewhere(self, page):
        for name, link in links(page):
            if link.startswith(("https://", "http://")):
                continue
            path, _, anchor = link.partition("#")
            other = (page.parent / path).resolve() if path else page
            assert other.is_file(), link
            assert not anchor or anchor in map(slug, headings(other)), link
            assert name.strip(), link  # only Sphinx would put in a title

    def test_it_has_no_markup_that_only_sphinx_knows(self, page):
        assert not re.search(r"^\(\S+\)=$", text_of(page), re.MULTILINE)
        assert not re.search(r"\{(ref|doc|term|py:\w+)\}`", text_of(page))

    def test_its_anchors_are_different(self, page):
        anchors = [slug(heading) for heading in headings(page)]
        assert len(set(anchors)) == len(anchors)


def test_the_anchors_are_those_of_myst():
    slugs = pytest.importorskip("myst_parser.slugs", reason="of the extra docs")
    for page in PAGES:
        for heading in headings(page):
            assert slugs.github_slugify(heading.replace("`", "")) == slug(heading)


@pytest.mark.parametrize("subject", _PAGES)
def test_the_pages_that_doctor_names(subject):
    name, title, section = _PAGES[subject]
    first, *others = headings(ROOT / "docs" / f"{name}.md")
    assert first == title
    assert not section or section in others
    assert slug(section) == section.lower().replace(" ", "-")  # as the URL has it


def test_the_pages_that_the_code_names():
    for file in (ROOT / "scrapy_ezcaptcha").rglob("*.py"):
        for page in re.findall(r"[\w/.-]+\.md\b", file.read_text()):
            if not page.startswith("."):  # made of a name, see above
                assert (ROOT / page).is_file(), file
