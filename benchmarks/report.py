"""What the figures of a run look like: a table, and a picture of *mixed*."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


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
    if row := results.get("overhead"):
        lines.append(
            f"| overhead, {row['pages']} pages | ours | CPU {row['ratio_of_best']} of *none* |"
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
    return "\n".join(lines)


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
