"""The simulated solving service on loopback, after the vendor's documentation."""

from __future__ import annotations

import gzip
import json
import random
import time
import uuid
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from scrapy_ezcaptcha.sandbox.content import page_body
from scrapy_ezcaptcha.sandbox.exits import Exits
from scrapy_ezcaptcha.sandbox.http import Reply

if TYPE_CHECKING:
    from scrapy_ezcaptcha.sandbox.edge import Edge
    from scrapy_ezcaptcha.sandbox.http import Call

#: The browser that the worker imitates.
USER_AGENT = (
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko)"
    " Chrome/131.0.0.0 Safari/537.36"
)

#: How long the result of a task is kept after its creation.
HELD_SECONDS = 300.0

#: After this many calls with a wrong key in a minute, the key is banned.
MAX_KEY_ERRORS = 30

#: The code of a task that fails because the worker cannot use its proxy. The vendor documents no
#: code for this, but services with the same interface use codes that begin with ``ERROR_PROXY``.
PROXY_ERROR = "ERROR_PROXY_CONNECT"

_GATEWAY_PAGE = b"<html><h1>502 Bad Gateway</h1></html>"

_HEADERS = {
    "accept": "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8",
    "accept-encoding": "gzip, deflate, br, zstd",
    "accept-language": "en-US,en;q=0.9",
    "connection": "keep-alive",
    "host": "worker.invalid",
    "sec-ch-ua": '"Google Chrome";v="131", "Chromium";v="131", "Not_A Brand";v="24"',
    "sec-fetch-mode": "navigate",
    "upgrade-insecure-requests": "1",
    "user-agent": USER_AGENT,
}


@dataclass
class Fault:
    """Something that goes wrong in the answers of the service or the proxy.

    Args:
        call: ``createTask``, ``getTaskResult``, ``getBalance`` or ``proxy``.
        kind: one of

            - ``error``: ``errorId`` 1 with *code*
            - ``html``, ``garbage``: a gateway's page, broken JSON
            - ``raw``: *body* as it is
            - ``slow``: the right answer, after *delay* seconds
            - ``close``, ``cut``: no answer, half an answer
            - ``silent``, ``drip``: never an answer, an answer without an end
            - ``huge``, ``bomb``: 64 MB, and 100 MB compressed to 100 KB
            - ``redirect``: to ``/elsewhere``, with the same method
        code: the service's error code.
        description: the service's words; ``{key}`` and ``{proxy}`` echo what was sent.
        status: the HTTP status of the answer.
        times: how many calls get this fault, None for all.
        after: how many calls succeed before that.
        body: for ``raw``.
        delay: for ``slow``.
        chance: the chance that a call gets this fault, from 0 to 1.
    """

    call: str
    kind: str = "error"
    code: str = "ERROR_INTERNAL_SERVER_ERROR"
    description: str = "simulated by the sandbox"
    status: int = 200
    times: int | None = 1
    after: int = 0
    body: bytes = b""
    delay: float = 0.0
    chance: float = 1.0
    struck: int = 0

    def strikes(self) -> bool:
        """Count a call; return True if it gets this fault."""
        if self.after > 0:
            self.after -= 1
            return False
        if self.times == self.struck or random.random() >= self.chance:  # noqa: S311
            return False
        self.struck += 1
        return True


@dataclass
class Task:
    """A task in the service."""

    website_url: str
    exit: str
    rq_data: Any
    ready_at: float
    task_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    polls: int = 0
    solved: bool = False
    failed: str | None = None
    solution: dict[str, Any] | None = None
    created_at: float = field(default_factory=time.monotonic)
    solved_at: float | None = None  # when its solution was first fetched


