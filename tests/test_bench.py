"""The benchmark: what it times in which order, that it takes no wrong result, what it prints. No time is asserted."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import oracle
import pytest
import torch
from numpy.typing import NDArray
from typer.testing import CliRunner

from bench.aims import limits, verdicts
from bench.workloads import GROUPS, Aim, cases
from triconv.benchmark import first, in_jax, in_torch, in_triconv, measure
from triconv.benchmark.machine import Machine, Memory, machine
from triconv.benchmark.measure import Settings, limited, measure_row
from triconv.benchmark.memory import resident_extra, traced_extra
from triconv.benchmark.row import OURS, Row
from triconv.benchmark.table import notes, table, to_json, write_chart, write_json
from triconv.benchmark.timing import Timing, interleave
from triconv.benchmark.way import NotMeant, Ready, Unable, Way
from triconv.benchmark.workload import Operands, Workload, moved, operands, terms
from triconv.cli import app
from triconv.form import OPERATIONS, Problem
from triconv.kernels.scratch import Scratch
from triconv.kernels.target import target

ROOT = Path(__file__).parents[1]
Array = NDArray[Any]

GRAPH = np.random.default_rng(0).random((6, 4)) < 0.4
WORKLOADS = [
    Workload("1-D", (2, 4, 9), (6, 4, 3), {"stride": 2, "padding": 1}),
    Workload("2-D", (2, 4, 9, 8), (6, 4, 3, 2), {"stride": (2, 1), "padding": (1, 0)}),
    Workload("more after", (2, 4, 9, 8), (6, 4, 3, 3), {"stride": 2, "padding": ((0, 1), (1, 2))}),
    Workload("cropped", (2, 4, 10, 8), (6, 4, 2, 2), {"stride": 3, "padding": ((1, 0), (0, 0))}),
    Workload("groups, dilated", (2, 4, 9, 8), (6, 2, 3, 3), {"groups": 2, "dilation": 2, "padding": 2}),
    Workload("depthwise", (2, 4, 9, 8), (4, 1, 3, 3), {"groups": 4, "padding": 1}),
    Workload("graph", (2, 4, 9, 8), (6, 4, 3, 3), {"groups": GRAPH, "padding": 1}),
    Workload("3-D", (2, 3, 5, 6, 7), (4, 3, 3, 2, 3), {"padding": 1, "stride": (1, 2, 1)}),
    Workload("4-D", (2, 3, 5, 4, 5, 4), (4, 3, 3, 2, 3, 2), {"padding": 1}),
    Workload("4-D, strided", (2, 3, 6, 4, 5, 4), (4, 3, 3, 2, 3, 2), {"stride": 2, "padding": "same"}),
    Workload("local", (2, 4, 6, 7), (6, 7, 5, 4, 3, 3), {"padding": 1}),
    Workload("tiled", (2, 4, 6, 6), (3, 2, 5, 4, 3, 3), {"padding": 1}),
    Workload("tiled, strided", (2, 4, 11, 11), (2, 2, 5, 4, 3, 3), {"padding": 1, "stride": 2}),
    Workload("tiled, left over", (2, 4, 7, 7), (2, 3, 5, 4, 3, 3), {}),
]
"""Small, of every kind that an adapter tells apart; no two sizes that could be taken for each other where avoidable."""

WANTED = {
    "1-D": {"PyTorch channels first", "PyTorch channels last", "JAX channels first", "JAX channels last"},
    "2-D": {"PyTorch channels first", "PyTorch channels last", "JAX channels first", "JAX channels last"},
    "graph": {"triconv, dense", "PyTorch channels first", "JAX channels last"},
    "4-D": {"PyTorch sum of conv3d, channels first", "PyTorch sum of conv3d, channels last", "JAX channels last"},
    "local": {
        "PyTorch unfold + einsum",
        "PyTorch unfold + bmm",
        "JAX local, channels first",
        "JAX local, channels last",
    },
    "tiled": {"PyTorch convolution per kernel, channels first", "PyTorch unfold + bmm", "JAX local, channels first"},
}
"""Ways that must not have left a workload out."""


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads(), torch.is_grad_enabled()
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    yield
    torch.set_num_threads(before[0])
    torch.set_grad_enabled(before[1])


# Timing


class Clock:
    """A clock that only moves when a candidate is called."""

    def __init__(self) -> None:
        self.now, self.log = 0.0, ""

    def __call__(self) -> float:
        return self.now

    def candidate(self, name: str, *seconds: float) -> Callable[[], None]:
        takes = list(seconds)

        def call() -> None:
            self.log += name
            self.now += takes.pop(0) if len(takes) > 1 else takes[0]

        return call


def test_candidates_take_turns_and_each_round_begins_with_another() -> None:
    clock = Clock()
    calls = {name: clock.candidate(name, 1.0) for name in "abc"}
    interleave(calls, rounds=4, seconds=100, clock=clock)
    assert clock.log == "aabbcc" + "abc" + "bca" + "cab" + "abc"


def test_short_calls_are_repeated_and_divided() -> None:
    clock = Clock()
    times = interleave({"a": clock.candidate("a", 0.25), "b": clock.candidate("b", 2.0)}, 2, 100, 1.0, clock=clock)
    assert times["a"] == Timing((0.25, 0.25), 4)
    assert times["b"] == Timing((2.0, 2.0), 1)


def test_a_call_that_does_not_count_comes_before_a_sample_of_short_ones() -> None:
    clock = Clock()
    #  warm-up, choice of the number of calls, uncounted, the sample
    times = interleave({"a": clock.candidate("a", 9, 1 / 64, 7, 1 / 32, 1 / 16)}, 1, 100, 1 / 32, clock=clock)
    assert times["a"].samples == (3 / 64,)
    assert times["a"].calls == 2


def test_calls_that_do_not_count_go_on_for_as_long_as_is_asked() -> None:
    clock = Clock()
    takes = 9, 1 / 64, *[1 / 128] * 4, 5
    times = interleave({"a": clock.candidate("a", *takes)}, 1, 100, 1 / 64, warm=1 / 32, clock=clock)
    assert times["a"].samples == (5,)
    assert len(clock.log) == len(takes)


def test_the_statistic_is_the_median_and_the_least() -> None:
    clock = Clock()
    timing = interleave({"a": clock.candidate("a", 50, 1, 7, 3, 4, 9, 5)}, 5, 100, clock=clock)["a"]
    assert (timing.median, timing.least, timing.samples) == (5, 3, (7, 3, 4, 9, 5))


def test_who_has_used_its_seconds_leaves_but_not_without_a_sample() -> None:
    clock = Clock()
    times = interleave({"a": clock.candidate("a", 5.0), "b": clock.candidate("b", 1.0)}, 4, 2.5, clock=clock)
    assert [len(times[name].samples) for name in "ab"] == [1, 3]


def test_no_rounds_are_refused() -> None:
    with pytest.raises(ValueError, match="rounds=0: expected at least 1"):
        interleave({}, 0)


# Ways


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda workload: workload.name)
def test_every_way_computes_the_operation(workload: Workload, operation: str, dtype: str) -> None:
    problem = replace(workload, dtype=dtype).problem(operation)
    values = operands(problem)
    a, b = (values[role] for role in problem.operands)
    options = dict(workload.options)
    args: tuple[Any, ...] = ()
    if operation == "conv_transpose":
        options["visible_size"] = problem.geometry.visible
    if operation == "conv_weight":
        args = (problem.geometry.kernel,)
        options["bank"] = problem.geometry.bank if problem.geometry.banked else None
    expected = oracle.OPERATIONS[operation](a, b, *args, **options)
    allowed = oracle.tolerance(operation, a, b, *args, **options)
    ran = set()
    for way in [*in_triconv.ways(), *in_torch.ways(), *in_jax.ways()]:
        try:
            ready = way.ready(problem, values)
        except Unable:
            continue
        ran.add(way.name)
        oracle.assert_close(ready.result(), expected, allowed, way.name)
        oracle.assert_close(ready.result(), expected, allowed, f"{way.name}, again")
    needs = {name for name in WANTED.get(workload.name, set()) if not name.startswith("JAX") or has_jax()}
    assert needs <= ran
    assert {OURS, "triconv, channels first"} <= ran
    assert any(name.startswith("PyTorch") for name in ran)


def has_jax() -> bool:
    from importlib.util import find_spec

    return find_spec("jax") is not None


@pytest.mark.parametrize(
    ("workload", "operation", "way", "kind", "reason"),
    [
        (WORKLOADS[1], "conv", "PyTorch unfold + bmm", NotMeant, "not for shared kernels"),
        (WORKLOADS[10], "conv", "PyTorch channels last", NotMeant, "not for banks"),
        (WORKLOADS[1], "conv_weight", "PyTorch conv_transpose, channels last", NotMeant, "not for this operation"),
        (WORKLOADS[13], "conv", "PyTorch unfold + einsum", Unable, "a period that does not divide the hidden size"),
        (
            replace(WORKLOADS[1], options={"padding": 1, "border": "circular"}),
            "conv",
            "PyTorch channels first",
            Unable,
            "a border that is not zero",
        ),
        (replace(WORKLOADS[1], dtype="complex64"), "conv", "PyTorch channels first", Unable, "complex numbers"),
    ],
)
def test_a_way_that_cannot_says_why(
    workload: Workload, operation: str, way: str, kind: type[Unable], reason: str
) -> None:
    problem = workload.problem(operation)
    one = next(one for one in in_torch.ways() if one.name == way)
    with pytest.raises(Unable, match=reason) as raised:
        one.ready(problem, operands(problem))
    assert raised.type is kind


def test_a_missing_library_is_named() -> None:
    way = Way("Other", "Other", in_triconv.ways()[0].prepare, "no_such_library")
    problem = WORKLOADS[0].problem()
    with pytest.raises(Unable, match="no_such_library is not installed"):
        way.ready(problem, operands(problem))


# Rows

HERE = Machine(1, {"float32": 100.0, "float64": 50.0}, 20.0, 10.0, 15.0)
FAST = Settings(rounds=2, seconds=0.01, first_calls=False)


@pytest.fixture
def _no_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "_machine", lambda _: HERE)


@pytest.mark.usefixtures("_no_machine")
def test_half_precision_is_measured_as_such_by_engines_that_compute_in_another() -> None:
    workload = Workload("w", (2, 3, 9), (4, 3, 3), {"padding": 1}, "bfloat16")
    row = measure_row(workload, "conv", 1, Settings(rounds=1, seconds=0.01, engine="direct", first_calls=False))
    assert (row.failure, row.dtype) == ("", "bfloat16")
    assert row.read == 2 * (2 * 3 * 9 + 4 * 3 * 3)
    assert "triconv, float32" in row.timings


@pytest.mark.usefixtures("_no_machine")
@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_row_holds_everything_and_survives_json(operation: str) -> None:
    row = measure_row(WORKLOADS[1], operation, 1, FAST)
    assert row.failure == ""
    assert row.apart is not None
    assert row.apart <= 1
    assert row.against == "PyTorch channels first"
    assert {OURS, "PyTorch channels first", "PyTorch channels last"} <= set(row.timings)
    assert row.flops == WORKLOADS[1].problem(operation).flops
    assert row.extra.keys() >= {"stated", "allowed", "traced"}
    data = json.loads(json.dumps(row.to_json()))
    assert Row.from_json(data) == row
    assert data["figures"].keys() == {
        "seconds",
        "gflops",
        "share_of_peak",
        "share_of_bandwidth",
        "best_peer",
        "ratio",
        "ratio_of_least",
        "disturbed",
    }
    best = row.best() or ""
    assert data["figures"]["ratio"] == pytest.approx(row.timings[best].median / row.timings[row.like(best)].median)


@pytest.mark.usefixtures("_no_machine")
def test_what_memory_limits_is_timed_beside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    row = measure_row(WORKLOADS[1], "conv", 1, FAST)
    assert row.moving_seconds == HERE.moving_seconds(row.read, row.written)
    memory = Memory(1, 1 << 20)
    monkeypatch.setattr(measure, "_memory", lambda _: memory)
    monkeypatch.setattr(measure, "last_cache_bytes", lambda: row.read + row.written - 1)
    taken = list[Mapping[str, Timing]]()
    monkeypatch.setattr(
        memory, "seconds", lambda timings, *moved: (taken.append(timings), Memory.seconds(memory, timings, *moved))[1]
    )
    far = measure_row(WORKLOADS[1], "conv", 1, FAST)
    read, written = (timing.least for timing in taken[0].values())
    assert far.timings.keys() == row.timings.keys()
    assert far.moving_seconds == pytest.approx((far.read * read + far.written * written) / (1 << 20))


def broken(change: Callable[[Array], Array]) -> Callable[[Settings], list[Way]]:
    """Ways of which ours gives a result that was changed."""

    def ways(settings: Settings) -> list[Way]:
        ours, *others = [*in_triconv.ways(settings.engine), *in_torch.ways()]

        def prepare(problem: Problem, values: Operands) -> Ready:
            ready = ours.prepare(problem, values)
            return Ready(lambda: change(ready.call()), ready.array)

        return [replace(ours, prepare=prepare), *others]

    return ways


def one_wrong(result: Array) -> Array:
    result[(0,) * result.ndim] *= 1.001
    return result


def one_missing(result: Array) -> Array:
    result[(-1,) * result.ndim] = np.nan
    return result


@pytest.mark.usefixtures("_no_machine")
@pytest.mark.parametrize("change", [one_wrong, one_missing, lambda result: result[:1]])
def test_a_wrong_result_fails_its_row(monkeypatch: pytest.MonkeyPatch, change: Callable[[Array], Array]) -> None:
    monkeypatch.setattr(measure, "ways", broken(change))
    row = measure_row(WORKLOADS[1], "conv", 1, FAST)
    assert row.failure.startswith("WRONG: ")
    assert OURS not in row.timings


@pytest.mark.usefixtures("_no_machine")
def test_a_row_that_cannot_be_measured_says_why() -> None:
    row = measure_row(WORKLOADS[1], "conv", 1, replace(FAST, engine="none"))
    assert row.failure.startswith("ValueError: engine='none'")
    assert any("FAILED" in str(cell) for column in table([row]).columns for cell in column.cells)


def test_a_killed_process_is_a_row_too(monkeypatch: pytest.MonkeyPatch) -> None:
    workloads = [replace(WORKLOADS[0], options={"padding": Killer()}), WORKLOADS[0]]
    monkeypatch.setattr("triconv.benchmark.machine.ARRAY", 1 << 20)
    found = [one for one in measure.measure(workloads, ["conv"], [1], FAST) if isinstance(one, Row)]
    assert [row.failure for row in found] == ["the measuring process was killed", ""]


class Killer:
    """Kills the process that looks at it as padding, as the system does when memory ends."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        import os

        return os._exit, (9,)


