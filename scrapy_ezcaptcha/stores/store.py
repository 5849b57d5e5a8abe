"""A store: clearances and leases that several crawls share. All logic over a small backend.

A backend keeps strings: for each place (named by zone and exit) a dict of fields, the ids of
rejected clearances, and the state of the lease. See ``stores/sqlite.py`` for an example.
"""

from __future__ import annotations

from dataclasses import replace
from hashlib import blake2b, sha256
from typing import TYPE_CHECKING, Protocol, TypeAlias

from scrapy_ezcaptcha.stores.lease import LeaseState
from scrapy_ezcaptcha.stores.records import fields_about, fields_of, records_in

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from scrapy_ezcaptcha.clearances.clearance import Place
    from scrapy_ezcaptcha.clearances.record import Record
    from scrapy_ezcaptcha.stores.lease import SolveFailure

#: For how many seconds a clearance is kept about which nothing new is written.
KEPT_SECONDS = 86_400

# Places that are read in one call of a backend.
_MAX_READ = 200

#: For how many seconds it is kept that a clearance was rejected.
REJECTED_SECONDS = 3_600


#: What a backend keeps of a place: fields; ids of rejected clearances, True where no host had
#: ever accepted them; the state of the lease; and the time by the backend's clock, in seconds.
Contents: TypeAlias = "tuple[Mapping[str, str], Mapping[str, bool], str | None, float]"


class StoreError(Exception):
    """A store does not answer, or its answer is not one of ours; the text has no secrets."""


class Backend(Protocol):
    """Keeps strings by the name of a place. Each call may block and may raise StoreError.

    Its ``str()`` tells where it is, without secrets.
    """

    def read(self, places: Sequence[str]) -> list[Contents]:
        """Return what is kept of each of *places*, in one call."""
        ...

    def write(self, places: Mapping[str, Mapping[str, str]]) -> None:
        """Set fields of places, for :data:`KEPT_SECONDS`; others stay as they are."""
        ...

    def reject(self, place: str, clearance_id: str, *, unused: bool, fields: Iterable[str]) -> None:
        """Keep *clearance_id* as rejected for :data:`REJECTED_SECONDS`; remove *fields*."""
        ...

    def update_lease(self, place: str, change: Callable[[str | None, float], str | None]) -> None:
        """Replace the lease of *place* by what *change* makes of it and of the time.

        No other process changes it meanwhile. *change* may be called more than once; if it
        returns None the lease stays as it is.
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
        views = []
        for start in range(0, len(places), _MAX_READ):
            some = places[start : start + _MAX_READ]
            contents = self._backend.read([self.name_of(place) for place in some])
            for place, (fields, rejected, lease, now) in zip(some, contents, strict=True):
                records = records_in(fields, rejected, place)
                views.append((records, rejected, LeaseState.from_json(lease), now))
        return views

    def put(self, *records: Record) -> None:
        """Keep clearances, or what is new about them; a rejected one stays rejected."""
        places: dict[str, dict[str, str]] = {}
        for record in records:
            places.setdefault(self.name_of(record.clearance.place), {}).update(fields_of(record))
        if places:
            self._backend.write(places)

    def reject(self, place: Place, clearance_id: str, *, unused: bool = False) -> None:
        """Drop a clearance for all processes; *unused* if no host had ever accepted it."""
        self.drop(self.name_of(place), clearance_id, unused=unused)

    def drop(self, name: str, clearance_id: str, *, unused: bool = False) -> None:
        """Do the same for the place called *name*."""
        fields = fields_about(clearance_id, self._backend.read([name])[0][0])
        self._backend.reject(name, clearance_id, unused=unused, fields=fields)

    def acquire(self, place: Place, seconds: float) -> LeaseState | None:
        """Acquire the lease on *place* for *seconds*; None while another process holds it."""
        return self._update(self.name_of(place), lambda state, now: state.acquired(now, seconds))

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
            self.name_of(place),
            lambda state, now: state.extended(token, now, seconds, task_id, task_age),
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
        name = self.name_of(place)
        self._update(name, lambda state, _: state.released(token, failure, keep_task))

    def end_leases(self) -> None:
        """End all leases: no other process uses the store, so their holders are dead."""
        for name in self._backend.leases():
            self._update(name, lambda state, _: replace(state, until=0.0))

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

    def _update(
        self, name: str, change: Callable[[LeaseState, float], LeaseState | None]
    ) -> LeaseState | None:
        """Return the new state of the lease on the place called *name*, None if unchanged."""
        changed: LeaseState | None = None

        def change_text(text: str | None, now: float) -> str | None:
            nonlocal changed
            changed = change(LeaseState.from_json(text), now)
            return None if changed is None else changed.to_json()

        self._backend.update_lease(name, change_text)
        return changed
