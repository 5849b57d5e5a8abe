"""The exceptions of this package. The ``task_id`` of each tells whether a task was paid for.

No exception contains a secret, because the words of the service are redacted first.
"""

from __future__ import annotations

import re
from base64 import b64encode
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote

from scrapy.exceptions import IgnoreRequest

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = [
    "ApiError",
    "ConfigurationError",
    "CrawlEnding",
    "ExitBenched",
    "ExitError",
    "EzCaptchaError",
    "FailedElsewhere",
    "GivenUp",
    "InvalidOptions",
    "InvalidTask",
    "NoExitLeft",
    "SolveTimeout",
    "TransportError",
    "UnexpectedResponse",
]

_MAX_CHARS = 300

#: The key is wrong, disabled or out of money. Thirty of these within a minute on
#: ``createTask`` get the key banned for three minutes (the vendor's SDK).
CREDENTIAL_CODES = frozenset(
    {"ERROR_KEY_DOES_NOT_EXIST", "ERROR_KEY_NOT_AVAILABLE", "ERROR_ZERO_BALANCE"}
)

#: The call was refused because of its rate; this says nothing about a task. Bans last three
#: minutes, or ten (``ERROR_IP_BANNED``, from older documents like ``ERROR_NO_SLOT_AVAILABLE``).
THROTTLE_CODES = frozenset(
    {
        *("ERROR_REQUEST_LIMIT", "ERROR_REQUEST_BANNED"),
        *("ERROR_IP_BANNED", "ERROR_NO_SLOT_AVAILABLE"),
    }
)

#: The same call would fail in the same way.
TERMINAL_CODES = frozenset(
    {
        *("ERROR_CONTENT_TYPE_ERROR", "ERROR_NOT_FOUND", "ERROR_PACKAGE_NOT_EXIST"),
        *("ERROR_PACKAGE_TASK_TYPE_NOT_SUPPORTED", "ERROR_REQUEST_METHOD"),
        *("ERROR_REQUEST_PARAMETERS", "ERROR_REQUEST_PROXY_MISSING", "ERROR_SUBSCRIPTION_EXPIRED"),
        *("ERROR_TASK_NOT_EXIST", "ERROR_TASK_TYPE_NOT_ALLOWED", "ERROR_TASK_TYPE_NOT_AVAILABLE"),
        *("ERROR_TASK_TYPE_NOT_SUPPORTED", "ERROR_WEBSITE_NOT_ALLOWED"),
    }
)

#: Codes that begin with this mean that the worker could not use the task's proxy. The vendor does
#: not document them, but services with the same interface do.
PROXY_CODES = "ERROR_PROXY"

#: Problems of the service itself, which are temporary.
OUTAGE_CODES = frozenset(
    {"ERROR_INTERNAL_SERVER_ERROR", "ERROR_SERVICE_UNAVAILABLE", "ERROR_SERVICE_TIMEOUT"}
)


class EzCaptchaError(Exception):
    """Base of every exception raised by this package.

    ``code`` names the failure in stats (``ezcaptcha/tasks/failed/{code}``).
    ``task_id`` is set if a task had been created, which means that it is paid for.
    """

    code: str = "ERROR"
    task_id: str | None = None
    _is_terminal = False

    def is_terminal(self) -> bool:
        """Whether it is pointless to try the same solve again."""
        return self._is_terminal

    def is_credentials(self) -> bool:
        """Whether every further call with this key would fail too."""
        return False

    def is_about_proxy(self) -> bool:
        """Whether the service says, here or to another process, that the proxy is bad."""
        return self.code.startswith(PROXY_CODES)

    def is_worth_another_task(self) -> bool:
        """Whether another task may succeed, and does not pay twice for the same solve.

        False unless a task is known to have failed: if there was no answer to its creation, it may
        be paid for and in progress.
        """
        return self.task_id is not None and not self.is_terminal()


class ConfigurationError(EzCaptchaError, ValueError):
    """One or more settings are unusable; the text says what each of them allows."""

    code = "CONFIGURATION"

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("; ".join(self.problems))


class InvalidTask(EzCaptchaError, ValueError):
    """The service would refuse this task, so it was not sent."""

    code = "INVALID_TASK"
    _is_terminal = True


class InvalidOptions(EzCaptchaError, IgnoreRequest):
    """``request.meta["ezcaptcha"]`` has an unknown key or a wrong type.

    It reaches the request's errback. It is an :class:`~scrapy.exceptions.IgnoreRequest`
    so that Scrapy does not log a traceback in addition to our line.
    """

    code = "INVALID_OPTIONS"


class GivenUp(EzCaptchaError):
    """A solve was not attempted; the text says why.

    ``code`` is one of ``MAX_ATTEMPTS``, ``MAX_TASKS``, ``ZONE_GIVEN_UP``,
    ``PATH_GIVEN_UP``, ``STOPPED``, ``DOMAIN_NOT_ALLOWED``, ``PROXIES_FAILED``.
    """

    _is_terminal = True  # asking again now changes nothing

    def __init__(self, code: str, message: str) -> None:
        self.code = code
        super().__init__(message)


class ExitError(EzCaptchaError):
    """The request has no proxy that the service can use.

    ``cause`` is one of ``none``, ``credentials``, ``private``, ``unreadable``, ``handler``,
    ``browser``.
    """

    code = "EXIT"
    _is_terminal = True  # waiting does not change the proxy

    def __init__(self, cause: str, message: str) -> None:
        self.cause = cause
        super().__init__(message)


