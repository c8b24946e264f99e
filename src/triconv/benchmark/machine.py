"""The machine's limits, measured on the spot: multiply-adds from registers, and bytes to and from memory.

All kernels are compiled like the engines' own and run on as many threads; the figure is the best of several tries, as
a limit is what the machine can do when nothing is in its way.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from time import perf_counter
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ..coefficients import processor
from ..kernels import ir
from ..kernels.compile import Call, Compiled, function
from ..kernels.copy import Dim, Move
from ..kernels.matrices import Matrices, Run
from ..kernels.registers import SIDE
from ..kernels.target import Target, caches, target
from ..kernels.team import run_all
from ..kernels.words import BFLOAT16, BYTES, I64, PAIRS, POINTER, begin
from ..memory import address
from .timing import Timing

Array = NDArray[Any]

TRIES = 25
ARRAY = 128 << 20
"""Bytes that each thread reads or writes: several times a common last-level cache."""
STEPS = 1 << 18
"""Steps of the loop of multiply-adds: a few milliseconds."""
LINE = 8
"""Vectors that a step reads or writes."""


def chains(machine: Target) -> int:
    """How many sums run side by side: enough to hide the latency, few enough to stay in registers."""
    return machine.registers * 3 // 4


@dataclass(frozen=True)
class MultiplyAdds:
    """Chains of multiply-adds on registers: x ← a·x + b, from values of their own so that none are merged."""

    dtype: str

    name: ClassVar[str] = "multiply_adds"
    arguments: ClassVar[dict[str, ir.Type]] = {"C": POINTER, "count": I64}

    def emit(self, module: ir.Module, name: str, machine: Target) -> None:
        k = begin(module, name, self.dtype, self.arguments)
        lanes, count = machine.lanes(BYTES[self.dtype]), chains(machine)
        held = [k.variable(k.vector(lanes)) for _ in range(count)]
        for number, variable in enumerate(held):
            k.put(variable, k.broadcast(k.load(k["C"], number), lanes))
        factor, term = (k.broadcast(k.load(k["C"], count + place), lanes) for place in (0, 1))
        with k.loop(k["count"]):
            for variable in held:
                k.put(variable, k.fma(factor, k.get(variable, k.vector(lanes)), term))
        for number, variable in enumerate(held):
            k.store(k.total(k.get(variable, k.vector(lanes))), k["C"], number)
        k.build.ret_void()


@dataclass(frozen=True)
class Products:
    """Products of small matrices, added to sums in registers: of two matrices of A by two that lie behind them."""

    name: ClassVar[str] = "products"
    arguments: ClassVar[dict[str, ir.Type]] = {"A": POINTER, "count": I64}
    held: ClassVar[Matrices] = Matrices((Run(0, SIDE, SIDE), Run(SIDE * SIDE, SIDE, SIDE)), (SIDE, SIDE), SIDE)

    def emit(self, module: ir.Module, name: str, machine: Target) -> None:
        k, held = begin(module, name, PAIRS, self.arguments), replace(self.held, imitated=machine.imitated)
        held.begin(k)
        held.zero(k)
        with k.loop(k["count"]):
            held.multiply(k, k["A"], k["A"], (2 * SIDE * SIDE, 3 * SIDE * SIDE), SIDE)
        held.end(k)
        k.build.ret_void()


@dataclass(frozen=True)
class Reading:
    """Sum an array of count numbers, a whole number of lines."""

    dtype: str = "float32"

    name: ClassVar[str] = "reading"
    arguments: ClassVar[dict[str, ir.Type]] = {"A": POINTER, "C": POINTER, "count": I64}

    def emit(self, module: ir.Module, name: str, machine: Target) -> None:
        k = begin(module, name, self.dtype, self.arguments)
        lanes = machine.lanes(BYTES[self.dtype])
        kind = k.vector(lanes)
        held = [k.variable(kind) for _ in range(LINE)]
        for variable in held:
            k.put(variable, k.zeros(lanes))
        with k.loop(k["count"], step=LINE * lanes) as index:
            for number, variable in enumerate(held):
                read = k.load_vector(k.at(k["A"], k.add(index, number * lanes)), lanes)
                k.put(variable, k.build.fadd(k.get(variable, kind), read))
        for number, variable in enumerate(held):
            k.store(k.total(k.get(variable, kind)), k["C"], number)
        k.build.ret_void()


@dataclass(frozen=True)
class Writing:
    """Write one number all over an array of count numbers, by the ordinary stores that results are written with."""

    dtype: str = "float32"

    name: ClassVar[str] = "writing"
    arguments: ClassVar[dict[str, ir.Type]] = {"A": POINTER, "C": POINTER, "count": I64}

    def emit(self, module: ir.Module, name: str, machine: Target) -> None:
        k = begin(module, name, self.dtype, self.arguments)
        lanes = machine.lanes(BYTES[self.dtype])
        value = k.broadcast(k.load(k["A"]), lanes)
        with k.loop(k["count"], step=LINE * lanes) as index:
            for number in range(LINE):
                k.store_vector(value, k.at(k["C"], k.add(index, number * lanes)))
        k.build.ret_void()


@dataclass(frozen=True)
class Machine:
    """What the machine can do with a number of threads: GFLOP/s by dtype, GB/s read, written and copied."""

    threads: int
    peak: dict[str, float]
    read: float
    write: float
    copy: float

    def least_seconds(self, flops: int, dtype: str) -> float:
        """The time of so many additions and multiplications at the peak; complex numbers are made of real ones."""
        real = {"complex64": "float32", "complex128": "float64"}.get(dtype, dtype)
        return flops / (self.peak[real] * 1e9)

    def moving_seconds(self, read: int, written: int) -> float:
        """The time to read and write so many bytes at the measured rates."""
        return read / (self.read * 1e9) + written / (self.write * 1e9)


def machine(threads: int, array: int = ARRAY, steps: int = STEPS, tries: int = TRIES) -> Machine:
    """Measure the machine with a number of threads."""
    peak = {dtype: _peak(dtype, threads, steps, tries) for dtype in ("float32", "float64")}
    if target().pairs:  # each number is two, and multiplied with two
        pairs = _products if target().matrices else partial(_peak, PAIRS)
        peak[BFLOAT16] = 2 * pairs(threads, steps, tries)
    memory = Memory(threads, array)
    read, written, copied = (memory.moved / _best(calls, tries) for calls in memory.calls)
    return Machine(threads, peak, read, written, 2 * copied)


class Memory:
    """Arrays that no cache holds, one of each kind for each thread, and what reads, writes and copies all of them."""

    def __init__(self, threads: int, array: int = ARRAY) -> None:
        # Zeros that were never written all lie on one page of the system's.
        arrays = [np.full(array // 4, number + 1, np.float32) for number in range(threads)]
        others = [np.full(array // 4, 0, np.float32) for _ in range(threads)]
        sums = [np.zeros(LINE, np.float32) for _ in range(threads)]
        read, write = function(Reading()), function(Writing())
        copy = Move.of([Dim(((0, 0, array // 4),), 1, 1)], "float32")
        self.moved = sum(one.nbytes for one in arrays) / 1e9
        """Gigabytes of all."""
        self.calls = (
            [_call(read, one, total) for one, total in zip(arrays, sums, strict=True)],
            [_call(write, total, one) for one, total in zip(others, sums, strict=True)],
            [call for one, other in zip(arrays, others, strict=True) for call in copy.calls(one, other, 0, 1)],
        )

    def limits(self) -> dict[str, Callable[[], None]]:
        """What reads and writes all, to be timed beside what memory limits."""
        return {name: partial(_side_by_side, calls) for name, calls in zip(LIMITS, self.calls, strict=False)}

    def seconds(self, timings: Mapping[str, Timing], read: int, written: int) -> float:
        """The time to read and write so many bytes at the rates of limits that were timed."""
        rates = (self.moved * 1e9 / timings[name].least for name in LIMITS)
        return sum(size / rate for size, rate in zip((read, written), rates, strict=True))


LIMITS = ("memory, read", "memory, written")


def _side_by_side(calls: Sequence[Call]) -> None:
    run_all([[call] for call in calls])


def last_cache_bytes() -> int:
    """The size of the largest cache, 32 MiB where the system does not say."""
    return max(caches().values(), default=32 << 20)


def _peak(dtype: str, threads: int, steps: int, tries: int) -> float:
    here = target()
    run, count = function(MultiplyAdds(dtype)), chains(here)
    # x ← x/2 + 1/2 goes to 1: nothing overflows, and nothing becomes a denormal.
    values = [
        np.r_[np.arange(2, count + 2), 0.5, 0.5].astype("float32" if dtype == PAIRS else dtype) for _ in range(threads)
    ]
    calls = [_call(run, one, then=steps) for one in values]
    return threads * 2 * count * here.lanes(BYTES[dtype]) * steps / _best(calls, tries) / 1e9


def _products(threads: int, steps: int, tries: int) -> float:
    run, steps = function(Products()), steps // SIDE
    calls = [_call(run, np.zeros(4 * SIDE * SIDE, np.float32), then=steps) for _ in range(threads)]
    return threads * 2 * (2 * SIDE) ** 2 * SIDE * steps / _best(calls, tries) / 1e9


def _call(run: Compiled, *arrays: Array, then: int | None = None) -> Call:
    """A kernel on arrays, and a count: the size of the largest unless another is given."""
    count = max(array.size for array in arrays) if then is None else then
    return Call(run, (*(address(array) for array in arrays), count), arrays)


def _best(calls: Sequence[Call], tries: int) -> float:
    """The least seconds in which all calls are done side by side, after one that does not count."""
    seconds = []
    for _ in range(tries + 1):
        start = perf_counter()
        _side_by_side(calls)
        seconds.append(perf_counter() - start)
    return min(seconds[1:])


def described() -> dict[str, str]:
    """The processor and the versions that figures belong to."""
    names = ("triconv", "numpy", "llvmlite", "torch", "jax")
    found = {"processor": _processor(), "python": platform.python_version()}
    for name in names:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def _processor() -> str:
    """What the system calls the processor, and what LLVM does."""
    return f"{processor()} ({target().cpu})"
