"""Which exits of a pool are benched (not used for now), shared through the store.

While an exit is benched, there is a lease on a place with its exit, and with a name that no zone
has. So stores need nothing for this, and benches are read together with zones.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from scrapy.utils.defer import deferred_from_coro, maybe_deferred_to_future
from twisted.internet.defer import DeferredList

from scrapy_ezcaptcha.stores.lease import BENCHED
from scrapy_ezcaptcha.stores.store import StoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from scrapy_ezcaptcha.clearances.clearance import Place
    from scrapy_ezcaptcha.exit import Exit
    from scrapy_ezcaptcha.stores.lease import LeaseState, Update
    from scrapy_ezcaptcha.stores.sharing import Sharing


@dataclass(eq=False)
class SharedBenches:
    """Tells other processes which exits are benched, and learns which ones they benched."""

    get_sharing: Callable[[], Sharing]

    def bench(self, exit: Exit, seconds: float) -> None:
        """Tell all processes not to use *exit* for *seconds*; does not wait."""
        self._update(exit, lambda state, now: state.acquired(now, seconds))

    def end(self, exit: Exit) -> None:
        """Tell all processes that *exit* works again; does not wait."""
        self._update(exit, _ended)

    async def look(self, zone: str, exits: Sequence[Exit]) -> None:
        """Learn once what others know about *zone* and *exits*, and regularly which are benched."""
        sharing = self.get_sharing()
        if not sharing.is_on or sharing.is_down:
            return
        looks = sharing.looks
        benched: list[Place] = [(BENCHED, exit) for exit in exits]
        places = [*benched, *((zone, exit) for exit in exits)]
        unseen = [place for place in places if not looks.has_seen(place)]
        for place in benched:
            if place not in unseen:
                looks.refresh_later(place)
        if unseen:  # all in one call
            answers = [deferred_from_coro(looks.refresh(place)) for place in unseen]
            await maybe_deferred_to_future(DeferredList(answers, consumeErrors=True))

    def _update(self, exit: Exit, update: Update) -> None:
        sharing = self.get_sharing()
        if sharing.is_on:
            told = sharing.updates.add([((BENCHED, exit), update)])
            told.addErrback(lambda failure: failure.trap(StoreError))


def _ended(state: LeaseState, now: float) -> LeaseState | None:
    return replace(state, until=0.0) if state.holder(now) is not None else None