@pytest.mark.parametrize("threads", [0, 100_000])
def test_threads_that_there_are_not_are_refused(threads: int) -> None:
    with pytest.raises(ValueError, match=f"threads={threads}: expected 1 to "):
        list(measure.measure(WORKLOADS[:1], ["conv"], [threads], FAST))


def test_processes_get_their_threads_and_nothing_is_left_behind() -> None:
    import os

    code = "import os; print(len(os.sched_getaffinity(0)), os.environ['OPENBLAS_NUM_THREADS'])"
    before = dict(os.environ), os.sched_getaffinity(0)
    with limited(1):
        inside = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert inside.split() == ["1", "1"]
    assert (dict(os.environ), os.sched_getaffinity(0)) == before


def row_of(workload: str, ours: float, theirs: float, **more: Any) -> Row:
    timings = {OURS: Timing((ours,), 1), "PyTorch channels last": Timing((theirs,), 1)}
    return Row(workload, "conv", 1, timings=timings, libraries={OURS: OURS, "PyTorch channels last": "PyTorch"}, **more)


def test_ratios_are_to_the_fastest_of_the_others() -> None:
    row = row_of("a", 2.0, 3.0, flops=int(8e9), peak_seconds=1.0, moving_seconds=0.5)
    row.timings |= {"triconv, channels first": Timing((0.1,), 1), "JAX": Timing((5.0, 1.0, 6.0), 1)}
    row.libraries |= {"triconv, channels first": OURS, "JAX": "JAX"}
    assert (row.best(), row.ratio(), row.ratio("JAX"), row.ratio(least=True)) == (
        "PyTorch channels last",
        1.5,
        2.5,
        1.5,
    )
    assert (row.speed(), row.share_of_peak, row.share_of_bandwidth) == (4.0, 0.5, 0.25)


