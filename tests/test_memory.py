"""What a call takes besides operands and result: at most one padded copy of the operands, and the weight."""

from __future__ import annotations

from collections.abc import Callable

import pytest

import triconv
from bench.workloads import cases
from triconv.benchmark.first import TINY
from triconv.benchmark.in_triconv import ways
from triconv.benchmark.memory import traced_extra
from triconv.benchmark.workload import Workload, operands
from triconv.engines import fft
from triconv.form import OPERATIONS
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
    for extra in (1, 16 << 20, 1 << 40):
        allow(extra)
        fft.planned.cache_clear()
        found[extra] = fft.planned(problem).examples
    fft.planned.cache_clear()
    assert 1 == found[1] < found[16 << 20] < found[1 << 40]
