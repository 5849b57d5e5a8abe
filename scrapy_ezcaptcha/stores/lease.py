"""Leases decide which of the processes that share a store solves. No I/O, no clock.

A process that wants to solve for a place (a zone and an exit) acquires the lease on it. The lease
ends unless its holder extends it. Each lease has a token, a number greater than all before it. So
a holder that stalled and was replaced can no longer change anything.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable

#: How long the service keeps the result of a task, from its creation (the vendor's SDK).
TASK_SECONDS = 300.0

#: Used instead of a zone, for the lease on a benched exit; no zone has this name.
BENCHED = "*benched"


#: Returns the new state of a lease, or None if it does not change. The arguments are its state and
#: the time, in seconds of the store's clock.
Update: TypeAlias = "Callable[[LeaseState, float], LeaseState | None]"


@dataclass(frozen=True)
class SolveFailure:
    """How the solve of the holder of *token* failed, for the processes that waited for it."""

    token: int
    code: str
    text: str
    task_id: str | None = None
    is_terminal: bool = False


@dataclass(frozen=True)
class LeaseState:
    """The last lease on one place, as stored; times are in seconds of the store's clock."""

    token: int = 0
    until: float = 0.0
    task_id: str | None = None  # the task that its holder created
    task_until: float = 0.0  # when the service drops that task's result
    failure: SolveFailure | None = None  # of the holder's solve

    def holder(self, now: float) -> int | None:
        """Return the token of the lease if it is held at *now*, else None."""
        return self.token if now < self.until else None

    def acquired(self, now: float, seconds: float) -> LeaseState | None:
        """Return the state after the lease is acquired; None if another process holds it.

        ``task_id`` of the new state is the task to continue, if the service still has its result.
        """
        if self.holder(now) is not None:
            return None
        task_id = self.task_id if now < self.task_until else None
        return LeaseState(self.token + 1, now + seconds, task_id, self.task_until)

    def extended(
        self, token: int, now: float, seconds: float, task_id: str | None, task_age: float
    ) -> LeaseState | None:
        """Return the state after lease *token* is extended; None if it was replaced.

        An expired lease can be extended as long as no other process has acquired it.
        """
        if token < self.token:
            return None
        extended = replace(self, token=token, until=now + seconds)
        if task_id is None:
            return extended
        return replace(extended, task_id=task_id, task_until=now + TASK_SECONDS - task_age)

    def released(
        self, token: int, failure: SolveFailure | None, keep_task: bool
    ) -> LeaseState | None:
        """Return the state after lease *token* is released; None if it was replaced."""
        if token < self.token:
            return None
        released = LeaseState(token, failure=failure)
        if not keep_task:
            return released
        return replace(released, task_id=self.task_id, task_until=self.task_until)

    def to_json(self) -> str:
        """Return the state as text for a store, in which a token is called ``fence``."""
        state = asdict(self)
        for part in (state, state["failure"]):
            if part is not None:
                part["fence"] = part.pop("token")
        return json.dumps(state)

    @classmethod
    def from_json(cls, text: str | None) -> LeaseState:
        """Read what :meth:`to_json` wrote; any other text counts as no lease."""
        if not text:
            return cls()
        try:
            state: dict[str, Any] = json.loads(text)
            failure = state.pop("failure")
            if failure:
                failure = SolveFailure(failure.pop("fence"), **failure)
            read = cls(state.pop("fence"), **state, failure=failure or None)
            is_sound = read.token >= 0 and read.until >= 0 and read.task_until >= 0
        except (AttributeError, KeyError, TypeError, ValueError, RecursionError):
            return cls()
        return read if is_sound else cls()
