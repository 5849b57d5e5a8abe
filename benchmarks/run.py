"""Runs all benchmarks side by side, and writes tables, a JSON file and a picture.

``python benchmarks/run.py [--quick] [scenario ...]``. The scenarios are burst, mixed, overhead,
detect, waiting, scale, pool, protected, after_a_solve and broad. Compare figures of one scenario
only. Results of scenarios that are not named stay. A quick run changes no results.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
import timeit
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median

import scrapy
from contenders import settings_of
from playground import Playground
from report import RESULTS, table, write, write_readme
from scrapy.http import HtmlResponse

from scrapy_ezcaptcha import is_challenge
from scrapy_ezcaptcha.sandbox import Protection, Site, pages

HERE = Path(__file__).resolve().parent
ENDLESS = 10_000.0  # seconds: a solve that never ends here
SITE_LATENCY = 0.02
SLOW_SITE_LATENCY = 0.05  # so that four crawls at the same time do not need all of the CPU
AT_ONCE = 16  # tasks

# Installed packages have their bytecode; compiling them in each crawl would count as well.
ENVIRONMENT = {name: os.environ[name] for name in os.environ if name != "PYTHONDONTWRITEBYTECODE"}


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def crawl(contender, hosts, sandbox, *, stop_after=None, settings=None, **further):
    """Run one crawl and return its figures."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        plan = {
            **further,
            "hosts": hosts,
            "out": str(folder / "out.json"),
            "settings": {
                **settings_of(contender, sandbox),
                **({"CLOSESPIDER_TIMEOUT": stop_after} if stop_after else {}),
                **(settings or {}),
            },
        }
        (folder / "plan.json").write_text(json.dumps(plan))
        say(f"    {contender} ...")
        subprocess.run(
            [sys.executable, str(HERE / "crawl.py"), str(folder / "plan.json")],
            check=True,
            cwd=HERE,
            env=ENVIRONMENT,
        )
        return json.loads((folder / "out.json").read_text())


def by(sandbox):
    return {"proxy": sandbox.proxy_url()}


def protected(zone="shop.example", *, is_free=False, latency=0.0):
    return Site(zone, None if is_free else Protection(), latency=latency)


def burst(quick):
    """48 pages of one zone through one exit."""
    solve, poll = (1.0, 0.6) if quick else (5.0, 3.0)
    rows = {}
    for contender in ("ours", "inline", "turnstile"):
        with Playground([protected()], solve=solve, poll=poll) as sandbox:
            figures = crawl(contender, [["shop.example", 48, by(sandbox)]], sandbox)
            rows[contender] = {
                "pages": figures["pages"].get("shop.example", 0),
                "paid": sandbox.paid,
                "seconds": round(figures["seconds"], 1),
            }
    return {"solve_seconds": solve, "poll_seconds": poll, "contenders": rows}


def open_pages_by_second(sandbox):
    visits = sandbox.edge.visits
    began = min(visit.at for visit in visits)
    seconds = Counter(int(v.at - began) for v in visits if v.host == "open.example")
    return [seconds[second] for second in range(max(seconds) + 1)]


def mixed_once(contender, count, open_count, solve, limit):
    sites = [
        protected(is_free=contender.startswith("free"), latency=SITE_LATENCY),
        Site("open.example", latency=SITE_LATENCY),
    ]
    with Playground(sites, solve=solve, poll=1.0) as sandbox:
        proxy = by(sandbox)
        hosts = [["shop.example", count, proxy], ["open.example", open_count, proxy]]
        stop_after = limit if contender in {"inline", "turnstile"} else None
        settings = {}
        if contender == "free, plain priority queue":
            settings["SCHEDULER_PRIORITY_QUEUE"] = "scrapy.pqueues.ScrapyPriorityQueue"
        name = contender.split(",")[0] if contender.startswith("free") else contender
        figures = crawl(name, hosts, sandbox, stop_after=stop_after, settings=settings)
        return {
            "open_by_second": open_pages_by_second(sandbox),
            "pages": figures["pages"],
            "paid": sandbox.paid,
            "seconds": round(figures["seconds"], 1),
            "waiting_max": figures["waiting"],
        }


