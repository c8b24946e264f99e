"""How threads hand work to each other without Python's lock: a kernel on atomic words of memory.

A job is a table of parts, each a row of kernel calls. Each thread has a range of them, takes one after the other, and
then what others have left of theirs. So a thread has the same parts in every call, as long as none is late, and finds
what it wrote before in its own caches. The words, of eight bytes:

    job         calls of a part, words of a call, threads, how many of them joined without a mailbox, how many bytes
                each thread's own memory is behind that of the one before; the processors to work on and those to be
                let to afterwards, as addresses of masks or 0; then each helper's mailbox; then for each thread the
                next part of its range, and its end; then the calls: address of an entry, a bit for each argument
                that points into the first thread's own memory, the arguments
    mailbox     FREE, BUSY or the address of a job that nobody has begun; which range is the helper's

A helper looks into its mailbox for a while before it goes to sleep: to wake a thread takes as long as a small
convolution. What must not be left half done, as by a signal of Python's, is done in one call: to bind a thread to a
processor and to wait for helpers, who must not write to arrays that have gone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

from . import ir
from .target import ARM, X86, Target
from .words import I32, I64, POINTER, Kernel, Value, begin

CALLS, WIDTH, THREADS, JOINED, APART, WITHIN, AFTER, HEAD = range(8)
"""Words of a job, the last where the mailboxes begin."""

NOTHING = 0
"""In the place of an entry where a part has fewer calls than others."""

ENTRY, OWN, FIRST = range(3)
"""Words of a call, the last where the arguments begin."""

RANGE = 2
"""Words of a range."""

MAIL, NUMBER = range(2)
"""Words of a mailbox."""

HELPS, POSTS, LEADS, ENDS, JOINS = range(5)
"""What a thread does."""

FREE, BUSY, LEAST = range(3)
"""What a mailbox's first word says; addresses are not below LEAST."""

MASK = 128
"""Bytes of a mask of processors."""

DOZE = 50
"""Microseconds between looks, after the first while, at helpers that are still at work."""

WORD = 8


@dataclass(frozen=True)
class Relay:
    """One kernel for all that threads do here, which share the greater part of it.

    Who posts puts a job into its helpers' mailboxes. Who leads works on it, takes it back from helpers that have not
    begun, and waits for those that have; who ends does only that. Who helps works on every job that comes into its
    mailbox, until none comes. Who joins is one of a team that somebody else keeps, and works on the job at hand.
    """

    name: ClassVar[str] = "relay"
    arguments: ClassVar[dict[str, ir.Type]] = {"does": I64, "place": I64, "turns": I64}

    def emit(self, module: ir.Module, name: str, machine: Target) -> None:
        """Write the kernel for a target: `place` is a job, or who helps' mailbox."""
        work = _work(module)
        k = begin(module, name, "float32", self.arguments)
        posts, leads, ends, joins = (k.build.icmp_signed("==", k["does"], I64(n)) for n in (POSTS, LEADS, ENDS, JOINS))
        with k.when(posts):
            _post(k)
            k.build.ret_void()
        with k.when(joins):
            _join(k, work)
            k.build.ret_void()
        with k.when(leads):
            _bind(k, machine, _get(k, k["place"], WITHIN))
            k.build.call(work, [k["place"], I64(0)])
        with k.when(k.build.or_(leads, ends)):
            _end(k, machine)
            with k.when(leads):
                _bind(k, machine, _get(k, k["place"], AFTER))
            k.build.ret_void()
        _help(k, machine, work)


def _post(k: Kernel) -> None:
    with _helpers(k) as (mailbox, number):
        k.build.store(k.add(number, 1), _at(k, mailbox, NUMBER))
        _swap(k, mailbox, k["place"])


def _end(k: Kernel, machine: Target) -> None:
    with _helpers(k) as (mailbox, _), k.when(k.build.not_(_exchange(k, mailbox, k["place"], FREE))):
        again, free = k.function.append_basic_block("wait"), k.function.append_basic_block("free")
        k.build.branch(again)
        k.build.position_at_end(again)
        found = _watch(k, machine, mailbox, lambda found: k.build.icmp_signed("==", found, I64(FREE)))
        with k.when(k.build.icmp_signed("!=", found, I64(FREE))):
            _doze(k, machine)
            k.build.branch(again)
        k.build.branch(free)
        k.build.position_at_end(free)


def _join(k: Kernel, work: ir.Function) -> None:
    number = k.build.atomic_rmw("add", _at(k, k["place"], JOINED), I64(1), "seq_cst")
    with k.when(k.less(number, _get(k, k["place"], THREADS))):
        k.build.call(work, [k["place"], number])


def _help(k: Kernel, machine: Target, work: ir.Function) -> None:
    mailbox, again = k["place"], k.function.append_basic_block("again")
    k.build.branch(again)
    k.build.position_at_end(again)
    job = _watch(k, machine, mailbox, lambda found: k.build.icmp_signed(">=", found, I64(LEAST)))
    with k.when(k.less(job, LEAST)):
        k.build.ret_void()
    with k.when(_exchange(k, mailbox, job, BUSY)):
        k.build.call(work, [job, _get(k, mailbox, NUMBER)])
        _swap(k, mailbox, I64(FREE))
    k.build.branch(again)


