"""Stand-ins for the parts of Scrapy that unit tests need to look into."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from types import SimpleNamespace
from urllib.parse import urlsplit

from scrapy.core.downloader import Slot

from scrapy_ezcaptcha.stores.store import StoreError

LOG = logging.LoggerAdapter(logging.getLogger("scrapy_ezcaptcha"), {})


class Stats(Counter):
    """As much of Scrapy's stats collector as is used."""

    def inc_value(self, key, count=1):
        self[key] += count

    def get_value(self, key, default=None):
        return self.get(key, default)

    def max_value(self, key, value):
        self[key] = max(self[key], value)


class FakeDownloader:
    """As much of Scrapy's downloader as is looked at."""

    def __init__(self, total_concurrency=16, per_slot=8):
        self.total_concurrency = total_concurrency
        self.per_slot = per_slot
        self.slots = {}
        self.active = set()

    def get_slot_key(self, request):
        return request.meta.get("download_slot") or urlsplit(request.url).hostname

    def _get_slot(self, request):
        key = self.get_slot_key(request)
        return key, self.slots.setdefault(key, Slot(self.per_slot, 0, None))


class EngineSlot:
    """As much of the slot of Scrapy's engine as is looked at."""

    def __init__(self):
        self.closing = None
        self.wakes = 0
        self.nextcall = SimpleNamespace(schedule=self.wake)

    def wake(self):
        self.wakes += 1


def crawler_with(downloader, engine_slot=None):
    """Return a crawler that has nothing but a downloader."""
    engine = SimpleNamespace(downloader=downloader, _slot=engine_slot, running=True)
    return SimpleNamespace(engine=engine)


class MemoryBackend:
    """Keeps strings in memory; the test may take it down, or have it not answer for a while."""

    def __init__(self, clock=lambda: 0.0):
        self.clock = clock
        self.fields = {}
        self.rejected = {}
        self.leases_by_place = {}
        self.leases_lock = threading.Lock()
        self.is_down = False
        self.answers = threading.Event()
        self.answers.set()
        self.asked = False
        self.reads = []

    def __str__(self):
        return "memory"

    def read(self, places):
        self.check()
        self.reads.append(places)
        return [
            (
                dict(self.fields.get(place, {})),
                dict(self.rejected.get(place, {})),
                self.leases_by_place.get(place),
                self.clock(),
            )
            for place in places
        ]

    def write(self, places):
        self.check()
        for place, fields in places.items():
            self.fields.setdefault(place, {}).update(fields)

    def reject(self, rejections):
        self.check()
        for place, clearance_id, unused, fields in rejections:
            self.rejected.setdefault(place, {})[clearance_id] = unused
            for name in fields:
                self.fields[place].pop(name, None)

    def update_leases(self, changes):
        with self.leases_lock:
            kept = dict(zip(changes, self.read(list(changes)), strict=True))
            for place, change in changes.items():
                _, _, lease, now = kept[place]
                changed = change(lease, now)
                if changed is not None:
                    self.leases_by_place[place] = changed
        return kept

    def leases(self):
        self.check()
        return list(self.leases_by_place)

    def places(self):
        self.check()
        yield from self.fields.items()

    def check(self):
        self.asked = True
        self.answers.wait(10)
        if self.is_down:
            raise StoreError("it is down")

    def close(self):
        pass
