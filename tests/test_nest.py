"""Loop nests: merged, cut and tiled, they multiply and add what the plain loops do."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise, product
from math import prod
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from triconv.kernels import block as blocks
from triconv.kernels import nest as nests
from triconv.kernels import program as programs
from triconv.kernels.block import Sets, best_block, least_written, written_out
from triconv.kernels.compile import assembly
from triconv.kernels.index import Index, merged, outer_sum
from triconv.kernels.nest import Cut, Nest, cut
from triconv.kernels.program import Program, tiled
from triconv.kernels.target import target
from triconv.kernels.words import Kernel, Place
from triconv.memory import PAGE

ROOM = 1 << 18
"""Bytes of a cache that operands may take."""

Sums = dict[int, list[tuple[int, int]]]
"""Place in C → the (place in A, place in B) of its products, sorted."""


def places(loops: Any) -> list[tuple[int, int, int]]:
    """Where each turn of nested loops is in A, B and C, the last loop fastest."""
    found = []
    for turn in product(*(range(loop.count) for loop in loops)):
        steps = list(zip(turn, loops, strict=True))
        found.append(tuple(sum(n * getattr(loop, array) for n, loop in steps) for array in "abc"))
    return found  # type: ignore[return-value]


def by_loops(nest: Nest) -> Sums:
    """The sums of a nest, as its description says it."""
    sums: Sums = {}
    for a, b, c, first, last in nest.corners.tolist():
        for ra, rb, rc in places([*nest.outer, *nest.results]):
            met = sums.setdefault(c + rc, [])
            for ta, tb in nest.taps[first:last].tolist():
                met += [(a + ra + ta + sa, b + rb + tb + sb) for sa, sb, _ in places(nest.sums)]
    return {place: sorted(met) for place, met in sums.items()}


def by_tables(made: Cut) -> Sums:
    """The sums of what a nest was cut into, its tables and loops."""
    corners, taps = made.tables()
    sums: Sums = {}
    for a, b, c, first, last in corners.tolist():
        for ra, rb, rc in places(made.results):
            met = sums.setdefault(c + rc, [])
            for ta, tb in taps[first:last].tolist():
                steps = made.steps or [(sa, sb) for sa, sb, _ in places([made.depth])]
                met += [(a + ra + ta + sa, b + rb + tb + sb) for sa, sb in steps]
    return {place: sorted(met) for place, met in sums.items()}


def drawn(random: np.random.Generator, summed: bool, spread: bool = False) -> Nest:
    """A nest like those of convolutions: C is contiguous in its loops' order, the steps in A and B are any.

    Vectors run over the innermost result, or, where `summed`, over the innermost sum.
    """
    many = [int(random.integers(1, 6)) for _ in range(random.integers(2, 5))]
    steps = [int(np.prod(many[number + 1 :])) for number in range(len(many))]
    results = []
    for n, c in zip(many, steps, strict=True):
        a, b = (int(step) for step in random.integers(1, 9, 2))
        kind = random.integers(3)  # a row, a column, or neither
        results.append(Index(n, 0 if kind == 1 else a, 0 if kind == 0 else b, c))
    sums = [Index(int(random.integers(1, 5)), *(int(step) for step in random.integers(1, 9, 2)), 0) for _ in range(2)]
    wide = int(random.integers(1, 40))
    if summed:
        sums.append(Index(wide, 1, 1, 0, True))
    else:
        results = [Index(loop.count, loop.a, loop.b, loop.c * wide) for loop in results]
        results.append(Index(wide, int(random.integers(2)), 1, 1, True))
    size = max(place[2] for place in places(results)) + 1
    starts = np.cumsum([0, *random.integers(1, 4, random.integers(1, 4))])
    corners = [
        [*random.integers(0, 50, 2), number * size, first, last]
        for number, (first, last) in enumerate(pairwise(starts))
    ]
    taps = random.integers(0, 30, (int(starts[-1]), 2))
    outer = random.integers(0, len(results))
    return Nest(
        tuple(results[:outer]),
        tuple(results[outer:]),
        tuple(sums),
        np.array(corners, np.int64),
        np.ascontiguousarray(taps, np.int64),
        taps_inside=bool(random.integers(2)),
        spread=spread,
        reread=int(random.choice([0, 4 * ROOM])),
    )


@pytest.mark.parametrize("number", range(40))
def test_merged_loops_are_the_same_loops(number: int) -> None:
    """In the same order, fewer where one continues another."""
    random = np.random.default_rng(number)
    loops: list[Index] = []
    a, b, c = (int(step) for step in random.integers(0, 4, 3))
    for _ in range(random.integers(1, 6)):
        n = int(random.integers(1, 4))
        loops.insert(0, Index(n, a, b, c, vector=not loops and bool(random.integers(2))))
        a, b, c = (n * step for step in (a, b, c))
        if random.integers(2):
            a += 1
    fewer = merged(loops)
    assert places(fewer) == places(loops)
    assert all(loop.count > 1 or loop.vector for loop in fewer)
    assert not any(outer.around(inner) for outer, inner in pairwise(fewer))
    assert sum(loop.vector for loop in fewer) == sum(loop.vector for loop in loops)


def test_loops_that_continue_each_other_become_one() -> None:
    assert merged([Index(2, 12, 0, 6), Index(3, 4, 0, 2), Index(1, 7, 7, 7)]) == (Index(6, 4, 0, 2),)
    apart = [Index(2, 12, 0, 6), Index(3, 4, 1, 2)]
    assert merged(apart) == tuple(apart)
    assert merged([Index(2, 3, 3, 3, True), Index(3, 1, 1, 1)]) == (Index(2, 3, 3, 3, True), Index(3, 1, 1, 1))


@pytest.mark.parametrize(("summed", "spread"), [(False, False), (True, False), (False, True)])
@pytest.mark.parametrize("number", range(8))
def test_tables_are_the_sums_of_the_loops(number: int, summed: bool, spread: bool) -> None:
    nest = drawn(np.random.default_rng(number), summed, spread)
    made = cut(nest, 4, target(), ROOM)
    assert by_tables(made) == by_loops(nest)
    assert made.taps == len(made.tables()[1]) or nest.taps_inside
    corners, taps = made.tables()
    assert corners[:, 3:].min() >= 0
    assert corners[:, 4].max() <= len(taps)


def test_who_asks_for_calls_while_they_are_found_gets_all() -> None:
    """Another thread may ask at any moment, and writes down what it gets."""
    nest = drawn(np.random.default_rng(0), False, False)
    program = Program(tiled(cut(nest, 4, target(), ROOM), "float32", False), 1)
    steps, operands = program.steps, [(np.empty(1, "float32"),) * 3]
    asked = []

    def interrupted() -> Any:
        program.steps = steps
        asked.append(len(program.calls(operands, 0, 1)))
        yield from steps

    program.steps = interrupted()  # type: ignore[assignment]
    assert [len(program.calls(operands, 0, 1)), *asked] == [len(steps)] * 2 != [0, 0]


@pytest.mark.parametrize(("summed", "spread"), [(False, False), (True, False), (False, True)])
@pytest.mark.parametrize("number", range(4))
def test_programs_compute_the_sums_of_the_loops(number: int, summed: bool, spread: bool) -> None:
    """Whole numbers, so that the order of a sum does not matter; what C holds first does not either."""
    random = np.random.default_rng(number)
    nest = drawn(random, summed, spread)
    expected = by_loops(nest)
    most_a, most_b = (max(pair[side] for met in expected.values() for pair in met) + 1 for side in range(2))
    a, b = (random.integers(-4, 5, size).astype("float32") for size in (most_a, most_b))
    c = np.full(max(expected) + 1, np.nan, "float32")
    tables = tiled(cut(nest, 4, target(), ROOM), "float32", False)
    Program(tables, 1).run((a, b, c))
    sums = [sum(float(a[i]) * float(b[j]) for i, j in expected[place]) for place in range(len(c))]
    np.testing.assert_array_equal(c, sums)


def test_what_outgrows_the_cache_is_taken_in_blocks() -> None:
    """The sum is too short to be cut into parts enough: so the vectors are, outside of the rows, and are all there."""
    lanes = target().lanes(4)
    wide = 24 * lanes
    loops = Index(30, 1, 0, wide), Index(wide, 0, 1, 1, True)
    whole = np.array([[0, 0, 0, 0, 1]]), np.array([[0, 0]])
    nest = Nest((), loops, (Index(8, 30, wide, 0),), *whole, reread=7 * ROOM)
    made = cut(nest, 4, target(), ROOM)
    blocks, rows, vectors = made.results
    assert (blocks.count, rows.count, vectors.count) == (8, 30, 3 * lanes)
    assert by_tables(made) == by_loops(nest)
    assert cut(replace(nest, reread=0), 4, target(), ROOM).results == loops


def test_what_taps_leap_to_is_asked_for_in_time() -> None:
    """What the turns of another sum ask for of the next tap is just what that one's turns read."""
    lanes = target().lanes(4)
    step = 6 * lanes
    loops = Index(7, 0, step, 8 * lanes), Index(4, 0, lanes, 2 * lanes), Index(lanes, 0, 1, 1, True)
    sums = Index(3, 3, step, 0), Index(3, 1, lanes, 0)
    many = np.array([(9 * n, 60 * lanes * n) for n in range(100)])
    nest = Nest((), loops, sums, np.array([[0, 0, 0, 0, len(many)]]), many, leaps=True)
    made = cut(nest, 4, target(), ROOM)
    (one,) = tiled(made, "float32", False)[:1]
    (other,) = made.others
    size = {loop.b: taken for loop, taken in zip(made.results, made.block.sizes, strict=True) if not loop.vector}
    read = {
        (row + turn) * step + (column + tap) * lanes
        for row, turn, column, tap in product(range(size[step]), range(3), range(size[lanes]), range(3))
    }
    asked = {place + turn * other.b for place in one.contraction.coming for turn in range(one.contraction.turns)}
    assert (other.count, one.contraction.turns, asked) == (3, 3, read)
    steady = cut(replace(nest, leaps=False), 4, target(), ROOM)
    assert not tiled(steady, "float32", False)[0].contraction.coming


