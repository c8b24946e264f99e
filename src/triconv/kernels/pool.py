"""Max pooling and its transpose, a selection and a scatter: kernels that compare and add, and multiply nothing.

Numbers lie in planes of positions; a position holds `channels` numbers, one where channels come before positions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from . import ir
from .target import Target
from .words import BYTES, I32, I64, POINTER, Kernel, Place, Value, begin

SPAN = 4
"""Integers of a span: its first hidden position on the last axis, how many numbers it has, and the first visible
position and the number of taps of its first window, on that axis."""


TOGETHER = 4
"""Vectors taken at once, as a comparison waits for the one before it."""


@dataclass(frozen=True)
class _Window:
    """The visible plane that a window is in, where in `heads` its rows begin and end, and its last axis."""

    plane: Place
    rows: tuple[Value, Value]
    position: Value
    taps: Value


@dataclass(frozen=True)
class MaxPool:
    """The largest number of each window and where it is: the first of equals, and the first NaN before any number.

    A span is a run of hidden numbers with as many taps on the last axis: vectors run over it, and neighbours in it read
    visible numbers that are `step` apart in memory and `drift` positions apart. The taps of the other axes are whole
    visible rows, heads[rows[y]] to heads[rows[y + 1]] for hidden row y: the flat positions where they begin.
    """

    dtype: str
    step: int
    """1 or 2; or 0 for the argument of that name."""
    wide: bool = False
    """Whether positions are counted in 64 bits."""

    name: ClassVar[str] = "max_pool"
    arguments: ClassVar[dict[str, ir.Type]] = {
        "visible": POINTER,
        "hidden": POINTER,
        "indices": POINTER,
        "rows": POINTER,
        "heads": POINTER,
        "spans": POINTER,
        "spans_count": I64,
        "begin": I64,
        "end": I64,
        "height": I64,
        "width": I64,
        "positions": I64,
        "channels": I64,
        "pitch": I64,
        "dilation": I64,
        "step": I64,
        "drift": I64,
    }
    """From begin to end go the rows of all hidden planes, which have height rows of width positions of channels
    numbers; `positions` are those of a visible plane, `pitch` apart in memory."""

    def emit(self, module: ir.Module, name: str, machine: Target) -> None:
        """Write the kernel for a target."""
        k = begin(module, name, self.dtype, self.arguments)
        lanes = machine.lanes(BYTES[self.dtype])
        with k.loop(k["end"], k["begin"]) as line:
            plane = k.build.sdiv(line, k["height"])
            row = k.sub(line, k.mul(plane, k["height"]))
            visible = k.at(k["visible"], k.mul(plane, k.mul(k["positions"], k["channels"])))
            rows = k.load(k["rows"], row, I64), k.load(k["rows"], k.add(row, 1), I64)
            with k.loop(k["spans_count"]) as span:
                start, count, position, taps = (
                    k.load(k["spans"], k.add(k.mul(span, SPAN), field), I64) for field in range(SPAN)
                )
                window = _Window(visible, rows, position, taps)
                out = k.mul(k.add(k.mul(line, k["width"]), start), k["channels"])
                first: Value | int = 0
                for vectors in (TOGETHER, 1):
                    whole = k.build.and_(count, I64(-vectors * lanes))
                    with k.loop(whole, first, vectors * lanes) as n:
                        self._take(k, window, n, k.add(out, n), lanes, vectors, None)
                    first = whole
                with k.when(k.less(first, count)):
                    self._take(k, window, first, k.add(out, first), lanes, 1, k.sub(count, first))
        k.build.ret_void()

    def _take(
        self, k: Kernel, window: _Window, first: Value, out: Value, lanes: int, vectors: int, used: Value | None
    ) -> None:
        """Take some vectors of a span, from its first-th number on. Positions are lane 0's until they are written."""
        step = self.step or k["step"]
        kind = k.vector(lanes)
        counted = k.vector(lanes, I64 if self.wide or self.dtype == "float64" else I32)
        found = [(k.mul(k.add(first, j * lanes), step), k.variable(kind), k.variable(counted)) for j in range(vectors)]

        def everywhere(position: Value) -> Value:
            return k.broadcast(position if counted.element == I64 else k.build.trunc(position, I32), lanes)

        begin_row, end_row = window.rows
        start = everywhere(k.add(k.load(k["heads"], begin_row, I64), window.position))
        for _, best, where in found:
            k.put(best, k.broadcast(k.real(float("-inf")), lanes))
            k.put(where, start)
        with k.loop(end_row, begin_row) as row:
            head = k.add(k.load(k["heads"], row, I64), window.position)
            with k.loop(window.taps) as tap:
                position = k.add(head, k.mul(tap, k["dilation"]))
                here = everywhere(position)
                visible = k.at(window.plane, k.mul(position, k["pitch"]))
                for offset, best, where in found:
                    value, held = k.load_apart(k.at(visible, offset), step, lanes, used), k.get(best, kind)
                    larger = k.build.fcmp_unordered(">", value, held)  # or one of them is a NaN
                    better = k.build.and_(larger, k.build.fcmp_ordered("ord", held, held))
                    k.put(best, k.build.select(better, value, held))
                    k.put(where, k.build.select(better, here, k.get(where, counted)))
        for j, (_, best, where) in enumerate(found):
            ahead = k.build.add(k.broadcast(k.add(first, j * lanes), lanes), k.numbers(lanes))
            position = (
                k.get(where, counted) if counted.element == I64 else k.build.sext(k.get(where, counted), ahead.type)
            )
            position = k.build.add(position, k.build.mul(ahead, k.broadcast(k["drift"], lanes)))
            k.store_vector(k.get(best, kind), k.at(k["hidden"], k.add(out, j * lanes)), used)
            k.store_vector(position, k.at(k["indices"], k.add(out, j * lanes), I64), used)


