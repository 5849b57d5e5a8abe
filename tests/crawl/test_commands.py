"""``scrapy ezcaptcha``, run as a user runs it."""

from __future__ import annotations

import json
import os
import pty
import re
import shlex
import signal
import subprocess
import sys
import time

import pytest
import scrapy
from support import clean_environment, run_command

from scrapy_ezcaptcha.clearances.clearance import Clearance
from scrapy_ezcaptcha.clearances.known import Record
from scrapy_ezcaptcha.exit import Exit
from scrapy_ezcaptcha.sandbox import Fault, Protection, Sandbox, Site
from scrapy_ezcaptcha.stores import Store
from scrapy_ezcaptcha.stores.redis import RedisBackend
from scrapy_ezcaptcha.stores.sqlite import SqliteBackend

ADDON = {"ADDONS": '{"scrapy_ezcaptcha.Addon": 500}'}
# Tests that run in the background may have Ctrl-C ignored.
WITH_CTRL_C = (
    "import runpy, signal; signal.signal(signal.SIGINT, signal.default_int_handler);"
    "runpy.run_module('scrapy', run_name='__main__', alter_sys=True)"
)
COMMAND = [sys.executable, "-m", "scrapy", "ezcaptcha"]


@pytest.fixture
def run(tmp_path):
    """Runs the command in a folder of its own; settings as keyword arguments."""

    def run(sandbox, *arguments, env=None, **settings):
        options = [part for name, value in settings.items() for part in ("-s", f"{name}={value}")]
        return run_command(
            ["ezcaptcha", *arguments, *sandbox.arguments(), *options],
            env=clean_environment(**(sandbox.environment() | (env or {}))),
            cwd=tmp_path,
        )

    return run


