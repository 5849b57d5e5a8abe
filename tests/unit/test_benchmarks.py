"""The figures in the documentation are those of the last run of the benchmarks."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def report():
    spec = importlib.util.spec_from_file_location("benchmarks_report", FOLDER / "report.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def results():
    return json.loads((FOLDER / "results" / "results.json").read_text())


def test_all_of_them_are_of_full_runs(results):
    assert results["quick"] is False


def test_the_readme_has_the_figures_of_the_last_run(report, results):
    text = report.README.read_text(encoding="utf-8")
    assert report.readme_tables(results) in text
    assert report.with_tables(text, results) == text


def test_so_has_the_page_on_benchmarks(report, results):
    assert (FOLDER / "results" / "table.md").read_text() == report.table(results) + "\n"


def test_a_readme_with_other_figures_is_noticed(report, results):
    text = report.README.read_text(encoding="utf-8")
    assert report.with_tables(text.replace("| 1 |", "| 2 |"), results) == text
