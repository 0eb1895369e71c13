"""The figures of a run: how repeats become rows, what the targets make of them, and the plots."""

import json
import os
import xml.etree.ElementTree as ET

import pytest

from benchmarks.drawing import Bar, Spread, bars, lines
from benchmarks.machine import CannotMeasure
from benchmarks.plots import PLOTS, draw
from benchmarks.record import Record
from benchmarks.targets import verdicts


def repeats(server, streams, **figures):
    """Return the repeats of a row; each figure is given as a list."""
    count = len(next(iter(figures.values())))
    return [
        {"server": server, "title": server, "streams": streams, **{name: of[n] for name, of in figures.items()}}
        for n in range(count)
    ]


@pytest.fixture
def record(tmp_path):
    return Record(tmp_path / "run.json")


def test_a_row_has_the_spread_and_all_values_of_its_figures(record):
    record.add("idle", "Measure.", [repeats("handoff", 1000, kb=[4.5, 4.1, 4.3])])
    row = json.loads(record.path.read_text())["workloads"]["idle"]["rows"][0]
    assert row == {
        "server": "handoff",
        "title": "handoff",
        "streams": 1000,
        "figures": {"kb": {"min": 4.1, "median": 4.3, "max": 4.5, "values": [4.5, 4.1, 4.3]}},
    }


def test_what_must_never_happen_counts_when_it_happens_once(record):
    record.add("burst", "Measure.", [repeats("redis", 10, us=[1, 2, 3], delivered=[1, 1, 0.9], skips=[0, 4, 0])])
    row = record.results()["burst"][0]
    assert (row["us"], row["delivered"], row["skips"]) == (2, 0.9, 4)


def test_workloads_are_put_in_place_of_their_former_figures_and_leave_the_others(record):
    record.add("idle", "Measure.", [repeats("handoff", 1000, kb=[1.0])])
    record.add("burst", "Measure.", [repeats("handoff", 1000, us=[1.0])])
    again = Record.read(record.path)
    again.add("idle", "Measure.", [repeats("handoff", 1000, kb=[2.0])])
    results = Record.read(record.path).results()
    assert results["idle"][0]["kb"] == 2
    assert results["burst"][0]["us"] == 1


def test_figures_of_two_machines_are_not_mixed(record):
    record.content["machine"] = {"cpu": "another"}
    with pytest.raises(CannotMeasure, match="another machine"):
        record.add("idle", "Measure.", [])


def test_a_record_names_no_host_and_no_path(record):
    record.add("idle", "Measure.", [repeats("handoff", 1000, kb=[1.0])])
    text = record.path.read_text()
    assert os.uname().nodename not in text
    assert str(record.path.parent) not in text
    assert "/" not in json.dumps(json.loads(text)["machine"])


def kept(results):
    return {verdict.promise: verdict.kept for verdict in verdicts(results)}


def test_targets_compare_with_the_peers_of_the_same_run():
    def rows(nchan):
        figures = {"rate": 20.0, "delivered": 1.0}
        return {"paced": [{"server": "handoff", "us": 7.5, **figures}, {"server": "nchan", "us": nchan, **figures}]}

    promise = "CPU a delivery <= 0.75 x nchan's, asyncio"
    assert kept(rows(10.0))[promise] is True
    assert kept(rows(9.9))[promise] is False
    assert kept({"paced": []})[promise] is None


def test_a_peer_that_drops_events_is_not_compared():
    rows = [
        {"server": "handoff", "per_s": 1e6, "delivered": 1.0},
        {"server": "nchan", "per_s": 1e3, "delivered": 0.5},
    ]
    assert kept({"burst": rows})["deliveries a second in a burst >= 80 x nchan's, asyncio"] is None


def test_every_plot_has_the_rows_of_its_workload(tmp_path, monkeypatch):
    drawn = {}
    monkeypatch.setattr(
        "benchmarks.plots.bars", lambda path, title, unit, content, **_: drawn.update({path.stem: content})
    )
    monkeypatch.setattr("benchmarks.plots.lines", lambda path, *words, **_: drawn.update({path.stem: words[-1]}))
    record = Record(tmp_path / "run.json")
    figures = {name: [1.0, 2.0, 0.5] for name in ("kb", "us", "per_s", "open_us", "cpu_s", "delivered")}
    placed = {"rate": [20.0] * 3, "channels": [10] * 3, "bytes": [200] * 3, "view": ["sync"] * 3}
    for workload in {workload for workload, _ in PLOTS.values()}:
        record.add(workload, "Measure.", [repeats(key, 1000, **figures, **placed) for key in ("handoff", "nchan")])
    assert {path.stem for path in draw(record, tmp_path)} == set(PLOTS) == set(drawn)
    for content in drawn.values():
        labels = [getattr(each, "label", each) for each in content]
        assert len(labels) == 2
        assert any("handoff" in label for label in labels)


def test_a_plot_is_drawn_with_its_text_as_text(tmp_path):
    pytest.importorskip("matplotlib")
    spread = Spread(1.0, 2.0, 4.0)
    bars(
        tmp_path / "bars.svg", "The title", "KB a stream", [Bar("handoff", spread, is_ours=True), Bar("nchan", spread)]
    )
    lines(tmp_path / "lines.svg", "The title", "streams", "us", {"handoff": [(10, spread), (1000, spread)]})
    for name, words in {"bars": ("KB a stream", "nchan"), "lines": ("streams", "1,000")}.items():
        root = ET.parse(tmp_path / f"{name}.svg")
        texts = [text for element in root.iter() for text in element.itertext()]
        assert {"The title", "handoff", *words} <= set(texts)
