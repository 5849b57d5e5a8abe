"""An unsolvable challenge goes to the spider unchanged, with a reason, and costs nothing else."""

from __future__ import annotations

import pytest
from support import via

from scrapy_ezcaptcha.sandbox import Fault, Protection, Sandbox, Site

QUICK = {"EZCAPTCHA_POLL_INTERVAL": 0.05}
NO_BODY = {"EZCAPTCHA_USE_BODY": "never"}

CREDENTIALS = ("ERROR_KEY_DOES_NOT_EXIST", "ERROR_KEY_NOT_AVAILABLE", "ERROR_ZERO_BALANCE")
THROTTLED = ("ERROR_REQUEST_LIMIT", "ERROR_REQUEST_BANNED")
TERMINAL = (
    "ERROR_CONTENT_TYPE_ERROR",
    "ERROR_REQUEST_PARAMETERS",
    "ERROR_TASK_TYPE_NOT_SUPPORTED",
    "ERROR_WEBSITE_NOT_ALLOWED",
)
PASSING = ("ERROR_INTERNAL_SERVER_ERROR", "ERROR_SERVICE_UNAVAILABLE", "ERROR_OF_TOMORROW")


def protected_and_open(sandbox, protected=1):
    return [
        *(
            {"url": f"http://shop.example/item/{number}", "meta": via(sandbox)}
            for number in range(1, protected + 1)
        ),
        {"url": "http://open.example/", "meta": via(sandbox)},
    ]


def assert_unsolved(result, reason, *, protected=1):
    """The protected pages came as challenges with *reason*; the open page was untouched."""
    unsolved = [page for page in result.pages if "shop.example" in page["url"]]
    assert len(unsolved) == protected
    for page in unsolved:
        assert page["status"] == 403
        assert page["flags"] == ["ezcaptcha-unsolved"]
        assert reason in page["error"]
        assert "\n" not in page["error"]
        assert "_cf_chl_opt" in page["body"]  # as it came
    opened = [page for page in result.pages if "open.example" in page["url"]]
    assert [(page["status"], page["flags"]) for page in opened] == [(200, [])]
    assert result.errors == []
    assert result.stats["finish_reason"] == "finished"
    assert result.stat("requests/gave_up") == protected
    assert "Traceback" not in result.log


@pytest.mark.parametrize("code", CREDENTIALS)
def test_credential_errors_stop_all_calls_and_are_said_once(crawl, code):
    faults = [Fault("createTask", code=code, times=None, status=400)]
    with Sandbox(latency=0.1, faults=faults) as sandbox:
        result = crawl(sandbox, protected_and_open(sandbox, 20), settings=QUICK)
    assert_unsolved(result, code, protected=20)
    assert sandbox.service.calls == {"createTask": 1}
    assert result.log.count("No more challenges are solved") == 1


def test_a_wrong_key_is_called_once_for_two_hundred_requests_of_many_sites(crawl):
    sites = [Site(f"shop{number}.example", Protection()) for number in range(20)]
    with Sandbox(sites, latency=0.1) as sandbox:
        requests = [
            {"url": f"http://shop{number % 20}.example/item/{number}", "meta": via(sandbox)}
            for number in range(200)
        ]
        settings = {"EZCAPTCHA_CLIENT_KEY": "wrong", "CONCURRENT_REQUESTS": 64}
        result = crawl(sandbox, requests, settings=settings)
    assert sandbox.service.calls == {"createTask": 1}
    assert result.stat("requests/gave_up") == 200
    assert len(result.pages) == 200


@pytest.mark.parametrize("code", TERMINAL)
def test_terminal_errors_are_not_sent_again(crawl, code):
    faults = [Fault("createTask", code=code, times=None, status=400)]
    with Sandbox(latency=0.1, faults=faults) as sandbox:
        result = crawl(sandbox, protected_and_open(sandbox), settings=QUICK)
    assert_unsolved(result, code)
    assert sandbox.service.calls == {"createTask": 1}
    assert result.stat(f"tasks/failed/{code}") == 1


@pytest.mark.parametrize("code", THROTTLED)
def test_a_creation_refused_in_passing_is_sent_again_and_paid_once(crawl, code):
    faults = [Fault("createTask", code=code, times=2, status=429)]
    with Sandbox(latency=0.1, faults=faults) as sandbox:
        result = crawl(sandbox, protected_and_open(sandbox), settings=QUICK)
    assert [page["status"] for page in result.pages] == [200, 200]
    assert sandbox.service.calls["createTask"] == 3
    assert len(sandbox.service.tasks) == 1


