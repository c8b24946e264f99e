"""Products of small matrices of pairs: their rows, their tiles, and every operation by them."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import ml_dtypes
import numpy as np
import oracle
import pytest
import torch
from grid import GRID, OPERATIONS, Row
from test_bfloat16 import LARGE, halves, known, run, takes
from test_direct import ORDERS

import triconv
from triconv import torch as front
from triconv.kernels import matrices, nest, prepared
from triconv.kernels import target as targets
from triconv.kernels.block import Block
from triconv.kernels.compile import assembly, function
from triconv.kernels.contract import Column, Contraction
from triconv.kernels.index import Index
from triconv.kernels.matrices import Run, at_a_time, best_matrices, fits, runs
from triconv.kernels.program import Program, tiled
from triconv.kernels.registers import SIDE
from triconv.kernels.target import Target, target
from triconv.kernels.words import BFLOAT16, PAIRS
from triconv.memory import address

able = pytest.mark.skipif(not target().matrices, reason="this processor, or its system, multiplies no matrices")
KIND = np.dtype(ml_dtypes.bfloat16)

HERE = Target("x86_64-unknown-linux-gnu", "sapphirerapids", "+amx-bf16,+amx-tile,+avx512bf16", 64, 32)
"""A processor that does: its code can be written anywhere."""


@pytest.mark.parametrize(
    ("places", "expected"),
    [
        ([0], [(0, 1, 0)]),
        ([5, 8, 11], [(5, 3, 3)]),
        ([*range(0, 56, 2)], [(0, 14, 2), (28, 14, 2)]),  # as even as can be
        ([*range(17)], [(0, 8, 1), (8, 9, 1)]),
        ([0, 1, 2, 10, 11, 12], [(0, 3, 1), (10, 3, 1)]),  # lines that are apart
        ([0, 5, 6], [(0, 2, 5), (6, 1, 0)]),
    ],
)
def test_runs(places: list[int], expected: list[tuple[int, int, int]]) -> None:
    found = runs(places)
    assert [(run.first, run.count, run.step) for run in found] == expected
    assert [run.first + n * run.step for run in found for n in range(run.count)] == places


@pytest.mark.parametrize(("depth", "expected"), [(16, 16), (32, 16), (28, 14), (9, 9), (17, 1), (34, 2), (1, 1)])
def test_pairs_at_a_time(depth: int, expected: int) -> None:
    assert at_a_time(depth) == expected


def index(count: int, a: int, b: int, c: int, vector: bool = False) -> Index:
    return Index(count, a, b, c, vector)


def test_blocks() -> None:
    """Two matrices of sums side by side or below each other; only sums along neighbours of A are matrices."""
    results, depth = (index(6272, 64, 0, 128), index(128, 0, 1, 1, True)), index(64, 1, 128, 0)
    best = best_matrices(results, depth, 64.0, SIDE)
    assert best is not None
    assert best.sizes in ((SIDE, 2 * SIDE), (2 * SIDE, SIDE))
    assert best_matrices(results, replace(depth, a=2), 64.0, SIDE) is None
    assert best_matrices(results, replace(depth, count=17), 17.0, SIDE) is None
    assert best_matrices((results[0], index(128, 1, 1, 1, True)), depth, 64.0, SIDE) is None
    groups = best_matrices((index(8, 64, 8192, 128), *results), depth, 64.0, SIDE)
    assert groups is not None
    assert groups.cycles == pytest.approx(8 * best.cycles)


def test_the_rows_of_few_tiles_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of the fewest cycles: a first call has no time for all."""
    looked = list[int]()
    monkeypatch.setattr(matrices, "runs", lambda places: looked.append(len(places)) or runs(places))
    results = index(8, 62720, 0, 62720), index(112, 560, 0, 560), index(7, 80, 0, 80), index(64, 0, 1, 1, True)
    assert best_matrices(results, index(32, 1, 64, 0), 288.0, SIDE) is not None
    assert 0 < len(looked) < 20


