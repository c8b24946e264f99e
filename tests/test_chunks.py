"""Gradients in chunks: the grid's, blocks of channels and pieces of the sum; and when there are any."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from math import prod
from typing import Any

import ml_dtypes
import numpy as np
import oracle
import pytest
from test_direct import ORDERS, cases, known, problem_of

import triconv
from triconv.coefficients import coefficients, moving
from triconv.engines import bfloat16, direct, reference
from triconv.form import Problem, Role
from triconv.kernels import chunks, prepared, schedule, ways
from triconv.kernels import target as targets
from triconv.kernels.compile import assembly
from triconv.kernels.contract import Column, Contraction
from triconv.kernels.program import Program, Tiled
from triconv.kernels.rows import FIRST
from triconv.kernels.target import cache_bytes as target_cache
from triconv.kernels.target import target
from triconv.kernels.words import CHECKED

THREADS = (1, 2, 3, 8)


class Found(list[chunks.Chunks]):
    """The chunks that problems are computed in, whether they pay or not."""

    larger = 0
    """How many sizes of the cache, each twice as large, are passed over of those that leave anything to do."""
    far = 1.0
    """What copying ahead costs."""


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> Found:
    seen = Found()

    def told(best: ways.Way) -> chunks.Chunks | None:
        monkeypatch.setattr(chunks, "FAR", seen.far)
        within = (one for size in range(6, 30) if (one := fitting(best, 1 << size)) is not None)
        one = next(islice(within, seen.larger, None), None)
        seen.extend([] if one is None else [one])
        return one

    def fitting(best: ways.Way, size: int) -> chunks.Chunks | None:
        monkeypatch.setattr(chunks, "cache_bytes", lambda: (0, size))
        return chunks.chunks.__wrapped__(best)

    for name in ("SHORT", "SHORTEST", "LONG"):
        monkeypatch.setattr(chunks, name, 0)
    for name in ("_far", "_pays"):
        monkeypatch.setattr(chunks, name, lambda *_: True)
    monkeypatch.setattr(prepared, "chunks", told)
    monkeypatch.setattr(schedule, "NUMBERS_WORTH_A_THREAD", 1)
    return seen


def have_way(patch: pytest.MonkeyPatch, vector: str) -> None:
    """Have problems run over vectors of something."""

    def chosen(problem: Problem, strides: tuple[ways.Strides, ...], *_: object) -> ways.Way:
        return ways.way(problem, vector, strides, (False,) * problem.geometry.rank)

    patch.setattr(prepared, "best_way", chosen)


def results(problem: Problem, a: Any, b: Any, like: Any, lie: Any) -> list[Any]:
    """What a problem gives with some numbers of threads: the same bits."""
    run, made = (bfloat16 if problem.dtype == "bfloat16" else direct).build(problem), []
    for threads in THREADS:
        with triconv.threads(threads):
            out = lie(np.full_like(like, np.nan))
            run(lie(a), lie(b), out)
            made.append(out)
    assert len({out.tobytes() for out in made}) == 1
    return made


def test_the_grid_in_chunks(found: Found, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = Counter[tuple[str, str]]()
    for number, case in enumerate(cases()):
        problem = problem_of(case.row, case.operation)
        if problem.produces is not Role.WEIGHT or case.vector not in ("hidden", "visible") or any(case.exact):
            continue
        found.clear()
        found.larger, found.far = number % 3, (100, 0.5)[number % 2]
        have_way(monkeypatch, case.vector)
        a, b, expected, allowed = known(case.row, case.operation)
        for out in results(problem, a, b, expected.astype(case.row.dtype), list(ORDERS.values())[number % 3]):
            oracle.assert_close(out, expected, allowed, f"{case}: {found}")
        for one in found:
            axis = one.bands.parts.axis
            kinds = {"strided": axis.stride > 1, "dilated": axis.dilation > 1, "pieces": one.pieces > 1}
            kinds |= {"parts": one.bands.parts.count > 1, "examples": one.bands.examples > 1, "": True}
            kinds["bank"] = problem.geometry.banked
            tried.update((case.vector, kind) for kind, is_so in kinds.items() if is_so)
    for vector in ("hidden", "visible"):
        for kind in ("strided", "dilated", "pieces", "parts", "bank", ""):
            assert tried[vector, kind], (vector, kind, tried)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("vector", ["hidden", "visible"])
@pytest.mark.parametrize("bank", [None, 2])
def test_panels_and_blocks_of_channels(
    bank: int | None, vector: str, dtype: str, found: Found, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of whole numbers, so that every order of adding gives the same; in panels, in lines that no panel divides."""
    have_way(monkeypatch, vector)
    random, tried = np.random.default_rng(0), Counter[str]()
    for number, (visible, hidden) in enumerate(((64, 64), (32, 96), (48, 64), (20, 64), (64, 7), (96, 32))):
        size, kernel = ((9, 16), (8,), (4, 3, 6))[number % 3], ((3, 1), (1,), (1, 2, 2))[number % 3]
        options = {"stride": 1 + number % 2, "padding": number % 2}
        weight = (*(() if bank is None else (bank,) * len(size)), hidden, visible, *kernel)
        arrays = [random.integers(-3, 4, shape).astype(dtype) for shape in ((4, visible, *size), weight)]
        shapes = arrays[0].shape, arrays[1].shape
        h = triconv.conv(*arrays, engine="reference", **options)
        problem = triconv.explain("conv_weight", *shapes, dtype=dtype, **options).problem
        expected = np.empty(problem.shape(Role.WEIGHT), dtype)
        reference.build(problem)(arrays[0], h, expected)
        for turn in range(4):
            lie = ORDERS[("channels last", "C order")[turn % 2]]
            found.clear()
            found.larger, found.far = (0, 3)[turn // 2], (100, 0.5)[(turn + number) % 2]
            for out in results(problem, arrays[0], h, expected, lie):
                np.testing.assert_array_equal(out, expected)
            one, *_ = found
            panels = [buffer.panel for buffer in one.bands.way.buffers if buffer is not None]
            for buffer in filter(None, one.bands.way.buffers):
                across = buffer.shape[1] // buffer.panel if buffer.panel else 0
                assert buffer.size == across * buffer.layout.panel_step or not across
            kinds = {"panels": all(panels), "rows": one.blocks[0] > 1, "columns": one.blocks[1] > 1}
            kinds |= {"ahead": one.ahead, "again": not one.ahead and prod(one.blocks) > 1}
            kinds |= {"gap": any(buffer.gap for buffer in one.bands.way.buffers[:2] if buffer), "": True}
            tried.update(kind for kind, is_so in kinds.items() if is_so)
    assert set(tried) >= {"panels", "rows", "columns", "ahead", "again", ""}, tried


@pytest.mark.skipif(not target().pairs, reason="this processor multiplies no pairs of bfloat16")
@pytest.mark.parametrize("batch", [8, 5])
def test_pairs_of_examples_in_chunks(batch: int, found: Found, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole numbers, whose sums float32 holds, rounded once; as vectors, as what goes as matrices is not in chunks."""
    monkeypatch.setattr(targets, "matrices_allowed", lambda: False)
    random, tried, kind = np.random.default_rng(0), Counter[bool](), ml_dtypes.bfloat16
    v, h = (random.integers(-3, 4, (batch, channels, 9, 13)).astype(kind) for channels in (64, 96))
    expected = triconv.conv_weight(v.astype("float32"), h.astype("float32"), 3, padding=1, engine="reference")
    problem = triconv.explain("conv_weight", v.shape, expected.shape, padding=1, dtype="bfloat16").problem
    for turn in range(4):
        found.larger, found.far = (0, 3)[turn // 2], (100, 0.5)[turn // 2]
        for out in results(problem, v, h, expected.astype(kind), ORDERS[("channels last", "C order")[turn % 2]]):
            np.testing.assert_array_equal(out, expected.astype(kind))
        tried.update(one.ahead for one in found)
    assert set(tried) == {False, True}


def chosen(visible: tuple[int, ...], hidden: int, kernel: int, **options: Any) -> chunks.Chunks | None:
    """The chunks of a problem on arrays in the order that engines like."""
    weight = (hidden, visible[1] // options.get("groups", 1), *(kernel for _ in visible[2:]))
    given = {"padding": kernel // 2, "dtype": "float32", **options}
    problem = triconv.explain("conv_weight", visible, weight, **given).problem
    return chunks.chunks.__wrapped__(direct._expected(problem, True))


def test_an_estimate_has_what_chunks_move(monkeypatch: pytest.MonkeyPatch) -> None:
    """And no copies of whole operands beside, which a problem with padding would have."""
    for visible, weight, options in (
        ((8, 256, 56, 56), (64, 256, 1, 1), {}),
        ((8, 64, 112, 112), (64, 64, 3, 3), {"padding": 1, "stride": 2}),
    ):
        problem = triconv.explain("conv_weight", visible, weight, dtype="float32", **options).problem
        best, rest = direct._expected(problem, True), coefficients().called + moving(problem.bytes)
        found = chunks.plan(best)
        assert found is not None
        moved = 2 * 4 * found.moved / coefficients().copied
        assert direct.cost(problem) == pytest.approx(rest + best.multiplied() + moved)
        assert best.seconds() == pytest.approx(best.multiplied() + 2 * best.copying / coefficients().copied)
        with monkeypatch.context() as patch:
            patch.setattr(chunks, "plan", lambda _: None)
            assert direct.cost(problem) == pytest.approx(rest + best.seconds() + moving(best.copied))


def test_chunks_fit_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "cache_bytes", lambda: (32 << 10, 512 << 10))
    for visible, hidden, kernel in (((8, 256, 56, 56), 64, 1), ((8, 256, 28, 28), 512, 1), ((8, 64, 56, 56), 64, 3)):
        one = chosen(visible, hidden, kernel)
        assert one is not None
        sums = hidden * visible[1] * kernel**2 * 4 // prod(one.blocks)
        assert one.bands.way.copied * (1 + one.asks) + sums <= 384 << 10
        assert one.asks is (hidden == 64 and kernel == 1)
        assert one.units >= chunks.SHARED
        assert one.bands.units == len(list(one.bands.moves(0, (1, 1, 1, 1)))) > 1


@pytest.mark.parametrize("channels", [(64, 64), (32, 64), (64, 48), (64, 128)])
def test_few_channels_are_read_in_place(channels: tuple[int, int]) -> None:
    """In chunks that stay in the first-level cache."""
    visible, hidden = channels
    one = chosen((8, visible, 56, 56), hidden, 1)
    assert one is not None
    assert one.in_place
    assert one.asks
    assert "positions, in place" in one.described
    positions = one.bands.way.asked.batch * prod(one.bands.way.asked.geometry.hidden)
    assert positions * sum(channels) * 4 <= target_cache()[0]
    assert one.schedule(((1,) * 4,) * 3).scratch == one.pieces * one.size


@pytest.mark.parametrize(
    ("visible", "hidden", "kernel", "options"),
    [
        ((8, 8, 112, 112), target().lanes(4), 1, {}),  # one tile: nothing is read twice
        ((8, 256, 56, 56), 512, 1, {}),  # a chunk of so many channels is not in the first-level cache
        ((8, 64, 56, 56), 64, 3, {}),
        ((8, 64, 56, 56), 64, 1, {"padding": 1}),
        ((8, 64, 112, 112), 64, 1, {"stride": 2}),  # what lies between would be asked for too
    ],
    ids=["one tile", "many channels", "taps", "padding", "stride"],
)
def test_what_is_not_read_in_place(
    visible: tuple[int, ...], hidden: int, kernel: int, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunks, "cache_bytes", lambda: (48 << 10, 1 << 20))
    one = chosen(visible, hidden, kernel, **options)
    assert one is None or not one.in_place


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("vector", ["hidden", "visible"])
def test_chunks_in_place(vector: str, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of whole numbers; of examples and of parts of one; of arrays with others between, and backwards."""
    have_way(monkeypatch, vector)
    found: list[chunks.Chunks] = []
    for name in ("_far", "_pays"):
        monkeypatch.setattr(chunks, name, lambda *_: True)
    monkeypatch.setattr(chunks, "LONG", 16)
    monkeypatch.setattr(prepared, "chunks", lambda best: found.append(chunks.chunks.__wrapped__(best)) or found[-1])
    random, tried = np.random.default_rng(0), Counter[str]()
    lies: dict[str, Callable[[Any], Any]] = {
        "channels last": ORDERS["channels last"],
        "between": lambda array: between(array, 2),
        "backwards": lambda array: between(array, -1),
    }
    for batch, size, first in (
        (8, (4, 6), 1 << 15),
        (2, (30, 5), 1 << 13),
        (6, (40,), 1 << 14),
        (2, (3, 4, 20), 1 << 14),
    ):
        monkeypatch.setattr(chunks, "cache_bytes", lambda first=first: (first, 1 << 20))
        for visible, hidden in ((16, 24), (33, 7), (24, 40)):
            v, h = (random.integers(-3, 4, (batch, channels, *size)).astype(dtype) for channels in (visible, hidden))
            expected = triconv.conv_weight(v, h, 1, engine="reference")
            problem = triconv.explain("conv_weight", v.shape, expected.shape, dtype=dtype).problem
            for name, lie in lies.items():
                found.clear()
                for out in results(problem, v, h, expected, lie):
                    np.testing.assert_array_equal(out, expected)
                own = [one for one in found if one is not None and one.in_place]
                assert not own or name == "channels last", "what lies between would be asked for too"
                kinds = {"parts": any(one.bands.parts.count > 1 for one in own), name: bool(own)}
                kinds |= {"examples": any(one.bands.examples > 1 for one in own)}
                kinds |= {"pieces": any(one.pieces > 1 for one in own)}
                tried.update(kind for kind, is_so in kinds.items() if is_so)
    assert set(tried) == {"channels last", "parts", "examples", "pieces"}, tried


def between(array: Any, step: int) -> Any:
    """The array with its channels innermost, and of its positions each so many behind the one before."""
    shape = (*array.shape[:1], *(abs(step) * size for size in array.shape[2:]), array.shape[1])
    room = np.moveaxis(np.full(shape, 7, array.dtype), -1, 1)
    found = room[(slice(None), slice(None), *(slice(None, None, step) for _ in array.shape[2:]))]
    found[...] = array
    return found


@pytest.mark.parametrize("number", [0, 1])
def test_what_the_next_chunk_is_copied_from_is_asked_for(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """From its first number on, and as many as there are; the very last asks for its own."""
    monkeypatch.setattr(chunks, "cache_bytes", lambda: (32 << 10, 512 << 10))
    monkeypatch.setattr(chunks, "_lies_well", lambda _: False)
    one = chosen((4, 64, 28, 28), 96, 1)
    assert one is not None
    assert one.asks
    assert one.pieces > 1
    lie = ORDERS["channels last"]
    given = [lie(np.zeros(shape, "float32")) for shape in ((4, 64, 28, 28), (4, 96, 28, 28), (96, 64, 1, 1))]
    plan = one.schedule(tuple(tuple(step // 4 for step in array.strides) for array in given))
    tables: list[Tiled] = []
    monkeypatch.setattr(chunks, "Program", lambda own, *_, **how: (tables.extend(own), Program(own, *_, **how))[1])
    room = np.zeros(plan.shared + plan.own, "float32")
    stage = plan.stages[0]
    each = stage.calls((*given, room), plan.shared, 0, stage.units)
    assert max(FIRST + len(call.values) for call in each) == chunks.WORDS
    copies, products = each[number::3], each[2::3]
    positions, array = one.bands.way.asked.batch * prod(one.bands.way.asked.geometry.hidden), given[number]
    begins = [(copy.values[0] - array.ctypes.data) // (4 * array.shape[1]) for copy in copies]
    assert begins == list(range(0, 4 * 28 * 28, positions))
    asked = [(call.values[9 + number] - array.ctypes.data) // (4 * array.shape[1]) for call in products]
    assert asked == [*begins[1:], begins[-1]]
    assert all(call.arrays[-2:] == (given[0], given[1]) for call in products)
    steps = sum(len(table.tiles) * table.contraction.depth for table in tables) // 2  # there are two programs
    channels = array.shape[1]
    assert tables
    each = {table.contraction.soon[number] for table in tables}
    assert each == {(0, -(-positions * channels // steps))}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("vector", ["hidden", "visible"])
def test_chunks_that_ask(vector: str, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of whole numbers, in any order of memory, for any number of threads."""
    monkeypatch.setattr(chunks, "cache_bytes", lambda: (32 << 10, 512 << 10))
    monkeypatch.setattr(chunks, "_lies_well", lambda _: False)
    monkeypatch.setattr(prepared, "chunks", lambda best: found.append(chunks.chunks.__wrapped__(best)) or found[-1])
    found: list[chunks.Chunks] = []
    have_way(monkeypatch, vector)
    random = np.random.default_rng(0)
    v, h = (random.integers(-3, 4, (2, channels, 28, 28)).astype(dtype) for channels in (64, 96))
    expected = triconv.conv_weight(v, h, 1, engine="im2row")
    problem = triconv.explain("conv_weight", v.shape, expected.shape, dtype=dtype).problem
    for order in ("channels last", "C order"):
        for out in results(problem, v, h, expected, ORDERS[order]):
            np.testing.assert_array_equal(out, expected)
    assert found
    assert all(one.asks and one.bands.units > 1 for one in found)


@pytest.mark.skipif(CHECKED, reason="what is asked for is in no kernel that tests its accesses")
def test_tables_ask_one_after_the_other() -> None:
    """Each for its share; together for all, and a line at a time at most."""
    small, large = (
        Tiled(
            Contraction("float32", ((0, 0),), (Column(0, 0, 0, 16),), depth, 1, 16),
            np.zeros((tiles, 5), np.int64),
            np.zeros((1, 2), np.int64),
            range(tiles + 1),
        )
        for depth, tiles in ((50, 3), (50, 7))
    )
    found = [table.contraction.soon for table in chunks._asking([small, large], [499, 20_000])]
    assert found == [((0, 1), (0, 40)), ((150, 1), (6000, 40))]
    plain, one, three = (
        assembly(replace(small.contraction, soon=soon), target()).count("prefetch")
        for soon in ((), ((0, 1),), ((0, 40),))
    )
    assert (three - plain) == 3 * (one - plain) > 0


def test_copies_begin_where_the_first_number_lies_that_they_read() -> None:
    """Zeros around an array are read nowhere."""
    one = chosen((2, 64, 56, 56), 64, 3)
    assert one is not None
    assert one.bands.parts.count > 1
    rows = 56 // one.bands.parts.count
    found = [move.begin for move in one.bands.moves(0, (56 * 56 * 64, 1, 56 * 64, 64))]
    begins = [max(0, row - 1) for row in range(0, 56, rows)]
    assert found == [(example * 56 + row) * 56 * 64 for example in range(2) for row in begins]


def test_chunks_of_two_threads_have_a_gap_between_them_where_there_is_room(
    monkeypatch: pytest.MonkeyPatch, allow: Callable[[int], None]
) -> None:
    """It makes them faster, but is no reason to take more than a call should."""
    monkeypatch.setattr(chunks, "cache_bytes", lambda: (32 << 10, 512 << 10))
    gaps = []
    for extra in (1, 1 << 40):
        allow(extra)
        one = chosen((8, 64, 56, 56), 64, 3)
        assert one is not None
        gaps.append(one.schedule(((), (), ()))._gap)
    assert gaps[0] == 0 < gaps[1]


def test_no_chunks_where_they_do_not_pay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "cache_bytes", lambda: (32 << 10, 512 << 10))
    assert chosen((8, 256, 28, 28), 512, 1) is not None
    assert chosen((8, 4, 56, 56), target().lanes(4), 1) is None  # copying takes as long as multiplying
    assert chosen((1, 256, 7, 7), 512, 1) is None  # all of it fits in the cache
    assert chosen((8, 256, 53, 53), 512, 1) is not None  # a line at a time
    assert chosen((8, 256, 28, 28), 512, 3, border="circular") is None
    assert chosen((8, 256, 28, 28), 512, 3, groups=2) is None


def test_the_plan_tells_of_chunks() -> None:
    told = triconv.explain("conv_weight", (8, 256, 56, 56), (64, 256, 1, 1), engine="direct", dtype="float32")
    assert "chunks of" in str(told)
