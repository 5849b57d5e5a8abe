"""Writes and reads the service's JSON. No I/O.

The sources are the vendor's documentation of ``CloudFlare5STask`` and its Python SDK
(``ezcapsolver-py``). Only the ``errorId`` of an answer decides whether it is an error. Its HTTP
status can be anything, and a gateway may answer with HTML.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from scrapy_ezcaptcha.errors import ApiError, InvalidTask, UnexpectedResponse, redact

if TYPE_CHECKING:
    from collections.abc import Iterable

TASK_TYPE = "CloudFlare5STask"

#: Points of the service for one US dollar, by the vendor's wiki.
POINTS_PER_DOLLAR = 10_000

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,256}")  # RFC 9110, section 5.6.2
_HEADER_VALUE = re.compile(r"[\t\x20-\x7e]{0,8192}")
_COOKIE_VALUE = re.compile(r"[\x21-\x3a\x3c-\x7e]{0,4096}")  # no space, separator or control
_CODE = re.compile(r"[A-Za-z0-9_]{1,64}")
_TLS_VERSION = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_GOOD_KEYS = frozenset({"taskId", "status", "balance"})  # an answer with one needs no errorId
_MAX_PAIRS = 100  # headers or cookies of a solution; browsers send about twenty


@dataclass(frozen=True)
class CloudFlare5STask:
    """One challenge to solve.

    Args:
        website_url: the challenged page, ``http://`` or ``https://``.
        proxy: the proxy to solve it through, ``scheme://user:password@host:port``
            with scheme http, https or socks5.
        rq_data: only for a page that must be requested by POST: the fields of its form, and
            ``"mode": "JSON"`` or ``"FORM"``. It must not be an encoded string.

    Raises:
        InvalidTask: a field is missing or of the wrong type.
    """

    website_url: str
    proxy: str = field(repr=False)
    rq_data: Mapping[str, Any] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        check_page(self.website_url, self.rq_data)
        if not isinstance(self.proxy, str) or not self.proxy:
            raise InvalidTask("proxy must be a URL, scheme://user:password@host:port")

    def to_json(self) -> dict[str, Any]:
        """Return the task as ``createTask`` accepts it."""
        task: dict[str, Any] = {
            "type": TASK_TYPE,
            "websiteURL": self.website_url,
            "proxy": self.proxy,
        }
        if self.rq_data is not None:
            task["rqData"] = dict(self.rq_data)
        return task


@dataclass(frozen=True)
class Solution:
    """The state of a browser. Send its headers and cookies together, through the same exit.

    ``headers`` has lower-case names. Malformed headers and cookies are left out. ``body`` is the
    page that the worker saw, and ``tls_version`` is the browser whose TLS handshake the worker
    used. The service may omit either.
    """

    headers: Mapping[str, str] = field(default_factory=dict)
    cookies: Mapping[str, str] = field(default_factory=dict)
    body: str | None = None
    tls_version: str | None = None

    @property
    def user_agent(self) -> str | None:
        """The User-Agent that the clearance is bound to."""
        return self.headers.get("user-agent")

    def __repr__(self) -> str:
        body = None if self.body is None else f"<{len(self.body)} characters>"
        return (
            f"Solution(headers={sorted(self.headers)}, cookies={sorted(self.cookies)},"
            f" body={body}, tls_version={self.tls_version!r})"
        )


def check_page(website_url: Any, rq_data: Any) -> None:
    """Raise InvalidTask unless the service accepts this page and form data."""
    if not isinstance(website_url, str) or not _is_web_url(website_url):
        raise InvalidTask("website_url must be an http:// or https:// URL")
    if rq_data is None:
        return
    if not isinstance(rq_data, Mapping):
        raise InvalidTask("rq_data must be an object (a dict), not an encoded string")
    try:
        json.dumps(dict(rq_data))
    except (TypeError, ValueError):
        raise InvalidTask("rq_data must be serializable as JSON") from None


def create_task_payload(client_key: str, task: CloudFlare5STask, app_id: int | None) -> Any:
    """Return the body of a ``createTask`` call."""
    payload: dict[str, Any] = {"clientKey": client_key, "task": task.to_json()}
    if app_id is not None:
        payload["appId"] = app_id
    return payload


def parse_task_id(body: bytes, *, status: int, hide: Iterable[str] = ()) -> str:
    """Return the id in an answer to ``createTask``; raise ApiError or UnexpectedResponse."""
    answer = _parse_answer(body, status=status, hide=hide)
    task_id = answer.get("taskId")
    if isinstance(task_id, int) and not isinstance(task_id, bool):
        task_id = str(task_id)
    if not isinstance(task_id, str) or not task_id:
        raise UnexpectedResponse("createTask answered without a taskId", status=status)
    return task_id


def parse_balance(body: bytes, *, status: int, hide: Iterable[str] = ()) -> float:
    """Return the points in an answer to ``getBalance``; raise ApiError or UnexpectedResponse."""
    balance = _parse_answer(body, status=status, hide=hide).get("balance")
    if isinstance(balance, bool) or not isinstance(balance, int | float):
        raise UnexpectedResponse("getBalance answered without a balance", status=status)
    return balance


def points_in_words(points: float) -> str:
    """Return points as people read them: ``20 points (0.0020 USD)``."""
    return f"{points:,.10g} points ({points / POINTS_PER_DOLLAR:,.4f} USD)"


def parse_task_result(
    body: bytes, *, status: int, task_id: str, hide: Iterable[str] = ()
) -> Solution | None:
    """Return the solution in an answer to ``getTaskResult``, None if it is not ready.

    Raises ApiError if the task or the call failed, and UnexpectedResponse if the answer is not
    documented.
    """
    answer = _parse_answer(body, status=status, hide=hide, task_id=task_id)
    state = answer.get("status")
    if state == "processing":
        return None
    if state != "ready":
        raise UnexpectedResponse(
            "getTaskResult answered with an unknown status", status=status, task_id=task_id
        )
    solution = answer.get("solution")
    if not isinstance(solution, dict):
        raise UnexpectedResponse(
            "ready, but without a solution", status=status, task_id=task_id, is_ready=True
        )
    return solution_of(solution)


def _parse_answer(
    body: bytes, *, status: int, hide: Iterable[str], task_id: str | None = None
) -> dict[str, Any]:
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        answer = None
    if not isinstance(answer, dict):
        raise UnexpectedResponse(
            f"HTTP {status} without a JSON object", status=status, task_id=task_id
        )
    if answer.get("status") == "error":  # the task has failed, whatever else it says
        raise _api_error(answer, status=status, hide=hide, task_id=task_id, is_over=True)
    error_id = answer.get("errorId")
    if error_id in (0, "0") and not isinstance(error_id, bool):
        return answer
    if error_id is None and not answer.keys().isdisjoint(_GOOD_KEYS):
        return answer
    if isinstance(error_id, int | str) and not isinstance(error_id, bool):
        raise _api_error(answer, status=status, hide=hide, task_id=task_id)
    raise UnexpectedResponse(f"HTTP {status} without an errorId", status=status, task_id=task_id)


def _api_error(
    answer: Mapping[str, Any],
    *,
    status: int,
    hide: Iterable[str],
    task_id: str | None,
    is_over: bool = False,
) -> ApiError:
    code = answer.get("errorCode")
    words = [answer.get("errorDescription")]
    fields = answer.get("errors")
    if isinstance(fields, dict):
        words += [f"{path}: {reason}" for path, reason in fields.items()]
    request_id = answer.get("requestId")
    return ApiError(
        code if isinstance(code, str) and _CODE.fullmatch(code) else "ERROR_UNKNOWN",
        redact("; ".join(word for word in words if isinstance(word, str)), hide),
        status=status,
        task_id=task_id,
        request_id=redact(request_id, hide) if isinstance(request_id, str) else None,
        is_over=is_over,
    )


def solution_of(solution: Mapping[str, Any]) -> Solution:
    """Return the well-formed parts of a solution in the service's JSON."""
    body = solution.get("body")
    tls_version = solution.get("tlsVersion")
    return Solution(
        headers=_well_formed(solution.get("header"), _HEADER_VALUE, lower=True),
        cookies=_well_formed(solution.get("cookies"), _COOKIE_VALUE),
        body=body if isinstance(body, str) and body else None,
        tls_version=tls_version
        if isinstance(tls_version, str) and _TLS_VERSION.fullmatch(tls_version)
        else None,
    )


def _well_formed(pairs: Any, value_form: re.Pattern[str], *, lower: bool = False) -> Any:
    """Return the pairs whose name is a token and whose value matches *value_form*."""
    if not isinstance(pairs, dict):
        return MappingProxyType({})
    kept: dict[str, str] = {}
    for name, value in pairs.items():
        if len(kept) == _MAX_PAIRS:
            break
        if isinstance(value, str) and _TOKEN.fullmatch(name) and value_form.fullmatch(value):
            kept[name.lower() if lower else name] = value
    return MappingProxyType(kept)


def is_cookie_value(value: str) -> bool:
    """Whether *value* can be in a Cookie header without ending or adding a cookie."""
    return _COOKIE_VALUE.fullmatch(value) is not None


def _is_web_url(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in {"http", "https"} and bool(parts.hostname)
    except ValueError:
        return False
