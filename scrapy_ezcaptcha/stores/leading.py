"""The lead on a solve, kept up from its beginning to its end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from twisted.internet.task import LoopingCall

from scrapy_ezcaptcha.errors import GivenUp, TransportError
from scrapy_ezcaptcha.stores.base import SolveFailure

if TYPE_CHECKING:
    from collections.abc import Callable

    from scrapy_ezcaptcha.errors import EzCaptchaError
    from scrapy_ezcaptcha.stores.base import Lead, Store


class Leading:
    """Keeps the lead up until it is ended.

    ``task_id`` names the task of a leader that died, to go on with.

    Args:
        lead: as it was taken.
        lease: for how many seconds it was taken.
        reactor: the clock.
        tell: has something carried out by the store that gave the lead.
    """

    def __init__(
        self,
        lead: Lead,
        lease: float,
        reactor: Any,
        tell: Callable[[Callable[[Store], Any]], Any],
    ) -> None:
        self.task_id = lead.task_id
        self._lead = lead
        self._lease = lease
        self._reactor = reactor
        self._tell = tell
        self._created: tuple[str, float] | None = None
        self._beat = LoopingCall(self._keep)
        self._beat.clock = reactor
        self._beat.start(lease / 3, now=False)

    def created(self, task_id: str) -> None:
        """Note the task that is paid for, should this process die."""
        self._created = (task_id, self._reactor.seconds())
        self._keep()

    def end(self, error: EzCaptchaError | None = None, *, keep_task: bool = False) -> None:
        """Let others lead: who followed learns of *error*, or goes on with the task."""
        if self._beat.running:
            self._beat.stop()
        failure = None if error is None else self._failure(error)
        self._tell(lambda store: store.end(self._lead, failure, keep_task=keep_task))

    def _keep(self) -> None:
        task_id, age = None, 0.0
        if self._created is not None:
            task_id, created = self._created
            age = self._reactor.seconds() - created
        self._tell(lambda store: store.keep(self._lead, self._lease, task_id, age))

    def _failure(self, error: EzCaptchaError) -> SolveFailure | None:
        """Return what others are told; a limit of this crawl, or its network, is none of theirs."""
        if isinstance(error, GivenUp) or (isinstance(error, TransportError) and not error.sent):
            return None
        return SolveFailure(
            self._lead.fence, error.code, str(error), error.task_id, error.is_terminal()
        )
