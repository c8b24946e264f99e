"""Sizes and index arithmetic by brute force: every position is visited, nothing is derived."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, replace
from itertools import product
from typing import Any

import numpy as np
import oracle
import pytest
import torch
import torch.nn.functional as tnf
from grid import GRID, Row

from triconv.geometry import BORDERS, OUTSIDE, Axis, Geometry, backward, forward, pads_of, pooled, span

NUMPY_MODES: dict[str, dict[str, Any]] = {
    "zero": {"mode": "constant", "constant_values": OUTSIDE},
    "circular": {"mode": "wrap"},
    "reflect": {"mode": "reflect"},
    "replicate": {"mode": "edge"},
}

SMALL = list(product(range(1, 12), range(1, 5), range(1, 5), range(1, 4)))
"""(visible, kernel, stride, dilation)"""


def axis_of(x: int, k: int, s: int, e: int, pads: Any, border: Any = "zero") -> Axis | None:
    """The axis, or None where the kernel does not fit."""
    before, after = oracle.pads(pads, x, k, s, e)
    if before + x + after <= e * (k - 1) or (border == "reflect" and max(before, after) >= x):
        with pytest.raises(ValueError, match="on axis 7"):
            forward(x, k, s, e, pads, border, " on axis 7")
        return None
    return forward(x, k, s, e, pads, border, " on axis 7")


def test_every_window_sees_what_is_there() -> None:
    """Where it is said, it is so; and it is said wherever a kernel steps over no more than there is."""
    said = 0
    for (x, k, s, e), pads in product(SMALL, [(0, 0), (1, 1), (0, 3), (4, 2), (9, 9)]):
        axis = axis_of(x, k, s, e, pads)
        if axis is not None:
            seen = all(any(0 <= s * c + e * tap - pads[0] < x for tap in range(k)) for c in range(axis.hidden))
            assert axis.every_window_sees == (seen and e <= x)
            said += axis.every_window_sees
    assert said > 1000


@pytest.mark.parametrize("pads", [(0, 0), (1, 1), (0, 3), (4, 2), "valid", "same", "full"])
def test_hidden_size_counts_the_windows(pads: Any) -> None:
    fitting = 0
    for x, k, s, e in SMALL:
        axis = axis_of(x, k, s, e, pads)
        if axis is None:
            continue
        fitting += 1
        before, after = oracle.pads(pads, x, k, s, e)
        covered = {e * tap for tap in range(k)}
        starts = [start for start in range(0, before + x + after, s) if start + max(covered) < before + x + after]
        assert axis.hidden == len(starts)
        assert (axis.before, axis.after) == (before, after)
        assert axis.span == max(covered) + 1 == span(k, e)
        assert axis.reach == starts[-1] + max(covered) + 1
    assert fitting > 100


def test_same_is_that_of_jax_and_tensorflow() -> None:
    """Y = ceil(X / s); as little padding as makes it, the odd one after."""
    for x, k, s, e in SMALL:
        axis = forward(x, k, s, e, "same", "zero", "")
        assert axis.hidden == -(-x // s)
        assert axis.after - axis.before in (0, 1)
        total = axis.before + axis.after
        assert total == 0 or oracle.windows(x + total - 1, k, s, e) < axis.hidden
    assert pads_of("same", 5, 4, 1, 1) == (1, 2)
    assert pads_of("same", 224, 7, 2, 1) == (2, 3)
    assert pads_of("same", 7, 2, 3, 1) == (0, 1)
    assert pads_of("same", 8, 2, 3, 1) == (0, 0)


def test_full_is_every_position_that_the_kernel_touches() -> None:
    for x, k, e in product(range(1, 7), range(1, 5), range(1, 4)):
        axis = forward(x, k, 1, e, "full", "zero", "")
        assert axis.hidden == x + e * (k - 1)
        assert (axis.sources != OUTSIDE).any(axis=0).all()


@pytest.mark.parametrize("border", BORDERS)
@pytest.mark.parametrize("pads", [(0, 0), (2, 0), (1, 3), (5, 9), "same", "full"])
def test_borders_read_what_numpy_pads(pads: Any, border: Any) -> None:
    read = 0
    for x, k, s, e in SMALL:
        axis = axis_of(x, k, s, e, pads, border)
        if axis is None:
            continue
        padded = np.pad(np.arange(x), (axis.before, axis.after), **NUMPY_MODES[border])
        for c, tap in product(range(axis.hidden), range(k)):
            assert axis.position(c, tap) == s * c + e * tap - axis.before
            assert axis.sources[c, tap] == padded[s * c + e * tap]
        np.testing.assert_array_equal(axis.extension, padded[: axis.reach])
        read += 1
    assert read > 20


def test_interior_windows_lie_inside() -> None:
    """The hidden positions whose taps are all inside are exactly those of the range."""
    some, none = 0, 0
    for (x, k, s, e), pads in product(SMALL, [(0, 0), (1, 2), (3, 0), (0, 4), (6, 6), (9, 1)]):
        axis = axis_of(x, k, s, e, pads)
        if axis is None:
            continue
        inside = [c for c in range(axis.hidden) if all(0 <= s * c + e * tap - axis.before < x for tap in range(k))]
        assert list(axis.interior) == inside, axis
        assert 0 <= axis.interior.start <= axis.interior.stop <= axis.hidden
        some, none = some + bool(inside), none + (not inside)
    assert some > 100
    assert none > 100


@pytest.mark.parametrize("stride", [1, 2, 3, 4, 6, 9])
@pytest.mark.parametrize("dilation", [1, 2, 3, 4])
@pytest.mark.parametrize("pads", [(0, 0), (1, 2), (3, 0), (7, 5)])
def test_transpose_phase_by_phase(stride: int, dilation: int, pads: tuple[int, int]) -> None:
    """Each phase as the stride-1 contraction that it claims to be; together they are the transpose."""
    random = np.random.default_rng(0)
    for x, k in product((1, 3, 8, 13), (1, 2, 3, 5)):
        axis = axis_of(x, k, stride, dilation, pads)
        if axis is None:
            continue
        hidden, weight = random.standard_normal(axis.hidden), random.standard_normal(k)
        visible = np.full(x, np.nan)
        for phase in axis.phases:
            positions = range(phase.first, x, stride)
            assert np.isnan(visible[phase.first :: stride]).all(), "two phases write one position"
            assert len(phase.taps) == len(phase.offsets)
            for j, position in enumerate(positions):
                visible[position] = sum(
                    weight[tap] * hidden[j + offset]
                    for tap, offset in zip(phase.taps, phase.offsets, strict=True)
                    if 0 <= j + offset < axis.hidden
                )
        expected = oracle.conv_transpose(
            hidden[None, None], weight[None, None], (x,), stride=stride, dilation=dilation, padding=(pads,)
        )
        oracle.assert_close(
            visible, expected[0, 0], oracle.bound(k, np.abs(weight).sum() * np.abs(hidden).max(), float)
        )


def test_phases_leave_no_tap_out() -> None:
    """Every tap is in as many phases as the greatest common divisor of stride and dilation lets it reach: one."""
    for k, s, e in product(range(1, 6), range(1, 7), range(1, 7)):
        axis = forward(50, k, s, e, (3, 3), "zero", "")
        taps = sorted(tap for phase in axis.phases for tap in phase.taps)
        assert taps == list(range(k))


@pytest.mark.parametrize("border", ["zero", "reflect", "circular"])
@pytest.mark.parametrize("pads", [(0, 0), (1, 1), (0, 3), (4, 2), "valid", "same", "full"])
def test_sizes_of_a_transpose(pads: Any, border: Any) -> None:
    """For every hidden size, all visible sizes are tried: those that yield it are taken, the others told which do."""
    for y, k, s, e in product(range(1, 6), range(1, 4), range(1, 4), range(1, 3)):

        def yields(x: int, y: int = y, k: int = k, s: int = s, e: int = e) -> bool:
            before, after = oracle.pads(pads, x, k, s, e)
            allowed = border != "reflect" or max(before, after) < x
            return allowed and oracle.windows(before + x + after, k, s, e) == y

        sizes = [x for x in range(1, 40) if yields(x)]
        if not sizes:
            with pytest.raises(ValueError, match=f"hidden size {y}: no visible size yields it.* on axis 7"):
                backward(None, y, k, s, e, pads, border, " on axis 7")
            continue
        smallest = backward(None, y, k, s, e, pads, border, "")
        assert smallest.visible == sizes[0]
        assert smallest.hidden == y
        for x in range(1, 40):
            if x in sizes:
                axis = backward(x, y, k, s, e, pads, border, "")
                assert (axis.visible, axis.hidden) == (x, y)
                assert axis == forward(x, k, s, e, pads, border, "")
            else:
                told = f"{sizes[0]}" if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"
                with pytest.raises(ValueError, match=f"visible size {x}: .* {told} on axis 7$"):
                    backward(x, y, k, s, e, pads, border, " on axis 7")


@pytest.mark.parametrize("ceil", [False, True])
def test_pooling_sizes_are_those_of_pytorch(ceil: bool) -> None:
    compared = 0
    for x, k, s, e, p in product(range(1, 12), range(1, 5), range(1, 5), range(1, 3), range(3)):
        if p > k // 2 or x + 2 * p + (s - 1 if ceil else 0) < e * (k - 1) + 1:
            continue  # PyTorch takes no more padding than half the window, and one window at least
        hidden = tnf.max_pool1d(torch.zeros(1, 1, x), k, s, p, e, ceil_mode=ceil).shape[-1]
        starts = [s * c - p for c in range(hidden)]
        if any(all(not 0 <= start + e * tap < x for tap in range(k)) for start in starts):
            with pytest.raises(ValueError, match="see padding only on axis 7"):
                pooled(x, k, s, e, (p, p), ceil, " on axis 7")
            continue
        axis = pooled(x, k, s, e, (p, p), ceil, "")
        assert axis.hidden == hidden
        assert axis.reach <= axis.before + x + axis.after
        compared += 1
    assert compared > 500


def test_flat_reads_of_every_row_of_the_grid() -> None:
    """Row-major over the axes, for hidden positions and taps alike."""
    for row in GRID:
        reads = geometry_of(row).reads
        over = oracle.sum_over(row.visible[1:], row.out, row.kernel, row.options)
        np.testing.assert_array_equal(reads, over.reads, err_msg=row.name)


def geometry_of(row: Row) -> Geometry:
    given = (oracle.per_axis(value, row.rank) for value in (row.stride, row.dilation, row.padding, row.border))
    axes = []
    for x, k, s, e, p, b in zip(row.visible[2:], row.kernel, *given, strict=True):
        axes.append(forward(x, k, s, e, p if isinstance(p, str) else oracle.pads(p, x, k, s, e), b, ""))
    return Geometry(tuple(axes))


def test_banks_repeat_with_their_period() -> None:
    axis = forward(9, 3, 1, 1, (0, 0), "zero", "")
    assert list(axis.banks) == [0] * 7
    assert list(axis.with_bank(3).banks) == [0, 1, 2, 0, 1, 2, 0]
    assert list(axis.with_bank(7).banks) == list(range(7))


def test_geometry_is_plain_frozen_data() -> None:
    axis = Axis(5, 3, 3)
    assert axis == Axis(5, 3, 3, 1, 1, 0, 0, 1, "zero")
    assert {axis: 1}[Axis(5, 3, 3)] == 1
    assert hash(Geometry((axis,))) == hash(Geometry((axis,)))
    assert Geometry((axis,)) != Geometry((axis,), banked=True)
    with pytest.raises(FrozenInstanceError):
        axis.visible = 6  # type: ignore[misc]
    both = Geometry((axis, Axis(4, 2, 3, bank=2)))
    assert (both.rank, both.visible, both.hidden, both.kernel, both.bank) == (2, (5, 4), (3, 2), (3, 3), (1, 2))
    assert Geometry().reads.tolist() == [[0]]


def small_axes() -> list[Axis]:
    """Axes of one kind each, with every bank that they can have."""
    found = []
    pads = [(0, 0), (1, 2), (3, 0), (4, 5), (0, 4)]
    for x, k, s, e, (before, after) in product((1, 2, 5, 8), (1, 2, 3), (1, 2, 3), (1, 2, 3), pads):
        if before + x + after > e * (k - 1):
            axis = forward(x, k, s, e, (before, after), "zero", "")
            found += [axis.with_bank(t) for t in sorted({1, min(2, axis.hidden), min(3, axis.hidden), axis.hidden})]
    assert len(found) > 1000
    return found


def products_of(axis: Axis) -> set[tuple[int, int, int, int]]:
    """(hidden, tap, visible, bank) of every product that the axis has, a zero border's included, from the formula."""
    return {
        (c, k, axis.stride * c + axis.dilation * k - axis.before, c % axis.bank)
        for c in range(axis.hidden)
        for k in range(axis.kernel)
    }