def mixed(quick):
    """Protected pages interleaved with open ones: open pages in each second."""
    solve, open_count, counts = (2.0, 800, (80,)) if quick else (5.0, 2500, (200, 2500))
    contenders = (
        *("free", "none", "ours", "inline", "turnstile"),
        *("free, plain priority queue", "ours, plain priority queue"),
    )
    plans = {}
    for count in counts:
        say(f"  {count} protected pages beside {open_count} open ones")
        rows = {name: mixed_once(name, count, open_count, solve, 25) for name in contenders}
        for name, row in rows.items():
            row["during_vs_none"], row["worst_after_vs_free"] = ratios(rows, name, solve)
        plans[str(count)] = rows
    return {"solve_seconds": solve, "open_pages": open_count, "protected_pages": plans}


def ratios(rows, name, solve):
    """Compare a contender's open pages with the ideal, during the solve and after it.

    Only whole seconds count. So the second in which the solve ends is left out, and so is the last
    second in which both sites have work.
    """
    ideal = rows["free, plain priority queue" if "queue" in name else "free"]["open_by_second"]
    average = sum(ideal[:-1]) / max(1, len(ideal) - 1)
    pages = rows[name]["open_by_second"]
    during = int(solve)
    reference = sum(rows["none"]["open_by_second"][:during])
    after = pages[during + 1 : -1]
    return (
        round(sum(pages[:during]) / reference, 2),
        round(min(after) / average, 2) if after else None,
    )


def overhead(quick):
    """Pages without challenges: CPU seconds of crawls that run at the same time."""
    count, repeats = (500, 2) if quick else (4000, 7)
    contenders = {"none": ("none", {}), "ours": ("ours", {})}
    seconds = cpu_side_by_side(contenders, count, repeats, is_free=True)
    ratio = spread_of(seconds["ours"], seconds["none"])
    return {"pages": count, "cpu_seconds": rounded(seconds), "ratio": ratio}


def protected_pages(quick):
    """Pages with one clearance: CPU seconds of crawls that run at the same time.

    The first page is requested alone, so the others carry its clearance. In the last crawl, all
    pages are requested at once, and hundreds of requests wait for the solve.
    """
    count, repeats = (500, 3) if quick else (4000, 7)
    first = {"first_alone": True}
    contenders = {
        "none": ("none", first),
        "headers": ("headers", first),
        "ours": ("ours", first),
        "ours, all at once": ("ours", {}),
    }
    seconds = cpu_side_by_side(contenders, count, repeats)
    pairs = (
        *(("ours", "none"), ("ours", "headers"), ("headers", "none")),
        ("ours, all at once", "none"),
    )
    return {
        "pages": count,
        "cpu_seconds": rounded(seconds),
        "ratios": {
            f"{one} / {other}": spread_of(seconds[one], seconds[other]) for one, other in pairs
        },
    }


def cpu_side_by_side(contenders, count, repeats, *, is_free=False):
    """Return the CPU seconds of crawls of *count* pages by each contender, *repeats* times.

    The crawls run at the same time, because the speed of a shared machine changes from second to
    second. All sites take the same time to answer, so all crawls have the same number of
    requests in flight.
    """
    seconds = {name: [] for name in contenders}

    def once(name):
        contender, plan = contenders[name]
        site = protected(is_free=is_free or contender == "none", latency=SLOW_SITE_LATENCY)
        with Playground([site], solve=0.1, poll=0.1) as sandbox:
            hosts = [["shop.example", count, by(sandbox)]]
            figures = crawl(contender, hosts, sandbox, **plan)
            assert figures["pages"]["shop.example"] >= count, figures
            seconds[name].append(figures["cpu"])

    with ThreadPoolExecutor(len(contenders)) as pool:
        for _ in range(repeats):
            list(pool.map(once, contenders))
    return seconds


def rounded(seconds):
    return {name: [round(one, 2) for one in values] for name, values in seconds.items()}


def after_a_solve(quick):
    """An open site's worst second after the solve of a site beside it, against both open."""
    solve, count, repeats = (2.0, 800, 2) if quick else (5.0, 2500, 5)
    ratios_of = {"ours": [], "none": []}
    for _ in range(repeats):
        rows = {n: mixed_once(n, count, count, solve, 25) for n in ("free", "ours", "none")}
        for name, found in ratios_of.items():
            found.append(ratios(rows, name, solve)[1])
    return {
        "solve_seconds": solve,
        "pages": count,
        "worst_second_vs_free": {
            name: [min(found), round(median(found), 2), max(found)]
            for name, found in ratios_of.items()
        },
    }


