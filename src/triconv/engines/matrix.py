"""The form as a sparse matrix: the lectures' flattened activations.

For a fixed operand the form is bilinear in the other two roles, so an operation is a matrix times a vector. The
matrix is found by listing every (hidden, weight, visible) triple that the form multiplies, from labelled arrays that
NumPy itself pads and slices: none of geometry's index helpers is used, which makes this engine a second opinion.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from math import prod
from typing import Any

import numpy as np

from ..coefficients import coefficients
from ..engine import Array, Engine, Run, quiet
from ..form import Problem, Role
from ..geometry import Axis

PAD_MODES: dict[str, dict[str, Any]] = {
    "zero": {"mode": "constant", "constant_values": -1},
    "circular": {"mode": "wrap"},
    "reflect": {"mode": "reflect"},
    "replicate": {"mode": "edge"},
}


@dataclass(frozen=True)
class Triples:
    """The flat positions, within one example, of the three factors of every term; −1 is the zero of the border."""

    hidden: Array
    weight: Array
    visible: Array


def triples(problem: Problem) -> Triples:
    """Every term of the form for one example: products over axes of (c, k, x), times the edges of the channels."""
    geometry = problem.geometry
    bank, c, k, x, outside = _flat(geometry.axes)
    mask = problem.channels.mask
    width = problem.channels.weight[1]
    if mask is None:
        per_group = problem.channels.hidden // problem.channels.groups
        o = np.repeat(np.arange(problem.channels.hidden), width)
        column = np.tile(np.arange(width), problem.channels.hidden)
        i = o // per_group * width + column
    else:
        o, i = np.nonzero(mask)
        column = i
    taps, positions, pixels = prod(geometry.kernel), prod(geometry.hidden), prod(geometry.visible)
    o, i, column = o[:, None], i[:, None], column[:, None]
    visible = np.where(outside, -1, i * pixels + x)
    weight = ((bank * problem.channels.hidden + o) * width + column) * taps + k
    return Triples((o * positions + c).ravel(), weight.ravel(), visible.ravel())


def _flat(axes: tuple[Axis, ...]) -> tuple[Array, Array, Array, Array, Array]:
    """Flat (bank, c, k, x) indices of every spatial term, and where x falls on a zero border."""
    bank = c = k = x = np.zeros(1, dtype=np.intp)
    outside = np.zeros(1, dtype=np.bool_)
    for axis in axes:
        labels = np.pad(np.arange(axis.visible), (axis.before, axis.after), **PAD_MODES[axis.border])
        windows = [labels[start:][: axis.span : axis.dilation] for start in range(0, len(labels), axis.stride)]
        seen = np.concatenate(windows[: axis.hidden])
        positions = np.repeat(np.arange(axis.hidden), axis.kernel)
        taps = np.tile(np.arange(axis.kernel), axis.hidden)
        bank = np.add.outer(bank * axis.bank, positions % axis.bank).ravel()
        c = np.add.outer(c * axis.hidden, positions).ravel()
        k = np.add.outer(k * axis.kernel, taps).ravel()
        x = np.add.outer(x * axis.visible, seen).ravel()
        outside = np.logical_or.outer(outside, seen < 0).ravel()
    return bank, c, k, x, outside


def matrix(problem: Problem, weight: Array) -> Any:
    """The matrix of T for a fixed weight, as SciPy sparse: one row a hidden value, one column a visible value.

    conv is this matrix times the flattened visible, conv_transpose its transpose times the flattened hidden.
    """
    terms = triples(problem)
    inside = terms.visible >= 0
    return _sparse(
        np.asarray(weight).reshape(-1)[terms.weight[inside]],
        terms.hidden[inside],
        terms.visible[inside],
        (prod(problem.shape(Role.HIDDEN)[1:]), prod(problem.shape(Role.VISIBLE)[1:])),
    )


def _sparse(values: Array, rows: Array, columns: Array, shape: tuple[int, int]) -> Any:
    """Rows of terms. Terms of one place stay apart: adding 2 and −1 first would hide that 2·inf − 1·inf is NaN."""
    from scipy.sparse import csr_array

    order = np.argsort(rows, kind="stable")
    starts = np.searchsorted(rows[order], np.arange(shape[0] + 1))
    return csr_array((values[order], columns[order], starts), shape=shape)


def build(problem: Problem) -> Run:
    terms = triples(problem)
    hidden = prod(problem.shape(Role.HIDDEN)[1:])
    visible = prod(problem.shape(Role.VISIBLE)[1:])
    weight = prod(problem.shape(Role.WEIGHT))

    def conv(v: Array, w: Array, out: Array) -> None:
        # A last visible value of zero stands for the border: as in the formula, it takes part in the products.
        flat = np.zeros((problem.batch, visible + 1), v.dtype)
        flat[:, :-1] = v.reshape(problem.batch, visible)
        columns = terms.visible % (visible + 1)
        by_weight = _sparse(w.reshape(-1)[terms.weight], terms.hidden, columns, (hidden, visible + 1))
        out[...] = (by_weight @ flat.T).T.reshape(out.shape)

    def conv_transpose(h: Array, w: Array, out: Array) -> None:
        flat = h.reshape(problem.batch, hidden)
        out[...] = (matrix(problem, w).T @ flat.T).T.reshape(out.shape)

    def conv_weight(v: Array, h: Array, out: Array) -> None:
        total = np.zeros(weight, out.dtype)
        for example, cotangent in zip(v, h, strict=True):
            flat = np.append(example.reshape(-1), example.dtype.type(0))
            by_visible = _sparse(flat[terms.visible], terms.weight, terms.hidden, (weight, hidden))
            total += by_visible @ cotangent.reshape(-1)
        out[...] = total.reshape(out.shape)

    return quiet({Role.HIDDEN: conv, Role.VISIBLE: conv_transpose, Role.WEIGHT: conv_weight}[problem.produces])


def why_not(_problem: Problem) -> tuple[str, ...]:
    if find_spec("scipy") is None:
        return ("SciPy is not installed: pip install scipy",)
    return ()


def _terms(problem: Problem) -> int:
    return problem.terms // max(problem.batch, 1)


CALLED = 2e-4
"""Seconds of a call."""


def cost(problem: Problem) -> float:
    found = coefficients()
    listing = CALLED + found.listed * _terms(problem)
    return listing * (max(problem.batch, 1) if problem.produces is Role.WEIGHT else 1) + problem.terms * found.sparse


def workspace(problem: Problem) -> int:
    # Three lists of triples and what sorting them takes: at most eight index arrays and three of values at once.
    return _terms(problem) * (8 * np.dtype(np.intp).itemsize + 3 * problem.itemsize) + 2 * problem.bytes


def tables(problem: Problem) -> int:
    return 3 * np.dtype(np.intp).itemsize * _terms(problem)


ENGINE = Engine("matrix", why_not, cost, workspace, tables, build)
