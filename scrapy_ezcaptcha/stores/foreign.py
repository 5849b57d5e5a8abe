"""Whether the clearances that other processes bought work in this one."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from scrapy_ezcaptcha.lru import Lru

if TYPE_CHECKING:
    import logging

    from scrapy_ezcaptcha.clearances.clearance import Clearance, Place

# After this many failures in a row, this process stops sharing. A failure counts only if the
# clearance is younger than this; few sites end a clearance so soon.
_MAX_DISAPPOINTMENTS = 3
_YOUNG_SECONDS = 300.0

_MAX_ENTRIES = 10_000


@dataclass(eq=False)
class ForeignClearances:
    """Knows at which places the clearances of other processes do not work in this process.

    If a proxy URL gives each process a different address, they never work, and each process would
    reject those of the others. After some failures, this process shares no more with them.
    """

    log: logging.LoggerAdapter[Any]

    def __post_init__(self) -> None:
        self._untried: Lru[str, bool] = Lru(_MAX_ENTRIES)
        self._disappointments: Lru[Place, int] = Lru(_MAX_ENTRIES)

    def work_at(self, place: Place) -> bool:
        """Whether clearances of other processes may work at *place*."""
        return (self._disappointments.get(place) or 0) < _MAX_DISAPPOINTMENTS

    def learnt(self, clearance_id: str) -> None:
        """Note a clearance that another process bought."""
        self._untried.put(clearance_id, True)

    def worked(self, clearance: Clearance) -> None:
        """Note that a request of this process was accepted with *clearance*."""
        self._disappointments.pop(clearance.place)

    def failed(self, clearance: Clearance) -> None:
        """Note that *clearance* was rejected before a request of this process was accepted."""
        place = clearance.place
        if not self._untried.pop(clearance.id) or time.time() - clearance.created > _YOUNG_SECONDS:
            return
        count = (self._disappointments.get(place) or 0) + 1
        self._disappointments.put(place, count)
        if count == _MAX_DISAPPOINTMENTS:
            self.log.warning(
                "Clearances that other processes bought for %s through %s do not work here;"
                " this process no longer shares them. Does the proxy give each process another"
                " address?",
                place[0],
                place[1].label,
            )
