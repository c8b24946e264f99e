"""The processor's registers of matrices (AMX) as words of kernels; and, to test where it has none, vectors for them.

Each register has up to 16 rows of 64 bytes, and one shape for all of a kernel.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ..memory import LINE
from .ir import I8, I64, VOID
from .words import Kernel, Place, Value

SIDE, REGISTERS = 16, 8
"""Rows, and numbers of four bytes in each; and how many such matrices the processor holds."""

Shapes = Mapping[int, tuple[int, int]]
"""How many rows each register has, and how many numbers of four bytes in each."""


@dataclass(frozen=True)
class Instructions:
    """What the processor does with its own."""

    shapes: Shapes

    def begin(self, k: Kernel) -> None:
        """Tell the processor the shapes."""
        content = bytearray(LINE)
        content[0] = 1
        for number, (high, wide) in self.shapes.items():
            content[16 + 2 * number], content[48 + number] = 4 * wide, high
        told = k.scratch(LINE // 4)
        for n in range(LINE // 8):
            k.store(I64(int.from_bytes(content[8 * n : 8 * n + 8], "little", signed=True)), told, n)
        self._call(k, "ldtilecfg", told.pointer)

    def zero(self, k: Kernel, number: int) -> None:
        self._call(k, "tilezero", I8(number))

    def load(self, k: Kernel, number: int, place: Place, step: int) -> None:
        """Rows that are a step apart, from a place on."""
        self._call(k, "tileloadd64", I8(number), place.pointer, I64(4 * step))

    def multiply(self, k: Kernel, total: int, a: int, b: int) -> None:
        """Add to one register the products of two others' pairs."""
        self._call(k, "tdpbf16ps", *map(I8, (total, a, b)))

    def store(self, k: Kernel, number: int, place: Place, step: int) -> None:
        self._call(k, "tilestored64", I8(number), place.pointer, I64(4 * step))

    def end(self, k: Kernel) -> None:
        """Leave the registers as they were: to keep them takes time and power."""
        self._call(k, "tilerelease")

    def _call(self, k: Kernel, name: str, *values: Value) -> None:
        k.intrinsic(f"x86.{name}", VOID, values, [])


@dataclass(frozen=True)
class Imitated:
    """The same in vectors and on the stack; of a sum's pairs each is added by itself, so its last bits are others."""

    shapes: Shapes
    rooms: dict[int, Place] = field(default_factory=dict)

    def begin(self, k: Kernel) -> None:
        self.rooms.update({number: k.scratch(SIDE * SIDE) for number in self.shapes})

    def zero(self, k: Kernel, number: int) -> None:
        for row in range(self.shapes[number][0]):
            k.store_vector(k.zeros(SIDE), self._row(k, number, row))

    def load(self, k: Kernel, number: int, place: Place, step: int) -> None:
        high, wide = self.shapes[number]
        for row in range(high):
            k.store_vector(k.load_vector(k.at(place, row * step), SIDE, wide), self._row(k, number, row))

    def multiply(self, k: Kernel, total: int, a: int, b: int) -> None:
        high, pairs = self.shapes[a]
        with k.loop(high) as row:
            place, factors = self._row(k, total, row), self._row(k, a, row)
            value = k.load_vector(place, SIDE)
            for pair in range(pairs):
                factor = k.broadcast(k.load(factors, pair), SIDE)
                value = k.add_pairs(factor, k.load_vector(self._row(k, b, pair), SIDE), value)
            k.store_vector(value, place)

    def store(self, k: Kernel, number: int, place: Place, step: int) -> None:
        high, wide = self.shapes[number]
        for row in range(high):
            k.store_vector(k.load_vector(self._row(k, number, row), SIDE), k.at(place, row * step), wide)

    def end(self, k: Kernel) -> None:
        pass

    def _row(self, k: Kernel, number: int, row: Value | int) -> Place:
        return k.at(self.rooms[number], k.mul(row, SIDE))


def registers(shapes: Shapes, imitated: bool) -> Instructions | Imitated:
    """The registers of a kernel."""
    return Imitated(shapes) if imitated else Instructions(shapes)
