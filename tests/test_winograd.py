"""Winograd's filtering: its matrices, its tiles, its four ways through the caches, and what it does to infinities."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from itertools import product
from math import lcm, prod
from types import SimpleNamespace
from typing import Any

import numpy as np
import oracle
import pytest
from bounds import allowed, likely
from grid import OPERATIONS, RESULT, Row
from numpy.typing import NDArray

import triconv
from triconv.after import After
from triconv.engines import winograd
from triconv.filtering import POINTS, filtering
from triconv.form import Role
from triconv.geometry import Axis
from triconv.kernels import winograd as ways
from triconv.kernels.correlation import Correlation
from triconv.kernels.filtered import Sizes, Step

pytestmark = pytest.mark.usefixtures("all_axes")

Array = NDArray[Any]

EVERY_FILTERING = [(m, r) for r in range(1, len(POINTS) + 1) for m in range(1, len(POINTS) + 3 - r)]


@pytest.mark.parametrize(("size", "kernel"), EVERY_FILTERING)
def test_products_sum_up_to_the_form(size: int, kernel: int) -> None:
    """Σ_p H[p, c] W[p, k] V[p, x] is 1 where x = c + k, and else 0."""
    one = filtering(size, kernel)
    form = np.einsum("pc,pk,px->ckx", *map(np.array, (one.hidden, one.weight, one.visible)))
    c, k, x = np.ogrid[:size, :kernel, : size + kernel - 1]
    np.testing.assert_allclose(form, (x == c + k).astype(float), rtol=0, atol=1e-13 * one.growth("hidden"))


def test_matrices_of_visible_and_hidden_are_exact() -> None:
    """They are small dyadic fractions; only those of weights are rounded, once."""
    for size, kernel in EVERY_FILTERING:
        one = filtering(size, kernel)
        for matrix in (one.visible, one.hidden):
            assert all(entry * 2**20 == int(entry * 2**20) for row in matrix for entry in row)
        assert max(abs(entry) for row in one.visible for entry in row) <= 1


@pytest.mark.parametrize(("size", "kernel"), EVERY_FILTERING)
def test_matrices_are_those_of_fractions(size: int, kernel: int) -> None:
    """Lagrange's polynomials, as they are written: each entry is the float next to it."""
    points = [Fraction(point) for point in POINTS[: size + kernel - 2]]
    one, visible, weight = filtering(size, kernel), [], []
    for number, point in enumerate([*points, None]):
        others = [other for n, other in enumerate(points) if n != number]
        found = [Fraction(1)]
        for other in others:
            low, high = [Fraction(0), *found], [*found, Fraction(0)]
            found = [a - other * b for a, b in zip(low, high, strict=True)]
        if point is not None:
            found = [*(entry / prod(point - other for other in others) for entry in found), Fraction(0)]
        powers = [Fraction(k == kernel - 1) if point is None else point**k for k in range(kernel)]
        scale = Fraction(lcm(*(entry.denominator for entry in found)))
        while scale * max(map(abs, found)) > 1:
            scale /= 2
        visible.append(tuple(float(entry * scale) for entry in found))
        weight.append(tuple(float(power / scale) for power in powers))
    assert (one.visible, one.weight) == (tuple(visible), tuple(weight))


def test_more_points_than_there_are() -> None:
    with pytest.raises(ValueError, match=r"F\(6, 4\): expected at most 7 points"):
        filtering(6, 4)


@pytest.mark.parametrize("even", [False, True])
@pytest.mark.parametrize("dilation", [1, 2, 5])
@pytest.mark.parametrize("size", [1, 3, 4])
@pytest.mark.parametrize(
    ("visible", "kernel", "pads"), [(9, 3, (0, 0)), (9, 3, (4, 1)), (5, 2, (1, 3)), (11, 1, (0, 2))]
)
def test_tiles_meet_what_the_formula_says(
    visible: int, kernel: int, pads: tuple[int, int], size: int, dilation: int, even: bool
) -> None:
    """Every hidden position is made once, and every visible position that a tile sees is there."""
    before, after = (pad * dilation for pad in pads)
    hidden = visible + before + after - dilation * (kernel - 1)
    if hidden < 1:
        pytest.skip("the kernel covers more than the padded visible")
    axis = Axis(visible, hidden, kernel, 1, dilation, before, after)
    made = []
    for tile in axis.tiles(size, even):
        positions = [tile.hidden + dilation * j for j in range(size)]
        made += positions[slice(*tile.made)]
        assert even or all(position >= hidden for position in positions[tile.made[1] :])
        seen = [tile.visible + dilation * j for j in range(size + kernel - 1)]
        assert seen[0] == axis.position(tile.hidden, 0)
        there = [tile.seen[0] <= j < tile.seen[1] for j in range(len(seen))]
        assert there == [0 <= position < visible for position in seen]
    assert sorted(made) == list(range(hidden))


