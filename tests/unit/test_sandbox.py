"""The sandbox checks clearances strictly; these tests use another client than Scrapy."""

from __future__ import annotations

import http.client
import json
import os
import re
import shlex
import signal
import ssl
import subprocess
import sys
import time
from base64 import b64encode
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import pytest
from support import wait_for

from scrapy_ezcaptcha.sandbox import USER_AGENT, Protection, Sandbox, Site
from scrapy_ezcaptcha.sandbox.__main__ import usage


def browse(
    sandbox,
    url,
    *,
    user="exit1",
    cookie=None,
    agent=USER_AGENT,
    method="GET",
    password=None,
    own_port=False,
):
    """Fetch *url* through the sandbox's proxy, as a plain HTTP client."""
    proxy = urlsplit(sandbox.proxy_url(user, own_port=own_port))
    pair = f"{user}:{sandbox.proxy_password if password is None else password}"
    authorization = {"Proxy-Authorization": f"Basic {b64encode(pair.encode()).decode()}"}
    headers = {"User-Agent": agent, **({"Cookie": f"cf_clearance={cookie}"} if cookie else {})}
    connection = http.client.HTTPConnection(proxy.hostname, proxy.port, timeout=5)
    parts = urlsplit(url)
    if parts.scheme == "https":
        context = ssl._create_unverified_context()
        connection = http.client.HTTPSConnection(
            proxy.hostname, proxy.port, timeout=5, context=context
        )
        connection.set_tunnel(parts.hostname, 443, authorization)
        connection.request(method, parts.path or "/", headers=headers)
    else:
        connection.request(method, url, headers={**headers, **authorization})
    response = connection.getresponse()
    body = response.read()
    connection.close()
    return response, body


def call(sandbox, method, payload, verb="POST"):
    service = urlsplit(sandbox.api_url)
    connection = http.client.HTTPConnection(service.hostname, service.port, timeout=5)
    body = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    connection.request(verb, f"/{method}", body)
    answer = json.loads(connection.getresponse().read())
    connection.close()
    return answer


def solve(sandbox, url="http://shop.example/", user="exit1"):
    task = {"type": "CloudFlare5STask", "websiteURL": url, "proxy": sandbox.proxy_url(user)}
    created = call(sandbox, "createTask", {"clientKey": sandbox.key, "task": task})
    polled = {"clientKey": sandbox.key, "taskId": created["taskId"]}
    while (answer := call(sandbox, "getTaskResult", polled))["status"] == "processing":
        time.sleep(0.02)
    return answer["solution"]


@pytest.fixture
def sandbox():
    with Sandbox(latency=0.05) as running:
        yield running


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_clearance_opens_its_zone(sandbox, scheme):
    response, body = browse(sandbox, f"{scheme}://shop.example/")
    assert (response.status, response.headers["cf-mitigated"]) == (403, "challenge")
    assert b"_cf_chl_opt" in body
    solution = solve(sandbox, f"{scheme}://shop.example/")
    cookie = solution["cookies"]["cf_clearance"]
    for host in ("shop.example", "www.shop.example"):
        response, body = browse(sandbox, f"{scheme}://{host}/item/2", cookie=cookie)
        assert response.status == 200
        assert b"Item 2" in body
    assert "Catalogue" in solution["body"]


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"agent": "Scrapy"}, id="another-user-agent"),
        pytest.param({"user": "exit2"}, id="another-exit"),
        pytest.param({"url": "http://bots.example/"}, id="another-zone"),
        pytest.param({"cookie": "made-up"}, id="made-up"),
    ],
)
def test_a_clearance_opens_nothing_else(sandbox, change):
    cookie = solve(sandbox)["cookies"]["cf_clearance"]
    asked = {"url": "http://shop.example/", "cookie": cookie, **change}
    response, _ = browse(sandbox, asked.pop("url"), **asked)
    assert response.status in {403, 429}
    assert sandbox.edge.visits[-1].verdict == "rejected"


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_the_first_requests_of_a_site_wait_for_each_other(scheme):
    with Sandbox([Site("shop.example", together=3)]) as sandbox, ThreadPoolExecutor(3) as pool:
        pages = [
            pool.submit(browse, sandbox, f"{scheme}://{host}/")
            for host in ("shop.example", "www.shop.example")
        ]
        wait_for(lambda: len(sandbox.edge.visits) == 2)
        assert not any(page.done() for page in pages)
        for _ in range(2):  # the third, and one that comes later
            assert browse(sandbox, f"{scheme}://shop.example/")[0].status == 200
        assert [page.result()[0].status for page in pages] == [200, 200]


