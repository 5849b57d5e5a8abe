"""The client alone, over real sockets."""

from __future__ import annotations

import socket
import threading
import time

import pytest

from scrapy_ezcaptcha import (
    ApiError,
    CloudFlare5STask,
    EzCaptchaClient,
    SolveTimeout,
    TransportError,
    UnexpectedResponse,
)
from scrapy_ezcaptcha.errors import ExitError
from scrapy_ezcaptcha.sandbox import Fault, Sandbox
from scrapy_ezcaptcha.service import transport as transport_module


def client_of(sandbox, **options):
    defaults = {"api_url": sandbox.api_url, "poll_interval": 0.02, "http_timeout": 2.0}
    return EzCaptchaClient(sandbox.key, **{**defaults, **options})


def task_of(sandbox):
    return CloudFlare5STask("http://shop.example/", sandbox.proxy_url())


def sandbox_with(*faults, **options):
    return Sandbox(latency=options.pop("latency", 0.05), faults=faults, **options)


def processing() -> Fault:
    """The task is not ready at the first two polls."""
    body = b'{"errorId": 0, "errorCode": null, "status": "processing"}'
    return Fault("getTaskResult", "raw", times=2, body=body)


@pytest.fixture
def solve(run):
    """Solve a task with a client of these options, and close the client."""

    def solve_it(sandbox, **options):
        async def go():
            client = client_of(sandbox, **options)
            try:
                return await client.solve(task_of(sandbox))
            finally:
                await client.close()

        return run(go)

    return solve_it


def test_each_call_alone(run):
    with sandbox_with(latency=0) as sandbox:

        async def go():
            client = client_of(sandbox, app_id=3)
            assert sandbox.key not in repr(client)
            task_id = await client.create_task(task_of(sandbox))
            solution = await client.get_task_result(task_id)
            balance = await client.get_balance()
            await client.close()
            return solution, balance

        solution, balance = run(go)
    assert solution.cookies["cf_clearance"]
    assert balance == 100_000 - 20


def test_a_solve_creates_once_and_polls_until_ready(solve):
    with sandbox_with(processing(), latency=0) as sandbox:
        solution = solve(sandbox)
        assert sandbox.service.calls == {"createTask": 1, "getTaskResult": 3}
    assert solution.user_agent
    assert "Catalogue" in solution.body
    assert solution.tls_version == "chrome131"


def test_connections_are_kept(solve):
    with sandbox_with(processing(), latency=0) as sandbox:
        solve(sandbox)
        assert sandbox.service.calls.total() == 4
        assert sandbox.service_connections == 1


@pytest.mark.parametrize("kind", ["close", "html", "garbage", "silent"])
def test_a_creation_that_may_have_arrived_is_sent_once(solve, kind):
    with sandbox_with(Fault("createTask", kind, times=None)) as sandbox:
        with pytest.raises((TransportError, UnexpectedResponse)) as caught:
            solve(sandbox, http_timeout=0.2)
        assert sandbox.service.calls["createTask"] == 1
    assert getattr(caught.value, "sent", True)
    assert not caught.value.is_worth_another_task()


def test_a_refused_connection_is_surely_not_sent_and_tried_again(solve):
    with sandbox_with() as sandbox:
        closed = closed_port()
        opened = threading.Timer(
            0.15, forward, args=(closed, int(sandbox.api_url.rpartition(":")[2]))
        )
        opened.start()
        solution = solve(sandbox, api_url=url_of(closed), poll_interval=0.1)
        opened.join()
        assert sandbox.service.calls["createTask"] == 1
    assert solution.cookies["cf_clearance"]


def test_a_service_that_stays_down_is_an_error_that_says_so(run):
    async def go():
        client = EzCaptchaClient("key", api_url=url_of(closed), poll_interval=0.01)
        await client.solve(CloudFlare5STask("http://shop.example/", "http://u:p@127.0.0.1:1"))

    closed = closed_port()

    with pytest.raises(TransportError, match=r"createTask: .*refused") as caught:
        run(go)
    assert caught.value.sent is False


def test_a_name_that_does_not_resolve_is_not_sent(run):
    async def go():
        client = EzCaptchaClient("key", api_url="https://service.invalid", poll_interval=0.01)
        await client.get_balance()

    with pytest.raises(TransportError) as caught:
        run(go)
    assert caught.value.sent is False


def test_a_slow_answer_is_cut_off(solve):
    silent = sandbox_with(Fault("createTask", "silent"))
    with silent as sandbox, pytest.raises(TransportError, match=r"no answer within 0\.2 s"):
        solve(sandbox, http_timeout=0.2)


