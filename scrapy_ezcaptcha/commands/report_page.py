"""A report as one HTML page without scripts and without requests to other files."""

from __future__ import annotations

import time
from html import escape
from importlib.metadata import version
from statistics import median
from typing import TYPE_CHECKING

from scrapy_ezcaptcha.commands.report_plots import plots
from scrapy_ezcaptcha.commands.report_sums import HEADINGS, KEYS, NONE, Sums, moment, summary, table
from scrapy_ezcaptcha.service.wire import POINTS_PER_DOLLAR

if TYPE_CHECKING:
    from collections.abc import Iterable

    from scrapy_ezcaptcha.solving.entries import Contents

_MAX_ROWS = 200

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="referrer" content="no-referrer">
<link rel="icon" href="data:,">
<title>Ledger report: {name}</title>
<style>{style}</style>
</head>
<body>
<h1>Ledger report: {name}</h1>
{summary}
<dl class="tiles">{tiles}</dl>
<h2>Plots</h2>
<div class="plots">{plots}</div>
{tables}
<footer>Created {now:%Y-%m-%d %H:%M} UTC by scrapy-ezcaptcha {version}. Lifetimes are those of
clearances that brought a page and were rejected. 10,000 points are 1 USD.</footer>
</body>
</html>
"""

_STYLE = """
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 76rem; padding: 1rem 1.25rem 2rem; background: #f6f7f9;
  color: #1f2328; font: 16px/1.5 system-ui, "Segoe UI", "DejaVu Sans", sans-serif; }
h1 { font-size: 1.5rem; line-height: 1.25; margin: .5rem 0; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 2rem 0 .5rem; }
p { margin: .25rem 0; overflow-wrap: anywhere; }
.tiles { display: grid; gap: .75rem; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr));
  margin: 1.25rem 0; }
.tiles div, figure, table { background: #fff; border: 1px solid #dfe2e6; border-radius: .5rem; }
.tiles div { padding: .6rem .8rem; }
.tiles dt { color: #57606a; font-size: .85rem; }
.tiles dd { margin: 0; font-size: 1.4rem; font-variant-numeric: tabular-nums; }
.plots { display: grid; gap: 1rem;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); }
figure { margin: 0; padding: .5rem; }
figure img { display: block; width: 100%; height: auto; }
figcaption { color: #57606a; font-size: .875rem; padding: 0 .25rem .25rem;
  overflow-wrap: anywhere; }
table { border-collapse: separate; border-spacing: 0; width: 100%; font-size: .9rem;
  font-variant-numeric: tabular-nums; }
th, td { padding: .4rem .7rem; text-align: right; white-space: nowrap;
  border-bottom: 1px solid #eceef0; }
th:first-child { text-align: left; white-space: normal; overflow-wrap: anywhere; }
thead th { color: #57606a; font-weight: 600; }
tbody th { font-weight: 600; }
tbody tr:last-child > * { border-bottom: 0; }
footer { color: #57606a; font-size: .85rem; margin-top: 2rem; }
@media (max-width: 52rem) {
  body { padding: .75rem; }
  table, tbody, tr { display: block; }
  table { background: none; border: 0; }
  thead { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
  tbody tr { display: grid; grid-template-columns: 1fr 1fr; column-gap: 1.25rem;
    padding: .5rem .8rem; margin-bottom: .6rem; background: #fff; border: 1px solid #dfe2e6;
    border-radius: .5rem; }
  tbody th { grid-column: 1 / -1; padding: 0 0 .25rem; border: 0; }
  td { display: flex; justify-content: space-between; padding: .15rem 0; border: 0; }
  td::before { content: attr(data-label); color: #57606a; }
}
@media print { body { background: #fff; } figure, tr { break-inside: avoid; } }
"""


def page(name: str, contents: Contents, price: float | None) -> str:
    """Return the page for the ledger *name*."""
    return _PAGE.format(
        name=escape(name),
        style=_STYLE,
        summary="\n".join(f"<p>{escape(line)}</p>" for line in summary(contents, price)),
        tiles="".join(
            f"<div><dt>{label}</dt><dd>{escape(value)}</dd></div>"
            for label, value in _tiles(Sums(contents.tasks, price))
        ),
        plots="\n".join(
            f'<figure><img src="{plot.source}" alt="{escape(f"{plot.title}: {plot.words}")}">'
            f"<figcaption>{escape(plot.words)}</figcaption></figure>"
            for plot in plots(contents.tasks, price)
        ),
        tables="\n".join(
            _table(heading, table(contents, heading, _MAX_ROWS, price)) for heading in KEYS
        ),
        now=moment(time.time()),
        version=version("scrapy-ezcaptcha"),
    )


def _tiles(sums: Sums) -> Iterable[tuple[str, str]]:
    count, points = len(sums.tasks), sums.points
    least = "" if sums.is_cost_complete else "≥ "
    yield "Tasks", f"{count:,}"
    yield "Solved", f"{100 * sums.solved / count:.0f}%"
    yield "Median solve", f"{median(sums.seconds):,.1f} s" if sums.seconds else NONE
    yield "Pages", f"{sums.pages:,}"
    yield "Pages per task", f"{sums.pages / count:,.1f}"
    yield "USD", NONE if points is None else f"{least}{points / POINTS_PER_DOLLAR:,.4f}"


def _table(heading: str, rows: list[tuple[str, ...]]) -> str:
    first = escape(heading)
    heads = "".join(f'<th scope="col">{name}</th>' for name in (first, *HEADINGS))
    body = "\n".join(
        f'<tr><th scope="row">{escape(row[0])}</th>'
        + "".join(
            f'<td data-label="{label}">{escape(cell)}</td>'
            for label, cell in zip(HEADINGS, row[1:], strict=True)
        )
        + "</tr>"
        for row in rows
    )
    head = f"<thead><tr>{heads}</tr></thead>"
    return f"<h2>By {first}</h2>\n<table>{head}\n<tbody>\n{body}\n</tbody></table>"
