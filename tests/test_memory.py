"""What a call takes besides operands and result: at most one padded copy of the operands, and the weight."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

import triconv
from bench.workloads import cases
from triconv import dispatch
from triconv.benchmark.first import TINY
from triconv.benchmark.in_triconv import ways
from triconv.benchmark.memory import traced_extra
from triconv.benchmark.workload import Workload, operands
from triconv.engines import direct as direct_engine
from triconv.engines import fft, winograd
from triconv.form import OPERATIONS, Problem
from triconv.kernels.words import CHECKED

WORKLOADS = [
    case.workload for case in cases() if case.workload.dtype in ("float32", "float64") and case.workload is not TINY
]
TIGHT = ("resnet 3×3 128→128 @28", "resnet 3×3 256→256 @14", "dilated", "5×5", "4-D", "1-D", "3-D", "depthwise 31×31")
"""Beginnings of the names of those that took more before anybody looked."""

each_operation = pytest.mark.parametrize("operation", OPERATIONS)


def within(workload: Workload, operation: str) -> None:
    """Hold what is traced, and what is stated, against what is allowed, with one thread and with two."""
    problem = workload.problem(operation)
    call = ways()[0].ready(problem, operands(problem)).call
    for threads in (1, 2):
        with triconv.threads(threads):
            call()  # what is kept from call to call is no part of one
            taken = traced_extra(call)
            assert taken <= problem.extra, f"{threads} threads: {taken:,} bytes of {problem.extra:,}"
            assert taken <= workload.plan(operation).workspace


@pytest.mark.skipif(CHECKED, reason="not fast")
@pytest.mark.parametrize("name", TIGHT)
@each_operation
def test_a_call_takes_no_more_than_one_copy(name: str, operation: str) -> None:
    within(next(one for one in WORKLOADS if one.name.startswith(name)), operation)


@pytest.mark.skipif(CHECKED, reason="not fast")
def test_pieces_of_a_banks_gradient_have_room() -> None:
    """Each piece of the sum has a result of its own, of all kernels."""
    for visible, weight in (((16, 48, 24, 24), (3, 3, 48, 48, 3, 3)), ((32, 64, 16, 16), (2, 2, 64, 64, 3, 3))):
        problem = Workload("tiled", visible, weight, {"padding": 1}).problem("conv_weight")
        call = ways()[0].ready(problem, operands(problem)).call
        for threads in (1, 2):
            with triconv.threads(threads):
                call()
                assert traced_extra(call) <= problem.extra


@pytest.mark.slow
@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda one: one.name)
@each_operation
def test_no_call_of_the_benchmark_takes_more_than_one_copy(workload: Workload, operation: str) -> None:
    within(workload, operation)


def test_what_a_tiny_call_takes_is_python_s() -> None:
    """Some thousand bytes, whatever there is to compute."""
    problem = TINY.problem("conv")
    call = ways()[0].ready(problem, operands(problem)).call
    call()
    assert traced_extra(call) < 1 << 14


def test_frequencies_are_of_fewer_examples_where_those_of_more_would_not_be_within(
    allow: Callable[[int], None],
) -> None:
    workload = next(one for one in WORKLOADS if one.name.startswith("depthwise 31×31"))
    problem = workload.problem("conv_weight")
    found = {}
    for extra in (1, 20 << 20, 1 << 40):
        allow(extra)
        fft.planned.cache_clear()
        found[extra] = fft.planned(problem).examples
    fft.planned.cache_clear()
    assert 1 == found[1] < found[20 << 20] < found[1 << 40]


def test_who_takes_more_memory_has_to_be_so_much_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the next one is chosen; who is slower anyway is not asked what it takes."""
    problem = triconv.explain("conv", (2, 8, 12, 12), (8, 8, 3, 3), engine="reference").problem
    asked = list[str]()

    def chosen(direct: float, frequencies: float, modest: bool) -> triconv.Plan:
        def told(_: Problem) -> bool:
            asked.append("fft")
            return modest

        def of(seconds: float) -> dict[str, Callable[[Problem], float]]:
            return {"cost": lambda _: seconds, "least": lambda _: seconds}

        monkeypatch.setitem(dispatch.ENGINES, "direct", replace(direct_engine.ENGINE, **of(direct)))
        monkeypatch.setitem(dispatch.ENGINES, "winograd", replace(winograd.ENGINE, **of(1.0)))
        monkeypatch.setitem(dispatch.ENGINES, "fft", replace(fft.ENGINE, **of(frequencies), modest=told))
        plan: triconv.Plan = dispatch._choose.__wrapped__(problem, "auto")  # type: ignore[attr-defined]
        return plan

    assert chosen(1e-6, 0.95e-6, True).engine.name == "fft"
    plan = chosen(1e-6, 0.95e-6, False)
    assert plan.engine.name == "direct"
    assert plan.why_not["fft"] == "takes more memory and is not much faster: about 950 ns"
    assert "950 ns" in str(plan)
    assert chosen(1e-6, 0.9e-6, False).engine.name == "fft"
    assert asked
    asked.clear()
    assert chosen(1e-6, 1.2e-6, False).engine.name == "direct"
    assert not asked