class FailedElsewhere(EzCaptchaError):
    """The solve of another process failed; ``code`` and text are from its error."""

    def __init__(self, code: str, message: str, task_id: str | None, is_terminal: bool) -> None:
        self.code = code
        self.task_id = task_id
        self._is_terminal = is_terminal
        super().__init__(message)


class PutBack(EzCaptchaError):
    """A request goes back to the scheduler, because it cannot wait for a solve at the moment."""


class TooManyWaiting(PutBack):
    """The maximum number of requests wait for a solve; the scheduler sends this one last."""

    code = "TOO_MANY_WAITING"

    def __init__(self) -> None:
        super().__init__("too many requests wait for a solve")


class CrawlEnding(PutBack):
    """The crawl is closing; requests that wait for a solve go back into the queue."""

    code = "CRAWL_ENDING"

    def __init__(self) -> None:
        super().__init__("the crawl is ending")


class ExitBenched(PutBack):
    """The exit of a request is not used for now; the request is sent through another exit."""

    code = "PROXY_BENCHED"

    def __init__(self) -> None:
        super().__init__("the proxy of the pool is not used for now, because it failed")


class NoExitLeft(EzCaptchaError, IgnoreRequest):
    """No proxy of ``EZCAPTCHA_PROXIES`` is used for now, because all failed.

    It reaches the request's errback. It is an :class:`~scrapy.exceptions.IgnoreRequest`, so that
    Scrapy does not log a traceback for each request.
    """

    code = "ALL_PROXIES_BENCHED"
    _is_terminal = True

    def __init__(self, count: int) -> None:
        super().__init__(
            f"all {count} proxies of EZCAPTCHA_PROXIES failed, and are not used for now"
        )


class TransportError(EzCaptchaError):
    """There is no answer: the connection was refused or closed, or the time is up.

    ``sent`` is False only if the call certainly did not reach the service. It can then be sent
    again without paying twice.
    """

    code = "TRANSPORT_ERROR"

    def __init__(self, message: str, *, sent: bool, task_id: str | None = None) -> None:
        self.sent = sent
        self.task_id = task_id
        super().__init__(message)


class SolveTimeout(EzCaptchaError):
    """The task was created, but had no result in time."""

    code = "SOLVE_TIMEOUT"

    def __init__(self, seconds: float, *, task_id: str | None = None) -> None:
        self.task_id = task_id
        super().__init__(f"no result within {seconds:g} s")


class UnexpectedResponse(EzCaptchaError):
    """The answer is not as the service documents it: HTML, broken JSON, wrong types."""

    code = "UNEXPECTED_RESPONSE"

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        task_id: str | None = None,
        is_ready: bool = False,
    ) -> None:
        self.status = status
        self.task_id = task_id
        self.is_ready = is_ready  # the task has ended, without a solution
        self.page: str | None = None  # of a solution that has no clearance
        super().__init__(message)


class ApiError(EzCaptchaError):
    """The service answered with an ``errorId`` other than 0.

    Args:
        code: the service's ``errorCode``.
        description: the service's description: one line, without secrets.
        status: the HTTP status of the answer (the service uses 200, 400, 429 and 500).
        task_id: the task that the call was about, if any.
        request_id: the service's id of the call, which its support may ask for.
        is_over: whether the task has failed, so that there is no need to ask again.
    """

    def __init__(
        self,
        code: str,
        description: str = "",
        *,
        status: int | None = None,
        task_id: str | None = None,
        request_id: str | None = None,
        is_over: bool = False,
    ) -> None:
        self.is_over = is_over
        self.code = code
        self.description = description
        self.status = status
        self.task_id = task_id
        self.request_id = request_id
        super().__init__(code, description)

    def __str__(self) -> str:
        text = f"{self.code}: {self.description}" if self.description else self.code
        return f"{text} (request {self.request_id})" if self.is_over and self.request_id else text

    def is_credentials(self) -> bool:
        """Whether every further call with this key would fail too."""
        return self.code in CREDENTIAL_CODES

    def is_throttled(self) -> bool:
        """Whether the call was refused because of its rate, not its content."""
        return self.code in THROTTLE_CODES or self.status == 429

    def is_terminal(self) -> bool:
        """Whether the same call would fail in the same way."""
        return self.code in TERMINAL_CODES or self.is_credentials()

    def is_outage(self) -> bool:
        """Whether the service reports a problem of its own."""
        return self.code in OUTAGE_CODES


def redact(text: str, secrets: Iterable[str]) -> str:
    """Return *text* as one line of at most 300 characters without any of *secrets*.

    This includes each secret URL-quoted (in either case), unquoted and in base64, because servers
    echo what they received in these forms. A secret of one or two characters is hidden only as a
    word of its own.
    """
    for secret in sorted(_forms(secrets), key=len, reverse=True):
        form = re.sub("%[0-9A-Fa-f]{2}", lambda m: f"(?i:{m[0]})", re.escape(secret))
        text = re.sub(form if len(secret) > 2 else rf"(?<!\w){form}(?!\w)", "***", text)
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if len(line) <= _MAX_CHARS else line[: _MAX_CHARS - 1] + "…"


def _forms(secrets: Iterable[str]) -> set[str]:
    forms: set[str] = set()
    for secret in secrets:
        for plain in (secret, unquote(secret)):
            forms |= {plain, quote(plain), quote(plain, safe="")}
            forms.add(b64encode(plain.encode()).decode())
    return forms - {""}