@contextmanager
def _helpers(k: Kernel) -> Iterator[tuple[Value, Value]]:
    """The mailbox and the number of every helper of the job at hand."""
    with k.loop(k.add(_get(k, k["place"], THREADS), -1)) as number:
        yield _get(k, k["place"], k.add(HEAD, number)), number


def _work(module: ir.Module) -> ir.Function:
    """A function that runs the parts of a range, then those that are left of the others.

    Whoever finds a range used up has counted it on once more: it ends where the next part is not before the end.
    """
    work = ir.Function(module, ir.VOID, [I64, I64], "work")
    work.linkage = "internal"
    work.attributes.append("noinline")
    k = Kernel("float32", work, ir.Builder(work.append_basic_block("entry")), {})
    job, own = work.args
    calls, width, threads = (_get(k, job, word) for word in (CALLS, WIDTH, THREADS))
    ranges = k.add(HEAD, threads, -1)
    first = k.add(ranges, k.mul(RANGE, threads))
    apart = k.mul(own, _get(k, job, APART))
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
                entry, arguments = _get(k, job, k.add(row, ENTRY)), k.add(row, FIRST)
                with k.when(k.build.icmp_signed("!=", entry, I64(NOTHING))):
                    _move(k, job, arguments, (_get(k, job, k.add(row, OWN)), k.sub(width, FIRST)), apart)
                    k.build.call(called_at(k.build.inttoptr(entry, POINTER)), [_at(k, job, arguments)])
            k.build.branch(again)
        k.build.branch(done)
        k.build.position_at_end(done)
    k.build.ret_void()
    return work


def _move(k: Kernel, job: Value, arguments: Value, own: tuple[Value, Value], apart: Value) -> None:
    """Let those arguments point into this thread's own memory that a bit is set for, of so many."""
    bits, count = own
    with k.when(k.build.icmp_signed("!=", bits, I64(0))), k.loop(count) as number:
        place = _at(k, job, k.add(arguments, number))
        bit = k.build.and_(k.build.lshr(bits, number), I64(1))
        k.build.store(k.add(k.build.load(place, I64), k.mul(bit, apart)), place)


PAUSES: dict[str, tuple[str, tuple[int, ...]]] = {
    X86: ("llvm.x86.sse2.pause", ()),
    ARM: ("llvm.aarch64.hint", (1,)),
}
"""How a processor is told that a thread waits, so that another one on the same core goes first."""


def _pause(k: Kernel, machine: Target) -> None:
    name, values = PAUSES.get(machine.triple.split("-")[0], ("", ()))
    if name:
        pause = k.function.module.declared(ir.VOID, [I32] * len(values), name)
        k.build.call(pause, [I32(value) for value in values])


def called_at(pointer: Value) -> ir.Callee:
    """A function of one pointer, to call."""
    return ir.Callee(ir.VOID, pointer.ref)


def _at(k: Kernel, start: Value, word: Value | int) -> Value:
    return k.build.inttoptr(k.add(start, k.mul(word, WORD)), POINTER)


def _get(k: Kernel, start: Value, word: Value | int) -> Value:
    return k.build.load(_at(k, start, word), I64)


def _swap(k: Kernel, mailbox: Value, value: Value) -> None:
    """Put a value into a mailbox, for another thread to see with all that was written before."""
    k.build.atomic_rmw("xchg", _at(k, mailbox, MAIL), value, "seq_cst")


def _exchange(k: Kernel, mailbox: Value, expected: Value | int, value: int) -> Value:
    """Whether a mailbox held what was expected, and now holds the value."""
    return k.build.cmpxchg(_at(k, mailbox, MAIL), k.whole(expected), I64(value), "seq_cst")


def _watch(k: Kernel, machine: Target, mailbox: Value, enough: Callable[[Value], Value]) -> Value:
    """What a mailbox holds as soon as that is enough, or after so many turns as there are."""
    again, after = k.function.append_basic_block("watch"), k.function.append_basic_block("after")
    turn = k.variable(I64)
    k.put(turn, k["turns"])
    k.build.branch(again)
    k.build.position_at_end(again)
    found = k.build.load_atomic(_at(k, mailbox, MAIL), I64, "acquire")
    _pause(k, machine)
    left = k.add(k.get(turn, I64), -1)
    k.put(turn, left)
    k.build.cbranch(k.build.or_(enough(found), k.less(left, 0)), after, again)
    k.build.position_at_end(after)
    return found


def _doze(k: Kernel, machine: Target) -> None:
    """Let others have the processor for a moment, where the system's library has a word for it."""
    if "windows" not in machine.triple:
        _library(k, "usleep", [I32(DOZE)])


def _bind(k: Kernel, machine: Target, mask: Value) -> None:
    """Let this thread run on some processors only, unless the mask is 0."""
    if "linux" in machine.triple:
        with k.when(k.build.icmp_signed("!=", mask, I64(0))):
            _library(k, "sched_setaffinity", [I32(0), I64(MASK), k.build.inttoptr(mask, POINTER)])


def _library(k: Kernel, name: str, values: Sequence[Value]) -> None:
    """Call a function of the system's library."""
    k.build.call(k.function.module.declared(I32, [value.type for value in values], name), values)
