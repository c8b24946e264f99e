"""An oracle of its own: the form's sum written with NumPy, from the formula alone.

    T(v, w, h) = Σ_{n,o,i,c,k}  h[n,o,c] · w[c mod t, o, i, k] · v[n, i, s∘c + e∘k − p]

Nothing of triconv is used. Sums are taken in double precision. A zero border takes part in the products of conv and
conv_weight; conv_transpose only drops what falls on it. Here too is the one rule by which two results may differ.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from itertools import count, product
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

FACTOR = 4
"""Two results may each be off by terms · eps / 2; complex products and their additions at most double that."""


def bound(terms: Any, magnitude: Any, dtype: Any) -> Any:
    """How far two sums of the same products may lie apart: terms × eps × a small factor × the sum of |products|.

    A sum of n products, in any order, is off by at most (n + 2) eps/2 Σ|products|, complex ones included to a factor.
    """
    return FACTOR * (terms + 2) * float(np.finfo(dtype).eps) * magnitude


def tolerance(operation: str, a: Array, b: Array, *args: Any, **options: Any) -> Array:
    """The bound of every entry of an operation's result, for operands as they are computed with."""
    function = OPERATIONS[operation]
    terms = function(np.ones(a.shape), np.ones(b.shape), *args, **options)
    magnitude = function(np.abs(a), np.abs(b), *args, **options)
    allowed: Array = bound(terms, magnitude, np.result_type(a, b))
    return allowed


def spread(operation: str, a: Array, b: Array, lead: int, rank: int, groups: Any, length: int) -> Array:
    """The further bound of an engine whose errors spread over axes: γ · Σ ‖·‖₁‖·‖₁, summed over channels or examples.

    Every entry of the result is a sum over all entries of both operands, with factors of at most 1, most of which
    cancel. It is taken in steps, of at most `length` numbers together; `lead` axes of a bank are before a weight's
    channels.
    """

    def norm(array: Array, before: int) -> Array:
        axes = (*range(before), *range(before + 2, array.ndim))
        found: Array = np.where(np.isfinite(array), np.abs(array), 0).sum(axis=axes, dtype=float)
        return found

    of_weight = operation == "conv_weight"
    sizes: dict[str, Any] = {"kernel_size": ()} if of_weight else {}
    norms = norm(a, 0), norm(b, 0 if of_weight else lead)
    found: Array = bound(length, OPERATIONS[operation](*norms, **sizes, groups=groups), np.result_type(a, b))
    return found.reshape(*(1,) * (lead if of_weight else 0), *found.shape, *(1,) * rank)