def channels_of(lines: int, steps: tuple[int, int], spread: bool) -> Nest:
    """Three taps of each of 2 lines of 9 positions, 70 channels each, as a depthwise convolution has."""
    vector, line = Index(70, 1, 1, 1, True), Index(9, 70, 0, 70)
    taps = Index(3, *steps, 0)
    corner = np.array([[0, 0, 0, 0, 1]], np.int64)
    loops = ((Index(2, 0, 0, 1400),), (Index(lines, 11 * 70, 0, 9 * 70), line, vector), (taps, Index(2, 770, 210, 0)))
    return Nest(*loops, corner, np.zeros((1, 2), np.int64), spread=spread)


@pytest.mark.parametrize("lines", [1, 2])
def test_few_products_are_written_out_and_share_what_they_read(lines: int) -> None:
    nest = channels_of(lines, (70, 70), spread=False)
    made = cut(nest, 4, target(), ROOM)
    assert len(made.steps) == 6
    assert by_tables(made) == by_loops(nest)
    random = np.random.default_rng(0)
    a, b = (random.integers(-4, 5, size).astype("float32") for size in (3000, 420))
    c = np.full(2 * 1400, np.nan, "float32")
    Program(tiled(made, "float32", False), 1).run((a, b, c))
    for place, met in by_loops(nest).items():
        assert c[place] == sum(float(a[i]) * float(b[j]) for i, j in met)


