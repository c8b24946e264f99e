"""Whether all numbers of an array are finite, at the speed at which they can be read."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ..memory import address
from . import ir
from .compile import Call, Compiled, function
from .target import Target
from .team import in_parts
from .words import BFLOAT16, BYTES, I64, POINTER, begin

ABREAST = 8


@dataclass(frozen=True)
class Finite:
    """Adds up every number times zero, which is zero if and only if all of them are finite."""

    dtype: str
    stored: str = ""
    name: ClassVar[str] = "finite"
    arguments: ClassVar[dict[str, ir.Type]] = {"numbers": POINTER, "count": I64, "result": POINTER}

    def emit(self, module: ir.Module, name: str, machine: Target) -> None:
        """Write the kernel for a target."""
        k = begin(module, name, self.dtype, self.arguments, {"numbers": self.stored})
        lanes = machine.lanes(BYTES[self.dtype])
        kind, zeros = k.vector(lanes), k.zeros(lanes)
        sums = [k.variable(kind) for _ in range(ABREAST)]
        for held in sums:
            k.put(held, zeros)
        whole = k.build.and_(k["count"], I64(-lanes * ABREAST))
        with k.loop(whole, step=lanes * ABREAST) as start:
            for number, held in enumerate(sums):
                vector = k.load_vector(k.at(k["numbers"], k.add(start, number * lanes)), lanes)
                k.put(held, k.fma(vector, zeros, k.get(held, kind)))
        total = zeros
        for held in sums:
            total = k.build.fadd(total, k.get(held, kind))
        last = k.variable(k.real)
        k.put(last, k.total(total))
        with k.loop(k["count"], whole) as place:
            k.put(last, k.fma(k.load(k["numbers"], place), k.real(0), k.get(last, k.real)))
        k.store(k.get(last, k.real), k["result"])
        k.build.ret_void()


def all_finite(array: NDArray[Any]) -> bool:
    """Whether no number of a float32 or float64 array is infinite or NaN; or of bfloat16, whatever it is called."""
    before = _before(array.shape, array.strides, array.itemsize)
    if before is None:
        return all_finite(array.copy()) if array.itemsize == 2 and array.size else bool(np.isfinite(array).all())
    totals: list[NDArray[Any]] = []

    def calls(part: int, parts: int) -> list[Call]:
        totals.append(np.empty(1, f"f{max(4, array.itemsize)}"))
        return [_test(array, before, totals[-1], part, parts)]

    in_parts(calls, array.size)
    return not any(total[0] for total in totals)  # infinite or NaN times zero is not zero


def test(array: NDArray[Any], total: NDArray[Any]) -> list[Call]:
    """What makes the total of an array zero if all of it is finite, and not zero if not; nothing if it has gaps."""
    before = _before(array.shape, array.strides, array.itemsize)
    return [] if before is None else [_test(array, before, total, 0, 1)]


def _test(array: NDArray[Any], before: int, total: NDArray[Any], part: int, parts: int) -> Call:
    """The test of one part of an array that begins so many bytes before its first entry."""
    kernel = _kernel(total.dtype.name, BFLOAT16 if array.itemsize == 2 else "")
    first, last = array.size * part // parts, array.size * (part + 1) // parts
    start = address(array) - before + first * array.itemsize
    return Call(kernel, (start, last - first, address(total)), (array, total))


@lru_cache(maxsize=256)
def _before(shape: tuple[int, ...], strides: tuple[int, ...], itemsize: int) -> int | None:
    """How many bytes an array without gaps has before its first entry; None where it has gaps."""
    if 0 in shape:
        return None
    ends = [(size - 1) * step for size, step in zip(shape, strides, strict=True)]
    before = -sum(end for end in ends if end < 0)
    return before if sum(map(abs, ends)) + itemsize == prod(shape) * itemsize else None


@lru_cache(maxsize=3)
def _kernel(dtype: str, stored: str) -> Compiled:
    return function(Finite(dtype, stored))
