"""Writes ``docs/faults.md``: runs all faults, one after another."""

from __future__ import annotations

import tempfile
from pathlib import Path

from faults import CASES, PAGES, run_case
from support import Crawl

PAGE = Path(__file__).parents[1] / "docs" / "faults.md"
INTRODUCTION = f"""\
# Faults

This table shows what happens to a request when something goes wrong. A test writes it: for
each fault, it crawls {PAGES} pages of a protected site and {PAGES} pages of an open
site. The pages of the open site always arrive. *Tasks* is the number of tasks that the service
created, which are the paid ones. *Seconds* is the duration of the crawl, with
`EZCAPTCHA_POLL_INTERVAL` 0.1, `EZCAPTCHA_HTTP_TIMEOUT` 1, `EZCAPTCHA_SOLVE_TIMEOUT` 2 and a
service that takes 0.3 s. *Given up* means that the spider gets the challenge page with that
reason, see [what you get](usage.md#what-you-get).

A `createTask` call that may have arrived is never sent again, because its task may be paid for.
The id of that task is not known, so the request is given up.

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
