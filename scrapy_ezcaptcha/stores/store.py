"""A store: clearances and leases that several crawls share. All logic over a small backend.

A backend keeps strings: for each place (named by zone and exit) a dict of fields, the ids of
rejected clearances, and the state of the lease. See ``stores/sqlite.py`` for an example.
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

#: For how many seconds a clearance is kept about which nothing new is written.
KEPT_SECONDS = 86_400

# Places that are read in one call of a backend.
_MAX_READ = 200

#: For how many seconds it is kept that a clearance was rejected.
REJECTED_SECONDS = 3_600


#: What a backend keeps of a place: fields; ids of rejected clearances, True where no host had
#: ever accepted them; the state of the lease; and the time by the backend's clock, in seconds.
Contents: TypeAlias = "tuple[Mapping[str, str], Mapping[str, bool], str | None, float]"


#: What becomes of a lease at a time, both as in :data:`Contents`; None if it stays as it is.
Change: TypeAlias = "Callable[[str | None, float], str | None]"


class Rejection(NamedTuple):
    """A clearance that is rejected, *unused* if no host had ever accepted it, and its fields."""

    place: str
    clearance_id: str
    unused: bool
    fields: list[str]


class StoreError(Exception):
    """A store does not answer, or its answer is not one of ours; the text has no secrets."""


class Backend(Protocol):
    """Keeps strings by the name of a place. Each call may block and may raise StoreError.

    Two threads call it: one only reads. Its ``str()`` tells where it is, without secrets.
    """

    def read(self, places: Sequence[str]) -> list[Contents]:
        """Return what is kept of each of *places*, in one call."""
        ...

    def write(self, places: Mapping[str, Mapping[str, str]]) -> None:
        """Set fields of places, for :data:`KEPT_SECONDS`; others stay as they are."""
        ...

    def reject(self, rejections: Sequence[Rejection]) -> None:
        """Keep clearances as rejected for :data:`REJECTED_SECONDS`, and remove their fields."""
        ...

    def update_leases(self, changes: Mapping[str, Change]) -> Mapping[str, Contents]:
        """Replace the lease of each place by what its change makes of it.

        No other process changes the lease meanwhile. A change may be called more than once; the
        last call counts. Returns what is kept of each place, read after its lease was.
        """
        ...

    def leases(self) -> Iterable[str]:
        """Return the name of each place that has a lease."""
        ...

    def places(self) -> Iterator[tuple[str, Mapping[str, str]]]:
        """Return the name and the fields of each place."""
        ...

    def check(self) -> None:
        """Raise StoreError unless it answers and can be written; changes nothing."""
        ...

    def close(self) -> None:
        """Close files and connections."""
        ...


#: What a store knows of a place: clearances, the oldest first; ids of rejected ones, True where
#: no host had ever accepted them; the state of the lease; and the time by the store's clock.
View: TypeAlias = "tuple[list[Record], Mapping[str, bool], LeaseState, float]"


class Store:
    """Keeps clearances and leases by place. Calls may block; all may raise StoreError.

    The exit's credentials are not kept: a place is named by a digest of them that only the
    owner of *client_key* can compute.
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
        """Return what is known of *place*, and whether some process solves for it just now."""
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
        """Keep clearances, or what is new about those that were not renewed after *since*.

        A rejected one stays rejected.
        """
        places: dict[str, dict[str, str]] = {}
        for record in records:
            fields = places.setdefault(self.name_of(record.clearance.place), {})
            fields |= fields_of(record, since)
        if any(places.values()):
            self._backend.write({name: fields for name, fields in places.items() if fields})

    def reject(self, place: Place, clearance_id: str, *, unused: bool = False) -> None:
        """Drop a clearance for all processes; *unused* if no host had ever accepted it."""
        self.drop([(self.name_of(place), clearance_id, unused)])

    def drop(self, clearances: Sequence[tuple[str, str, bool]]) -> None:
        """Do the same for clearances with the names of their places."""
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
        """Extend lease *token* to *seconds* from now; False if it was replaced meanwhile.

        *task_id* is the task under way, created *task_age* seconds ago, which a successor
        continues.
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
        """Release lease *token*; with *keep_task* the next holder continues its task."""
        self._update(place, lambda state, _: state.released(token, failure, keep_task))

    def update(
        self, updates: Sequence[tuple[Place, Update]]
    ) -> list[tuple[LeaseState | None, View]]:
        """Carry out *updates* of leases, in their order and with as few calls as possible.

        Returns for each the new state of the lease, None if it stays as it was, and what is known
        of the place: at least what all who held the lease before have written.
        """
        named = [(self.name_of(place), update) for place, update in updates]
        return [
            (state, _view(contents, place))
            for (place, _), (contents, state) in zip(updates, self._updated(named), strict=True)
        ]

    def end_leases(self) -> None:
        """End all leases: no other process uses the store, so their holders are dead."""
        names = self._backend.leases()
        self._updated([(name, lambda state, _: replace(state, until=0.0)) for name in names])

    def everything(self) -> Iterator[tuple[str, Record]]:
        """Return all clearances, each with the name of its place; exits have no credentials."""
        for name, fields in self._backend.places():
            yield from ((name, record) for record in records_in(fields, ()))

    def check(self) -> None:
        """Raise StoreError unless the backend answers and can be written."""
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
        """Carry out *updates*; return for each what was kept of its place, and the new state."""
        states: dict[int, LeaseState | None] = {}
        contents: dict[str, Contents] = {}
        numbers: dict[str, list[int]] = {}
        for number, (name, _) in enumerate(updates):  # whoever acquires a part names its place last
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
