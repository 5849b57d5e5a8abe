"""Runs one coroutine on the reactor that the settings name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from scrapy.utils.defer import deferred_from_coro
from scrapy.utils.reactor import install_reactor, is_reactor_installed

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from scrapy.settings import BaseSettings
    from twisted.python.failure import Failure

T = TypeVar("T")


class Interrupted(Exception):
    """The user pressed Ctrl-C."""


def run(settings: BaseSettings, main: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Return the result of *main*, or raise its exception.

    Raises:
        Interrupted: the user pressed Ctrl-C before *main* ended.
    """
    if not is_reactor_installed():
        install_reactor(settings["TWISTED_REACTOR"])
    from twisted.internet import reactor as installed  # noqa: PLC0415  (the one just installed)

    reactor: Any = installed
    results: list[T] = []
    failures: list[Failure] = []

    def start() -> None:
        done: Any = deferred_from_coro(main())
        done.addCallbacks(results.append, failures.append)
        done.addBoth(lambda _: reactor.stop() if reactor.running else None)

    reactor.callWhenRunning(start)
    reactor.run()
    if results:
        return results[0]
    if failures:
        failures[0].raiseException()
    raise Interrupted
