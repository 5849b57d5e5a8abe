"""``scrapy ezcaptcha report``, and its page in a real browser."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from statistics import median
from types import SimpleNamespace

import pytest
from scrapy.settings import Settings
from support import clean_environment, items, run_command, via

from scrapy_ezcaptcha.commands import report
from scrapy_ezcaptcha.sandbox import Fault, Protection, Sandbox, Site
from scrapy_ezcaptcha.solving.entries import Entry

START = 1_800_000_000.0
CHROMIUM = shutil.which("chromium")


def entry(number, **fields):
    given = {"zone": "shop.example", "host": "shop.example", "exit": "proxy.example:1#a1b2c3"}
    given |= {"time": START + number, "reason": "first_challenge", "outcome": "ready"}
    given |= {"seconds": 10.0 + number, "pages": 4, "points": 20}
    return Entry(f"task{number}", **{**given, **fields})


@pytest.fixture
def write(tmp_path):
    """Writes a ledger."""

    def write(*entries):
        path = tmp_path / "ledger.jsonl"
        path.write_bytes(b"".join(one.line() + b"\n" for one in entries))
        return path

    return write


@pytest.fixture
def run(tmp_path):
    """Runs the command as from the shell."""

    def run(*arguments):
        command = ["ezcaptcha", "report", *map(str, arguments)]
        return run_command(command, env=clean_environment(), cwd=tmp_path)

    return run


def table(output, heading):
    """The rows of a table, by their first cell."""
    block = next(part for part in output.split("\n\n") if part.startswith(heading))
    head, _, *rows = block.splitlines()
    names = re.split(r"\s{2,}", head.strip())
    cells = [re.split(r"\s{2,}", row.strip()) for row in rows]
    return {row[0]: dict(zip(names, row, strict=True)) for row in cells}


class TestTables:
    def test_it_shows_what_the_sandbox_counted(self, crawl, run, tmp_path):
        """Over several crawls, one of them with failures, and by two exits."""
        path = tmp_path / "ledger.jsonl"
        settings = {"EZCAPTCHA_LEDGER": str(path), "EZCAPTCHA_LOG_BALANCE": True}
        settings |= {"EZCAPTCHA_USE_BODY": "never", "EZCAPTCHA_POLL_INTERVAL": 0.05}
        sites = [Site("shop.example", Protection(max_uses=8)), Site("news.example", Protection())]
        with Sandbox(sites, latency=0.5) as sandbox:
            shop = crawl(sandbox, items(sandbox, 1, 20), settings=settings)
            news = [
                {"url": f"http://news.example/item/{number}", "meta": via(sandbox, "exit2")}
                for number in range(10)
            ]
            sandbox.service.faults.append(Fault("getTaskResult", code="ERROR_TASK_NOT_EXIST"))
            result = crawl(sandbox, news, settings=settings)
            counted, tasks = sandbox.report(), sandbox.service.tasks.values()
        assert len(result.pages) == 10
        done = run(path)
        assert done.returncode == 0, done.stderr
        total = re.match(r"(\d+) tasks .+: (\d+) solved, (\d+) pages, ([\d.]+) s", done.stdout)
        assert int(total[1]) == counted["tasks"] == len(tasks)
        assert int(total[2]) == sum(task.solved for task in tasks)
        assert int(total[3]) == counted["pages"]
        ours = sum(one.stats["ezcaptcha/solve_seconds/total"] for one in (shop, result))
        assert float(total[4]) == pytest.approx(ours, abs=0.06)
        assert float(total[4]) > counted["seconds"] - 0.06  # the service's own
        assert f"{100_000 - counted['balance']:.0f} points" in done.stdout
        zones = table(done.stdout, "zone")
        log = shop.log + result.log
        for zone in ("shop.example", "news.example"):
            its = [task for task in tasks if f"//{zone}/" in task.website_url]
            assert int(zones[zone]["tasks"]) == len(its)
            assert int(zones[zone]["pages"]) == counted["hosts"][zone]["page"]
            in_log = re.findall(rf"for {zone} through \S+ is ready after ([\d.]+) s", log)
            assert len(in_log) == sum(task.solved for task in its)
            shown = float(zones[zone]["solve s"])
            assert shown == pytest.approx(median(map(float, in_log)), abs=0.11)  # both rounded
            seconds = [task.solved_at - task.created_at for task in its if task.solved]
            assert shown > median(seconds) - 0.06  # the service's own
        assert len(table(done.stdout, "exit")) == 2
        assert len(table(done.stdout, "day (UTC)")) <= 2

    def test_the_figures(self, run, write):
        tasks = [entry(number, lifetime=60.0 * number) for number in range(1, 5)]
        failed = entry(5, outcome="SOLVE_TIMEOUT", pages=0, lifetime=0.0)
        path = write(*tasks, failed, entry(90_000, zone="news.example", exit="proxy.example:2"))
        done = run(path)
        assert done.stdout.startswith(
            "6 tasks from 2027-01-15 08:00 to 2027-01-16 09:00 UTC: 5 solved, 20 pages, 90,060.0 s"
        )
        assert "Reasons: first_challenge 6\nNot solved: SOLVE_TIMEOUT 1\n" in done.stdout
        assert table(done.stdout, "zone")["shop.example"] == {
            "zone": "shop.example",
            "tasks": "5",
            "solved": "80%",
            "solve s": "12.5",
            "p95 s": "13.8",
            "pages": "16",
            "pages/task": "3.2",
            "lifetime": "2.5 min",
            "points": "100",
            "USD": "0.0100",
        }
        assert list(table(done.stdout, "exit")) == ["proxy.example:1#a1b2c3", "proxy.example:2"]
        assert list(table(done.stdout, "day (UTC)")) == ["2027-01-15", "2027-01-16"]

    def test_more_rows_than_are_wanted_are_summed_up(self, run, write):
        path = write(*(entry(number, zone=f"zone{number}.example") for number in range(5)))
        rows = table(run(path, "--rows", "2").stdout, "zone")
        assert list(rows) == ["zone0.example", "zone1.example", "3 more"]
        assert rows["3 more"]["tasks"] == "3"
        assert len(table(run(path, "--rows", "0").stdout, "zone")) == 5

    def test_a_cost_that_is_not_known(self, run, write):
        path = write(entry(1, points=None), entry(2, points=None))
        advice = "of 2 tasks is not known: set EZCAPTCHA_LOG_BALANCE, or use --price.\n"
        shown, priced = run(path).stdout, run(path, "--price", "20").stdout
        assert "cost not known" in shown
        assert shown.endswith(advice)
        assert "40 points (0.0040 USD)" in priced
        assert "not known" not in priced
        path = write(entry(1, points=None), entry(2))
        assert "at least 20 points (0.0020 USD)" in run(path).stdout
        assert "The cost of 1 task is not known" in run(path).stdout
        assert table(run(path).stdout, "zone")["shop.example"]["points"] == "≥ 20"

    def test_the_ledger_of_the_settings(self, run, write):
        path = write(entry(1))
        assert run("-s", f"EZCAPTCHA_LEDGER={path}").stdout == run(path).stdout

    def test_without_a_ledger_it_says_what_is_missing(self, run, write, tmp_path):
        done = run()
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr == "No ledger is named: give its file, or set EZCAPTCHA_LEDGER\n"
        done = run(tmp_path / "missing.jsonl")
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr == f"{tmp_path / 'missing.jsonl'}: No such file or directory\n"
        assert run(write()).stdout.startswith("There is no task in ")

    def test_without_the_extra_one_line_says_what_to_install(self, write, monkeypatch, capsys):
        monkeypatch.setattr(report, "find_spec", lambda name: None)
        options = SimpleNamespace(ledger=write(entry(1)), html="page.html", rows=20, price=None)
        assert report.run(Settings(), options) == 2
        done = capsys.readouterr()
        assert done.err == "--html needs matplotlib: pip install 'scrapy-ezcaptcha[report]'\n"
        assert done.out == ""


class TestPage:
    @pytest.fixture
    def page(self, write, tmp_path, capsys):
        """Return the page on a ledger, without a process of its own: matplotlib loads slowly."""
        pytest.importorskip("matplotlib")

        def page(*entries):
            path = tmp_path / "page.html"
            options = SimpleNamespace(ledger=write(*entries), html=path, rows=20, price=None)
            assert report.run(Settings(), options) == 0
            assert capsys.readouterr().err == f"Written: {path}\n"
            return path.read_text()

        return page

    def many(self):
        """A ledger with names that are long, or look like markup."""
        for number in range(60):
            is_ready = number % 7 > 0
            yield entry(
                number * 4000,
                zone=("shop.example", "<b>bold</b>&.example", f"{'long-name.' * 12}example")[
                    number % 3
                ],
                outcome="ready" if is_ready else "SOLVE_TIMEOUT",
                pages=number**2 if is_ready else 0,
                lifetime=number * 100.0 if is_ready else None,
            )

    def test_it_has_the_tables_and_the_plots(self, run, write, tmp_path):
        path = tmp_path / "page.html"
        done = run(write(*self.many()), "--html", path)
        assert (done.returncode, done.stderr) == (0, f"Written: {path}\n")
        text = path.read_text()
        assert text.count("<img ") == 4
        assert text.count('src="data:image/svg+xml;base64,') == 4
        for title in (
            "Solve seconds over time",
            "Clearance lifetimes",
            "Pages per task",
            "Cost per",
        ):
            assert f'alt="{title}' in text
        for cells in table(run(write(*self.many())).stdout, "exit").values():
            for label, cell in list(cells.items())[1:]:
                assert f'<td data-label="{label}">{cell}</td>' in text
        assert "<b>bold" not in text
        assert "&lt;b&gt;bold&lt;/b&gt;&amp;.example" in text

    @pytest.mark.parametrize(
        "entries",
        [
            pytest.param([entry(1)], id="one"),
            pytest.param([entry(1, outcome="unfinished", seconds=None, pages=0)], id="unfinished"),
            pytest.param([entry(1, zone="例え.$x^$.example")], id="odd-names"),
            pytest.param([entry(1, points=None, lifetime=5.0)], id="cost-not-known"),
            pytest.param([entry(number) for number in range(3000)], id="many"),
        ],
    )
    def test_any_ledger_makes_a_page(self, page, entries):
        text = page(*entries)
        assert text.count("<img ") == 4
        assert len(text) < 500_000

    @pytest.mark.skipif(CHROMIUM is None, reason="Debian's chromium is not installed")
    @pytest.mark.parametrize("width", [1280, 390])
    def test_a_browser_shows_all_of_it_and_sends_no_request(self, page, width, tmp_path):
        """Whatever the browser asks for, it asks the server of this test."""
        with Server({"/page.html": page(*self.many()), "/": frame(width)}) as server:
            done = subprocess.run(
                [
                    *(CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"),
                    *("--disable-background-networking", f"--user-data-dir={tmp_path / 'profile'}"),
                    "--disable-features=NetworkTimeServiceQuerying",  # of the browser itself
                    f"--host-resolver-rules=MAP * 127.0.0.1:{server.port}",
                    *("--virtual-time-budget=20000", f"--window-size={width + 200},900"),
                    "http://report.example/",
                ],
                capture_output=True,
                text=True,
                timeout=100,
                check=True,
            )
            asked = set(server.asked)
        seen = json.loads(re.search(r"<pre>(.*)</pre>", done.stdout)[1])
        assert seen["width"] == width
        assert seen["scrollWidth"] <= width  # nothing stands beyond the edge
        assert len(seen["images"]) == 4
        assert all(image > 250 for image in seen["images"])
        assert seen["smallest"] >= 13
        assert seen["rows"] > 5
        assert seen["cut"] == []
        assert asked == {"/", "/page.html"}


def frame(width):
    """A page that shows the report in a frame of that width, and notes what is seen in it."""
    return f"""<!DOCTYPE html><link rel="icon" href="data:,"><body>