def test_a_weight_made_ready_before_is_compared_with_ours_made_ready_before() -> None:
    packed, kept = "PyTorch packed weight, channels last", "triconv, weight kept"
    row = row_of("a", 2.0, 3.0)
    row.timings |= {packed: Timing((2.1,), 1), kept: Timing((1.5,), 1)}
    row.libraries |= {packed: "PyTorch", kept: OURS}
    assert (row.best(), row.ratio()) == (packed, pytest.approx(1.4))
    row.timings[packed] = Timing((2.4,), 1)
    assert (row.best(), row.ratio()) == ("PyTorch channels last", 1.5)
    del row.timings[kept]
    assert (row.best(), row.ratio()) == (packed, pytest.approx(1.2))


@pytest.mark.parametrize(("samples", "disturbed"), [((4.0, 5.0, 5.0), False), ((4.0, 5.1, 5.1), True)])
def test_samples_that_spread_are_marked(samples: tuple[float, ...], disturbed: bool) -> None:
    row = row_of("a", 2.0, 3.0)
    row.timings[OURS] = Timing(samples, 1)
    row.timings["a slow peer"], row.libraries["a slow peer"] = Timing((9.0, 90.0, 90.0), 1), "PyTorch"
    assert row.disturbed is disturbed
    marked = [str(cell) for column in table([row]).columns for cell in column.cells if str(cell).endswith("?")]
    assert marked == (["0.59?"] if disturbed else [])


