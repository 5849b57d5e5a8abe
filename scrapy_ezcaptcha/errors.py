"""Every exception that this package raises, and what each one means for money.

No exception carries a secret: the service's words are redacted before they get here.
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

#: The query was refused for its rate; says nothing about any task. Bans last three minutes, and
#: ten (``ERROR_IP_BANNED``, a code of older documents like ``ERROR_NO_SLOT_AVAILABLE``).
THROTTLE_CODES = frozenset(
    {
        *("ERROR_REQUEST_LIMIT", "ERROR_REQUEST_BANNED"),
        *("ERROR_IP_BANNED", "ERROR_NO_SLOT_AVAILABLE"),
    }
)

#: The same request would fail the same way.
TERMINAL_CODES = frozenset(
    {
        *("ERROR_CONTENT_TYPE_ERROR", "ERROR_NOT_FOUND", "ERROR_PACKAGE_NOT_EXIST"),
        *("ERROR_PACKAGE_TASK_TYPE_NOT_SUPPORTED", "ERROR_REQUEST_METHOD"),
        *("ERROR_REQUEST_PARAMETERS", "ERROR_REQUEST_PROXY_MISSING", "ERROR_SUBSCRIPTION_EXPIRED"),
        *("ERROR_TASK_NOT_EXIST", "ERROR_TASK_TYPE_NOT_ALLOWED", "ERROR_TASK_TYPE_NOT_AVAILABLE"),
        *("ERROR_TASK_TYPE_NOT_SUPPORTED", "ERROR_WEBSITE_NOT_ALLOWED"),
    }
)

#: Codes that begin like this say that the worker could not use the task's proxy. The vendor lists
#: none of them; those of services with the same interface do.
PROXY_CODES = "ERROR_PROXY"

#: The service's own trouble, known to clear by itself.
OUTAGE_CODES = frozenset(
    {"ERROR_INTERNAL_SERVER_ERROR", "ERROR_SERVICE_UNAVAILABLE", "ERROR_SERVICE_TIMEOUT"}
)


class EzCaptchaError(Exception):
    """Base of every exception raised by this package.

    ``code`` names the failure in stats (``ezcaptcha/tasks/failed/{code}``).
    ``task_id`` is set once a task had been created, that is, paid for.
    """

    code: str = "ERROR"
    task_id: str | None = None
    _is_terminal = False

    def is_terminal(self) -> bool:
        """Whether asking for the same solve again is pointless."""
        return self._is_terminal

    def is_credentials(self) -> bool:
        """Whether every further call with this key would fail too."""
        return False

    def is_about_proxy(self) -> bool:
        """Whether the service, or its answer to another process, says that the proxy is bad."""
        return self.code.startswith(PROXY_CODES)

    def is_worth_another_task(self) -> bool:
        """Whether a further task may succeed, and surely is not a second one for the same.

        Only after a task is known to have existed and failed: if its creation was never
        answered, it may be under way and paid for.
        """
        return self.task_id is not None and not self.is_terminal()


class ConfigurationError(EzCaptchaError, ValueError):
    """One or more settings are unusable; the text names each with what is allowed."""

    code = "CONFIGURATION"

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("; ".join(self.problems))


class InvalidTask(EzCaptchaError, ValueError):
    """A task that the service would refuse, found before it was sent."""

    code = "INVALID_TASK"
    _is_terminal = True


class InvalidOptions(EzCaptchaError, IgnoreRequest):
    """``request.meta["ezcaptcha"]`` has an unknown key or a wrong type.

    It reaches the request's errback. It is an :class:`~scrapy.exceptions.IgnoreRequest`
    so that Scrapy does not log a traceback beside our own line.
    """

    code = "INVALID_OPTIONS"


class GivenUp(EzCaptchaError):
    """A solve that was not even asked for; the text says why.

    ``code`` is one of ``MAX_ATTEMPTS``, ``MAX_TASKS``, ``ZONE_GIVEN_UP``,
    ``PATH_GIVEN_UP``, ``STOPPED``, ``DOMAIN_NOT_ALLOWED``, ``PROXIES_FAILED``.
    """

    _is_terminal = True  # asking again now changes nothing

    def __init__(self, code: str, message: str) -> None:
        self.code = code
        super().__init__(message)


class ExitError(EzCaptchaError):
    """The request leaves through no proxy that the service could use.

    ``cause`` is one of ``none``, ``credentials``, ``private``, ``unreadable``, ``handler``,
    ``browser``.
    """

    code = "EXIT"
    _is_terminal = True  # the proxy does not get better by waiting

    def __init__(self, cause: str, message: str) -> None:
        self.cause = cause
        super().__init__(message)


class FailedElsewhere(EzCaptchaError):
    """The solve of another process failed; ``code`` and text are those of its error."""

    def __init__(self, code: str, message: str, task_id: str | None, is_terminal: bool) -> None:
        self.code = code
        self.task_id = task_id
        self._is_terminal = is_terminal
        super().__init__(message)


class PutBack(EzCaptchaError):
    """A request goes back to the scheduler, because it cannot wait for a solve now."""


class TooManyWaiting(PutBack):
    """As many requests wait for a solve as may; the scheduler takes this one last."""

    code = "TOO_MANY_WAITING"

    def __init__(self) -> None:
        super().__init__("too many requests wait for a solve")


class CrawlEnding(PutBack):
    """The crawl is closing; requests that wait for a solve go back into the queue."""

    code = "CRAWL_ENDING"

    def __init__(self) -> None:
        super().__init__("the crawl is ending")


class ExitBenched(PutBack):
    """The exit of a request is not used for now; the request goes on by another exit."""

    code = "PROXY_BENCHED"

    def __init__(self) -> None:
        super().__init__("the proxy of the pool is not used for now, because it failed")


class NoExitLeft(EzCaptchaError, IgnoreRequest):
    """No proxy of ``EZCAPTCHA_PROXIES`` is used for now, because all failed.

    It reaches the request's errback, and is an :class:`~scrapy.exceptions.IgnoreRequest` so that
    Scrapy does not log a traceback for each request.
    """

    code = "ALL_PROXIES_BENCHED"
    _is_terminal = True

    def __init__(self, count: int) -> None:
        super().__init__(
            f"all {count} proxies of EZCAPTCHA_PROXIES failed, and are not used for now"
        )


class TransportError(EzCaptchaError):
    """No answer came: refused, cut, or out of time.

    ``sent`` is False only if the request surely never reached the service, and may
    therefore be sent again without paying twice.
    """

    code = "TRANSPORT_ERROR"

    def __init__(self, message: str, *, sent: bool, task_id: str | None = None) -> None:
        self.sent = sent
        self.task_id = task_id
        super().__init__(message)


class SolveTimeout(EzCaptchaError):
    """The task was created, and had no result when its time was up."""

    code = "SOLVE_TIMEOUT"

    def __init__(self, seconds: float, *, task_id: str | None = None) -> None:
        self.task_id = task_id
        super().__init__(f"no result within {seconds:g} s")


class UnexpectedResponse(EzCaptchaError):
    """An answer that is not what the service documents: HTML, broken JSON, wrong types."""

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
    """The service answered with ``errorId`` other than 0.

    Args:
        code: the service's ``errorCode``.
        description: its words, one line, without secrets.
        status: HTTP status of the answer (200, 400, 429 and 500 are all seen).
        task_id: the task that was asked for, if any.
        request_id: the service's id of the call, for its support.
        is_over: whether the task has failed, so that asking again tells nothing new.
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
        """Whether the query was refused for its rate, not for what it asked."""
        return self.code in THROTTLE_CODES or self.status == 429

    def is_terminal(self) -> bool:
        """Whether the same request would fail the same way."""
        return self.code in TERMINAL_CODES or self.is_credentials()

    def is_outage(self) -> bool:
        """Whether the service reports trouble of its own."""
        return self.code in OUTAGE_CODES


def redact(text: str, secrets: Iterable[str]) -> str:
    """Return *text* as one line of at most 300 characters without any of *secrets*.

    Each secret is also looked for URL-quoted (in either case), unquoted and in base64, the forms
    in which a server echoes what it was sent. A secret of one or two characters is hidden only
    where it stands alone.
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