def test_a_clearance_wears_out():
    with Sandbox([Site("shop.example", Protection(max_uses=2))], latency=0) as sandbox:
        cookie = solve(sandbox)["cookies"]["cf_clearance"]
        statuses = [
            browse(sandbox, "http://shop.example/", cookie=cookie)[0].status for _ in range(3)
        ]
    assert statuses == [200, 200, 403]


def test_a_clearance_expires():
    with Sandbox([Site("shop.example", Protection(max_age=0))], latency=0) as sandbox:
        cookie = solve(sandbox)["cookies"]["cf_clearance"]
        assert browse(sandbox, "http://shop.example/", cookie=cookie)[0].status == 403


def test_an_old_cookie_is_worth_nothing_once_renewed():
    with Sandbox([Site("shop.example", Protection(renew_every=1))], latency=0) as sandbox:
        cookie = solve(sandbox)["cookies"]["cf_clearance"]
        response, _ = browse(sandbox, "http://shop.example/", cookie=cookie)
        newer = response.headers["Set-Cookie"].partition(";")[0].partition("=")[2]
        assert browse(sandbox, "http://shop.example/", cookie=cookie)[0].status == 403
        assert browse(sandbox, "http://shop.example/", cookie=newer)[0].status == 200


@pytest.mark.parametrize(
    ("url", "status"),
    [
        ("http://open.example/", 200),
        ("http://block.example/", 403),
        ("http://limit.example/", 429),
        ("http://form.example/", 200),
        ("http://nowhere.example/", 502),
        ("http://open.example/status?code=418", 418),
        ("http://open.example/redirect?to=/x", 302),
        ("http://open.example/robots.txt", 200),
    ],
)
def test_open_sites(sandbox, url, status):
    response, _ = browse(sandbox, url)
    assert response.status == status
    assert "cf-mitigated" not in response.headers


def test_the_proxy_wants_a_password(sandbox):
    response, _ = browse(sandbox, "http://open.example/", password="wrong")
    assert response.status == 407
    with pytest.raises(OSError, match="407"):
        browse(sandbox, "https://open.example/", password="wrong")
    assert sandbox.report()["refused_by_proxy"] == 2


SHARED, OWN = False, True
PAGES = ["http://open.example/", "https://open.example/"]


def leaves(sandbox, url, own_port=SHARED, user="exit1"):
    """The status of a page by an exit; None if there is no answer."""
    try:
        return browse(sandbox, url, user=user, own_port=own_port)[0].status
    except ConnectionRefusedError:
        return "refused"
    except (http.client.RemoteDisconnected, ConnectionResetError):
        return "dropped"
    except OSError as error:  # the tunnel
        return int(str(error).split()[3])


@pytest.mark.parametrize("url", PAGES)
@pytest.mark.parametrize(("own_port", "how"), [(SHARED, "dropped"), (OWN, "refused")])
def test_an_exit_dies_alone_and_comes_back(sandbox, url, own_port, how):
    assert leaves(sandbox, url, own_port) == 200
    for _ in range(2):
        sandbox.exits.dead("exit1")
        assert leaves(sandbox, url, own_port) == how
        assert leaves(sandbox, url, own_port, user="exit2") == 200
        sandbox.exits.working("exit1")
        assert leaves(sandbox, url, own_port) == 200


@pytest.mark.parametrize("url", PAGES)
def test_a_gateway_answers_for_its_dead_exit(sandbox, url):
    sandbox.exits.dead("exit1", "exit2", status=502)
    assert [leaves(sandbox, url, user=f"exit{n}") for n in (1, 2, 3)] == [502, 502, 200]


def test_an_exit_that_is_dead_from_the_start_refuses_connections(sandbox):
    sandbox.exits.dead("exit1")
    assert leaves(sandbox, "http://open.example/", OWN) == "refused"
    assert sandbox.proxy_url("exit1", own_port=True) == sandbox.proxy_url("exit1", own_port=True)


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_what_is_under_way_dies_with_the_port_of_its_exit(scheme):
    with Sandbox([Site("shop.example", together=2)]) as sandbox, ThreadPoolExecutor(1) as pool:
        page = pool.submit(leaves, sandbox, f"{scheme}://shop.example/", OWN)
        wait_for(lambda: len(sandbox.edge.visits) == 1)
        sandbox.exits.dead("exit1")
        assert page.result() == "dropped"


@pytest.mark.parametrize("url", PAGES)
def test_an_exit_that_wants_other_credentials(sandbox, url):
    sandbox.exits.other_credentials("exit1")
    assert [leaves(sandbox, url, user=user) for user in ("exit1", "exit2")] == [407, 200]
    assert sandbox.report()["refused_by_proxy"] == 1