class TestDoctor:
    def test_a_right_set_up_passes(self, run, sandbox):
        done = run(sandbox, "doctor", **ADDON)
        assert done.returncode == 0, done.stdout
        verdicts = {line.split()[0] for line in done.stdout.splitlines()}
        assert verdicts == {"pass"}
        assert "100,000 points (10.0000 USD)" in done.stdout
        assert "\x1b" not in done.stdout + done.stderr
        assert sandbox.service.calls == {"getBalance": 1}

    @pytest.mark.parametrize(
        ("env", "settings", "said"),
        [
            pytest.param({"EZCAPTCHA_CLIENT_KEY": ""}, {}, "key there is no key; set EZ", id="key"),
            pytest.param(
                {},
                {"EZCAPTCHA_STORE": "redis://127.0.0.1:9"},
                "store EZCAPTCHA_STORE does not answer: ConnectionError",
                id="store",
            ),
            pytest.param(
                {"EZCAPTCHA_CLIENT_KEY": "wrong"},
                {},
                "refuses the key: ERROR_KEY_DOES",
                id="wrong-key",
            ),
            pytest.param(
                {},
                {"EZCAPTCHA_API_URL": "http://127.0.0.1:9"},
                "service http://127.0.0.1:9 does not answer",
                id="unreachable",
            ),
            pytest.param({}, {"ADDONS": "{}"}, "middleware not enabled: set ADDONS", id="absent"),
            pytest.param(
                {},
                {"DOWNLOADER_MIDDLEWARES": '{"scrapy_ezcaptcha.EzCaptchaMiddleware": 560}'},
                "EzCaptchaMiddleware at 560 and MetaRefreshMiddleware at 580",
                id="order",
            ),
            pytest.param(
                {"http_proxy": "http://proxy.example:8080"},
                {},
                "http_proxy: the proxy proxy.example:8080 has no user name",
                id="proxy-without-credentials",
            ),
            pytest.param(
                {},
                {"EZCAPTCHA_PROXY": "gopher://user:password@host:1"},
                "EZCAPTCHA_PROXY: the proxy is not a URL of the form",
                id="proxy-of-another-kind",
            ),
            pytest.param(
                {},
                {"EZCAPTCHA_API_URL": "https://localhost.invalid"},
                "http_proxy: the proxy 127.0.0.1",
                id="private-proxy",
            ),
            pytest.param(
                {}, {"TWISTED_REACTOR_ENABLED": "False"}, "TWISTED_REACTOR_ENABLED is", id="reactor"
            ),
            pytest.param(
                {}, {"EZCAPTCHA_MAX_TASKS": "many"}, "EZCAPTCHA_MAX_TASKS is 'many'", id="type"
            ),
            pytest.param(
                {}, {"EZCAPTCHA_MAXTASKS": "1"}, "did you mean EZCAPTCHA_MAX_TASKS?", id="name"
            ),
            pytest.param({}, {"EZCAPTCHA_ENABLED": "False"}, "nothing is solved", id="off"),
            pytest.param(
                {},
                {"EZCAPTCHA_IMPERSONATE": "True"},
                "needs scrapy_impersonate.ImpersonateDownloadHandler",
                id="impersonate",
            ),
            pytest.param(
                {},
                {
                    "DOWNLOAD_HANDLERS": json.dumps(
                        {"https": "scrapy.core.downloader.handlers.http2.H2DownloadHandler"}
                    )
                },
                "the download handler of https does not support proxies",
                id="handler",
            ),
        ],
    )
    def test_it_finds_a_mistake_and_nothing_else(self, run, sandbox, env, settings, said):
        done = run(sandbox, "doctor", env=env, **(ADDON | settings))
        assert done.returncode == 1
        failed = [line for line in done.stdout.splitlines() if line.startswith("FAIL")]
        assert said in " ".join(failed[0].split())
        # the proxies of an environment are two, and no service answers the private one
        assert len(failed) <= (3 if "private" in failed[0] else 1)

    def test_an_empty_account_is_found(self, run):
        with Sandbox(balance=0) as sandbox:
            done = run(sandbox, "doctor", **ADDON)
        assert done.returncode == 1
        assert "0 points (0.0000 USD): top up the account" in done.stdout

    def test_everything_at_any_site_is_noted(self, run, sandbox):
        done = run(sandbox, "doctor", EZCAPTCHA_TRANSPARENT_MODE="True", **ADDON)
        assert done.returncode == 0
        assert "note scope" in done.stdout
        limits = {"EZCAPTCHA_ALLOWED_DOMAINS": "shop.example"}
        done = run(sandbox, "doctor", EZCAPTCHA_TRANSPARENT_MODE="True", **ADDON, **limits)
        assert "every request to shop.example" in done.stdout

    def test_offline_it_calls_nobody(self, run, sandbox):
        done = run(sandbox, "doctor", "--offline", **ADDON)
        assert done.returncode == 0
        assert sandbox.service.calls == {}

    def test_the_store_is_looked_at(self, run, sandbox, tmp_path):
        path = tmp_path / "clearances.sqlite"
        done = run(sandbox, "doctor", "--offline", **ADDON, EZCAPTCHA_STORE=str(path))
        assert f"pass store      {path}, not created yet" in done.stdout
        assert not path.exists()
        SqliteBackend(path).close()
        done = run(sandbox, "doctor", "--offline", **ADDON, EZCAPTCHA_STORE=str(path))
        assert f"pass store      {path}\n" in done.stdout
        path.write_text("no store " * 1000)
        done = run(sandbox, "doctor", "--offline", **ADDON, EZCAPTCHA_STORE=str(path))
        assert "FAIL store      EZCAPTCHA_STORE does not answer: DatabaseError" in done.stdout
        server = "redis://:s3cret@127.0.0.1:9"
        done = run(sandbox, "doctor", "--offline", **ADDON, EZCAPTCHA_STORE=server)
        assert "note store      redis://127.0.0.1:9; --offline: not tried" in done.stdout
        assert "s3cret" not in done.stdout + done.stderr

    def test_the_settings_of_a_spider_count(self, run, sandbox, tmp_path):
        package = tmp_path / "shops"
        package.mkdir()
        (package / "__init__.py").touch()
        (package / "shop.py").write_text(
            "import scrapy\nclass Shop(scrapy.Spider):\n    name = 'shop'\n"
            "    custom_settings = {'EZCAPTCHA_MAX_TASKS': 'many'}\n"
        )
        (package / "settings.py").write_text("SPIDER_MODULES = ['shops']\n")
        (tmp_path / "scrapy.cfg").write_text("[settings]\ndefault = shops.settings\n")
        done = run(sandbox, "doctor", "--spider", "shop", **ADDON)
        assert done.returncode == 1
        assert "FAIL settings   EZCAPTCHA_MAX_TASKS is 'many'" in done.stdout
        assert "1 check failed. See in the documentation:\n" in done.stderr
        assert "  Settings\n" in done.stderr
        assert run(sandbox, "doctor", **ADDON).returncode == 0
        done = run(sandbox, "doctor", "--spider", "news", **ADDON)
        assert done.returncode == 2
        assert "there is no spider news; the spiders are: shop" in done.stderr + done.stdout

    def test_the_proxy_of_the_settings_is_tried(self, run, sandbox):
        proxy = sandbox.proxy_url("mine")
        label = Exit.parse(proxy).label
        arguments = ("doctor", "--url", "http://shop.example/")
        settings = {"EZCAPTCHA_PROXY": proxy, **ADDON}
        done = run(sandbox, *arguments, **settings)
        assert done.returncode == 0
        opens = f"EZCAPTCHA_PROXY: {label} opens a tunnel to shop.example:443, "
        assert f"pass proxy      {opens}" in done.stdout
        sandbox.exits.other_credentials("mine")
        done = run(sandbox, *arguments, **settings)
        assert done.returncode == 1
        said = "shop.example:443: 407 Proxy Authentication Required; check user name and password"
        assert f"FAIL proxy      EZCAPTCHA_PROXY: {label} opens no tunnel to {said}" in done.stdout
        assert "  Setup, Set the proxy\n" in done.stderr

    @pytest.mark.parametrize(
        ("others", "is_said"),
        [({}, True), ({"http_proxy": "http://u:p@127.0.0.1:1"}, False), ("pool", False)],
    )
    def test_that_first_requests_leave_without_the_proxy_is_said(
        self, run, sandbox, others, is_said
    ):
        settings = {"EZCAPTCHA_PROXY": sandbox.proxy_url("mine"), **ADDON}
        if others == "pool":
            settings["EZCAPTCHA_PROXIES"], others = sandbox.proxy_url("exit1"), {}
        env = {"http_proxy": "", "https_proxy": "", **others}
        done = run(sandbox, "doctor", "--offline", env=env, **settings)
        assert done.returncode == 0
        note = "note proxy      requests leave without EZCAPTCHA_PROXY until"
        assert (note in done.stdout) == is_said

    def test_each_proxy_of_the_pool_is_tried(self, run, sandbox):
        pool = [sandbox.proxy_url(user) for user in ("well", "slow", "dead", "gone", "refusing")]
        pool.append(sandbox.proxy_url("closed", own_port=True))
        sandbox.exits.slow("slow", 0.3)
        sandbox.exits.dead("dead", "closed")
        sandbox.exits.dead("gone", status=502)
        sandbox.exits.other_credentials("refusing")
        settings = {"EZCAPTCHA_PROXIES": ",".join(pool), **ADDON}
        done = run(sandbox, "doctor", "--url", "http://shop.example/item/1", **settings)
        assert done.returncode == 1  # for the credentials
        *tried, all_together = [
            line for line in done.stdout.splitlines() if line[5:].startswith("pool ")
        ]
        labels = [Exit.parse(proxy).label for proxy in pool]
        assert [[line[:4], *re.split(r"\s{2,}", line[15:].strip())[:2]] for line in tried] == [
            ["pass", f"1 {labels[0]}", "200 OK"],
            ["pass", f"2 {labels[1]}", "200 OK"],
            ["note", f"3 {labels[2]}", "connection closed"],
            ["note", f"4 {labels[3]}", "502 Bad Gateway"],
            ["FAIL", f"5 {labels[4]}", "407 Proxy Authentication Required"],
            ["note", f"6 {labels[5]}", "connection refused"],
        ]
        assert len({len(line) for line in tried}) == 1  # side by side
        assert float(tried[1].split()[-2]) >= 0.3
        assert "2 of 6 proxies open a tunnel to shop.example:443" in all_together
        assert sandbox.proxy_password not in done.stdout + done.stderr
        assert sandbox.edge.visits == []

    @pytest.mark.parametrize(
        ("proxy", "failed"),
        [
            ("http://u:p@proxy.example:1", []),
            (
                "https://u:p@proxy.example:1",
                ["cannot reach https:// sites through https:// proxies"],
            ),
            (
                "socks5://u:p@proxy.example:1",
                ["Scrapy's own download handler does not support socks5"],
            ),
        ],
    )
    @pytest.mark.parametrize("name", ["EZCAPTCHA_PROXIES", "EZCAPTCHA_PROXY"])
    def test_a_kind_of_proxy_that_scrapy_does_not_know(self, run, sandbox, name, proxy, failed):
        done = run(sandbox, "doctor", "--offline", **ADDON, **{name: proxy})
        found = [line for line in done.stdout.splitlines() if line.startswith("FAIL handler")]
        assert len(found) == len(failed)
        assert all(said in line for said, line in zip(failed, found, strict=True))
        other = json.dumps(dict.fromkeys(["http", "https"], "another.Handler"))
        done = run(
            sandbox, "doctor", "--offline", **ADDON, **{name: proxy}, DOWNLOAD_HANDLERS=other
        )
        assert done.returncode == 0

    def test_a_pool_of_which_no_proxy_answers(self, run, sandbox):
        sandbox.exits.dead("exit1")
        pool = {"EZCAPTCHA_PROXIES": sandbox.proxy_url("exit1")}
        done = run(sandbox, "doctor", **ADDON, **pool)
        assert done.returncode == 1
        service = sandbox.api_url.removeprefix("http://")
        assert (
            f"FAIL pool       0 of 1 proxy opens a tunnel to {service} (the service)" in done.stdout
        )
        done = run(sandbox, "doctor", "--offline", **ADDON, **pool)
        assert done.returncode == 0
        assert "note pool       1 proxy; --offline: not tried" in done.stdout

    @pytest.mark.parametrize("url", ["shop.example", "ftp://shop.example/", "http://:80/"])
    def test_a_url_that_names_no_site(self, run, sandbox, url):
        done = run(sandbox, "doctor", "--url", url, **ADDON)
        assert done.returncode == 2
        assert "--url must begin with http:// or https://" in done.stderr + done.stdout

    def test_the_key_and_the_password_are_not_shown(self, run, sandbox):
        done = run(sandbox, "doctor", **ADDON)
        for secret in (sandbox.key, sandbox.proxy_password):
            assert secret not in done.stdout + done.stderr


