"""The benchmark of well-known networks' layers: they are all there, and what is slower is named."""

from __future__ import annotations

import pytest

from bench import layers
from bench.layers import LAYERS, main, summary, workloads
from triconv.benchmark.row import OURS, Row
from triconv.benchmark.timing import Timing


def test_all_layers_have_all_operations() -> None:
    found = workloads("*")
    assert [one.name for one in found] == list(LAYERS)
    for one in found:
        made = one.plan("conv").problem
        assert made.terms > 1e6, one.name
        assert one.plan("conv_transpose").problem.geometry == one.plan("conv_weight").problem.geometry == made.geometry
    assert [one.name for one in workloads("vit")] == ["vit 3→768 16×16/16 @224"]


def test_slower_rows_are_named() -> None:
    def row(name: str, theirs: float) -> Row:
        timings = {OURS: Timing((1.0,), 1), "PyTorch": Timing((theirs,), 1)}
        return Row(name, "conv", 2, timings=timings, libraries={OURS: OURS, "PyTorch": "PyTorch"})

    failed = Row("none", "conv", 2, failure="no")
    assert list(summary([row("fast", 4.0), failed, row("slow", 0.5), row("level", 1.0)])) == [
        "3 rows: geometric mean 1.26, least 0.50",
        "  slow, conv, 2 threads: 0.50",
    ]
    assert list(summary([failed])) == []


def test_it_runs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(layers, "LAYERS", {"small": (1, 2, 3, (9,), (3,), {"padding": 1})})
    assert main(["--threads", "1", "--rounds", "1", "--seconds", "0.001"]) == 0
    said = capsys.readouterr()
    assert "3 small, conv_weight, 1 thread: " in said.err
    assert "3 rows: geometric mean " in said.out