def test_what_was_left_out_is_named() -> None:
    row = row_of("a", 2.0, 3.0)
    row.left_out = {"PyTorch unfold + bmm": "not 2 axes"}
    row.not_meant = {"PyTorch sum of conv3d": "not for this", "JAX local": "not for that"}
    assert notes([row]) == [
        "JAX local: not for that (a, conv, 1 thread)",
        "PyTorch unfold + bmm: not 2 axes (a, conv, 1 thread)",
    ]


def test_the_least_bytes_and_the_allowed_ones() -> None:
    problem = Workload("w", (2, 3, 5), (4, 3, 3), {"padding": 1}).problem("conv")
    assert moved(problem) == (4 * (2 * 3 * 5 + 4 * 3 * 3), 4 * 2 * 4 * 5)
    sizes = {"conv": 2 * 3 * 7, "conv_transpose": 2 * 4 * (5 + 4), "conv_weight": 2 * 3 * 7 + 2 * 4 * 5}
    for name, size in sizes.items():
        problem = Workload("w", (2, 3, 5), (4, 3, 3), {"padding": 1}).problem(name)
        assert problem.extra == 4 * (size + 4 * 3 * 3)
    assert [terms(Workload("w", (2, 3, 5), (4, 3, 3), {}).problem(name)) for name in OPERATIONS] == [9, 12, 6]


