"""A store has the clearances and leases that several crawls share, and keeps them in a backend.

A backend keeps strings: for each place (a name for a zone and an exit), a dict of fields, the ids
of rejected clearances, and the state of the lease. ``stores/sqlite.py`` is an example.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from hashlib import blake2b, sha256
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeAlias

from scrapy_ezcaptcha.stores.lease import LeaseState
from scrapy_ezcaptcha.stores.records import fields_about, fields_of, records_in

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from scrapy_ezcaptcha.clearances.clearance import Place
    from scrapy_ezcaptcha.clearances.record import Record
    from scrapy_ezcaptcha.stores.lease import SolveFailure, Update

#: How many seconds a clearance is kept after the last change.
KEPT_SECONDS = 86_400

# Places that one call of a backend reads.
_MAX_READ = 200

#: How many seconds the rejection of a clearance is kept.
REJECTED_SECONDS = 3_600


#: What a backend has about a place: fields; ids of rejected clearances, True if no host ever
#: accepted them; the state of the lease; and the time by the backend's clock, in seconds.
Contents: TypeAlias = "tuple[Mapping[str, str], Mapping[str, bool], str | None, float]"


#: Returns the new lease for a lease and a time, both as in :data:`Contents`; None for no change.
Change: TypeAlias = "Callable[[str | None, float], str | None]"


class Rejection(NamedTuple):
    """A rejected clearance and its fields; *unused* if no host ever accepted it."""

    place: str
    clearance_id: str
    unused: bool
    fields: list[str]


class StoreError(Exception):
    """A store does not answer, or its content is not ours; the text has no secrets."""


class Backend(Protocol):
    """Keeps strings by the name of a place. Each call may block, and may raise StoreError.

    Two threads call it, one of them only to read. ``str()`` tells where it is, without secrets.
    """

    def read(self, places: Sequence[str]) -> list[Contents]:
        """Return the contents of each of *places*, in one call."""
        ...

    def write(self, places: Mapping[str, Mapping[str, str]]) -> None:
        """Set fields of places, for :data:`KEPT_SECONDS`; other fields stay as they are."""
        ...

    def reject(self, rejections: Sequence[Rejection]) -> None:
        """Mark clearances as rejected for :data:`REJECTED_SECONDS`, and remove their fields."""
        ...

    def update_leases(self, changes: Mapping[str, Change]) -> Mapping[str, Contents]:
        """Replace the lease of each place with what its change returns.

        No other process can change the lease in between. A change may be called more than once; the
        last call counts. Returns the contents of each place, read after its lease was read.
        """
        ...

    def leases(self) -> Iterable[str]:
        """Return the name of each place that has a lease."""
        ...

    def places(self) -> Iterator[tuple[str, Mapping[str, str]]]:
        """Return the name and the fields of each place."""
        ...

    def check(self) -> None:
        """Raise StoreError unless it answers and accepts writes; changes nothing."""
        ...

    def close(self) -> None:
        """Close files and connections."""
        ...


#: What a store knows about a place: clearances, the oldest first; ids of rejected ones, True if
#: no host ever accepted them; the state of the lease; and the time by the store's clock.
View: TypeAlias = "tuple[list[Record], Mapping[str, bool], LeaseState, float]"


class Store:
    """Keeps clearances and leases by place. All calls may block, and may raise StoreError.

    Credentials of exits are not stored. The name of a place contains a digest of them, which only
    the owner of *client_key* can compute.
    """

    def __init__(self, backend: Backend, client_key: str) -> None:
        self._backend = backend
        self._key = sha256(client_key.encode()).digest()

    def __str__(self) -> str:
        return str(self._backend)

    def name_of(self, place: Place) -> str:
        """Return the name of *place*: its zone and a digest of its exit."""
        zone, exit = place
        return f"{zone}/{blake2b(exit.url.encode(), key=self._key, digest_size=12).hexdigest()}"

    def get(self, place: Place) -> View:
        """Return what is known about *place*, and which process solves for it now."""
        return self.get_all([place])[0]

    def get_all(self, places: Sequence[Place]) -> list[View]:
        """Return the same for each of *places*, with as few calls as possible."""
        views: list[View] = []
        for start in range(0, len(places), _MAX_READ):
            some = places[start : start + _MAX_READ]
            contents = self._backend.read([self.name_of(place) for place in some])
            views += map(_view, contents, some)
        return views

    def put(self, *records: Record, since: int = -1) -> None:
        """Write clearances; of those that were not renewed after *since*, only what is new.

        A rejected clearance stays rejected.
        """
        places: dict[str, dict[str, str]] = {}
        for record in records:
            fields = places.setdefault(self.name_of(record.clearance.place), {})
            fields |= fields_of(record, since)
        if any(places.values()):
            self._backend.write({name: fields for name, fields in places.items() if fields})

    def reject(self, place: Place, clearance_id: str, *, unused: bool = False) -> None:
        """Drop a clearance for all processes; *unused* if no host ever accepted it."""
        self.drop([(self.name_of(place), clearance_id, unused)])

    def drop(self, clearances: Sequence[tuple[str, str, bool]]) -> None:
        """Do the same for several clearances, each with the name of its place."""
        if not clearances:
            return
        contents = self._backend.read([name for name, _, _ in clearances])
        rejections = [
            Rejection(*one, fields_about(one[1], fields))
            for one, (fields, *_) in zip(clearances, contents, strict=True)
        ]
        self._backend.reject(rejections)

    def acquire(self, place: Place, seconds: float) -> LeaseState | None:
        """Acquire the lease on *place* for *seconds*; None while another process holds it."""
        return self._update(place, lambda state, now: state.acquired(now, seconds))

    def extend(
        self,
        place: Place,
        token: int,
        seconds: float,
        task_id: str | None = None,
        task_age: float = 0.0,
    ) -> bool:
        """Extend lease *token* until *seconds* from now; False if it was replaced.

        *task_id* is the task in progress, created *task_age* seconds ago. The next holder
        continues it if this one dies.
        """
        state = self._update(
            place, lambda state, now: state.extended(token, now, seconds, task_id, task_age)
        )
        return state is not None

    def release(
        self,
        place: Place,
        token: int,
        failure: SolveFailure | None = None,
        *,
        keep_task: bool = False,
    ) -> None:
        """Release lease *token*; with *keep_task*, the next holder continues its task."""
        self._update(place, lambda state, _: state.released(token, failure, keep_task))

    def update(
        self, updates: Sequence[tuple[Place, Update]]
    ) -> list[tuple[LeaseState | None, View]]:
        """Carry out *updates* of leases in order, with as few calls as possible.

        For each, returns the new state of the lease (None if it did not change), and what is known
        about the place, which includes everything that earlier holders of the lease wrote.
        """
        named = [(self.name_of(place), update) for place, update in updates]
        return [
            (state, _view(contents, place))
            for (place, _), (contents, state) in zip(updates, self._updated(named), strict=True)
        ]

    def end_leases(self) -> None:
        """End all leases; only for a store of one process, where their holders are dead."""
        names = self._backend.leases()
        self._updated([(name, lambda state, _: replace(state, until=0.0)) for name in names])

    def everything(self) -> Iterator[tuple[str, Record]]:
        """Return all clearances with the names of their places; exits have no credentials."""
        for name, fields in self._backend.places():
            yield from ((name, record) for record in records_in(fields, ()))

    def check(self) -> None:
        """Raise StoreError unless the backend answers and accepts writes."""
        self._backend.check()

    def close(self) -> None:
        """Close files and connections."""
        self._backend.close()

    def _update(self, place: Place, update: Update) -> LeaseState | None:
        ((_, state),) = self._updated([(self.name_of(place), update)])
        return state

    def _updated(
        self, updates: Sequence[tuple[str, Update]]
    ) -> list[tuple[Contents, LeaseState | None]]:
        """Carry out *updates*; return the contents of each place, and the new state."""
        states: dict[int, LeaseState | None] = {}
        contents: dict[str, Contents] = {}
        numbers: dict[str, list[int]] = {}
        for number, (name, _) in enumerate(updates):  # in last-use order: places after their parts
            numbers[name] = [*numbers.pop(name, ()), number]

        def change(name: str, lease: str | None, now: float) -> str | None:
            state, is_changed = LeaseState.from_json(lease), False
            for number in numbers[name]:
                changed = states[number] = updates[number][1](state, now)
                if changed is not None:
                    state, is_changed = changed, True
            return state.to_json() if is_changed else None

        names = list(numbers)
        for start in range(0, len(names), _MAX_READ):
            some = names[start : start + _MAX_READ]
            changes = {name: partial(change, name) for name in some}
            contents |= self._backend.update_leases(changes)
        return [(contents[name], states[number]) for number, (name, _) in enumerate(updates)]


def _view(contents: Contents, place: Place) -> View:
    fields, rejected, lease, now = contents
    return records_in(fields, rejected, place), rejected, LeaseState.from_json(lease), now
