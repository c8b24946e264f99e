"""How threads hand work to each other without Python's lock: a kernel on atomic words of memory.

A job is a table of parts, each a row of kernel calls. Each thread has a range of them, takes one after the other, and
then what others have left of theirs. So a thread has the same parts in every call, as long as none is late, and finds
what it wrote before in its own caches. The words, of eight bytes:

    job         calls of a part, words of a call, threads, and how many of them joined without a mailbox; then a slot
                for each helper: the address of its mailbox, in the end LEFT or 0; then for each thread the next part
                of its range, and its end; then the calls: address of an entry, its arguments
    mailbox     FREE, BUSY, AWAITED or the address of a job that nobody has begun; which range is the helper's;
                whether its caller sleeps

A helper looks into its mailbox for a while before it goes to sleep, and a caller waits for a while before it does: to
wake a thread takes as long as a small convolution.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from llvmlite import ir

from .target import ARM, X86, Target
from .words import I32, I64, POINTER, Kernel, Value, begin

CALLS, WIDTH, THREADS, JOINED, HEAD = range(5)
"""Words of a job, the last where the slots begin."""

RANGE = 2
"""Words of a range."""

MAIL, NUMBER, ASLEEP = range(3)
"""Words of a mailbox."""

HELPS, LEADS, JOINS = range(3)
"""Sides of the relay."""

FREE, BUSY, AWAITED, A_JOB = range(4)
"""What a mailbox's first word says; from A_JOB on it is an address."""

LEFT = 1
"""In the slot of a helper that was still at work when its caller went to sleep."""

WORD = 8


@dataclass(frozen=True)
class Relay:
    """One kernel for all sides, which share the greater part of it.

    Who leads posts a job to its helpers' mailboxes, works on it, takes it back from who has not begun, and waits for
    who has. Who helps works on every job that comes into its mailbox, until none comes or a caller is to be woken.
    Who joins is one of a team that somebody else keeps, and works on the job at hand.
    """

    name: ClassVar[str] = "relay"
    arguments: ClassVar[dict[str, ir.Type]] = {"side": I64, "place": I64, "turns": I64}

    def emit(self, module: ir.Module, name: str, machine: Target) -> None:
        """Write the kernel for a target: `place` is a job, or who helps' mailbox."""
        work = _work(module)
        k = begin(module, name, "float32", self.arguments)
        with k.when(k.build.icmp_signed("==", k["side"], I64(LEADS))):
            _lead(k, machine, work)
            k.build.ret_void()
        with k.when(k.build.icmp_signed("==", k["side"], I64(JOINS))):
            number = k.build.atomic_rmw("add", _at(k, k["place"], JOINED), I64(1), "seq_cst")
            with k.when(k.less(number, _get(k, k["place"], THREADS))):
                k.build.call(work, [k["place"], number])
            k.build.ret_void()
        _help(k, machine, work)


def _lead(k: Kernel, machine: Target, work: ir.Function) -> None:
    job, helpers = k["place"], k.add(_get(k, k["place"], THREADS), -1)
    with k.loop(helpers) as number:
        mailbox = _get(k, job, k.add(HEAD, number))
        k.build.store(k.add(number, 1), _at(k, mailbox, NUMBER))
        _swap(k, mailbox, MAIL, job)
    k.build.call(work, [job, I64(0)])
    with k.loop(helpers) as number:
        mailbox = _get(k, job, k.add(HEAD, number))
        left = k.variable(I64)
        k.put(left, I64(0))
        with k.when(k.build.not_(_exchange(k, mailbox, job, FREE))):
            _watch(k, machine, mailbox, k["turns"], lambda found: k.build.icmp_signed("==", found, I64(FREE)))
            with k.when(_exchange(k, mailbox, BUSY, AWAITED)):
                k.put(left, I64(LEFT))
        k.build.store(k.get(left, I64), _at(k, job, k.add(HEAD, number)))


def _help(k: Kernel, machine: Target, work: ir.Function) -> None:
    mailbox, again = k["place"], k.function.append_basic_block("again")
    k.build.branch(again)
    k.build.position_at_end(again)
    job = _watch(k, machine, mailbox, k["turns"], lambda found: k.build.icmp_signed(">=", found, I64(A_JOB)))
    with k.when(k.less(job, A_JOB)):
        k.build.ret_void()
    with k.when(_exchange(k, mailbox, job, BUSY)):
        k.build.call(work, [job, _get(k, mailbox, NUMBER)])
        with k.when(k.build.icmp_signed("==", _swap(k, mailbox, MAIL, I64(FREE)), I64(AWAITED))):
            k.build.store(I64(1), _at(k, mailbox, ASLEEP))
            k.build.ret_void()
    k.build.branch(again)