def inside(axis: Axis) -> set[tuple[int, int, int, int]]:
    """Those whose visible position is there."""
    return {each for each in products_of(axis) if 0 <= each[2] < axis.visible}


def turns(runs: Any) -> Any:
    """The steps (visible, hidden, bank) of every turn of nested runs."""
    for counts in product(*(range(run.count) for run in runs)):
        steps = list(zip(counts, runs, strict=True))
        yield tuple(sum(n * getattr(run, name) for n, run in steps) for name in ("visible", "hidden", "bank"))


def test_forward_strands_are_every_product_once() -> None:
    """Padded: those on the border too, and the visible from the first of the padding on. Exact: those inside alone."""
    for axis in small_axes():
        met = [
            (strand.hidden + hidden, k, strand.visible + visible + axis.dilation * k - axis.before, strand.bank + bank)
            for strand in axis.forward(False)
            for visible, hidden, bank in turns(strand.runs)
            for k in range(axis.kernel)
        ]
        assert len(met) == len(set(met)), axis
        assert set(met) == products_of(axis), axis
        if axis.bank == 1:
            met = [
                (strand.hidden + hidden, k, strand.visible + visible + axis.dilation * k, strand.bank + bank)
                for strand in axis.forward(True)
                for visible, hidden, bank in turns(strand.runs)
                for k, _, _ in strand.taps
            ]
            assert len(met) == len(set(met)), axis
            assert set(met) == inside(axis), axis


