"""The form as one matrix product: the lecture's im2row, with NumPy's GEMM.

`rows` copies every window of the visible into a row; its adjoint adds the rows back. With R = rows(v),

    conv   H = R · W            conv_weight   W = Rᵀ · H            conv_transpose   v = rowsᵀ(H · Wᵀ)

Everything spatial (stride, dilation, padding, border) is in one table of positions. Banks and groups are a leading
axis of a batched product: hidden positions c = q·t + b are split into the kernel b of the bank, an axis of the batch,
and the turn q, a row. Where t does not divide the hidden size the rows left over read zeros, and nobody reads them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

import numpy as np

from ..channels import Blocks
from ..coefficients import coefficients
from ..engine import Array, Engine, Run, quiet, takes_all
from ..form import Problem, Role
from ..geometry import OUTSIDE, Geometry, pairs

CHUNK = 1 << 24
"""Bytes of rows to hold at once: examples are taken in parts, so that the copy stays near the caches."""


@dataclass(frozen=True, eq=False)
class Table:
    """Flat positions: what each (bank, turn, tap) reads, where each (bank, turn) is, and the adjoint of the reading.

    One position past the last stands for the zero of the border among `reads`, for a row left over among `places`.
    The adjoint sums the terms in `order` from each of `starts` on, which gives the visible positions `reached`.
    """

    reads: Array
    places: Array
    order: Array
    starts: Array
    reached: Array


def table(geometry: Geometry) -> Table:
    places, unused = np.zeros((1, 1), dtype=np.intp), np.zeros((1, 1), dtype=np.bool_)
    for axis in geometry.axes:
        turns = -(-axis.hidden // axis.bank)
        hidden = np.arange(turns * axis.bank).reshape(turns, axis.bank).T
        places = pairs(np.add, places * axis.hidden, hidden)
        unused = pairs(np.logical_or, unused, hidden >= axis.hidden)
    pixels, positions = prod(geometry.visible), prod(geometry.hidden)
    places = np.where(unused, positions, places)
    reads = np.vstack([geometry.reads, np.full(geometry.reads.shape[1], OUTSIDE)])[places]
    reads = np.where(reads == OUTSIDE, pixels, reads)
    order = np.argsort(reads, axis=None, kind="stable")
    reached, starts = np.unique(reads.ravel()[order], return_index=True)
    if reached[-1] == pixels:
        order, reached, starts = order[: starts[-1]], reached[:-1], starts[:-1]
    return Table(reads, places, order, starts, reached)


class Product:
    """The three operations as batched products, for one stack of channel blocks."""

    def __init__(self, problem: Problem, stack: Blocks, at: Table) -> None:
        self.problem, self.stack, self.at = problem, stack, at
        self.count, self.outputs = stack.hidden.shape
        self.inputs = stack.visible.shape[1]
        self.banks, self.turns, self.taps = at.reads.shape
        width = self.inputs if problem.channels.mask is not None else stack.visible.size
        self.apart = [slice(start, start + width) for start in range(0, stack.visible.size, width)]

    def rows(self, v: Array) -> Array:
        """The windows of (examples, positions, channels) as (bank, block, example·turn, tap·channel)."""
        seen = np.take(v[:, :, self.stack.visible], self.at.reads, axis=1)
        return seen.transpose(1, 4, 0, 2, 3, 5).reshape(self.banks, self.count, -1, self.taps * self.inputs)

    def rows_adjoint(self, rows: Array, v: Array) -> None:
        """Add (bank, block, example·turn, tap·channel) back into (examples, positions, channels)."""
        split = rows.reshape(self.banks, self.count, len(v), self.turns, self.taps, self.inputs)
        terms = split.transpose(2, 0, 3, 4, 1, 5).reshape(len(v), -1, self.count * self.inputs)
        sums = np.add.reduceat(terms[:, self.at.order], self.at.starts, axis=1)
        # An indexed += keeps one of several equal indices: blocks of a graph may share channels, so each has its turn.
        for channels in self.apart:
            v[:, self.at.reached[:, None], self.stack.visible.ravel()[channels]] += sums[..., channels]

    def columns(self, w: Array) -> Array:
        """The weight as (bank, block, tap·visible channel, hidden channel)."""
        channels = w.reshape(self.banks, *self.problem.channels.weight, self.taps)
        blocks = channels[:, self.stack.hidden[:, :, None], self.stack.columns[:, None, :]]
        return blocks.transpose(0, 1, 4, 3, 2).reshape(self.banks, self.count, self.taps * self.inputs, self.outputs)

    def put_columns(self, columns: Array, w: Array) -> None:
        """Write (bank, block, tap·visible channel, hidden channel) into (bank, hidden, visible, tap)."""
        blocks = columns.reshape(self.banks, self.count, self.taps, self.inputs, self.outputs).transpose(0, 1, 4, 3, 2)
        w[:, self.stack.hidden[:, :, None], self.stack.columns[:, None, :]] = blocks

    def hidden(self, h: Array) -> Array:
        """The hidden (examples, positions, channels) as (bank, block, example·turn, channel)."""
        placed = h[:, self.at.places][..., self.stack.hidden]
        return placed.transpose(1, 3, 0, 2, 4).reshape(self.banks, self.count, -1, self.outputs)

    def put_hidden(self, rows: Array, h: Array) -> None:
        """Write (bank, block, example·turn, channel) into (examples, positions, channels)."""
        split = rows.reshape(self.banks, self.count, len(h), self.turns, self.outputs).transpose(2, 0, 3, 1, 4)
        values = split.reshape(len(h), self.banks * self.turns, self.count * self.outputs)
        h[:, self.at.places.reshape(-1, 1), self.stack.hidden.ravel()] = values


def build(problem: Problem) -> Run:
    at = table(problem.geometry)
    products = [Product(problem, stack, at) for stack in problem.channels.blocks]
    pixels, positions = prod(problem.geometry.visible), prod(problem.geometry.hidden)
    step = _examples(problem)

    def parts() -> Iterator[slice]:
        return (slice(n, n + step) for n in range(0, problem.batch, step))

    def conv(v: Array, w: Array, out: Array) -> None:
        columns = [product.columns(w) for product in products]
        for part in parts():
            seen = _flat(v[part], pixels)
            result = np.zeros((len(seen), positions + 1, problem.channels.hidden), out.dtype)
            for product, by in zip(products, columns, strict=True):
                product.put_hidden(product.rows(seen) @ by, result)
            _put(result, out[part])

    def conv_transpose(h: Array, w: Array, out: Array) -> None:
        columns = [product.columns(w).swapaxes(2, 3) for product in products]
        for part in parts():
            hidden = _flat(h[part], positions)
            result = np.zeros((len(hidden), pixels + 1, problem.channels.visible), out.dtype)
            for product, by in zip(products, columns, strict=True):
                product.rows_adjoint(product.hidden(hidden) @ by, result)
            _put(result, out[part])

    def conv_weight(v: Array, h: Array, out: Array) -> None:
        total = np.zeros((at.reads.shape[0], *problem.channels.weight, at.reads.shape[2]), out.dtype)
        for part in parts():
            seen, hidden = _flat(v[part], pixels), _flat(h[part], positions)
            share = np.zeros_like(total)
            for product in products:
                product.put_columns(product.rows(seen).swapaxes(2, 3) @ product.hidden(hidden), share)
            total += share
        out[...] = total.reshape(out.shape)

    return quiet({Role.HIDDEN: conv, Role.VISIBLE: conv_transpose, Role.WEIGHT: conv_weight}[problem.produces])


def _flat(array: Array, positions: int) -> Array:
    """(examples, channels, *positions) as (examples, positions + 1, channels), the last position zero."""
    flat = np.zeros((len(array), positions + 1, array.shape[1]), array.dtype)
    np.moveaxis(flat[:, :-1].reshape(len(array), *array.shape[2:], array.shape[1]), -1, 1)[...] = array
    return flat


def _put(flat: Array, out: Array) -> None:
    """Write (examples, positions + 1, channels) into (examples, channels, *positions)."""
    out[...] = np.moveaxis(flat[:, :-1].reshape(len(out), *out.shape[2:], out.shape[1]), -1, 1)


def _row_bytes(problem: Problem) -> int:
    """The rows of one example, of all stacks of channel blocks."""
    windows = prod(problem.geometry.hidden) * prod(problem.geometry.kernel)
    return problem.itemsize * windows * sum(stack.visible.size for stack in problem.channels.blocks)


def _examples(problem: Problem) -> int:
    return max(1, CHUNK // max(_row_bytes(problem), 1))


CALLED = 1e-4
"""Seconds of a call."""

COPIED = 1.5
"""How many times the weight is written with its axes in another order."""


def cost(problem: Problem) -> float:
    found, moved = coefficients(), _row_bytes(problem) * problem.batch + COPIED * problem.bytes_of(Role.WEIGHT)
    return CALLED + problem.flops / found.gemm + moved / found.rowed


def workspace(problem: Problem) -> int:
    held = min(_examples(problem), problem.batch)
    # The rows, their product with what is gathered from or added to, and while the tables are made three of each.
    return 3 * held * _row_bytes(problem) + 3 * problem.bytes + 4 * tables(problem)


def tables(problem: Problem) -> int:
    """What is read and in which order it is added back, for every window and tap; places are few beside them."""
    windows = prod(-(-axis.hidden // axis.bank) * axis.bank for axis in problem.geometry.axes)
    return np.dtype(np.intp).itemsize * (
        2 * windows * prod(problem.geometry.kernel) + windows + 2 * prod(problem.geometry.visible)
    )


ENGINE = Engine("im2row", takes_all, cost, workspace, tables, build)
