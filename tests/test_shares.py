"""Tiles that cover an axis evenly, some of them one shorter, and the products that these do without."""

from __future__ import annotations

from itertools import chain, product
from math import prod
from typing import Any

import numpy as np
import oracle
import pytest
from bounds import likely
from grid import OPERATIONS, RESULT, Row

import triconv
from triconv.engines import winograd
from triconv.filtering import POINTS, filtering
from triconv.form import Problem
from triconv.geometry import Axis, evenly
from triconv.kernels import filtered
from triconv.kernels import winograd as ways
from triconv.kernels.correlation import Correlation
from triconv.kernels.filtered import Sizes
from triconv.kernels.scratch import Scratch
from triconv.kernels.shares import in_shares

SEVEN = Row("two tiles along each axis", (8, 16, 7, 7), (3, 3), 32, padding=1, dtype="float32")
ROWS = SEVEN, Row("75 tiles, in sums of two lengths", (3, 8, 18, 18), (3, 3), 16, padding=1, dtype="float32")


@pytest.mark.parametrize(("size", "kernel"), [(m, r) for r in range(1, 8) for m in range(1, len(POINTS) + 3 - r)])
def test_the_product_at_infinity_is_of_the_last_result_alone(size: int, kernel: int) -> None:
    """And without it the filtering is that of one result less, up to how products are scaled."""
    whole = filtering(size, kernel)
    assert whole.hidden[-1] == (*[0.0] * (size - 1), 1.0)
    if size > 1:
        v, w = (np.random.default_rng(n).standard_normal(size + kernel - 2) for n in range(2))
        rows = zip(whole.visible[:-1], whole.weight[:-1], whole.hidden[:-1], strict=True)
        made = sum(np.dot(a[:-1], v) * np.dot(b, w[:kernel]) * np.array(c[:-1]) for a, b, c in rows)
        np.testing.assert_allclose(made, np.correlate(v, w[:kernel], "valid"), atol=1e-12)


