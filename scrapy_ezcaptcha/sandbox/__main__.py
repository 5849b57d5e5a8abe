"""``python -m scrapy_ezcaptcha.sandbox``: runs a sandbox until Ctrl-C."""

from __future__ import annotations

import argparse
import json
import shlex
import signal
import sys
import threading

from scrapy_ezcaptcha.sandbox import DEFAULT_SITES, Sandbox


def main(argv: list[str] | None = None) -> int:
    """Start a sandbox, say how to use it, and report what it saw when interrupted."""
    parser = argparse.ArgumentParser(
        prog="python -m scrapy_ezcaptcha.sandbox",
        description="Simulate the EzCaptcha service, protected sites and a proxy on loopback.",
    )
    parser.add_argument("--latency", type=float, default=5.0, help="seconds that a solve takes")
    parser.add_argument("--service-port", type=int, default=0, help="0: any free port")
    parser.add_argument("--proxy-port", type=int, default=0, help="0: any free port")
    options = parser.parse_args(argv)
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    sandbox = Sandbox(latency=options.latency)
    try:
        sandbox.start(service_port=options.service_port, proxy_port=options.proxy_port)
    except (OSError, OverflowError) as error:
        print(f"The sandbox cannot listen: {error}", file=sys.stderr)
        return 1
    print("\n".join(usage(sandbox)), flush=True)
    stopped.wait()
    report = sandbox.report()
    sandbox.stop()
    print(json.dumps(report, indent=2))
    return 0


def usage(sandbox: Sandbox) -> list[str]:
    """Return the lines that say how to crawl the sites, two of them for a shell."""
    variables = [f"{name}={shlex.quote(text)}" for name, text in sandbox.environment().items()]
    return [
        "Sites: " + ", ".join(site.zone for site in DEFAULT_SITES),
        f"What they have seen: {sandbox.api_url}/_sandbox",
        "In another terminal, set the key and the proxy, and crawl with these options:",
        "",
        f"export {' '.join(variables)}",
        f"scrapy crawl NAME {shlex.join(sandbox.arguments())}",
        "",
        "Each user name of the proxy is an exit of its own. Ctrl-C stops the sandbox.",
    ]


if __name__ == "__main__":
    raise SystemExit(main())
