"""Little work written down once: on other arrays, on many threads at once, and where something is not finite."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import numpy as np
import pytest
from bounds import problem_of
from grid import GRID
from numpy.typing import NDArray
from program import LONG

import triconv
from triconv.engines import direct
from triconv.form import OPERATIONS
from triconv.kept import Kept
from triconv.kernels import prepared
from triconv.kernels import short as module
from triconv.kernels.copy import Dim, Move, in_stage
from triconv.kernels.finite import test as finite
from triconv.kernels.program import Program
from triconv.kernels.short import Later, Short, Written, stand_in
from triconv.kernels.ways import folds
from triconv.kernels.words import CHECKED
from triconv.memory import LINE, address

Array = NDArray[Any]

pytestmark = pytest.mark.skipif(CHECKED, reason="in checked mode every call is made by itself, with the bounds")


def copied_twice() -> Short:
    """Ten numbers of the first array to room and from there to the third; whether those of the second are finite."""
    arrays = [np.empty(10), np.empty(5), stand_in((10,), (16,), np.dtype("f8")), np.empty(11)]
    there, back = (Move.of([Dim(((0, 0, 10),), 1, step)], "float64") for step in (1, 2))
    calls = [*there.calls(arrays[0], arrays[3], 0, 1), *back.calls(arrays[3], arrays[2], 0, 1)]
    return Short.of([[[*calls, *finite(arrays[1], arrays[3][10:])]]], arrays, 10)


def test_it_runs_on_other_arrays_and_says_whether_all_is_finite() -> None:
    short = copied_twice()
    for seed, bad in enumerate((0.0, np.inf, -np.inf, np.nan, 1.0)):
        source, tested, target = np.random.default_rng(seed).random(10), np.ones(5), np.full(20, np.nan)
        tested[seed] = bad
        assert short.run(*map(address, (source, tested, target))) == np.isfinite(bad)
        np.testing.assert_array_equal(target, np.stack((source, np.full(10, np.nan)), -1).ravel())


@pytest.mark.parametrize("operation", OPERATIONS)
def test_more_work_is_written_down_for_any_number_of_threads(operation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same bits as what is not, also where a weight is not finite; larger room is lent, and given back."""
    ran: list[object] = []
    program_run = Program.run

    def noted(self: Program, *given: Any, **how: Any) -> None:
        ran.append(self)
        program_run(self, *given, **how)

    monkeypatch.setattr(Program, "run", noted)
    options: dict[str, Any] = {"padding": 1, "dtype": "float32"}
    problem = triconv.explain(operation, (6, 16, 60, 30), (24, 16, 3, 3), **options, engine="direct").problem
    random = np.random.default_rng(0)
    a, b = (random.standard_normal(problem.shape(role)).astype("f4") for role in problem.operands)
    monkeypatch.setattr(prepared, "pieces", lambda _: 1)
    monkeypatch.setattr(prepared, "chunks", lambda _: None)
    written = direct.build(problem)
    written(a, b, np.empty(problem.shape(problem.produces), "f4"))
    monkeypatch.setattr(prepared, "may_be_short", lambda *_: False)
    plain, outs = direct.build(problem), []
    for value in (0.5, np.inf, 0.5):
        b[1, 2, 0, 0] = value
        for run, threads in ((plain, 1), (plain, 2), (written, 1), (written, 2), (written, 3)):
            ran.clear()
            outs.append(np.full(problem.shape(problem.produces), np.nan, "f4"))
            with triconv.threads(threads):
                run(a, b, outs[-1])
            if value == 0.5:
                assert bool(ran) == (run is plain)
    found = [out.tobytes() for out in outs]
    assert found == [found[0]] * 5 + [found[5]] * 5 + [found[0]] * 5
    assert found[0] != found[5]


