"""Kernel calls written down in rows, to be run by machine code on arrays that come each time.

The words of a row, of eight bytes: where a kernel's code is; which base each argument counts from, in four bits each;
the arguments. The bases are where arrays begin: the first is 0, for what is no address, and the last where each thread
has memory of its own. So rows are written once and only read.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from . import ir
from .target import Target
from .words import I64, POINTER, Kernel, Value, begin

ENTRY, WHICH, FIRST = range(3)
"""Words of a row, the last where the arguments begin."""

NOTHING = 0
"""In the place of the code where there is no call."""

BITS = 4
"""Of a base's number."""

MANY = 1 << BITS
"""Bases."""

MOST = 20
"""Arguments of a call. Those from the last on for which there are bits are no addresses in arrays to come."""

NONE, OWN = 0, MANY - 1
"""The base of what is no address, and of each thread's own memory."""

ARRAYS = 8
"""That come: operands and a result, scratch in three pieces, two that the result is finished with."""

WORD = 8


@dataclass(frozen=True)
class Repeat:
    """Run rows of so many words one after the other, on this thread."""

    name: ClassVar[str] = "repeat"
    arguments: ClassVar[dict[str, ir.Type]] = {"rows": I64, "calls": I64, "width": I64, "own": I64} | {
        f"array{number}": I64 for number in range(1, ARRAYS + 1)
    }

    def emit(self, module: ir.Module, name: str, machine: Target) -> None:
        """Write the kernel for a target."""
        del machine
        k = begin(module, name, "float64", self.arguments)
        bases, room = stack(k)
        for base, value in {NONE: I64(0), OWN: k["own"]}.items():
            k.build.store(value, at(k, bases, base))
        for number in range(1, ARRAYS + 1):
            k.build.store(k[f"array{number}"], at(k, bases, number))
        with k.loop(k["calls"]) as call:
            run(k, k.add(k["rows"], k.mul(k.mul(WORD, k["width"]), call)), k["width"], bases, room)
        k.build.ret_void()


def run(k: Kernel, row: Value, width: Value, bases: Value, room: Value) -> None:
    """Run the call of a row, if there is one, whose arguments are written into some room.

    It is told as many as a call may have: those that a kernel has not are where it does not look, and who calls takes
    them away again, in every convention of these processors.
    """
    entry, which = get(k, row, ENTRY), get(k, row, WHICH)
    with k.when(k.build.icmp_signed("!=", entry, I64(NOTHING))):
        with k.loop(k.add(width, -FIRST)) as number:
            base = k.remainder(k.build.lshr(which, k.mul(BITS, k.least(number, MANY - 1))), MANY)
            k.build.store(k.add(get(k, row, k.add(FIRST, number)), get(k, bases, base)), at(k, room, number))
        called = k.build.inttoptr(entry, POINTER)
        k.build.call(ir.Callee(ir.VOID, called.ref), [get(k, room, number) for number in range(MOST)])


def stack(k: Kernel) -> tuple[Value, Value]:
    """Room for all bases, and for the arguments of a call."""
    bases, room = (k.build.ptrtoint(k.build.alloca(I64, count), I64) for count in (MANY, MOST))
    return bases, room


def at(k: Kernel, start: Value, word: Value | int) -> Value:
    """The place of a word."""
    return k.build.inttoptr(k.add(start, k.mul(word, WORD)), POINTER)


def get(k: Kernel, start: Value, word: Value | int) -> Value:
    """A word."""
    return k.build.load(at(k, start, word), I64)
