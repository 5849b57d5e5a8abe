"""The consoles for output: rich text on a terminal, plain text in a pipe."""

from __future__ import annotations

from rich.console import Console


def stdout() -> Console:
    """Return the console for results."""
    return Console(markup=False, highlight=False, soft_wrap=True)


def stderr() -> Console:
    """Return the console for everything else."""
    return Console(stderr=True, markup=False, highlight=False, soft_wrap=True)
