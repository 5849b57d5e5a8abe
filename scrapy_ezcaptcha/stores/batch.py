"""Carries out small calls together: while one is in progress, the next ones are collected."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, TypeVar

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

if TYPE_CHECKING:
    from collections.abc import Callable

Item = TypeVar("Item")
Answer = TypeVar("Answer")


class Batch(Generic[Item, Answer]):
    """Calls *work* with all items that were added meanwhile; it returns an answer for each."""

    def __init__(self, work: Callable[[list[Item]], Deferred[list[Answer]]], reactor: Any) -> None:
        self._work = work
        self._reactor = reactor
        self._items: list[tuple[Item, Deferred[Answer]]] = []
        self._is_under_way = False

    def add(self, item: Item) -> Deferred[Answer]:
        """Return the answer for *item*; if *work* fails, it fails for all items of the call."""
        answer: Deferred[Answer] = Deferred()
        self._items.append((item, answer))
        if not self._is_under_way:
            self._is_under_way = True
            self._reactor.callLater(0, self._begin)  # with all items of this reactor turn
        return answer

    def _begin(self) -> None:
        items, self._items = self._items, []

        def ended(result: list[Answer] | Failure) -> None:
            self._is_under_way = bool(self._items)
            if self._is_under_way:
                self._begin()
            for number, (_, answer) in enumerate(items):
                if isinstance(result, Failure):
                    answer.errback(result)
                else:
                    answer.callback(result[number])

        self._work([item for item, _ in items]).addBoth(ended)