class TestCheck:
    @pytest.mark.parametrize(
        ("host", "status", "said"),
        [
            ("shop.example", 0, "challenge (status 403, "),
            ("old.example", 0, "): challenge form"),
            ("captcha.example", 0, "): challenge form"),
            ("open.example", 1, "no challenge (status 200, "),
            ("block.example", 1, "no challenge (status 403, "),
        ],
    )
    def test_a_url(self, run, sandbox, host, status, said):
        done = run(sandbox, "check", f"http://{host}/", **ADDON)
        assert done.returncode == status, done.stderr
        assert said in done.stdout
        assert sandbox.service.calls == {}

    def test_a_url_by_a_proxy(self, run, sandbox):
        proxy = sandbox.proxy_url("other-exit")
        done = run(sandbox, "check", "http://shop.example/", "--proxy", proxy)
        assert done.returncode == 0
        assert {visit.exit for visit in sandbox.edge.visits} == {"other-exit"}

    @pytest.mark.parametrize("env", [{}, {"no_proxy": "*"}], ids=["", "no_proxy"])
    def test_robots_txt_uses_the_same_proxy(self, run, sandbox, env):
        proxy = sandbox.proxy_url("other-exit")
        url = "http://open.example/redirect?to=http://shop.example/item/1"
        done = run(sandbox, "check", url, "--proxy", proxy, env=env, ROBOTSTXT_OBEY=True)
        assert done.stdout.startswith("challenge (status 403"), done.stderr
        visits = [(visit.exit, visit.host, visit.path) for visit in sandbox.edge.visits]
        assert [path for _, _, path in visits].count("/robots.txt") == 2
        assert {exit for exit, _, _ in visits} == {"other-exit"}

    def test_without_robots_txt_the_page_is_fetched_and_no_traceback_is_printed(self, run, sandbox):
        sandbox.service.faults.append(Fault("proxy", "close", times=1))
        proxy = sandbox.proxy_url("other-exit")
        arguments = ("check", "http://shop.example/", "--proxy", proxy)
        done = run(sandbox, *arguments, ROBOTSTXT_OBEY=True)
        assert done.stdout.startswith("challenge (status 403")
        assert "Error downloading <GET http://shop.example/>" in done.stderr
        assert "Traceback" not in done.stderr
        assert {visit.exit for visit in sandbox.edge.visits} == {"other-exit"}

    @pytest.mark.parametrize("scheme", ["http", "https"])
    def test_a_proxy_that_refuses_is_named(self, run, sandbox, scheme):
        proxy = sandbox.proxy_url().replace(sandbox.proxy_password, "wrong")
        done = run(sandbox, "check", f"{scheme}://shop.example/", "--proxy", proxy)
        assert done.returncode in {1, 2}
        assert "the proxy refuses the user name and password" in done.stdout + done.stderr

    def test_a_site_without_its_scheme(self, run, sandbox):
        done = run(sandbox, "check", "shop.example/item/1")
        assert done.returncode == 2
        assert "to fetch a page, write https://shop.example/item/1" in done.stderr

    def test_a_page_that_cannot_be_fetched(self, run, sandbox):
        done = run(sandbox, "check", "http://127.0.0.1:9/", env={"no_proxy": "*"})
        assert done.returncode == 2
        assert "could not be fetched: " in done.stderr

    @pytest.mark.parametrize(
        ("content", "verdict"),
        [
            (
                "HTTP/1.1 403 Forbidden\r\ncf-mitigated: challenge\r\n\r\n",
                "0 challenge (status 403)",
            ),
            (
                "HTTP/2 403\nserver: cloudflare\n\n<input name='jschl_vc'>",
                "0 challenge (status 403)",
            ),
            ("HTTP/2 200\nserver: cloudflare\n\n<input name='jschl_vc'>", "1 no challenge (status"),
            ("<input name='jschl_vc'>", "0 challenge (a page without its headers): challenge form"),
            ("<html></html>", "1 no challenge (a page without its headers)"),
            ("<p>error code: 1020</p>", "1 no challenge (a page without its headers): block page"),
            *(
                (f"HTTP/2 {status}\nserver: cloudflare\n\n{page}", f"1 no challenge (status {said}")
                for status, page, said in [
                    (403, '<span class="cf-error-code">1006</span>', "403): block page: the site"),
                    (403, "<h1>Sorry, you have been blocked</h1>", "403): block page: the site"),
                    (403, "<b>Error</b> 7", "403): Cloudflare or the site refuses the request"),
                    (429, "<h1>Error 1015</h1>", "429): rate limit: this address"),
                    (429, "", "429): rate limit: this address"),
                    (522, "<p>Error code <span>522</span></p>", "522): origin error 522: the"),
                    (530, "<h1>Error 1016</h1>", "530): error 1016: Cloudflare cannot find"),
                    (200, "<div class='x cf-turnstile'></div>", "200): a page with a Turnstile"),
                    (200, "<p>an article on Error 1020</p>", "200)\n"),
                    (407, "", "407): the proxy refuses the user name"),
                ]
            ),
            ("HTTP/2 403\nserver: nginx\n\nError 1020", "1 no challenge (status 403)\n"),
            ("HTTP/broken", "2 page: the first line is not an HTTP status line"),
            (None, "2 page: No such file"),
        ],
    )
    def test_a_file(self, run, sandbox, tmp_path, content, verdict):
        if content is not None:
            (tmp_path / "page").write_bytes(content.encode())
        done = run(sandbox, "check", "page")
        assert f"{done.returncode} {done.stdout}{done.stderr}".startswith(verdict)


