"""Sizes and index arithmetic, one axis at a time.

This is the only module that knows which visible position a hidden position and a kernel tap meet,

    x = s·c + e·k − p

how a border extends an axis, and which sizes belong together. Everything is plain data: frozen, hashable, and carrying
both sizes, so that no other module ever derives one from the other. Tables of indices are made when they are asked for
and kept by whoever asks: a geometry is a key of caches and stays small.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import accumulate, pairwise
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Border = Literal["zero", "circular", "reflect", "replicate"]
Pads = tuple[int, int] | Literal["valid", "same", "full"]
Index = NDArray[np.intp]

BORDERS: tuple[Border, ...] = ("zero", "circular", "reflect", "replicate")
OUTSIDE = -1
"""The source of a position that the zero border supplies."""


@dataclass(frozen=True)
class Phase:
    """The visible positions first, first + s, first + 2s, … of a transpose, and the taps that reach them.

    The j-th of them receives hidden position j + offset through each tap: a stride-1 contraction of its own.
    """

    first: int
    taps: tuple[int, ...]
    offsets: tuple[int, ...]


@dataclass(frozen=True)
class Run:
    """An arithmetic progression of positions: how many, and the step in the visible, in the hidden and in the bank."""

    count: int
    visible: int
    hidden: int
    bank: int


@dataclass(frozen=True)
class Strand:
    """Positions of an axis that meet kernels in the same way, so that one loop can take them all.

    They start at (visible, hidden, bank), the visible counted from the first position of the padding on where the
    strand is a forward one, and proceed by `runs`, the last one fastest. Of a transpose they are visible positions, and
    `taps` are the (kernel, hidden, bank) offsets of what they receive; of the other operations they are hidden
    positions, which all meet every kernel tap.
    """

    visible: int
    hidden: int
    bank: int
    runs: tuple[Run, ...]
    taps: tuple[tuple[int, int, int], ...] = ()


@dataclass(frozen=True)
class Parts:
    """An axis cut into parts, each an axis of its own, alike in all but where they begin.

    The b-th begins at first + b·step, of the (visible, hidden) positions. What it reads overlaps the next one's.
    """

    count: int
    axis: Axis
    first: tuple[int, int]
    step: tuple[int, int]


class Tile(NamedTuple):
    """Some hidden positions, one dilation apart, and the visible ones that they meet, as far apart; of stride 1.

    They start at (visible, hidden). Of each, those from the first to before the second of `seen` and `made` exist.
    """

    visible: int
    hidden: int
    seen: tuple[int, int]
    made: tuple[int, int]


class Residue(NamedTuple):
    """Every s-th position of an axis, and the taps that meet it: an axis of stride 1, and where the two begin."""

    axis: Axis
    visible: int
    kernel: int


@dataclass(frozen=True)
class Axis:
    """One axis of a convolution: both sizes, kernel, stride s, dilation e, padding (before, after), bank t, border."""

    visible: int
    hidden: int
    kernel: int
    stride: int = 1
    dilation: int = 1
    before: int = 0
    after: int = 0
    bank: int = 1
    border: Border = "zero"

    @property
    def span(self) -> int:
        """How many positions the dilated kernel covers."""
        return span(self.kernel, self.dilation)

    @property
    def local(self) -> bool:
        """Whether every hidden position has a kernel of its own."""
        return self.bank == self.hidden > 1

    @property
    def reach(self) -> int:
        """How many positions, from the first of the padding on, all the windows together cover."""
        return self.stride * (self.hidden - 1) + self.span

    @property
    def is_one_window(self) -> bool:
        """Whether a kernel lies once on this axis, and on all there is of it, position by position."""
        plain = self.border == "zero" and self.bank == self.dilation == 1 and not self.before
        return plain and self.hidden == 1 < self.kernel == self.visible

    @property
    def met(self) -> Axis | None:
        """The axis of the visible positions 0, s, 2s, … alone, if no others are met as there is one tap; else none."""
        if self.kernel > 1 or self.stride == 1 or self.before or self.reach > self.visible:
            return None
        return Axis(self.hidden, self.hidden, 1, bank=self.bank, border=self.border)

    @property
    def visible_bank(self) -> int:
        """The period over visible positions of what a bank does to them: s·t, or no period where it is local."""
        return self.visible if self.bank == self.hidden else min(self.stride * self.bank, self.visible)

    def with_bank(self, period: int) -> Axis:
        """The same axis with kernels that repeat with a period."""
        return replace(self, bank=period)

    def position(self, c: Index | int, k: Index | int) -> Index:
        """The visible position s·c + e·k − p, in the padding where it is negative or at least `visible`."""
        return np.asarray(self.stride * c + self.dilation * k - self.before, dtype=np.intp)

    def source(self, position: Index) -> Index:
        """The visible index that a position reads after the border map, OUTSIDE where the border is zero."""
        last = self.visible - 1
        match self.border:
            case "zero":
                return np.where((position < 0) | (position > last), OUTSIDE, position)
            case "circular":
                wrapped: Index = np.mod(position, self.visible)
                return wrapped
            case "replicate":
                return np.clip(position, 0, last).astype(np.intp)
            case "reflect":
                mirrored: Index = last - np.abs(last - np.abs(position))
                return mirrored

    @property
    def sources(self) -> Index:
        """The visible index of each (hidden position, tap), shape (hidden, kernel)."""
        return self.source(self.position(np.arange(self.hidden)[:, None], np.arange(self.kernel)[None, :]))

    @property
    def extension(self) -> Index:
        """The visible index of each of the `reach` positions that the windows cover, padding included."""
        return self.source(np.arange(self.reach) - self.before)

    @property
    def banks(self) -> Index:
        """The kernel of the bank that each hidden position uses: c mod t."""
        return np.arange(self.hidden) % self.bank

    @property
    def interior(self) -> range:
        """The hidden positions whose whole window lies inside the visible; those before and after are the edges."""
        first = -(-self.before // self.stride)
        last = (self.visible + self.before - self.span) // self.stride
        first = min(first, self.hidden)
        return range(first, max(first, min(last + 1, self.hidden)))

    @property
    def padded(self) -> tuple[int, int]:
        """How many positions go before the visible so that windows read what is there, and how many there are then."""
        if self.before == 0 and self.reach <= self.visible:
            return 0, self.visible
        return self.before, self.reach

    @property
    def extended(self) -> Axis:
        """The axis whose visible is all that the windows cover, its border written out as positions of their own."""
        return replace(self, visible=self.reach, before=0, after=0, border="zero")

    @property
    def inside(self) -> list[tuple[int, int]]:
        """The hidden positions, each with every tap of its kernel that meets the visible."""
        every: list[list[int]] = np.argwhere(self.sources != OUTSIDE).tolist()
        return [(c, k) for c, k in every]

    @property
    def products(self) -> int:
        """As many pairs as `inside` has, counted without a table of them."""
        if self.border != "zero":
            return self.hidden * self.kernel
        return sum(max(0, min(end, self.hidden) - max(first, 0)) for first, end in self._met_by_tap)

    @property
    def _met_by_tap(self) -> list[tuple[int, int]]:
        """Of each tap the first hidden position, and the one after the last, where it meets the visible."""
        taps = [self.dilation * k - self.before for k in range(self.kernel)]
        return [(-(tap // self.stride), (self.visible - 1 - tap) // self.stride + 1) for tap in taps]

    def forward(self, exact: bool) -> tuple[Strand, ...]:
        """The hidden positions by kernel of the bank; the kernels that take one turn more are a strand of their own.

        Exact strands, of an axis without a bank, name existing visible positions only: those near an edge have strands,
        and taps, of their own, and the visible is counted from its own first position.
        """
        if exact:
            ranges = self._met_by_tap
            return tuple(
                Strand(
                    self.stride * start - self.before,
                    start,
                    0,
                    (Run(end - start, self.stride, 1, 0),),
                    tuple((k, 0, 0) for k, (first, last) in enumerate(ranges) if first <= start < last),
                )
                for start, end in _stretches(self.hidden, ranges)
            )
        turns, more = divmod(self.hidden, self.bank)
        return tuple(
            Strand(
                self.stride * first,
                first,
                first,
                (Run(last - first, self.stride, 1, 1), Run(count, self.stride * self.bank, self.bank, 0)),
            )
            for first, last, count in ((0, more, turns + 1), (more, self.bank, turns))
            if last > first
        )

    @property
    def overhang(self) -> tuple[int, int]:
        """How many hidden positions before the first and after the last a transpose asks for: none if local."""
        if self.local:
            return 0, 0
        asked = [
            (offset, (self.visible - 1 - phase.first) // self.stride + offset)
            for phase in self.phases
            for offset in phase.offsets
        ]
        lowest, highest = min((a for a, _ in asked), default=0), max((b for _, b in asked), default=0)
        return max(0, -lowest), max(0, highest - self.hidden + 1)

    def edge(self, transposed: bool) -> tuple[int, int]:
        """How many positions there are to read, and which of them the first result reads first; of stride 1 transposed.

        Those are visible positions, and of a transpose hidden ones.
        """
        return (self.hidden, min(self.phases[0].offsets)) if transposed else (self.visible, -self.before)

    def transposed(self, exact: bool) -> tuple[Strand, ...]:
        """The visible positions by phase, and by what a bank does to them.

        Exact strands name existing hidden positions only, so those near an edge have strands, and taps, of their own;
        the others lean on the `overhang`, hidden positions that must be there and zero.
        """
        local = self.local
        strands: list[Strand] = []
        for phase in self.phases:
            count = -(-(self.visible - phase.first) // self.stride)
            ranges = [(-offset, self.hidden - offset) for offset in phase.offsets]
            for start, end in _stretches(count, ranges if exact or local else []):
                taps = [
                    (k, o)
                    for k, o, (low, high) in zip(phase.taps, phase.offsets, ranges, strict=True)
                    if low <= start < high or not (exact or local)
                ]
                residues = 1 if local else min(self.bank, end - start)
                for first in range(start, start + residues):
                    turns = -(-(end - first) // residues) if not local else end - start
                    run = Run(turns, self.stride * residues, residues, int(local))
                    met = tuple((k, o, first + o if local else (first + o) % self.bank) for k, o in taps)
                    strands.append(Strand(phase.first + self.stride * first, first, 0, (run,), met))
        return tuple(strands)

    @property
    def every_window_sees(self) -> bool:
        """Whether every hidden position meets a visible one: the taps step over no more than is there, and reach it."""
        first, last = -self.before, self.stride * (self.hidden - 1) - self.before
        return self.dilation <= self.visible and first + self.span > 0 and last < self.visible

    def parts(self, count: int, transposed: bool) -> Parts:
        """Parts of the positions of the result, or of the hidden ones if that is a kernel; none of them has a border.

        All that the windows of a part meet is there, so what lies beyond the axis itself has to be zero.
        """
        if not transposed:
            size = -(-self.hidden // count)
            reach = self.stride * (size - 1) + self.span
            axis = replace(self, visible=reach, hidden=size, before=0, after=0)
            return Parts(count, axis, (-self.before, 0), (self.stride * size, size))
        turns = -(-self.visible // (self.stride * count))
        offsets = [offset for phase in self.phases for offset in phase.offsets]
        first = min(offsets)
        axis = replace(
            self,
            visible=self.stride * turns,
            hidden=max(offsets) - first + turns,
            before=self.before - self.stride * first,
            after=0,
        )
        return Parts(count, axis, (0, first), (self.stride * turns, turns))

    @property
    def mirrored(self) -> Axis:
        """The axis of the transpose as that of a convolution with the flipped kernel, the sizes exchanged; of stride 1.

        Its padding may be negative: then the outermost positions are met by no window.
        """
        before = self.span - 1 - self.before
        after = self.visible - self.hidden - before + self.span - 1
        return replace(self, visible=self.hidden, hidden=self.visible, before=before, after=after)

    @property
    def residues(self) -> list[Residue]:
        """The axis as one of stride 1 for each residue of its visible positions that exists; of dilation 1.

        Their convolutions add up to the axis's own; of its other operations each makes a part. A residue that no tap
        meets has an axis without taps.
        """
        if self.stride == 1:
            return [Residue(self, 0, 0)]
        found = []
        for number in range(self.stride):
            first = max(0, -((number - self.before) // self.stride))  # of its positions, the padding's first counted
            visible = self.stride * first + number - self.before
            count, taps = -((visible - self.visible) // self.stride), -((number - self.kernel) // self.stride)
            if count > 0:
                after = self.hidden - count - first + taps - 1
                axis = Axis(count, self.hidden, max(taps, 0), 1, 1, first, after)
                found.append(Residue(axis, visible, number))
        return found

    def pieces(self, taps: int) -> list[Residue]:
        """The residues with the taps of each in pieces of so many neighbours, which the last may lack: axes of as many.

        Their convolutions add up to the axis's own, where taps that the kernel has not are zero.
        """
        found = []
        for one in self.residues:
            for first in range(0, one.axis.kernel, taps):
                before = one.axis.before - first
                after = one.axis.hidden - one.axis.visible - before + taps - 1
                axis = replace(one.axis, kernel=taps, before=before, after=after)
                found.append(Residue(axis, one.visible, one.kernel + self.stride * first))
        return found

    def tiles(self, size: int, even: bool = False) -> tuple[Tile, ...]:
        """The hidden positions in tiles of a size, the last of each residue of the dilation cut off; of stride 1.

        Or `even`: as many tiles, of which what the last would lack are one shorter, as far as that goes.
        """
        return _tiles(self, size, even)

    @property
    def phases(self) -> tuple[Phase, ...]:
        """The residue phases of the stride: which taps of which hidden positions reach a visible position."""
        phases = []
        for first in range(min(self.stride, self.visible)):
            padded = first + self.before
            taps = tuple(k for k in range(self.kernel) if (padded - self.dilation * k) % self.stride == 0)
            offsets = tuple((padded - self.dilation * k) // self.stride for k in taps)
            phases.append(Phase(first, taps, offsets))
        return tuple(phases)


@lru_cache(maxsize=32)
def _tiles(axis: Axis, size: int, even: bool) -> tuple[Tile, ...]:
    """Those of `Axis.tiles`, which all that is done to them asks for."""
    found, met = [], size + axis.kernel - 1
    for residue in range(min(axis.dilation, axis.hidden)):
        count = -(-(axis.hidden - residue) // axis.dilation)
        tiles, shorter = evenly(count, size) if even else (-(-count // size), 0)
        lengths = [size] * (tiles - shorter) + [size - 1] * shorter
        for begin, length in zip(accumulate(lengths, initial=0), lengths, strict=False):
            hidden = residue + axis.dilation * begin
            visible = int(axis.position(hidden, 0))
            first = min(max(-(visible // axis.dilation), 0), met)
            last = min(max(-((visible - axis.visible) // axis.dilation), first), met)
            found.append(Tile(visible, hidden, (first, last), (0, min(length, count - begin))))
    return tuple(found)


def evenly(count: int, size: int) -> tuple[int, int]:
    """As few tiles of a size as cover so many positions, and how many of them may be one shorter."""
    tiles = -(-count // size)
    return tiles, min(tiles * size - count, tiles)


@dataclass(frozen=True)
class Geometry:
    """The axes of a convolution, and whether its weight carries bank axes."""

    axes: tuple[Axis, ...] = ()
    banked: bool = False

    @property
    def rank(self) -> int:
        return len(self.axes)

    @property
    def visible(self) -> tuple[int, ...]:
        return tuple(axis.visible for axis in self.axes)

    @property
    def hidden(self) -> tuple[int, ...]:
        return tuple(axis.hidden for axis in self.axes)

    @property
    def kernel(self) -> tuple[int, ...]:
        return tuple(axis.kernel for axis in self.axes)

    @property
    def bank(self) -> tuple[int, ...]:
        return tuple(axis.bank for axis in self.axes)

    @property
    def reads(self) -> Index:
        """The flat visible position of each (flat hidden position, flat tap), OUTSIDE on a zero border."""
        reads, outside = np.zeros((1, 1), dtype=np.intp), np.zeros((1, 1), dtype=np.bool_)
        for axis in self.axes:
            reads = pairs(np.add, reads * axis.visible, axis.sources)
            outside = pairs(np.logical_or, outside, axis.sources == OUTSIDE)
        return np.where(outside, OUTSIDE, reads)


def _stretches(count: int, ranges: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Where positions begin and end that lie in the same ones of the ranges."""
    edges = {0, count} | {min(max(edge, 0), count) for bounds in ranges for edge in bounds}
    return pairwise(sorted(edges))


