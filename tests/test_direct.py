"""The native engine: every way to run a problem, whether chosen or not, on any memory order, with any threads."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import oracle
import pytest
from grid import BY_NAME, GRID, OPERATIONS, RESULT, Row
from numpy.typing import NDArray

import triconv
from triconv import dispatch
from triconv.coefficients import coefficients
from triconv.engine import met as met_of
from triconv.engines import direct, reference
from triconv.form import Problem, Role
from triconv.kernels import block, loops, patches, prepared, program, team, ways
from triconv.kernels.nest import Nest
from triconv.kernels.sheet import Sheet
from triconv.kernels.target import NAMED, lacking, target

Array = NDArray[Any]
Order = Callable[[Array], Array]

QUICK_STRIDE = 5
"""The default run takes every so many-th of the ways; the slow one takes all, in every memory order."""

PADDED = [row for row in GRID if row.name in ("padding on both sides", "padding full", "image", "volume", "graph")]
CHECKED_ROWS = [
    "affine in groups",
    "stride with a position left over",
    "circular, strided and dilated",
    "graph",
    "tiled and strided",
    "image, local",
    "image, depthwise, padded",
    "volume",
]


def channels_last(array: Array) -> Array:
    """The same numbers, the second axis innermost."""
    return np.moveaxis(np.ascontiguousarray(np.moveaxis(array, 1, -1)), -1, 1)


def reversed_axes(array: Array) -> Array:
    """The same numbers, the first axis innermost, every axis backwards and with gaps that hold NaN."""
    wide = np.full(tuple(2 * size for size in array.shape[::-1]), np.nan, array.dtype)
    view = wide[(slice(None, None, -2),) * array.ndim].transpose()
    view[...] = array
    return view


VECTORS = ("hidden", "visible", "channel", "position", "example")

ORDERS: dict[str, Order] = {
    "C order": np.ascontiguousarray,
    "channels last": channels_last,
    "reversed": reversed_axes,
}


def problem_of(row: Row, operation: str) -> Problem:
    plan = triconv.explain(operation, row.visible, row.weight, engine="direct", dtype=row.dtype, **row.options)
    return plan.problem


@cache
def known(row: Row, operation: str) -> tuple[Array, Array, Array, Array]:
    """Both operands, the result that the oracle says, and how far another may lie from it."""
    operands = row.operands(3)
    first, second = OPERATIONS[operation]
    return operands[first], operands[second], row.expected(operation, operands), row.allowed(operation, operands)


@dataclass(frozen=True)
class Case:
    """One way to run one operation of one row of the grid."""

    row: Row
    operation: str
    vector: str
    exact: tuple[bool, ...]
    parts: int = 1
    known: bool = False
    scattered: bool = False

    def way(self, problem: Problem, strides: tuple[tuple[int, ...], ...]) -> ways.Way:
        return ways.way(
            problem, self.vector, strides, self.exact, self.parts, known=self.known, scattered=self.scattered
        )

    def check(self, patch: pytest.MonkeyPatch, order: str) -> None:
        """Run it this way on arrays in this order."""
        lie, what = ORDERS[order], f"{self}, {order}"

        def chosen(problem: Problem, strides: tuple[tuple[int, ...], ...], *_: object) -> ways.Way:
            return self.way(problem, strides)

        patch.setattr(prepared, "best_way", chosen)
        patch.setattr(prepared, "cache_bytes", lambda: (0, 0))  # so that examples with parts are taken in turns
        a, b, expected, allowed = known(self.row, self.operation)
        out = lie(np.full(expected.shape, np.nan, self.row.dtype))
        try:
            direct.build(problem_of(self.row, self.operation))(lie(a), lie(b), out)
        except Exception as error:
            raise AssertionError(f"{what}: {error!r}") from error
        oracle.assert_close(out, expected, allowed, what)


def cases() -> Iterator[Case]:
    """Every vector, with every choice of exact axes that may go with it."""
    for row in GRID:
        if 0 in row.visible:  # a sum over no examples is not run at all
            continue
        for operation in OPERATIONS:
            problem = direct._some(problem_of(row, operation))
            for vector in ways.vectors(problem):
                exact = {(False,) * row.rank, *ways._exact_choices(problem, vector)}
                if problem.produces is Role.VISIBLE:
                    exact.add((True,) * row.rank)  # what weights with infinities take
                for choice in sorted(exact):
                    yield Case(row, operation, vector, choice)
                if ways.may_know(problem, vector):
                    yield Case(row, operation, vector, (False,) * row.rank, known=True)
                if ways.may_scatter(problem):
                    yield Case(row, operation, vector, (False,) * row.rank, scattered=True)
            if (parts := ways.filling(problem)) > 1:
                yield Case(row, operation, "example", (False,) * row.rank, parts)


def test_every_way_to_run_the_grid(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every so many-th of each kind, each in the next memory order."""
    kinds: dict[tuple[str, str, bool, bool, bool], list[Case]] = {}
    for case in cases():
        kinds.setdefault((case.operation, case.vector, any(case.exact), case.parts > 1, case.known), []).append(case)
    assert {kind[:2] for kind in kinds} == {(operation, vector) for operation in OPERATIONS for vector in VECTORS}
    assert {kind[:2] for kind in kinds if kind[2]} == {kind[:2] for kind in kinds}
    for number, case in enumerate(case for kind in kinds.values() for case in kind[::QUICK_STRIDE]):
        case.check(monkeypatch, list(ORDERS)[number % len(ORDERS)])


