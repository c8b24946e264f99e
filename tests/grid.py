"""The one named grid of problems that every engine and every front end runs."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import oracle
from numpy.typing import NDArray

Array = NDArray[Any]

OPERATIONS = {
    "conv": ("visible", "weight"),
    "conv_transpose": ("hidden", "weight"),
    "conv_weight": ("visible", "hidden"),
}
"""The operands of each operation, in the order in which the public functions take them."""

RESULT = {"conv": "hidden", "conv_transpose": "visible", "conv_weight": "weight"}


@dataclass(frozen=True)
class Row:
    """One problem: shapes and arguments, as a user would write them."""

    name: str
    visible: tuple[int, ...]
    """(N, C_in, *X)"""
    kernel: tuple[int, ...]
    out: int
    stride: Any = 1
    padding: Any = 0
    dilation: Any = 1
    groups: int | tuple[tuple[bool, ...], ...] = 1
    """An int, or a channel graph as nested tuples."""
    bank: Any = None
    """None, a period or "local", or one of them per axis: what conv_weight is told."""
    border: Any = "zero"
    dtype: str = "float64"
    visible_size: tuple[int, ...] | None = None
    """What conv_transpose is told; None where this visible is the smallest that makes its hidden."""

    @property
    def rank(self) -> int:
        return len(self.kernel)

    @property
    def options(self) -> dict[str, Any]:
        """The arguments that all operations share."""
        groups = self.groups if isinstance(self.groups, int) else np.array(self.groups, dtype=bool)
        return {"groups": groups, **self.spatial}

    @property
    def spatial(self) -> dict[str, Any]:
        return {"stride": self.stride, "padding": self.padding, "dilation": self.dilation, "border": self.border}

    @property
    def hidden(self) -> tuple[int, ...]:
        """(N, C_out, *Y)"""
        return (self.visible[0], self.out, *oracle.hidden_size(self.visible[2:], self.kernel, **self.spatial))

    @property
    def periods(self) -> tuple[int, ...]:
        """The bank axes of the weight: none when the kernel is shared."""
        if self.bank is None:
            return ()
        given = zip(oracle.per_axis(self.bank, self.rank), self.hidden[2:], strict=True)
        return tuple(size if period == "local" else period for period, size in given)

    @property
    def weight(self) -> tuple[int, ...]:
        """(*t, C_out, C_in/groups, *K)"""
        groups = self.groups if isinstance(self.groups, int) else 1
        return (*self.periods, self.out, self.visible[1] // groups, *self.kernel)

    def operands(self, seed: int = 0) -> dict[str, Array]:
        """Normal random arrays in every role, in the row's dtype."""
        random = np.random.default_rng(seed)
        return {role: normal(random, getattr(self, role), self.dtype) for role in ("visible", "weight", "hidden")}

    def extra(self, operation: str) -> dict[str, Any]:
        """The arguments of an operation that the others do not have."""
        match operation:
            case "conv_transpose":
                return {"visible_size": self.visible_size}
            case "conv_weight":
                return {"kernel_size": self.kernel, "bank": self.bank}
        return {}

    def call(self, function: Any, operation: str, operands: dict[str, Array], **more: Any) -> Any:
        """The operation as `function` computes it: of the package, an oracle or a front end."""
        first, second = (operands[role] for role in OPERATIONS[operation])
        return function(first, second, **self.extra(operation), **self.options, **more)

    def expected(self, operation: str, operands: dict[str, Array]) -> Array:
        """What the oracle says."""
        expected: Array = self.call(oracle.OPERATIONS[operation], operation, operands)
        return expected

    def allowed(self, operation: str, operands: dict[str, Array], spreads: bool = False) -> Array:
        """How far a result may lie from it, entry by entry; further if the engine spreads errors over axes."""

        def tolerance(a: Array, b: Array, **options: Any) -> Array:
            return oracle.tolerance(operation, a, b, **options)

        allowed: Array = self.call(tolerance, operation, operands)
        if not spreads:
            return allowed
        a, b = (operands[role] for role in OPERATIONS[operation])
        further = oracle.spread(operation, a, b, len(self.periods), self.rank, self.options["groups"], self.length)
        return allowed + self.times_read * further

    @property
    def pads(self) -> list[tuple[int, int]]:
        """(before, after) of every axis."""
        given = (oracle.per_axis(value, self.rank) for value in (self.padding, self.stride, self.dilation))
        sizes = zip(self.visible[2:], self.kernel, *given, strict=True)
        return [oracle.pads(p, x, k, s, e) for x, k, p, s, e in sizes]

    @property
    def times_read(self) -> int:
        """How many times an entry is there, at most, when borders are written out."""
        borders = oracle.per_axis(self.border, self.rank)
        return prod(1 if border == "zero" else 1 + sum(pad) for border, pad in zip(borders, self.pads, strict=True))

    @property
    def length(self) -> int:
        """How many numbers the transforms of an axis sum for one result, and the sum over channels and examples.

        An axis has at most as many frequencies as positions, padding and the kernel's span together; operands and the
        result are sums over them, of a real and an imaginary part.
        """
        dilations = oracle.per_axis(self.dilation, self.rank)
        covered = (
            x + sum(pad) + e * k
            for x, k, e, pad in zip(self.visible[2:], self.kernel, dilations, self.pads, strict=True)
        )
        return 2 * (3 * sum(covered) + self.visible[0] + self.visible[1] + self.out)