<iframe src="/page.html" style="width:{width}px;height:800px;border:0"></iframe><script>
onload = () => {{
  const page = document.querySelector("iframe").contentDocument;
  const all = [...page.body.querySelectorAll("*")];
  const style = one => page.defaultView.getComputedStyle(one);
  const shown = all.filter(one => one.innerText && !one.closest("thead"));
  const seen = {{
    width: page.defaultView.innerWidth,
    scrollWidth: page.documentElement.scrollWidth,
    images: [...page.images].map(one => one.complete && one.naturalWidth && one.width),
    smallest: Math.min(...shown.map(one => parseFloat(style(one).fontSize))),
    rows: [...page.querySelectorAll("tbody tr")].filter(one => one.offsetHeight).length,
    cut: shown.filter(one => one.scrollWidth > one.clientWidth + 1 && one.clientWidth
      && style(one).display != "inline").map(one => one.outerHTML.slice(0, 80)),
  }};
  document.body.innerHTML = "<pre></pre>";
  document.querySelector("pre").textContent = JSON.stringify(seen);
}};</script></body>"""


class Server:
    """Serves pages, and notes what it is asked for."""

    def __init__(self, pages):
        self.asked = asked = []

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                asked.append(self.path)
                body = pages.get(self.path, "").encode()
                self.send_response(200 if body else 404)
                self.send_header("Content-Type", "text/html; charset=utf-8")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *arguments):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._server.server_port

    def __enter__(self):
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *error):
        self._server.shutdown()
        self._server.server_close()