def broad(quick):
    """Many protected zones by three exits beside an open site."""
    solve, zones, repeats = (1.0, 30, 1) if quick else (5.0, 300, 5)
    ideal = zones / AT_ONCE * solve
    speeds, through, memory, others = [], [], [], {}
    for _ in range(repeats):
        alone = broad_once("none", 1, solve, ideal / 4)
        ours = broad_once("ours", zones, solve, ideal)
        speeds.append(ours.pop("open_speed") / alone["open_speed"])
        through.append(ours.pop("through") / ideal)
        memory.append(ours.pop("memory_growth"))
        others = ours
    return {
        "zones": zones,
        "solve_seconds": solve,
        "ideal_seconds": round(ideal, 1),
        "open_site_vs_none": spread(speeds),
        "through_vs_ideal": spread(through),
        "memory_growth": spread(memory),
        **others,
    }


def broad_once(contender, zones, solve, seconds):
    """Crawl five pages of each zone, and pages of an open site for about so many *seconds*."""
    names = [f"shop{number}.example" for number in range(zones)]
    sites = [protected(name, latency=SITE_LATENCY) for name in names]
    with Playground([*sites, Site("open.example", latency=0.1)], solve=solve, poll=0.5) as sandbox:
        proxies = [sandbox.proxy_url(f"exit{number}") for number in range(3)]
        pool = {"EZCAPTCHA_PROXIES": proxies, "EZCAPTCHA_MAX_CONCURRENT_TASKS": AT_ONCE}
        meta = by(sandbox) if contender == "none" else {}
        with tempfile.NamedTemporaryFile("r") as log:
            figures = crawl(
                contender,
                [[name, 5, meta] for name in names] + [["open.example", int(70 * seconds), meta]],
                sandbox,
                settings={**pool, "LOG_LEVEL": "INFO", "LOG_FILE": log.name},
                in_order=True,
                memory_every=seconds / 20,
            )
            lines = sum("scrapy_ezcaptcha" in line for line in log)
        through = figures["through"]
        ends = [through.pop("open.example"), max(through.values(), default=0)]
        rss = figures["rss"]
        return {
            "open_speed": open_pages(sandbox, until=min(ends) if through else ends[0]),
            "through": ends[1],
            "memory_growth": max(rss[len(rss) // 2 :]) / max(rss[: len(rss) // 2]),
            "paid": sandbox.paid,
            "pages": sum(figures["pages"].values()) - figures["pages"]["open.example"],
            "given_up": figures["given_up"],
            "log_lines": lines,
        }


def open_pages(sandbox, until):
    """Return how many pages of the open site came in each of the first *until* seconds."""
    times = sorted(v.at for v in sandbox.edge.visits if v.host == "open.example")
    return sum(at - times[0] < until for at in times) / until


def spread(values):
    """Return the smallest, median and largest of *values*."""
    return [round(one, 3) for one in (min(values), median(values), max(values))]


def spread_of(ones, others):
    """Return the smallest, median and largest ratio of pairs that ran in turn."""
    return spread([one / other for one, other in zip(ones, others, strict=True)])


def detect(_quick):
    """Microseconds to examine one response."""
    edge = {"Server": "cloudflare", "CF-RAY": "1-LHR", "Content-Type": "text/html"}
    url, page = "https://shop.example/", pages.catalogue_page("shop.example", "/", 500).encode()
    cases = {
        "ordinary page": HtmlResponse(url, 200, edge, page),
        "challenge by its header": HtmlResponse(url, 403, {**edge, "cf-mitigated": "challenge"}),
        "challenge by its page": HtmlResponse(
            url, 403, edge, pages.challenge_page("managed", "shop.example").encode()
        ),
        "403 of another kind": HtmlResponse(url, 403, edge, page),
    }
    count = 20_000
    return {
        name: round(min(timeit.repeat(lambda r=r: is_challenge(r), number=count)) / count * 1e6, 2)
        for name, r in cases.items()
    }


def waiting(quick):
    """Memory of the crawling process for each request that waits.

    The cost of a request is the difference between few and many requests, because imports and
    tables need memory in any case.
    """
    few, many = (200, 1000) if quick else (1000, 10_000)
    memory = {}
    for contender in ("future", "ours"):
        memory[contender] = {count: memory_with(contender, count) for count in (few, many)}
    each = {name: (rss[many] - rss[few]) / (many - few) for name, rss in memory.items()}
    return {
        "requests": [few, many],
        "bytes_each": {name: round(size) for name, size in each.items()},
        "more_bytes_each": round(each["ours"] - each["future"]),
    }


def memory_with(contender, count):
    """Return the bytes of the crawling process while *count* requests wait."""
    with Playground([protected()], solve=ENDLESS, poll=30) as sandbox:
        settings = {"CONCURRENT_REQUESTS": 16, "EZCAPTCHA_MAX_WAITING": count + 50}
        if contender == "future":
            settings = {
                "CONCURRENT_REQUESTS": count + 50,
                "DOWNLOADER_MIDDLEWARES": {"contenders.FutureMiddleware": 585},
            }
        hosts = [["shop.example", count, by(sandbox)]]
        return crawl(contender, hosts, sandbox, settings=settings, until_waiting=count)["rss"][-1]


def scale(quick):
    """Zones with one solve each, all at the same time."""
    solve = 1.0 if quick else 5.0
    rows = {}
    for count in (1, 10, 100):
        zones = [f"shop{number}.example" for number in range(count)]
        sites = [protected(zone) for zone in zones]
        with Playground(sites, solve=solve, poll=solve / 5) as sandbox:
            hosts = [[zone, 5, by(sandbox)] for zone in zones]
            settings = {"EZCAPTCHA_MAX_CONCURRENT_TASKS": 200}
            figures = crawl("ours", hosts, sandbox, settings=settings)
            rows[str(count)] = {
                "seconds": round(figures["seconds"], 1),
                "paid": sandbox.paid,
                "pages": sum(figures["pages"].values()),
            }
    return {"solve_seconds": solve, "zones": rows}


def pool(quick):
    """Ten exits: a pool of ours, and a random exit for each request."""
    solve, each = (1.0, 10) if quick else (5.0, 20)
    rows = {}
    for count in (1, 20) if quick else (1, 20, 200):
        zones = [f"shop{number}.example" for number in range(count)]
        for contender in ("ours", "random"):
            with Playground([protected(zone) for zone in zones], solve=solve, poll=1.0) as sandbox:
                proxies = [sandbox.proxy_url(f"exit{number}") for number in range(10)]
                name = "EZCAPTCHA_PROXIES" if contender == "ours" else "RANDOM_PROXIES"
                settings = {name: proxies, "EZCAPTCHA_MAX_CONCURRENT_TASKS": 200}
                hosts = [[zone, each, {}] for zone in zones]
                figures = crawl(contender, hosts, sandbox, settings=settings)
                tasks = Counter(task.exit for task in sandbox.service.tasks.values())
                rows.setdefault(str(count), {})[contender] = {
                    "pages": sum(figures["pages"].values()),
                    "paid": sandbox.paid,
                    "most_by_one_exit": max(tasks.values()),
                    "seconds": round(figures["seconds"], 1),
                }
    return {"solve_seconds": solve, "exits": 10, "pages_of_each": each, "zones": rows}


def main() -> None:
    functions = (burst, mixed, overhead, detect, waiting, scale, pool, after_a_solve, broad)
    scenarios = {f.__name__: f for f in functions}
    scenarios["protected"] = protected_pages
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scenario", nargs="*", choices=[[], *scenarios], default=[])
    parser.add_argument("--quick", action="store_true", help="smaller plans, for a first look")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    if options.quick and options.out == RESULTS:
        options.out = Path(tempfile.mkdtemp(prefix="benchmarks-"))
    options.out.mkdir(exist_ok=True)
    earlier = options.out / "results.json"
    results: dict = json.loads(earlier.read_text()) if earlier.exists() else {}
    results |= {
        "machine": {
            "python": platform.python_version(),
            "scrapy": scrapy.__version__,
            "system": platform.system(),
        },
        "quick": options.quick,
    }
    for name in options.scenario or scenarios:
        began = time.monotonic()
        say(f"{name}: {scenarios[name].__doc__}")
        results[name] = scenarios[name](options.quick)
        say(f"  took {time.monotonic() - began:.0f} s")
    (options.out / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    write(results, options.out)
    if options.out == RESULTS:
        write_readme(results)
    print(table(results))


if __name__ == "__main__":
    main()