class Service:
    """Simulates ``createTask``, ``getTaskResult`` and ``getBalance``.

    ``tasks`` has each :class:`~scrapy_ezcaptcha.sandbox.Task` by its id, ``calls`` the number of
    calls by method.

    Args:
        edge: the edge that accepts the clearances.
        key: the client key that is accepted.
        proxy_password: the password that the proxy of a task must have.
        latency: seconds until a task is ready.
        balance: points in the account; a task costs *price* points.
        tasks_at_once: the maximum number of tasks at a time, None for no limit; a call for one more
            is refused with status 429.
        solution: replaces fields of every solution; ``header`` and ``cookies`` are merged, and
            None makes a field null.
        exits: the state of the proxy's exits, which the worker uses too.
    """

    def __init__(
        self,
        edge: Edge,
        *,
        key: str,
        proxy_password: str,
        latency: float = 1.0,
        balance: float = 100_000,
        price: float = 20,
        faults: tuple[Fault, ...] = (),
        tasks_at_once: int | None = None,
        solution: Mapping[str, Any] | None = None,
        exits: Exits | None = None,
    ) -> None:
        self._edge = edge
        self._exits = exits or Exits()
        self._key = key
        self._proxy_password = proxy_password
        self._price = price
        self._key_errors: list[float] = []
        self._tasks_at_once = tasks_at_once
        self._solution = dict(solution or {})
        self.latency = latency
        self.balance = balance
        self.faults = list(faults)
        self.tasks: dict[str, Task] = {}
        self.calls: Counter[str] = Counter()
        self.most_at_once = 0

    def handle(self, call: Call) -> Reply:
        """Answer one call to the service."""
        method = call.target.strip("/")
        self.calls[method] += 1
        try:
            payload = json.loads(call.body)
        except ValueError:
            return _error("ERROR_CONTENT_TYPE_ERROR", "the body is not JSON", status=400)
        if not isinstance(payload, dict):
            return _error("ERROR_REQUEST_PARAMETERS", "the body is not an object", status=400)
        fault = next((f for f in self.faults if f.call == method and f.strikes()), None)
        if fault is not None and fault.kind != "slow":
            return faulty_reply(fault, payload)
        reply = self._answer(call, method, payload)
        return reply if fault is None else replace(reply, delay=fault.delay)

    def _answer(self, call: Call, method: str, payload: dict[str, Any]) -> Reply:
        if call.method != "POST":
            return _error("ERROR_REQUEST_METHOD", "the method must be POST", status=400)
        answer = {
            "createTask": self._create_task,
            "getTaskResult": self._get_task_result,
            "getBalance": self._get_balance,
        }.get(method)
        if answer is None:
            return _error("ERROR_NOT_FOUND", "no such call", status=400)
        if payload.get("clientKey") != self._key:
            return self._refuse_key()
        return answer(payload)

    def _refuse_key(self) -> Reply:
        """Refuse a wrong key, and ban it after too many calls in a minute, as the vendor does."""
        now = time.monotonic()
        self._key_errors = [at for at in self._key_errors if now - at < 60] + [now]
        if len(self._key_errors) > MAX_KEY_ERRORS:
            return _error("ERROR_REQUEST_BANNED", "too many wrong keys", status=429)
        return _error("ERROR_KEY_DOES_NOT_EXIST", "the key is unknown", status=500)

    def _create_task(self, payload: dict[str, Any]) -> Reply:
        task = payload.get("task")
        if not isinstance(task, dict) or not isinstance(task.get("websiteURL"), str):
            return _error("ERROR_REQUEST_PARAMETERS", "task.websiteURL is missing", status=400)
        if task.get("type") != "CloudFlare5STask":
            return _error("ERROR_TASK_TYPE_NOT_SUPPORTED", str(task.get("type")), status=400)
        if not isinstance(task.get("proxy"), str) or not task["proxy"]:
            return _error("ERROR_REQUEST_PROXY_MISSING", "task.proxy is missing", status=400)
        proxy = urlsplit(task["proxy"])
        if not proxy.username or unquote(proxy.password or "") != self._proxy_password:
            return _error("ERROR_REQUEST_PARAMETERS", "the proxy refused the worker", status=400)
        if not isinstance(task.get("rqData", {}), dict):
            return _error("ERROR_REQUEST_PARAMETERS", "rqData must be an object", status=400)
        now = time.monotonic()
        in_work = sum(1 for other in self.tasks.values() if now < other.ready_at)
        if self._tasks_at_once is not None and in_work >= self._tasks_at_once:
            return _error("ERROR_REQUEST_LIMIT", "too many tasks at once", status=429)
        if self.balance < self._price:
            return _error("ERROR_ZERO_BALANCE", "the account is empty", status=500)
        self.balance -= self._price
        user = unquote(proxy.username)
        ready_at = now + self.latency + self._exits.state(user).delay
        created = Task(task["websiteURL"], user, task.get("rqData"), ready_at)
        self.tasks[created.task_id] = created
        self.most_at_once = max(self.most_at_once, in_work + 1)
        return _json({"errorId": 0, "errorCode": "", "taskId": created.task_id})

    def _get_task_result(self, payload: dict[str, Any]) -> Reply:
        task = self.tasks.get(str(payload.get("taskId")))
        if task is None:
            return _error("ERROR_TASK_NOT_EXIST", "no such task", status=400)
        task.polls += 1
        now = time.monotonic()
        if now - task.created_at > HELD_SECONDS:
            return _error("ERROR_TASK_NOT_EXIST", "its result is no longer available", status=400)
        if now < task.ready_at:
            return _json({"errorId": 0, "errorCode": None, "status": "processing"})
        task.failed = task.failed or (None if task.solved else self._exits.worker_finds(task.exit))
        if task.failed is not None:
            return _error(PROXY_ERROR, task.failed, more={"status": "error"})
        task.solved = True
        task.solved_at = task.solved_at or now
        task.solution = task.solution or self._solve(task)
        return _json({"errorId": 0, "status": "ready", "solution": task.solution})

    def _get_balance(self, payload: dict[str, Any]) -> Reply:  # noqa: ARG002
        return _json({"errorId": 0, "balance": self.balance})

    def _solve(self, task: Task) -> dict[str, Any]:
        host = urlsplit(task.website_url).hostname or ""
        clearance = self._edge.issue(host, task.exit, USER_AGENT)
        cookies = {} if clearance is None else {"cf_clearance": clearance}
        site = self._edge.site_of(host)
        page = page_body(site, host, task.website_url).decode() if site else None
        solution: dict[str, Any] = {
            "header": dict(_HEADERS),
            "cookies": cookies,
            "body": page,
            "tlsVersion": "chrome131",
            "sToken": "",
        }
        for name, value in self._solution.items():
            both = isinstance(value, Mapping) and isinstance(solution.get(name), dict)
            solution[name] = {**solution[name], **value} if both else value
        return solution