@pytest.mark.parametrize("url", PAGES)
def test_a_slow_exit_delays_each_answer(sandbox, url):
    began = time.monotonic()
    sandbox.exits.slow("exit1", 0.2)
    assert leaves(sandbox, url) == 200
    assert time.monotonic() - began >= 0.2


def test_an_exit_may_die_by_what_it_carries(sandbox):
    """Told by the thread that answers."""
    visit = sandbox.edge.visit

    def last_visit(*args):
        sandbox.exits.dead("exit1")
        return visit(*args)

    sandbox.edge.visit = last_visit
    leaves(sandbox, "http://open.example/", OWN)
    wait_for(lambda: leaves(sandbox, "http://open.example/", OWN) == "refused")
    assert len(sandbox.edge.visits) == 1


@pytest.mark.parametrize(
    ("how", "why"),
    [("dead", "does not answer"), ("other_credentials", "refused the user name")],
)
def test_the_worker_cannot_use_such_an_exit_either(sandbox, how, why):
    getattr(sandbox.exits, how)("exit1")
    task = {**GOOD, "proxy": sandbox.proxy_url()}
    created = call(sandbox, "createTask", {"clientKey": sandbox.key, "task": task})
    assert created["errorId"] == 0
    polled = {"clientKey": sandbox.key, "taskId": created["taskId"]}
    wait_for(lambda: call(sandbox, "getTaskResult", polled)["status"] == "error")
    sandbox.exits.working("exit1")
    answer = call(sandbox, "getTaskResult", polled)
    assert (answer["errorId"], answer["status"]) == (1, "error")
    assert answer["errorCode"] == "ERROR_PROXY_CONNECT"
    assert why in answer["errorDescription"]
    assert solve(sandbox)["cookies"]
    assert solve(sandbox, user="exit2")["cookies"]


def test_by_a_slow_exit_a_task_takes_longer(sandbox):
    sandbox.exits.slow("exit1", 0.3)
    began = time.monotonic()
    solve(sandbox)
    assert time.monotonic() - began >= 0.3


def test_without_the_proxy_the_first_site_answers(sandbox):
    site = urlsplit(sandbox.direct_url)
    connection = http.client.HTTPConnection(site.hostname, site.port, timeout=5)
    connection.request("GET", "/")
    assert connection.getresponse().status == 403
    connection.close()
    assert sandbox.edge.visits[-1].exit == "direct"


GOOD = {"type": "CloudFlare5STask", "websiteURL": "http://shop.example/"}


@pytest.mark.parametrize(
    ("method", "payload", "code"),
    [
        ("createTask", b"{", "ERROR_CONTENT_TYPE_ERROR"),
        ("createTask", b"[]", "ERROR_REQUEST_PARAMETERS"),
        ("nothing", {}, "ERROR_NOT_FOUND"),
        ("getBalance", {"clientKey": "wrong"}, "ERROR_KEY_DOES_NOT_EXIST"),
        ("createTask", {}, "ERROR_REQUEST_PARAMETERS"),
        ("createTask", {"task": {**GOOD, "type": "Other"}}, "ERROR_TASK_TYPE_NOT_SUPPORTED"),
        ("createTask", {"task": GOOD}, "ERROR_REQUEST_PROXY_MISSING"),
        ("createTask", {"task": {**GOOD, "proxy": "http://u:no@h:1"}}, "ERROR_REQUEST_PARAMETERS"),
        (
            "createTask",
            {"task": {**GOOD, "proxy": "", "rqData": "x"}},
            "ERROR_REQUEST_PROXY_MISSING",
        ),
        (
            "createTask",
            {"task": {**GOOD, "proxy": None, "rqData": "x"}},
            "ERROR_REQUEST_PROXY_MISSING",
        ),
        ("getTaskResult", {"taskId": "unknown"}, "ERROR_TASK_NOT_EXIST"),
    ],
)
def test_the_service_refuses_what_the_real_one_would(sandbox, method, payload, code):
    if isinstance(payload, dict):
        payload = {"clientKey": sandbox.key, **payload}
    answer = call(sandbox, method, payload)
    assert (answer["errorId"], answer["errorCode"]) == (1, code)


def test_rq_data_must_be_an_object(sandbox):
    task = {**GOOD, "proxy": sandbox.proxy_url(), "rqData": "a=1"}
    answer = call(sandbox, "createTask", {"clientKey": sandbox.key, "task": task})
    assert answer["errorCode"] == "ERROR_REQUEST_PARAMETERS"


