"""How threads hand work to each other without Python's lock: a kernel on atomic words of memory.

A job has stages, each a table of parts, and a part is a row of kernel calls. Each thread has a range of a stage's
parts, takes one after the other, and then what others have left of theirs. So a thread has the same parts in every
call, as long as none is late, and finds what it wrote before in its own caches. The next stage begins when all parts
are done, whoever did them: for a helper that comes late nobody waits. The words, of eight bytes:

    job         stages, words of a row, threads, where the rows are, how many bytes each thread's own memory is behind
                that of the one before, how many joined without a mailbox; the processors to work on and those to be
                let to afterwards, as addresses of masks or 0; the bases of rows, the last for the first thread; then
                each helper's mailbox; then the stages
    stage       rows of a part, parts, how many of them are done, which row is the first; then for each thread the next
                part of its range, and its end
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

from . import ir, rows
from .rows import WORD, at, get
from .target import ARM, X86, Target
from .words import I32, I64, POINTER, Kernel, Value, begin

STAGES, WIDTH, THREADS, ROWS, APART, JOINED, WITHIN, AFTER, BASES = range(9)
"""Words of a job, the last where the bases begin."""

HEAD = BASES + rows.MANY
"""The word of a job where the mailboxes begin."""

CALLS, PARTS, DONE, BEGIN, RANGES = range(5)
"""Words of a stage, the last where the ranges begin."""

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
"""Microseconds between looks, after the first while, at parts that are still at work."""


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
        work = _work(module, machine)
        k = begin(module, name, "float32", self.arguments)
        posts, leads, ends, joins = (k.build.icmp_signed("==", k["does"], I64(n)) for n in (POSTS, LEADS, ENDS, JOINS))
        with k.when(posts):
            _post(k)
            k.build.ret_void()
        with k.when(joins):
            _join(k, work)
            k.build.ret_void()
        with k.when(leads):
            _bind(k, machine, get(k, k["place"], WITHIN))
            k.build.call(work, [k["place"], I64(0), k["turns"]])
        with k.when(k.build.or_(leads, ends)):
            _end(k, machine)
            with k.when(leads):
                _bind(k, machine, get(k, k["place"], AFTER))
            k.build.ret_void()
        _help(k, machine, work)


@dataclass(frozen=True)
class Told:
    """A call of a relay by somebody who knows but one address: of where it is, and of what it is told, in a row."""

    name: ClassVar[str] = "told"
    arguments: ClassVar[dict[str, ir.Type]] = {"row": I64}

    def emit(self, module: ir.Module, name: str, machine: Target) -> None:
        """Write the kernel for a target."""
        del machine
        k = begin(module, name, "float32", self.arguments)
        relay, *told = (get(k, k["row"], word) for word in range(1 + len(Relay.arguments)))
        k.build.call(ir.Callee(ir.VOID, k.build.inttoptr(relay, POINTER).ref), told)
        k.build.ret_void()


def _post(k: Kernel) -> None:
    with _helpers(k) as (mailbox, number):
        k.build.store(k.add(number, 1), at(k, mailbox, NUMBER))
        _swap(k, mailbox, k["place"])


def _end(k: Kernel, machine: Target) -> None:
    with _helpers(k) as (mailbox, _), k.when(k.build.not_(_exchange(k, mailbox, k["place"], FREE))):
        _wait(k, machine, at(k, mailbox, MAIL), I64(FREE), k["turns"])


def _join(k: Kernel, work: ir.Function) -> None:
    number = _count(k, k["place"], JOINED)
    with k.when(k.less(number, get(k, k["place"], THREADS))):
        k.build.call(work, [k["place"], number, k["turns"]])


def _help(k: Kernel, machine: Target, work: ir.Function) -> None:
    mailbox, again = k["place"], k.function.append_basic_block("again")
    k.build.branch(again)
    k.build.position_at_end(again)
    job = _watch(
        k, machine, at(k, mailbox, MAIL), lambda found: k.build.icmp_signed(">=", found, I64(LEAST)), k["turns"]
    )
    with k.when(k.less(job, LEAST)):
        k.build.ret_void()
    with k.when(_exchange(k, mailbox, job, BUSY)):
        k.build.call(work, [job, get(k, mailbox, NUMBER), k["turns"]])
        _swap(k, mailbox, I64(FREE))
    k.build.branch(again)


@contextmanager
def _helpers(k: Kernel) -> Iterator[tuple[Value, Value]]:
    """The mailbox and the number of every helper of the job at hand."""
    with k.loop(k.add(get(k, k["place"], THREADS), -1)) as number:
        yield get(k, k["place"], k.add(HEAD, number)), number


def _work(module: ir.Module, machine: Target) -> ir.Function:
    """A function that runs a job's stages: of each the parts of a range, then those that are left of the others."""
    work = ir.Function(module, ir.VOID, [I64, I64, I64], "work")
    work.linkage = "internal"
    work.attributes.append("noinline")
    k = Kernel("float32", work, ir.Builder(work.append_basic_block("entry")), {})
    job, own, turns = work.args
    bases, room = rows.stack(k)
    with k.loop(rows.MANY) as number:
        k.build.store(get(k, job, k.add(BASES, number)), at(k, bases, number))
    mine = k.add(get(k, job, BASES + rows.OWN), k.mul(own, get(k, job, APART)))
    k.build.store(mine, at(k, bases, rows.OWN))
    stages, threads = get(k, job, STAGES), get(k, job, THREADS)
    first, size = k.add(HEAD, threads, -1), k.add(RANGES, k.mul(RANGE, threads))
    with k.loop(stages) as number:
        stage = k.add(job, k.mul(WORD, k.add(first, k.mul(number, size))))
        with k.loop(threads) as turn:
            which = k.add(own, turn)
            which = k.build.select(k.less(which, threads), which, k.sub(which, threads))
            _finish(k, job, stage, k.add(RANGES, k.mul(RANGE, which)), bases, room)
        with k.when(k.less(number, k.add(stages, -1))):
            _wait(k, machine, at(k, stage, DONE), get(k, stage, PARTS), turns)
    k.build.ret_void()
    return work