@pytest.mark.parametrize("code", PASSING)
def test_a_creation_that_may_be_paid_for_is_not_sent_again(crawl, code):
    faults = [Fault("createTask", code=code, times=2, status=500)]
    with Sandbox(latency=0.1, faults=faults) as sandbox:
        result = crawl(sandbox, protected_and_open(sandbox), settings=QUICK)
    assert_unsolved(result, code)
    assert sandbox.service.calls == {"createTask": 1}


@pytest.mark.parametrize("code", THROTTLED)
def test_a_creation_that_is_throttled_for_good_is_given_up_in_the_end(crawl, code):
    faults = [Fault("createTask", code=code, times=None, status=429)]
    with Sandbox(latency=0.1, faults=faults) as sandbox:
        settings = QUICK | {"EZCAPTCHA_SOLVE_TIMEOUT": 1}
        result = crawl(sandbox, protected_and_open(sandbox), settings=settings)
    assert_unsolved(result, code)
    assert 4 <= sandbox.service.calls["createTask"] <= 8


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(
            Fault("getTaskResult", code="ERROR_REQUEST_LIMIT", status=429), id="throttled"
        ),
        pytest.param(Fault("getTaskResult", status=500, times=5), id="outage"),
        pytest.param(Fault("getTaskResult", "html", status=502, times=5), id="html"),
        pytest.param(Fault("getTaskResult", "garbage", times=5), id="broken-json"),
        pytest.param(Fault("getTaskResult", "close", times=5), id="closed"),
        pytest.param(Fault("getTaskResult", code="ERROR_OF_TOMORROW", times=2), id="unknown"),
    ],
)
def test_a_poll_failing_in_passing_loses_nothing(crawl, fault):
    with Sandbox(latency=0.1, faults=[fault]) as sandbox:
        result = crawl(sandbox, protected_and_open(sandbox), settings=QUICK)
    assert [page["status"] for page in result.pages] == [200, 200]
    assert len(sandbox.service.tasks) == 1


def test_a_silent_poll_is_cut_off_and_asked_again(crawl):
    faults = [Fault("getTaskResult", "silent")]
    with Sandbox(latency=0.1, faults=faults) as sandbox:
        settings = {**QUICK, "EZCAPTCHA_HTTP_TIMEOUT": 0.5}
        result = crawl(sandbox, protected_and_open(sandbox), settings=settings)
    assert [page["status"] for page in result.pages] == [200, 200]
    assert len(sandbox.service.tasks) == 1


@pytest.mark.parametrize("kind", ["close", "html", "garbage", "silent"])
def test_a_creation_that_may_have_arrived_is_never_sent_again(crawl, kind):
    faults = [Fault("createTask", kind, times=None)]
    with Sandbox(latency=0.1, faults=faults) as sandbox:
        settings = {**QUICK, "EZCAPTCHA_HTTP_TIMEOUT": 0.5}
        result = crawl(sandbox, protected_and_open(sandbox), settings=settings)
    reason = "HTTP 200" if kind in {"html", "garbage"} else "createTask: "
    assert_unsolved(result, reason)
    assert sandbox.service.calls == {"createTask": 1}


def test_a_service_that_is_down_is_a_reason_not_a_traceback(crawl, sandbox):
    settings = {**QUICK, "EZCAPTCHA_API_URL": "http://127.0.0.1:9"}
    result = crawl(sandbox, protected_and_open(sandbox), settings=settings)
    assert_unsolved(result, "refused")
    assert result.stat("tasks/failed/TRANSPORT_ERROR") == 1


def test_a_failed_task_is_tried_once_more(crawl):
    faults = [Fault("getTaskResult", code="ERROR_OF_THE_WORKER", times=3)]
    with Sandbox(latency=0.1, faults=faults) as sandbox:
        result = crawl(sandbox, protected_and_open(sandbox), settings=QUICK)
    assert [page["status"] for page in result.pages] == [200, 200]
    assert len(sandbox.service.tasks) == 2
    assert result.stat("tasks/failed/ERROR_OF_THE_WORKER") == 1


def test_a_task_without_end_is_given_up_at_the_solve_timeout(crawl):
    with Sandbox(latency=60) as sandbox:
        settings = {**QUICK, "EZCAPTCHA_SOLVE_TIMEOUT": 0.5, "EZCAPTCHA_MAX_ATTEMPTS": 1}
        result = crawl(sandbox, protected_and_open(sandbox), settings=settings)
    assert_unsolved(result, "no result within 0.5 s")
    assert len(sandbox.service.tasks) == 1


