"""Keeps strings on a Redis server, for crawls on several machines."""

from __future__ import annotations

import re
import time
from contextlib import contextmanager
from inspect import signature
from itertools import repeat
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import redis
from redis.backoff import NoBackoff
from redis.connection import AbstractConnection
from redis.retry import Retry

from scrapy_ezcaptcha.errors import redact
from scrapy_ezcaptcha.lru import Lru
from scrapy_ezcaptcha.stores.store import KEPT_SECONDS, REJECTED_SECONDS, StoreError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from scrapy_ezcaptcha.stores.store import Change, Contents, Rejection

#: The beginning of all keys.
PREFIX = "ezcaptcha:"

_FIELDS, _REJECTED, _LEASE = (f"{PREFIX}{kind}:" for kind in ("held", "rejected", "lead"))
_UNUSED = "unused "  # before the id of a clearance that no host ever accepted
_ANSWER_SECONDS = 2.0
_MAX_LEASES = 10_000  # that this process remembers

# The client does not send its name and version, because each takes a call before the first one.
_HAS_DRIVER_INFO = "driver_info" in signature(AbstractConnection.__init__).parameters
_NAMELESS: dict[str, None] = (
    {"driver_info": None} if _HAS_DRIVER_INFO else {"lib_name": None, "lib_version": None}
)

# The server's clock is estimated from its last answer. The estimate is wrong if the clock was set
# since, if another server took over, or if this machine slept, which stops its own clock.
_MAX_DRIFT, _ANY_DRIFT = 1.0, 1e12

# Replaces a lease unless it has changed, or the estimate of the server's clock is wrong. WATCH
# would take four calls, one after another.
_REPLACE = """
if (redis.call("GET", KEYS[1]) or "") ~= ARGV[1] then return 0 end
local time = redis.call("TIME")
if math.abs(time[1] + time[2] / 1e6 - ARGV[4]) > tonumber(ARGV[5]) then return 0 end
redis.call("SET", KEYS[1], ARGV[2], "EX", ARGV[3])
return 1
"""

# The client puts the command before an error of a pipeline, with the cookies to be written.
_COMMAND = re.compile(r"^Command # .* of pipeline caused error: ", re.DOTALL)


class RedisBackend:
    """Keeps strings on the server at *url*, a ``redis://`` or ``rediss://`` URL.

    Each place has three keys, which expire: ``ezcaptcha:held:{place}`` is a hash of its fields,
    ``ezcaptcha:rejected:{place}`` is a sorted set of rejected clearances by time, and
    ``ezcaptcha:lead:{place}`` is the lease.
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
            retry=Retry(NoBackoff(), 1),  # a restarted server has closed the connection
            protocol=2,
            **_NAMELESS,
        )
        self._leases: Lru[str, str] = Lru(_MAX_LEASES)
        self._ahead: float | None = None  # seconds by which the server's clock is ahead of ours

    def __str__(self) -> str:
        return self._address

    def read(self, places: Sequence[str]) -> list[Contents]:
        return self._replace_and_read(places, {})[1] if places else []

    def write(self, places: Mapping[str, Mapping[str, str]]) -> None:
        with self._talking(), self._server.pipeline() as pipe:
            for place, fields in places.items():
                key = _key(_FIELDS, place)
                pipe.hset(key, mapping=fields).expire(key, KEPT_SECONDS)
            pipe.execute()

    def reject(self, rejections: Sequence[Rejection]) -> None:
        with self._talking(), self._server.pipeline() as pipe:
            now = _seconds(self._server.time())
            for place, clearance_id, unused, fields in rejections:
                key, mark = _key(_REJECTED, place), f"{_UNUSED if unused else ''}{clearance_id}"
                if fields:
                    pipe.hdel(_key(_FIELDS, place), *fields)
                pipe.zremrangebyscore(key, 0, now - REJECTED_SECONDS).zadd(key, {mark: now})
                pipe.expire(key, REJECTED_SECONDS)
            pipe.execute()

    def update_leases(self, changes: Mapping[str, Change]) -> Mapping[str, Contents]:
        """Replace the leases that are still as this process last knew them, in one call.

        Those are most of them. The same call reads the others, and a second one replaces them.
        """
        kept: dict[str, Contents] = {}
        if self._ahead is None:
            kept = dict(zip(changes, self.read(list(changes)), strict=True))
        left = {place: kept[place][2] if kept else self._leases.get(place) for place in changes}
        drift = _ANY_DRIFT if kept else _MAX_DRIFT
        while left:
            now = time.monotonic() + (self._ahead or 0.0)
            changed = {place: changes[place](lease, now) for place, lease in left.items()}
            swaps = {place: (left[place], lease) for place, lease in changed.items() if lease}
            asked = [place for place in left if place in swaps or place not in kept]
            if not asked:
                break
            done, contents = self._replace_and_read(asked, swaps, now, drift)
            drift = _ANY_DRIFT  # the clock has just been read
            kept |= zip(asked, contents, strict=True)
            for place in asked:
                self._leases.put(place, kept[place][2] or "")
            left = {
                place: kept[place][2]
                for place in asked
                if place not in done
                and (place in swaps or (left[place] or "") != (kept[place][2] or ""))
            }
        return kept

    def _replace_and_read(
        self,
        places: Sequence[str],
        swaps: Mapping[str, tuple[str | None, str]],
        estimate: float = 0.0,
        drift: float = _ANY_DRIFT,
    ) -> tuple[set[str], list[Contents]]:
        """Replace leases that have not changed, then read *places*, all in one call.

        *swaps* are the old and the new leases. None is replaced if the server's clock differs from
        *estimate* by more than *drift* seconds. Returns which places got the new lease.
        """
        with self._talking(), self._server.pipeline(transaction=False) as pipe:
            clock = KEPT_SECONDS, estimate, drift
            for place, (old, new) in swaps.items():
                pipe.eval(_REPLACE, 1, _key(_LEASE, place), old or "", new, *clock)
            pipe.time().mget([_key(_LEASE, place) for place in places])
            for place in places:
                pipe.hgetall(_key(_FIELDS, place)).zrange(_key(_REJECTED, place), 0, -1)
            answers = pipe.execute()
        done, (time_parts, leases, *parts) = answers[: len(swaps)], answers[len(swaps) :]
        now = _seconds(time_parts)
        self._ahead = now - time.monotonic()
        rejected = [
            {mark.removeprefix(_UNUSED): mark.startswith(_UNUSED) for mark in marks}
            for marks in parts[1::2]
        ]
        contents: list[Contents] = list(
            zip(parts[::2], rejected, leases, repeat(now), strict=False)
        )
        return {place for place, is_done in zip(swaps, done, strict=True) if is_done}, contents

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
            # This changes nothing, because the key does not exist. But a server that is read-only
            # or out of memory refuses it.
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


def _seconds(answer: tuple[int, int]) -> float:
    """Return the answer of the TIME command, seconds and microseconds, as seconds."""
    return answer[0] + answer[1] / 1e6
