"""The few words that kernels are written in: loop, load, store, broadcast, multiply-add, on LLVM's own vectors.

In checked mode (TRICONV_CHECKED=1) the same words write kernels that test every load and store against the bounds of
the array it is meant for, stop at the first that misses, and say which it was.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from . import ir

I1, I16, I32, I64, POINTER = ir.I1, ir.I16, ir.I32, ir.I64, ir.POINTER

PAIRS = "bfloat16 pairs"
"""A dtype of kernels: two bfloat16 numbers side by side, in the place of one float32. What is summed is float32."""

SPLIT = "float32 split"
"""A dtype of kernels: two float32 numbers as four of bfloat16, the two high halves in one place, and the two low ones,
which are what the high ones leave over, in another. What is summed is float32."""

HALVED = (PAIRS, SPLIT)
"""Those of bfloat16 two at a time."""

REAL = {"float32": ir.FLOAT, "float64": ir.DOUBLE, **dict.fromkeys(HALVED, ir.FLOAT)}
BYTES = {"float32": 4, "float64": 8, **dict.fromkeys(HALVED, 4)}

BFLOAT16, FLOAT16, GATHERED, EXACT = "bfloat16", "float16", "gathered", "bfloat16, exactly"
"""How arrays may be stored: each float32 number as bfloat16 or float16, in two bytes; or the two of a pair as far apart
as the kernel's argument `other` says; or written as bfloat16 in whole numbers, as what processors have for it takes
what is too small to be normal as zero."""

WHOLE, APART = "whole pairs", "float32 apart"
"""How arrays may be stored whose pairs are to be split: the two float32 numbers of a pair side by side, or as far apart
as `other` says."""

SPLIT_LANES = 16
"""Of vectors of pairs that are split, whose processor has them."""

LEAST_DATA, LEAST_WEIGHT, MOST_SPLIT = 2.0**-62, 2.0**-40, 2.0**50
"""Of numbers that can be split, but for zero. So no product of halves is too small to be normal, which would be lost: a
low half is no less than 2⁻²⁴ of its number. And no sum is infinite before that of whole numbers would be."""

SPLITS = (WHOLE, APART)

STORED = {BFLOAT16: I16, FLOAT16: I16, GATHERED: I16, EXACT: I16, WHOLE: I64, APART: ir.FLOAT}
"""What lies in such arrays."""

CHECKED = os.environ.get("TRICONV_CHECKED", "") not in ("", "0")
"""Whether kernels test the bounds of their arrays; read once, as kernels of both kinds do not mix."""

Value = Any  # an ir.Value, but where a whole number may be known already


@dataclass(frozen=True)
class Place:
    """A pointer into one of a kernel's arrays."""

    pointer: Value
    array: str
    """Which decides how numbers are stored there; none has numbers of the kernel's own."""
    tested: bool = True
    """Whether checked mode tests its bounds."""


