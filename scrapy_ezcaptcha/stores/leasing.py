"""A lease that this process holds, and extends while the solve is in progress."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING, Any

from twisted.internet.task import LoopingCall

from scrapy_ezcaptcha.errors import EzCaptchaError, GivenUp, SolveTimeout, TransportError
from scrapy_ezcaptcha.stores.lease import SolveFailure

if TYPE_CHECKING:
    from collections.abc import Callable

    from typing_extensions import Self

    from scrapy_ezcaptcha.clearances.clearance import Place
    from scrapy_ezcaptcha.stores.lease import LeaseState, Update


def leased(place: Place, part: str | None) -> Place:
    """Return the name of the lease on *place*, or on *part* of it."""
    zone, exit = place
    return place if part is None else (f"{zone} {part}", exit)


@dataclass(eq=False)
class Lease:
    """A lease that this process holds on *place*, and extends until it releases it.

    ``tell`` is called whenever the store must carry out :meth:`report`.
    """

    place: Place
    state: LeaseState
    _: KW_ONLY
    seconds: float
    tell: Callable[[Lease], None]
    reactor: Any

    def __post_init__(self) -> None:
        self._new_task: str | None = None
        self._created = 0.0
        self._release: tuple[SolveFailure | None, bool] | None = None
        self._extending = LoopingCall(self.tell, self)
        self._extending.clock = self.reactor
        self._extending.start(self.seconds / 3, now=False)

    @property
    def task_id(self) -> str | None:
        """The unfinished task of the previous holder, which this one continues."""
        return self.state.task_id

    @property
    def is_released(self) -> bool:
        """Whether this process has released it."""
        return self._release is not None

    def note_task(self, task_id: str) -> None:
        """Note the paid task, in case this process dies."""
        self._new_task, self._created = task_id, self.reactor.seconds()
        self.tell(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        """Release it. If a result can still arrive, the next holder continues the task."""
        if isinstance(error, EzCaptchaError):
            self.release(error, keep_task=isinstance(error, GivenUp | SolveTimeout))
        else:  # the crawl ends, and the next crawl continues the task
            self.release(keep_task=error is not None)

    def release(self, error: EzCaptchaError | None = None, *, keep_task: bool = False) -> None:
        """Let another process solve. Processes that waited learn *error*, or continue the task.

        They do not learn about limits or network problems of this crawl.
        """
        if self._extending.running:
            self._extending.stop()
        is_unsent = isinstance(error, TransportError) and not error.sent
        failure = None
        if error is not None and not is_unsent and not isinstance(error, GivenUp):
            text, is_terminal = str(error), error.is_terminal()
            failure = SolveFailure(self.state.token, error.code, text, error.task_id, is_terminal)
        self._release = failure, keep_task
        self.tell(self)

    def report(self) -> list[Update]:
        """Return what the store must note now: the extension, or the release.

        The store may note it twice, and may have lost the lease.
        """
        token, seconds, task_id = self.state.token, self.seconds, self._new_task
        age, release = self.reactor.seconds() - self._created, self._release
        updates: list[Update] = []
        if release is None or release[1]:  # keep the task that was noted
            updates.append(lambda state, now: state.extended(token, now, seconds, task_id, age))
        if release is not None:
            updates.append(lambda state, _: state.released(token, *release))
        return updates
