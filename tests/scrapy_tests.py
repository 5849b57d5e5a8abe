"""Runs Scrapy's own tests with the middleware in each crawler, and compares with a run without it.

``python tests/scrapy_tests.py --mode idle tests/test_engine.py``. The tests come with the source
distribution of the installed Scrapy. They run in their own environment in ``.tox``. The middleware
is in Scrapy's default settings there, so crawls in subprocesses have it too.
"""

from __future__ import annotations

import argparse
import configparser
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
import venv
from collections import Counter
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import IO, NamedTuple
from xml.etree import ElementTree

from support import clean_environment

ROOT = Path(__file__).resolve().parent.parent
VERSION = version("scrapy")
HOME = ROOT / ".tox" / f"scrapy-tests-{VERSION}"
PYTHON = HOME / "venv" / "bin" / "python"
MITMPROXY = HOME / "mitmproxy" / "bin" / "python"  # its dependencies clash with Scrapy's
SOURCE = HOME / f"scrapy-{VERSION}"
DEFAULTS = SOURCE / "scrapy" / "settings" / "default_settings.py"

SECONDS = 1800  # of one run
OPTIONS = (
    *("-m", "not requires_internet", "--no-cov", "-p", "no:cacheprovider"),
    *("--timeout=60", "--timeout-method=thread"),  # a test that hangs fails, and takes its worker
    "--max-worker-restart=100",
)

BASE = "base"
MIDDLEWARES = "DOWNLOADER_MIDDLEWARES_BASE"
#: What each mode appends to Scrapy's default settings.
MODES = {
    BASE: "",
    "idle": f'{MIDDLEWARES}["scrapy_ezcaptcha.middleware.EzCaptchaMiddleware"] = 585',
    "busy": f'{MIDDLEWARES}["scrapy.busy_ezcaptcha.BusyEzCaptchaMiddleware"] = 585',
}
MODES["store"] = MODES["idle"] + "\nEZCAPTCHA_STORE = {store!r}"
ENABLED = """
EZCAPTCHA_CLIENT_KEY = "none"
EZCAPTCHA_API_URL = "http://127.0.0.1:9"  # nothing listens there
EZCAPTCHA_PROXY = "http://user:password@127.0.0.1:9"  # for replays, of which there are none
EZCAPTCHA_TRANSPARENT_MODE = True
__all__ = sorted({*__all__, *(name for name in vars() if name.startswith("EZCAPTCHA_"))})
"""


class Outcome(NamedTuple):
    """How a test ended, and the first line of the reason."""

    name: str
    why: str = ""


Outcomes = dict[str, Outcome]
NOT_RUN = Outcome("not run")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    modes = [mode for mode in MODES if mode != BASE]
    parser.add_argument("--mode", action="append", choices=modes, help="can be repeated")
    parser.add_argument("tests", nargs="...", help="arguments of pytest, instead of all tests")
    options = parser.parse_args()
    os.environ.pop("PYTHONPATH", None)  # support sets it
    prepare()
    tests = options.tests or ["tests"]
    base = run_tests(BASE, *tests)
    found = [compare(mode, base, run_tests(mode, *tests)) for mode in options.mode or modes]
    return int(any(found))


def prepare() -> None:
    """Create the environment if it does not exist, and update this project in it."""
    ready = HOME / "ready"
    if not ready.exists():
        shutil.rmtree(HOME, ignore_errors=True)
        for python in (PYTHON, MITMPROXY):
            venv.create(python.parents[1], with_pip=True)
        sdist = ("--no-deps", "--no-binary", "scrapy", f"scrapy=={VERSION}")
        pip("download", "--dest", HOME, *sdist)
        (archive,) = HOME.glob("scrapy-*.tar.gz")
        with tarfile.open(archive) as packed:
            packed.extractall(HOME, filter="data")
        shutil.copy(DEFAULTS, HOME)
        (HOME / "requirements.txt").write_text(requirements(), encoding="utf-8")
        pip("install", "--requirement", HOME / "requirements.txt", "--editable", SOURCE)
        pip("install", "mitmproxy", python=MITMPROXY)
        ready.touch()
    pip("install", "--editable", ROOT)
    shutil.copy(ROOT / "tests" / "busy_ezcaptcha.py", SOURCE / "scrapy")


def requirements() -> str:
    """What Scrapy's tests need, from its ``tox.ini``, with the optional packages."""
    tox = configparser.RawConfigParser()
    tox.read(SOURCE / "tox.ini", encoding="utf-8")
    lines = tox["test-requirements"]["deps"] + tox["testenv:extra-deps"]["deps"]
    kept = [line for line in lines.splitlines() if not line.startswith("{")]
    return "\n".join([*kept, "pytest < 9.2"])  # which breaks fixtures of these tests