@pytest.mark.parametrize(
    ("heights", "columns", "expected"),
    [
        ([16] * 3, [16] * 2, True),
        ([16] * 3, [16, 5], False),  # two widths
        ([9] * 6, [16], True),
        ([9] * 7, [16], False),
        ([16], [16] * 6, True),
        ([16], [16] * 7, False),
        ([9, 8, 7, 9], [16], True),
        ([9, 8, 7, 9, 9], [16], False),  # three heights
    ],
)
def test_registers(heights: list[int], columns: list[int], expected: bool) -> None:
    """One for each matrix of sums, and one for factors of each shape, which come one after the other."""
    assert fits([Run(0, height, 1) for height in heights], columns) is expected


def test_the_code_has_as_many_products_as_the_tile() -> None:
    rows = tuple((64 * m, 32 * m) for m in range(32))
    columns = tuple(Column(0, n, n, SIDE) for n in (0, SIDE))
    text = assembly(Contraction(PAIRS, rows, columns, 64, 1, 32, pairs=16), HERE)
    assert [text.count(word) for word in ("tdpbf16ps", "tileloadd", "tilestored", "tilezero")] == [4, 6, 4, 4]
    assert text.count("ldtilecfg") == text.count("tilerelease") == 1


@able
@pytest.mark.parametrize("stored", ["", BFLOAT16])
@pytest.mark.parametrize(
    ("heights", "widths", "depth"),
    [((16, 16), (16, 16), 32), ((13, 12), (16, 5), 27), ((1,), (16, 16, 3), 4), ((9, 9, 7, 7, 9), (11,), 15)],
)
def test_a_tile(heights: tuple[int, ...], widths: tuple[int, ...], depth: int, stored: str) -> None:
    """Lines of rows by columns of some lanes, over taps, in whole numbers; nothing is written beside it."""
    random = np.random.default_rng(0)
    width, far = sum(widths), depth + 3
    a = random.integers(-3, 4, (len(heights), SIDE + 2, far, 2)).astype(KIND)
    b = random.integers(-3, 4, (2, depth, width, 2)).astype(KIND)
    lines = [(n, m) for n, high in enumerate(heights) for m in range(high)]
    rows = tuple((n * (SIDE + 2) * far + m * far, number * (width + 1)) for number, (n, m) in enumerate(lines))
    places = np.cumsum([0, *widths[:-1]]).tolist()
    columns = tuple(Column(0, place, place, used) for place, used in zip(places, widths, strict=True))
    kernel = Contraction(PAIRS, rows, columns, depth, 1, width, stored=stored, pairs=at_a_time(depth))
    c = np.full((len(lines), width + 1), 99, KIND if stored else "float32")
    tiles, taps = np.array([[0, 0, 0, 0, 2]]), np.array([[0, 0], [2 * far, depth * width]])
    function(kernel)(*map(address, (a, b, c, tiles)), 1, address(taps), 0, depth, 0)
    wide, other = a.astype("float64"), b.astype("float64")
    expected = [
        sum(np.einsum("kp,knp->n", wide[n, m + 2 * tap, :depth], other[tap]) for tap in range(2)) for n, m in lines
    ]
    np.testing.assert_array_equal(c[:, :width], np.array(expected).astype(c.dtype))
    np.testing.assert_array_equal(c[:, width], 99)


Tried = Counter[int]


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> Tried:
    """Matrices wherever they can be, even of one pair; how many pairs each kernel takes at a time."""

    def best(*given: Any) -> Block | None:
        found = best_matrices(*given)
        return None if found is None else replace(found, cycles=0.0)

    monkeypatch.setattr(matrices, "LEAST", 1)
    monkeypatch.setattr(nest, "best_matrices", best)
    tried, tiled = Counter[int](), prepared.tiled

    def counted(cut: nest.Cut, *given: Any) -> Any:
        made = tiled(cut, *given)
        tried.update(one.contraction.pairs for one in made)
        return made

    monkeypatch.setattr(prepared, "tiled", counted)
    monkeypatch.setattr(prepared, "of_pairs", lambda *_: None)  # of gradients these are tested in test_split.py
    return tried


