"""Strings on a Redis server: for the crawls of several machines."""

from __future__ import annotations

import re
from contextlib import contextmanager
from itertools import repeat
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from scrapy_ezcaptcha.errors import redact
from scrapy_ezcaptcha.stores.store import KEPT_SECONDS, REJECTED_SECONDS, StoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from scrapy_ezcaptcha.stores.store import Contents

#: What all keys begin with.
PREFIX = "ezcaptcha:"

_FIELDS, _REJECTED, _LEASE = (f"{PREFIX}{kind}:" for kind in ("held", "rejected", "lead"))
_UNUSED = "unused "  # before the id of one that no host had ever accepted
_ANSWER_SECONDS = 2.0

# What the client puts before an error of a pipeline: the command, with the cookies to be written.
_COMMAND = re.compile(r"^Command # .* of pipeline caused error: ", re.DOTALL)


class RedisBackend:
    """Keeps strings on the server at *url*, a ``redis://`` or ``rediss://`` URL.

    Each place has three keys, and all of them expire: ``ezcaptcha:held:{place}``, a hash of its
    fields; ``ezcaptcha:rejected:{place}``, a sorted set of rejected clearances by time; and
    ``ezcaptcha:lead:{place}``, the lease.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._address = f"{parts.scheme}://{parts.hostname or 'localhost'}:{parts.port or 6379}"
        self._secrets = [secret for secret in (parts.password, url) if secret]
        self._server: Any = redis.Redis.from_url(
            url,
            decode_responses=True,
            socket_connect_timeout=_ANSWER_SECONDS,
            socket_timeout=_ANSWER_SECONDS,
            retry=Retry(NoBackoff(), 1),  # a server that was restarted has closed the connection
        )

    def __str__(self) -> str:
        return self._address

    def read(self, places: Sequence[str]) -> list[Contents]:
        with self._talking(), self._server.pipeline(transaction=False) as pipe:
            for place in places:
                pipe.hgetall(_key(_FIELDS, place)).zrange(_key(_REJECTED, place), 0, -1)
                pipe.get(_key(_LEASE, place))
            *parts, now = pipe.time().execute()
        return [
            (
                fields,
                {mark.removeprefix(_UNUSED): mark.startswith(_UNUSED) for mark in marks},
                *rest,
            )
            for fields, marks, *rest in zip(
                parts[::3], parts[1::3], parts[2::3], repeat(_seconds(now)), strict=False
            )
        ]

    def write(self, places: Mapping[str, Mapping[str, str]]) -> None:
        with self._talking(), self._server.pipeline() as pipe:
            for place, fields in places.items():
                key = _key(_FIELDS, place)
                pipe.hset(key, mapping=fields).expire(key, KEPT_SECONDS)
            pipe.execute()

    def reject(self, place: str, clearance_id: str, *, unused: bool, fields: Iterable[str]) -> None:
        rejected = _key(_REJECTED, place)
        mark = f"{_UNUSED if unused else ''}{clearance_id}"
        with self._talking(), self._server.pipeline() as pipe:
            now = _seconds(self._server.time())
            if names := list(fields):
                pipe.hdel(_key(_FIELDS, place), *names)
            pipe.zremrangebyscore(rejected, 0, now - REJECTED_SECONDS).zadd(rejected, {mark: now})
            pipe.expire(rejected, REJECTED_SECONDS).execute()

    def update_lease(self, place: str, change: Callable[[str | None, float], str | None]) -> None:
        key = _key(_LEASE, place)

        def decide(pipe: Any) -> None:
            now = _seconds(pipe.time())
            lease = change(pipe.get(key), now)
            pipe.multi()
            if lease is not None:
                pipe.set(key, lease, ex=KEPT_SECONDS)

        with self._talking():
            self._server.transaction(decide, key)  # again if the key changed meanwhile

    def leases(self) -> Iterable[str]:
        with self._talking():
            keys = self._server.scan_iter(match=f"{_LEASE}*", count=1000)
            return [key[len(_LEASE) + 1 : -1] for key in keys]

    def places(self) -> Iterator[tuple[str, Mapping[str, str]]]:
        with self._talking():
            for key in self._server.scan_iter(match=f"{_FIELDS}*", count=1000):
                yield key[len(_FIELDS) + 1 : -1], self._server.hgetall(key)

    def check(self) -> None:
        with self._talking():
            # It changes nothing, for there is no such key; but a server that is read-only or out
            # of memory refuses it.
            self._server.set(f"{PREFIX}check", "", xx=True)

    def close(self) -> None:
        self._server.close()

    @contextmanager
    def _talking(self) -> Iterator[None]:
        try:
            yield
        except (redis.RedisError, OSError, ValueError) as error:
            text = f"{type(error).__name__}: {_COMMAND.sub('', str(error))}"
            raise StoreError(redact(text, self._secrets)) from None


def _key(kind: str, place: str) -> str:
    return f"{kind}{{{place}}}"


def _seconds(time: tuple[int, int]) -> float:
    """Return what the TIME command answers, seconds and microseconds, as seconds."""
    return time[0] + time[1] / 1e6
