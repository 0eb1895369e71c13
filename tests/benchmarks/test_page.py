"""The page of benchmarks is written from the record of a run."""

import re
import shlex

import pytest

from benchmarks import page
from benchmarks.__main__ import NAMES
from benchmarks.curves import WORKLOAD
from benchmarks.machine import HERE
from benchmarks.plots import PLOTS
from benchmarks.record import Record
from benchmarks.report import HEADINGS
from benchmarks.servers import SERVERS
from tests.benchmarks.test_record import repeats

TEXT = page.PAGE.read_text()
README = (HERE / "README.md").read_text()


@pytest.fixture
def record(tmp_path):
    record = Record(tmp_path / "run.json")
    rows = [repeats("handoff", 1000, kb=[4.0, 4.5, 5.0]), repeats("nchan", 10_000, kb=[8.0, 8.0, 8.0])]
    record.add("idle", "Measure.", rows)
    return record


def test_a_table_has_what_differs_between_rows_and_the_spread_of_the_figures(record):
    filled = page.filled("<!-- table: idle kb -->\nold\n<!-- end -->\n", record)
    assert filled == (
        "<!-- table: idle kb -->\n"
        "|  | streams | KB/stream |\n| --- | --- | --- |\n"
        "| handoff | 1,000 | 4.5 (4 to 5) |\n| nchan | 10,000 | 8 |\n"
        "<!-- end -->\n"
    )
    assert page.filled(filled, record) == filled


def test_what_was_not_measured_says_so(record):
    filled = page.filled("<!-- table: burst us -->\n<!-- end -->\n<!-- plot: idle Memory -->\n<!-- end -->\n", record)
    assert filled.count("Not measured in this run.") == 2


def test_the_page_asks_for_what_there_is():
    marks = [(found["kind"], (found["words"] or "").split()) for found in page.MARK.finditer(TEXT)]
    assert len(marks) == TEXT.count("<!-- end -->")
    plots = [words[0] for kind, words in marks if kind == "plot"]
    assert set(PLOTS) <= set(plots)
    assert all(plot in PLOTS or plot.startswith(WORKLOAD) for plot in plots)
    for workload, *figures in [words for kind, words in marks if kind == "table"]:
        assert workload in (*NAMES, WORKLOAD, f"{WORKLOAD}-rounds")
        assert set(figures) <= set(HEADINGS)


def test_the_readme_names_every_workload_and_every_server():
    named = set(re.findall(r"`(?:python -m benchmarks )?([\w-]+)`", README))
    assert set(NAMES) - named == set()
    databases = {"handoff-database", "plain-database", "eventstream-stored"}
    assert set(SERVERS) - named - databases == set()


def test_the_page_shows_commands_that_there_are():
    commands = [shlex.split(line, comments=True) for line in re.findall(r"^make .*$", TEXT, re.MULTILINE)]
    makefile = (HERE.parent / "Makefile").read_text()
    for _, target, *variables in commands:
        assert f"\n{target}:" in makefile
        words = [word for variable in variables for word in variable.partition("=")[2].split()]
        assert {word for word in words if word.isalpha()} <= set(NAMES)