def _finish(k: Kernel, job: Value, stage: Value, place: Value, bases: Value, room: Value) -> None:
    """Run what is left of one range of a stage's parts.

    Whoever finds a range used up has counted it on once more: it ends where the next part is not before the end.
    """
    calls, width, first = get(k, stage, CALLS), get(k, job, WIDTH), get(k, stage, BEGIN)
    again, done = k.function.append_basic_block("again"), k.function.append_basic_block("done")
    k.build.branch(again)
    k.build.position_at_end(again)
    part = _count(k, stage, place)
    with k.when(k.less(part, get(k, stage, k.add(place, 1)))):
        with k.loop(calls) as call:
            number = k.add(first, k.mul(part, calls), call)
            rows.run(k, k.add(get(k, job, ROWS), k.mul(k.mul(WORD, width), number)), width, bases, room)
        _count(k, stage, DONE)
        k.build.branch(again)
    k.build.branch(done)
    k.build.position_at_end(done)


def _count(k: Kernel, start: Value, word: Value | int) -> Value:
    """Add one to a word that others add to as well; what it was before."""
    return k.build.atomic_rmw("add", at(k, start, word), I64(1), "seq_cst")


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


def _swap(k: Kernel, mailbox: Value, value: Value) -> None:
    """Put a value into a mailbox, for another thread to see with all that was written before."""
    k.build.atomic_rmw("xchg", at(k, mailbox, MAIL), value, "seq_cst")


def _exchange(k: Kernel, mailbox: Value, expected: Value | int, value: int) -> Value:
    """Whether a mailbox held what was expected, and now holds the value."""
    return k.build.cmpxchg(at(k, mailbox, MAIL), k.whole(expected), I64(value), "seq_cst")


def _watch(k: Kernel, machine: Target, place: Value, enough: Callable[[Value], Value], turns: Value) -> Value:
    """What is in a place as soon as that is enough, or after so many turns."""
    again, after = k.function.append_basic_block("watch"), k.function.append_basic_block("after")
    turn = k.variable(I64)
    k.put(turn, turns)
    k.build.branch(again)
    k.build.position_at_end(again)
    found = k.build.load_atomic(place, I64, "acquire")
    _pause(k, machine)
    left = k.add(k.get(turn, I64), -1)
    k.put(turn, left)
    k.build.cbranch(k.build.or_(enough(found), k.less(left, 0)), after, again)
    k.build.position_at_end(after)
    return found


def _wait(k: Kernel, machine: Target, place: Value, expected: Value, turns: Value) -> None:
    """Go on when a place holds what is expected: watch it for so many turns, again and again."""
    again, there = k.function.append_basic_block("wait"), k.function.append_basic_block("there")
    k.build.branch(again)
    k.build.position_at_end(again)
    found = _watch(k, machine, place, lambda found: k.build.icmp_signed("==", found, expected), turns)
    with k.when(k.build.icmp_signed("!=", found, expected)):
        _doze(k, machine)
        k.build.branch(again)
    k.build.branch(there)
    k.build.position_at_end(there)


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