def _work(module: ir.Module) -> ir.Function:
    """A function that runs the parts of a range, then those that are left of the others."""
    work = ir.Function(module, ir.FunctionType(ir.VoidType(), [I64, I64]), "work")
    work.linkage = "internal"
    work.attributes.add("noinline")
    k = Kernel("float32", work, ir.IRBuilder(work.append_basic_block("entry")), {})
    job, own = work.args
    calls, width, threads = (_get(k, job, word) for word in (CALLS, WIDTH, THREADS))
    ranges = k.add(HEAD, threads, -1)
    first = k.add(ranges, k.mul(RANGE, threads))
    with k.loop(threads) as turn:
        number = k.add(own, turn)
        number = k.build.select(k.less(number, threads), number, k.sub(number, threads))
        place = k.add(ranges, k.mul(number, RANGE))
        again, done = work.append_basic_block("again"), work.append_basic_block("done")
        k.build.branch(again)
        k.build.position_at_end(again)
        part = k.build.atomic_rmw("add", _at(k, job, place), I64(1), "seq_cst")
        with k.when(k.less(part, _get(k, job, k.add(place, 1)))):
            with k.loop(calls) as call:
                row = k.add(first, k.mul(k.add(k.mul(part, calls), call), width))
                k.build.call(_Entry(k.build.inttoptr(_get(k, job, row), POINTER)), [_at(k, job, k.add(row, 1))])
            k.build.branch(again)
        k.build.branch(done)
        k.build.position_at_end(done)
    k.build.ret_void()
    return work


PAUSES: dict[str, tuple[str, tuple[int, ...]]] = {
    X86: ("llvm.x86.sse2.pause", ()),
    ARM: ("llvm.aarch64.hint", (1,)),
}
"""How a processor is told that a thread waits, so that another one on the same core goes first."""


def _pause(k: Kernel, machine: Target) -> None:
    name, values = PAUSES.get(machine.triple.split("-")[0], ("", ()))
    if name:
        module = k.function.module
        kind = ir.FunctionType(ir.VoidType(), [I32] * len(values))
        pause = module.globals.get(name) or ir.Function(module, kind, name)
        k.build.call(pause, [I32(value) for value in values])


class _Entry:
    """A pointer to a function of one pointer, as llvmlite wants it to call it."""

    function_type = ir.FunctionType(ir.VoidType(), [POINTER])
    type = POINTER

    def __init__(self, pointer: Value) -> None:
        self.get_reference = pointer.get_reference


def _at(k: Kernel, start: Value, word: Value | int) -> Value:
    return k.build.inttoptr(k.add(start, k.mul(word, WORD)), POINTER)


def _get(k: Kernel, start: Value, word: Value | int) -> Value:
    return k.build.load(_at(k, start, word), typ=I64)


def _swap(k: Kernel, start: Value, word: int, value: Value) -> Value:
    """Put a value into a word that another thread sees, with all that was written before; what was there."""
    return k.build.atomic_rmw("xchg", _at(k, start, word), value, "seq_cst")


def _exchange(k: Kernel, mailbox: Value, expected: Value | int, value: int) -> Value:
    """Whether a mailbox held what was expected, and now holds the value."""
    pair = k.build.cmpxchg(_at(k, mailbox, MAIL), k.whole(expected), I64(value), "seq_cst")
    return k.build.extract_value(pair, 1)


def _watch(k: Kernel, machine: Target, mailbox: Value, turns: Value, enough: Any) -> Value:
    """What a mailbox holds as soon as that is enough, or after so many turns."""
    again, after = k.function.append_basic_block("watch"), k.function.append_basic_block("after")
    turn = k.variable(I64)
    k.put(turn, turns)
    k.build.branch(again)
    k.build.position_at_end(again)
    found = k.build.load_atomic(_at(k, mailbox, MAIL), "acquire", WORD, typ=I64)
    _pause(k, machine)
    left = k.add(k.get(turn, I64), -1)
    k.put(turn, left)
    k.build.cbranch(k.build.or_(enough(found), k.less(left, 0)), after, again)
    k.build.position_at_end(after)
    return found
