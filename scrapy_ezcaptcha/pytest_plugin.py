"""Pytest fixtures that simulate the service, protected sites and a proxy."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from scrapy_ezcaptcha.sandbox import Sandbox

_QUICK = 0.2  # seconds that a solve takes


@pytest.fixture
def ezcaptcha_sandbox(ezcaptcha_sandbox_factory: Callable[..., Sandbox]) -> Sandbox:
    """A running sandbox with its default sites; a solve takes 0.2 s."""
    return ezcaptcha_sandbox_factory()


@pytest.fixture
def ezcaptcha_sandbox_factory() -> Iterator[Callable[..., Sandbox]]:
    """A function that starts sandboxes with your own arguments; they stop after the test."""
    from scrapy_ezcaptcha.sandbox import Sandbox  # noqa: PLC0415  (needs the extra)

    running: list[Sandbox] = []

    def start(*args: object, **kwargs: object) -> Sandbox:
        sandbox = Sandbox(*args, **{"latency": _QUICK, **kwargs})  # type: ignore[arg-type]
        sandbox.start()
        running.append(sandbox)
        return sandbox

    yield start
    for sandbox in running:
        sandbox.stop()
