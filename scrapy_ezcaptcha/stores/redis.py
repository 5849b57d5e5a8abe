"""Clearances on a Redis server: for the crawls of several machines."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from scrapy_ezcaptcha.redact import redact
from scrapy_ezcaptcha.stores.base import StoreError, View
from scrapy_ezcaptcha.stores.leadership import Leadership, LeadKeeper
from scrapy_ezcaptcha.stores.records import clearance_field, fields_of, held_in, rejection_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from scrapy_ezcaptcha.stores.base import Held, Place
    from scrapy_ezcaptcha.stores.records import PlaceNames

#: How long a place is kept that nobody has anything new to say about.
KEPT_SECONDS = 86_400

#: What all keys begin with.
PREFIX = "ezcaptcha:"

_HELD, _LEAD = f"{PREFIX}held:", f"{PREFIX}lead:"
_ANSWER_SECONDS = 2.0


class RedisStore(LeadKeeper):
    """Keeps clearances on the server at *url*, a ``redis://`` or ``rediss://`` one.

    Of each place there are two keys, ``ezcaptcha:held:{place}`` and ``ezcaptcha:lead:{place}``;
    both expire.

    Raises:
        ValueError: not such a URL.
    """

    def __init__(self, url: str, names: PlaceNames) -> None:
        self._names = names
        parts = urlsplit(url)
        self._address = f"{parts.scheme}://{parts.hostname or 'localhost'}:{parts.port or 6379}"
        self._secrets = [secret for secret in (parts.password, url) if secret]
        self._server: Any = redis.Redis.from_url(
            url,
            decode_responses=True,
            socket_connect_timeout=_ANSWER_SECONDS,
            socket_timeout=_ANSWER_SECONDS,
            retry=Retry(NoBackoff(), 1),  # a server that was started again has closed us
        )

    def __str__(self) -> str:
        return self._address

    def get(self, place: Place) -> View:
        """Return what is known of *place*; see :class:`Store`."""
        name = self._names.name(place)
        with self._talking(), self._server.pipeline(transaction=False) as pipe:
            fields, state, now = pipe.hgetall(_held(name)).get(_lead(name)).time().execute()
        held, rejected = held_in(fields, place)
        known = Leadership.from_json(state)
        return View(held, rejected, known.leader(_seconds(now)), known.failure)

    def put(self, held: Held) -> None:
        """Keep a clearance; see :class:`Store`."""
        self._write(self._names.name(held.clearance.place), fields_of(held))

    def reject(self, place: Place, clearance_id: str, *, unused: bool = False) -> None:
        """Drop a clearance; see :class:`Store`."""
        self.drop(self._names.name(place), clearance_id, unused=unused)

    def drop(self, name: str, clearance_id: str, *, unused: bool = False) -> None:
        """Drop a clearance of the place called *name*, for everybody."""
        self._write(
            name, rejection_of(clearance_id, unused=unused), without=clearance_field(clearance_id)
        )

    def everything(self) -> Iterator[tuple[str, Held]]:
        """Return all clearances, each with the name of its place."""
        with self._talking():
            for key in self._server.scan_iter(match=f"{_HELD}*", count=1000):
                held, _ = held_in(self._server.hgetall(key))
                name = key[len(_HELD) + 1 : -1]
                yield from ((name, one) for one in held)

    def check(self) -> None:
        """Raise StoreError unless the server answers; see :class:`Store`."""
        with self._talking():
            self._server.ping()

    def close(self) -> None:
        """Close all connections."""
        self._server.close()

    def _transact(
        self, place: Place, change: Callable[[Leadership, float], Leadership | None]
    ) -> Leadership | None:
        key = _lead(self._names.name(place))
        result: Leadership | None = None

        def decide(pipe: Any) -> None:
            nonlocal result
            now = _seconds(pipe.time())
            result = change(Leadership.from_json(pipe.get(key)), now)
            pipe.multi()
            if result is not None:
                pipe.set(key, result.to_json(), ex=KEPT_SECONDS)

        with self._talking():
            self._server.transaction(decide, key)  # anew if the key changed meanwhile
        return result

    def _write(self, name: str, fields: Mapping[str, str], without: str | None = None) -> None:
        key = _held(name)
        with self._talking(), self._server.pipeline() as pipe:
            if without is not None:
                pipe.hdel(key, without)
            pipe.hset(key, mapping=fields).expire(key, KEPT_SECONDS).execute()

    @contextmanager
    def _talking(self) -> Iterator[None]:
        try:
            yield
        except (redis.RedisError, OSError, ValueError) as error:
            text = f"{type(error).__name__}: {error}"
            raise StoreError(redact(text, self._secrets)) from None


def _held(name: str) -> str:
    return f"{_HELD}{{{name}}}"


def _lead(name: str) -> str:
    return f"{_LEAD}{{{name}}}"


def _seconds(time: tuple[int, int]) -> float:
    """Return what the TIME command answers, seconds and microseconds."""
    return time[0] + time[1] / 1e6