def test_pieces_of_a_spread_table_write_nothing_in_common() -> None:
    """Other tiles add to the same numbers, and threads that did it at once would lose some."""
    nest = channels_of(2, (70, 70), spread=True)
    for one in tiled(cut(nest, 4, target(), ROOM), "float32", False):
        assert one.contraction.add
        assert one.apart == 2
        pieces = np.split(one.tiles[:, 2], one.apart)
        assert pieces[0].max() < 1400 <= pieces[1].min()


@pytest.mark.parametrize("itemsize", [4, 8])
def test_no_more_rows_meet_in_one_place_of_the_cache_than_it_holds(
    itemsize: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where they are whole pages apart and the sum goes along them, tiles are lower; nowhere else."""
    ways, page, lanes = 6, PAGE // itemsize, target().lanes(itemsize)
    monkeypatch.setattr(nests, "cache_bytes", lambda: (ways * PAGE, 1 << 20))

    def height(apart: int, step: int) -> int:
        loops = Index(840, apart, 0, 2 * lanes), Index(2 * lanes, 0, 1, 1, True)
        one = np.array([[0, 0, 0, 0, 1]]), np.array([[0, 0]])
        return cut(Nest((), loops, (Index(512, step, 2 * lanes, 0),), *one), itemsize, target(), ROOM).block.sizes[0]

    tall = height(page + lanes, 1)
    assert tall > 2 * ways - 1
    assert height(page, 1) == height(3 * page, 1) == ways
    assert height(page, 840 * page) == height(page // 8, 1) == tall


@pytest.mark.parametrize("depth", [2, 9, 31, 64])
@pytest.mark.parametrize("rows", [1, 5, 16, 112])
def test_no_products_written_out_take_less_than_is_told_before(depth: int, rows: int) -> None:
    """Else they might not be looked at where they are the fastest."""
    lanes, registers = target().lanes(4), target().registers
    loops = Index(3, 0, 4096, 512), Index(4 * lanes, 0, 1, 1, True), Index(rows, 1, 0, 4 * lanes)
    found = written_out(loops, [(rows * n, 64 * n) for n in range(depth)], lanes, registers, (1, 1))
    assert least_written(loops, depth, lanes) <= found.cycles


@pytest.mark.parametrize("able", [None, lambda tall: prod(tall) % 2 == 0])
def test_no_tile_that_is_written_out_is_missed(able: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of what one tile takes after the other, the least is what is found at once."""
    lanes, registers = target().lanes(4), target().registers
    loops = Index(9, 70, 0, 512), Index(7, 1, 0, 64), Index(4 * lanes, 0, 1, 1, True), Index(5, 0, 9, 4096)
    told = loops, [(n % 3 + 70 * (n // 3), 4 * lanes * n) for n in range(9)], lanes, registers, (1, 2), able
    best = written_out(*told)
    rows, columns = ([loop.count if getattr(loop, kind) else 1 for loop in loops] for kind in ("row", "column"))
    patches, alone = blocks._patches, list[float]()
    for tall, many in product(patches(rows, 16), patches(columns, 16)):
        monkeypatch.setattr(blocks, "_patches", lambda counts, _, one=(tall, many): [one[counts == columns]])
        alone.append(written_out(*told).cycles)
    assert min(alone) == best.cycles < min(cycles for cycles in alone if cycles != best.cycles)
    tall = [size if loop.row else 1 for loop, size in zip(loops, best.sizes, strict=True)]
    assert (prod(tall) % 2 == 0) == (able is not None)  # nobody else would take such a tile


def test_products_are_not_written_out_where_a_loop_is_faster_than_any(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many rows share all vectors of a deep sum; a first call has no time to look at what is written out."""
    monkeypatch.setattr(nests, "written_out", None)
    loops = Index(840, 1, 0, 64), Index(64, 0, 1, 1, True)
    one = np.array([[0, 0, 0, 0, 1]]), np.array([[0, 0]])
    found = cut(Nest((), loops, (Index(56, 840, 64, 0),), *one), 4, target(), ROOM)
    assert not found.steps
    assert found.depth.count == 56


def test_lines_of_rows_are_counted_by_their_place() -> None:
    sets = Sets(page=1024, line=16, ways=12)
    loops = Index(20, 7 * 1024, 0, 1), Index(20, 512, 0, 1), Index(20, 1, 0, 1), Index(32, 0, 1, 1, True)
    full = [(12, 1, 1, 1), (1, 20, 1, 1), (6, 4, 1, 1), (12, 2, 16, 1)]
    assert not any(sets.crowded(sets.apart(loops), sizes) for sizes in full)
    assert all(sets.crowded(sets.apart(loops), sizes) for sizes in [(13, 1, 1, 1), (7, 4, 1, 1), (6, 5, 1, 1)])


def test_zeros_are_written_in_the_order_of_memory() -> None:
    """What sums nothing follows what does, and no tile is lost."""
    lanes = target().lanes(4)
    columns, vectors = Index(3, 0, 1000, 2 * lanes), Index(2 * lanes, 0, 1, 1, True)
    corners = np.array([[0, 0, 0, 0, 1], [0, 0, 6 * lanes, 1, 1]], np.int64)
    line = Index(40, 9, 0, 12 * lanes)
    nest = Nest((columns, vectors), (line,), (Index(9, 1, 2 * lanes, 0),), corners, np.zeros((1, 2), np.int64))
    made = tiled(cut(nest, 4, target(), ROOM), "float32", False)
    full = [one.tiles for one in made if (one.tiles[:, 3] < one.tiles[:, 4]).all()]
    empty = [one.tiles for one in made if (one.tiles[:, 3] == one.tiles[:, 4]).all()]
    assert len(full) == len(empty) == len(made) // 2
    assert sum(map(len, full)) == sum(map(len, empty))
    assert all((np.diff(tiles[:, 2]) > 0).all() for tiles in empty)
    a, b, c = np.ones(400, "float32"), np.ones(4000, "float32"), np.full(40 * 12 * lanes, np.nan, "float32")
    Program(made, 1).run((a, b, c))
    assert (c.reshape(40, 2, -1) == [[9], [0]]).all()


def test_outer_sum_runs_the_last_part_fastest() -> None:
    total: NDArray[np.int64] = outer_sum([(0, 0), (10, 20)], [(1, 2), (3, 4)])
    assert total.tolist() == [[1, 2], [3, 4], [11, 22], [13, 24]]


def far(rows: int, outer: int) -> Nest:
    """Products of matrices whose results begin 4 MB apart."""
    wide = 2 * target().lanes(4)
    loops = Index(rows, 8, 0, wide), Index(wide, 0, 1, 1, True)
    corners = np.array([[0, 0, n << 20, 0, 1] for n in range(outer)], np.int64)
    return Nest((), loops, (Index(64, 1, wide, 0),), corners, np.zeros((1, 2), np.int64))


def test_tiles_load_little_and_their_rows_are_neighbours() -> None:
    """Of 6 × 4 vectors and 14 × 2, which multiply as fast, the first load less; but not where B comes in short runs."""
    vector, depth = Index(64, 0, 1, 1, True), Index(512, 1, 64, 0)
    assert best_block([Index(840, 512, 0, 64), vector], depth, 512, 16, 32).sizes == (6, 64)
    apart = Index(4, 0, 1 << 20, 32), Index(32, 0, 1, 1, True)
    assert best_block([Index(840, 64, 0, 128), *apart], Index(64, 1, 32, 0), 64, 16, 32).sizes == (14, 1, 32)
    panels = Index(32, 3592, 0, 512), Index(8, 1, 0, 64), Index(16, 0, 1, 1, True)
    assert best_block(panels, Index(448, 8, 16, 0), 448, 8, 32, page=512).sizes == (1, 8, 16)


def asked(nest: Nest, cache: int, patch: pytest.MonkeyPatch) -> bool:
    """Whether kernels ask for their parts of C; where products are written out, for what they read of A as well."""
    patch.setattr(programs, "cache_bytes", lambda: (32 << 10, cache))
    found = [one.contraction for one in tiled(cut(nest, 4, target(), ROOM), "float32", False)]
    places: list[int] = []

    def record(_kernel: Kernel, _place: Place, offset: int) -> None:
        places.append(offset)

    for one in found:
        places.clear()
        with patch.context() as within:
            within.setattr(Kernel, "prefetch", record)
            assembly(replace(one, onward=(0, 0), later=0, ahead=(0, 0)), target())
        of_c = [m + column.c for _, m in one.rows for column in one.columns]
        of_a = {m + k for m, _ in one.rows for k, _ in one.steps}
        assert sorted(places) == sorted([*of_c, *of_a]) * one.fetched
    (every,) = {one.fetched for one in found}
    return every


def test_results_that_are_far_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    size = 4 * 2 * target().lanes(4) << 10
    assert asked(far(1 << 10, 1), size - 64, monkeypatch)
    assert not asked(far(1 << 10, 1), size, monkeypatch)
    assert asked(far(1 << 10, 2), size, monkeypatch)  # its corners are far apart


def test_results_of_products_written_out_are_asked_for_if_they_are_far(monkeypatch: pytest.MonkeyPatch) -> None:
    nest = channels_of(2, (70, 70), spread=False)
    assert cut(nest, 4, target(), ROOM).steps
    for name in ("znver5", "sapphirerapids"):
        monkeypatch.setattr(programs, "target", lambda name=name: replace(target(), cpu=name))
        assert asked(nest, 4 << 10, monkeypatch) is (name == "sapphirerapids")  # the other asks by itself
        assert not asked(nest, 1 << 20, monkeypatch)


def test_results_that_are_added_to_are_asked_for_wherever_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    assert asked(channels_of(2, (70, 70), spread=True), 1 << 20, monkeypatch)


@pytest.mark.parametrize(
    ("taps", "vectors", "expected"),
    [
        (3, 16, (1, 4, 2, 32)),  # two lines come along with each other
        (3, 15, (1, 4, 4, 16)),
        (5, 16, (1, 2, 7, 16)),  # wide tiles share more of what they read than they are long to compile
    ],
)
def test_tiles_written_out_read_neighbouring_lines_together(taps: int, vectors: int, expected: tuple[int, ...]) -> None:
    """Depthwise, 28 × 28 positions."""
    channels = 16 * vectors
    each = channels * 28
    results = [Index(8, 30 * each, 0, 28 * each), Index(28, each, 0, each), Index(28, channels, 0, channels)]
    results.append(Index(channels, 1, 1, 1, True))
    steps = [(y * each + x * channels, (taps * y + x) * channels) for y in range(taps) for x in range(taps)]
    assert blocks.written_out(results, steps, 16, 32, (1, 1)).sizes == expected