@pytest.mark.parametrize(
    ("solution", "reason"),
    [
        ({"cookies": None}, "no cf_clearance"),
        ({"header": None}, "no User-Agent"),
        ({"header": None, "cookies": None, "body": None}, "no cf_clearance"),
    ],
)
def test_an_incomplete_solution_is_a_reason(crawl, solution, reason):
    with Sandbox(latency=0.1, solution=solution) as sandbox:
        settings = QUICK | NO_BODY
        result = crawl(sandbox, protected_and_open(sandbox), settings=settings)
    assert_unsolved(result, reason)
    assert len(sandbox.service.tasks) == 2
    assert result.stat("tasks/failed/UNEXPECTED_RESPONSE") == 2


@pytest.mark.parametrize(("attempts", "solves"), [(1, "1 solve"), (2, "2 solves"), (3, "3 solves")])
def test_a_zone_that_never_accepts_is_given_up_after_max_attempts(crawl, attempts, solves):
    sites = [Site("shop.example", Protection(accepts=False)), Site("open.example")]
    with Sandbox(sites, latency=0.1) as sandbox:
        settings = {"EZCAPTCHA_MAX_ATTEMPTS": attempts, "EZCAPTCHA_BREAKER_FAILURES": 9, **NO_BODY}
        result = crawl(sandbox, protected_and_open(sandbox), settings=settings)
    assert_unsolved(result, f"still challenged after {solves}")
    assert len(sandbox.service.tasks) == attempts
    assert result.stat("clearances/rejected") == attempts


def test_max_attempts_of_the_request_wins(crawl):
    sites = [Site("shop.example", Protection(accepts=False))]
    with Sandbox(sites, latency=0.1) as sandbox:
        meta = via(sandbox, max_attempts=1)
        result = crawl(sandbox, [{"url": "http://shop.example/", "meta": meta}], settings=NO_BODY)
    assert result.pages[0]["error"] == "still challenged after 1 solve"
    assert len(sandbox.service.tasks) == 1


def test_without_opt_in_the_challenge_passes_unchanged_and_nothing_is_called(crawl, sandbox):
    proxy = {"proxy": sandbox.proxy_url()}
    requests = [
        {"url": "http://shop.example/item/1", "meta": proxy},
        {"url": "http://shop.example/item/2", "meta": {**proxy, "ezcaptcha": False}},
    ]
    result = crawl(sandbox, requests)
    assert [(page["status"], page["flags"]) for page in result.pages] == [(403, [])] * 2
    assert sandbox.service.calls == {}
    assert not any(key.startswith("ezcaptcha/") for key in result.stats)


def test_false_in_meta_wins_over_transparent_mode(crawl, sandbox):
    meta = {"proxy": sandbox.proxy_url(), "ezcaptcha": False}
    settings = {"EZCAPTCHA_TRANSPARENT_MODE": True}
    result = crawl(sandbox, [{"url": "http://shop.example/", "meta": meta}], settings=settings)
    assert [(page["status"], page["flags"]) for page in result.pages] == [(403, [])]
    assert sandbox.service.calls == {}


@pytest.mark.parametrize(("opted_in", "flags"), [(True, ["ezcaptcha-unsolved"]), (False, [])])
def test_outside_the_allowed_domains_nothing_is_solved(crawl, sandbox, opted_in, flags):
    meta = via(sandbox) if opted_in else {"proxy": sandbox.proxy_url()}
    settings = {"EZCAPTCHA_TRANSPARENT_MODE": True, "EZCAPTCHA_ALLOWED_DOMAINS": ["other.example"]}
    result = crawl(sandbox, [{"url": "http://shop.example/", "meta": meta}], settings=settings)
    assert [page["flags"] for page in result.pages] == [flags]
    assert sandbox.service.calls == {}


@pytest.mark.parametrize(
    ("meta", "settings", "reason"),
    [
        pytest.param({}, {}, "the request has no proxy", id="none"),
        pytest.param({"proxy": None}, {}, "the request has no proxy", id="explicitly-none"),
    ],
)
def test_without_a_proxy_it_says_once_what_to_set(crawl, meta, settings, reason):
    with Sandbox([Site("127.0.0.1", Protection())], latency=0.1) as sandbox:
        requests = [
            {"url": f"{sandbox.direct_url}/item/{n}", "meta": {"ezcaptcha": True, **meta}}
            for n in range(5)
        ]
        result = crawl(sandbox, requests, settings=settings)
    assert len(result.pages) == 5
    assert all(reason in page["error"] for page in result.pages)
    assert sandbox.service.calls == {}
    assert result.log.count("WARNING: The challenge of") == 1
    assert "EZCAPTCHA_PROXY" in result.log


