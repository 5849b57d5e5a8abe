"""``python -m scrapy_ezcaptcha.sandbox``: runs a sandbox until Ctrl-C."""

from __future__ import annotations

import argparse
import json
import signal
import threading

from scrapy_ezcaptcha.sandbox import DEFAULT_SITES, Sandbox


def main(argv: list[str] | None = None) -> int:
    """Start a sandbox, say where it is, and report what it saw when interrupted."""
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
    sandbox.start(service_port=options.service_port, proxy_port=options.proxy_port)
    print(f"service  EZCAPTCHA_API_URL={sandbox.api_url}")
    print(f"key      EZCAPTCHA_CLIENT_KEY={sandbox.key}")
    print(f"proxy    {sandbox.proxy_url()}  (each user name is an exit of its own)")
    print("sites    " + ", ".join(site.zone for site in DEFAULT_SITES))
    print(f"seen     {sandbox.api_url}/_sandbox")
    print("Ctrl-C stops it.", flush=True)
    stopped.wait()
    report = sandbox.report()
    sandbox.stop()
    print(json.dumps(report, indent=2))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
