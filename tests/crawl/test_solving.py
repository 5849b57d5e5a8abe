"""A challenged page comes back solved, however the crawl is set up."""

from __future__ import annotations

import json

import pytest
from support import via

from scrapy_ezcaptcha.sandbox import USER_AGENT, Protection, Sandbox, Site

SELECT = {"TWISTED_REACTOR": "twisted.internet.selectreactor.SelectReactor"}
EPOLL = {"TWISTED_REACTOR": "twisted.internet.epollreactor.EPollReactor"}
ADDON = {"ADDONS": {"scrapy_ezcaptcha.Addon": 500}, "DOWNLOADER_MIDDLEWARES": {}}


def assert_thirty_pages_for_one_task(result, sandbox):
    assert sorted(page["url"].rpartition("/")[2] for page in result.pages) == sorted(
        str(number) for number in range(1, 31)
    )
    assert all(page["status"] == 200 and "Item" in page["body"] for page in result.pages)
    assert result.errors == []
    assert len(sandbox.service.tasks) == 1
    assert sandbox.report()["challenges"] == 1
    assert result.stat("tasks/created") == 1
    assert result.stat("clearances/reused") == 29


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({}, id="default"),
        pytest.param({"COOKIES_ENABLED": False}, id="cookies-off"),
        pytest.param(EPOLL, id="epoll"),
        pytest.param(SELECT, id="select"),
        pytest.param(ADDON, id="addon"),
        pytest.param({"COMPRESSION_ENABLED": False}, id="compression-off"),
    ],
)
def test_thirty_pages_one_after_the_other_cost_one_task(crawl, sandbox, settings):
    start = [{"url": "http://shop.example/item/1", "meta": via(sandbox)}]
    result = crawl(sandbox, start, settings=settings, follow="next")
    assert_thirty_pages_for_one_task(result, sandbox)


def test_over_https(crawl, sandbox):
    start = [{"url": "https://shop.example/item/1", "meta": via(sandbox)}]
    assert_thirty_pages_for_one_task(crawl(sandbox, start, follow="next"), sandbox)


@pytest.mark.parametrize("meta", [{"dont_merge_cookies": True}, {"cookiejar": "mine"}])
def test_cookies_arrive_in_every_mode(crawl, sandbox, meta):
    start = [{"url": "http://shop.example/item/1", "meta": {**via(sandbox), **meta}}]
    assert_thirty_pages_for_one_task(crawl(sandbox, start, follow="next"), sandbox)


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_the_proxy_may_come_from_the_environment(crawl, sandbox, scheme):
    start = [{"url": f"{scheme}://shop.example/item/1", "meta": {"ezcaptcha": True}}]
    env = {f"{scheme}_proxy": sandbox.proxy_url()}
    assert_thirty_pages_for_one_task(crawl(sandbox, start, env=env, follow="next"), sandbox)


def test_a_proxy_password_of_odd_characters_survives(crawl):
    with Sandbox(latency=0.2, proxy_password="p@ss:w/rd ü%") as sandbox:
        result = crawl(sandbox, [{"url": "http://shop.example/", "meta": via(sandbox, "us er")}])
    assert [page["status"] for page in result.pages] == [200]
    assert {visit.exit for visit in sandbox.edge.visits} == {"us er"}


def test_transparent_mode_needs_no_meta(crawl, sandbox):
    start = [{"url": "http://shop.example/item/1", "meta": {"proxy": sandbox.proxy_url()}}]
    settings = {"EZCAPTCHA_TRANSPARENT_MODE": True, "EZCAPTCHA_ALLOWED_DOMAINS": ["shop.example"]}
    assert_thirty_pages_for_one_task(
        crawl(sandbox, start, settings=settings, follow="next"), sandbox
    )


def test_the_default_proxy_serves_requests_that_have_none(crawl):
    """Without any proxy the first page is challenged; solve, replay and the rest use it."""
    with Sandbox([Site("127.0.0.1", Protection())], latency=0.2) as sandbox:
        settings = {"EZCAPTCHA_PROXY": sandbox.proxy_url("default"), "CONCURRENT_REQUESTS": 1}
        requests = [
            {"url": f"{sandbox.direct_url}/item/{number}", "meta": {"ezcaptcha": True}}
            for number in (1, 2, 3)
        ]
        result = crawl(sandbox, requests, settings=settings)
    assert [page["status"] for page in result.pages] == [200, 200, 200]
    assert [visit.exit for visit in sandbox.edge.visits] == ["direct"] + ["default"] * 3
    assert len(sandbox.service.tasks) == 1


def test_meta_proxy_of_ours_wins_over_the_requests_own(crawl, sandbox):
    meta = {**via(sandbox, "own"), "ezcaptcha": {"proxy": sandbox.proxy_url("chosen")}}
    result = crawl(sandbox, [{"url": "http://shop.example/", "meta": meta}])
    assert [page["status"] for page in result.pages] == [200]
    assert [visit.exit for visit in sandbox.edge.visits] == ["own", "chosen"]


@pytest.mark.parametrize("zone", ["old.example", "captcha.example", "bots.example"])
def test_challenges_of_every_age_and_status_are_solved(crawl, sandbox, zone):
    result = crawl(sandbox, [{"url": f"http://{zone}/item/1", "meta": via(sandbox)}])
    assert [page["status"] for page in result.pages] == [200]
    assert len(sandbox.service.tasks) == 1


@pytest.mark.parametrize("kind", ["block", "limit", "form", "article", "forbidden"])
def test_what_only_looks_like_a_challenge_is_passed_on(crawl, sandbox, kind):
    result = crawl(sandbox, [{"url": f"http://{kind}.example/", "meta": via(sandbox)}])
    assert len(result.pages) == 1
    assert result.pages[0]["flags"] == []
    assert result.stat("challenges") == 0
    assert sandbox.service.calls == {}


