"""What a store is: where clearances are kept, and who of those that share it solves.

Several crawls may use one store, so a solve needs a leader. Who takes the lead on a place
(a zone by an exit) has a lease, which ends unless it is kept up; whoever comes meanwhile
follows. Each lead has a number, its fence, greater than all before it: a leader that was
silent for too long, and was replaced, changes nothing any more.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, TypeAlias

from scrapy_ezcaptcha.errors import FailedElsewhere

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from scrapy_ezcaptcha.clearance import Clearance
    from scrapy_ezcaptcha.exit import Exit

#: A zone and the exit by which it is visited.
Place: TypeAlias = "tuple[str, Exit]"


class StoreError(Exception):
    """A store does not answer, or not as one of ours; the text has no secrets."""


class StoreBusy(StoreError):
    """A store that others keep locked; it may answer in a while."""


@dataclass(eq=False)
class Held:
    """A clearance, and which hosts of its zone accept and refuse it."""

    clearance: Clearance
    accepted: set[str] = field(default_factory=set)
    refused: set[str] = field(default_factory=set)

    def copy(self) -> Held:
        """Return what does not change while another thread reads it."""
        return Held(self.clearance, set(self.accepted), set(self.refused))

    def rank_for(self, host: str) -> tuple[bool, bool, int]:
        """Say how likely it serves *host*; the higher, the likelier."""
        return host in self.accepted, self.clearance.origin == host, len(self.accepted)


@dataclass(frozen=True)
class SolveFailure:
    """How the solve of the leader number *fence* failed, for those who followed it."""

    fence: int
    code: str
    text: str
    task_id: str | None = None
    is_terminal: bool = False

    def as_error(self) -> FailedElsewhere:
        """Return what to raise here."""
        return FailedElsewhere(
            self.code,
            f"in another process: {self.text}",
            task_id=self.task_id,
            is_terminal=self.is_terminal,
        )


@dataclass(frozen=True)
class Lead:
    """The lead on the solve of *place*.

    ``task_id`` names the task that the leader before had created and did not end; the
    service may still have its result.
    """

    place: Place
    fence: int
    task_id: str | None = None


@dataclass(frozen=True)
class View:
    """What a store knows of a place.

    Args:
        held: the clearances, the oldest first.
        rejected: ids of those that are of no use any more; True where they never were of any.
        leader: the fence of who leads a solve just now, None if nobody does.
        failure: how the last solve failed, None if it did not.
    """

    held: Sequence[Held] = ()
    rejected: Mapping[str, bool] = field(default_factory=dict)
    leader: int | None = None
    failure: SolveFailure | None = None


class Store(Protocol):
    """Keeps clearances by place. Calls may block; all may raise StoreError."""

    def get(self, place: Place) -> View:
        """Return what is known of *place*, and whether somebody solves it just now."""
        ...

    def put(self, held: Held) -> None:
        """Keep a clearance, or what is new about it; one that was rejected stays so."""
        ...

    def reject(self, place: Place, clearance_id: str, *, unused: bool = False) -> None:
        """Drop a clearance for everybody; *unused* if no host had ever accepted it."""
        ...

    def lead(self, place: Place, lease: float) -> Lead | None:
        """Take the lead on *place* for *lease* seconds; None while somebody else has it."""
        ...

    def keep(
        self, lead: Lead, lease: float, task_id: str | None = None, task_age: float = 0.0
    ) -> bool:
        """Keep *lead* for *lease* more seconds; False if another one has been taken since.

        Args:
            lead: as it was taken.
            lease: seconds.
            task_id: the task under way, for a successor to go on with.
            task_age: seconds since that was created.
        """
        ...

    def end(
        self, lead: Lead, failure: SolveFailure | None = None, *, keep_task: bool = False
    ) -> None:
        """Let others lead; with *keep_task* they go on with its task."""
        ...

    def check(self) -> None:
        """Raise StoreError unless it answers."""
        ...

    def close(self) -> None:
        """Let go of files and connections."""
        ...


class OpenedStore(Store, Protocol):
    """A store that outlives a crawl; its string tells where it is, without secrets."""

    def everything(self) -> Iterator[tuple[str, Held]]:
        """Return all clearances, each with the name of its place."""
        ...

    def drop(self, name: str, clearance_id: str) -> None:
        """Drop a clearance of the place called *name*, for everybody."""
        ...
