"""Writes ``docs/faults.md``: runs every fault, one after the other."""

from __future__ import annotations

import tempfile
from pathlib import Path

from faults import CASES, PAGES, run_case
from support import Crawl

PAGE = Path(__file__).parents[1] / "docs" / "faults.md"
INTRODUCTION = f"""\
# Faults

What becomes of a request when something goes wrong, by test: {PAGES} pages of a protected site
beside {PAGES} of an open one, which come in every case. *Tasks* is what the service created, and so
what was paid; *seconds* the whole crawl, with `EZCAPTCHA_POLL_INTERVAL` 0.1,
`EZCAPTCHA_HTTP_TIMEOUT` 1, `EZCAPTCHA_SOLVE_TIMEOUT` 2 and a service that takes 0.3 s. *Given up*
means that the challenge page is handed on with that reason, see
[what you get](usage.md#what-you-get).

A creation that may have arrived is never sent again, for it may have been paid; and as nobody knows
of its task, the request is given up.

| fault | the spider gets | tasks | seconds |
| --- | --- | --- | --- |
"""


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        crawl = Crawl(Path(folder))
        rows = []
        for case in CASES:
            rows.append(str(run_case(case, crawl)[0]))
            print(rows[-1])
    PAGE.write_text(INTRODUCTION + "\n".join(rows) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
