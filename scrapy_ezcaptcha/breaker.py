"""When to stop asking: a breaker per zone. Decisions only; the time is an argument."""

from __future__ import annotations

from dataclasses import dataclass

from scrapy_ezcaptcha.lru import Lru

_MAX_ZONES = 10_000


@dataclass
class _Zone:
    failures: int = 0
    open_until: float = 0.0


class Breaker:
    """Gives a zone up for a while after so many failures in a row.

    A failure is a solve that failed, or one whose clearance was rejected before
    anybody accepted it. After the pause one more solve is tried; if that fails too,
    the zone is given up again at once.

    Args:
        limit: failures in a row that give a zone up.
        pause: seconds for which it is given up.
    """

    def __init__(self, limit: int, pause: float) -> None:
        self._limit = limit
        self._pause = pause
        self._zones: Lru[str, _Zone] = Lru(_MAX_ZONES)

    def is_open(self, zone: str, now: float, suspects: int = 0) -> bool:
        """Whether *zone* is given up at *now*.

        Args:
            zone: the zone.
            now: seconds of a clock that never goes back.
            suspects: clearances that look useless and are not counted as failures yet.
        """
        state = self._zones.get(zone) or _Zone()
        return now < state.open_until or (suspects > 0 and state.failures + suspects >= self._limit)

    def failed(self, zone: str, now: float) -> bool:
        """Count a failure; True if *zone* is given up from now on."""
        state = self._zones.get(zone) or _Zone()
        self._zones.put(zone, state)
        state.failures += 1
        if state.failures < self._limit or now < state.open_until:
            return False
        state.open_until = now + self._pause
        return True

    def accepted(self, zone: str) -> None:
        """Forget the failures of *zone*: a clearance of it was accepted."""
        self._zones.pop(zone)
