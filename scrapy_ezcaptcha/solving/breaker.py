"""When to stop asking: a breaker per zone. Decisions only; the time is an argument."""

from __future__ import annotations

from scrapy_ezcaptcha.lru import Lru

_MAX_ZONES = 10_000


class Breaker:
    """Gives a zone up for a while after so many failures in a row.

    A failure is a solve that failed, or one whose clearance was rejected before any host
    accepted it. After the pause one more solve is tried; if that fails too, the zone is
    given up again at once. *limit* failures give a zone up, for *pause* seconds.
    """

    def __init__(self, limit: int, pause: float) -> None:
        self._limit = limit
        self._pause = pause
        self._zones: Lru[str, tuple[int, float]] = Lru(_MAX_ZONES)  # failures, end of the pause

    def is_open(self, zone: str, now: float, suspects: int = 0) -> bool:
        """Whether *zone* is given up at *now*, in seconds of a clock that never goes back.

        *suspects* are clearances that look useless and are not counted as failures yet.
        """
        failures, open_until = self._zones.get(zone) or (0, 0.0)
        return now < open_until or (suspects > 0 and failures + suspects >= self._limit)

    def failed(self, zone: str, now: float) -> bool:
        """Count a failure; True if *zone* is given up from now on."""
        failures, open_until = self._zones.get(zone) or (0, 0.0)
        opens = failures + 1 >= self._limit and now >= open_until
        self._zones.put(zone, (failures + 1, now + self._pause if opens else open_until))
        return opens

    def accepted(self, zone: str) -> None:
        """Forget the failures of *zone*: a clearance of it was accepted."""
        self._zones.pop(zone)