def test_memory_of_a_call() -> None:
    def call() -> Array:
        spare = np.ones(1 << 20, np.uint8)
        return spare[: 1 << 19].copy()

    assert (1 << 20) <= traced_extra(call) < (1 << 20) + (1 << 14)
    resident = resident_extra(lambda: np.ones(1 << 26, np.uint8).sum(), 0)
    assert (resident is None) == (not Path("/proc/self/clear_refs").exists())
    assert resident is None or (1 << 26) - (1 << 20) <= resident < 1 << 27


def test_memory_that_is_kept_between_calls_is_counted() -> None:
    def call() -> Array:
        with Scratch() as lent:
            lent.array(1 << 20, np.dtype(np.uint8))[:] = 1
        return np.zeros(1)

    call()
    assert (1 << 20) <= traced_extra(call) < (1 << 20) + (1 << 14)


def test_the_machine_does_something() -> None:
    found = machine(1, array=1 << 20, steps=1 << 10, tries=2)
    assert min(found.peak.values()) > 0
    assert min(found.read, found.write, found.copy) > 0
    assert found.least_seconds(int(1e9), "complex64") == pytest.approx(1 / found.peak["float32"])
    assert HERE.moving_seconds(int(1e9), int(1e9)) == pytest.approx(0.05 + 0.1)


