"""Builds the documentation: ``make docs``."""

from importlib.metadata import version as version_of

from docutils import nodes

project = "scrapy-ezcaptcha"
copyright = "the scrapy-ezcaptcha authors"  # noqa: A001  (Sphinx's name)
version = release = version_of("scrapy-ezcaptcha")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build", "examples"]
html_theme = "furo"
html_title = f"scrapy-ezcaptcha {version}"
nitpicky = True
nitpick_ignore_regex = [
    # Classes of other projects; nothing is fetched while building.
    ("py:.*", r"(scrapy|twisted|collections|pathlib|argparse|typing_extensions|asyncio)\..*"),
    ("py:.*", r"(Any|Self|Path|Crawler|Request|Response|BaseSettings|Callable|Iterable|Mapping)"),
    ("py:exc", "NotConfigured"),
    # Ours, but not public.
    ("py:class", r"(scrapy_ezcaptcha\..*\.)?(Config|Exit|Edge|Call|Reply)"),
]

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True


def setup(app):
    """Give each heading the anchor that GitHub gives it, beside Sphinx's own."""
    app.connect("doctree-read", _add_anchors_of_github)


def _add_anchors_of_github(_, doctree):
    for section in doctree.findall(nodes.section):
        slug = section.get("slug")  # as MyST computes it, by GitHub's rule
        if slug and slug not in doctree.ids:
            section["ids"].append(slug)
            doctree.ids[slug] = section