@pytest.mark.parametrize("pads", [(0, 0), (1, 1), (3, 0), (2, 4)])
def test_a_mirrored_axis_is_that_of_the_transpose(pads: tuple[int, int]) -> None:
    """Where hidden c meets visible x by tap k, the mirrored axis has x meet c by tap K − 1 − k."""
    visible, kernel, dilation = 9, 3, 2
    axis = Axis(visible, visible + sum(pads) - dilation * (kernel - 1), kernel, 1, dilation, *pads)
    mirrored = axis.mirrored
    assert (mirrored.visible, mirrored.hidden) == (axis.hidden, axis.visible)
    for c, x, k in product(range(axis.hidden), range(visible), range(kernel)):
        assert (axis.position(c, k) == x) == (mirrored.position(x, kernel - 1 - k) == c)


@pytest.mark.parametrize("stride", [1, 2, 3, 4])
@pytest.mark.parametrize("kernel", [1, 2, 3, 5])
@pytest.mark.parametrize(("visible", "pads"), [(9, (0, 0)), (1, (4, 3)), (8, (5, 1)), (12, (0, 3))])
def test_residues_meet_what_the_axis_does(visible: int, kernel: int, pads: tuple[int, int], stride: int) -> None:
    """Every pair of a hidden position and a tap that sees something is one residue's, and no other's."""
    hidden = (visible + sum(pads) - kernel) // stride + 1
    axis = Axis(visible, hidden, kernel, stride, 1, *pads)
    pairs = list(product(range(hidden), range(kernel)))
    expected = [(c, k, int(axis.position(c, k))) for c, k in pairs if 0 <= axis.position(c, k) < visible]
    found, positions = [], []
    for one in axis.residues:
        positions += range(one.visible, visible, stride)
        assert len(range(one.visible, visible, stride)) == one.axis.visible
        for c, j in product(range(hidden), range(one.axis.kernel)):
            if 0 <= (u := int(one.axis.position(c, j))) < one.axis.visible:
                found.append((c, one.kernel + stride * j, one.visible + stride * u))
    assert sorted(found) == expected
    assert sorted(positions) == list(range(visible))


ROWS = [
    Row("tiles left over", (2, 5, 11, 9), (3, 3), 7, padding=1, dtype="float32"),
    Row("many tiles", (3, 24, 61, 50), (3, 3), 40, padding=(2, 0), dtype="float32"),
    Row("deep", (2, 256, 6, 7), (3, 3), 72, padding=1, dtype="float32"),
    Row("groups", (2, 24, 11, 9), (3, 2), 60, groups=4, padding=2, dtype="float32"),
    Row("some groups at once", (2, 64, 11, 9), (3, 2), 80, groups=4, padding=2, dtype="float32"),
    Row("one tap beyond the edge", (2, 16, 6, 9), (1, 3), 16, padding=((2, 1), (1, 1)), dtype="float32"),
    Row("dilated", (2, 16, 13, 14), (3, 3), 32, padding=3, dilation=(3, 2), dtype="float32"),
    Row("cropped", (2, 16, 13), (3,), 32, padding=0, dtype="float64"),
    Row("volume", (1, 16, 7, 6, 9), (3, 3, 3), 16, padding=1, dtype="float32"),
    Row("rank four", (1, 8, 5, 4, 6, 5), (2, 3, 3, 2), 16, padding=1, dtype="float32"),
    Row("bordered", (2, 8, 9, 8), (3, 3), 16, padding=2, border=("circular", "zero"), dtype="float32"),
    Row("strided", (3, 24, 61, 50), (3, 3), 40, padding=1, stride=2, dtype="float32", visible_size=(61, 50)),
    Row("steps of their own", (2, 5, 20, 19, 6), (5, 4, 1), 18, padding=2, stride=(2, 3, 1), visible_size=(20, 19, 6)),
    Row("a stride longer than the kernel", (2, 8, 23, 9), (2, 3), 16, stride=(3, 1), visible_size=(23, 9)),
    Row("few channels", (1, 3, 20, 20), (5, 5), 2, padding=2, dtype="float64"),
]


