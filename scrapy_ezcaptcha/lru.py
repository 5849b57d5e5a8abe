"""A dict that forgets the least recently used entries."""

from __future__ import annotations

from collections import OrderedDict
from itertools import islice
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Lru(Generic[K, V]):
    """Keeps at most *capacity* entries; reading or writing one makes it the newest."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._entries: OrderedDict[K, V] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: K) -> V | None:
        """Return the entry of *key*, or None if it is not there."""
        value = self._entries.get(key)
        if value is not None:
            self._entries.move_to_end(key)
        return value

    def put(self, key: K, value: V) -> V | None:
        """Set the entry of *key*; return the entry that was forgotten to make room, if any."""
        self._entries[key] = value
        self._entries.move_to_end(key)
        if len(self._entries) > self._capacity:
            return self._entries.popitem(last=False)[1]
        return None

    def newest(self, count: int) -> list[K]:
        """Return at most *count* keys, the most recently used first."""
        return list(islice(reversed(self._entries), count))

    def pop(self, key: K) -> V | None:
        """Remove and return the entry of *key*, or None if it is not there."""
        return self._entries.pop(key, None)


class Once(Generic[K]):
    """Tells whether a key is new; remembers the last *capacity* keys."""

    def __init__(self, capacity: int) -> None:
        self._said: Lru[K, bool] = Lru(capacity)

    def is_first(self, key: K) -> bool:
        """Return True the first time that it is called with *key*."""
        is_first = self._said.get(key) is None
        self._said.put(key, True)
        return is_first