@dataclass(frozen=True)
class Scatter:
    """Add hidden numbers to the visible numbers that indices name, in the order in which they lie.

    A hidden plane is `outer` times `inner` numbers; visible position x is at x · pitch of the plane of `size` numbers,
    which are zero at first, and neighbours among the inner numbers are `step` apart there.
    """

    dtype: str

    name: ClassVar[str] = "scatter"
    arguments: ClassVar[dict[str, ir.Type]] = {
        "hidden": POINTER,
        "indices": POINTER,
        "visible": POINTER,
        "begin": I64,
        "end": I64,
        "size": I64,
        "outer": I64,
        "inner": I64,
        "pitch": I64,
        "step": I64,
    }

    def emit(self, module: ir.Module, name: str, machine: Target) -> None:
        """Write the kernel for a target."""
        k = begin(module, name, self.dtype, self.arguments)
        positions = k.build.udiv(k["size"], k["pitch"])
        with k.loop(k["end"], k["begin"]) as plane:
            visible = k.at(k["visible"], k.mul(plane, k["size"]))
            lanes = machine.lanes(BYTES[self.dtype])
            whole = k.build.and_(k["size"], I64(-lanes))
            with k.loop(whole, step=lanes) as first:
                k.store_vector(k.zeros(lanes), k.at(visible, first))
            with k.loop(k["size"], whole) as first:
                k.store(k.real(0), k.at(visible, first))
            with k.loop(k["outer"]) as line:
                start = k.mul(k.add(k.mul(plane, k["outer"]), line), k["inner"])
                with k.loop(k["inner"]) as i:
                    at = k.add(start, i)
                    index = k.load(k["indices"], at, I64)
                    # Tested before the call already; but the caller's array may have changed since.
                    with k.when(k.build.icmp_unsigned("<", index, positions)):
                        place = k.at(visible, k.add(k.mul(index, k["pitch"]), k.mul(i, k["step"])))
                        k.store(k.build.fadd(k.load(place), k.load(k["hidden"], at)), place)
        k.build.ret_void()
