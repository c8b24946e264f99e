"""The benchmark of the choice: what it draws, what it times, what it says. No time is asserted."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path

import pytest

from bench.choice import LEAST, MOST, Found, Geometry, geometries, main, measured, summary
from triconv.benchmark.workload import Workload


def test_a_seed_draws_the_same_geometries_of_every_kind() -> None:
    drawn = list(islice(geometries(3), 60))
    assert [one.title for one in drawn[:5]] == [one.title for one in islice(geometries(3), 5)]
    assert [one.title for one in drawn[:5]] != [one.title for one in islice(geometries(4), 5)]
    assert {one.operation for one in drawn} == {"conv", "conv_transpose", "conv_weight"}
    assert {one.workload.dtype for one in drawn} == {"float32", "float64"}
    assert {len(one.workload.visible) - 2 for one in drawn} == {1, 2, 3}
    for name, values in (("stride", {1, 2, 3}), ("dilation", {1, 2})):
        assert {one.workload.options[name] for one in drawn} == values
    kinds = {(one.workload.options["groups"] > 1, one.workload.weight[1] == 1) for one in drawn}
    assert {(False, False), (True, False), (True, True)} <= kinds
    for one in drawn:
        assert LEAST <= one.workload.plan(one.operation).flops <= MOST


def test_all_that_could_be_best_are_timed_and_no_others() -> None:
    found = measured(Geometry(Workload("one", (2, 16, 20, 20), (16, 16, 3, 3), {"padding": 1}), "conv"), 1, 1)
    assert found.chosen in found.seconds
    assert found.seconds.keys() == found.expected.keys()
    assert {"direct", "winograd"} <= found.seconds.keys() <= {"direct", "winograd", "split", "fft"}
    assert found.ratio == found.seconds[found.chosen] / min(found.seconds.values())


@pytest.mark.parametrize(
    ("ratios", "close", "met"),
    [([1.0] * 19 + [1.4], 19, True), ([1.0] * 18 + [1.2] * 2, 18, False), ([1.0] * 99 + [1.6], 99, False)],
)
def test_what_is_asked_for(ratios: list[float], close: int, met: bool) -> None:
    found = [Found("", "a", {"a": ratio, "b": 1.0}, {"a": 1.0, "b": 1.0}) for ratio in ratios]
    assert summary(found) == {"count": len(ratios), "close": close, "worst": max(ratios), "met": met}


def test_what_it_prints_and_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "new" / "choice.json"
    given = ["--seed", "7", "--count", "1", "--skip", "2", "--rounds", "1", "--json", str(file)]
    assert main(given) == 0
    printed = capsys.readouterr().out
    assert "within 10 % of the best engine: " in printed
    assert "asked for: 95% within 10 %, none above 1.5 ×" in printed
    assert "by the default coefficients" in printed
    data = json.loads(file.read_text())
    assert data["settings"]["seed"] == 7
    (row,) = data["rows"]
    assert row["title"] == next(islice(geometries(7), 2, None)).title
    assert row["ratio"] >= 1 == data["count"]