def test_a_body_without_end_is_cut_off(run):
    port = serve_endlessly(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n", b" ", 0.02)

    async def go():
        client = EzCaptchaClient("key", api_url=f"http://127.0.0.1:{port}", http_timeout=0.3)
        await client.get_balance()

    with pytest.raises(TransportError, match=r"no answer within 0\.3 s"):
        run(go)


def test_an_answer_without_a_body_is_unexpected(run):
    with sandbox_with(Fault("getBalance", "raw", body=b"")) as sandbox:

        async def go():
            await client_of(sandbox).get_balance()

        with pytest.raises(UnexpectedResponse, match="without a JSON object"):
            run(go)


def test_an_answer_of_too_many_bytes_is_not_read_to_its_end(run, monkeypatch):
    monkeypatch.setattr(transport_module, "MAX_ANSWER", 100_000)
    with sandbox_with(Fault("getBalance", "raw", body=b" " * 3_000_000)) as sandbox:

        async def go():
            await client_of(sandbox).get_balance()

        with pytest.raises(UnexpectedResponse, match="more than 100000 bytes"):
            run(go)


def test_a_redirect_is_not_followed_with_the_key(run):
    head = b"HTTP/1.1 307 X\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 2\r\n\r\n{}"
    port = serve_endlessly(head, b"", 0.02)

    async def go():
        await EzCaptchaClient("key", api_url=f"http://127.0.0.1:{port}").get_balance()

    with pytest.raises(UnexpectedResponse, match="HTTP 307"):
        run(go)


def test_a_task_out_of_time(solve):
    with (
        sandbox_with(latency=60) as sandbox,
        pytest.raises(SolveTimeout, match=r"within 0\.2 s") as caught,
    ):
        solve(sandbox, solve_timeout=0.2)
    assert caught.value.task_id in sandbox.service.tasks
    assert caught.value.is_worth_another_task()


def test_a_terminal_error_of_a_poll_ends_the_solve(solve):
    fault = Fault("getTaskResult", code="ERROR_TASK_NOT_EXIST", times=None)
    with sandbox_with(fault) as sandbox:
        with pytest.raises(ApiError, match="ERROR_TASK_NOT_EXIST") as caught:
            solve(sandbox)
        assert sandbox.service.calls["getTaskResult"] == 1
    assert not caught.value.is_worth_another_task()


def test_unknown_errors_of_a_poll_are_bounded(solve):
    with sandbox_with(Fault("getTaskResult", code="ERROR_OF_TOMORROW", times=None)) as sandbox:
        with pytest.raises(ApiError, match="ERROR_OF_TOMORROW") as caught:
            solve(sandbox)
        assert sandbox.service.calls["getTaskResult"] == 3
    assert caught.value.task_id
    assert caught.value.is_worth_another_task()


def test_an_echoed_secret_is_not_repeated(run):
    fault = Fault("createTask", code="ERROR_REQUEST_PARAMETERS", description="{key} {proxy}")
    with sandbox_with(fault) as sandbox:

        async def go():
            await client_of(sandbox).create_task(task_of(sandbox))

        with pytest.raises(ApiError) as caught:
            run(go)
    assert sandbox.key not in str(caught.value)
    assert sandbox.proxy_password not in str(caught.value)


@pytest.mark.parametrize("proxy", ["http://127.0.0.1:1", "ftp://u:p@h.example:1"])
def test_a_proxy_that_the_service_cannot_use_costs_no_call(run, proxy):
    with sandbox_with() as sandbox:

        async def go():
            await client_of(sandbox).solve(CloudFlare5STask("http://shop.example/", proxy))

        with pytest.raises(ExitError):
            run(go)
        assert sandbox.service.calls == {}


def closed_port() -> socket.socket:
    """A port that nobody else gets, and that refuses connections until somebody listens on it."""
    bound = socket.socket()
    bound.bind(("127.0.0.1", 0))
    return bound


def url_of(listener: socket.socket) -> str:
    return f"http://127.0.0.1:{listener.getsockname()[1]}"


def forward(listener: socket.socket, to: int) -> None:
    """Listen, and hand every connection on, for the rest of the test run."""
    listener.listen()

    def pump(source, target):
        try:
            while data := source.recv(65536):
                target.sendall(data)
        except OSError:
            pass
        target.close()

    def accept():
        while True:
            client, _ = listener.accept()
            server = socket.create_connection(("127.0.0.1", to))
            for pair in ((client, server), (server, client)):
                threading.Thread(target=pump, args=pair, daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()


def serve_endlessly(head: bytes, piece: bytes, pause: float) -> int:
    """Answer every connection with *head*, then *piece* for ever."""
    listener = socket.create_server(("127.0.0.1", 0))

    def answer(client):
        try:
            client.recv(65536)
            client.sendall(head)
            while piece:
                client.sendall(piece)
                time.sleep(pause)
        except OSError:
            pass

    def accept():
        while True:
            client, _ = listener.accept()
            threading.Thread(target=answer, args=(client,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    return listener.getsockname()[1]
