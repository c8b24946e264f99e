"""The engine fft: transforms, parts of axes, what it refuses, infinities, threads, and how exact it is."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import oracle
import pytest
from grid import GRID, OPERATIONS, Row
from numpy.typing import NDArray

import triconv
from triconv import dispatch
from triconv.coefficients import DEFAULT, use
from triconv.engines import fft
from triconv.form import Problem, Role
from triconv.geometry import Axis, Border
from triconv.kernels.target import machine
from triconv.kernels.waves import Cut

Array = NDArray[Any]

operations = pytest.mark.parametrize("operation", OPERATIONS)

LARGE = {
    "1-D, many parts": Row("", (2, 3, 700), (41,), 4, padding=20),
    "1-D, strided parts": Row("", (2, 3, 701), (41,), 4, padding=((7, 30),), stride=3, visible_size=(701,)),
    "1-D, dilated": Row("", (2, 4, 500), (20,), 6, padding=9, dilation=3, groups=2, stride=2, visible_size=(500,)),
    "2-D, parts of both axes": Row("", (3, 4, 60, 57), (5, 7), 6, padding=(2, 3), groups=2),
    "2-D, depthwise": Row("", (4, 6, 60, 57), (5, 7), 6, padding=3, groups=6),
    "2-D, one axis bordered": Row("", (2, 2, 40, 90), (9, 9), 3, padding=4, border=("circular", "zero")),
    "2-D, complex": Row("", (2, 3, 30, 31), (7, 6), 2, padding=3, dtype="complex128"),
    "3-D, parts": Row("", (1, 2, 20, 21, 22), (5, 4, 3), 2, padding=(2, 0, 1), stride=(1, 2, 1)),
}
"""Problems large enough that axes are cut; in double precision, as the bound of such sums is wide in single."""


def problem_of(row: Row, operation: str, **options: Any) -> Problem:
    plan = triconv.explain(
        operation, row.visible, row.weight, dtype=row.dtype, engine="reference", **{**row.options, **options}
    )
    return plan.problem


@operations
@pytest.mark.parametrize("name", LARGE)
def test_problems_with_parts(name: str, operation: str) -> None:
    row = LARGE[name]
    operands = row.operands()
    result = row.call(getattr(triconv, operation), operation, operands, engine="fft")
    allowed = row.allowed(operation, operands, spreads=True)
    oracle.assert_close(result, row.expected(operation, operands), allowed, operation)


@operations
@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("name", [name for name, row in LARGE.items() if row.rank > 1])
def test_axes_with_frequencies_of_their_own(
    name: str, apart: bool, operation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever pays, both are right, and no less exact in single precision."""
    row, function = LARGE[name], getattr(triconv, operation)
    operands, planned = row.operands(), fft.planned
    monkeypatch.setattr(fft, "planned", lambda problem: replace(planned(problem), apart=apart))
    dispatch._choose.cache_clear()
    result = row.call(function, operation, operands, engine="fft")
    half = {"float64": "float32", "complex128": "complex64"}[row.dtype]
    narrow = {role: array.astype(half) for role, array in operands.items()}
    single = row.call(function, operation, narrow, engine="fft")
    dispatch._choose.cache_clear()
    expected = row.expected(operation, operands)
    oracle.assert_close(result, expected, row.allowed(operation, operands, spreads=True), operation)
    assert np.abs(single - expected).max() <= 1e-5 * np.abs(expected).max()


def test_axes_are_apart_where_transforms_are_most_of_the_work() -> None:
    rows = {
        True: Row("", (8, 64, 56, 56), (31, 31), 64, padding=15, groups=64, dtype="float32"),
        False: Row("", (8, 64, 56, 56), (7, 7), 64, padding=3, dtype="float32"),
    }
    for apart, row in rows.items():
        assert all(fft.planned(problem_of(row, operation)).apart == apart for operation in OPERATIONS)


