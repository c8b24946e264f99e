"""A fast battery for test_mutants.py, run as a script: exits with 1 and says what is wrong, or with 0.

It asks the package on the path for the whole grid and for a handful of small things that the grid does not reach.
Names of checks, its arguments, say which come first.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable
from dataclasses import fields, replace
from functools import cache, partial
from importlib.util import find_spec
from itertools import product
from typing import Any

import numpy as np
import oracle
from grid import BY_NAME, GRID, OPERATIONS, RESULT, Row
from numpy.typing import NDArray

Array = NDArray[Any]

FAILED = 1


def same(actual: Any, expected: Any) -> None:
    np.testing.assert_array_equal(np.asarray(actual), np.asarray(expected))


def message_of(function: Callable[[], Any]) -> str:
    """What a function says of its bad input."""
    try:
        function()
    except (ValueError, TypeError, MemoryError) as error:
        return str(error)
    raise AssertionError("bad input was not refused")


def refused(function: Callable[[], Any], *fragments: str) -> None:
    """Bad input is told of, with these words."""
    message = message_of(function)
    missing = [fragment for fragment in fragments if fragment not in message]
    assert not missing, f"{missing} not in: {message}"


def on_the_grid(engine: str) -> None:
    from bounds import allowed, takes

    import triconv
    from triconv import ops

    def poisoned(*args: Any) -> Array:
        out = allocate(*args)
        out[...] = np.nan
        return out

    allocate, ops.allocate = ops.allocate, poisoned
    try:
        for row, operation, operands, expected in cases():
            if takes(engine, operation, row):
                result = row.call(getattr(triconv, operation), operation, operands, engine=engine)
                bound = allowed(operation, row, operands, engine)
                oracle.assert_close(result, expected, bound, f"{row.name}, {operation}, {engine}")
                assert result.dtype == row.dtype
    finally:
        ops.allocate = allocate


@cache
def cases() -> list[tuple[Row, str, dict[str, Array], Array]]:
    """Rows, operations, operands and what is expected; first the rows that ask for most, where more can be wrong."""
    rows = sorted(GRID, key=lambda row: -sum(getattr(row, field.name) != field.default for field in fields(row)))
    known = [(row, operation, given) for row in rows for given in [row.operands()] for operation in OPERATIONS]
    return [(row, operation, given, row.expected(operation, given)) for row, operation, given in known]


def no_engine_is_left_out() -> None:
    from triconv import dispatch

    assert sorted([*ON_THE_GRID, "split"]) == sorted(dispatch.ENGINES)  # of which numbers_in_halves has rows


def examples_in_parts() -> None:
    import triconv
    from triconv.engines import im2row

    row = BY_NAME["tiled in groups"]
    operands = row.operands()
    whole, im2row.CHUNK = im2row.CHUNK, 1
    for operation, (first, second) in OPERATIONS.items():
        problem = triconv.explain(operation, row.visible, row.weight, dtype=row.dtype, **row.options).problem
        out = np.full(getattr(row, RESULT[operation]), np.nan, row.dtype)
        im2row.ENGINE.build(problem)(operands[first], operands[second], out)
        oracle.assert_close(out, row.expected(operation, operands), row.allowed(operation, operands), operation)
    im2row.CHUNK = whole


def a_zero_border_takes_part() -> None:
    from bounds import TOTAL

    import triconv

    for engine in TOTAL:
        three, weight = np.ones((1, 1, 3)), np.array([[[1.0, np.inf]]])
        same(triconv.conv(three, weight, padding=1, engine=engine), [[[np.inf, np.inf, np.inf, np.nan]]])
        hidden = np.array([[[np.inf, 1.0, 1.0, 1.0]]])
        same(triconv.conv_weight(three, hidden, 2, padding=1, engine=engine), [[[np.nan, np.inf]]])
        same(triconv.conv_transpose(hidden, np.ones((1, 1, 2)), padding=1, engine=engine), [[[np.inf, 2.0, 2.0]]])


def transforms_spread_no_infinities() -> None:
    import triconv

    visible, weight = np.ones((1, 2, 9, 9)), np.ones((2, 2, 3, 3))
    visible[0, 1, 4, 4] = np.inf
    for engine in ("winograd", "fft"):
        same(triconv.conv(visible, weight, engine=engine), triconv.conv(visible, weight, engine="direct"))


def the_first_axis_alone() -> None:
    """Of few channels and of some, in blocks of all positions and of few, with what follows."""
    import triconv
    from triconv.after import After
    from triconv.engines import winograd
    from triconv.form import Role
    from triconv.kernels.one_axis import OneAxis

    rows = [
        Row("strided", (2, 3, 17, 20), (7, 4), 16, padding=(3, (2, 5)), stride=(2, 3)),
        Row("odd channels, one in the padding", (2, 5, 9, 3), (5, 2), 7, padding=(2, (9, 6)), dilation=(1, 2)),
        Row("volume", (1, 2, 9, 5, 6), (4, 3, 2), 5, padding=(1, 2, 0), stride=(1, 2, 1)),
    ]
    usual, functions = OneAxis._fits, (winograd._along_one, winograd._why_not_all, winograd._has_room)
    winograd._why_not_all, winograd._has_room = lambda _: ["not here"], lambda *_: True
    for row, tiles, width in product(rows, ((5, 3), (4, 2)), (100, 3, 1)):
        winograd._along_one = lambda _, tiles=tiles: (winograd.Tiles(*tiles),)  # type: ignore[misc, assignment]
        winograd.parts.cache_clear()  # type: ignore[attr-defined]
        plan = triconv.explain("conv", row.visible, row.weight, dtype="float64", engine="winograd", **row.options)
        operands, shape = row.operands(), plan.shape(Role.HIDDEN)
        out = np.moveaxis(np.empty((shape[0], *shape[2:], shape[1])), -1, 1)
        mask = np.moveaxis(np.ascontiguousarray(np.moveaxis(np.indices(shape).sum(axis=0) % 3 - 1.0, 1, -1)), -1, 1)
        expected = row.call(triconv.conv, "conv", operands, engine="direct")
        after = After(np.linspace(-2, 2, shape[1]), True, mask)
        OneAxis._fits = lambda _, last, width=width: last.hidden <= width  # type: ignore[misc, assignment]
        try:
            winograd.build(plan.problem)(operands["visible"], operands["weight"], out, None, after)
        finally:
            OneAxis._fits = usual  # type: ignore[method-assign]
        after.apply(expected)
        np.testing.assert_allclose(out, expected, atol=1e-10)
    winograd._along_one, winograd._why_not_all, winograd._has_room = functions
    winograd.parts.cache_clear()  # type: ignore[attr-defined]


def even_tiles() -> None:
    """Some of them shorter along an axis or two: all at once, in two rounds, and in blocks of which some do without."""
    from bounds import likely

    import triconv
    from triconv.engines import winograd
    from triconv.kernels import filtered
    from triconv.kernels import winograd as ways
    from triconv.kernels.scratch import Scratch

    rows = [
        Row("image", (4, 5, 7, 10), (3, 2), 9, padding=1),
        Row("dilated", (2, 3, 9, 11), (2, 3), 6, padding=2, dilation=(2, 1)),
        Row("volume", (2, 2, 8, 13, 14), (2, 3, 2), 5),
        Row("of many tiles", (6, 3, 13, 22), (3, 3), 4, padding=1),
    ]
    usual = (
        filtered.WORTH,
        filtered.SAVED,
        ways.schedule,
        ways._in_rounds,
        ways._pieces,
        winograd.tile_sizes,
        Scratch.array,
    )

    def poisoned(*given: Any) -> Array:
        room = usual[-1](*given)
        room.view(np.uint8)[...] = 255
        return room

    filtered.WORTH, filtered.SAVED, ways._pieces, Scratch.array = 1, 0.0, lambda _: 2, poisoned  # type: ignore[assignment, method-assign]
    winograd.tile_sizes = lambda problem: (4,) * problem.geometry.rank  # type: ignore[assignment]
    for row, rounds, (operation, roles) in product(rows, (1, 2, 0), OPERATIONS.items()):
        forth, gradient = (
            (ways.by_panels, ways.gradient_by_chunks) if rounds else (ways.by_blocks, ways.gradient_by_pieces)
        )
        ways.schedule = lambda _, back, own=(forth, gradient): own[back]  # type: ignore[misc, assignment]
        ways._in_rounds = lambda s, rounds=rounds: (rounds, 1, -(-s.tiles // rounds))  # type: ignore[misc]
        plan = triconv.explain(operation, row.visible, row.weight, dtype="float64", engine="winograd", **row.options)
        operands, out = row.operands(), np.full(getattr(row, RESULT[operation]), np.nan)
        winograd.build(plan.problem)(*(operands[role] for role in roles), out)
        oracle.assert_close(out, row.expected(operation, operands), likely(operation, row, operands), row.name)
    filtered.WORTH, filtered.SAVED, ways.schedule, ways._in_rounds, ways._pieces, winograd.tile_sizes, Scratch.array = (
        usual  # type: ignore[method-assign]
    )


def transforms_of_halves() -> None:
    """Of bfloat16 the same as of float32, rounded once, where there is room for the same cuts; elsewhere nearly so."""
    import ml_dtypes

    import triconv
    from triconv.after import After
    from triconv.engines import winograd
    from triconv.form import Problem

    kind, single = np.dtype(ml_dtypes.bfloat16), np.dtype(np.float32)
    rows = [
        Row("strided", (2, 5, 9, 9), (3, 3), 7, padding=1, stride=2, visible_size=(9, 9)),
        Row("bordered", (2, 8, 9, 8), (3, 3), 16, padding=2, border=("circular", "zero")),
        Row("deep", (2, 256, 6, 7), (3, 3), 72, padding=1),
    ]
    usual = Problem.extra
    for row, room, (operation, operands) in product(rows, (1 << 40, 1), OPERATIONS.items()):
        halves = {role: array.astype(kind) for role, array in row.operands().items()}
        shape, results = getattr(row, RESULT[operation]), []
        where = np.indices(shape).sum(axis=0) % 2
        Problem.extra = property(lambda _, room=room: room)  # type: ignore[assignment, misc]
        for own in (kind, single):
            shapes = row.visible, row.weight
            plan = triconv.explain(operation, *shapes, dtype=own.name, engine="winograd", **row.options)
            a, b, out, mask = (
                np.moveaxis(np.moveaxis(array, 1, -1).astype(own, order="C"), -1, 1)
                for array in (*(halves[role] for role in operands), np.zeros(shape), where)
            )
            bias = np.linspace(-1, 1, shape[1]).astype(kind).astype(own)
            after = None if operation == "conv_weight" else After(bias, True, mask)
            finite = winograd.build(plan.problem)(a, b, out, None, after)
            if finite is None and after is not None:
                after.apply(out)
            results.append(out.astype(kind).astype(single))
        Problem.extra = usual  # type: ignore[method-assign]
        if room > 1:
            same(*results)
        else:
            np.testing.assert_allclose(*results, rtol=2**-7, atol=1e-3)
        halves[operands[0]].flat[0] = np.inf
        found, expected = (
            row.call(getattr(triconv, operation), operation, halves, **how).astype(single)
            for how in ({"engine": "winograd"}, {"precision": "highest"})
        )
        same(np.isnan(found), np.isnan(expected))


def all_axes_are_transformed() -> None:
    """From here on, where the first alone would be; until the last check."""
    from triconv.engines import winograd

    winograd._along_one = lambda _: ()  # type: ignore[assignment]
    winograd.parts.cache_clear()  # type: ignore[attr-defined]


def frequencies_of_each_axis() -> None:
    """Axes that are apart, as they are where a large kernel is depthwise."""
    import triconv
    from triconv.engines import fft

    planned: Any = fft.planned
    fft.planned = lambda problem: replace(planned(problem), apart=True)  # type: ignore[assignment]
    try:
        for row in (Row("", (2, 4, 9, 8), (4, 3), 4, padding=2, groups=4), Row("", (2, 2, 5, 4, 6), (2, 3, 3), 3)):
            operands = row.operands()
            for operation in OPERATIONS:
                result = row.call(getattr(triconv, operation), operation, operands, engine="fft")
                allowed = row.allowed(operation, operands, spreads=True)
                oracle.assert_close(result, row.expected(operation, operands), allowed, operation)
    finally:
        fft.planned = planned


def geometry() -> None:
    from triconv.geometry import forward, pooled

    for x, k, s, e, pads in product((3, 7), (1, 2, 3), (1, 2, 3), (1, 2), ((0, 0), (2, 1), (0, 3))):
        if sum(pads) + x < e * (k - 1) + 1:
            continue
        axis = forward(x, k, s, e, pads, "zero", "")
        touched = [[s * c + e * tap - pads[0] for tap in range(k)] for c in range(axis.hidden)]
        same(axis.position(np.arange(axis.hidden)[:, None], np.arange(k)), touched)
        assert list(axis.interior) == [c for c, row in enumerate(touched) if min(row) >= 0 and max(row) < x]
        reach = np.arange(axis.reach) - pads[0]
        same(axis.extension, np.where((reach < 0) | (reach >= x), -1, reach))
        assert axis.reach == touched[-1][-1] + pads[0] + 1
        weight, hidden, visible = np.arange(1.0, k + 1), np.arange(2.0, axis.hidden + 2), np.zeros(x)
        for phase in axis.phases:
            for j, at in enumerate(range(phase.first, x, s)):
                for tap, offset in zip(phase.taps, phase.offsets, strict=True):
                    visible[at] += weight[tap] * hidden[j + offset] if 0 <= j + offset < axis.hidden else 0
        options = {"stride": s, "dilation": e, "padding": (pads,)}
        same(visible, oracle.conv_transpose(hidden[None, None], weight[None, None], (x,), **options)[0, 0])
    assert list(forward(9, 3, 1, 1, (0, 0), "zero", "").with_bank(3).banks) == [0, 1, 2, 0, 1, 2, 0]
    assert [pooled(x, 2, 2, 1, (0, 0), True, "").hidden for x in (2, 3, 4, 5)] == [1, 2, 2, 3]
    assert [pooled(x, 2, 2, 1, (1, 1), True, "").hidden for x in (2, 3, 4, 5)] == [2, 2, 3, 3]
    assert pooled(5, 2, 3, 1, (0, 0), True, "").after == 0
    assert pooled(4, 2, 3, 1, (0, 0), True, "").after == 1
    refused(lambda: forward(4, 5, 1, 1, (0, 0), "zero", " on axis 3"), "kernel size 5", "axis 3")
    refused(lambda: forward(4, 3, 1, 1, (4, 0), "reflect", " on axis 3"), "reflect", "axis 3")
    refused(lambda: pooled(4, 2, 1, 1, (2, 0), False, ""), "padding only")


def sizes_of_a_transpose() -> None:
    import triconv

    weight = np.ones((1, 1, 3))
    for hidden, stride, padding in product((1, 2, 5), (1, 2, 4), (0, 1, "same", "full")):
        if padding == "full" and hidden < 3:
            continue
        fits = [x for x in range(1, 40) if oracle.hidden_size((x,), (3,), stride=stride, padding=padding) == (hidden,)]
        h = np.ones((1, 1, hidden))
        for x in range(1, 40):

            def transpose(x: int | None = x, h: Array = h, stride: int = stride, padding: Any = padding) -> Array:
                return triconv.conv_transpose(h, weight, visible_size=x, stride=stride, padding=padding)

            if x in fits:
                assert transpose().shape == (1, 1, x)
            else:
                refused(transpose, f"visible size {x}", str(fits[0]), str(fits[-1]), "axis 0")
        assert transpose(None).shape == (1, 1, fits[0])


def form() -> None:
    import triconv
    from triconv import form as table

    assert {name: role.value for name, role in table.OPERATIONS.items()} == RESULT
    for name, produced in table.OPERATIONS.items():
        assert tuple(role.value for role in table.OPERANDS[produced]) == OPERATIONS[name]
    row = BY_NAME["tiled on a graph"]
    plan = triconv.explain("conv_transpose", row.visible, row.weight, **row.options)
    assert plan.flops == 2 * 2 * 10 * 6 * 2
    assert plan.bytes == 4 * sum(int(np.prod(getattr(row, role.value))) for role in table.Role)
    assert triconv.explain("conv", (1, 1, 4), (1, 1, 2), dtype="complex64").flops == 8 * 3 * 2
    assert triconv.explain("conv", (8, 4, 9, 9), (4, 4, 3, 3)).engine.name == "direct"
    tiled = triconv.explain("conv", (1, 2, 8), (2, 3, 2, 3), padding=1)
    assert "h[n, o, c] = Σ_{i<2, k<3} v[n, i, c + k − 1] · w[c mod 2, o, i, k]" in str(tiled)
    assert table.weight_order(2, True) == (0, 1, 4, 5, 3, 2)


def dtypes_and_memory() -> None:
    import triconv

    row = BY_NAME["image"]
    operands = row.operands()
    v, w = np.moveaxis(np.moveaxis(operands["visible"], 1, -1).copy(), -1, 1), operands["weight"]
    result = triconv.conv(v, w, padding=1)
    assert np.moveaxis(result, 1, -1).flags.c_contiguous
    gradient = triconv.conv_weight(v, operands["hidden"], 3, padding=1)
    assert gradient.transpose(2, 3, 1, 0).flags.c_contiguous
    swapped = triconv.conv(v.astype(">f4"), w.astype(">f4"), padding=1)
    assert swapped.dtype.isnative
    same(swapped, result)
    half = triconv.conv(np.ones((1, 4096, 1), "float16"), np.ones((1, 4096, 1), "float16"))
    assert half.dtype == "float16"
    assert half.item() == 4096
    assert triconv.explain("conv", (1, 1, 3), (1, 1, 1), dtype="float16").problem.dtype == "float32"
    assert triconv.conv(np.ones((1, 1, 1), "float32"), np.ones((1, 1, 1), "complex64")).dtype == "complex64"
    assert triconv.conv(np.ones((1, 1, 1), "float32"), np.ones((1, 1, 1))).dtype == "float64"
    empty = triconv.conv_weight(np.ones((0, 2, 5)), np.ones((0, 3, 4)), 2)
    assert empty.shape == (3, 2, 2)
    assert not empty.any()
    refused(lambda: triconv.conv(np.ones((1, 1, 3), int), np.ones((1, 1, 1))), "visible", "int64")


def bad_input() -> None:
    import triconv

    v, w, h = np.ones((2, 4, 6)), np.ones((6, 4, 3)), np.ones((2, 6, 4))
    refused(lambda: triconv.conv(v, w, groups=3), "groups=3", "4 visible channels")
    refused(lambda: triconv.conv(v, w, groups=4), "groups=4", "6 hidden channels")
    refused(lambda: triconv.conv(v, w[:, :3]), "weight", "got 3")
    refused(lambda: triconv.conv_transpose(h, w[:5]), "weight", "got 5")
    refused(lambda: triconv.conv_weight(v, h[:1], 3), "hidden", "got 1")
    refused(lambda: triconv.conv(v, w, groups=np.ones((4, 6), bool)), "groups", "(6, 4)")
    refused(lambda: triconv.conv(v, np.ones((5, 6, 4, 3))), "bank", "got 5", "axis 0")
    refused(lambda: triconv.conv_weight(v, h, 3, bank=0), "bank=0", "axis 0")
    refused(lambda: triconv.conv(v, w, stride=0), "stride=0", "axis 0")
    refused(lambda: triconv.conv(v, w, padding=-1), "padding=-1", "axis 0")
    refused(lambda: triconv.conv(v, w, border="mirror"), "border='mirror'")
    refused(lambda: triconv.conv(v, w, engine="fastest"), "engine='fastest'")
    refused(lambda: triconv.explain("conv", (1, 1, 10**14), (1, 1, 1)), "conv", "bytes")


def pooling() -> None:
    import triconv

    hidden, indices = triconv.max_pool(np.array([[[3.0, 3.0, np.nan, 1.0, np.nan, -np.inf, -np.inf]]]), 2, ceil=True)
    same(hidden, [[[3.0, np.nan, np.nan, -np.inf]]])
    same(indices, [[[0, 2, 4, 6]]])
    same(triconv.max_pool(np.array([[[np.nan, 1.0, np.nan]]]), 3)[1], [[[0]]])
    hidden, indices = triconv.max_pool(np.array([[[-np.inf, -np.inf, -3.0]]]), 3, stride=1, padding=1)
    same(hidden, [[[-np.inf, -3.0, -3.0]]])
    same(indices, [[[0, 2, 2]]])
    v = np.random.default_rng(0).standard_normal((2, 2, 5, 4))
    hidden, indices = triconv.max_pool(v, (2, 3), stride=(2, 1), dilation=(2, 1))
    for c in np.ndindex(hidden.shape[2:]):
        window = v[:, :, 2 * c[0] : 2 * c[0] + 3 : 2, c[1] : c[1] + 3]
        same(hidden[..., *c], window.max(axis=(2, 3)))
    same(np.take_along_axis(v.reshape(2, 2, -1), indices.reshape(2, 2, -1), 2).reshape(hidden.shape), hidden)
    same(triconv.max_pool(np.array([[[1.0, 3.0, 2.0, 0.0]]]), 2, stride=1, dilation=2)[1], [[[2, 1]]])
    same(triconv.max_pool_transpose(np.array([[[1.0, 2.0, 4.0]]]), np.array([[[1, 1, 3]]]), 5), [[[0, 3, 0, 4, 0]]])
    refused(lambda: triconv.max_pool_transpose(np.ones((1, 1, 1)), np.array([[[5]]]), 5), "0 to 4")


def flipping() -> None:
    import triconv

    w = np.arange(24.0).reshape(2, 3, 2, 2)
    same(triconv.flip(w), w[:, :, ::-1, ::-1])
    same(triconv.flip(w, rank=1), w[..., ::-1])
    refused(lambda: triconv.flip(w, rank=3), "rank=3")


def the_graph_alone_is_read() -> None:
    from bounds import TOTAL

    import triconv

    row: Row = BY_NAME["image, local, on a graph"]
    operands = row.operands()
    outside = np.broadcast_to(~row.options["groups"][:, :, None, None], row.weight)
    spoilt = {**operands, "weight": np.where(outside, np.nan, operands["weight"])}
    for engine in TOTAL:
        for operation in ("conv", "conv_transpose"):
            function = getattr(triconv, operation)
            same(
                row.call(function, operation, spoilt, engine=engine),
                row.call(function, operation, operands, engine=engine),
            )
        gradient = row.call(triconv.conv_weight, "conv_weight", operands, engine=engine)
        same(gradient[outside], np.zeros(outside.sum()))


def a_gradient_in_pieces() -> None:
    """As if kernels began at no cost, and added by them or NumPy; of small whole numbers, which add in any order."""
    import triconv
    from triconv.engines import direct
    from triconv.kernels import prepared, ways

    random = np.random.default_rng(0)
    v, h = (random.integers(-3, 4, (8, 24, 24, 16)).astype(np.float32) for _ in range(2))
    expected = np.einsum("nxyi,nxyo->io", v, h, optimize=True)
    problem = triconv.explain("conv_weight", (8, 16, 24, 24), (16, 16, 1, 1), dtype="float32").problem
    begun, ways.BEGUN, adder = ways.BEGUN, 1e-6, prepared._adder
    try:
        for prepared._adder in (adder, lambda *_: None):
            found = np.zeros((1, 1, 16, 16), np.float32)
            direct.build(problem)(np.moveaxis(v, -1, 1), np.moveaxis(h, -1, 1), found.T)
            same(found[0, 0], expected)
    finally:
        ways.BEGUN, prepared._adder = begun, adder


def tiles_that_know_their_edges() -> None:
    """Depthwise, of small whole numbers with their channels innermost, in sizes that no patch divides."""
    import triconv

    random = np.random.default_rng(0)
    options: dict[str, Any] = {"padding": ((1, 2), (2, 1)), "groups": 16}
    v, h = (
        np.moveaxis(random.integers(-3, 4, (2, *size, 16)).astype(np.float32), -1, 1) for size in ((13, 17), (14, 18))
    )
    w = np.moveaxis(random.integers(-3, 4, (3, 3, 1, 16)).astype(np.float32), (-1, -2), (0, 1))
    calls = (triconv.conv, (v, w)), (triconv.conv_transpose, (h, w)), (triconv.conv_weight, (v, h, (3, 3)))
    for function, operands in calls:
        found, expected = (function(*operands, engine=engine, **options) for engine in ("direct", "im2row"))
        same(found, expected)


def a_graph_in_bands() -> None:
    """As in a cache that is far too small; of small whole numbers, so that every order of adding gives the same."""
    import triconv
    from triconv.kernels import bands

    random = np.random.default_rng(0)
    v = np.moveaxis(random.integers(-3, 4, (32, 13, 23, 6)).astype(np.float32), -1, 1)
    h = np.moveaxis(random.integers(-3, 4, (32, 13, 12, 5)).astype(np.float32), -1, 1)
    w, graph = random.integers(-3, 4, (5, 6, 3, 3)).astype(np.float32), random.random((5, 6)) < 0.5
    options: dict[str, Any] = {"groups": graph, "padding": 1, "stride": (1, 2)}
    usual, bands.cache_bytes = bands.cache_bytes, lambda: (0, 1 << 17)
    try:
        made = triconv.conv(v, w, engine="direct", **options)
        back = triconv.conv_transpose(h, w, visible_size=(13, 23), engine="direct", **options)
    finally:
        bands.cache_bytes = usual
    same(made, triconv.conv(v, w, engine="reference", **options))
    same(back, triconv.conv_transpose(h, w, visible_size=(13, 23), engine="reference", **options))


def a_gradient_in_chunks() -> None:
    """As in a cache that is far too small: blocks of channels in panels, and pieces; of small whole numbers."""
    import triconv
    from triconv.kernels import chunks

    random = np.random.default_rng(0)
    v, h = (
        np.moveaxis(random.integers(-3, 4, (8, *size)).astype(np.float32), -1, 1)
        for size in ((16, 27, 64), (8, 14, 128))
    )
    options: dict[str, Any] = {"padding": 1, "stride": 2}
    usual, chunks.cache_bytes = chunks.cache_bytes, lambda: (0, 1 << 18)
    long, chunks.LONG = chunks.LONG, 16
    try:
        found = [triconv.conv_weight(v, h, 3, engine="direct", **options) for _ in range(2)]
    finally:
        chunks.cache_bytes, chunks.LONG = usual, long
    for one in found:  # the second comes into memory that holds the first
        same(one, triconv.conv_weight(v, h, 3, engine="im2row", **options))


def a_gradient_in_place() -> None:
    """As in caches that are far too small: examples and parts of one where they lie; of small whole numbers."""
    import triconv
    from triconv.kernels import chunks

    random = np.random.default_rng(0)
    usual = chunks.cache_bytes
    for size, first in (((8, 5), 1 << 14), ((32, 15), 1 << 13)):
        v, h = (
            np.moveaxis(random.integers(-3, 4, (4, *size, channels)).astype(np.float32), -1, 1) for channels in (16, 24)
        )
        chunks.cache_bytes = lambda first=first: (first, first)
        try:
            found = triconv.conv_weight(v, h, 1, engine="direct")
        finally:
            chunks.cache_bytes = usual
        same(found, triconv.conv_weight(v, h, 1, engine="im2row"))


def kernels_as_they_lie() -> None:
    """Local ones as if they were large; of small whole numbers, so that every order of adding gives the same."""
    import triconv
    from triconv.kernels import ways

    random = np.random.default_rng(0)
    h = np.moveaxis(random.integers(-3, 4, (9, 13, 6, 18)).astype(np.float32), -1, 1)
    w = np.moveaxis(random.integers(-3, 4, (13, 6, 3, 2, 5, 18)).astype(np.float32), (-1, -2), (2, 3))
    options: dict[str, Any] = {"padding": 1, "stride": (2, 1)}
    usual, ways.scatters = ways.scatters, lambda problem, _: ways.may_scatter(problem)
    try:
        found = [triconv.conv_transpose(h, w, engine="direct", **options) for _ in range(2)]
    finally:
        ways.scatters = usual
    for one in found:  # the second comes into memory that holds the first
        same(one, triconv.conv_transpose(h, w, engine="reference", **options))


def a_copy_for_each_thread() -> None:
    """Of a weight that stays in caches of this size; of small whole numbers, kept or not."""
    import triconv
    from triconv.engines import direct
    from triconv.kept import Kept
    from triconv.kernels import ways

    random = np.random.default_rng(0)
    v = np.moveaxis(random.integers(-3, 4, (8, 15, 13, 256)).astype(np.float32), -1, 1)
    w = np.moveaxis(random.integers(-3, 4, (1, 1, 256, 128)).astype(np.float32), (-1, -2), (0, 1))
    expected = triconv.conv(v, w, engine="im2row")
    run = direct.build(triconv.explain("conv", v.shape, w.shape, dtype="float32", engine="direct").problem)
    usual, ways.cache_bytes, kept = ways.cache_bytes, lambda: (32 << 10, 2 << 20), Kept()
    try:
        for threads, one in product((3, 2, 1), (None, kept, kept)):
            out = np.full((8, 15, 13, 128), np.nan, np.float32)
            with triconv.threads(threads):
                run(v, w, np.moveaxis(out, -1, 1), one)
            same(np.moveaxis(out, -1, 1), expected)
            assert max(map(len, kept._made.values()), default=3) == 3
    finally:
        ways.cache_bytes = usual


def what_follows_a_sum() -> None:
    """Bias, positive part and mask as kernels take them, of a weight that is kept; whole numbers, and a NaN."""
    import triconv
    from triconv.after import After
    from triconv.kept import Kept

    random = np.random.default_rng(0)
    for operation, engine in product(("conv", "conv_transpose"), ("direct", "winograd")):
        plan = triconv.explain(
            operation, (4, 20, 21, 21), (24, 20, 4, 4), stride=2, padding=2, dtype="float64", engine=engine
        )
        a, w = (random.integers(-3, 4, plan.shape(role)).astype(float) for role in plan.problem.operands)
        a = np.moveaxis(np.ascontiguousarray(np.moveaxis(a, 1, -1)), -1, 1)
        expected = getattr(triconv, operation)(a, w, stride=2, padding=2, engine="im2row", **SIZE[operation])
        out, mask = (np.empty_like(expected.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2) for _ in range(2))
        mask[...] = random.integers(-1, 3, out.shape)
        after, kept = After(random.integers(-9, 10, out.shape[1]).astype(float), True, mask), Kept()
        for _ in range(2):
            plan.built(a, w, out, kept, after)
            bias = after.bias.reshape(-1, 1, 1) if after.bias is not None else 0
            np.testing.assert_allclose(out, np.where(mask > 0, np.maximum(expected + bias, 0), 0), atol=1e-9)
    v, w = np.full((4, 9, 9, 16), np.nan).transpose(0, 3, 1, 2), np.ones((16, 16, 1, 1))
    out = np.empty((4, 9, 9, 16)).transpose(0, 3, 1, 2)
    triconv.explain("conv", v.shape, w.shape, dtype="float64", engine="direct").built(
        v, w, out, None, After(None, True)
    )
    assert np.isnan(out).all()


SIZE: dict[str, dict[str, Any]] = {"conv": {}, "conv_transpose": {"visible_size": (21, 21)}}


def pairs_of_halves() -> None:
    agree(
        *(BY_NAME[name] for name in ("image", "groups", "tiled and strided", "padding same, strided")),
        Row("sum in parts", (2, 128, 40, 40), (1, 1), 128, groups=2),
        Row("odd groups", (3, 6, 9), (3,), 10, groups=2, padding=1),
    )


def numbers_in_halves() -> None:
    """Every row of test_split.py in bands or chunks of parts of an example and whole; what cannot be split."""
    import test_split

    from triconv.kernels import gradients, halves

    if not test_split.target().matrices:
        return
    usual = halves.cache_bytes
    for (row, operation), caches in product(test_split.PAIRS, (usual, lambda: (1 << 12, 1 << 16))):
        halves.cache_bytes = gradients.cache_bytes = caches
        test_split.forget()
        try:
            test_split.assert_right(row, operation, "channels last", (1,))
        finally:
            halves.cache_bytes = gradients.cache_bytes = usual
    for operation in ("conv", "conv_transpose"):
        test_split.assert_as_written(operation, "data", 1e-40)


def pairs_in_chunks() -> None:
    """In a cache that is too small for them, and as vectors: what goes as matrices is not in chunks."""
    from triconv.kernels import chunks, target

    usual, chunks.cache_bytes = chunks.cache_bytes, lambda: (32 << 10, 1 << 20)
    allowed, target.matrices_allowed = target.matrices_allowed, lambda: False
    try:
        agree(Row("sum in chunks", (4, 128, 28, 28), (1, 1), 128))
    finally:
        chunks.cache_bytes, target.matrices_allowed = usual, allowed


def agree(*rows: Row) -> None:
    """Small whole numbers in bfloat16, whose sums are exact in float32, so known bit by bit once they are rounded."""
    import ml_dtypes

    import triconv
    from triconv.kernels.target import target

    random = np.random.default_rng(0)
    for row in rows if target().pairs else ():
        shapes = {role: getattr(row, role) for role in ("visible", "weight", "hidden")}
        whole = {role: random.integers(-8, 9, shape).astype(ml_dtypes.bfloat16) for role, shape in shapes.items()}
        for operation, operands in OPERATIONS.items():
            function = getattr(triconv, operation)
            for infinite in ("", *operands):
                given = {role: array.copy() for role, array in whole.items()}
                if infinite:
                    given[infinite].flat[0] = np.inf
                single = {role: array.astype(np.float32) for role, array in given.items()}
                found = row.call(function, operation, given, engine="bfloat16").astype(np.float32)
                exact = row.call(function, operation, single, engine="direct")
                same(found, exact.astype(ml_dtypes.bfloat16).astype(np.float32))


def pairs_in_lines() -> None:
    """The same of lines of an odd number of channels, innermost, which have zeros beside them; an infinity anywhere."""
    import ml_dtypes

    import triconv
    from triconv.kernels.target import target

    random = np.random.default_rng(0)
    for padding in range(3) if target().pairs else ():
        row = Row("lines", (2, 3, 8), (3,), 4, stride=2, padding=padding, visible_size=(8,))
        visible, weight = (random.integers(-8, 9, shape).astype(np.float32) for shape in (row.visible, row.weight))
        for place in (None, *np.ndindex(row.visible[1:])):
            lying = np.moveaxis(visible.transpose(0, 2, 1).copy(), 1, 2)
            if place:
                lying[(0, *place)] = np.inf
            half = {"visible": lying.astype(ml_dtypes.bfloat16), "weight": weight.astype(ml_dtypes.bfloat16)}
            found = row.call(triconv.conv, "conv", half, engine="bfloat16").astype(np.float32)
            exact = row.call(triconv.conv, "conv", {"visible": lying, "weight": weight}, engine="direct")
            same(found, exact.astype(ml_dtypes.bfloat16).astype(np.float32))


IN_ORDER: list[str | Callable[[], None]] = [
    no_engine_is_left_out,
    geometry,
    flipping,
    pooling,
    dtypes_and_memory,
    bad_input,
    the_graph_alone_is_read,
    examples_in_parts,
    a_gradient_in_pieces,
    a_gradient_in_chunks,
    a_gradient_in_place,
    a_copy_for_each_thread,
    tiles_that_know_their_edges,
    transforms_spread_no_infinities,
    a_zero_border_takes_part,
    form,
    "reference",
    "im2row",
    "matrix",
    a_graph_in_bands,
    kernels_as_they_lie,
    sizes_of_a_transpose,
    "direct",
    pairs_in_lines,
    pairs_in_chunks,
    pairs_of_halves,
    frequencies_of_each_axis,
    all_axes_are_transformed,
    what_follows_a_sum,
    even_tiles,
    transforms_of_halves,
    "winograd",
    "fft",
    numbers_in_halves,
    the_first_axis_alone,
]
"""The quick ones first; an engine stands for the grid computed by it."""

ON_THE_GRID = {engine: partial(on_the_grid, engine) for engine in IN_ORDER if isinstance(engine, str)}
CHECKS = dict((one, ON_THE_GRID[one]) if isinstance(one, str) else (one.__name__, one) for one in IN_ORDER)


def main(*first: str) -> int:
    spec = find_spec("triconv")
    print(spec.origin if spec else "triconv is not on the path", flush=True)
    for name in dict.fromkeys((*first, *CHECKS)):
        try:
            CHECKS[name]()
        except AssertionError as error:
            print(f"WRONG {name}: {str(error).strip().splitlines()[0] if str(error) else error!r}")
            return FAILED
        except Exception:
            print(f"RAISED {name}: {traceback.format_exc()}")
            return FAILED
    print("PASSED")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