@pytest.mark.slow
@pytest.mark.parametrize("order", ORDERS)
def test_every_way_to_run_the_grid_in_every_order(order: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert sum(case.check(monkeypatch, order) is None for case in cases()) > 1000


def test_tiles_know_what_is_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Depthwise kernels of any rank, on operands amid NaN: exact, with an infinity beside zeros of the border too."""
    tried: Counter[str] = Counter()
    random = np.random.default_rng(0)

    def known(problem: Problem, strides: tuple[tuple[int, ...], ...], *_: object) -> ways.Way:
        tried[problem.name] += 1
        return ways.way(problem, "channel", strides, (False,) * problem.geometry.rank, known=True)

    monkeypatch.setattr(prepared, "best_way", known)
    sizes = patches._sizes
    for number in range(18):
        monkeypatch.setattr(patches, "_sizes", sizes if number % 3 else all_but_one)
        rank, channels = 1 + number % 3, (3, 16, 33)[number // 2 % 3]
        drawn = [random.integers(1, end, rank) for end in ((12, 8, 6)[rank - 1], 4, 2 + number % 2, 3)]
        size, kernel, stride, dilation = (tuple(map(int, own)) for own in drawn)
        pads = [e * (k - 1) for k, e in zip(kernel, dilation, strict=True)]
        padding = tuple((pad + int(random.integers(3)), int(random.integers(3))) for pad in pads)
        options = {"stride": stride, "padding": padding, "dilation": dilation, "groups": channels}
        shapes = (2, channels, *size), (channels, 1, *kernel)
        for operation in OPERATIONS:
            plan = triconv.explain(operation, *shapes, engine="direct", dtype="float32", **options)
            if not ways.may_know(plan.problem, "channel"):
                continue
            a, b = (amid_nan(random.integers(-4, 5, plan.problem.shape(role))) for role in plan.problem.operands)
            if operation != "conv_transpose":  # which multiplies no zeros, and finds that it must not
                b[0, 0].flat[0] = np.inf
            found, expected = (np.full(plan.problem.shape(plan.problem.produces), np.nan, np.float32) for _ in "ab")
            with np.errstate(all="ignore"):
                direct.build(plan.problem)(a, b, found)
                reference.ENGINE.build(plan.problem)(a, b, expected)
            np.testing.assert_array_equal(found, expected, f"{operation} {shapes} {options}")
    assert min(tried[operation] for operation in OPERATIONS) >= 4, tried


def all_but_one(nest: Nest) -> tuple[int, ...]:
    """Patches that leave one position over."""
    return tuple(max(1, loop.count - 1) if loop.axis >= 0 else 1 for loop in nest.sums)


def amid_nan(numbers: Array) -> Array:
    """The same numbers, channels innermost, with NaN before and behind them in memory."""
    room = np.full(numbers.size + 2048, np.nan, np.float32)
    inner = room[1024 : 1024 + numbers.size].reshape(numbers.shape[0], *numbers.shape[2:], numbers.shape[1])
    inner[...] = np.moveaxis(numbers, 1, -1)
    return np.moveaxis(inner, -1, 1)


def test_ways_that_are_never_chosen() -> None:
    """Where split residues lie apart, the last axis has no loops of its own at its edges: no such way is asked for.

    Only a transpose has some there, as its phases are what the residues are; and only vectors of channels otherwise.
    """
    for case in cases():
        if case.operation != "conv_transpose" and case.exact and case.exact[-1]:
            assert case.vector in ("channel", "hidden", "visible"), case
    for row in GRID:
        for operation in OPERATIONS:
            if row.rank and 0 not in row.visible:
                problem = direct._some(problem_of(row, operation))
                choices = ways._exact_choices(problem, "position")
                assert not any(choice[-1] for choice in choices), row.name


def test_what_a_local_kernel_reads_lies_together() -> None:
    """All examples and channels of a position, one behind the other."""
    problem = problem_of(BY_NAME["image, local"], "conv_transpose")
    strides = tuple((0,) * len(problem.shape(role)) for role in ways.ROLES)
    hidden = ways.way(problem, "example", strides, (False, False)).buffers[ways.ROLES.index(Role.HIDDEN)]
    assert hidden is not None
    assert hidden.layout.steps[:2] == (1, problem.batch)


def test_the_best_way_is_one_of_them() -> None:
    """What is chosen, for finite operands and for others, is among what is tested."""
    tested = set(cases())
    for row in GRID:
        if 0 in row.visible:
            continue
        for operation in OPERATIONS:
            problem = direct._some(problem_of(row, operation))
            strides = tuple(np.empty(problem.shape(role), np.int8).strides for role in ways.ROLES)
            for finite in (True, False):
                best = ways.best_way(problem, strides, finite)
                assert Case(row, operation, best.vector, best.exact, best.parts, *best.how) in tested, (
                    row.name,
                    operation,
                    finite,
                )


def lying(problem: Problem, lie: Order) -> tuple[ways.Strides, ...]:
    """The strides, in numbers, of arrays that lie so."""
    arrays = [lie(np.empty(problem.shape(role), np.int8)) for role in ways.ROLES]
    return tuple(array.strides for array in arrays)


def test_what_copies_take_depends_on_who_stay_neighbours() -> None:
    """Of channels that lie innermost those of a padded copy do; of positions they do not, nor every other one."""
    problem = triconv.explain("conv", (2, 64, 12, 40), (8, 64, 3, 3), padding=1, stride=1, engine="direct").problem
    last, first = (lying(problem, lie) for lie in (channels_last, np.ascontiguousarray))
    for vector, strides, of_visible in (("hidden", last, True), ("position", last, False), ("position", first, True)):
        one = ways.way(problem, vector, strides, (False, False))
        assert one.buffers[0] is not None
        assert one.straight[0] is of_visible
        sizes = [(buffer.size, straight) for buffer, straight in zip(one.buffers, one.straight, strict=True) if buffer]
        weighed = sum(4 * size * (ways.STRAIGHT if straight else ways.ACROSS) for size, straight in sizes)
        assert one.copying == weighed < one.copied
        assert one.seconds() == pytest.approx(one.multiplied() + 2 * weighed / coefficients().copied)
    strided = triconv.explain("conv", (2, 64, 12, 40), (8, 64, 3, 3), padding=1, stride=2, engine="direct").problem
    assert not ways.way(strided, "position", lying(strided, np.ascontiguousarray), (False, False)).straight[0]


def test_no_way_takes_less_than_is_told_before_it_is_made() -> None:
    """Else the fastest might be passed over."""
    for row in GRID:
        for operation, lie in ((one, lie) for one in OPERATIONS for lie in (np.ascontiguousarray, channels_last)):
            problem = direct._some(problem_of(row, operation))
            strides, inexact = lying(problem, lie), (False,) * problem.geometry.rank
            for vector in ways.vectors(problem) if 0 not in row.visible else ():
                least = ways.way(problem, vector, strides, inexact).least()
                assert ways._least(problem, vector, strides) <= least, (row.name, operation, vector)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_no_problem_takes_less_than_its_products(operation: str) -> None:
    """So a faster engine need not be weighed against ways, which take most of a choice's time."""
    shapes = (2, 64, 56, 56), (64, 64, 3, 3)
    large = [triconv.explain(operation, *shapes, padding=padding).problem for padding in (0, 1, 9)]
    for problem in [*(problem_of(row, operation) for row in GRID), *large]:
        assert direct.least(problem) <= direct.cost(problem) * (1 + 1e-9), problem
    # Minimal filtering multiplies so much less: else it could never spare the ways of what takes long.
    assert max(direct.least(problem) / direct.cost(problem) for problem in large) > 1 / 2.25


def test_what_cannot_win_has_no_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    made, best = list[Problem](), ways.best_way

    def counted(problem: Problem, *how: Any, **more: Any) -> ways.Way:
        made.append(problem)
        return best(problem, *how, **more)

    monkeypatch.setattr(ways, "best_way", counted)
    direct._expected.cache_clear()  # type: ignore[attr-defined]
    problem = triconv.explain(
        "conv", (8, 64, 54, 58), (64, 64, 3, 3), padding=1, dtype="float64", engine="reference"
    ).problem
    plan = dispatch._choose.__wrapped__(problem, "auto")  # type: ignore[attr-defined]
    assert plan.engine.name == "winograd"
    assert not made
    assert plan.why_not["direct"].startswith("slower: at least ")
    assert "not direct     slower: about " in str(plan)
    assert made


@pytest.mark.parametrize("operation", OPERATIONS)
def test_blocks_are_the_best_of_all_sizes(operation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those too that cover a loop in as many blocks as smaller ones do, which nobody looks at."""
    shapes = [
        ((8, 64, 56, 56), (64, 64, 3, 3)),
        ((8, 256, 14, 14), (1024, 256, 1, 1)),
        ((4, 32, 16, 16, 16), (32, 32, 3, 3, 3)),
    ]
    problems = [problem_of(row, operation) for row in GRID]
    problems += [triconv.explain(operation, *both, padding=both[1][-1] // 2).problem for both in shapes]
    each = [direct._expected(direct._some(problem), True) for problem in problems if 0 not in problem.geometry.hidden]
    found = [[cut.block for cut in ways._cuts.__wrapped__(way)] for way in each]  # type: ignore[attr-defined]
    monkeypatch.setattr(block, "_fewer", lambda _count, least, most: range(least, most + 1))
    assert found == [[cut.block for cut in ways._cuts.__wrapped__(way)] for way in each]  # type: ignore[attr-defined]
    assert sum(map(len, found)) > 50


def test_ways_that_copy_are_not_made_where_all_lies_well(monkeypatch: pytest.MonkeyPatch) -> None:
    """Matrices times arrays, as the transforms of FFT want them, of which a first call makes many ready."""
    made, way = list[str](), ways.way
    problem = problem_of(Row("", (6, 56, 512), (1,), 72), "conv")
    monkeypatch.setattr(ways, "way", lambda problem, vector, *how: made.append(vector) or way(problem, vector, *how))
    assert ways._found(problem, lying(problem, np.ascontiguousarray), True, frozenset()).vector == "position"
    assert made == ["position"]


def run_grid(names: list[str] | None = None) -> int:
    """The engine as it chooses, on the grid, against the oracle; to be called in a process with another target."""
    for row in GRID if names is None else [BY_NAME[name] for name in names]:
        for operation in OPERATIONS:
            a, b, expected, allowed = known(row, operation)
            run = direct.build(problem_of(row, operation))
            for order, lie in ORDERS.items():
                out = lie(np.full(expected.shape, np.nan, row.dtype))
                run(lie(a), lie(b), out)
                oracle.assert_close(out, expected, allowed, f"{row.name}, {operation}, {order}")
    return len(GRID if names is None else names)


def in_a_process(call: str, **environment: str) -> str:
    """What a function of this file gives in a process of its own."""
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", f"import test_direct; print({call})"],
        cwd=Path(__file__).parent,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.strip()


def test_checked_mode() -> None:
    """No load or store outside of an array; and checked mode is what ran."""
    assert in_a_process(f"test_direct.run_grid({CHECKED_ROWS})", TRICONV_CHECKED="1") == str(len(CHECKED_ROWS))
    assert in_a_process("__import__('triconv.kernels.words').kernels.words.CHECKED", TRICONV_CHECKED="1") == "True"


@pytest.mark.slow
@pytest.mark.parametrize(
    "environment",
    [{"TRICONV_CHECKED": "1"}, *({"TRICONV_TARGET": name} for name in NAMED if not lacking(name))],
    ids=str,
)
def test_the_grid_elsewhere(environment: dict[str, str]) -> None:
    assert in_a_process("test_direct.run_grid()", **environment) == str(len(GRID))


@dataclass(frozen=True)
class Built:
    """An operation ready to run, with operands and the bits of its result on one thread."""

    name: str
    run: Any
    a: Array
    b: Array
    bits: bytes
    like: Array

    def again(self) -> bytes:
        out = np.full_like(self.like, np.nan)
        self.run(self.a, self.b, out)
        return out.tobytes()


@pytest.fixture(scope="module")
def built() -> list[Built]:
    found = []
    for row in GRID:
        for operation in OPERATIONS:
            a, b, expected, _ = known(row, operation)
            run, out = direct.build(problem_of(row, operation)), np.full(expected.shape, np.nan, row.dtype)
            with triconv.threads(1):
                run(a, b, out)
            found.append(Built(f"{row.name}, {operation}", run, a, b, out.tobytes(), out))
    return found


@pytest.fixture
def shared(monkeypatch: pytest.MonkeyPatch) -> Counter[int]:
    """Work of any size is shared between threads; how often between how many."""
    split: Counter[int] = Counter()
    run = team._team.run

    def counted(job: Any, most: int) -> None:
        split[most + 1] += 1
        run(job, most)

    monkeypatch.setattr(team, "NUMBERS_WORTH_A_THREAD", 1)
    monkeypatch.setattr(team._team, "run", counted)
    monkeypatch.setattr(prepared.Prepared, "_written_down", lambda *_: None)
    return split


@pytest.mark.usefixtures("guarded")
def test_threads_change_no_bit(built: list[Built], shared: Counter[int]) -> None:
    """Nor does it whether the work was written down, as most of it was where it was not shared."""
    for threads in (1, 2, 3, 8):
        with triconv.threads(threads):
            for one in built:
                assert one.again() == one.bits, f"{one.name}, {threads} threads"
        assert threads == 1 or shared[threads] > 100


@pytest.mark.usefixtures("guarded")
def test_threads_change_no_bit_of_what_is_written_down(built: list[Built], monkeypatch: pytest.MonkeyPatch) -> None:
    split: Counter[int] = Counter()
    run_from = Sheet.run_from

    def counted(self: Sheet, begins: Any, helpers: int) -> None:
        split[min(helpers + 1, self.most)] += 1
        run_from(self, begins, helpers)

    monkeypatch.setattr(team, "NUMBERS_WORTH_A_THREAD", 1)
    monkeypatch.setattr(Sheet, "run_from", counted)
    monkeypatch.setattr(prepared.Prepared, "alone", property(lambda _: False))
    for threads in (2, 3, 8):
        with triconv.threads(threads):
            for one in built:
                assert one.again() == one.bits, f"{one.name}, {threads} threads"
        assert split[threads] > len(built) / 4


def forced_pieces(best: ways.Way) -> int:
    """As many as there could be."""
    able = best.asked.produces is Role.WEIGHT and best.parts == 1 and best.vector != "example"
    return next(n for n in (8, 4, 2, 1) if best.asked.batch % n == 0) if able else 1


@pytest.mark.parametrize(("written", "order"), [(False, "C order"), (True, "C order"), (True, "channels last")])
def test_gradients_summed_in_pieces(
    written: bool, order: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """Every way to run the grid's gradients, in as many pieces as it has examples to share; the same bits always.

    Kernels add up the pieces of so many, NumPy those of the others. How often that is found out depends on where in a
    cache line results begin, so each is counted once.
    """
    if written:
        monkeypatch.setattr(team, "NUMBERS_WORTH_A_THREAD", 1)
        monkeypatch.setattr(prepared.Prepared, "alone", property(lambda _: False))
    else:
        request.getfixturevalue("shared")
    monkeypatch.setattr(prepared, "pieces", forced_pieces)
    tried, summed = Counter[tuple[int, str]](), dict[tuple[Case, int], bool]()
    adder, lie = prepared._adder, ORDERS[order]
    for case in cases():
        problem = problem_of(case.row, case.operation)
        if case.operation != "conv_weight" or problem.complex or problem.channels.mask is not None:
            continue

        def chosen(problem: Problem, strides: tuple[tuple[int, ...], ...], *_: object, case: Case = case) -> ways.Way:
            found = case.way(problem, strides)
            tried[forced_pieces(found), case.vector] += 1
            return found

        monkeypatch.setattr(prepared, "best_way", chosen)
        a, b, expected, allowed = known(case.row, case.operation)
        for lead in range(2):  # of the channels, those that are side by side in the result

            def noted(*given: Any, which: tuple[Case, int] = (case, lead)) -> Any:
                found = adder(*given)
                summed[which] = found is not None
                return found

            monkeypatch.setattr(prepared, "_adder", noted)
            run, bits = direct.build(problem), set()
            for number in (1, 2, 3, 8):
                with triconv.threads(number):
                    out = channels_last(np.full(np.swapaxes(expected, lead, 1).shape, np.nan, case.row.dtype))
                    out = np.swapaxes(out, lead, 1)
                    run(lie(a), lie(b), out)
                    bits.add(out.tobytes())
                    oracle.assert_close(out, expected, allowed, f"{case.row.name}, {case.vector}, {number} threads")
            assert len(bits) == 1, case
    assert {(2, vector) for vector in VECTORS[:-1]} <= set(tried)
    assert Counter(summed.values()) == {True: 138, False: 160}


def test_there_may_be_more_threads_when_somebody_asks_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two that take pieces in turn would copy them to the same place if there were more of them than rooms."""
    monkeypatch.setattr(prepared, "chunks", lambda _: None)
    monkeypatch.setattr(team, "NUMBERS_WORTH_A_THREAD", 1)
    shapes = (8, 16, 40, 40), (8, 16, 40, 40), (16, 16, 3, 3)
    problem = triconv.explain("conv_weight", shapes[0], shapes[2], padding=1, dtype="float64").problem
    arrays = [np.zeros(shape) for shape in shapes]
    best = prepared.prepared(problem, tuple(tuple(s // 8 for s in one.strides) for one in arrays), True, False)
    assert best.pieces == 8
    assert best.fills
    found, stages = set[int](), program.Program.stages

    def noted(self: program.Program, *given: Any) -> Any:
        made = stages(self, *given)
        found.update(map(len, made))
        return made

    monkeypatch.setattr(program.Program, "stages", noted)
    monkeypatch.setattr(prepared, "thread_count", lambda: 2)
    with triconv.threads(8):
        best.run(arrays)
    assert found == {2}


@pytest.mark.parametrize(("batch", "expected"), [(8, 8), (4, 4), (6, 2), (1, 1), (3, 1)])
def test_a_small_gradient_of_much_is_summed_in_pieces(
    batch: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If it is not summed in chunks."""
    monkeypatch.setattr(prepared, "chunks", lambda _: None)
    random = np.random.default_rng(0)
    v, h = (channels_last(random.standard_normal((batch, 16, 40, 40))) for _ in range(2))
    problem = triconv.explain("conv_weight", v.shape, (16, 16, 3, 3), padding=1, dtype="float64").problem
    steps = tuple(tuple(step // 8 for step in array.strides) for array in (v, h, np.empty((16, 16, 3, 3))))
    best = prepared.prepared(problem, steps, finite=True, in_line=False)
    assert (best.pieces, best.pieces * best.examples) == (expected, batch)
    np.testing.assert_allclose(
        triconv.conv_weight(v, h, 3, padding=1, engine="direct"),
        triconv.conv_weight(v, h, 3, padding=1, engine="im2row"),
        rtol=0,
        atol=1e-9,
    )


@pytest.mark.parametrize(
    ("vectors", "taps", "pieces", "expected"),
    [
        (16, (3, 3), 8, 1),  # as many pieces as are enough for threads
        (16, (3, 3), 4, 2),
        (16, (3, 3), 1, 2),
        (6, (7, 7), 8, 2),  # sums that do not stay near
        (6.5, (3, 3), 1, 1),
    ],
)
def test_panels_of_a_gradient_are_for_threads_or_the_cache(
    vectors: float, taps: tuple[int, int], pieces: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which changes no bit: each number is summed in the same order."""
    monkeypatch.setattr(loops, "cache_bytes", lambda: (48 << 10, 1 << 20))
    monkeypatch.setattr(prepared, "pieces", lambda _: pieces)
    channels = int(vectors * target().lanes(4))
    random = np.random.default_rng(0)
    v, h = (channels_last(random.standard_normal((pieces, channels, 14, 14), np.float32)) for _ in range(2))
    shape, padding = (channels, 1, *taps), taps[0] // 2
    problem = triconv.explain("conv_weight", v.shape, shape, padding=padding, groups=channels, engine="direct").problem
    steps = tuple(tuple(step // 4 for step in array.strides) for array in (v, h, np.empty(shape, np.float32)))
    results = []
    for enough in (99, 8):
        monkeypatch.setattr(loops, "ENOUGH", enough)
        for one in (ways._cuts, ways.best_way):
            one.cache_clear()
        best = prepared.prepared(problem, steps, finite=True, in_line=False)
        found = [cut.nest.outer[0].count if cut.nest.outer else 1 for cut in best.way.cuts()]
        results.append(np.empty(shape, np.float32))
        best.run((v, h, results[-1]))
    assert (best.way.vector, best.way.pieces, set(found)) == ("channel", pieces, {expected})
    np.testing.assert_array_equal(*results)


BOUND = """
import os, sys
os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: int(sys.argv[1])])
import numpy as np, triconv
from hashlib import sha256
random, digest = np.random.default_rng(0), sha256()
for n, c, x, k, s in ((1, 96, 56, 5, 2), (2, 48, 8, 7, 1), (16, 96, 28, 5, 2), (2, 32, 56, 5, 2), (8, 64, 14, 3, 1)):
    y = (x + 2 * (k // 2) - k) // s + 1
    v, h = (random.standard_normal((n, z, z, c), np.float32).transpose(0, 3, 1, 2) for z in (x, y))
    digest.update(triconv.conv_weight(v, h, (k, k), stride=s, padding=k // 2, groups=c).tobytes())
print(digest.hexdigest())
"""


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="processes are not bound to processors here")
def test_processors_that_a_process_may_use_change_no_bit() -> None:
    """Nor what another process chose that may use more."""
    command = [sys.executable, "-c", BOUND]
    runs = [subprocess.run([*command, n], capture_output=True, text=True, check=True).stdout for n in ("1", "2")]
    assert runs[0] == runs[1]


@pytest.mark.parametrize("operation", ["conv", "conv_transpose"])
@pytest.mark.parametrize(("groups", "size", "expected"), [(16, 16, True), (16, 4096, False), (2, 16, True)])
def test_groups_take_turns_inside_of_lines_that_stay_near(
    operation: str, groups: int, size: int, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which changes no bit: 32 bytes of each of many positions, group after group, took up to three times as long."""
    shapes = (3, 8 * groups, 6, size), (8 * groups, 8, 3, 3)
    options: dict[str, Any] = {"stride": 2, "padding": 1, "groups": groups, "engine": "direct"}
    problem = triconv.explain(operation, *shapes, **options).problem
    nests = [cut.nest for cut in direct._expected(problem, True).cuts()]
    assert {groups in (loop.count for loop in nest.outer) for nest in nests} == {not expected}
    plan, random = triconv.explain(operation, *shapes, **options), np.random.default_rng(0)
    a, b = (random.standard_normal(plan.shape(role), np.float32) for role in problem.operands)
    results = []
    for stays in (True, False):
        monkeypatch.setattr(loops, "_stays", lambda _, stays=stays: stays)
        for one in (ways._cuts, ways.best_way):
            one.cache_clear()
        results.append(np.empty(plan.shape(problem.produces), np.float32))
        direct.build(problem)(a, b, results[-1])
    np.testing.assert_array_equal(*results)


@pytest.mark.parametrize(
    ("room", "turns"),
    [(1 << 20, [2, 2, 8, 8]), (1 << 19, [2, 2, 2, 4, 8]), (3 << 17, [4, 2, 2, 2, 8]), (1 << 18, [2, 2, 8, 8])],
)
def test_all_kernels_of_a_bank_meet_examples_while_they_are_near(
    room: int, turns: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Chunks of examples, of 64 kB each in half of the cache, where the kernels' 147 kB have room there too."""
    shapes = (8, 32, 16, 16), (2, 2, 32, 32, 3, 3)
    plan, random, found = triconv.explain("conv", *shapes, padding=1, engine="direct"), np.random.default_rng(0), []
    a, b = (random.standard_normal(shape, np.float32) for shape in shapes)
    for size, expected in ((room, turns), (1, [2, 2, 8, 8])):
        monkeypatch.setattr(loops, "cache_bytes", lambda size=size: (48 << 10, size))
        for one in (ways._cuts, ways.best_way, direct._expected):
            one.cache_clear()  # type: ignore[attr-defined]
        (nest,) = [cut.nest for cut in direct._expected(plan.problem, True).cuts()]
        assert [loop.count for loop in nest.outer if loop.count > 1] == expected
        found.append(np.empty(plan.shape(Role.HIDDEN), np.float32))
        direct.build(plan.problem)(a, b, found[-1])
    np.testing.assert_array_equal(*found)


def test_vectors_that_are_partly_full_are_worth_a_thread_sooner() -> None:
    """One thread is enough for as many products in full vectors."""

    def alone(channels: int, groups: int, size: int) -> bool:
        shapes = (1, channels, size, size), (channels, channels // groups, 3, 3)
        options: dict[str, Any] = {"padding": 1, "stride": 2, "groups": groups, "dtype": "float32", "engine": "direct"}
        inner, strides = direct._run(triconv.explain("conv", *shapes, **options).problem, True)
        best = prepared.prepared(inner, strides, finite=True, in_line=False)
        assert isinstance(best.program, program.Program)
        return best.alone

    assert (alone(256, 32, 56), alone(256, 1, 9)) == (False, True)
    assert 256 * 8 * 28 * 28 < 256 * 256 * 5 * 5


@pytest.mark.parametrize("groups", [1, 8])
def test_gradients_of_groups_are_summed_in_parts(groups: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A group's channels lie in short pieces between those of the others, so they fill the cache much sooner."""
    monkeypatch.setattr(ways, "cache_bytes", lambda: (48 << 10, 1 << 20))
    shape, weight = (4, 16 * groups, 28, 28), (16 * groups, 16, 3, 3)
    problem = triconv.explain("conv_weight", shape, weight, padding=1, groups=groups, engine="direct").problem
    assert [cut.parts > 1 for cut in direct._expected(problem, True).cuts()] == [groups > 1]


def test_a_graphs_gradient_is_summed_in_one_piece() -> None:
    """Its weight is that of its edges, behind each other: no shape of the problem's says how it lies."""
    random = np.random.default_rng(0)
    v, h = random.standard_normal((32, 8, 64, 8)), random.standard_normal((32, 16, 62, 8))
    graph = random.random((16, 8)) < 0.4
    found = triconv.conv_weight(v, h, (3, 1), groups=graph, engine="direct")
    expected = triconv.conv_weight(v, h, (3, 1), groups=graph, engine="im2row")
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9)


def call_from_many_threads(built: list[Built], seconds: float) -> int:
    """How many calls eight threads make; none may give other bits than the first."""
    wrong: list[str] = []
    calls = [0] * 8

    def work(number: int) -> None:
        random, end = np.random.default_rng(number), time.monotonic() + seconds
        while time.monotonic() < end and not wrong:
            one = built[random.integers(len(built))]
            try:
                with triconv.threads(2):
                    if one.again() != one.bits:
                        wrong.append(f"{one.name}: other bits")
            except Exception as error:
                wrong.append(f"{one.name}: {error!r}")
            calls[number] += 1

    workers = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(seconds + 60)
    assert not wrong
    assert all(calls)
    return sum(calls)


def test_many_threads_call_at_once(built: list[Built], shared: Counter[int]) -> None:
    assert call_from_many_threads(built, 2) > 50
    assert sum(shared.values()) > 50


@pytest.mark.slow
def test_many_threads_call_for_a_minute(built: list[Built], shared: Counter[int]) -> None:
    assert call_from_many_threads(built, 60) > 1000
    assert sum(shared.values()) > 1000


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:os.fork")  # JAX, which other tests may have imported, warns of every fork
def test_a_forked_child_computes_the_same_bits(built: list[Built], shared: Counter[int]) -> None:
    with triconv.threads(3):
        for one in built[:30]:
            one.again()  # the parent's pool has threads, which the child's has not
    assert shared[3]
    child = os.fork()
    if child == 0:
        try:
            with triconv.threads(3):
                os._exit(any(one.again() != one.bits for one in built))
        finally:
            os._exit(2)
    for _ in range(600):
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            break
        time.sleep(0.1)
    else:
        os.kill(child, 9)
        os.waitpid(child, 0)
        raise AssertionError("the child does not end")
    assert os.waitstatus_to_exitcode(status) == 0


SPECIAL = {"infinity": np.inf, "minus infinity": -np.inf, "NaN": np.nan}


def assert_same_kinds(actual: Array, expected: Array, allowed: Array, what: str) -> None:
    """Infinities of the same sign and NaN at the same places, and what is finite as close as it has to be."""
    np.testing.assert_array_equal(np.isnan(actual), np.isnan(expected), err_msg=what)
    for sign in (np.inf, -np.inf):
        np.testing.assert_array_equal(actual == sign, expected == sign, err_msg=what)
    finite = np.isfinite(expected)
    oracle.assert_close(actual[finite], expected[finite], np.broadcast_to(allowed, expected.shape)[finite], what)


@pytest.mark.parametrize("special", SPECIAL)
def test_numbers_that_are_not_usual(special: str) -> None:
    """Infinities and NaN in each operand, at its first, a middle and its last entry, as the reference has them.

    The products of a zero border take part in a convolution and in a kernel's gradient, and in no transpose.
    """
    value, places = SPECIAL[special], count()
    for row in (row for row in PADDED if not row.dtype.startswith("complex")):
        for operation, roles in OPERATIONS.items():
            run = direct.build(problem_of(row, operation))
            for role in roles:
                operands = row.operands(5)
                size = operands[role].size
                operands[role].flat[(0, size // 2, size - 1)[next(places) % 3]] = value
                first, second = (operands[name] for name in roles)
                with np.errstate(all="ignore"):
                    expected = row.call(getattr(triconv, operation), operation, operands, engine="reference")
                    allowed = row.allowed(operation, operands)
                for order, lie in ORDERS.items():
                    out = lie(np.full(expected.shape, 7, row.dtype))
                    run(lie(first), lie(second), out)
                    assert_same_kinds(out, expected, allowed, f"{row.name}, {operation}, {role}, {order}")
                unread = isinstance(row.groups, tuple) and role == "weight"  # outside of the graph
                assert unread or not np.isfinite(expected).all(), "nothing special was read"


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_denormal_numbers(dtype: str) -> None:
    """Small multiples of the smallest number there is are added up exactly, none is taken for zero."""
    random, smallest = np.random.default_rng(0), np.finfo(dtype).smallest_subnormal
    for row in PADDED:
        for operation, roles in OPERATIONS.items():
            run = direct.build(replace(problem_of(row, operation), dtype=dtype, itemsize=np.dtype(dtype).itemsize))
            whole = {role: random.integers(-9, 10, getattr(row, role)).astype(dtype) for role in roles}
            expected = row.expected(operation, whole)
            for tiny in roles:
                a, b = (array * smallest if role == tiny else array for role, array in whole.items())
                out = np.full(expected.shape, np.nan, dtype)
                run(a, b, out)
                np.testing.assert_array_equal(out, expected.astype(dtype) * smallest, f"{row.name}, {operation}")


def test_channels_that_would_share_few_places_in_the_cache() -> None:
    """The gradient of a kernel copies them apart, and is the same."""
    random = np.random.default_rng(0)
    visible, hidden = (np.moveaxis(random.standard_normal((2, 5, n), dtype=np.float32), -1, 1) for n in (512, 512))
    problem = triconv.explain("conv_weight", (2, 512, 5), (512, 512, 2), engine="direct").problem
    way = ways.best_way(problem, tuple((step[0] // 4, 1, 512) for step in (visible.strides,) * 3), True)
    assert [buffer is not None and buffer.gap for buffer in way.buffers] == [16, 16, False]
    weight = triconv.conv_weight(visible, hidden[..., 1:], 2, engine="direct")
    near = np.stack([visible[..., :-1], visible[..., 1:]], -1).astype(np.float64)
    expected, size = (np.einsum("noc,nick->oik", of(hidden[..., 1:]), of(near)) for of in (np.float64, np.abs))
    oracle.assert_close(weight, expected, oracle.bound(8, size, weight.dtype))


@pytest.mark.parametrize("last", [True, False])
@pytest.mark.parametrize("operation", ["conv", "conv_weight"])
def test_what_single_taps_do_not_meet_is_not_copied(operation: str, last: bool) -> None:
    """Nor read: it may be anything. Of a line whose positions lie side by side all are."""
    random = np.random.default_rng(0)
    shape = (2, 64, 9, 12)
    visible = random.standard_normal(shape)
    weight, hidden = random.standard_normal((32, 64, 1, 1)), random.standard_normal((2, 32, 3, 6))
    other: Array = weight if operation == "conv" else hidden
    size: tuple[Any, ...] = () if operation == "conv" else ((1, 1),)
    run, options = getattr(triconv, operation), {"stride": (4, 2)}
    expected = run(visible, other, *size, engine="reference", **options)
    bound = run(np.abs(visible), np.abs(other), *size, engine="reference", **options)
    met = np.full(shape, np.nan)
    met[:, :, ::4, ::2] = visible[:, :, ::4, ::2]
    if last:
        met = np.moveaxis(np.ascontiguousarray(np.moveaxis(met, 1, -1)), -1, 1)
    found = run(met, other, *size, engine="direct", **options)
    oracle.assert_close(found, expected, oracle.bound(64 if operation == "conv" else 36, bound, found.dtype))
    problem = triconv.explain(operation, shape, weight.shape, engine="direct", **options).problem
    inner, where = met_of(problem, tuple(step // 8 for step in met.strides))
    assert inner.geometry.visible == ((3, 6) if last else (3, 12))
    assert visible[where].shape == inner.shape(Role.VISIBLE)


def test_channels_planes_apart_are_copied_together() -> None:
    """Also where the edges need no padding; but not what is small enough to be read anywhere."""
    for size, copied in ((64, True), (4, False)):
        problem = triconv.explain("conv", (8, 128, size, size), (64, 128, 3, 3), padding=1, engine="direct").problem
        if not copied:
            problem = replace(problem, batch=1)
        strides = tuple(np.empty(problem.shape(role), np.int8).strides for role in ways.ROLES)
        way = ways.way(problem, "hidden", strides, (True, True))
        assert (way.buffers[ways.ROLES.index(Role.VISIBLE)] is not None) == copied


def test_taps_of_a_transpose_are_in_the_order_of_memory() -> None:
    """What comes from memory is then read last, when the rest of the sum is there."""
    problem = triconv.explain("conv_transpose", (8, 64, 28, 28), (64, 64, 3, 3), padding=1, engine="direct").problem
    way = direct._expected(problem, True)
    assert all(way.exact)
    for cut in way.cuts():
        corners, taps = cut.tables()
        for first, last in corners[:, 3:]:
            assert (np.diff(taps[first:last, 0]) > 0).all()


@pytest.mark.parametrize(
    ("size", "weight", "panels"),
    [
        ((8, 16, 16), (256, 128, 1, 1), True),  # a tap is larger than the first cache
        ((8, 16, 16), (64, 64, 3, 3), False),  # as large, but of small taps
        ((1, 16, 16), (256, 128, 1, 1), False),  # read too few times for a copy
        ((1, 14, 14), (256, 128, 3, 3), True),  # large
    ],
)
@pytest.mark.parametrize("operation", ["conv", "conv_transpose"])
def test_a_weight_is_put_in_panels_where_tiles_read_it_sooner_then(
    operation: str, size: tuple[int, ...], weight: tuple[int, ...], panels: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ways, "cache_bytes", lambda: (48 << 10, 1 << 20))
    row = Row("", (size[0], weight[1], *size[1:]), weight[2:], weight[0], padding=weight[2] // 2)
    way = ways.best_way.__wrapped__(*direct._run(problem_of(row, operation), True), True)  # type: ignore[attr-defined]
    buffer = way.buffers[ways.ROLES.index(Role.WEIGHT)]
    assert way.vector == {"conv": "hidden", "conv_transpose": "visible"}[operation]
    assert (buffer is not None and buffer.panel > 0) == panels
    operands = row.operands()
    found = row.call(getattr(triconv, operation), operation, operands, engine="direct")
    expected = row.call(getattr(triconv, operation), operation, operands, engine="im2row")
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9)


def test_groups_with_a_large_weight() -> None:
    """Panels are of all channels, so groups have none."""
    random = np.random.default_rng(0)
    for hidden, visible, groups in ((256, 256, 2), (288, 288, 3), (96, 1024, 2)):
        v = random.standard_normal((1, visible, 6, 6), dtype=np.float32)
        w = random.standard_normal((hidden, visible // groups, 3, 3), dtype=np.float32)
        assert w.nbytes > loops.LARGE
        h = triconv.conv(v, w, padding=1, groups=groups, engine="direct")
        expected = triconv.conv(v.astype("float64"), w.astype("float64"), padding=1, groups=groups, engine="im2row")
        size = triconv.conv(np.abs(v), np.abs(w), padding=1, groups=groups, engine="im2row")
        oracle.assert_close(h, expected, oracle.bound(9 * visible // groups, size, h.dtype))
        back = triconv.conv_transpose(h, w, padding=1, groups=groups, engine="direct")
        expected = triconv.conv_transpose(h.astype("float64"), w, padding=1, groups=groups, engine="im2row")
        size = triconv.conv_transpose(np.abs(h), np.abs(w), padding=1, groups=groups, engine="im2row")
        oracle.assert_close(back, expected, oracle.bound(9 * hidden // groups, size, h.dtype))


def test_choosing_does_not_take_longer_for_long_strides_and_kernels() -> None:
    """A problem of such sizes has no list of its residues, or of its taps squared, anywhere."""
    visible = np.broadcast_to(np.float32(2), (1, 8, 2**40))
    result = triconv.conv(visible, np.ones((8, 8, 3), "float32"), stride=2**38, engine="direct")
    np.testing.assert_array_equal(result, np.full((1, 8, 4), 48))


def test_broadcast_operands_beyond_two_to_the_31() -> None:
    """What is read where it lies takes no memory; what would be copied whole is refused in one line."""
    weight = np.array([[[1, 2, 3]]], "float32")
    visible = np.broadcast_to(np.float32(2), (1, 1, 2**40))
    result = triconv.conv(visible, weight, stride=2**38, engine="direct")
    np.testing.assert_array_equal(result, np.full((1, 1, 4), 12))
    result = triconv.conv(visible, weight, stride=2**38, padding=1, engine="direct")
    np.testing.assert_array_equal(result, [[[10, 12, 12, 12]]])
    with pytest.raises(MemoryError, match=r"^conv to shape \(1, 1, 4\) asks for \d+ bytes, more than .*$"):
        triconv.conv(visible, weight, stride=2**38, padding=1, border="circular", engine="direct")


def test_positions_beyond_two_to_the_31() -> None:
    """Steps are counted in 64 bits: positions 4 GB apart, of a file that has nothing in between."""
    apart = 2**30
    with tempfile.TemporaryFile() as file:
        visible = np.memmap(file, "float32", "w+", shape=(1, 1, 4 * apart + 16))
        for c in range(5):
            visible[0, 0, c * apart : c * apart + 3] = [c + 1, 10 * (c + 1), 100 * (c + 1)]
        result = triconv.conv(visible, np.array([[[1, 2, 3]]], "float32"), stride=apart, engine="direct")
        np.testing.assert_array_equal(result, [[[321, 642, 963, 1284, 1605]]])
        hidden = np.array([[[1, 1, 1, 1, 10]]], "float32")
        gradient = triconv.conv_weight(visible, hidden, 3, stride=apart, engine="direct")
        np.testing.assert_array_equal(gradient, [[[60, 600, 6000]]])
        del visible, result, gradient


def unaligned(array: Array) -> Array:
    """The same numbers, one byte off their alignment."""
    room = np.empty(array.nbytes + 1, np.uint8)
    view = room[1:].view(array.dtype).reshape(array.shape)
    view[...] = array
    return view


@pytest.mark.parametrize("name", ["image", "signal", "tiled and strided", "padding on both sides"])
def test_operands_that_lie_badly(name: str) -> None:
    """Unaligned, byte-swapped and read-only ones give the bits of good ones, and stay as they are."""
    row = BY_NAME[name]
    for operation in OPERATIONS:
        function, good = getattr(triconv, operation), row.operands()
        expected = row.call(function, operation, good, engine="direct")
        oracle.assert_close(expected, row.expected(operation, good), row.allowed(operation, good), operation)
        for change in (unaligned, lambda a: a.astype(a.dtype.newbyteorder()), lambda a: a.copy()):
            bad = {role: change(array) for role, array in good.items()}
            for array in bad.values():
                array.flags.writeable = False
            np.testing.assert_array_equal(row.call(function, operation, bad, engine="direct"), expected)
            for role, array in bad.items():
                np.testing.assert_array_equal(array, good[role])
        first, second = (unaligned(good[role]) for role in OPERATIONS[operation])
        out = unaligned(np.full(expected.shape, np.nan, row.dtype))
        direct.build(problem_of(row, operation))(first, second, out)
        oracle.assert_close(out, row.expected(operation, good), row.allowed(operation, good), operation)


@pytest.mark.parametrize("name", [row.name for row in GRID if 0 in row.visible])
def test_no_examples(name: str) -> None:
    row = BY_NAME[name]
    for operation in OPERATIONS:
        result = row.call(getattr(triconv, operation), operation, row.operands(), engine="direct")
        assert result.shape == getattr(row, RESULT[operation])
        assert not result.any()


def test_a_graphs_gradient_meets_channels_again_while_they_are_near(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of all edges those of some visible channels come together, as many as half of the cache holds."""
    mask = np.random.default_rng(0).random((24, 24)) < 0.3
    problem = triconv.explain("conv_weight", (8, 24, 16, 16), (24, 24, 3, 3), groups=mask, dtype="float32").problem
    each, edges = problem.bytes_of(Role.VISIBLE) // 24, np.nonzero(mask)
    for many in (1, 5, 24, 100):
        monkeypatch.setattr(loops, "cache_bytes", lambda many=many: (1 << 15, 2 * many * each))
        seen, made, number = loops._edges(problem, edges, loops.Steps(1, 1, 0), 1).corners.T
        np.testing.assert_array_equal((made, seen), [end[number] for end in edges])
        assert sorted(number.tolist()) == list(range(len(number)))
        turns = list(zip((seen // many).tolist(), made.tolist(), seen.tolist(), strict=True))
        assert turns == sorted(turns)