def faulty_reply(fault: Fault, payload: Mapping[str, Any]) -> Reply:
    """Return the answer to *payload* with this *fault*."""
    json_type = ("Content-Type", "application/json")
    replies = {
        "close": lambda: Reply(status=0),
        "silent": lambda: Reply(silent=True),
        "raw": lambda: Reply(fault.status, (json_type,), fault.body),
        "html": lambda: Reply(fault.status, (("Content-Type", "text/html"),), _GATEWAY_PAGE),
        "garbage": lambda: Reply(fault.status, (json_type,), b'{"errorId": '),
        "cut": lambda: Reply(fault.status, (json_type,), b'{"errorId": 0, "status"', cut=10),
        "drip": lambda: Reply(fault.status, (json_type,), drip=0.05),
        "huge": lambda: Reply(fault.status, (json_type,), b" " * 64_000_000),
        "bomb": lambda: Reply(fault.status, (json_type, ("Content-Encoding", "gzip")), _bomb()),
        "redirect": lambda: Reply(307, (("Location", "/elsewhere"),)),
    }
    if fault.kind in replies:
        return replies[fault.kind]()
    task = payload.get("task") or {}
    said = fault.description.format(key=payload.get("clientKey"), proxy=task.get("proxy"))
    return _error(fault.code, said, status=fault.status)


@cache
def _bomb() -> bytes:
    return gzip.compress(bytes(100_000_000))


def _error(
    code: str, description: str, *, status: int = 200, more: Mapping[str, Any] | None = None
) -> Reply:
    answer: dict[str, Any] = {"errorId": 1, "errorCode": code, "errorDescription": description}
    return _json(answer | {"requestId": str(uuid.uuid4())} | dict(more or {}), status=status)


def _json(answer: dict[str, Any], *, status: int = 200) -> Reply:
    return Reply(status, (("Content-Type", "application/json"),), json.dumps(answer).encode())
