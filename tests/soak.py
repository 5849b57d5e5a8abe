"""A long crawl with random faults: memory does not grow, nothing leaks, and the sums add up.

``python tests/soak.py --minutes 30``. The crawl runs in its own process, against a sandbox in which
5% of all calls to the service and of all requests through the proxy fail. The store and the limits
are chosen at random; ``--seed`` repeats a choice.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from math import ceil
from pathlib import Path
from statistics import mean

from redis_server import RedisServer
from support import clean_environment

from scrapy_ezcaptcha.sandbox import Fault, Protection, Sandbox, Site

EXITS = 2
HOSTS = 12  # of the zone whose hosts each need their own clearance

#: The crawl requests the same number of pages from each of them.
SITES = [
    Site("open.example", latency=0.02),
    Site("plain.example", Protection(max_uses=150), latency=0.02),
    Site("strays.example", Protection(max_uses=150, strays=0.03), latency=0.02),
    Site("renewing.example", Protection(max_uses=150, renew_every=20), latency=0.02),
    Site("hosts.example", Protection(max_uses=60, per_host=True), latency=0.02),
    Site("bots.example", Protection(status=429, max_uses=150), latency=0.02, encoding="gzip"),
    Site("old.example", Protection(status=503, mitigated=False, page="legacy", max_uses=150)),
]
DRAWS = {
    "store": ["memory", "sqlite", "redis", "redis that restarts"],
    "EZCAPTCHA_MAX_WAITING": [0, 3, 1000],
    "EZCAPTCHA_MAX_CONCURRENT_TASKS": [2, 16],
    "SCHEDULER_PRIORITY_QUEUE": [
        "scrapy.pqueues.DownloaderAwarePriorityQueue",
        "scrapy.pqueues.ScrapyPriorityQueue",
    ],
}
RESTART_SECONDS = 20

KINDS = {
    "createTask": ("close", "cut", "html", "garbage", "error"),
    "getTaskResult": ("close", "cut", "html", "garbage", "error", "silent"),
    "proxy": ("close",),
}
FAULTY = 0.05
TOLERANCE = 0.05
MOST_TASKS = 1.1  # times the number that the lifetimes of the clearances require


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=2.0)
    parser.add_argument("--seed", type=int, default=random.randrange(1000))
    options = parser.parse_args()
    chance = random.Random(options.seed)
    drawn = {name: chance.choice(values) for name, values in DRAWS.items()}
    print(f"seed {options.seed}: {drawn}", flush=True)
    faults = [
        Fault(call, kind, times=None, chance=FAULTY / len(kinds))
        for call, kinds in KINDS.items()
        for kind in kinds
    ]
    with (
        tempfile.TemporaryDirectory() as folder,
        store_of(drawn.pop("store"), Path(folder)) as store,
        Sandbox(SITES, latency=0.5, faults=faults) as sandbox,
    ):
        sandbox.edge.visits = deque(maxlen=1000)  # type: ignore[assignment]
        plan = {
            "seconds": options.minutes * 60,
            "hosts": [list(hosts_of(site)) for site in SITES],
            "exits": [sandbox.proxy_url(f"exit{number}") for number in range(EXITS)],
            "settings": {**sandbox.settings(), **drawn, "EZCAPTCHA_STORE": store},
            "out": str(Path(folder) / "soak.json"),
            "log": str(Path(folder) / "log.txt"),
        }
        (Path(folder) / "plan.json").write_text(json.dumps(plan))
        subprocess.run(
            [sys.executable, Path(__file__).with_name("soak_runner.py"), f"{folder}/plan.json"],
            env=clean_environment(),
            check=True,
            timeout=options.minutes * 60 + 120,
        )
        result = json.loads(Path(plan["out"]).read_text())
        log = Path(plan["log"]).read_text()
        return judge(result, log, sandbox)


def hosts_of(site: Site) -> Iterator[str]:
    """The hosts that the crawl requests pages from."""
    if site.protection and site.protection.per_host:
        yield from (f"h{number}.{site.zone}" for number in range(HOSTS))
    else:
        yield site.zone


@contextmanager
def store_of(kind: str, folder: Path) -> Iterator[str | None]:
    """The value of EZCAPTCHA_STORE, while the store runs."""
    if kind == "memory" or (kind.startswith("redis") and not RedisServer.is_installed()):
        yield None
    elif kind == "sqlite":
        yield str(folder / "clearances.sqlite")
    else:
        server, ended = RedisServer(folder), threading.Event()
        server.start()
        restarting = threading.Thread(target=restart, args=(server, ended))
        if kind != "redis":
            restarting.start()
        try:
            yield server.url
        finally:
            ended.set()
            if kind != "redis":
                restarting.join()
            server.stop()


def restart(server: RedisServer, ended: threading.Event) -> None:
    """Stop the server for half a second, again and again."""
    while not ended.wait(RESTART_SECONDS):
        server.stop()
        ended.wait(0.5)
        server.start()


def tasks_needed(sandbox: Sandbox) -> int:
    """How many clearances the pages of all sites need, with the lifetimes of the clearances."""
    needed = 0
    for site in SITES:
        if site.protection is not None and site.protection.max_uses:
            for host in hosts_of(site):
                pages = sandbox.edge.verdicts[host]["page"] / EXITS
                needed += EXITS * ceil(pages / site.protection.max_uses)
    return needed


def judge(result: dict, log: str, sandbox: Sandbox) -> int:
    """Print the results; return 1 if a check fails."""
    stats, samples = result["stats"], result["samples"]
    stat = lambda name: stats.get(f"ezcaptcha/{name}", 0)  # noqa: E731
    quarter = len(samples) // 4
    second, last = (
        mean(sample["memory"] for sample in samples[part * quarter : (part + 1) * quarter])
        for part in (1, 3)
    )
    service = sandbox.service
    faults = sum(fault.struck for fault in service.faults)
    gave_up = stat("requests/gave_up")
    most = {name: max(sample[name] for sample in samples) for name in ("sockets", "calls")}
    ready, needed = stat("tasks/ready"), tasks_needed(sandbox)
    print(f"requests {result['requests']}, pages {result['pages']}, given up {gave_up}")
    print(
        f"solved {ready}, and {needed} by the lifetimes: {ready / needed:.3f};"
        f" {result['pages'] / max(ready, 1):.1f} pages a task"
    )
    print(f"faults {faults}, tasks {len(service.tasks)}, known to us {stat('tasks/created')}")
    print(f"memory {second / 1e6:.1f} MB in the second quarter, {last / 1e6:.1f} MB in the last")
    print(
        f"at most {most['sockets']} sockets, {most['calls']} delayed calls; left {result['left']}"
    )
    checks = {
        "requests = pages + given up": result["requests"] == result["pages"] + gave_up,
        "no request was lost to an error": result["errors"] == 0,
        "every task that was created is known": stat("tasks/created") == len(service.tasks),
        "failures = sum of their codes": stat("tasks/failed")
        == sum(n for name, n in stats.items() if name.startswith("ezcaptcha/tasks/failed/")),
        "given up = signals of it": gave_up == sum(result["reasons"].values()),
        "hardly more tasks than the lifetimes require": ready <= needed * MOST_TASKS,
        "faults did happen": faults > 20,
        "memory is flat": last <= second * (1 + TOLERANCE),
        "no socket is left": result["left"]["sockets"] == 0,
        "no delayed call is left": result["left"]["calls"] == 0,
        "no traceback": "Traceback" not in log,
    }
    for name, holds in checks.items():
        print(f"{'ok  ' if holds else 'FAIL'} {name}")
    if "Traceback" in log:
        before, _, after = log.partition("Traceback")
        print(before[-1000:] + "Traceback" + after[:4000])
    return 0 if all(checks.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
