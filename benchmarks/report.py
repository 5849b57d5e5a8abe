"""Shows the figures of a run: a table, a picture of *mixed*, and the tables of the README.

``python benchmarks/report.py`` writes them again from ``results/results.json``.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

RESULTS = Path(__file__).resolve().parent / "results"
README = RESULTS.parents[1] / "README.md"
_BLOCK = re.compile(r"(?<=<!-- benchmarks -->\n).*?(?=<!-- end of benchmarks -->)", re.DOTALL)


def table(results) -> str:
    """Return the figures as a table in Markdown."""
    lines = ["| scenario | contender | figures |", "| --- | --- | --- |"]
    for contender, row in results.get("burst", {}).get("contenders", {}).items():
        lines.append(
            f"| burst, 48 pages | {contender} | {row['paid']} paid, {row['seconds']} s,"
            f" {row['pages']} pages |"
        )
    for count, rows in results.get("mixed", {}).get("protected_pages", {}).items():
        for contender, row in rows.items():
            after = row["worst_after_vs_free"]
            later = "" if after is None else f", worst second after it {after} of *free*"
            lines.append(
                f"| mixed, {count} protected | {contender} | open pages during the solve"
                f" {row['during_vs_none']} of *none*{later}; {row['paid']} paid,"
                f" {row['seconds']} s |"
            )
    for case, microseconds in results.get("detect", {}).items():
        lines.append(f"| detect | {case} | {microseconds} µs |")
    if row := results.get("waiting"):
        lines.append(
            f"| waiting, {row['requests'][1]:,} requests | ours | {row['more_bytes_each']:,} bytes"
            " more each than a middleware that only awaits |"
        )
    for count, row in results.get("scale", {}).get("zones", {}).items():
        lines.append(f"| scale, {count} zones | ours | {row['paid']} paid, {row['seconds']} s |")
    for count, rows in results.get("pool", {}).get("zones", {}).items():
        exits, each = results["pool"]["exits"], results["pool"]["pages_of_each"]
        for contender, row in rows.items():
            lines.append(
                f"| pool of {exits}, {count} zones of {each} pages | {contender} |"
                f" {row['paid']} paid, at most {row['most_by_one_exit']} through one exit,"
                f" {row['seconds']} s, {row['pages']} pages |"
            )
    return "\n".join([*lines, *spread_rows(results)])


def spread_rows(results) -> Iterator[str]:
    """Yield the rows of scenarios that are run several times."""
    if row := results.get("overhead"):
        yield f"| overhead, {row['pages']} pages | ours | CPU {spread(row['ratio'])} of *none* |"
    if row := results.get("protected"):
        for pair, figures in row["ratios"].items():
            one, _, other = pair.partition(" / ")
            yield (
                f"| protected, {row['pages']} pages by one clearance | {one} |"
                f" CPU {spread(figures)} of *{other}* |"
            )
    if row := results.get("after_a_solve"):
        for contender, figures in row["worst_second_vs_free"].items():
            yield (
                f"| after a solve, {row['pages']} pages each | {contender} |"
                f" worst second {spread(figures)} of *free* |"
            )
    if row := results.get("broad"):
        yield (
            f"| broad, {row['zones']} zones by three exits | ours | open site"
            f" {spread(row['open_site_vs_none'])} of *none*; all through in"
            f" {spread(row['through_vs_ideal'])} of the ideal {row['ideal_seconds']} s;"
            f" {row['paid']} paid, {row['pages']} pages, {row['given_up']} given up; memory in the"
            f" second half {spread(row['memory_growth'])} of the first; {row['log_lines']} lines in"
            " the log |"
        )


def spread(figures) -> str:
    """Return the median of *figures*, and the least and the greatest of them."""
    least, middle, most = figures
    return f"{middle:.2f} ({least:.2f} to {most:.2f})"


def readme_tables(results) -> str:
    """Return the tables of the README, with what matters to somebody who chooses."""
    burst, mixed = results["burst"]["contenders"], results["mixed"]["protected_pages"]["200"]
    names = ("ours", "inline", "turnstile")

    def row(title, values):
        return f"| {title} | {' | '.join(str(value) for value in values)} |"

    lines = [
        "| | this middleware | inline | turnstile |",
        "| --- | --- | --- | --- |",
        row("48 pages of one site: tasks", (burst[name]["paid"] for name in names)),
        row("48 pages of one site: seconds", (burst[name]["seconds"] for name in names)),
        row(
            "an open site beside 200 protected pages: speed during the solve",
            (mixed[name]["during_vs_none"] for name in names),
        ),
        "",
        "| this middleware, compared with a crawl without any middleware | ratio |",
        "| --- | --- |",
        row("CPU time of pages without challenges", [f"{results['overhead']['ratio'][1]:.2f}"]),
        row(
            "CPU time of pages that carry a clearance",
            [f"{results['protected']['ratios']['ours / none'][1]:.2f}"],
        ),
        row(
            f"speed of an open site while {results['broad']['zones']} protected sites are solved",
            [f"{results['broad']['open_site_vs_none'][1]:.2f}"],
        ),
    ]
    return "\n".join(lines) + "\n"


def with_tables(text: str, results) -> str:
    """Return the *text* of the README with the tables of *results*."""
    return _BLOCK.sub(lambda _: readme_tables(results), text)


def write_readme(results) -> None:
    """Write the tables of the README."""
    text = README.read_text(encoding="utf-8")
    README.write_text(with_tables(text, results), encoding="utf-8")


def write(results, folder: Path) -> None:
    """Write the table and the picture of *results* into *folder*."""
    (folder / "table.md").write_text(table(results) + "\n")
    if "mixed" in results:
        draw(results["mixed"], folder / "mixed.svg")


def draw(mixed_results, path: Path) -> None:
    """Draw the open pages in each second of the largest mixed plan."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "scrapy-ezcaptcha"
    import matplotlib.pyplot as plt

    count, rows = list(mixed_results["protected_pages"].items())[-1]
    figure, axes = plt.subplots(figsize=(8, 3.6))
    for name in ("free", "none", "ours", "inline", "turnstile"):
        pages_by_second = rows[name]["open_by_second"][:-1]
        middles = [second + 0.5 for second in range(len(pages_by_second))]
        axes.plot(middles, pages_by_second, label=name)
    axes.axvspan(0, mixed_results["solve_seconds"], alpha=0.12, color="grey", label="the solve")
    axes.set_xlabel("second")
    axes.set_ylabel("open pages in it")
    axes.set_xlim(0, 4 * mixed_results["solve_seconds"])
    axes.set_ylim(bottom=0)
    axes.set_title(f"An open site beside {count} pages of a protected one")
    axes.legend(loc="upper right", fontsize="small")
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    """Write everything anew from the results of the last run."""
    results = json.loads((RESULTS / "results.json").read_text())
    write(results, RESULTS)
    write_readme(results)


if __name__ == "__main__":
    main()
