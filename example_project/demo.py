"""Runs the example spiders in the sandbox or against the real service, and sums up.

Without arguments, everything is simulated on loopback. With a URL and a proxy, and the key in the
environment variable EZCAPTCHA_CLIENT_KEY, it crawls one page of a real site.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

from scrapy_ezcaptcha.sandbox import Sandbox

HERE = Path(__file__).resolve().parent
PROXY_VARIABLES = ("http_proxy", "https_proxy", "no_proxy", "all_proxy")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", help="a page that you may crawl")
    parser.add_argument("--proxy", help="http://user:password@host:port")
    options = parser.parse_args()
    if options.url:
        return crawl_for_real(options)
    return crawl_the_sandbox()


def crawl_for_real(options):
    if not options.proxy or not os.environ.get("EZCAPTCHA_CLIENT_KEY"):
        print("A real URL needs --proxy, and EZCAPTCHA_CLIENT_KEY in the environment.")
        return 2
    began = time.monotonic()
    crawl("opt_in", {}, url=options.url, proxy=options.proxy)
    items = items_of("opt_in")
    print(f"\n{len(items)} pages scraped in {time.monotonic() - began:.1f} s.")
    print("Items:  example_project/items/opt_in.json")
    return 0 if items else 1


def crawl_the_sandbox():
    with Sandbox(latency=3) as sandbox:
        print(
            f"Sandbox: the service at {sandbox.api_url}, the sites behind a proxy, all on loopback."
        )
        settings = {
            "EZCAPTCHA_API_URL": sandbox.api_url,
            "EZCAPTCHA_POLL_INTERVAL": 0.5,
        }
        environment = {
            "EZCAPTCHA_CLIENT_KEY": sandbox.key,
            "http_proxy": sandbox.proxy_url("crawl"),
        }
        began = time.monotonic()
        in_scope = crawl("opt_in", settings, environment, proxy=sandbox.proxy_url("opt-in"))
        in_scope += crawl("transparent", settings, environment)
        seconds = time.monotonic() - began
        report = sandbox.report()
    names = ("opt_in", "transparent")
    scraped = {name: len(items_of(name)) for name in names}
    print(f"\nPages scraped    {sum(scraped.values())} from protected sites")
    others = report["challenges"] - in_scope
    print(f"Challenges met   {in_scope}, and {others} out of scope (a robots.txt)")
    print(f"Tasks paid       {report['tasks']}")
    print(f"Seconds          {seconds:.1f} (a solve takes 3 in this sandbox)")
    for name in names:
        print(f"Items            {scraped[name]} in example_project/items/{name}.json")
    print('Next             your own project: see "Enable it" in README.md')
    return 0 if all(scraped.values()) else 1


def crawl(spider, settings, environment=None, **arguments):
    """Run one spider as a user would, and show the log lines of scrapy-ezcaptcha.

    Returns the number of challenges that it counted.
    """
    challenges = 0
    (HERE / "items" / f"{spider}.json").unlink(missing_ok=True)
    command = [sys.executable, "-m", "scrapy", "crawl", spider, "-s", "LOG_LEVEL=INFO"]
    for name, value in settings.items():
        command += ["-s", f"{name}={value}"]
    for name, value in arguments.items():
        command += ["-a", f"{name}={value}"]
    inherited = {
        name: value for name, value in os.environ.items() if name.lower() not in PROXY_VARIABLES
    }
    print(f"\nscrapy crawl {spider}")
    process = subprocess.Popen(
        command,
        cwd=HERE,
        env={**inherited, **(environment or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    is_shown = False
    for line in process.stdout:
        begins = re.match(r"\d{4}-\d\d-\d\d [\d:]+ \[", line)  # else it continues a line
        if begins:
            is_shown = "[scrapy_ezcaptcha" in line or "ERROR" in line
        if is_shown:
            print("   " + (line.partition("] ")[2] if begins else line).rstrip())
        if counted := re.search(r"EzCaptcha: challenges (\d+)", line):
            challenges = int(counted[1])
    if process.wait() != 0:
        sys.exit(f"scrapy crawl {spider} failed")
    return challenges


def items_of(spider):
    path = HERE / "items" / f"{spider}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else []


if __name__ == "__main__":
    sys.exit(main())