@dataclass
class Kernel:
    """A function under construction: the numbers' type, arguments by name, and a builder at its end.

    Arrays that are `stored` otherwise have two bytes a number: words that load and store them convert.
    """

    dtype: str
    function: ir.Function
    build: ir.Builder
    arguments: dict[str, Any]
    stored: dict[str, str] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Any:
        return self.arguments[name]

    @property
    def real(self) -> ir.Type:
        return REAL[self.dtype]

    def vector(self, lanes: int, kind: ir.Type | None = None) -> ir.Type:
        return ir.vector(kind or self.real, lanes)

    # Control

    @contextmanager
    def loop(self, count: Value | int, start: Value | int = 0, step: int = 1, stepped: bool = False) -> Iterator[Value]:
        """Repeat with the index from start in steps while it is below count; not at all when it is not.

        Where many places depend on the index, LLVM may search for the cheapest steps from one turn's to the next's: it
        takes long, and pays only in loops of few instructions.
        """
        before, first, end = self.build.block, self.whole(start), self.whole(count)
        body, after = self.function.append_basic_block("loop"), self.function.append_basic_block("after")
        self.build.cbranch(self.build.icmp_signed("<", first, end), body, after)
        self.build.position_at_end(body)
        index = self.build.phi(I64)
        index.add_incoming(first, before)
        yield index if stepped else self.opaque(index)
        following = self.add(index, step)
        index.add_incoming(following, self.build.block)
        self.build.cbranch(self.build.icmp_signed("<", following, end), body, after)
        self.build.position_at_end(after)

    @contextmanager
    def when(self, condition: Value) -> Iterator[None]:
        """Only if a condition holds."""
        with self.build.if_then(condition):
            yield

    def least(self, a: Value, b: Value | int) -> Value:
        """The smaller of two whole numbers."""
        return self.build.select(self.less(a, b), a, self.whole(b))

    def less(self, a: Value | int, b: Value | int) -> Value:
        return self.build.icmp_signed("<", self.whole(a), self.whole(b))

    def variable(self, kind: ir.Type) -> Value:
        """A place that loops can change: LLVM keeps it in a register."""
        return self.build.alloca(kind)

    def scratch(self, count: int) -> Place:
        """Numbers of the kernel's own, on the stack and on lines of the cache; their bounds are not tested."""
        return Place(self.build.alloca(self.real, count, align=64), "", False)

    def get(self, variable: Value, kind: ir.Type) -> Value:
        return self.build.load(variable, kind)

    def put(self, variable: Value, value: Value) -> None:
        self.build.store(value, variable)

    def opaque(self, value: Value) -> Value:
        """The same whole number or pointer, of which LLVM does not know how it came about."""
        return self.build.call(ir.inline_assembly(value.type, "", "=r,0"), [value])

    def in_order(self) -> None:
        """What is read after this is not read before it, as numbers that are read too soon fill registers."""
        self.build.call(ir.inline_assembly(ir.VOID, "", "~{memory}", lasting=True), [])

    # Whole numbers

    def whole(self, value: Value | int) -> Value:
        return I64(value) if isinstance(value, int) else value

    def add(self, *terms: Value | int) -> Value:
        total = self.whole(terms[0])
        for term in terms[1:]:
            total = self.build.add_nsw(total, self.whole(term))
        return total

    def mul(self, a: Value | int, b: Value | int) -> Value:
        return self.build.mul_nsw(self.whole(a), self.whole(b))

    def sub(self, a: Value | int, b: Value | int) -> Value:
        return self.build.sub_nsw(self.whole(a), self.whole(b))

    def remainder(self, a: Value | int, power: int) -> Value:
        """What is left of a number that is not negative, divided by a power of two."""
        return self.build.and_(self.whole(a), I64(power - 1))

    # Memory

    def at(self, place: Place, offset: Value | int, kind: ir.Type | None = None) -> Place:
        """The place of the offset-th number from a place on."""
        kind = kind or self.element(place)
        moved = self.build.gep(place.pointer, self.whole(offset), kind, inbounds=not CHECKED)
        return Place(moved, place.array, place.tested)

    def unless(self, outside: Value, place: Place, instead: Place, count: Value | int) -> Place:
        """A place of so many numbers, or another one, where they are stored alike, if it is outside of its array."""
        if CHECKED:
            self.check(place, self.build.select(outside, I64(0), self.mul(count, self.element(place).bytes)))
        return Place(self.build.select(outside, instead.pointer, place.pointer), place.array, instead.tested)

    def element(self, place: Place) -> ir.Type:
        """What lies at a place."""
        return STORED.get(self.stored.get(place.array, ""), self.real)

    def load(self, place: Place, offset: Value | int = 0, kind: ir.Type | None = None) -> Value:
        """One number, or one of another kind."""
        where = self.at(place, offset, kind)
        if kind is None and place.array in self.stored:
            return self._loaded(where, lambda at: self.load(at, 0, I16), I32, self.real)
        self.check(where, (kind or self.real).bytes)
        return self.build.load(where.pointer, kind or self.real)

    def row(self, table: str, number: Value | int, size: int) -> list[Value]:
        """The whole numbers of a row of a table that is an argument."""
        first = self.at(self[table], self.mul(number, size), I64)
        return [self.load(first, cell, I64) for cell in range(size)]

    def store(self, value: Value, place: Place, offset: Value | int = 0) -> None:
        value = self._rounded(value, place)
        where = self.at(place, offset, value.type)
        self.check(where, value.type.bytes)
        self.build.store(value, where.pointer)

    def load_vector(self, place: Place, lanes: int, used: Value | int | None = None) -> Value:
        """The numbers from a place on; zero behind the first `used`, which alone are read."""
        if place.array in self.stored:
            wide = ir.vector(I32, lanes)
            return self._loaded(place, lambda at: self._vector(at, lanes, used), wide, self.vector(lanes))
        return self._vector(place, lanes, used)

    def _vector(self, place: Place, lanes: int, used: Value | int | None) -> Value:
        """What lies at a place and behind it, as it is stored."""
        element = self.element(place)
        kind, size = self.vector(lanes, element), element.bytes
        if used is None or (isinstance(used, int) and used == lanes):
            self.check(place, lanes * size)
            return self.build.load(place.pointer, kind, align=size)
        self.check(place, self.mul(used, size))
        return self.intrinsic(
            "masked.load", kind, [place.pointer, self.first(used, lanes), kind(None)], [kind, POINTER]
        )

    def _loaded(self, place: Place, load: Callable[[Place], Value], wide: ir.Type, kind: ir.Type) -> Value:
        """What `load` reads of halves of numbers, as numbers: a bfloat16 is the upper half of the same float32."""
        if self.stored[place.array] == FLOAT16:
            return self.build.fpext(self.build.bitcast(load(place), ir.like(kind, ir.HALF)), kind)
        upper = place
        if gathered := self.stored[place.array] == GATHERED:
            upper = self.at(place, self["other"])
        bits = self.build.shl(self.build.zext(load(upper), wide), self._sixteen(wide))
        if gathered:
            bits = self.build.or_(bits, self.build.zext(load(place), wide))
        return self.build.bitcast(bits, kind)

    def halves(self, place: Place, used: Value | int | None = None) -> tuple[Value, Value]:
        """The numbers of pairs from a place on: pairs of their high halves, and of what these leave over, rounded."""
        lanes = SPLIT_LANES
        apart, kind, whole = self.stored[place.array] == APART, ir.vector(ir.FLOAT, lanes), ir.vector(I32, lanes)
        if apart:
            both = [self._floats(at, lanes, used) for at in (place, self.at(place, self["other"]))]
        else:
            many = None if used is None else self.mul(used, 2)
            behind = Place(self.build.gep(place.pointer, I64(lanes), ir.FLOAT), place.array)
            rest = None if many is None else self.sub(many, lanes)
            both = [self._floats(place, lanes, many), self._floats(behind, lanes, rest)]
        order = [n // 2 + lanes * (n % 2) for n in range(2 * lanes)] if apart else range(2 * lanes)
        high, left = self._rounded_pairs(both, order), []
        if apart:
            upper = [self.build.shl(high, whole(16)), self.build.and_(high, whole(-(1 << 16)))]
        else:
            bits = self.build.bitcast(high, ir.vector(I16, 2 * lanes))
            each = [self.shuffle(bits, bits, range(begin, begin + lanes)) for begin in (0, lanes)]
            upper = [self.build.shl(self.build.zext(one, whole), whole(16)) for one in each]
        for numbers, bits in zip(both, upper, strict=True):
            self._mark(numbers)
            left.append(self.build.fsub(numbers, self.build.bitcast(bits, kind)))
        low = self._rounded_pairs(left, order)
        return self.build.bitcast(high, self.vector(lanes)), self.build.bitcast(low, self.vector(lanes))

    def _rounded_pairs(self, both: Sequence[Value], order: Sequence[int]) -> Value:
        """The numbers of two vectors rounded to bfloat16, in some order, two to a whole number."""
        lanes = both[0].type.count
        first, second = (self._rounded_bits(numbers) for numbers in both)
        return self.build.bitcast(self.shuffle(first, second, order), ir.vector(I32, lanes))

    def _rounded_bits(self, numbers: Value) -> Value:
        """The bits of numbers rounded to bfloat16."""
        lanes = numbers.type.count
        return self.build.bitcast(self.build.fptrunc(numbers, ir.vector(ir.BFLOAT, lanes)), ir.vector(I16, lanes))

    def _mark(self, numbers: Value) -> None:
        """Keep the smallest and the largest of what is split: bits are in the order of numbers, but zero less one."""
        kind = ir.vector(I32, SPLIT_LANES)
        size = self.build.and_(self.build.bitcast(numbers, kind), kind(0x7FFFFFFF))
        for name, function, value in (("smallest", "umin", self.build.add(size, kind(-1))), ("largest", "umax", size)):
            found = self.intrinsic(function, kind, [self.get(self[name], kind), value], [kind])
            self.put(self[name], found)

    @contextmanager
    def splitting(self, least: Value, mark: Place) -> Iterator[None]:
        """Set a mark if a number is split that is smaller than the one of these bits, but not zero; or too large."""
        kind = ir.vector(I32, SPLIT_LANES)
        for name, first in (("smallest", -1), ("largest", 0)):
            self.arguments[name] = self.variable(kind)
            self.put(self[name], kind(first))
        yield
        under = self.broadcast(self.build.sub(self.build.trunc(least, I32), I32(1)), SPLIT_LANES)
        small = self.build.icmp_unsigned("<", self.get(self["smallest"], kind), under)
        large = self.build.icmp_unsigned(">", self.get(self["largest"], kind), kind(bits_of(MOST_SPLIT)))
        unable = self.build.bitcast(self.build.or_(small, large), I16)
        with self.when(self.build.icmp_signed("!=", unable, I16(0))):
            self.store(self.real(1.0), mark)

    def _floats(self, place: Place, lanes: int, used: Value | int | None) -> Value:
        """The float32 numbers from a place on, whatever else it has."""
        kind = ir.vector(ir.FLOAT, lanes)
        if used is None:
            self.check(place, lanes * 4)
            return self.build.load(place.pointer, kind, align=4)
        self.check(place, self.mul(self.build.select(self.less(used, 0), I64(0), self.whole(used)), 4))
        return self.intrinsic(
            "masked.load", kind, [place.pointer, self.first(used, lanes), kind(None)], [kind, POINTER]
        )

    def _sixteen(self, wide: ir.Type) -> Value:
        return wide(16)

    def _rounded(self, value: Value, place: Place) -> Value:
        """Numbers as they are stored at a place: rounded, where it has fewer bits."""
        if place.array not in self.stored or value.type.element != self.real:
            return value
        if self.stored[place.array] == EXACT:
            return self._rounded_exactly(value)
        half = ir.HALF if self.stored[place.array] == FLOAT16 else ir.BFLOAT
        return self.build.fptrunc(value, ir.like(value.type, half))

    def _rounded_exactly(self, value: Value) -> Value:
        """The bits of bfloat16, half to even, also of what is too small to be normal; a NaN stays one."""
        kind = ir.like(value.type, I32)
        bits = self.build.bitcast(value, kind)
        cut = self.build.lshr(bits, kind(16))
        odd = self.build.and_(cut, kind(1))
        nearest = self.build.lshr(self.build.add(self.build.add(bits, odd), kind(0x7FFF)), kind(16))
        quiet = self.build.or_(cut, kind(0x40))
        found = self.build.select(self.build.fcmp_unordered("!=", value, value), quiet, nearest)
        return self.build.trunc(found, ir.like(value.type, I16))

    def load_apart(self, place: Place, step: Value | int, lanes: int, used: Value | None = None) -> Value:
        """Every step-th number from a place on; zero behind the first `used` of them, which alone have to be there."""
        if isinstance(step, int) and step == 1:
            return self.load_vector(place, lanes, used)
        if isinstance(step, int) and step == 2:
            # The second half ends with the last number, as nothing behind it has to be there.
            low, high = (used, used) if used is None else (self.sub(self.add(used, used), n) for n in (1, lanes))
            halves = self.load_vector(place, lanes, low), self.load_vector(self.at(place, lanes - 1), lanes, high)
            return self.shuffle(*halves, [*range(0, lanes, 2), *range(lanes + 1, 2 * lanes, 2)])
        last = lanes - 1 if used is None else self.sub(used, 1)
        self.check(place, self.mul(self.add(self.mul(last, step), 1), BYTES[self.dtype]))
        offsets = self.build.mul(self.broadcast(self.whole(step), lanes), self.numbers(lanes))
        places = self.build.gep(self.broadcast(place.pointer, lanes), offsets, self.real)
        values = [places, self.first(lanes if used is None else used, lanes), self.zeros(lanes)]
        return self.intrinsic("masked.gather", self.vector(lanes), values, [self.vector(lanes), places.type])

    def store_past(self, value: Value, place: Place) -> None:
        """Write a vector that nobody reads soon to memory, past the caches; the place begins on a whole vector."""
        value = self._rounded(value, place)
        size = value.type.count * value.type.element.bytes
        self.check(place, size)
        self.build.store(value, place.pointer, align=size, past=True)

    def store_vector(self, value: Value, place: Place, used: Value | int | None = None) -> None:
        """Write a vector's numbers, or only the first `used`."""
        value = self._rounded(value, place)
        lanes, size = value.type.count, value.type.element.bytes
        if used is None or (isinstance(used, int) and used == lanes):
            self.check(place, lanes * size)
            self.build.store(value, place.pointer, align=size)
        else:
            self.check(place, self.mul(used, size))
            values = [value, place.pointer, self.first(used, lanes)]
            self.intrinsic("masked.store", ir.VOID, values, [value.type, POINTER])

    def prefetch(self, place: Place, offset: Value | int, written: bool = False) -> None:
        """Ask for the line of the cache with the offset-th number from a place on; it may be beyond an array's end."""
        beyond = self.build.gep(place.pointer, self.whole(offset), self.element(place))
        values = [beyond, I32(int(written)), I32(3), I32(1)]  # soon, from the nearest cache, as data
        if not CHECKED:
            self.intrinsic("prefetch", ir.VOID, values, [POINTER])

    def check(self, place: Place, size: Value | int) -> None:
        """In checked mode, leave the kernel if the bytes from a place on are not all inside its array.

        `limits` holds each array's first and last address, and takes the array's number from 1 and the offset missed.
        """
        if not CHECKED or not place.tested:
            return
        arrays = [name for name, value in self.arguments.items() if isinstance(value, Place) and name != LIMITS]
        number, limits = arrays.index(place.array), self[LIMITS].pointer
        cells = [self.build.gep(limits, I64(cell), I64) for cell in range(2 * len(arrays) + 2)]
        begin, end = (self.build.load(cells[2 * number + side], I64) for side in (0, 1))
        address = self.build.ptrtoint(place.pointer, I64)
        before = self.build.icmp_signed("<", address, begin)
        behind = self.build.icmp_signed(">", self.build.add(address, self.whole(size)), end)
        empty = self.build.icmp_signed("==", self.whole(size), I64(0))
        missed = self.build.and_(self.build.or_(before, behind), self.build.not_(empty))
        fault, inside = self.function.append_basic_block("fault"), self.function.append_basic_block("inside")
        self.build.cbranch(missed, fault, inside)
        self.build.position_at_end(fault)
        self.build.store(I64(number + 1), cells[-2])
        self.build.store(self.build.sub(address, begin), cells[-1])
        self.build.ret_void()
        self.build.position_at_end(inside)

    # Vectors

    def zeros(self, lanes: int) -> Value:
        return self.vector(lanes)(None)

    def broadcast(self, value: Value, lanes: int) -> Value:
        """A vector of one number."""
        kind = ir.vector(value.type, lanes)
        first = self.build.insert_element(ir.undefined(kind), value, I32(0))
        return self.build.shuffle_vector(first, ir.undefined(kind), ir.vector(I32, lanes)(None))

    def constant(self, number: float, lanes: int) -> Value:
        """A vector of one number that is known."""
        return self.vector(lanes)(number)

    def numbers(self, lanes: int) -> Value:
        """0, 1, 2, … as whole numbers."""
        return ir.vector(I64, lanes)(list(range(lanes)))

    def shuffle(self, a: Value, b: Value, lanes: Sequence[int]) -> Value:
        """The numbered lanes of two vectors, one after the other."""
        return self.build.shuffle_vector(a, b, ir.vector(I32, len(lanes))(list(lanes)))

    def first(self, used: Value | int, lanes: int) -> Value:
        """A mask of the first lanes."""
        if isinstance(used, int):
            return ir.vector(I1, lanes)([int(lane < used) for lane in range(lanes)])
        return self.build.icmp_signed("<", self.numbers(lanes), self.broadcast(used, lanes))

    def fma(self, a: Value, b: Value, c: Value) -> Value:
        """a · b + c: in one rounding where the processor has an instruction for it, which all but baseline x86 have.

        There it is two instructions: one rounding would be a call of the C library for every number.
        """
        if self.dtype == PAIRS:
            return self.add_pairs(a, b, c)
        return self.intrinsic("fmuladd", a.type, [a, b, c], [a.type])

    def add_pairs(self, a: Value, b: Value, c: Value) -> Value:
        """c and both products of pairs, by an instruction that takes numbers too small to be normal as zero, and leaves
        none."""
        pairs = ir.vector(ir.BFLOAT, 2 * a.type.count)
        values = [c, self.build.bitcast(a, pairs), self.build.bitcast(b, pairs)]
        return self.intrinsic(f"x86.avx512bf16.dpbf16ps.{32 * a.type.count}", c.type, values, [])

    def total(self, vector: Value) -> Value:
        """The sum of a vector's numbers."""
        return self.build.extract_element(self.totals([vector])[0], I32(0))

    def totals(self, vectors: Sequence[Value]) -> list[Value]:
        """The sums of each vector's numbers, side by side in as few vectors; behind the last is anything.

        Halves are added until one number is left, those of two vectors at once: what both become fits one.
        """
        found, lanes = list(vectors), vectors[0].type.count
        half = lanes // 2
        while half:
            low = [first + lane for first in range(0, 2 * lanes, 2 * half) for lane in range(half)]
            high = [lane + half for lane in low]
            pairs = [(found[first], found[min(first + 1, len(found) - 1)]) for first in range(0, len(found), 2)]
            found = [self.build.fadd(self.shuffle(x, y, low), self.shuffle(x, y, high)) for x, y in pairs]
            half //= 2
        return found

    def intrinsic(self, name: str, result: ir.Type, values: Sequence[Value], overload: Sequence[ir.Type]) -> Value:
        """One of LLVM's own functions."""
        full = ".".join(["llvm", name, *(kind.suffix for kind in overload)])
        declared = self.function.module.declared(result, [value.type for value in values], full)
        return self.build.call(declared, values)


def bits_of(number: float) -> int:
    """The bits of a float32 number."""
    return int(np.float32(number).view(np.int32))


LIMITS = "limits"


def begin(
    module: ir.Module, name: str, dtype: str, arguments: dict[str, ir.Type], stored: dict[str, str] | None = None
) -> Kernel:
    """Begin a function without a result. Its pointers do not alias: operands and results never overlap.

    `stored` names arrays whose numbers are not stored as they are computed with, and how they are.
    """
    if CHECKED:
        arguments = {**arguments, LIMITS: POINTER}
    function = ir.Function(module, ir.VOID, list(arguments.values()), name)
    function.apart = True
    given: dict[str, Any] = {}
    for title, argument in zip(arguments, function.args, strict=True):
        given[title] = Place(argument, title) if argument.type is POINTER else argument
    entry, body = function.append_basic_block("entry"), function.append_basic_block("body")
    ir.Builder(entry).branch(body)
    how = {title: way for title, way in (stored or {}).items() if way}
    return Kernel(dtype, function, ir.Builder(body), given, how)