def test_first_calls_and_imports_are_of_fresh_processes() -> None:
    found = first.calls(WORKLOADS[0], "conv")
    assert found.keys() == {"cold", "cold, called again", "disk", "disk, called again"}
    assert min(found.values()) > 0
    assert first.import_seconds("json", tries=1) > 0


def test_json_and_chart_are_written(tmp_path: Path) -> None:
    rows = [row_of("a", 2.0, 3.0), row_of("b", 3.0, 2.0), Row("c", "conv", 1, failure="no")]
    write_json(to_json(rows, {1: HERE}, [0.25], settings={"rounds": 1}), tmp_path / "new" / "bench.json")
    data = json.loads((tmp_path / "new" / "bench.json").read_text())
    assert data.keys() == {"format", "described", "load", "machine", "settings", "rows"}
    assert [row["failure"] for row in data["rows"]] == ["", "", "no"]
    write_chart(rows, tmp_path / "chart.png")
    assert (tmp_path / "chart.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="no row has both"):
        write_chart(rows[2:], tmp_path / "none.png")


# What the rows must show

AIMS = {
    ("a", "conv"): (Aim(1, ((0.95, ""),)),),
    ("b", "conv"): (Aim(2, ((1.0, ""),)),),
    ("c", "conv"): (Aim(3, ((8.0, ""),)),),
    ("d", "conv"): (Aim(4, ((5, "JAX"),)),),
    ("e", "conv"): (Aim(1, ((0.95, ""),)), Aim(5, ((1.7, ""),))),
}


BELOW = "{}, conv, 1 thread: {} × PyTorch channels last, below {}"


@pytest.mark.parametrize(
    ("row", "short"),
    [
        (row_of("a", 1.0, 1.0), []),
        (row_of("a", 1.0, 0.96), ["the median is 0.96, below 1"]),
        (row_of("a", 1.0, 0.9), [BELOW.format("a", "0.90", "0.95"), "the median is 0.90, below 1"]),
        (row_of("b", 1.0, 1.5), []),
        (row_of("b", 1.0, 1.25), ["the geometric mean is 1.25, below 1.5"]),
        (row_of("c", 1.0, 8.0), []),
        (row_of("c", 1.0, 7.0), [BELOW.format("c", "7.00", "8")]),
        (row_of("c", 1.0, 7.0, moving_seconds=0.7, weight_bytes=101), []),
        (row_of("c", 1.0, 7.0, moving_seconds=0.7, weight_bytes=99), [BELOW.format("c", "7.00", "8")]),
        (row_of("c", 1.0, 7.0, moving_seconds=0.6, weight_bytes=101), [BELOW.format("c", "7.00", "8")]),
        (row_of("d", 1.0, 9.0), ["d, conv, 1 thread: nothing named JAX to compare with"]),
        (Row("a", "conv", 1, failure="no"), ["a, conv, 1 thread: FAILED: no"]),
    ],
)
def test_verdicts(row: Row, short: list[str]) -> None:
    (verdict,) = verdicts([row], AIMS, cache=100)
    assert list(verdict.short) == short
    assert str(verdict).endswith(": met") is not bool(short)


def test_a_groups_figures() -> None:
    rows = [row_of("b", 1.0, ratio) for ratio in (1.0, 2.0, 4.0)] + [Row("b", "conv", 1, failure="no")]
    (verdict,) = verdicts(rows, AIMS, 100)
    assert (verdict.group, verdict.rows, verdict.least, verdict.middle) == (2, 4, 1.0, 2.0)
    assert verdict.mean == pytest.approx(2.0)


def test_a_row_may_be_in_several_groups() -> None:
    dense, few_taps = verdicts([row_of("e", 1.0, 1.5)], AIMS, 100)
    assert dense.short == ()
    assert few_taps.short == (BELOW.format("e", "1.50", "1.7"), "the geometric mean is 1.50, below 2.2")


def test_the_limits_name_what_is_above_them() -> None:
    row = row_of("a", 1e-3, 1e-3, extra={"traced": 2048, "allowed": 1024})
    row.first = {"cold": 0.2, "cold, called again": 0.01, "disk": 0.02, "disk, called again": 0.01}
    tiny = row_of("tiny", 16e-6, 1e-6)
    assert limits([row, tiny], {"import triconv": 0.1, "import numpy": 0.3}, "tiny") == [
        "extra memory within one padded copy and the packed weight: 0 of 1",
        "  a, conv, 1 thread: 2 of 1 KiB",
        "first calls within 150 ms cold, 15 ms from the disk cache, besides the call itself: 0 of 1",
        "  a, conv, 1 thread: 190 and 10.0 ms",
        "overhead within 15 µs: 0 of 1",
        "  tiny, conv, 1 thread: 16.0 µs",
        "import triconv within 150 ms: 1 of 1",
    ]


def test_every_workload_can_be_measured_and_has_its_own_name() -> None:
    found = cases()
    assert len({case.workload.name for case in found}) == len(found)
    assert sum(case.workload.name.startswith("resnet") for case in found) == 23
    for case in found:
        assert case.workload.problem().flops > 0
        assert set(case.aims) == (set(OPERATIONS) if case.workload.name != "tiny" else set())
    groups = {aim.group for case in found for aims in case.aims.values() for aim in aims}
    assert groups == set(GROUPS) - (set() if target().pairs else {7})


# The commands


def refused(*given: str) -> str:
    result = CliRunner().invoke(app, ["bench", *given])
    assert result.exit_code == 1, result.output
    assert result.stdout == ""
    line: str = result.stderr
    assert line.startswith("triconv: ")
    assert line.count("\n") == 1
    return line


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (("--operations", "conv,deconv"), "operations='deconv': expected some of conv, conv_transpose, conv_weight"),
        (("--threads", "two"), "threads='two': expected whole numbers"),
        (("--threads", "100000"), "threads=100000: expected 1 to"),
        (("--rounds", "0"), "rounds=0: expected at least 1"),
        (("--seconds", "0"), "seconds=0.0: expected more than 0"),
        (("--engine", "none"), "engine='none': expected"),
        (("--visible", "2,3,8", "--weight", "4,2,3"), "weight of shape (4, 2, 3): expected 3 visible channels"),
        (("--dtype", "int8"), "dtype='int8': expected float32"),
    ],
)
def test_triconv_bench_refuses_in_one_line(given: tuple[str, ...], words: str) -> None:
    assert words in refused(*given)


