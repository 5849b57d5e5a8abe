"""Stand-ins for the parts of Scrapy that unit tests need to look into."""

from __future__ import annotations

from types import SimpleNamespace
from urllib.parse import urlsplit

from scrapy.core.downloader import Slot


class FakeDownloader:
    """As much of Scrapy's downloader as the waiting room looks at."""

    def __init__(self, total_concurrency=16, per_slot=8):
        self.total_concurrency = total_concurrency
        self.per_slot = per_slot
        self.slots = {}

    def get_slot_key(self, request):
        return urlsplit(request.url).hostname

    def _get_slot(self, request):
        key = self.get_slot_key(request)
        return key, self.slots.setdefault(key, Slot(self.per_slot, 0, None))


def crawler_with(downloader, engine_slot=None):
    """Return a crawler that has nothing but a downloader."""
    return SimpleNamespace(engine=SimpleNamespace(downloader=downloader, _slot=engine_slot))