class TestSolve:
    def test_json_that_hides_secrets_unless_they_are_asked_for(self, run, sandbox):
        done = run(sandbox, "solve", "http://shop.example/item/1")
        assert done.returncode == 0
        hidden = json.loads(done.stdout)
        assert hidden["cookies"] == {"cf_clearance": "<hidden>"}
        assert sandbox.proxy_password not in done.stdout + done.stderr
        shown = json.loads(run(sandbox, "solve", hidden["url"], "--show-secrets").stdout)
        assert len(shown["cookies"]["cf_clearance"]) > 20
        assert shown["proxy"] == sandbox.proxy_url()
        assert shown["headers"] == hidden["headers"]
        assert {"host", "connection", "accept-encoding"}.isdisjoint(shown["headers"])

    def test_the_curl_command_gets_the_page(self, run, sandbox):
        url = "http://shop.example/item/7"
        done = run(sandbox, "solve", url, "--format", "curl", "--show-secrets")
        command = [*shlex.split(done.stdout), "--silent"]
        page = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
        assert "<h1>Item 7</h1>" in page.stdout

    def test_the_scrapy_code_is_a_request(self, run, sandbox):
        url = "http://shop.example/item/7"
        done = run(sandbox, "solve", url, "--format", "scrapy", "--show-secrets")
        request = eval(done.stdout, {"scrapy": scrapy})
        assert request.url == url
        assert request.meta["proxy"] == sandbox.proxy_url()
        assert request.headers["User-Agent"].startswith(b"Mozilla/5.0")
        assert list(request.cookies) == ["cf_clearance"]

    def test_it_solves_through_the_exit_that_a_crawl_would_use(self, run, sandbox):
        """The environment's proxy goes before EZCAPTCHA_PROXY."""
        settings = {"EZCAPTCHA_PROXY": sandbox.proxy_url("setting")}
        environment = {"http_proxy": sandbox.proxy_url("environment")}
        run(sandbox, "solve", "http://shop.example/", env=environment, **settings)
        run(sandbox, "solve", "http://shop.example/", env={"http_proxy": ""}, **settings)
        exits = [task.exit for task in sandbox.service.tasks.values()]
        assert exits == ["environment", "setting"]

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            (["ftp://shop.example/"], "must begin with http://"),
            (["http://shop.example/", "--proxy", "http://host:1"], "no user name and password"),
            (["http://shop.example/", "--rq-data", "a=b"], "--rq-data must be a JSON object"),
            (["http://other.example/"], "EZCAPTCHA_ALLOWED_DOMAINS has no other.example"),
        ],
    )
    def test_what_cannot_be_solved_is_said_before_it_costs(self, run, sandbox, arguments, said):
        done = run(sandbox, "solve", *arguments, EZCAPTCHA_ALLOWED_DOMAINS="shop.example")
        assert done.returncode == 1
        assert said in done.stderr
        assert sandbox.service.calls == {}

    def test_a_solution_without_a_clearance_is_said(self, run):
        with Sandbox(latency=0.1, solution={"cookies": None}) as sandbox:
            done = run(sandbox, "solve", "http://shop.example/")
        assert done.returncode == 1
        assert "No clearance: the solution has no cf_clearance cookie." in done.stderr

    def test_a_task_that_fails_is_said_with_its_id(self, run):
        faults = [Fault("getTaskResult", code="ERROR_WEBSITE_NOT_ALLOWED")]
        with Sandbox(latency=0.1, faults=faults) as sandbox:
            done = run(sandbox, "solve", "http://shop.example/")
        assert done.returncode == 1
        assert "Not solved: ERROR_WEBSITE_NOT_ALLOWED" in done.stderr
        assert f"task {next(iter(sandbox.service.tasks))} was created" in done.stderr

    def test_ctrl_c_ends_it_at_once(self, tmp_path):
        with Sandbox([Site("shop.example", Protection())], latency=60) as sandbox:
            arguments = ["ezcaptcha", "solve", "http://shop.example/", *sandbox.arguments()]
            process = subprocess.Popen(
                [sys.executable, "-c", WITH_CTRL_C, *arguments],
                env=clean_environment(**sandbox.environment()),
                cwd=tmp_path,
                stderr=subprocess.PIPE,
                text=True,
            )
            assert process.stderr is not None
            assert "is created and paid for" in process.stderr.readline()
            process.send_signal(signal.SIGINT)
            _, rest = process.communicate(timeout=10)
        assert process.returncode == 130
        assert "Interrupted" in rest