def test_an_empty_account_pays_nothing():
    with Sandbox(balance=30, latency=0) as sandbox:
        solve(sandbox)
        task = {**GOOD, "proxy": sandbox.proxy_url()}
        answer = call(sandbox, "createTask", {"clientKey": sandbox.key, "task": task})
        assert answer["errorCode"] == "ERROR_ZERO_BALANCE"
        assert call(sandbox, "getBalance", {"clientKey": sandbox.key})["balance"] == 10


def test_a_get_is_refused(sandbox):
    assert call(sandbox, "createTask", {}, "GET")["errorCode"] == "ERROR_REQUEST_METHOD"


def test_it_tells_what_it_saw(sandbox):
    browse(sandbox, "http://shop.example/")
    browse(sandbox, "http://open.example/")
    report = call(sandbox, "_sandbox", b"")
    assert (report["pages"], report["challenges"], report["tasks"]) == (1, 1, 0)
    assert report["hosts"]["shop.example"] == {"challenge": 1}


def test_garbage_on_a_connection_is_dropped(sandbox):
    import socket

    service = urlsplit(sandbox.api_url)
    with socket.create_connection((service.hostname, service.port), timeout=5) as raw:
        raw.sendall(b"\x16\x03\x01 this is no HTTP\r\n\r\n")
        assert raw.recv(100) == b""


def test_it_can_be_stopped_twice():
    sandbox = Sandbox()
    sandbox.start()
    sandbox.stop()
    sandbox.stop()
    with pytest.raises(OSError, match="refused"):
        call(sandbox, "getBalance", {})


COMMAND = [sys.executable, "-m", "scrapy_ezcaptcha.sandbox"]


def test_from_the_shell():
    process = subprocess.Popen([*COMMAND, "--latency", "0.1"], stdout=subprocess.PIPE, text=True)
    lines = []
    while not lines or "Ctrl-C stops" not in lines[-1]:
        lines.append(process.stdout.readline())
        assert lines[-1], lines
    (export,) = [line for line in lines if line.startswith("export ")]
    (crawl,) = [line for line in lines if line.startswith("scrapy crawl NAME ")]
    said = dict(part.split("=", 1) for part in shlex.split(export)[1:])
    assert set(said) == {"EZCAPTCHA_CLIENT_KEY", "http_proxy", "https_proxy"}
    assert re.fullmatch(r"http://exit1:[^@]+@127\.0\.0\.1:\d+", said["https_proxy"])
    assert re.search(r" -s EZCAPTCHA_API_URL=http://127\.0\.0\.1:\d+ -s EZCAPTCHA_POLL", crawl)
    assert "shop.example" in lines[0]
    process.send_signal(signal.SIGINT)
    rest, _ = process.communicate(timeout=10)
    assert process.returncode == 0
    assert json.loads(rest)["tasks"] == 0


def test_what_it_says_in_the_shell_is_what_python_code_gets():
    with Sandbox(latency=5, key="with 'quotes'") as sandbox:
        lines = usage(sandbox)
        (export,) = [line for line in lines if line.startswith("export ")]
        (crawl,) = [line for line in lines if line.startswith("scrapy ")]
        assert dict(part.split("=", 1) for part in shlex.split(export)[1:]) == sandbox.environment()
        assert shlex.split(crawl) == ["scrapy", "crawl", "NAME", *sandbox.arguments()]


def test_a_port_that_is_taken_is_one_line():
    with Sandbox() as sandbox:
        port = str(urlsplit(sandbox.api_url).port)
        done = run_without([*COMMAND, "--proxy-port", port])
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("The sandbox cannot listen: ")


def run_without(command, package=None, folder=None):
    """Run *command*, in a world in which *package* is not installed."""
    environment = dict(os.environ)
    if package:
        text = f"raise ModuleNotFoundError(\"No module named '{package}'\", name={package!r})"
        (folder / f"{package}.py").write_text(text)
        environment["PYTHONPATH"] = f"{folder}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.parametrize("package", ["h11", "h2", "trustme"])
def test_without_its_extra_one_line_says_what_to_install(package, tmp_path):
    advice = f"the sandbox needs {package}: pip install 'scrapy-ezcaptcha[sandbox]'"
    done = run_without(COMMAND, package, tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert advice in line
    done = run_without([sys.executable, "-c", "import scrapy_ezcaptcha.sandbox"], package, tmp_path)
    assert done.returncode == 1
    assert done.stderr.count("Traceback") == 1
    assert done.stderr.splitlines()[-1] == f"ImportError: {advice}"