def pairs(combine: np.ufunc, a: NDArray[Any], b: NDArray[Any]) -> NDArray[Any]:
    """Combine every entry of a with every entry of b: shapes (A, B) and (a, b) give (A·a, B·b)."""
    combined: NDArray[Any] = combine(a[:, None, :, None], b[None, :, None, :])
    return combined.reshape(a.shape[0] * b.shape[0], a.shape[1] * b.shape[1])


def span(kernel: int, dilation: int) -> int:
    """How many positions a dilated kernel covers."""
    return dilation * (kernel - 1) + 1


def pads_of(pads: Pads, visible: int, kernel: int, stride: int, dilation: int) -> tuple[int, int]:
    """The padding (before, after) that "valid", "same" or "full" mean for a visible size."""
    covered = span(kernel, dilation)
    match pads:
        case "valid":
            return 0, 0
        case "full":
            return covered - 1, covered - 1
        case "same":
            total = max((-(-visible // stride) - 1) * stride + covered - visible, 0)
            return total // 2, total - total // 2
    return pads


def forward(visible: int, kernel: int, stride: int, dilation: int, pads: Pads, border: Border, where: str) -> Axis:
    """The axis that a visible size gives; `where` names the axis in the error when there is none."""
    before, after = pads_of(pads, visible, kernel, stride, dilation)
    covered = span(kernel, dilation)
    padded = before + visible + after
    if padded < covered:
        raise ValueError(
            f"kernel size {kernel} with dilation {dilation} covers {covered} positions: "
            f"expected at most the padded visible size {padded}{where}"
        )
    if border == "reflect" and max(before, after) >= visible:
        raise ValueError(
            f"padding ({before}, {after}): a reflect border must be narrower than the visible size {visible}{where}"
        )
    hidden = (padded - covered) // stride + 1
    return Axis(visible, hidden, kernel, stride, dilation, before, after, border=border)


def pooled(visible: int, window: int, stride: int, dilation: int, pads: Pads, ceil: bool, where: str) -> Axis:
    """The axis of a pooling; `ceil` keeps a last window that the visible fills in part, if it starts inside."""
    before, after = pads_of(pads, visible, window, stride, dilation)
    left_over = (before + visible + after - span(window, dilation)) % stride
    more = stride - left_over if ceil and left_over else 0
    axis = forward(visible, window, stride, dilation, (before, after + more), "zero", where)
    if more and (axis.hidden - 1) * stride >= before + visible:
        axis = forward(visible, window, stride, dilation, (before, after), "zero", where)
    last = (axis.hidden - 1) * stride - axis.before
    outside = axis.before >= axis.span or (axis.after >= axis.span and last >= visible)
    # A window without gaps that begins before the end and ends behind the beginning sees something.
    if outside or (dilation > 1 and (axis.sources == OUTSIDE).all(axis=1).any()):
        raise ValueError(f"padding ({axis.before}, {axis.after}): expected no window to see padding only{where}")
    return axis


def backward(
    visible: int | None, hidden: int, kernel: int, stride: int, dilation: int, pads: Pads, border: Border, where: str
) -> Axis:
    """The axis that a hidden size gives; without a visible size, the smallest that yields it."""
    least, end = _visible_sizes(hidden, kernel, stride, dilation, pads, border)
    if least >= end:
        raise ValueError(
            f"hidden size {hidden}: no visible size yields it with kernel size {kernel}, stride {stride}, "
            f"dilation {dilation} and padding {pads!r}{where}"
        )
    if visible is not None and not least <= visible < end:
        sizes = f"{least}" if end - least == 1 else f"{least} to {end - 1}"
        raise ValueError(f"visible size {visible}: hidden size {hidden} comes from visible size {sizes}{where}")
    return forward(visible or least, kernel, stride, dilation, pads, border, where)


def _visible_sizes(hidden: int, kernel: int, stride: int, dilation: int, pads: Pads, border: Border) -> tuple[int, int]:
    """The least visible size that yields a hidden size, and the one behind the largest: at most `stride` of them.

    Sizes may be symbols of PyTorch's, which ranges and sets would make numbers of.
    """
    covered = stride * (hidden - 1) + span(kernel, dilation)
    if pads == "same":
        least, narrowest = stride * (hidden - 1) + 1, -(-(covered + 2) // 3)  # (covered − X) / 2 ≤ X − 1
    else:
        before, after = pads_of(pads, 1, kernel, stride, dilation)
        least, narrowest = covered - before - after, max(before, after) + 1
    return max(least, narrowest if border == "reflect" else 1), least + stride