def test_products_are_counted() -> None:
    for axis in small_axes():
        assert axis.products == len(axis.inside) == len(inside(axis)), axis
        assert replace(axis, bank=1, border="circular").products == len(products_of(axis)), axis


def test_an_axis_of_what_is_met_has_the_same_products() -> None:
    """Of all axes with one tap and a stride that read nothing else than what is there, and of no others."""
    for axis in small_axes():
        assert (axis.met is not None) == (axis.kernel == 1 < axis.stride and products_of(axis) == inside(axis)), axis
        if axis.met is not None:
            assert axis.met.visible == axis.hidden
            apart = {(c, k, x * axis.stride, t) for c, k, x, t in products_of(axis.met)}
            assert apart == products_of(axis), axis


@pytest.mark.parametrize("exact", [True, False])
def test_transposed_strands_are_every_product_once(exact: bool) -> None:
    """Every visible position once; with an overhang, products of hidden positions beyond the ends besides."""
    more = 0
    for axis in small_axes():
        met, written = [], []
        for strand in axis.transposed(exact):
            for visible, hidden, bank in turns(strand.runs):
                written.append(strand.visible + visible)
                for k, o, b in strand.taps:
                    met.append((strand.hidden + hidden + o, k, strand.visible + visible, strand.bank + bank + b))
        assert sorted(written) == list(range(axis.visible)), axis
        assert len(met) == len(set(met)), axis
        before, after = axis.overhang
        beyond = {each for each in met if not 0 <= each[0] < axis.hidden}
        assert set(met) - beyond == inside(axis), axis
        assert not (beyond and (exact or axis.local)), axis
        for c, k, x, bank in beyond:
            assert -before <= c < axis.hidden + after, axis
            assert x == axis.stride * c + axis.dilation * k - axis.before, axis
            assert 0 <= bank < axis.bank, axis
        if not exact:  # no overhang is asked for that nothing reaches
            assert before == max([0, *(-c for c, _, _, _ in beyond)]), axis
            assert after == max([0, *(c - axis.hidden + 1 for c, _, _, _ in beyond)]), axis
        more += bool(beyond)
    assert bool(more) == (not exact)


def test_a_local_axis_has_kernels_of_its_own_and_no_overhang() -> None:
    for axis in small_axes():
        assert axis.local == (axis.hidden > 1 and len(set(axis.banks)) == axis.hidden)
        if axis.local:
            assert axis.overhang == (0, 0)


@pytest.mark.parametrize("border", BORDERS)
def test_an_extended_axis_reads_the_same_through_its_extension(border: Any) -> None:
    """Its positions are all that windows cover, each of which has a source in the axis that it extends."""
    met = 0
    for (x, k, s, e), pads in product(
        [(1, 1, 2, 1), (3, 3, 1, 1), (5, 2, 3, 2), (7, 4, 2, 1)], [(0, 0), (2, 1), (4, 6)]
    ):
        axis = axis_of(x, k, s, e, pads, border)
        if axis is None:
            continue
        for period in {1, axis.hidden}:
            wide = axis.with_bank(period).extended
            assert (wide.border, wide.before, wide.visible, wide.bank) == ("zero", 0, axis.reach, period)
            assert (wide.sources != OUTSIDE).all()
            np.testing.assert_array_equal(axis.extension[wide.sources], axis.sources)
            met += 1
    assert met > 8