def normal(random: np.random.Generator, shape: tuple[int, ...], dtype: str) -> Array:
    values = random.standard_normal(shape)
    if dtype.startswith("complex"):
        return (values + 1j * random.standard_normal(shape)).astype(dtype)
    return values.astype(dtype)


def graph(*rows: str) -> tuple[tuple[bool, ...], ...]:
    """A channel graph drawn with x where a hidden channel (row) sees a visible one."""
    return tuple(tuple(mark == "x" for mark in row) for row in rows)


RANDOM_GRAPH = graph("x.xx", ".x.x", "xx..", ".x.x", "...x")

GRID = [
    # Rank 0: affine layers.
    Row("affine", (3, 5), (), 4),
    Row("affine of one example", (1, 2), (), 3, dtype="complex64"),
    Row("affine without examples", (0, 3), (), 2, dtype="float32"),
    Row("affine in groups", (2, 6), (), 4, groups=2, dtype="float32"),
    Row("affine on a graph", (3, 4), (), 5, groups=RANDOM_GRAPH, dtype="complex128"),
    # Sizes, strides and dilations of one axis.
    Row("signal", (2, 3, 9), (3,), 4, dtype="float32"),
    Row("kernel of one", (2, 3, 5), (1,), 2),
    Row("one position", (3, 2, 1), (1,), 3, dtype="complex64"),
    Row("kernel as large as the visible", (2, 2, 4), (4,), 3),
    Row("kernel as large as the padded visible", (1, 2, 3), (6,), 2, padding=((1, 2),)),
    Row("stride", (2, 3, 9), (3,), 2, stride=2, dtype="float32"),
    Row("stride with a position left over", (2, 3, 10), (3,), 2, stride=2, visible_size=(10,)),
    Row("stride beyond the kernel", (2, 2, 12), (2,), 3, stride=4, dtype="complex128", visible_size=(12,)),
    Row("stride beyond the visible", (3, 2, 3), (2,), 2, stride=7, padding=((0, 1),), visible_size=(3,)),
    Row("dilation", (2, 2, 11), (3,), 3, dilation=3, dtype="float32"),
    Row("dilation of a kernel of one", (2, 2, 4), (1,), 3, dilation=5),
    Row("stride divides dilation", (2, 2, 14), (3,), 2, stride=2, dilation=4, padding=1, visible_size=(14,)),
    Row("dilation divides stride", (2, 2, 14), (3,), 2, stride=4, dilation=2, padding=1, visible_size=(14,)),
    Row("stride and dilation share a factor", (1, 2, 21), (3,), 2, stride=6, dilation=4),
    Row("stride and dilation coprime", (2, 2, 13), (4,), 2, stride=3, dilation=2, padding=((2, 1),)),
    # Padding.
    Row("padding on both sides", (2, 2, 6), (3,), 3, padding=2, dtype="complex64"),
    Row("padding before", (2, 2, 6), (3,), 3, padding=((2, 0),)),
    Row("padding after, strided", (2, 2, 6), (3,), 3, padding=((0, 3),), stride=2),
    Row("padding valid", (1, 2, 6), (3,), 2, padding="valid"),
    Row("padding same, even kernel", (2, 2, 6), (4,), 2, padding="same"),
    Row("padding same, strided", (2, 2, 7), (4,), 2, padding="same", stride=3, dilation=2, dtype="float32"),
    Row("padding same, strided, left over", (2, 2, 8), (2,), 2, padding="same", stride=3, visible_size=(8,)),
    Row("padding full", (2, 2, 5), (4,), 2, padding="full", dtype="complex128"),
    Row("padding full, strided and dilated", (2, 2, 5), (3,), 2, padding="full", stride=2, dilation=3),
    Row("padding larger than the kernel", (2, 2, 3), (2,), 2, padding=5, dtype="float32"),
    Row("nothing but padding is read", (2, 2, 1), (1,), 2, padding=1, stride=4),
    Row("padding before beyond all that is read", (2, 2, 1), (1,), 2, padding=((5, 0),), stride=3),
    # Borders.
    Row("circular", (2, 2, 6), (3,), 2, padding="same", border="circular"),
    Row("circular, wider than the visible", (2, 2, 3), (4,), 2, padding=((7, 5),), border="circular", dtype="float32"),
    Row("circular, strided and dilated", (2, 2, 7), (3,), 2, padding=3, stride=2, dilation=2, border="circular"),
    Row("circular, as many positions read as there are", (2, 1, 5), (2,), 2, padding=1, stride=3, border="circular",
        dtype="float32", visible_size=(5,)),
    Row("reflect", (2, 2, 6), (3,), 2, padding="same", border="reflect", dtype="complex64"),
    Row("reflect, as wide as it can be", (2, 2, 4), (5,), 2, padding=3, border="reflect"),
    Row("reflect, strided, left over", (1, 2, 8), (3,), 2, padding=((2, 1),), stride=3, border="reflect",
        visible_size=(8,)),
    Row("replicate", (2, 2, 6), (3,), 2, padding="same", border="replicate"),
    Row("replicate, wider than the visible", (2, 2, 2), (3,), 2, padding=((4, 5),), border="replicate",
        dtype="complex128"),
    Row("replicate, full", (2, 2, 5), (3,), 2, padding="full", dilation=2, border="replicate", dtype="float32"),
    # Channels.
    Row("groups", (2, 4, 6), (3,), 6, groups=2, padding=1),
    Row("depthwise", (2, 3, 6), (3,), 3, groups=3, dtype="float32"),
    Row("depthwise with a multiplier", (2, 3, 7), (2,), 6, groups=3, stride=2, dtype="complex64", visible_size=(7,)),
    Row("graph", (2, 4, 6), (3,), 5, groups=RANDOM_GRAPH, padding=1, dtype="float32"),
    Row("graph with an idle hidden channel", (2, 3, 5), (2,), 4, groups=graph("xx.", "...", ".xx", "x.x")),
    Row("graph with an idle visible channel", (2, 4, 5), (2,), 3, groups=graph("x..x", "xx..", ".x.."),
        dtype="complex128"),
    Row("graph without an edge", (2, 3, 5), (2,), 2, groups=graph("...", "..."), padding=1),
    Row("graph of all edges", (1, 3, 5), (2,), 2, groups=graph("xxx", "xxx")),
    Row("graph that is depthwise", (2, 3, 5), (2,), 3, groups=graph("x..", ".x.", "..x"), dtype="float32"),
    # Banks.
    Row("bank of one", (2, 2, 6), (3,), 3, bank=1, dtype="float32"),
    Row("tiled", (2, 2, 8), (3,), 3, bank=2),
    Row("tiled, the period does not divide", (2, 2, 9), (3,), 3, bank=3, padding=((0, 1),), dtype="complex64"),
    Row("tiled and strided", (3, 2, 12), (3,), 2, bank=2, stride=2, padding=1, visible_size=(12,)),
    Row("local", (2, 2, 6), (3,), 3, bank="local"),
    Row("local of one example", (1, 3, 6), (3,), 3, bank="local", padding=2, dilation=2, dtype="float32"),
    Row("local without examples", (0, 2, 4), (2,), 2, bank="local"),
    Row("tiled in groups", (2, 4, 7), (3,), 6, bank=2, groups=2, dtype="complex128"),
    Row("local and depthwise", (2, 3, 6), (2,), 6, bank="local", groups=3, border="circular", padding=1),
    Row("tiled on a graph", (2, 4, 6), (2,), 5, bank=3, groups=RANDOM_GRAPH, border="replicate", padding="same"),
    # Images.
    Row("image", (3, 3, 6, 5), (3, 3), 4, padding=1, dtype="float32"),
    Row("image without examples", (0, 3, 4, 4), (3, 3), 2, padding=1, dtype="complex64"),
    Row("image, every axis its own", (2, 2, 7, 6), (3, 2), 3, stride=(2, 3), dilation=(1, 2), padding=((1, 0), (2, 1)),
        visible_size=(7, 6)),
    Row("image, padding per axis", (2, 2, 4, 5), (2, 3), 2, padding=(2, 0), dtype="complex128"),
    Row("image, bordered per axis", (2, 2, 4, 5), (3, 3), 2, padding=2, border=("circular", "zero")),
    Row("image, circular on the last axis", (2, 2, 4, 5), (3, 3), 2, padding=1, border=("zero", "circular")),
    Row("image, reflect and replicate", (2, 2, 5, 4), (3, 2), 2, padding=(3, 2), border=("reflect", "replicate")),
    Row("image, tiled on one axis, local on the other", (2, 2, 6, 5), (3, 2), 2, bank=(2, "local")),
    Row("image, tiled on one axis only", (2, 2, 5, 6), (2, 2), 2, bank=(1, 3), stride=(1, 2), dtype="float32"),
    Row("image, local", (3, 2, 5, 5), (3, 3), 3, bank="local", padding=1, dtype="float32"),
    Row("image, local, on a graph", (2, 3, 4, 4), (2, 2), 4, bank="local", groups=graph("x.x", "...", "xx.", "x.x")),
    Row("image, one tap, strided", (2, 3, 8, 6), (1, 1), 4, stride=(3, 2), dtype="float32", visible_size=(8, 6)),
    Row("image, depthwise, strided", (2, 3, 6, 7), (3, 3), 6, groups=3, stride=2, padding="same", visible_size=(6, 7)),
    Row("image, depthwise, padded", (2, 5, 6, 7), (3, 3), 5, groups=5, padding=1, dtype="float32"),
    Row("image, depthwise, padded, strided, dilated", (2, 3, 7, 9), (3, 2), 3, groups=3, padding=(2, 1), stride=(2, 1),
        dilation=(1, 2)),
    # More axes.
    Row("volume", (2, 2, 4, 5, 3), (3, 2, 2), 3, padding=1, dtype="float32"),
    Row("volume, strided, tiled, bordered", (1, 2, 5, 4, 5), (2, 3, 2), 2, stride=(2, 1, 3), padding=(1, 2, 1),
        bank=(2, 3, "local"), border=("reflect", "circular", "zero"), visible_size=(5, 4, 5)),
    Row("film of volumes", (2, 2, 3, 2, 4, 3), (2, 1, 3, 2), 2, stride=(1, 1, 2, 1), padding="same", groups=2,
        visible_size=(3, 2, 4, 3)),
    Row("rank four, complex and circular", (1, 2, 3, 2, 2, 3), (2, 2, 1, 2), 2, padding=(1, 0, 0, 1), border="circular",
        bank=(3, 1, 2, "local"), dtype="complex64"),
    Row("rank five", (1, 2, 2, 3, 2, 2, 2), (2, 2, 1, 2, 1), 2, padding=(0, 1, 0, 0, 0), stride=(1, 2, 1, 1, 2),
        dilation=(1, 1, 2, 1, 1), dtype="float32", visible_size=(2, 3, 2, 2, 2)),
]  # fmt: skip

BY_NAME = {row.name: row for row in GRID}
