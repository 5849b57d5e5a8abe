"""When a zone or path is given up. Decisions only; the time is an argument."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scrapy_ezcaptcha.lru import Lru

if TYPE_CHECKING:
    from collections.abc import Hashable

_MAX_KEYS = 10_000


class Breaker:
    """Gives up a key (a zone and exit, or a path) for *pause* seconds after *limit* failures.

    A failure is a solve that failed, or whose clearance was rejected before a host accepted it.
    Only failures in a row count. After the pause, one more solve is tried. If it fails too, the key
    is given up again.
    """

    def __init__(self, limit: int, pause: float) -> None:
        self._limit = limit
        self._pause = pause
        self._keys: Lru[Hashable, tuple[int, float]] = Lru(_MAX_KEYS)  # failures, end of the pause

    def is_open(self, key: Hashable, now: float, suspects: int = 0) -> bool:
        """Whether *key* is given up at *now*, in seconds of a monotonic clock.

        *suspects* is the number of clearances that seem useless, but do not yet count as failures.
        """
        failures, open_until = self._keys.get(key) or (0, 0.0)
        return now < open_until or (suspects > 0 and failures + suspects >= self._limit)

    def failed(self, key: Hashable, now: float) -> bool:
        """Count a failure; return True if *key* is given up now."""
        failures, open_until = self._keys.get(key) or (0, 0.0)
        opens = failures + 1 >= self._limit and now >= open_until
        self._keys.put(key, (failures + 1, now + self._pause if opens else open_until))
        return opens

    def accepted(self, *keys: Hashable) -> None:
        """Forget the failures of *keys*, because a clearance was accepted; a pause continues."""
        if not self._keys:  # nearly always
            return
        for key in keys:
            state = self._keys.get(key)
            if state is not None:
                self._keys.put(key, (0, state[1]))
