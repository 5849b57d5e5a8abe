"""Who leads on a place. The decisions, without I/O or clock; a store adds those two."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from scrapy_ezcaptcha.stores.base import Lead, SolveFailure

if TYPE_CHECKING:
    from collections.abc import Callable

    from scrapy_ezcaptcha.stores.base import Place

#: For so many seconds after a task's creation the service holds its result (the vendor's SDK).
TASK_SECONDS = 300.0


@dataclass(frozen=True)
class Leadership:
    """The state of the lead on one place; times are seconds of the store's clock.

    Args:
        fence: the number of the last lead.
        until: when its lease ends.
        task_id: what it had created.
        task_until: when the result of that is gone.
        failure: how it failed.
    """

    fence: int = 0
    until: float = 0.0
    task_id: str | None = None
    task_until: float = 0.0
    failure: SolveFailure | None = None

    def leader(self, now: float) -> int | None:
        """Return the number of who leads at *now*."""
        return self.fence if now < self.until else None

    def taken(self, now: float, lease: float) -> Leadership | None:
        """Return the state once the lead is taken; None if somebody has it.

        Its task is the one to go on with, if there is one whose result is still held.
        """
        if self.leader(now) is not None:
            return None
        task_id = self.task_id if now < self.task_until else None
        return Leadership(self.fence + 1, now + lease, task_id, self.task_until)

    def kept(
        self, fence: int, now: float, lease: float, task_id: str | None, task_age: float
    ) -> Leadership | None:
        """Return the state once lead number *fence* is kept; None if it is out of date.

        A lease that ran out is good again as long as nobody else took the lead.
        """
        if fence < self.fence:
            return None
        kept = replace(self, fence=fence, until=now + lease)
        if task_id is None:
            return kept
        return replace(kept, task_id=task_id, task_until=now + TASK_SECONDS - task_age)

    def ended(self, fence: int, failure: SolveFailure | None, keep_task: bool) -> Leadership | None:
        """Return the state once lead number *fence* is over; None if it is out of date."""
        if fence < self.fence:
            return None
        ended = Leadership(fence, failure=failure)
        if not keep_task:
            return ended
        return replace(ended, task_id=self.task_id, task_until=self.task_until)

    def to_json(self) -> str:
        """Return the state for a file or a server."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str | None) -> Leadership:
        """Read what :meth:`to_json` wrote; from nothing, or nothing of ours, nobody leads."""
        if not text:
            return cls()
        try:
            state: dict[str, Any] = json.loads(text)
            failure = state.pop("failure")
            read = cls(**state, failure=SolveFailure(**failure) if failure else None)
            is_sound = read.fence >= 0 and read.until >= 0 and read.task_until >= 0
        except (AttributeError, KeyError, TypeError, ValueError, RecursionError):
            return cls()
        return read if is_sound else cls()


class LeadKeeper(ABC):
    """The part of a store that knows who leads."""

    @abstractmethod
    def _transact(
        self, place: Place, change: Callable[[Leadership, float], Leadership | None]
    ) -> Leadership | None:
        """Replace the state of *place* by what *change* makes of it and of the time.

        Nobody else changes it meanwhile; *change* may be called more than once. None means
        no change. Returns the new state, or None.
        """

    def lead(self, place: Place, lease: float) -> Lead | None:
        """Take the lead; see :class:`Store`."""
        state = self._transact(place, lambda state, now: state.taken(now, lease))
        return None if state is None else Lead(place, state.fence, state.task_id)

    def keep(
        self, lead: Lead, lease: float, task_id: str | None = None, task_age: float = 0.0
    ) -> bool:
        """Keep the lead; see :class:`Store`."""
        state = self._transact(
            lead.place, lambda state, now: state.kept(lead.fence, now, lease, task_id, task_age)
        )
        return state is not None

    def end(
        self, lead: Lead, failure: SolveFailure | None = None, *, keep_task: bool = False
    ) -> None:
        """End the lead; see :class:`Store`."""
        self._transact(lead.place, lambda state, _: state.ended(lead.fence, failure, keep_task))