@able
@pytest.mark.usefixtures("always")
def test_what_is_left_over_and_does_not_fit_is_of_vectors() -> None:
    """Lines that overlap: four rows of each are one run, and what is left of them are eight, which are too many."""
    loops = Index(8, 64, 0, 7 * SIDE), Index(7, 16, 0, SIDE), Index(SIDE, 0, 1, 1, True)
    corners, taps = np.array([[0, 0, 0, 0, 2]]), np.array([[0, 0], [5, 16 * SIDE]])
    whole = nest.Nest((), loops, (Index(16, 1, SIDE, 0),), corners, taps, adds=True, pairs=True)
    made = nest.cut(whole, 4, target(), 1 << 18)
    assert made.block.sizes == (8, 4, SIDE)
    tables = tiled(made, PAIRS, False)
    assert {one.contraction.pairs for one in tables} == {16, 0}
    random = np.random.default_rng(0)
    rows = np.add.outer(64 * np.arange(8), 16 * np.arange(7))[..., None] + np.arange(16)
    a, b = (random.integers(-3, 4, (size, 2)).astype(KIND) for size in (rows.max() + 6, 32 * SIDE))
    c = np.full((8, 7, SIDE), np.nan, "float32")
    Program(tables, 1).run((a.view("float32"), b.view("float32"), c))
    wide, kernels = a.astype("float64"), b.astype("float64").reshape(2, 16, SIDE, 2)
    expected = sum(np.einsum("yxkp,knp->yxn", wide[rows + 5 * tap], kernels[tap]) for tap in range(2))
    np.testing.assert_array_equal(c, expected)


@able
@pytest.mark.parametrize("operation", OPERATIONS)
def test_the_grid(operation: str, always: Tried) -> None:
    """Every row, in turn in every memory order, and larger ones in each; the same bits for any number of threads."""
    for number, row in enumerate(GRID):
        if takes(row, operation):
            _agrees(row, operation, list(ORDERS)[number % len(ORDERS)], 1)
    for row in LARGE:
        for order in ORDERS:
            _agrees(row, operation, order, 1, 3)
    assert len(set(always) - {0}) >= 5
    assert sum(always.values()) - always[0] > 30


def _agrees(row: Row, operation: str, order: str, *threads: int) -> None:
    operands, found = halves(row), []
    expected, allowed = known(row, operation, operands)
    for count in threads:
        with triconv.threads(count):
            found.append(run(row, operation, {r: ORDERS[order](a) for r, a in operands.items()}, engine="bfloat16"))
        oracle.assert_close(found[0].astype("float32"), expected, allowed, f"{row.name}, {operation}, {order}")
    assert len({one.tobytes() for one in found}) == 1, row.name


@able
def test_pytorch_uses_the_same_registers() -> None:
    """On the same threads, in turn: neither changes what the other finds."""
    random = torch.Generator().manual_seed(0)
    v, w = (torch.randn(shape, generator=random).bfloat16() for shape in ((4, 32, 20, 20), (48, 32, 3, 3)))

    def calls() -> list[torch.Tensor]:
        return [
            front.conv(v, w, padding=1, engine="bfloat16"),
            torch.nn.functional.conv2d(v, w, padding=1),
            v[0] @ v[1],
        ]

    first = calls()
    torch.testing.assert_close(first[0], first[1], rtol=2.0**-7, atol=1e-4)
    for _ in range(20):
        assert all(map(torch.equal, calls(), first))


def test_a_system_that_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(targets, "matrices_allowed", lambda: False)
    assert not HERE.matrices
    monkeypatch.setattr(targets, "matrices_allowed", lambda: True)
    assert HERE.matrices
    assert not replace(HERE, features="+avx512bf16").matrices
