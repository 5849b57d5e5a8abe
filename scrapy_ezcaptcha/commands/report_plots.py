"""The plots of a report: SVG from matplotlib, embedded in the page."""

from __future__ import annotations

from base64 import b64encode
from collections import Counter, defaultdict
from io import BytesIO
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple
from warnings import catch_warnings, filterwarnings

from matplotlib import rc_context
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter, date2num
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from scrapy_ezcaptcha.commands.report_sums import Sums, duration, moment, p95
from scrapy_ezcaptcha.service.wire import POINTS_PER_DOLLAR
from scrapy_ezcaptcha.solving.entries import READY

if TYPE_CHECKING:
    from collections.abc import Callable

    from matplotlib.axes import Axes

    from scrapy_ezcaptcha.solving.entries import Entry

# The width of a phone's screen, so that the text is not smaller there. Elsewhere it is larger.
_INCHES = (4.2, 2.9)

_STYLE: Any = {
    "axes.axisbelow": True,
    "axes.edgecolor": "#8a8f98",
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 11,
    "font.size": 9.5,
    "grid.color": "#e3e5e8",
    "svg.fonttype": "none",  # text stays text
    "text.parse_math": False,
}
_BLUE, _RED = "#2563a8", "#c0392b"
_MAX_POINTS = 2000  # more are drawn as one picture
_MAX_ZONES = 12
_MIN_ROWS = 5  # fewer bars are as thick as this many
_MAX_LABEL = 22


class Plot(NamedTuple):
    """A plot as the URL of a picture, and what it shows in words."""

    title: str
    words: str
    source: str


def plots(tasks: list[Entry], price: float | None) -> list[Plot]:
    """Return all plots of *tasks*."""
    sums = Sums(tasks, price)
    return [
        _plot(
            "Solve seconds over time", _seconds_in_words(sums), lambda axes: _seconds(axes, tasks)
        ),
        _plot(
            "Clearance lifetimes", _lifetimes_in_words(sums), lambda axes: _lifetimes(axes, sums)
        ),
        _plot(
            "Pages per task",
            f"{sums.pages / len(tasks):,.1f} pages per task on average",
            lambda axes: _pages(axes, tasks),
        ),
        _plot(*_cost(tasks, price)),
    ]


def _plot(title: str, words: str, draw: Callable[[Axes], None]) -> Plot:
    with rc_context({**_STYLE, "svg.hashsalt": title}):
        figure = Figure(figsize=_INCHES, layout="constrained")
        axes = figure.subplots()
        axes.set_title(title, loc="left", fontweight="bold")
        draw(axes)
        buffer = BytesIO()
        with catch_warnings():
            # The browser may have glyphs that are missing here. A few date labels are enough.
            filterwarnings("ignore", "Glyph|AutoDateLocator", UserWarning)
            figure.savefig(buffer, format="svg", dpi=200, metadata={"Date": None})
    return Plot(title, words, f"data:image/svg+xml;base64,{b64encode(buffer.getvalue()).decode()}")


def _seconds(axes: Axes, tasks: list[Entry]) -> None:
    is_dense = len(tasks) > _MAX_POINTS
    for label, is_ready, color, marker in (
        ("solved", True, _BLUE, "o"),
        ("not solved", False, _RED, "x"),
    ):
        shown = [
            task
            for task in tasks
            if task.seconds is not None and (task.outcome == READY) is is_ready
        ]
        if shown:
            times: list[Any] = [moment(task.time) for task in shown]
            axes.scatter(
                times,
                [task.seconds or 0.0 for task in shown],
                s=4 if is_dense else 14,
                c=color,
                marker=marker,
                alpha=0.3 if is_dense else 0.7,
                label=f"{label} ({len(shown):,})",
                rasterized=is_dense,
            )
    if not axes.collections:
        _say(axes, "no task has ended yet")
        return
    ended = [task.time for task in tasks if task.seconds is not None]
    margin = max(60.0, 0.04 * (ended[-1] - ended[0]))  # at least a minute
    axes.set_xlim(date2num(moment(ended[0] - margin)), date2num(moment(ended[-1] + margin)))
    locator = AutoDateLocator(maxticks=5)
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))
    axes.set_ylim(bottom=0)
    axes.set_ylabel("seconds")
    axes.legend(loc="best", fontsize=8.5)


