"""The request that goes out again, and the response that spares doing so."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scrapy.http import HtmlResponse

if TYPE_CHECKING:
    from scrapy import Request

    from scrapy_ezcaptcha.exit import Exit

# Our own note on a request that is on its way again: plain data, for requests are
# pickled into JOBDIR, and under one underscore key, for spiders copy response.meta.
_NOTE = "_ezcaptcha"


def note_on(request: Request) -> dict[str, Any]:
    """Return our note on *request*.

    ``attempts``: solves that it called for. ``serial``: the clearance that the last of
    these earned. ``put_back``: it was put back because the crawl was ending.
    """
    note = request.meta.get(_NOTE)
    return note if isinstance(note, dict) else {}


def forget_note(request: Request) -> None:
    """Take our note off *request*, so that no copy of its meta inherits it."""
    request.meta.pop(_NOTE, None)


def replay_of(
    request: Request,
    *,
    exit: Exit | None = None,  # noqa: A002
    fresh: bool = False,
    **note: Any,
) -> Request:
    """Return *request* once more, as it was: same method, body, callbacks, meta, priority.

    Args:
        request: the challenged request.
        exit: the proxy to leave by, None to leave by the request's own.
        fresh: do not take the answer from the HTTP cache.
        note: see :func:`note_on`.
    """
    replay = request.copy()
    replay.dont_filter = True
    replay.meta[_NOTE] = {**note_on(request), **note}
    if exit is not None:
        replay.meta["proxy"] = exit.url
    if fresh:
        replay.meta["dont_cache"] = True
    return replay


def page_of(request: Request, body: str) -> HtmlResponse:
    """Return a solution's page as the response to *request*."""
    return HtmlResponse(
        request.url,
        status=200,
        headers={"Content-Type": "text/html; charset=utf-8"},
        body=body.encode("utf-8", "replace"),
        encoding="utf-8",
        request=request,
    )