@pytest.mark.parametrize("operation", ["conv", "conv_transpose"])
def test_work_with_a_kept_weight_is_written_down_with_its_copy(operation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The weight itself is not read again, neither to copy it nor to see whether it is finite."""
    problem = triconv.explain(operation, (2, 64, 12, 12), (64, 64, 3, 3), padding=1, engine="direct").problem
    random = np.random.default_rng(0)
    data, weight = problem.operands
    a, b, other = (random.standard_normal(problem.shape(role)).astype("f4") for role in (data, weight, weight))
    a = np.moveaxis(np.ascontiguousarray(np.moveaxis(a, 1, -1)), -1, 1)
    run, kept, out = direct.build(problem), {Kept(): b, Kept(): other}, np.empty(problem.shape(problem.produces), "f4")
    expected = []
    for w in (b, other):
        run(a, w, out)
        expected.append(out.tobytes())
    assert expected[0] != expected[1]
    for own, w in kept.items():
        run(a, w, out, own)
    monkeypatch.setattr(Program, "run", lambda *_, **__: pytest.fail("not written down"))
    for threads in (1, 2, 3):
        for own, bits in zip(kept, expected, strict=True):
            out[...] = np.nan
            with triconv.threads(threads):
                run(a, np.full_like(b, np.nan), out, own)
            assert out.tobytes() == bits


COPIED = [
    ("winograd", "conv", (1, 64, 64, 64), (3, 64, 3, 3), {"dtype": "float64"}, 2),
    ("winograd", "conv", (1, 32, 64, 64), (32, 1, 3, 3), {"groups": 32}, 2),
    ("direct", "conv_weight", (1, 96, 30, 30), (256, 96, 3, 3), {}, 4),
]


@pytest.mark.usefixtures("guarded")
@pytest.mark.parametrize("case", COPIED, ids=["one part", "groups", "few chunks"])
def test_threads_that_have_no_scratch_share_no_copies(case: tuple[Any, ...]) -> None:
    """There is more to be copied than to be multiplied; who takes part has scratch of its own."""
    engine, operation, visible, weight, options, threads = case
    plan = triconv.explain(operation, visible, weight, padding=1, engine=engine, **options)
    random, shape, kind = np.random.default_rng(0), plan.problem.shape(plan.problem.produces), plan.problem.dtype
    a, b = (random.standard_normal(plan.problem.shape(role)).astype(kind) for role in plan.problem.operands)
    expected, out = np.empty(shape, kind), np.empty(shape, kind)
    plan.run(a, b, expected)
    with triconv.threads(threads):
        for _ in range(30):
            out[...] = np.nan
            plan.run(a, b, out)
            np.testing.assert_array_equal(out, expected)


def test_its_room_begins_on_a_line() -> None:
    """Kernels may write whole lines past the caches there."""
    short, target = copied_twice(), np.zeros(20)
    seen: list[int] = []
    short.sheet.__dict__["alone"] = lambda *values: seen.append(values[7]), *short.sheet.alone[1:]
    others = []
    for _ in range(50):
        short.run(*[address(target)] * 3)
        others.append(np.empty(short.room + LINE // 8))  # takes the place that the room had
    assert [place % LINE for place in seen] == [0] * 50
    assert len(set(seen)) > 10


def test_many_threads_may_run_it_at_once() -> None:
    """Each in room of its own: they meet when all have it, before they begin."""
    short, number, rooms = copied_twice(), 8, list[int]()
    (kernel, *others), barrier = short.sheet.alone, Barrier(number)

    def met(*values: int) -> None:
        rooms.append(values[7])
        barrier.wait(LONG)
        kernel(*values)

    short.sheet.__dict__["alone"] = met, *others

    def run(seed: int) -> bool:
        source, tested, target = np.random.default_rng(seed).random(10), np.ones(5), np.zeros(20)
        tested[0] = np.nan if seed % 2 else 0.0
        return short.run(*map(address, (source, tested, target))) != seed % 2 and (target[::2] == source).all()

    with ThreadPoolExecutor(number) as pool:
        assert all(pool.map(run, range(60 * number)))
    assert {len(set(rooms[n : n + number])) for n in range(0, len(rooms), number)} == {number}


def test_most_of_the_grid_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Borders of a transpose, gradients added up in several turns, and what is large, are not."""
    ran: list[bool] = []
    tried = prepared.Prepared.tried

    def noted(self: prepared.Prepared, *given: Any) -> bool:
        short = self._written_down(given[0], 0)
        ran.append(short is not None)
        assert short is None or not short.shared, "one thread shares nothing"
        assert short is None or not folds(self.way.asked), "kernels do not add up what a border takes back"
        return tried(self, *given)

    monkeypatch.setattr(prepared.Prepared, "tried", noted)
    monkeypatch.setenv("TRICONV_NUM_THREADS", "1")
    for row in GRID:
        for operation in OPERATIONS:
            problem = problem_of(operation, row)
            a, b = (np.ones(problem.shape(role), problem.dtype) for role in problem.operands)
            direct.build(problem)(a, b, np.empty(problem.shape(problem.produces), problem.dtype))
    assert sum(ran) > len(ran) / 2
    assert not all(ran)


@pytest.mark.skipif(CHECKED, reason="nothing is written down")
@pytest.mark.parametrize(("batch", "turns"), [(2, 2), (4, 2), (9, 3), (5, 5)])
@pytest.mark.parametrize("room", [1, 1 << 40], ids=["little room", "room"])
def test_a_few_turns_of_examples_are_written_down(
    room: int, batch: int, turns: int, monkeypatch: pytest.MonkeyPatch, allow: Callable[[int], None]
) -> None:
    """Where copies of all would be more than a call should take; with room for them they are not in turns."""
    seen, tried = list[prepared.Prepared](), prepared.Prepared.tried

    def noted(self: prepared.Prepared, *given: Any) -> bool:
        seen.append(self)
        return tried(self, *given)

    monkeypatch.setattr(prepared.Prepared, "tried", noted)
    problem = triconv.explain("conv_transpose", (batch, 3, 7, 28), (24, 3, 1, 5), stride=2, engine="direct").problem
    random = np.random.default_rng(0)
    h, w = (random.standard_normal(problem.shape(role)).astype("f4") for role in problem.operands)
    expected = triconv.conv_transpose(h, w, visible_size=(7, 28), stride=2, engine="im2row")
    allow(room)
    for threads in (1, 2, 3):
        with triconv.threads(threads):
            out = np.full_like(expected, np.nan)
            direct.build(problem)(h, w, out)
        np.testing.assert_allclose(out, expected, rtol=0, atol=1e-5)
    assert {len(h) // one.examples for one in seen} == {turns if room == 1 else 1}
    found = {one._written_down((out, h, w), 0) is not None for one in seen}
    assert found == {room > 1 or turns <= prepared.FEW_TURNS}
    monkeypatch.setattr(prepared, "cache_bytes", lambda: (1 << 10, 1 << 11))
    direct.build(problem)(h, w, out)
    assert len(h) // seen[-1].examples == turns, "copies that do not stay in the cache"


@pytest.mark.parametrize("operation", ["conv_transpose", "conv"])
def test_what_is_not_finite_is_computed_as_written(operation: str) -> None:
    """In the same call as what is, before and after."""
    data, weight = np.ones((1, 4, 8, 8), np.float32), np.ones((4, 4, 3, 3), np.float32)
    run = getattr(triconv, operation)
    before = run(data, weight, padding=1, engine="direct")
    weight[1, 2, 0, 0] = np.inf
    found, expected = (run(data, weight, padding=1, engine=engine) for engine in ("direct", "reference"))
    np.testing.assert_array_equal(np.isfinite(found), np.isfinite(expected))
    weight[1, 2, 0, 0] = 1
    np.testing.assert_array_equal(run(data, weight, padding=1, engine="direct"), before)


def test_a_result_in_any_order_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that lies backwards, whose numbers are not where a small array's are, is not written down."""
    ran, tried = list[bool](), prepared.Prepared.tried

    def noted(self: prepared.Prepared, *given: Any) -> bool:
        ran.append(self._written_down(given[0], 0) is not None)
        return tried(self, *given)

    monkeypatch.setattr(prepared.Prepared, "tried", noted)
    problem = triconv.explain("conv_transpose", (1, 3, 9, 9), (4, 3, 3, 3), stride=2, engine="direct").problem
    random = np.random.default_rng(0)
    h, w = (random.standard_normal(problem.shape(role)).astype("f4") for role in problem.operands)
    expected, run = triconv.conv_transpose(h, w, visible_size=9, stride=2, engine="im2row"), direct.build(problem)
    whole = np.empty((1, 3, 9, 9), np.float32)
    for out in (whole, whole.transpose(0, 1, 3, 2), whole[:, :, ::-1], whole[..., ::-1], whole[::-1, ::-1]):
        out[...] = np.nan
        run(h, w, out)
        np.testing.assert_allclose(out, expected, rtol=0, atol=1e-5)
    assert ran == [True, True, False, False, False]


# Work that is done later


def later(size: int) -> Later:
    return Later(np.empty(size, np.float32), 1)


def test_what_is_left_is_taken_again() -> None:
    room, line = later(1000), LINE // 4
    first, second = (room.array(count, np.dtype("f4")) for count in (100, 50))
    assert (first.size, second.size) == (100, 50)
    assert (address(second) - address(first)) % LINE == 0
    assert not np.shares_memory(first, second)
    room.leave(np.empty(1, np.float32))  # nothing of the room
    room.leave(first[:7].reshape(7, 1))
    third, fourth = (room.array(count, np.dtype("f4")) for count in (90, 20))
    assert address(third) == address(first)
    assert not any(np.shares_memory(fourth, one) for one in (second, third))
    assert room.size == 7 * line + 4 * line + 2 * line
    for left in (third, second):
        room.leave(left)
    assert address(room.array(64, np.dtype("f4"))) == address(second)  # the least that is enough


def test_what_is_foreseen_has_room_for_all_that_comes() -> None:
    room = later(1000)
    room.foresee((320, 160))
    small = room.array(16, np.dtype("f4"))
    large = room.array(300, np.dtype("f4"))
    room.leave(small)
    assert address(room.array(150, np.dtype("f4"))) == address(small)
    assert not np.shares_memory(small, large)
    assert room.size == 480


def test_a_room_that_is_too_small_is_refused() -> None:
    with pytest.raises(OverflowError, match=r"a room of 100 numbers: expected 128"):
        later(100).array(128, np.dtype("f4"))


def crossed(seen: list[Later]) -> Written:
    """The second array, and by way of memory between the first."""

    def work(a: Array, b: Array, c: Array, room: Later) -> None:
        seen.append(room)
        between = room.array(MANY, np.dtype("f8"))
        for source, target in ((a, between), (b, c[0]), (between, c[1])):
            move = Move.of([Dim(((0, 0, MANY),), source.strides[0] // 8, target.strides[0] // 8)], "float64")
            room.stages.append(in_stage([(move, source, target)], room.threads))

    return Written(work, np.dtype("f8"))


MANY = 1 << 18


@pytest.mark.parametrize("step", [1, 2, -1, -3])
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_work_is_written_down_once_for_arrays_that_lie_alike(step: int, threads: int) -> None:
    """Those that lie backwards are told each time."""
    seen: list[Later] = []
    run = crossed(seen)
    for turn in range(3):
        told = len(seen)
        a, b = np.random.default_rng(turn).random((2, abs(step) * MANY))[:, ::step]
        c = np.full((2, MANY), np.nan)
        with triconv.threads(threads):
            run(a, b, c)
        np.testing.assert_array_equal(c, (b, a))
        assert turn == 0 or len(seen) - told == (step < 0)


def test_other_numbers_of_threads_are_written_down_besides() -> None:
    seen: list[Later] = []
    run, (a, b) = crossed(seen), np.random.default_rng(0).random((2, MANY))
    for threads in (2, 1, 2, 1):
        c = np.empty((2, MANY))
        with triconv.threads(threads):
            run(a, b, c)
        np.testing.assert_array_equal(c, (b, a))
    assert {room.threads for room in seen[: len(seen) // 2]} == {2}
    assert {room.threads for room in seen} == {1, 2}


@pytest.mark.parametrize("engine", ["direct", "winograd", "fft"])
def test_where_there_are_no_addresses_for_what_stands_in(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As under a limit of them: what is not written down has the same bits."""
    plan = triconv.explain("conv", (2, 32, 20, 20), (32, 32, 3, 3), padding=1, engine=engine, dtype="float32")
    random, outs = np.random.default_rng(0), [np.empty((2, 32, 20, 20), np.float32) for _ in range(2)]
    a, b = (random.standard_normal(plan.problem.shape(role)).astype("f4") for role in plan.problem.operands)
    plan.engine.build(plan.problem)(a, b, outs[0])
    asked: list[int] = []

    def refused(shape: Any, strides: Any, kind: Any) -> Array:
        if len(shape) == 1:  # room, of which this many numbers are wanted then
            return stand_in(shape, strides, kind)
        asked.append(1)
        raise MemoryError("no addresses are left")

    monkeypatch.setattr(prepared, "stand_in", refused)
    monkeypatch.setattr(module, "stand_in", refused)
    run = plan.engine.build(plan.problem)
    for _ in range(2):
        outs[1][...] = np.nan
        run(a, b, outs[1])
        np.testing.assert_array_equal(*outs)
    assert asked


def test_stand_ins_that_there_are_no_addresses_for() -> None:
    with pytest.raises(MemoryError, match="addresses of 4611686018427387904 bytes"):
        stand_in((1 << 60,), (4,), np.dtype("f4"))