@operations
def test_examples_are_taken_a_few_at_a_time(operation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    row = LARGE["2-D, depthwise"]
    operands, problem = row.operands(), problem_of(row, operation)
    fft.planned.cache_clear()
    monkeypatch.setattr(fft.Planned, "examples", 2)
    first, second = OPERATIONS[operation]
    result = np.full(problem.shape(problem.produces), np.nan, row.dtype)
    fft.ENGINE.build(problem)(operands[first], operands[second], result)
    fft.planned.cache_clear()
    allowed = row.allowed(operation, operands, spreads=True)
    oracle.assert_close(result, row.expected(operation, operands), allowed, operation)


def test_the_large_problems_are_cut() -> None:
    for operation in OPERATIONS:
        plans = {name: fft.planned(fft._real(problem_of(row, operation))) for name, row in LARGE.items()}
        assert sum(plan.parts > 1 for plan in plans.values()) >= len(LARGE) // 2
        assert plans["2-D, one axis bordered"].cuts[0].parts.count == 1


AXES = [
    Axis(9, 7, 3),
    Axis(9, 9, 3, before=1, after=1),
    Axis(4, 3, 5, before=2, after=2),
    Axis(13, 4, 3, 3, 2, before=1, after=2),
    Axis(3, 1, 2, 7, before=0, after=1),
    Axis(2, 9, 2, before=7, after=1),
    *(Axis(6, 4, 3, 2, 2, before=3, after=2, border=border) for border in ("zero", "circular", "reflect", "replicate")),
]


@pytest.mark.parametrize("axis", AXES, ids=str)
@pytest.mark.parametrize("half", [True, False])
def test_the_matrices_multiply_to_the_form(axis: Axis, half: bool) -> None:
    """Σ_f B[f, x] · G[f, k] · A[f, c] is how often c and k meet x: its real part, of half the frequencies."""
    cut = fft.Cut.of(axis, 1, False)
    waves = {}
    for role in Role:
        parts = cut.matrix(role, half, "float64")
        waves[role] = parts[:, 0] + 1j * parts[:, 1] if half else parts[:, 0, 0] + 1j * parts[:, 1, 0]
    form = np.einsum("fx,fk,fc->xkc", waves[Role.VISIBLE], waves[Role.WEIGHT], waves[Role.HIDDEN])
    expected = (axis.sources.T[None] == np.arange(axis.visible)[:, None, None]).astype(float)
    np.testing.assert_allclose(form.real, expected, rtol=0, atol=1e-13)
    if not half:
        np.testing.assert_allclose(form.imag, 0, rtol=0, atol=1e-13)


@pytest.mark.parametrize("transposed", [False, True])
def test_a_cut_has_as_many_frequencies_as_it_needs(transposed: bool) -> None:
    """One fewer, and positions that are read meet others."""
    for axis in AXES:
        cut = fft.Cut.of(axis, 1, transposed)
        positions = {int(p) for p in (np.arange(axis.reach) - axis.before)}
        there = positions if axis.border != "zero" else set(range(axis.visible))
        assert all(p == x or (p - x) % cut.length for p in positions for x in there)
        shorter = cut.length - 1
        if shorter > max(axis.visible, 1) and axis.border == "zero" and axis.reach > axis.visible:
            assert any(p != x and (p - x) % shorter == 0 for p in positions for x in there)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (Row("", (1, 2), (), 3), "there is no axis to transform"),
        (Row("", (1, 2, 6), (3,), 3, bank=2), "a kernel that is not the same everywhere has no frequencies"),
        (Row("", (1, 2, 6), (3,), 2, groups=((True, False), (True, True))), "frequencies of a channel graph"),
        (Row("", (1, 1, 9000), (3,), 1, padding=1, border="circular"), "9002 frequencies, more than 2048"),
    ],
)
def test_what_it_refuses(row: Row, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        row.call(triconv.conv, "conv", row.operands(), engine="fft")


@operations
def test_the_highest_precision_is_another_engine(operation: str) -> None:
    row = Row("", (8, 64, 56, 56), (15, 15), 64, padding=7, dtype="float32")
    shapes = operation, row.visible, row.weight
    assert triconv.explain(*shapes, padding=7).engine.name == "fft"
    plan = triconv.explain(*shapes, padding=7, precision="highest")
    assert plan.engine.name != "fft"
    assert plan.why_not["fft"] == 'precision="highest" forbids transforms'


@pytest.mark.parametrize("border", ["zero", "replicate"])
def test_what_overflows_in_a_transform_is_computed_again(border: Border) -> None:
    """A sum of many large numbers is too large; no sum of three of them is."""
    v, w = np.full((1, 1, 100), 1e38, "float32"), np.ones((1, 1, 3), "float32")
    options: dict[str, Any] = {"padding": 1, "border": border}
    result = triconv.conv(v, w, engine="fft", **options)
    np.testing.assert_array_equal(result, triconv.conv(v, w, precision="highest", **options))
    assert np.isfinite(result).all()


def test_a_result_that_is_not_finite_comes_from_an_engine_that_spreads_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    row = Row("", (1, 2, 30), (5,), 2)
    operands = row.operands()
    operands["visible"][0, 0, 3] = np.inf
    spread = np.empty(row.hidden)
    fft.ENGINE.build(problem_of(row, "conv"))(operands["visible"], operands["weight"], spread)
    assert np.isfinite(spread).sum() < spread.size - 2 * 4
    result = row.call(triconv.conv, "conv", operands, engine="fft")
    assert np.isfinite(result).sum() == result.size - 2 * 4
    trusting = replace(fft.ENGINE, spreads=False)
    monkeypatch.setitem(dispatch.ENGINES, "fft", trusting)
    dispatch._choose.cache_clear()
    again = triconv.explain("conv", row.visible, row.weight, dtype=row.dtype, engine="fft")
    again.run(operands["visible"], operands["weight"], spread)
    assert np.isfinite(spread).sum() < spread.size - 2 * 4
    dispatch._choose.cache_clear()


@pytest.mark.usefixtures("guarded")
@operations
@pytest.mark.parametrize(
    "row",
    [
        Row("", (4, 32, 40, 40), (9, 9), 32, padding=4, dtype="float32"),
        Row("", (4, 64, 40, 40), (21, 21), 64, padding=10, groups=64, dtype="float32"),
    ],
    ids=["dense", "depthwise"],
)
def test_the_same_bits_for_any_number_of_threads(row: Row, operation: str) -> None:
    operands = row.operands()
    results = []
    for count in (1, 2, 3, 5):
        with triconv.threads(count):
            results.append(row.call(getattr(triconv, operation), operation, operands, engine="fft").tobytes())
    assert len(set(results)) == 1


@operations
@pytest.mark.parametrize(
    "row",
    [
        Row("", (2, 16, 40, 40), (7, 7), 16, padding=3, dtype="float32"),
        Row("", (2, 16, 40, 40), (31, 31), 16, padding=15, groups=16, dtype="float32"),
        Row("", (1, 4, 4096), (301,), 4, padding=150, dtype="float32"),
        Row("", (1, 4, 14, 15, 16), (5, 5, 5), 4, padding=2, dtype="float32"),
    ],
    ids=["7×7", "depthwise 31×31", "301", "5×5×5"],
)
def test_relative_error_against_float64(row: Row, operation: str) -> None:
    """max |error| / max |result|, which is promised to be at most 1e-5."""
    operands = row.operands()
    doubles = {role: array.astype("float64") for role, array in operands.items()}
    expected = row.call(getattr(triconv, operation), operation, doubles, engine="direct")
    result = row.call(getattr(triconv, operation), operation, operands, engine="fft")
    assert np.abs(result - expected).max() <= 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("engine", ["direct", "fft", "winograd"])
def test_a_result_between_other_fields(engine: str) -> None:
    """Numbers that are not a whole number of their own size apart: what lies between them stays as it is."""
    fields = np.zeros(8, [("number", "f4"), ("other", "u1")])
    fields["other"] = 7
    random = np.random.default_rng(0)
    visible, weight = random.standard_normal((1, 1, 6)).astype("f4"), random.standard_normal((1, 1, 3)).astype("f4")
    out = fields["number"][:4].reshape(1, 1, 4)
    plan = triconv.explain("conv", visible.shape, weight.shape, engine=engine)
    plan.run(visible, weight, out)
    np.testing.assert_allclose(out, triconv.conv(visible, weight, engine="reference"), rtol=0, atol=1e-5)
    assert (fields["other"] == 7).all()
    assert not fields["number"][4:].any()


def test_a_cut_is_timed_once_beside_the_same_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one axis, which has no others, every cut; to time them takes most of the time to choose an engine."""
    timed = []
    problem = problem_of(Row("", (1, 2, 500), (9,), 2), "conv")
    monkeypatch.setattr(fft, "_time", lambda plan: timed.append(plan.cuts) or plan.seconds)
    best = fft.planned.__wrapped__(problem)
    assert len(timed) == len(set(timed)) + 1  # and the best of each way to keep axes apart
    assert best.seconds == min(replace(best, cuts=cuts).seconds for cuts in timed)


@operations
def test_no_two_ways_to_cut_an_axis_have_parts_of_one_size(operation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """More parts of the same size are only more to do: to weigh them took half the time of a plan."""
    problem = problem_of(Row("", (1, 2, 190, 83), (7, 5), 2, stride=(2, 1)), operation)
    made, tried = Cut.of, list[tuple[Axis, int, int]]()

    def counting(axis: Axis, count: int, transposed: bool) -> Cut:
        found = made(axis, count, transposed)
        tried.append((axis, found.parts.axis.visible, found.parts.axis.hidden))
        return found

    monkeypatch.setattr(Cut, "of", counting)
    fft._cuts.cache_clear()
    fft._counts(problem, machine())
    assert len(tried) == len(set(tried)) > 20


@operations
@pytest.mark.parametrize(
    "other",
    [
        {},
        {"fft_started": 1e3},
        {"fft_started": 1e-12, "moved": 1e25, "fft_moved": 1e25},
        {"fft_started": 1e-12, "fft_multiplied": 1e-12, "moved": 1e25},  # of what is far the least knows nothing
    ],
    ids=["as it is", "stages alone", "products alone", "memory alone"],
)
@pytest.mark.usefixtures("default")
def test_no_plan_takes_less_than_the_least(operation: str, other: dict[str, float]) -> None:
    """So an engine that takes less than that need not be weighed against plans: these take most of a choice's time.

    Nor could the least be much larger, whatever it is that takes time.
    """
    use(replace(DEFAULT, **other))
    nearest = 0.0
    for row in (*LARGE.values(), *GRID, Row("one large kernel", (1, 1, 100000), (1000,), 64)):
        problem = problem_of(row, operation)
        if not fft.why_not(problem):
            least, seconds = fft.least(problem), fft.cost(problem)
            assert least <= seconds * (1 + 1e-9), row.name
            nearest = max(nearest, least / seconds)
    assert nearest > 0.97


def test_what_cannot_win_is_not_planned(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = list[Problem]()

    def cost(problem: Problem) -> float:
        asked.append(problem)
        return fft.cost(problem)

    def chosen(*shapes: tuple[int, ...]) -> triconv.Plan:
        """Not kept: nobody else is to find the engine that counts."""
        problem = triconv.explain("conv", *shapes, engine="reference").problem
        plan: triconv.Plan = dispatch._choose.__wrapped__(problem, "auto")  # type: ignore[attr-defined]
        return plan

    monkeypatch.setitem(dispatch.ENGINES, "fft", replace(fft.ENGINE, cost=cost))
    plan = chosen((8, 64, 28, 28), (64, 64, 3, 3))
    assert not asked
    assert plan.why_not["fft"].startswith("slower: at least ")
    assert chosen((1, 64, 50, 50), (64, 64, 17, 17)).engine.name == "fft"
    assert asked
