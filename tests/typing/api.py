"""The public API as a user's code has it: nothing here is run, type checkers read it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from typing_extensions import assert_type

from scrapy_ezcaptcha import (
    Addon,
    ApiError,
    CloudFlare5STask,
    EzCaptchaClient,
    EzCaptchaError,
    EzCaptchaMiddleware,
    Solution,
    SolveTimeout,
    TransportError,
    UnexpectedResponse,
    is_challenge,
)
from scrapy_ezcaptcha.sandbox import Fault, Protection, Sandbox, Site

if TYPE_CHECKING:
    from collections.abc import Mapping

    from scrapy.crawler import Crawler
    from scrapy.http import Request, Response
    from scrapy.settings import Settings


async def solve() -> Solution:
    client = EzCaptchaClient("key", app_id=7, poll_interval=1.0, solve_timeout=150, http_timeout=10)
    task = CloudFlare5STask("https://shop.example/", "http://u:p@h:1", rq_data={"mode": "JSON"})
    try:
        task_id = await client.create_task(task)
        assert_type(task_id, str)
        assert_type(await client.get_task_result(task_id), Solution | None)
        assert_type(await client.get_balance(), float)
        return await client.solve(task, on_created=print)
    except ApiError as error:
        assert_type(error.code, str)
        assert_type(error.status, int | None)
        assert_type(error.request_id, str | None)
        raise
    except (SolveTimeout, TransportError, UnexpectedResponse) as error:
        assert_type(error.task_id, str | None)
        raise
    except EzCaptchaError as error:
        assert_type(error.is_terminal(), bool)
        raise
    finally:
        await client.close()


def read(solution: Solution) -> None:
    assert_type(solution.headers, Mapping[str, str])
    assert_type(solution.cookies, Mapping[str, str])
    assert_type(solution.body, str | None)
    assert_type(solution.tls_version, str | None)
    assert_type(solution.user_agent, str | None)


def detect(response: Response) -> None:
    assert_type(is_challenge(response), bool)


async def derive(crawler: Crawler, request: Request, response: Response) -> None:
    class Derived(EzCaptchaMiddleware):
        pass

    middleware = Derived.from_crawler(crawler)
    assert_type(middleware, Derived)
    assert_type(await middleware.process_request(request), Request | None)
    assert_type(await middleware.process_response(request, response), Request | Response)


def add_on(settings: Settings) -> None:
    Addon().update_settings(settings)


def sandbox() -> None:
    faults = [Fault("createTask", code="ERROR_REQUEST_LIMIT", times=1)]
    with Sandbox([Site("shop.example", Protection(max_uses=3))], faults=faults) as running:
        assert_type(running.proxy_url("exit1"), str)