@pytest.mark.usefixtures("way", "guarded")
@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_every_way_is_right_and_the_same_for_any_threads(row: Row, threads: int) -> None:
    operands = row.operands(1)
    for operation, (first, second) in OPERATIONS.items():
        problem = triconv.explain(
            operation, row.visible, row.weight, dtype=row.dtype, engine="winograd", **row.options
        ).problem
        found = []
        for number in (1, threads):
            out = np.full(getattr(row, RESULT[operation]), np.nan, row.dtype)
            with triconv.threads(number):
                run = winograd.build(problem)
                run(operands[first], operands[second], out)
                run(operands[first].copy(), operands[second], out)  # what was written down moves with the arrays
            found.append(out)
        expected = row.expected(operation, operands)
        oracle.assert_close(found[0], expected, likely(operation, row, operands), operation)
        np.testing.assert_array_equal(*found)


@pytest.mark.usefixtures("way", "guarded")
@pytest.mark.parametrize("name", ["many tiles", "deep", "groups", "strided"])
def test_where_there_is_no_room(name: str, allow: Callable[[int], None]) -> None:
    """Fewer tiles, inputs, outputs at a time, and fewer pieces: right, and the same for any threads."""
    allow(1)
    # In double precision no term can be so small that a sum may lack it.
    row = replace(next(row for row in ROWS if row.name == name), dtype="float64")
    operands = row.operands(2)
    for operation, (first, second) in OPERATIONS.items():
        problem = triconv.explain(
            operation, row.visible, row.weight, dtype=row.dtype, engine="winograd", **row.options
        ).problem
        expected = row.expected(operation, operands)
        found = []
        for threads in (1, 2, 3, 8):
            out = np.full(getattr(row, RESULT[operation]), np.nan, row.dtype)
            with triconv.threads(threads):
                winograd.build(problem)(operands[first], operands[second], out)
            found.append(out)
        oracle.assert_close(found[0], expected, likely(operation, row, operands), operation)
        for other in found[1:]:
            np.testing.assert_array_equal(found[0], other)


def test_what_is_finished_is_finished_once(monkeypatch: pytest.MonkeyPatch, allow: Callable[[int], None]) -> None:
    """Of inputs that come after the others: a bias is added, and the positive part taken, of the whole sum."""
    allow(1)
    monkeypatch.setattr(ways, "schedule", lambda *_: ways.by_panels)
    row = next(row for row in ROWS if row.name == "deep")
    plan = triconv.explain("conv", row.visible, row.weight, dtype=row.dtype, engine="winograd", **row.options)
    last = {
        role: np.moveaxis(np.ascontiguousarray(np.moveaxis(a, 1, -1)), -1, 1) for role, a in row.operands(3).items()
    }
    bias = np.linspace(-9, 9, row.hidden[1], dtype=row.dtype)
    plain, finished = (np.moveaxis(np.empty((2, 6, 7, 72), row.dtype), -1, 1) for _ in range(2))
    winograd.build(plan.problem)(last["visible"], last["weight"], plain)
    winograd.build(plan.problem)(last["visible"], last["weight"], finished, None, After(bias=bias, positive=True))
    np.testing.assert_array_equal(finished, np.maximum(plain + bias[:, None, None], 0))


