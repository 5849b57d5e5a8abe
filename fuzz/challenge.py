"""For any answer of a site, the detector says yes or no, never raises, and is never slow."""

from __future__ import annotations

import sys
import time

import atheris

with atheris.instrument_imports(include=["scrapy_ezcaptcha"]):
    from scrapy_ezcaptcha.challenge import MAX_SCAN, challenge_sign, page_sign

from scrapy.http import Headers, Response

PIECES = (
    b"<script>", b"</script>", b"<script src='", b"<!--", b"-->", b"<input name=", b"<textarea>",
    b"window._cf_chl_opt={", b"cType:", b"cRay", b"/cdn-cgi/challenge-platform/", b"orchestrate/",
    b"jschl_vc", b"jschl_answer", b"cf_captcha_kind", b"/cdn-cgi/scripts/cf.challenge.js",
    b"<template>", b"<noembed", b"<style", b">", b"=", b" ", b"'", b'"', b"https://a.b", b";",
)  # fmt: skip
SECONDS = 0.25  # of CPU time, with instrumentation; a few milliseconds without


def body_of(source: atheris.FuzzedDataProvider) -> bytes:
    """Pieces of the signs and some other bytes, sometimes repeated many times."""
    parts = [b"_cf_chl_opt"] if source.ConsumeBool() else []
    while source.remaining_bytes() and len(parts) < 200:
        if source.ConsumeBool():
            parts.append(PIECES[source.ConsumeIntInRange(0, len(PIECES) - 1)])
        else:
            parts.append(source.ConsumeBytes(source.ConsumeIntInRange(0, 8)))
    body = b"".join(parts)
    return body * (MAX_SCAN // max(1, len(body)) + 1) if source.ConsumeBool() else body


def check(data: bytes) -> None:
    source = atheris.FuzzedDataProvider(data)
    status = source.PickValueInList([200, 403, 429, 503])
    headers = Headers()
    if source.ConsumeBool():
        headers["Server"] = b"cloudflare"
    if source.ConsumeBool():
        headers["Cf-Mitigated"] = source.ConsumeBytes(12)
    body = body_of(source)
    began = time.process_time()
    response = Response("http://shop.example/", status=status, headers=headers, body=body)
    sign = challenge_sign(response)
    assert sign is None or isinstance(sign, str)
    assert page_sign(body[:MAX_SCAN]) == page_sign(body)
    assert time.process_time() - began < SECONDS, len(body)


if __name__ == "__main__":
    atheris.Setup(sys.argv, check)
    atheris.Fuzz()