def test_triconv_bench_measures_a_geometry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    given = ["--visible", "2,4,9,8", "--weight", "6,4,3,3", "--padding", "1", "--threads", "1", "--rounds", "2"]
    more = ["--operations", "conv,conv_weight", "--seconds", "0.01", "--json", "a.json", "--chart", "a.png"]
    result = CliRunner().invoke(app, ["bench", *given, *more])
    assert result.exit_code == 0, result.output
    for words in ("conv_weight", "% peak", "GFLOP/s", "ratio", "first call", "wrote a.json", "wrote a.png"):
        assert words in result.stdout
    rows = [Row.from_json(row) for row in json.loads((tmp_path / "a.json").read_text())["rows"]]
    assert [(row.operation, row.threads, row.failure) for row in rows] == [("conv", 1, ""), ("conv_weight", 1, "")]
    assert all(row.ratio() is not None and row.first for row in rows)


def bench(*given: str, folder: Path) -> subprocess.CompletedProcess[str]:
    import os

    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "bench", *given]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment, check=False)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (("--only", "nothing"), "only='nothing': no workload is called so"),
        (("--operations", "x"), "operations='x': expected some of"),
        (("--engine", "x"), "engine='x': expected auto or one of"),
        (("--rounds", "x"), "argument --rounds: invalid int value"),
    ],
)
def test_python_m_bench_refuses_in_one_line(tmp_path: Path, given: tuple[str, ...], words: str) -> None:
    done = bench(*given, folder=tmp_path)
    assert done.returncode
    assert done.stdout == ""
    assert words in done.stderr
    assert done.stderr.count("\n") == 1


def test_python_m_bench_prints_its_table(tmp_path: Path) -> None:
    done = bench("--only", "tiny", "--threads", "1", "--quick", "--operations", "conv", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "tiny" in done.stdout
    assert "overhead within 15 µs" in done.stdout
    assert {file.name for file in (tmp_path / "runs").iterdir()} == {"bench.json", "bench.png"}