@pytest.mark.parametrize(
    ("operation", "row"),
    [
        ("conv", Row("some taps", (1, 2, 3, 1), (4, 4), 3, stride=(1, 4), padding=((3, 3), (3, 0)))),
        ("conv", Row("all taps", (1, 2, 2, 1), (6, 1), 3, stride=(2, 3), padding=((7, 2), (2, 2)))),
        ("conv_weight", Row("all taps", (1, 2, 2, 1), (6, 1), 3, stride=(2, 3), padding=((7, 2), (2, 2)))),
    ],
    ids=lambda one: getattr(one, "name", one),
)
def test_what_only_meets_padding_is_looked_at(operation: str, row: Row) -> None:
    """A stride's part without a visible position is left out: 0 · inf, which it would have, is no zero."""
    operands = row.operands()
    operands["weight" if operation == "conv" else "hidden"][..., 0, 0] = np.inf
    found, expected = (
        row.call(getattr(triconv, operation), operation, operands, engine=e) for e in ("winograd", "reference")
    )
    assert np.isnan(expected).any()
    np.testing.assert_array_equal(np.isnan(found), np.isnan(expected))


ROOMS = [Row("many tiles", (8, 128, 28, 28), (3, 3), 128, padding=1, dtype="float32")]
ROOMS += [Row("few tiles", (8, 256, 14, 14), (3, 3), 256, padding=1, dtype="float32")]
ROOMS += [Row("half as many pieces", (16, 128, 28, 28), (3, 3), 128, padding=1, dtype="float32")]