def assert_close(actual: Any, expected: Any, allowed: Any, what: str = "") -> None:
    """The same shape, and every entry within what is allowed: NaN never is."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape, f"{what}: shape {actual.shape}, expected {expected.shape}"
    wrong = ~(np.abs(actual - expected) <= allowed)
    if wrong.any():
        at = tuple(int(index) for index in np.argwhere(wrong)[0])
        raise AssertionError(
            f"{what}: {wrong.sum()} of {wrong.size} entries are wrong, first at {at}: "
            f"{actual[at]}, expected {expected[at]} ± {np.broadcast_to(allowed, wrong.shape)[at]}"
        )


def per_axis(value: Any, rank: int) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, tuple | list) else (value,) * rank


def windows(length: int, kernel: int, stride: int, dilation: int) -> int:
    """How many windows start on multiples of the stride and end inside."""
    return len(range(0, length - dilation * (kernel - 1), stride))


def pads(padding: Any, visible: int, kernel: int, stride: int, dilation: int) -> tuple[int, int]:
    """(before, after) of one axis, for one value of `padding`."""
    if padding == "valid":
        return 0, 0
    if padding == "full":
        return dilation * (kernel - 1), dilation * (kernel - 1)
    if padding == "same":
        wanted = -(-visible // stride)
        total = next(total for total in count() if windows(visible + total, kernel, stride, dilation) == wanted)
        return total // 2, total - total // 2
    before, after = padding if isinstance(padding, tuple | list) else (padding, padding)
    return before, after


def read(x: int, size: int, border: str) -> int:
    """The visible index behind a position, −1 where the border is zero: by walking back inside."""
    while not 0 <= x < size:
        match border:
            case "zero":
                return -1
            case "circular":
                x += size if x < 0 else -size
            case "replicate":
                x = min(max(x, 0), size - 1)
            case "reflect":
                x = -x if x < 0 else 2 * (size - 1) - x
    return x


def hidden_size(visible: tuple[int, ...], kernel: tuple[int, ...], **options: Any) -> tuple[int, ...]:
    """Y of an X; an axis without a hidden position has size 0."""
    rank = len(kernel)
    sizes = []
    given = (per_axis(options.get(name, default), rank) for name, default in DEFAULTS.items())
    for x, k, s, p, e, _ in zip(visible, kernel, *given, strict=True):
        sizes.append(windows(x + sum(pads(p, x, k, s, e)), k, s, e))
    return tuple(sizes)


def smallest_visible(hidden: tuple[int, ...], kernel: tuple[int, ...], **options: Any) -> tuple[int, ...]:
    """The smallest X that yields Y, found by trying."""
    rank = len(kernel)
    sizes = []
    given = (per_axis(options.get(name, default), rank) for name, default in DEFAULTS.items())
    for y, k, s, p, e, border in zip(hidden, kernel, *given, strict=True):
        fits = (
            x
            for x in range(1, s * y + e * k + 1)
            if windows(x + sum(pads(p, x, k, s, e)), k, s, e) == y
            and (border != "reflect" or max(pads(p, x, k, s, e)) < x)
        )
        sizes.append(next(fits))
    return tuple(sizes)


DEFAULTS: dict[str, Any] = {"stride": 1, "padding": 0, "dilation": 1, "border": "zero"}


@lru_cache(maxsize=256)
def axis_reads(x: int, kernel: int, stride: int, padding: Any, dilation: int, border: str) -> Array:
    """The visible index of every (hidden position, tap) of one axis."""
    before, after = pads(padding, x, kernel, stride, dilation)
    y = windows(before + x + after, kernel, stride, dilation)
    rows = [[read(stride * c + dilation * k - before, x, border) for k in range(kernel)] for c in range(y)]
    return np.array(rows, dtype=int).reshape(y, kernel)


@dataclass
class Sum:
    """What the sum runs over: the visible position of each (hidden position, tap), all flat, and the edges (o, i)."""

    hidden: tuple[int, ...]
    reads: Array
    edges: list[tuple[int, int, int]]

    def banks(self, periods: tuple[int, ...]) -> Array:
        """The flat kernel of the bank at each flat hidden position."""
        flat = []
        for c in product(*(range(y) for y in self.hidden)):
            index = 0
            for ci, t in zip(c, periods, strict=True):
                index = index * t + ci % t
            flat.append(index)
        return np.array(flat)


def sum_over(visible: tuple[int, ...], out: int, kernel: tuple[int, ...], options: dict[str, Any]) -> Sum:
    channels, *size = visible
    rank = len(size)
    given = (per_axis(options.get(name, default), rank) for name, default in DEFAULTS.items())
    maps = [axis_reads(*axis) for axis in zip(size, kernel, *given, strict=True)]
    flat, outside = np.zeros((1,) * 2 * rank, int), np.zeros((1,) * 2 * rank, bool)
    for a, table in enumerate(maps):
        shape = [1] * 2 * rank
        shape[a], shape[rank + a] = table.shape
        flat = flat * size[a] + table.reshape(shape)
        outside = outside | (table.reshape(shape) < 0)
    hidden = tuple(len(table) for table in maps)
    reads = np.where(outside, -1, flat).reshape(prod(hidden), prod(kernel))
    return Sum(hidden, reads, edges(options.get("groups", 1), channels, out))


def edges(groups: Any, visible: int, hidden: int) -> list[tuple[int, int, int]]:
    """(hidden channel, visible channel, the weight's column) of every connected pair."""
    if isinstance(groups, np.ndarray):
        return [(o, i, i) for o in range(hidden) for i in range(visible) if groups[o, i]]
    width = visible // groups
    return [(o, o // (hidden // groups) * width + j, j) for o in range(hidden) for j in range(width)]


def _double(array: Array) -> Array:
    return np.asarray(array).astype(complex if np.iscomplexobj(array) else float)


def _split(weight: Array, rank: int) -> tuple[tuple[int, ...], Array]:
    """The periods of a weight, and the weight as (bank, o, i, tap)."""
    lead = weight.ndim - 2 - rank
    periods = weight.shape[:lead] or (1,) * rank
    out, width = weight.shape[lead : lead + 2]
    return periods, _double(weight).reshape(prod(periods), out, width, -1)


def _with_zero(visible: Array) -> Array:
    """(n, i, flat position), and a zero after the last, which −1 reads."""
    flat = _double(visible).reshape(*visible.shape[:2], prod(visible.shape[2:]))
    return np.concatenate([flat, np.zeros((*flat.shape[:2], 1))], axis=2)


@np.errstate(all="ignore")
def conv(visible: Array, weight: Array, **options: Any) -> Array:
    rank = visible.ndim - 2
    periods, w = _split(weight, rank)
    kernel = weight.shape[weight.ndim - rank :]
    over = sum_over(visible.shape[1:], w.shape[1], kernel, options)
    seen, w = _with_zero(visible)[:, :, over.reads], w[over.banks(periods)]
    out = np.zeros((len(visible), w.shape[1], len(over.reads)), np.result_type(seen, w))
    for o, i, column in over.edges:
        out[:, o] += (seen[:, i] * w[:, o, column]).sum(axis=2)
    return out.reshape(*out.shape[:2], *over.hidden)


@np.errstate(all="ignore")
def conv_transpose(hidden: Array, weight: Array, visible_size: tuple[int, ...] | None = None, **options: Any) -> Array:
    rank = hidden.ndim - 2
    periods, w = _split(weight, rank)
    kernel = weight.shape[weight.ndim - rank :]
    groups = options.get("groups", 1)
    channels = w.shape[2] * (groups if isinstance(groups, int) else 1)
    without_groups = {name: options[name] for name in options if name != "groups"}
    size = visible_size or smallest_visible(hidden.shape[2:], kernel, **without_groups)
    over = sum_over((channels, *size), w.shape[1], kernel, options)
    h, w = _double(hidden).reshape(*hidden.shape[:2], len(over.reads)), w[over.banks(periods)]
    out = np.zeros((len(h), channels, prod(size) + 1), np.result_type(h, w))
    for o, i, column in over.edges:
        np.add.at(out[:, i], (slice(None), over.reads), h[:, o, :, None] * w[:, o, column])
    return out[:, :, :-1].reshape(len(h), channels, *size)


@np.errstate(all="ignore")
def conv_weight(visible: Array, hidden: Array, kernel_size: tuple[int, ...], bank: Any = None, **options: Any) -> Array:
    rank = visible.ndim - 2
    over = sum_over(visible.shape[1:], hidden.shape[1], kernel_size, options)
    given = zip(per_axis(1 if bank is None else bank, rank), over.hidden, strict=True)
    periods = tuple(y if t == "local" else t for t, y in given)
    seen, h = _with_zero(visible)[:, :, over.reads], _double(hidden).reshape(*hidden.shape[:2], len(over.reads))
    groups = options.get("groups", 1)
    width = visible.shape[1] // (groups if isinstance(groups, int) else 1)
    out = np.zeros((prod(periods), hidden.shape[1], width, prod(kernel_size)), np.result_type(seen, h))
    banks = over.banks(periods)
    for o, i, column in over.edges:
        np.add.at(out[:, o, column], banks, (h[:, o, :, None] * seen[:, i]).sum(axis=0))
    return out.reshape(*(() if bank is None else periods), hidden.shape[1], width, *kernel_size)


OPERATIONS: dict[str, Callable[..., Array]] = {
    "conv": conv,
    "conv_transpose": conv_transpose,
    "conv_weight": conv_weight,
}