class TestBalance:
    def test_it_is_shown_in_points_and_dollars(self, run, sandbox):
        done = run(sandbox, "balance")
        assert (done.returncode, done.stdout) == (0, "100,000 points (10.0000 USD)\n")

    def test_why_it_cannot_be_had(self, run, sandbox):
        done = run(sandbox, "balance", env={"EZCAPTCHA_CLIENT_KEY": "wrong"})
        assert done.returncode == 1
        assert "ERROR_KEY_DOES_NOT_EXIST" in done.stderr

    @pytest.mark.parametrize(
        "reactor", ["epollreactor.EPollReactor", "selectreactor.SelectReactor"]
    )
    def test_by_other_reactors(self, run, sandbox, reactor):
        done = run(sandbox, "balance", TWISTED_REACTOR=f"twisted.internet.{reactor}")
        assert done.stdout == "100,000 points (10.0000 USD)\n"


class TestClearances:
    @pytest.fixture
    def kept(self, tmp_path):
        """Three zones by one exit, and one by another."""
        path = tmp_path / "clearances.sqlite"
        store = Store(SqliteBackend(path), "sandbox-key")
        for zone in ("shop.example", "old.example", "news.example"):
            store.put(record(zone, "http://user:s3cret@proxy.example:8000"))
        store.put(record("shop.example", "http://other:s3cret@proxy.example:8000"))
        store.close()
        return {"EZCAPTCHA_STORE": str(path)}

    def test_they_are_listed_without_their_values(self, run, sandbox, kept):
        done = run(sandbox, "clearances", **kept)
        assert done.returncode == 0, done.stderr
        assert len(done.stdout.splitlines()) == 4
        line = f"old.example through {label('user')}: 5 min old, accepted by www.old.example"
        assert line in done.stdout
        assert f"shop.example through {label('other')}: 5 min old" in done.stdout
        assert "4 clearances in" in done.stderr
        for secret in ("c0okie", "s3cret", "user", sandbox.key):
            assert secret not in done.stdout + done.stderr

    @pytest.mark.parametrize(
        ("arguments", "left"),
        [
            (["--zone", "www.shop.example"], 2),
            (["--zone", "https://www.shop.example:8443/item/1"], 2),
            (["--zone", "news.example/item/1"], 3),
            (["--exit", "http://proxy.example:8000"], 0),
            (["--exit", "http://user:s3cret@proxy.example:8000"], 1),
            (["--exit", "http://proxy.example:9000"], 4),
            (["--exit", Exit("http", "proxy.example", 8000, "other").label], 3),
            (["--exit", "proxy.example:8000#000000"], 4),
            (["--zone", "shop.example", "--exit", "http://other:s3cret@proxy.example:8000"], 3),
        ],
    )
    def test_some_are_dropped_for_good(self, run, sandbox, kept, arguments, left):
        kept |= {"EZCAPTCHA_CLIENT_KEY": "sandbox-key"}
        done = run(sandbox, "clearances", "--drop", *arguments, **kept)
        noun = "clearance" if left == 3 else "clearances"
        assert f"{4 - left} matching {noun} deleted from" in done.stderr
        assert len(run(sandbox, "clearances", **kept).stdout.splitlines()) == left

    def test_a_zone_that_names_no_site(self, run, sandbox, kept):
        done = run(sandbox, "clearances", "--zone", "https://", **kept)
        assert done.returncode == 2
        assert "--zone must be a site" in done.stderr + done.stdout

    def test_all_at_once_are_not_dropped_by_mistake(self, run, sandbox, kept):
        done = run(sandbox, "clearances", "--drop", **kept)
        assert done.returncode == 2
        assert "--drop needs --zone or --exit" in done.stderr + done.stdout
        assert len(run(sandbox, "clearances", **kept).stdout.splitlines()) == 4

    def test_on_a_server(self, run, sandbox, redis_server):
        store = Store(RedisBackend(redis_server.url), "sandbox-key")
        store.put(record("shop.example", "http://user:s3cret@proxy.example:8000"))
        done = run(
            sandbox,
            "clearances",
            "--drop",
            "--zone",
            "shop.example",
            EZCAPTCHA_STORE=redis_server.url,
        )
        assert f"shop.example through {label('user')}: 5 min" in done.stdout
        assert "1 matching clearance deleted from" in done.stderr
        assert list(store.everything()) == []
        redis_server.stop()
        done = run(sandbox, "clearances", EZCAPTCHA_STORE=redis_server.url)
        assert done.returncode == 1
        assert "Connection refused" in done.stderr

    def test_without_a_store(self, run, sandbox, tmp_path):
        done = run(sandbox, "clearances")
        assert "EZCAPTCHA_STORE is not set, so clearances are kept in memory only" in done.stderr
        done = run(sandbox, "clearances", EZCAPTCHA_STORE="memory")
        assert "EZCAPTCHA_STORE is memory, so" in done.stderr
        done = run(sandbox, "clearances", EZCAPTCHA_STORE=str(tmp_path / "new.sqlite"))
        assert f"There is no store file {tmp_path / 'new.sqlite'}: no crawl" in done.stderr
        assert not (tmp_path / "new.sqlite").exists()