@pytest.mark.parametrize("share", [1.0, 0.9, 0.8])
@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("row", ROOMS, ids=lambda row: row.name)
def test_two_threads_stay_within_the_room(row: Row, operation: str, share: float) -> None:
    """Of what a call should take at most, or less. What is cut does not depend on how many threads there are."""
    problem = triconv.explain(operation, row.visible, row.weight, engine="winograd", dtype="float32", padding=1).problem
    room = int(problem.extra * share)
    strides = []
    for role in (Role.VISIBLE, Role.HIDDEN, Role.WEIGHT):
        shape, order = problem.shape(role), problem.order(role)
        strides.append(tuple(np.empty([shape[axis] for axis in order]).transpose(np.argsort(order)).strides))
    own = tuple(tuple(step // 8 for step in one) for one in strides)
    schedules = []
    for threads in (1, 2, 8):
        with triconv.threads(threads):
            way, schedule, _ = winograd._scheduled(problem, None, own, room)
            schedules.append((way.copied, schedule.kernels, schedule.shared, schedule.own))
            if threads <= 2:
                assert way.copied + 4 * schedule.scratch <= room
    assert len(set(schedules)) == 1


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("operation", OPERATIONS)
def test_groups_in_another_order_have_the_same_bits_in_that_order(operation: str) -> None:
    """Whichever are taken at once, each meets its own channels."""
    row = next(row for row in ROWS if row.name == "some groups at once")
    axis, each = {"visible": 1, "hidden": 1, "weight": 0}, {"visible": 16, "hidden": 20, "weight": 20}
    (first, second), result, found = OPERATIONS[operation], RESULT[operation], []
    operands = row.operands(1)
    problem = triconv.explain(
        operation, row.visible, row.weight, dtype=row.dtype, engine="winograd", **row.options
    ).problem
    for turns in (0, 1):
        a, b = (np.roll(operands[role], turns * each[role], axis[role]) for role in (first, second))
        out = np.full(getattr(row, result), np.nan, row.dtype)
        winograd.build(problem)(a, b, out)
        found.append(np.roll(out, -turns * each[result], axis[result]))
    np.testing.assert_array_equal(*found)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("operation", OPERATIONS)
def test_arrays_may_share_memory_in_one_call_and_not_in_the_next(operation: str) -> None:
    """The same array as both operands, lines of one array in turn, and then arrays of their own."""
    # Operands that are the same are not independent; what may happen at worst tells nothing in single precision.
    row = Row("square", (8, 8, 3, 3), (3, 3), 8, padding=1, dtype="float64")
    own = {role: np.moveaxis(np.ascontiguousarray(np.moveaxis(a, 1, -1)), -1, 1) for role, a in row.operands(0).items()}
    first, second = OPERATIONS[operation]
    lines = np.moveaxis(np.stack([np.moveaxis(own[role], 1, -1) for role in (first, second)], axis=1), -1, 2)
    plan = triconv.explain(operation, row.visible, row.weight, dtype=row.dtype, engine="winograd", **row.options)
    plan = triconv.Plan(plan.problem, plan.engine, plan.why_not)  # one that nobody has built yet
    for a, b in ((own[first], own[first]), (lines[:, 0], lines[:, 1]), (own[first], own[second])):
        operands = {**own, first: a, second: b}
        out = np.full(getattr(row, RESULT[operation]), np.nan, row.dtype)
        plan.run(a, b, out)
        expected = row.expected(operation, operands)
        oracle.assert_close(out, expected, allowed(operation, row, operands, "winograd"), operation)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_the_choice_of_way_follows_the_sizes(operation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Few tiles of many channels are taken by channels, many of few by tiles."""
    taken = []
    winograd._workspace.cache_clear()  # nor what another test has asked for
    for name in ("by_blocks", "by_panels", "gradient_by_chunks", "gradient_by_pieces"):
        kept = getattr(ways, name)
        monkeypatch.setattr(ways, name, lambda sizes, kept=kept, name=name: taken.append(name) or kept(sizes))
    for row in (
        Row("wide", (8, 32, 64, 64), (3, 3), 32, padding=1),
        Row("deep", (1, 256, 6, 6), (3, 3), 256, padding=1),
    ):
        triconv.explain(operation, row.visible, row.weight, engine="winograd", **row.options).workspace  # noqa: B018
    winograd._workspace.cache_clear()
    ours = ["gradient_by_pieces", "gradient_by_chunks"] if operation == "conv_weight" else ["by_blocks", "by_panels"]
    assert [name for name in taken if name in ours] == taken
    assert set(taken) == set(ours)


VALUES = {"inf": np.inf, "nan": np.nan, "too large for transforms": 3e38}


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("value", VALUES)
def test_what_is_not_finite_stays_where_it_belongs(value: str, operation: str) -> None:
    """One such number among others: every entry is what the direct sum has, bit by bit where that is not finite."""
    row = Row("one number", (2, 8, 12, 12), (3, 3), 8, padding=1, dtype="float32")
    operands = {role: np.ones_like(array) * np.float32(0.5) for role, array in row.operands(0).items()}
    operands[OPERATIONS[operation][0]][1, 3, 5, 6] = VALUES[value]
    function = getattr(triconv, operation)
    expected = row.call(function, operation, operands, engine="direct")
    result = row.call(function, operation, operands, engine="winograd")
    np.testing.assert_array_equal(result, expected)
    assert value == "too large for transforms" or not np.isfinite(result).all()


@pytest.mark.parametrize(
    ("visible", "weight", "options", "reason"),
    [
        ((1, 3, 40, 40), (4, 3, 9, 9), {"stride": 5}, "needs strides of at most 16 together"),
        ((1, 3, 40, 40), (4, 3, 3, 3), {"stride": 2, "dilation": 2}, "needs stride 1 where there is dilation"),
        ((1, 3, 40, 40), (4, 3, 1, 1), {}, "needs kernels of 2 to 7 taps, a stride apart"),
        ((1, 3, 40, 40), (4, 3, 8, 3), {}, "needs kernels of 2 to 7 taps, a stride apart"),
        ((1, 3, 9, 9, 9, 9), (4, 3, 5, 5, 5, 5), {}, "rounding errors would grow more than 9.5 times"),
        ((1, 3, 40, 40), (2, 2, 4, 3, 3, 3), {}, "needs one kernel for all positions"),
    ],
)
def test_what_it_does_not_take(visible: Any, weight: Any, options: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        triconv.explain("conv", visible, weight, engine="winograd", **options)


def test_highest_precision_sums_as_written() -> None:
    plan = triconv.explain("conv", (8, 64, 56, 56), (64, 64, 3, 3), padding=1)
    highest = triconv.explain("conv", (8, 64, 56, 56), (64, 64, 3, 3), padding=1, precision="highest")
    assert plan.engine.name == "winograd"
    assert highest.engine.name == "direct"
    assert highest.why_not["winograd"] == 'precision="highest" forbids transforms'


@pytest.mark.parametrize("rank", [1, 2, 3, 4])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_relative_error_is_what_the_amplification_says(operation: str, rank: int) -> None:
    """Of random operands, root mean square: at most 2 eps times the amplification."""
    row = Row(
        "accuracy",
        (2, 64, *(12,) * rank) if rank < 4 else (1, 16, 7, 7, 7, 7),
        (3,) * rank,
        32,
        padding=1,
        dtype="float32",
    )
    operands = row.operands(0)
    exact = row.call(
        getattr(triconv, operation), operation, {k: v.astype("f8") for k, v in operands.items()}, engine="direct"
    )
    result = row.call(getattr(triconv, operation), operation, operands, engine="winograd")
    problem = triconv.explain(
        operation, row.visible, row.weight, dtype=row.dtype, engine="winograd", **row.options
    ).problem
    grown = np.prod([filtering(m, 3).amplification for m in winograd.tile_sizes(problem)])
    error = np.sqrt(((result - exact) ** 2).mean() / (exact**2).mean())
    assert error <= 2 * np.finfo("f4").eps * grown
    assert error <= 5e-6


@pytest.mark.parametrize(
    ("hidden", "padding", "edges"),
    [(32, 0, set()), (32, 1, {Role.VISIBLE}), (30, 0, {Role.WEIGHT, Role.HIDDEN})],
)
def test_code_for_edges_is_left_out_where_there_are_none(
    monkeypatch: pytest.MonkeyPatch, hidden: int, padding: int, edges: set[Role]
) -> None:
    """Of tiles inside of the array whose channels fill vectors: it is a good part of a transform's."""
    found = set()
    transform = Sizes.transform

    def recorded(self: Sizes, role: Role, *others: Any, **more: Any) -> Step:
        step = transform(self, role, *others, **more)
        found.update({role} if step.kernel.edges else ())
        return step

    monkeypatch.setattr(Sizes, "transform", recorded)
    monkeypatch.setattr(winograd, "tile_sizes", lambda problem: (2,) * problem.geometry.rank)
    row = Row("inside", (1, 32, 10, 10), (3, 3), hidden, padding=padding, dtype="float32")
    result = row.call(triconv.conv, "conv", row.operands(0), engine="winograd")
    exact = row.call(triconv.conv, "conv", row.operands(0), engine="direct")
    np.testing.assert_allclose(result, exact, rtol=0, atol=1e-4)
    assert found == edges


def test_tiles_are_made_once() -> None:
    axis = Axis(9, 9, 3, before=1, after=1)
    assert axis.tiles(4) is Axis(9, 9, 3, before=1, after=1).tiles(4)


@pytest.mark.parametrize(("way", "size", "channels"), [("pieces", 56, (64, 256)), ("chunks", 28, (64, 128))])
def test_calls_of_a_gradients_block_do_not_grow_with_the_channels(
    way: str, size: int, channels: tuple[int, int]
) -> None:
    """All chunks of a block are one call, and so are all parts of a sum but the first: calls take Python's time."""
    several = []
    for many in channels:
        shape, weight = (8, many, size, size), (many, many, 3, 3)
        problem = triconv.explain("conv_weight", shape, weight, dtype="float32", padding=1).problem
        data, kernel = (size * size * many, 1, size * many, many), (1, many, 3 * many * many, many * many)
        correlation = Correlation.of(problem, data, data, kernel)
        program = getattr(ways, f"gradient_by_{way}")(Sizes(problem, correlation, (4, 4), 1 << 40))
        calls = program.stages[way == "chunks"].calls([np.empty(1, np.float32)] * 6, 0, 0, 1)
        multiplied = [call for call in calls if len(call.values) == 7]  # others are transforms
        several.append(len(multiplied) / (len(calls) - len(multiplied)))
    assert several[0] == several[1] <= 4  # of two kinds of tiles each, at most, for the first and for what is added


def test_blocks_have_tiles_for_rows_of_six_where_there_is_room() -> None:
    """As many as fill a block if these are more, and no more than are worth a kernel where a tile is large."""

    def most(points: int, *rows: int) -> int:
        sizes = SimpleNamespace(points=points, itemsize=4, fitting=lambda *_: 1 << 20)
        return ways._most(sizes, 0, *rows)  # type: ignore[arg-type]

    block = ways.BLOCK
    assert most(36, 128, 64) == 36
    assert most(216, 32, 32) == 28
    assert most(36, 16, 16) == block // (36 * 32 * 4)
