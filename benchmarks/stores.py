"""Measures how long calls to a store with 10,000 clearances block the reactor.

``python benchmarks/stores.py [--quick]``. For each request, a crawl calls the store twice: to read
what others know about its place, and to note that a host accepted a clearance. Meanwhile, a timer
measures each turn of the reactor. The longest turn during a call is how long the call blocked the
reactor. For comparison, the same is measured without a call.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from scrapy.utils.defer import deferred_from_coro, maybe_deferred_to_future
from scrapy.utils.reactor import install_reactor

install_reactor("twisted.internet.asyncioreactor.AsyncioSelectorReactor")

from twisted.internet import reactor  # noqa: E402
from twisted.internet.task import deferLater  # noqa: E402

from scrapy_ezcaptcha.clearances.clearance import Clearance  # noqa: E402
from scrapy_ezcaptcha.clearances.known import KnownClearances, Record  # noqa: E402
from scrapy_ezcaptcha.clearances.record import Location  # noqa: E402
from scrapy_ezcaptcha.exit import Exit  # noqa: E402
from scrapy_ezcaptcha.stores import Store  # noqa: E402
from scrapy_ezcaptcha.stores.sharing import Sharing  # noqa: E402
from scrapy_ezcaptcha.stores.sqlite import SqliteBackend  # noqa: E402

HERE = Path(__file__).resolve().parent
CLEARANCES = 10_000
LOG = logging.LoggerAdapter(logging.getLogger("scrapy_ezcaptcha"), {})
HEADERS = {f"x-header-{number}": "v" * 60 for number in range(12)}


class Stats:
    def inc_value(self, name):
        pass


class Turns:
    """Measures each turn of the reactor while it runs."""

    def __init__(self):
        self.longest = 0.0
        self._last = time.perf_counter()
        self._tick()

    def _tick(self):
        now = time.perf_counter()
        self.longest = max(self.longest, now - self._last)
        self._last = now
        self._next = reactor.callLater(0, self._tick)

    def begin(self):
        self.longest = 0.0

    def stop(self):
        self._next.cancel()


def clearance(number):
    exit = Exit("http", "proxy.example", 8000, f"user{number}", "password")
    zone = f"shop{number % 500}.example"
    cookies = {"cf_clearance": f"{number:0300}", "__cf_bm": "b" * 150}
    headers = {"user-agent": "Mozilla/5.0", **HEADERS}
    return Clearance(zone, zone, exit, f"task{number}", headers, cookies, None, time.time())


async def measure(store, calls):
    """Return how many milliseconds each call, and each pause, blocked the reactor."""
    known = KnownClearances(keeps_changes=True)
    sharing = Sharing(known, store, reactor=reactor, stats=Stats(), log=LOG)
    turns, with_call, without = Turns(), [], []
    for number in range(calls):
        turns.begin()
        await maybe_deferred_to_future(deferLater(reactor, 0.001))
        without.append(turns.longest * 1000)
        turns.begin()
        one = clearance(number * 7919 % CLEARANCES)
        await sharing.refresh(one.place)
        assert known.records(one.place), "it is not in the store"
        host = f"www{number}.{one.zone}"
        location = Location(host, one.zone, f"{host}/")
        known.note_challenge(location)
        known.accept(location, one, known.next_number())
        sharing.write_soon()
        await sharing.refresh((one.zone, Exit("http", "proxy.example", 1, f"u{number}", "p")))
        with_call.append(turns.longest * 1000)
    turns.stop()
    await sharing.close()
    return with_call, without


def row(name, milliseconds):
    ordered = sorted(milliseconds)
    p99 = ordered[len(ordered) * 99 // 100]
    return f"| {name} | {median(ordered):.2f} | {p99:.2f} | {ordered[-1]:.2f} |"


def stores(folder):
    yield "SQLite", Store(SqliteBackend(folder / "clearances.sqlite"), "key")
    sys.path.insert(0, str(HERE.parent / "tests"))
    from redis_server import RedisServer

    if not RedisServer.is_installed():
        print("redis-server is not installed: left out", file=sys.stderr)
        return
    from scrapy_ezcaptcha.stores.redis import RedisBackend

    server = RedisServer(folder)
    server.start()
    try:
        yield "Redis", Store(RedisBackend(server.url), "key")
    finally:
        server.stop()


async def compare(calls):
    lines = [
        "| milliseconds of the longest turn of the reactor | median | p99 | most |",
        "| --- | --- | --- | --- |",
    ]
    with tempfile.TemporaryDirectory() as folder:
        for name, store in stores(Path(folder)):
            for number in range(CLEARANCES):
                store.put(Record(clearance(number)))
            with_call, without = await measure(store, calls)
            lines += [row(f"{name}, two calls", with_call), row("beside it, no call", without)]
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer calls, for a first look")
    options = parser.parse_args()
    failures = []

    def start():
        done = deferred_from_coro(compare(300 if options.quick else 3000))
        done.addCallback(report)
        done.addErrback(failures.append)
        done.addBoth(lambda _: reactor.stop())

    def report(table):
        if not options.quick:
            (HERE / "results" / "stores.md").write_text(table + "\n")
        print(table)

    reactor.callWhenRunning(start)
    reactor.run()
    if failures:
        failures[0].raiseException()


if __name__ == "__main__":
    main()
