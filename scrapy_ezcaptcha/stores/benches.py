"""Which exits of a pool are not used for now, shared through the store.

A benched exit has the lease on a place of its own, which no zone has: until that ends, it is
not used. So no store has to know of it, and it is read with what is known of zones.
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
    """Tells other processes of benched exits, and learns of theirs."""

    get_sharing: Callable[[], Sharing]

    def bench(self, exit: Exit, seconds: float) -> None:
        """Have all processes not use *exit* for *seconds*; nobody waits for that."""
        self._update(exit, lambda state, now: state.acquired(now, seconds))

    def end(self, exit: Exit) -> None:
        """Note that *exit* works again; nobody waits for that."""
        self._update(exit, _ended)

    async def look(self, zone: str, exits: Sequence[Exit]) -> None:
        """Learn once what others know of *zone* by *exits*, and now and then which are benched."""
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
