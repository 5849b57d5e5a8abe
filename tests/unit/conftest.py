"""Unit tests run without asyncio: coroutines are driven by Deferreds and a Clock."""

from __future__ import annotations

import threading
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from twisted.internet import selectreactor

selectreactor.install()

from twisted.internet import reactor, threads  # noqa: E402
from twisted.internet.defer import Deferred  # noqa: E402


@pytest.fixture(scope="session")
def running_reactor():
    """The reactor, running in a thread of its own."""
    thread = threading.Thread(
        target=reactor.run, kwargs={"installSignalHandlers": False}, daemon=True
    )
    started = threading.Event()
    reactor.callWhenRunning(started.set)
    thread.start()
    started.wait()
    yield reactor
    reactor.callFromThread(reactor.stop)
    thread.join()


@pytest.fixture
def run(running_reactor) -> Callable[[Callable[[], Coroutine[Any, Any, Any]]], Any]:
    """Call a coroutine function in the running reactor and return its result."""

    def run_it(function):
        return threads.blockingCallFromThread(
            running_reactor,
            lambda: Deferred.fromCoroutine(function()).addTimeout(60, running_reactor),
        )

    return run_it