@pytest.mark.parametrize("size", range(1, 7))
@pytest.mark.parametrize("count", range(1, 20))
def test_even_tiles_are_as_many_and_one_shorter_at_most(count: int, size: int) -> None:
    tiles, shorter = evenly(count, size)
    assert tiles == -(-count // size)
    left = tiles * size - shorter - count
    assert left >= 0 <= shorter <= tiles
    assert left == 0 or shorter == tiles
    found = Axis(count, count, 1).tiles(size, even=True)
    assert [tile.made[1] == size for tile in found] == [True] * (tiles - shorter) + [False] * shorter


@pytest.mark.parametrize("shape", [(1,), (3,), (2, 2), (1, 3), (4, 3), (3, 4, 5), (5, 4, 3), (4, 5, 2, 3)])
@pytest.mark.parametrize("seed", range(5))
def test_a_share_has_what_its_tiles_need(shape: tuple[int, ...], seed: int) -> None:
    """Each product of each tile once, but those at infinity along an axis along which the tile is shorter.

    With more axes than two only the two that save most are told apart.
    """
    random, counts = np.random.default_rng(seed), tuple(range(3, 3 + len(shape)))
    along = [random.permutation(np.arange(size) < random.integers(size > 1, max(size, 2))) for size in shape]
    shorter = np.stack(np.meshgrid(*along, indexing="ij"), axis=-1).reshape(-1, len(shape))
    order, shares = in_shares(counts, shorter)
    assert sorted(order) == list(range(len(shorter)))
    found = np.zeros((prod(counts), len(shorter)), int)
    for share in shares:
        loops = [(loop.count, loop.a) for loop in share.loops(1, 0, 0)]
        for turns in product(*(range(count) for count, _ in loops)):
            place = share.first + sum(turn * step for turn, (_, step) in zip(turns, loops, strict=True))
            found[place, order[share.tiles.start : share.tiles.stop]] += 1
    mixed = [axis for axis, own in enumerate(along) if 0 < own.sum() < len(own)]
    told = sorted(mixed, key=lambda axis: along[axis].mean())[-2:]
    at_infinity = np.stack(np.unravel_index(np.arange(prod(counts)), counts), axis=-1) == np.array(counts) - 1
    for (place, tile), times in np.ndenumerate(found):
        assert times == (not any(at_infinity[place, axis] and shorter[tile, axis] for axis in told))
    assert sum(share.products for share in shares) == found.sum()


@pytest.fixture
def _even(monkeypatch: pytest.MonkeyPatch) -> None:
    """All tiles are, and scratch has NaN everywhere."""
    monkeypatch.setattr(filtered, "WORTH", 1)
    monkeypatch.setattr(filtered, "SAVED", 0)
    monkeypatch.setattr(ways, "schedule", lambda _, gradient: ways.gradient_by_chunks if gradient else ways.by_panels)
    usual = Scratch.array

    def array(*given: object) -> np.ndarray:
        room = usual(*given)  # type: ignore[arg-type]
        room.view(np.uint8)[...] = 255
        return room

    monkeypatch.setattr(Scratch, "array", array)


@pytest.mark.usefixtures("_even", "all_axes")
@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_products_that_nobody_makes_are_of_no_account(
    row: Row, operation: str, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are neither part of a result, nor taken for something that is not finite."""
    monkeypatch.setattr(winograd, "tile_sizes", lambda _: (4, 4))
    operands, out = row.operands(0), np.full(getattr(row, RESULT[operation]), np.nan, row.dtype)
    first, second = OPERATIONS[operation]
    plan = triconv.explain(operation, row.visible, row.weight, dtype="float32", engine="winograd", padding=1)
    with triconv.threads(threads):
        assert winograd.build(plan.problem)(operands[first], operands[second], out)
    oracle.assert_close(out, row.expected(operation, operands), likely(operation, row, operands), operation)


def sizes_of(batch: int) -> tuple[Problem, Sizes]:
    """Of tiles of four by four of an example of seven by seven."""
    visible, weight = (batch, *SEVEN.visible[1:]), SEVEN.weight
    problem = triconv.explain("conv", visible, weight, dtype="float32", padding=1).problem
    steps = (784, 1, 112, 16), (1568, 1, 224, 32), (144, 9, 3, 1)
    return problem, Sizes(problem, Correlation.of(problem, *steps), (4, 4), 1 << 30)


@pytest.mark.parametrize("tiles", [5, 64, 65, 67, 128, 130, 325])
def test_sums_are_no_deeper_than_others(tiles: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each tile is part of one; the first writes, and the others add."""
    _, sizes = sizes_of(8)
    (share,) = sizes.shares
    sizes.shares, found, usual = [share._replace(tiles=range(3, 3 + tiles))], [], sizes.summed

    def summed(*given: Any) -> Any:
        _, depth, _, _, _, *begins = given
        found.append((depth, begins))
        return usual(*given)

    monkeypatch.setattr(sizes, "summed", summed)
    programs = sizes.summed_by_shares(512, 16, 32)
    met = sorted(corner[0] // 16 + n for depth, begins in found for corner in set(chain(*begins)) for n in range(depth))
    assert met == list(range(3, 3 + tiles))
    assert max(depth for depth, _ in found) <= filtered.DEPTH
    assert [program.adds for program in programs] == [False, *[True] * (len(programs) - 1)]


@pytest.mark.parametrize(
    ("batch", "least", "rounds"), [(8, 1, 1), (8, 3, 4), (6, 2, 2), (7, 2, 0), (7, 3, 0), (67, 5, 0), (9, 2, 3)]
)
def test_rounds_have_as_many_examples_each(batch: int, least: int, rounds: int) -> None:
    assert filtered.even_rounds(batch, least) == rounds


def test_seven_positions_take_eleven_products_for_twelve(monkeypatch: pytest.MonkeyPatch) -> None:
    """Along each axis, in two tiles of four: so they are counted, and so they are estimated; of few tiles all are."""
    seconds = {}
    for batch, share in ((8, 121 / 144), (6, 1.0)):
        problem, sizes = sizes_of(batch)
        assert winograd._counts(problem, (4, 4)).shared == pytest.approx(121 / 144)
        assert sizes.evened().flops == pytest.approx(share * sizes.flops)
        assert sizes.flops == 2 * 36 * 4 * batch * 16 * 32
        seconds[batch] = winograd._seconds(problem, (4, 4))
        with monkeypatch.context() as patched:
            patched.setattr(filtered, "SAVED", 1.0)  # nobody saves as much
            assert (winograd._seconds(problem, (4, 4)) > seconds[batch]) == (share < 1)
    assert seconds[8] < seconds[6] * 8 / 6 * 0.99
    assert sizes_of(8)[1].evened(2).even_rounds == 0  # of 16 tiles each
    assert sizes_of(14)[1].evened(2).even_rounds == 2


@pytest.mark.parametrize(
    ("sizes", "share"), [((6, 7, 8), 11 / 12), ((7, 11, 13), 11 / 12 * (4 * 6 - 3) / (4 * 6)), ((6, 6, 6), 1.0)]
)
def test_two_axes_at_most_are_counted(sizes: tuple[int, ...], share: float) -> None:
    """Those that save most; and none along which all tiles are shorter."""
    problem = triconv.explain("conv", (1, 4, *sizes), (4, 4, 3, 3, 3), padding=1, dtype="float32").problem
    assert winograd._counts(problem, (4, 4, 4)).shared == pytest.approx(share)
