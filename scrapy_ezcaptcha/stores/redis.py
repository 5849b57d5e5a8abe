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
from scrapy_ezcaptcha.stores.records import (
    KEPT_SECONDS,
    REJECTED_SECONDS,
    fields_about,
    fields_of,
    held_in,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from scrapy_ezcaptcha.stores.base import Held, Place
    from scrapy_ezcaptcha.stores.records import PlaceNames

#: What all keys begin with.
PREFIX = "ezcaptcha:"

_HELD, _REJECTED, _LEAD = (f"{PREFIX}{kind}:" for kind in ("held", "rejected", "lead"))
_UNUSED = "unused "  # before the id of one that no host had ever accepted
_ANSWER_SECONDS = 2.0


class RedisStore(LeadKeeper):
    """Keeps clearances on the server at *url*, a ``redis://`` or ``rediss://`` one.

    Of each place there are three keys: ``ezcaptcha:held:{place}``, a hash of its clearances;
    ``ezcaptcha:rejected:{place}``, a sorted set of those that are of no use any more, by time;
    and ``ezcaptcha:lead:{place}``. All of them expire.

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
            pipe.hgetall(_key(_HELD, name)).zrange(_key(_REJECTED, name), 0, -1)
            fields, marks, state, now = pipe.get(_key(_LEAD, name)).time().execute()
        rejected = {mark.removeprefix(_UNUSED): mark.startswith(_UNUSED) for mark in marks}
        known = Leadership.from_json(state)
        held = held_in(fields, rejected, place)
        return View(held, rejected, known.leader(_seconds(now)), known.failure)

    def put(self, held: Held) -> None:
        """Keep a clearance; see :class:`Store`."""
        key = _key(_HELD, self._names.name(held.clearance.place))
        with self._talking(), self._server.pipeline() as pipe:
            pipe.hset(key, mapping=fields_of(held)).expire(key, KEPT_SECONDS).execute()

    def reject(self, place: Place, clearance_id: str, *, unused: bool = False) -> None:
        """Drop a clearance; see :class:`Store`."""
        self.drop(self._names.name(place), clearance_id, unused=unused)

    def drop(self, name: str, clearance_id: str, *, unused: bool = False) -> None:
        """Drop a clearance of the place called *name*, for everybody."""
        held, rejected = _key(_HELD, name), _key(_REJECTED, name)
        mark = f"{_UNUSED if unused else ''}{clearance_id}"
        with self._talking(), self._server.pipeline() as pipe:
            about = fields_about(clearance_id, self._server.hkeys(held))
            now = _seconds(self._server.time())
            if about:
                pipe.hdel(held, *about)
            pipe.zremrangebyscore(rejected, 0, now - REJECTED_SECONDS).zadd(rejected, {mark: now})
            pipe.expire(rejected, REJECTED_SECONDS).execute()

    def everything(self) -> Iterator[tuple[str, Held]]:
        """Return all clearances, each with the name of its place."""
        with self._talking():
            for key in self._server.scan_iter(match=f"{_HELD}*", count=1000):
                name = key[len(_HELD) + 1 : -1]
                yield from ((name, held) for held in held_in(self._server.hgetall(key), ()))

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
        key = _key(_LEAD, self._names.name(place))
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

    @contextmanager
    def _talking(self) -> Iterator[None]:
        try:
            yield
        except (redis.RedisError, OSError, ValueError) as error:
            text = f"{type(error).__name__}: {error}"
            raise StoreError(redact(text, self._secrets)) from None


def _key(kind: str, name: str) -> str:
    return f"{kind}{{{name}}}"


def _seconds(time: tuple[int, int]) -> float:
    """Return what the TIME command answers, seconds and microseconds."""
    return time[0] + time[1] / 1e6