def pip(*arguments: object, python: Path = PYTHON) -> None:
    command = [python, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments]
    subprocess.run([str(part) for part in command], check=True)


def run_tests(mode: str, *tests: str, label: str = "", workers: str = "auto") -> Outcomes:
    """Run *tests* in *mode*, with their output in a file, and return the outcome of each."""
    report = HOME / f"{mode}{label}.xml"
    report.unlink(missing_ok=True)
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, report.with_suffix(".log").open("w") as log:
        store = str(Path(folder) / "clearances.sqlite")
        lines = MODES[mode].format(store=store) + ENABLED if MODES[mode] else ""
        DEFAULTS.write_text((HOME / DEFAULTS.name).read_text("utf-8") + lines, "utf-8")
        check_enabled(mode)
        command = [PYTHON, "-m", "pytest", "-n", workers, *OPTIONS, f"--junitxml={report}", *tests]
        run_to_end([str(part) for part in command], log)
    if not report.exists():
        sys.exit(f"{mode}: the tests came to no end, see {log.name}")
    outcomes = read_report(report)
    counts = Counter(outcome.name for outcome in outcomes.values()).most_common()
    sums = ", ".join(f"{count} {name}" for name, count in counts)
    print(f"{mode}{label}: {sums} in {time.monotonic() - started:.0f} s", flush=True)
    return outcomes


def check_enabled(mode: str) -> None:
    """Exit if crawls have the middleware in base, or lack it in a mode."""
    command = [PYTHON, "-m", "scrapy", "fetch", DEFAULTS.as_uri()]
    log = subprocess.run(command, cwd=SOURCE, capture_output=True, text=True, check=False).stderr
    enabled = log.partition("Enabled downloader middlewares:")[2].partition("]")[0]
    if not enabled or ("ezcaptcha" in enabled) == (mode == BASE):
        sys.exit(f"{mode}: wrong downloader middlewares: {enabled or log}")


def run_to_end(command: list[str], log: IO[str]) -> None:
    """Run *command*, and end the processes that it leaves behind, for example hanging tests."""
    environment = clean_environment(MITMDUMP=str(MITMPROXY.with_name("mitmdump")))
    process = subprocess.Popen(command, cwd=SOURCE, env=environment, stdout=log, stderr=log)
    try:
        process.wait(SECONDS)
    except subprocess.TimeoutExpired:
        print(f"not over after {SECONDS} s", file=log)
    finally:
        process.kill()
        for file in Path("/proc").glob("[0-9]*/cmdline"):
            with suppress(OSError):  # it has just ended
                if os.fsencode(HOME) in file.read_bytes():
                    os.kill(int(file.parent.name), signal.SIGKILL)


def read_report(report: Path) -> Outcomes:
    outcomes: Outcomes = {}
    for case in ElementTree.parse(report).iter("testcase"):
        bad = (child for child in case if child.tag in {"failure", "error", "skipped"})
        ends = (Outcome(end.tag, end.get("message", "").partition("\n")[0]) for end in bad)
        outcomes[node_id(case)] = next(ends, Outcome("passed"))
    return outcomes


def node_id(case: ElementTree.Element) -> str:
    """Return the argument for which pytest runs that test."""
    parts = case.attrib["classname"].split(".")
    for end in range(1, len(parts) + 1):
        module = "/".join(parts[:end]) + ".py"
        if (SOURCE / module).is_file():
            return "::".join([module, *parts[end:], case.attrib["name"]])
    return case.attrib["name"]  # a module that cannot be imported


def compare(mode: str, base: Outcomes, outcomes: Outcomes) -> int:
    """Print each test that ends differently in *mode*, and return how many do so again."""
    tests = sorted(test for test in {*base, *outcomes} if differs(test, base, outcomes))
    if not tests:
        return 0
    print(f"{mode}: {len(tests)} tests differ; again, with nothing beside them", flush=True)
    again = [run_tests(each, *tests, label="-again", workers="1") for each in (BASE, mode)]
    lasting = [test for test in tests if differs(test, *again)]
    for test in tests:
        before, after = base.get(test, NOT_RUN), outcomes.get(test, NOT_RUN)
        word = "differs" if test in lasting else "flaky"
        print(f"  {word}: {test}: {before.name}, in {mode} {after.name} {after.why or before.why}")
    return len(lasting)


def differs(test: str, base: Outcomes, outcomes: Outcomes) -> bool:
    ends = {each.get(test, NOT_RUN).name for each in (base, outcomes)}
    return len(ends) > 1 or NOT_RUN.name in ends


if __name__ == "__main__":
    sys.exit(main())