def test_the_replay_is_the_request_that_it_was(crawl, sandbox):
    request = {
        "url": "http://shop.example/echo",
        "meta": {**via(sandbox), "mine": 1, "max_retry_times": 5},
        "method": "POST",
        "body": "a=1&b=2",
        "headers": {
            "Content-Type": "application/x-www-form-urlencoded",
            "Accept-Language": "de",
            "X-Mine": "yes",
            "User-Agent": "mybot/1.0",
        },
        "cookies": {"session": "of-the-spider"},
        "priority": 7,
        "flags": ["my-flag"],
        "cb_kwargs": {"number": 42},
    }
    result = crawl(sandbox, [request])
    (page,) = result.pages
    echo = json.loads(page["body"])
    assert echo["method"] == "POST"
    assert echo["body"] == "a=1&b=2"
    assert echo["headers"]["user-agent"] == USER_AGENT
    assert echo["headers"]["accept-language"] == "de"  # the spider's own
    assert echo["headers"]["x-mine"] == "yes"
    assert echo["headers"]["sec-fetch-mode"] == "navigate"  # the solution's
    assert echo["headers"]["host"] == "shop.example"
    assert echo["headers"]["accept-encoding"].startswith("gzip, deflate")
    assert echo["cookies"]["session"] == "of-the-spider"
    assert "cf_clearance" in echo["cookies"]
    assert page["flags"] == ["ezcaptcha"]
    assert page["cb_kwargs"] == {"number": 42}
    assert page["priority"] == 7
    assert page["request_flags"] == ["my-flag"]
    assert "mine" in page["meta"]
    assert not any(key.startswith("_ezcaptcha") for key in page["meta"])
    assert page["retry_times"] is None
    (task,) = sandbox.service.tasks.values()
    assert task.rq_data is None


def test_the_solutions_headers_take_the_place_of_scrapys_defaults(crawl, sandbox):
    result = crawl(sandbox, [{"url": "http://shop.example/echo", "meta": via(sandbox)}])
    headers = json.loads(result.pages[0]["body"])["headers"]
    assert headers["accept-language"] == "en-US,en;q=0.9"
    assert "image/avif" in headers["accept"]
    assert "connection" not in headers  # hop-by-hop


def test_after_the_response_the_request_is_the_spiders_again(crawl, sandbox):
    result = crawl(sandbox, [{"url": "http://shop.example/", "meta": via(sandbox)}])
    assert result.pages[0]["sent_user_agent"].startswith("Scrapy/")


def test_a_head_request_is_solved_and_replayed_as_head(crawl, sandbox):
    request = {"url": "http://shop.example/item/1", "method": "HEAD", "meta": via(sandbox)}
    result = crawl(sandbox, [request])
    assert [(page["status"], page["method"]) for page in result.pages] == [(200, "HEAD")]
    assert [visit.method for visit in sandbox.edge.visits] == ["HEAD", "HEAD"]


def test_rq_data_and_website_url_reach_the_service(crawl, sandbox):
    rq_data = {"mode": "FORM", "q": "shoes"}
    meta = via(sandbox, rq_data=rq_data, website_url="http://shop.example/search")
    result = crawl(sandbox, [{"url": "http://shop.example/echo", "method": "POST", "meta": meta}])
    assert [page["status"] for page in result.pages] == [200]
    (task,) = sandbox.service.tasks.values()
    assert task.rq_data == rq_data
    assert task.website_url == "http://shop.example/search"


def test_use_body_answers_with_the_solutions_page(crawl, sandbox):
    meta = via(sandbox, use_body=True)
    result = crawl(sandbox, [{"url": "http://shop.example/item/3", "meta": meta}])
    (page,) = result.pages
    assert page["status"] == 200
    assert "Item 3" in page["body"]
    assert page["flags"] == ["ezcaptcha", "ezcaptcha-body"]
    assert sandbox.report()["pages"] == 0  # never downloaded
    assert sandbox.report()["challenges"] == 1


def test_use_body_without_a_body_falls_back_to_a_replay(crawl):
    with Sandbox(latency=0.2, solution={"body": None}) as sandbox:
        meta = via(sandbox, use_body=True)
        result = crawl(sandbox, [{"url": "http://shop.example/item/3", "meta": meta}])
    assert [page["status"] for page in result.pages] == [200]
    assert sandbox.report()["pages"] == 1
    assert len(sandbox.service.tasks) == 1


def test_a_renewed_cookie_wins_over_the_solutions(crawl):
    sites = [Site("shop.example", Protection(renew_every=3))]
    for settings in ({}, {"COOKIES_ENABLED": False}):
        with Sandbox(sites, latency=0.2) as sandbox:
            start = [{"url": "http://shop.example/item/1", "meta": via(sandbox)}]
            result = crawl(sandbox, start, settings=settings, follow="next")
            assert len(result.pages) == 30
            assert_thirty_pages_for_one_task(result, sandbox)


def test_the_service_may_be_reached_by_https_and_its_certificate_is_verified(crawl, tmp_path):
    with Sandbox(latency=0.2, service_tls=True) as sandbox:
        sandbox.write_ca(tmp_path / "ca.pem")
        request = [{"url": "http://shop.example/", "meta": via(sandbox)}]
        trusted = crawl(sandbox, request, env={"SSL_CERT_FILE": str(tmp_path / "ca.pem")})
        assert [page["status"] for page in trusted.pages] == [200]
        calls = sandbox.service.calls.total()
        untrusted = crawl(sandbox, request)
        assert [page["flags"] for page in untrusted.pages] == [["ezcaptcha-unsolved"]]
        assert "certificate" in untrusted.pages[0]["error"]
        assert sandbox.service.calls.total() == calls
