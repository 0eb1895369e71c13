"""The record of the run with 100,000 streams, and its plots."""

import xml.etree.ElementTree as ET

import pytest

from benchmarks import curves
from benchmarks.hundred_thousand import Part, Plan, keep
from benchmarks.record import Record
from benchmarks.targets import verdicts


def part(loop, kb=4.0, lost=0):
    plan = Plan(loop, 100, 1000)
    part = Part(plan, print, {})
    part.row = plan.row({"kb": kb, "after_kb": kb, "kernel_kb": 10.0, "lost": lost, "repeated": 0})
    part.rounds = [plan.row({"last_ms": ms, "us": 8.0}) for ms in (500, 700, 600)]
    part.curves = {"an event": [(0.1, 400), (0.5, 1000)], "open": [(0.0, 1000), (1.0, 830), (9.0, 1000)]}
    return part


@pytest.fixture
def record(tmp_path):
    return Record(tmp_path / "run.json")


def test_parts_are_rows_with_the_spread_of_their_rounds_and_are_judged(record):
    keep(record, [part("asyncio"), part("uvloop", kb=7.0, lost=3)])
    rounds = record.content["workloads"]["hundred-thousand-rounds"]["rows"]
    assert rounds[0]["figures"]["last_ms"] == {"min": 500, "median": 600, "max": 700, "values": [500, 700, 600]}
    assert [verdict.kept for verdict in verdicts(record.results())] == [True, True, False, False]


def test_plots_show_each_part_by_its_name(record, tmp_path):
    pytest.importorskip("matplotlib")
    assert curves.draw(record, tmp_path) == []
    keep(record, [part("asyncio"), part("uvloop")])
    drawn = curves.draw(Record.read(record.path), tmp_path)
    for path in drawn:
        words = " ".join(text for element in ET.parse(path).iter() for text in element.itertext())
        assert "asyncio, 100 channels" in words
        assert "uvloop, 100 channels" in words
    assert len(drawn) == 3