def _seconds_in_words(sums: Sums) -> str:
    if not sums.seconds:
        return "no task was solved"
    return f"median {median(sums.seconds):,.1f} s, p95 {p95(sums.seconds):,.1f} s"


def _lifetimes(axes: Axes, sums: Sums) -> None:
    lifetimes = sums.lifetimes
    if not lifetimes:
        _say(axes, "no clearance that brought a page\nwas rejected")
        return
    unit, size = next(
        (unit, size)
        for unit, size in (("hours", 3600), ("minutes", 60), ("seconds", 1))
        if max(lifetimes) >= 2 * size or size == 1
    )
    longest = max(lifetimes) / size or 1.0
    axes.hist([seconds / size for seconds in lifetimes], bins=20, range=(0, longest), color=_BLUE)
    axes.set_xlabel(unit)
    axes.set_ylabel("clearances")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))


def _lifetimes_in_words(sums: Sums) -> str:
    if not sums.lifetimes:
        return "no clearance that brought a page was rejected"
    return f"median {duration(median(sums.lifetimes))}, {len(sums.lifetimes):,} rejected"


def _pages(axes: Axes, tasks: list[Entry]) -> None:
    """Draw how many tasks brought 0, 1, 2 to 3, 4 to 7, ... pages."""
    classes = Counter(task.pages.bit_length() for task in tasks)
    shown = range(min(classes), max(classes) + 1)
    names = [_class_name(number) for number in shown]
    axes.bar(shown, [classes[number] for number in shown], color=_BLUE)
    slanted: Any = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"}
    axes.set_xticks(shown, names, **(slanted if len(names) > 6 else {}))
    axes.set_xlabel("pages")
    axes.set_ylabel("tasks")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))


def _class_name(number: int) -> str:
    low, high = (1 << number) >> 1, (1 << number) - 1
    return f"{low:,}" if low >= high else f"{low:,}-{high:,}"


def _cost(tasks: list[Entry], price: float | None) -> tuple[str, str, Callable[[Axes], None]]:
    """Return the plot of the cost of each zone: in USD, or in tasks if that is not known."""
    zones: dict[str, list[Entry]] = defaultdict(list)
    for task in tasks:
        zones[task.zone].append(task)
    points = {zone: Sums(its, price).points for zone, its in zones.items()}
    is_known = any(value is not None for value in points.values())
    unit = "USD" if is_known else "tasks"
    costs = {
        zone: (points[zone] or 0.0) / POINTS_PER_DOLLAR if is_known else float(len(its))
        for zone, its in zones.items()
    }
    dearest = sorted(costs, key=lambda zone: (-costs[zone], zone))
    shown = dearest[:_MAX_ZONES][::-1]

    def draw(axes: Axes) -> None:
        axes.barh(range(len(shown)), [costs[zone] for zone in shown], color=_BLUE)
        axes.set_ylim(min(0, len(shown) - _MIN_ROWS) - 0.6, len(shown) - 0.4)
        axes.set_yticks(range(len(shown)), [_cut(zone) for zone in shown])
        axes.grid(visible=False, axis="y")
        axes.grid(visible=True, axis="x")
        axes.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=not is_known))
        axes.set_xlabel(unit)

    rest = len(dearest) - len(shown)
    more = f"; {rest:,} more zones are in the table" if rest else ""
    number = f"{costs[dearest[0]]:,.4f}" if is_known else f"{costs[dearest[0]]:,.0f}"
    return "Cost per zone", f"most for {dearest[0]}: {number} {unit}{more}", draw


def _cut(zone: str) -> str:
    return zone if len(zone) <= _MAX_LABEL else f"{zone[: _MAX_LABEL - 1]}…"


def _say(axes: Axes, text: str) -> None:
    axes.set_axis_off()
    axes.text(0.5, 0.5, text, ha="center", va="center", transform=axes.transAxes)
