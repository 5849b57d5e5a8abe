"""A long crawl with random faults: flat memory, nothing leaked, and sums that add up.

``python tests/soak.py --minutes 30``. The crawl runs in a process of its own, beside a sandbox
in which 5% of all calls to the service and of all requests through the proxy go wrong.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections import deque
from pathlib import Path
from statistics import mean

from support import clean_environment

from scrapy_ezcaptcha.sandbox import Fault, Protection, Sandbox, Site

ZONES = ("one.example", "two.example", "three.example")
KINDS = {
    "createTask": ("close", "cut", "html", "garbage", "error"),
    "getTaskResult": ("close", "cut", "html", "garbage", "error", "silent"),
    "proxy": ("close",),
}
FAULTY = 0.05
TOLERANCE = 0.05


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=2.0)
    options = parser.parse_args()
    faults = [
        Fault(call, kind, times=None, chance=FAULTY / len(kinds))
        for call, kinds in KINDS.items()
        for kind in kinds
    ]
    sites = [Site(zone, Protection(max_uses=150), latency=0.02) for zone in ZONES]
    sites.append(Site("open.example", latency=0.02))
    with (
        tempfile.TemporaryDirectory() as folder,
        Sandbox(
            [*sites, Site("open.example", latency=0.02)], latency=0.5, faults=faults
        ) as sandbox,
    ):
        sandbox.edge.visits = deque(maxlen=1000)  # type: ignore[assignment]
        plan = {
            "seconds": options.minutes * 60,
            "zones": [*ZONES, "open.example"],
            "exits": [sandbox.proxy_url(f"exit{number}") for number in range(2)],
            "settings": {
                **sandbox.settings(),
                "EZCAPTCHA_STORE": str(Path(folder, "clearances.sqlite")),
            },
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


def judge(result: dict, log: str, sandbox: Sandbox) -> int:
    """Print what was seen; 1 if something is not as it must be."""
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
    print(f"requests {result['requests']}, pages {result['pages']}, given up {gave_up}")
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
        "faults did happen": faults > 20,
        "memory is flat": last <= second * (1 + TOLERANCE),
        "no socket is left": result["left"]["sockets"] == 0,
        "no delayed call is left": result["left"]["calls"] == 0,
        "no traceback": "Traceback" not in log,
    }
    for name, holds in checks.items():
        print(f"{'ok  ' if holds else 'FAIL'} {name}")
    return 0 if all(checks.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