def label(user):
    return Exit("http", "proxy.example", 8000, user).label


def record(zone, proxy):
    headers, cookies = {"user-agent": "UA"}, {"cf_clearance": "c0okie"}
    exit, created = Exit.parse(proxy), time.time() - 310
    return Record(
        Clearance(zone, zone, exit, f"task-{zone}", headers, cookies, None, created),
        accepted={f"www.{zone}"},
    )


def test_unusable_settings_are_all_named(run, sandbox):
    settings = {"EZCAPTCHA_MAX_TASKS": "x", "EZCAPTCHA_POLL_INTERVAL": "0"}
    done = run(sandbox, "balance", **settings)
    assert done.returncode == 2
    assert [line.split()[0] for line in done.stderr.splitlines()] == [
        "EZCAPTCHA_POLL_INTERVAL",
        "EZCAPTCHA_MAX_TASKS",
    ]


def test_settings_may_stand_before_the_action_too(run, sandbox):
    done = run(sandbox, "-s", "EZCAPTCHA_CLIENT_KEY=wrong", "balance", env={})
    assert done.returncode == 0  # those after it, from the sandbox, are taken as well


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("balance", "--bogus"), "unrecognized arguments: --bogus"),
        (("check",), "the following arguments are required: URL|FILE"),
        (("clearances", "--drop"), "--drop needs --zone or --exit"),
        (("doctor", "--url", "shop.example"), "--url must begin with http:// or https://"),
    ],
)
def test_wrong_arguments_are_answered_with_the_usage_of_the_action(run, sandbox, arguments, said):
    done = run(sandbox, *arguments)
    assert done.returncode == 2
    assert f"usage: scrapy ezcaptcha {arguments[0]} " in done.stderr
    assert f"scrapy ezcaptcha {arguments[0]}: error: {said}" in done.stderr


def test_the_help_says_where_more_help_is(run, sandbox):
    shown = " ".join(run(sandbox, "--help").stdout.split())
    assert '"scrapy ezcaptcha ACTION --help" describes one action and its options.' in shown
    assert "usage: scrapy ezcaptcha doctor " in run(sandbox, "doctor", "--help").stdout


def test_on_a_terminal_there_are_colors(tmp_path, sandbox):
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [*COMMAND, "doctor", *sandbox.arguments()],
        env=clean_environment(TERM="xterm-256color", **sandbox.environment()),
        cwd=tmp_path,
        stdout=slave,
        stderr=slave,
    )
    os.close(slave)
    seen = b""
    while True:
        try:
            chunk = os.read(master, 65536)
        except OSError:  # the other side is closed
            break
        seen += chunk
    assert process.wait(timeout=30) == 1
    assert b"\x1b[1;31mFAIL" in seen
