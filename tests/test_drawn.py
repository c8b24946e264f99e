"""Drawn problems: every engine against the reference, the reference against PyTorch and SciPy wherever they overlap.

The draws of a rank are repeatable (a fixed seed), so a failure here is a failure everywhere; how many were drawn is
counted and asserted. `pytest -m slow` draws ten times as many.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator
from math import prod
from typing import Any

import bounds
import numpy as np
import oracle
import pytest
import scipy.signal
import torch
import torch.nn.functional as tnf
from grid import OPERATIONS, Row
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import triconv
from triconv import dispatch

Array = NDArray[Any]
Results = dict[str, Array]

EVERY_ENGINE = 2000
AT_LEAST = {0: 80, 1: 700, 2: 700, 3: 350, 4: 200}
"""On how many different problems of each rank every engine must agree: EVERY_ENGINE together."""
SPARE = 1.25
"""So many times more are drawn, as some are drawn twice."""
OVERLAP = 1 / 3
"""Of the problems of the ranks that PyTorch (1 to 3) or SciPy (1 and more) know, the share they must have checked."""
EVERY = {"fft": 8}
"""An engine that compiles kernels of its own for each new size takes one in so many."""
TRANSFORMED = 1 / 160
"""The share that engines which transform must have agreed on: they take no banks and no graphs, and few taps. Of rank
four the grid, and tests of their own, have what they take."""
LARGEST_VISIBLE = {1: 5, 2: 3, 3: 2, 4: 1}
"""How many positions more than the fewest possible an axis may have."""
LARGEST_KERNEL = {1: 5, 2: 3, 3: 3, 4: 2}
TERMS = {0: 1, 1: 120, 2: 220, 3: 220, 4: 220}
"""At most so many (hidden position, tap) pairs: the reference loops over them."""


pytestmark = pytest.mark.usefixtures("poisoned")


@st.composite
def axes(draw: st.DrawFn, rank: int) -> dict[str, Any]:
    """Sizes, stride, dilation, padding and border that belong together, so that nothing has to be thrown away."""

    def each(one: st.SearchStrategy[Any]) -> list[Any]:
        return [draw(one) for _ in range(rank)]

    def same_or_each(one: st.SearchStrategy[Any]) -> tuple[Any, list[Any]]:
        """What the user writes, and the value of every axis."""
        if draw(st.booleans()):
            value = draw(one)
            return value, [value] * rank
        values = each(one)
        return tuple(values), values

    kernel = each(st.integers(1, LARGEST_KERNEL.get(rank, 1)))
    stride, strides = same_or_each(st.integers(1, 4))
    dilation, dilations = same_or_each(st.integers(1, 3))
    border, borders = same_or_each(st.sampled_from(["zero", "zero", "circular", "reflect", "replicate"]))
    form = draw(st.sampled_from(["int", "axis", "pairs", "pairs", "valid", "same", "full"]))
    padding: Any = form
    pads = [form] * rank
    if form == "int":
        padding = draw(st.integers(0, 3))
        pads = [padding] * rank
    elif form == "axis":
        padding = tuple(each(st.integers(0, 3)))
        pads = list(padding)
    elif form == "pairs":
        padding = tuple(each(st.tuples(st.integers(0, 5), st.integers(0, 5))))
        pads = list(padding)
    visible = []
    for k, s, e, p, b in zip(kernel, strides, dilations, pads, borders, strict=True):

        def fits(x: int, k: int = k, s: int = s, e: int = e, p: Any = p, b: str = b) -> bool:
            before, after = oracle.pads(p, x, k, s, e)
            return before + x + after > e * (k - 1) and (b != "reflect" or max(before, after) < x)

        fewest = next(x for x in range(1, 100) if fits(x))
        visible.append(fewest + draw(st.integers(0, LARGEST_VISIBLE[rank])))
    return {
        "size": tuple(visible),
        "kernel": tuple(kernel),
        "stride": stride,
        "dilation": dilation,
        "padding": padding,
        "border": border,
    }


@st.composite
def problems(draw: st.DrawFn, rank: int) -> tuple[Row, int]:
    """A problem of a rank and a seed for its operands."""
    spatial = draw(axes(rank))
    size = spatial.pop("size")
    hidden = oracle.hidden_size(size, **spatial)
    while prod(hidden) * prod(spatial["kernel"]) > TERMS[rank]:
        # Too large for the loops: a larger stride on the axis with the most positions keeps all else.
        largest = int(np.argmax(hidden))
        strides = list(oracle.per_axis(spatial["stride"], rank))
        strides[largest] += 1
        spatial["stride"] = tuple(strides)
        if spatial["padding"] == "same" and "reflect" in oracle.per_axis(spatial["border"], rank):
            spatial["border"] = "replicate"  # the padding changes with the stride, and reflect may no longer fit
        hidden = oracle.hidden_size(size, **spatial)
    groups: Any
    if draw(st.integers(0, 3)):
        groups = draw(st.sampled_from([1, 1, 2, 3]))
        channels = groups * draw(st.integers(1, 3 if groups == 1 else 2))
        out = groups * draw(st.integers(1, 3 if groups == 1 else 2))
    else:
        channels, out = draw(st.integers(1, 4)), draw(st.integers(1, 4))
        edge = st.tuples(*[st.booleans()] * channels)
        groups = draw(st.tuples(*[edge] * out))
    bank: Any = None
    if draw(st.booleans()):
        period = [st.sampled_from([*range(1, y + 1), "local"]) for y in hidden]
        bank = draw(st.one_of(st.just("local"), st.integers(1, min(hidden, default=1)), st.tuples(*period)))
    batch = draw(st.sampled_from([1, 2, 3, 2, 1, 0]))
    smallest = oracle.smallest_visible(hidden, **spatial)
    row = Row(
        "drawn",
        (batch, channels, *size),
        out=out,
        groups=groups,
        bank=bank if rank else None,
        dtype=draw(st.sampled_from(["float32", "float64", "complex64", "complex128"])),
        visible_size=None if smallest == size else size,
        **spatial,
    )
    return row, draw(st.integers(0, 2**32 - 1))


def overlaps(row: Row, peer: str) -> bool:
    """Where the peers have the problem at all: one kernel everywhere, and as many axes as they know."""
    if row.bank is not None or row.visible[0] == 0:
        return False
    return row.rank in (1, 2, 3) if peer == "PyTorch" else row.rank >= 1


def arguments(row: Row) -> Iterator[tuple[int, int, int, tuple[int, int], str]]:
    """Stride, dilation, kernel, (before, after) and border of every axis."""
    strides, dilations, paddings, borders = (
        oracle.per_axis(value, row.rank) for value in (row.stride, row.dilation, row.padding, row.border)
    )
    for x, k, s, e, p, b in zip(row.visible[2:], row.kernel, strides, dilations, paddings, borders, strict=True):
        yield s, e, k, oracle.pads(p, x, k, s, e), b


def dense(row: Row, weight: Array) -> tuple[Array, int]:
    """The weight and the groups as the peers know them: a graph is a dense weight with zeros."""
    if isinstance(row.groups, int):
        return weight, row.groups
    mask = row.options["groups"].reshape(row.out, row.visible[1], *(1,) * row.rank)
    return np.where(mask, weight, np.zeros((), weight.dtype)), 1


MODES = {"zero": "constant", "circular": "circular", "reflect": "reflect", "replicate": "replicate"}


def pad_torch(visible: torch.Tensor, row: Row) -> torch.Tensor:
    """F.pad, axis by axis; a circular border in whole turns, as PyTorch wraps once only."""
    for axis, (_, _, _, (before, after), border) in enumerate(arguments(row)):
        size = row.visible[2 + axis]
        last = visible.ndim - 1
        flat = visible.movedim(2 + axis, last)
        shape = flat.shape[:-1]
        lines = flat.reshape(1, -1, size)
        if border == "circular":
            turns = -(-max(before, after) // size)
            for _ in range(turns):
                lines = tnf.pad(lines, (size, size), mode="circular")
            lines = lines[..., turns * size - before : (turns + 1) * size + after]
        else:
            lines = tnf.pad(lines, (before, after), mode=MODES[border])
        visible = lines.reshape(*shape, -1).movedim(last, 2 + axis)
    return visible


def pytorch(row: Row, operands: Results) -> Results:
    """The forward operation, and its gradients by autograd (conjugated back: PyTorch differentiates for ℂ → ℝ)."""
    weight, groups = dense(row, operands["weight"])
    strides, dilations, _, pads, borders = zip(*arguments(row), strict=True)
    v = torch.from_numpy(operands["visible"]).requires_grad_()
    w = torch.from_numpy(weight).requires_grad_()
    forward = (tnf.conv1d, tnf.conv2d, tnf.conv3d)[row.rank - 1]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch warns of its own complex convolutions
        hidden = forward(pad_torch(v, row), w, stride=strides, dilation=dilations, groups=groups)
        cotangent = torch.from_numpy(operands["hidden"])
        dv, dw = torch.autograd.grad(hidden, (v, w), cotangent.conj())
        results = {
            "conv": hidden.detach().numpy(),
            "conv_transpose": dv.conj().resolve_conj().numpy(),
            "conv_weight": dw.conj().resolve_conj().numpy(),
        }
        symmetric = all(
            before == after and border == "zero" for (before, after), border in zip(pads, borders, strict=True)
        )
        if symmetric:
            backward = (tnf.conv_transpose1d, tnf.conv_transpose2d, tnf.conv_transpose3d)[row.rank - 1]
            reach = [
                s * (y - 1) + e * (k - 1) + 1 for y, (s, e, k, _, _) in zip(row.hidden[2:], arguments(row), strict=True)
            ]
            bare = [length - before - after for length, (before, after) in zip(reach, pads, strict=True)]
            more = tuple(x - size for x, size in zip(row.visible[2:], bare, strict=True))
            # PyTorch takes an output padding below stride or dilation only, and no result of size zero before it.
            fits = all(m < max(s, e) for m, s, e in zip(more, strides, dilations, strict=True))
            if fits and min(bare) > 0:
                transposed = backward(
                    cotangent,
                    w.detach(),
                    stride=strides,
                    padding=tuple(p for p, _ in pads),
                    output_padding=more,
                    dilation=dilations,
                    groups=groups,
                )
                results["conv_transpose by name"] = transposed.numpy()
    if not isinstance(row.groups, int):
        results["conv_weight"] = dense(row, results["conv_weight"])[0]
    return results


def stuffed(array: Array, steps: tuple[int, ...], lead: int) -> Array:
    """The array with step − 1 zeros between neighbours along its last axes."""
    shape = [step * (size - 1) + 1 for size, step in zip(array.shape[lead:], steps, strict=True)]
    wide = np.zeros((*array.shape[:lead], *shape), array.dtype)
    wide[(..., *(slice(None, None, step) for step in steps))] = array
    return wide


NUMPY_MODES = {"zero": "constant", "circular": "wrap", "reflect": "reflect", "replicate": "edge"}


def scipy_signal(row: Row, operands: Results) -> Results:
    """correlate and convolve on padded, zero-stuffed arrays; only the zero border has a transpose here."""
    strides, dilations, _, pads, borders = zip(*arguments(row), strict=True)
    v, h = operands["visible"], operands["hidden"]
    for axis, (pair, border) in enumerate(zip(pads, borders, strict=True)):
        widths = [(0, 0)] * v.ndim
        widths[2 + axis] = pair
        v = np.pad(v, widths, NUMPY_MODES[border])  # type: ignore[call-overload]
    w = stuffed(operands["weight"], dilations, 2)
    wide = stuffed(h, strides, 2)
    reach = tuple(slice(0, a + b - 1) for a, b in zip(wide.shape[2:], w.shape[2:], strict=True))
    results = {
        "conv": np.zeros(row.hidden, row.dtype),
        "conv_weight": np.zeros(row.weight, row.dtype),
        "conv_transpose": np.zeros(v.shape, row.dtype),
    }
    every = tuple(slice(None, None, step) for step in strides)
    taps = tuple(slice(None, None, step) for step in dilations)
    for n in range(row.visible[0]):
        for o, i, column in oracle.edges(row.options["groups"], row.visible[1], row.out):
            seen = v[n, i][reach]
            # SciPy's correlate conjugates its second operand, the form does not.
            results["conv"][n, o] += scipy.signal.correlate(seen, w[o, column].conj(), "valid", "direct")[every]
            results["conv_weight"][o, column] += scipy.signal.correlate(seen, wide[n, o].conj(), "valid", "direct")[
                taps
            ]
            results["conv_transpose"][n, i][reach] += scipy.signal.convolve(wide[n, o], w[o, column], "full", "direct")
    if set(borders) == {"zero"}:
        inside = tuple(slice(before, before + x) for (before, _), x in zip(pads, row.visible[2:], strict=True))
        results["conv_transpose"] = results["conv_transpose"][(..., *inside)]
    else:
        del results["conv_transpose"]
    return results


def check(row: Row, operand_seed: int, counts: Counter[str]) -> None:
    """All engines and all peers on one problem."""
    operands = row.operands(operand_seed)
    expected: Results = {}
    allowed: Results = {}
    declined: set[str] = set()
    for operation in OPERATIONS:
        function = getattr(triconv, operation)
        expected[operation] = row.call(function, operation, operands, engine="reference")
        allowed[operation] = row.allowed(operation, operands)
        problem = triconv.explain(
            operation, row.visible, row.weight, engine="reference", dtype=row.dtype, **row.options
        ).problem
        for name, engine in dispatch.ENGINES.items():
            if name == "reference":
                continue
            if engine.why_not(problem) or operand_seed % EVERY.get(name, 1):
                declined.add(name)
                continue
            result = row.call(function, operation, operands, engine=name)
            bound = bounds.allowed(operation, row, operands, name)
            oracle.assert_close(result, expected[operation], bound, f"{name}, {operation}")
    counts.update(name for name in dispatch.ENGINES if name not in declined)
    for peer, compute in (("PyTorch", pytorch), ("SciPy", scipy_signal)):
        if overlaps(row, peer):
            for name, result in compute(row, operands).items():
                operation = name.split()[0]
                oracle.assert_close(expected[operation], result, allowed[operation], f"{peer}, {name}")
            counts[peer] += 1


def draw_and_check(rank: int, examples: int) -> Counter[str]:
    """Draw so many problems of a rank; how many each engine and peer agreed on, each problem counted once."""
    counts: Counter[str] = Counter()
    seen: set[tuple[Row, int]] = set()

    @seed(rank)
    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    @given(problems(rank))
    def agree(drawn: tuple[Row, int]) -> None:
        check(*drawn, Counter() if drawn in seen else counts)
        seen.add(drawn)

    agree()
    return counts


def assert_enough(rank: int, counts: Counter[str], at_least: int) -> None:
    for engine, one in dispatch.ENGINES.items():
        if engine == "split":  # sums of so few channels are no matrices: it has drawn problems of its own
            continue
        least = at_least * TRANSFORMED * (rank in (1, 2, 3)) if one.spreads else at_least
        assert counts[engine] >= least, f"rank {rank}: {engine} agreed on {counts[engine]} problems only"
    for peer in (["PyTorch"] if rank in (1, 2, 3) else []) + (["SciPy"] if rank else []):
        assert counts[peer] >= at_least * OVERLAP, f"rank {rank}: {peer} had {counts[peer]} problems only"


def test_every_engine_sees_two_thousand() -> None:
    assert sum(AT_LEAST.values()) >= EVERY_ENGINE


@pytest.mark.parametrize("rank", AT_LEAST)
def test_engines_and_peers_agree_on_drawn_problems(rank: int) -> None:
    assert_enough(rank, draw_and_check(rank, int(SPARE * AT_LEAST[rank])), AT_LEAST[rank])


@pytest.mark.slow
@pytest.mark.parametrize("rank", AT_LEAST)
def test_engines_and_peers_agree_on_ten_times_as_many(rank: int) -> None:
    assert_enough(rank, draw_and_check(rank, int(10 * SPARE * AT_LEAST[rank])), 10 * AT_LEAST[rank])