@pytest.mark.parametrize("env", [{}, {"no_proxy": "127.0.0.1"}])
def test_no_proxy_in_the_environment_counts(crawl, env):
    with Sandbox([Site("127.0.0.1", Protection())], latency=0.1) as sandbox:
        request = {"url": f"{sandbox.direct_url}/", "meta": {"ezcaptcha": True}}
        result = crawl(sandbox, [request], env={"http_proxy": sandbox.proxy_url(), **env})
    (page,) = result.pages
    assert page["status"] == (403 if env else 200)
    assert len(sandbox.service.tasks) == (0 if env else 1)


def test_a_private_proxy_is_refused_unless_the_service_is_on_loopback(crawl, sandbox):
    settings = {"EZCAPTCHA_API_URL": "https://api.service.invalid"}
    result = crawl(sandbox, protected_and_open(sandbox), settings=settings)
    assert_unsolved(result, "private or loopback address")
    assert sandbox.service.calls == {}


def test_a_proxy_without_credentials_is_named_without_a_call(crawl, sandbox):
    bare = sandbox.proxy_url().replace("exit1:sandbox-password@", "")
    meta = {"proxy": sandbox.proxy_url(), "ezcaptcha": {"proxy": bare}}
    result = crawl(sandbox, [{"url": "http://shop.example/", "meta": meta}])
    assert "no user name and password" in result.pages[0]["error"]
    assert sandbox.service.calls == {}


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ("yes", "must be True, False or a dict"),
        ({"poxy": "http://u:p@h:1"}, "unknown key 'poxy'"),
        ({"max_attempts": "2"}, "'max_attempts'"),
        ({"rq_data": "a=1"}, "'rq_data'"),
        ({"proxy": "http://"}, "not a URL"),
        ({"website_url": "shop"}, "website_url"),
    ],
)
def test_a_wrong_meta_is_an_error_of_that_request_alone(crawl, sandbox, options, reason):
    wrong = {"proxy": sandbox.proxy_url(), "ezcaptcha": options}
    requests = [
        {"url": "http://shop.example/1", "meta": wrong},
        {"url": "http://open.example/", "meta": via(sandbox)},
    ]
    result = crawl(sandbox, requests)
    assert [page["url"] for page in result.pages] == ["http://open.example/"]
    (error,) = result.errors
    assert error["type"] == "InvalidOptions"
    assert reason in error["text"]
    assert sandbox.report()["challenges"] == 0
    assert "Traceback" not in result.log


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"EZCAPTCHA_CLIENT_KEY": None}, "no EzCaptcha key; set EZCAPTCHA_CLIENT_KEY"),
        ({"EZCAPTCHA_ENABLED": False}, "Enabled downloader middlewares"),
    ],
)
def test_without_a_key_the_crawl_is_as_without_the_middleware(crawl, sandbox, settings, said):
    result = crawl(sandbox, protected_and_open(sandbox), settings=settings)
    assert sorted(page["status"] for page in result.pages) == [200, 403]
    assert all(page["flags"] == [] for page in result.pages)
    assert said in result.log
    assert sandbox.service.calls == {}


@pytest.mark.parametrize("variable", ["EZCAPTCHA_CLIENT_KEY", "EZCAPTCHA_API_KEY"])
def test_the_key_may_come_from_the_environment(crawl, sandbox, variable):
    settings = {"EZCAPTCHA_CLIENT_KEY": None}
    env = {variable: sandbox.key}
    result = crawl(sandbox, protected_and_open(sandbox), settings=settings, env=env)
    assert [page["status"] for page in result.pages] == [200, 200]


def test_a_domain_that_is_not_allowed_is_given_up_with_its_code(crawl, sandbox):
    settings = {"EZCAPTCHA_ALLOWED_DOMAINS": ["other.example"]}
    result = crawl(sandbox, protected_and_open(sandbox), settings=settings)
    assert_unsolved(result, "EZCAPTCHA_ALLOWED_DOMAINS has no shop.example")
    assert sandbox.service.calls == {}
    failed = [signal for signal in result.signals if signal[0] == "failed"]
    assert [signal[3].partition(":")[0] for signal in failed] == ["DOMAIN_NOT_ALLOWED"]
