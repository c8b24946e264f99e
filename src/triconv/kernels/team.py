"""Stages of kernel calls, in parts that a team of threads shares, which work on them without Python's lock.

Whoever runs stages calls on helpers that have nothing to do and works itself; it waits only for parts that another
thread has begun. So nothing depends on a helper being there or in time: runs from many threads, or where no thread can
be started, are only less parallel. To hand over takes a microsecond where a helper is still awake. With PyTorch there
are no helpers: its own threads take part (`use_openmp`).
"""

from __future__ import annotations

import atexit
import ctypes
import os
import sys
from array import array
from collections import deque
from collections.abc import Callable, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise, repeat, starmap
from queue import SimpleQueue
from threading import Lock, Thread
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..memory import LINE, address
from . import relay, rows, threads
from .compile import Call, Compiled, function
from .threads import available, thread_count
from .words import CHECKED

NUMBERS_WORTH_A_THREAD = 1 << 16
"""To be copied. Handing work to a thread that sleeps takes as long."""

SLICES = 8
"""Of the work, for each thread, where cutting it costs nothing: of a thread that is held up, another takes some."""

TURNS = 10_000
"""For which a thread looks whether there is work or the end of it, some 25 ns each, before it goes to sleep."""


Part = Sequence[Call]

Stages = Sequence[Sequence[Part]]
"""One after the other, of each the parts side by side."""

Words = NDArray[np.int64]
"""As rows.py reads them."""

Job: TypeAlias = "array[int]"
"""Words as relay.py reads them."""

Shape = tuple[int, tuple[tuple[int, int], ...]]
"""How many words a row has; of each stage how many parts, and rows of each."""


def in_parts(calls: Callable[[int, int], Part], numbers: int) -> None:
    """Run calls(part, parts) for every part, side by side if there are numbers enough to be worth it."""
    threads = thread_count()
    parts = parts_of(numbers, threads)
    run_all([calls(part, parts) for part in range(parts)], threads - 1)


def parts_of(numbers: int, threads: int, slices: int = SLICES, pieces: int = 1) -> int:
    """How many parts to make of the work: one unless there are numbers enough to be worth it.

    There are as many parts as threads, times slices; somewhat more where they or the pieces, of which there are a power
    of two, would not be a multiple of the other. Who asked how many threads there are says it, as there may be more the
    next time.
    """
    if threads == 1 or not worth_sharing(numbers):
        return 1
    parts = min(threads * slices, numbers // NUMBERS_WORTH_A_THREAD)
    if pieces > 1:
        parts = 1 << (parts - 1).bit_length() if parts < pieces else -(-parts // pieces) * pieces
    return parts


def worth_sharing(numbers: int) -> bool:
    """Whether there are so many numbers to be copied that a second thread is worth it."""
    return numbers >= 2 * NUMBERS_WORTH_A_THREAD


def run_all(parts: Sequence[Part], helpers: int | None = None) -> None:
    """Run parts side by side, to the end, on this thread and so many helpers at most (None: one for each other)."""
    run_stages([parts], len(parts) if helpers is None else helpers + 1)


def run_stages(stages: Stages, threads: int) -> None:
    """Run stages, each to the end before the next begins: its parts side by side, on so many threads at most.

    Each part has as many calls, which run in their order. In checked mode all run here, where kernels can raise.
    """
    some = [parts for parts in stages if parts]
    helpers = min(threads, max(map(len, some), default=1)) - 1
    if helpers < 1 or CHECKED:
        for parts in some:
            for part in parts:
                for call in part:
                    call.run()
    else:
        calls, shape = in_rows(some)
        run_rows(words_of(calls, shape), shape, helpers)


def in_rows(stages: Stages) -> tuple[list[Call | None], Shape]:
    """The calls of stages, in their order: of parts that have fewer than others, the last are nothing."""
    calls, sizes = list[Call | None](), list[tuple[int, int]]()
    for parts in stages:
        longest = max(map(len, parts))
        sizes.append((len(parts), longest))
        for part in parts:
            calls += (*part, *(None,) * (longest - len(part)))
    most = max(len(call.values) for call in calls if call is not None)
    if most > rows.MOST:  # they would be written behind the room that there is
        raise ValueError(f"a call of {most} arguments: expected at most {rows.MOST}")
    return calls, (rows.FIRST + most, tuple(sizes))


def words_of(calls: Sequence[Call | None], shape: Shape) -> Words:
    """The words of calls whose arguments are what they are."""
    found, (width, _) = list[int](), shape
    for call in calls:
        known = (rows.NOTHING,) if call is None else (call.kernel.entry, rows.NONE, *call.values)
        found += (*known, *(0,) * (width - len(known)))
    return np.array(found, np.int64)


def run_rows(
    words: Words, shape: Shape, helpers: int, begins: Sequence[int] = (), own: int = 0, apart: int = 0
) -> None:
    """Run stages in rows on this thread and at most so many helpers.

    Addresses in them count from where arrays begin, or own memory, which is so many bytes apart for each thread.
    """

    def job(threads: int) -> Job:
        found = _head(shape, threads)[:]
        found[relay.ROWS], found[relay.APART] = address(words), apart
        for base, begin in enumerate(begins, relay.BASES + 1):
            found[base] = begin
        found[relay.BASES + rows.OWN] = own
        return found

    _team.run(job, helpers)


@lru_cache(maxsize=1)
def _relay() -> Compiled:
    return function(relay.Relay())


class _Helper:
    """A thread with a mailbox."""

    def __init__(self, turns: int) -> None:
        room = np.zeros(3 * LINE // rows.WORD, np.int64)
        first = -address(room) % LINE // rows.WORD
        self.mailbox = room[first : first + LINE // rows.WORD]
        self.address = address(self.mailbox)
        self.turns = turns
        self.asleep, self.dismissed = False, False
        self.bell: SimpleQueue[None] = SimpleQueue()
        self.kept_on: frozenset[int] = frozenset()
        # Daemons: the interpreter does not wait for threads that wait for it.
        self.thread = Thread(target=self.serve, name="triconv-helper", daemon=True)

    def serve(self) -> None:
        """Work on what comes into the mailbox, for ever."""
        run = _relay()
        while not self.dismissed:
            run(relay.HELPS, self.address, self.turns)
            # A caller posts, then looks whether to ring: one of the two sees what the other has done.
            self.asleep = True
            if self.mailbox[relay.MAIL] == relay.FREE and not self.dismissed:
                self.bell.get()
            self.asleep = False

    def keep_on(self, processors: frozenset[int]) -> None:
        """Have the thread run on some processors only."""
        if self.kept_on != processors and self.thread.native_id is not None:
            self.kept_on = processors
            with suppress(OSError):
                os.sched_setaffinity(self.thread.native_id, processors)


class _Team:
    """Helpers, as many as a run could use so far, started when first needed."""

    def __init__(self) -> None:
        self.idle: deque[_Helper] = deque()
        self.size = 0
        self.growing = Lock()

    def run(self, made: Callable[[int], Job], most: int) -> None:
        """Run a job made for so many threads: for this one and at most so many helpers."""
        if self.size < most:
            self.grow(most)
        run, helpers = _relay(), list[_Helper]()
        try:
            with _no_more:  # in one step, so that no signal finds a helper between here and there
                helpers.extend(starmap(self.idle.pop, repeat((), most)))
            job, apart = made(len(helpers) + 1), _apart() if helpers else None
            for word, helper in enumerate(helpers, relay.HEAD):
                job[word] = helper.address
                if apart is not None:
                    helper.keep_on(apart.elsewhere)
            if apart is not None:
                job[relay.WITHIN], job[relay.AFTER] = address(apart.here), address(apart.everywhere)
            place, _ = job.buffer_info()
            try:
                run(relay.POSTS, place, TURNS)
                for helper in helpers:
                    if helper.asleep:
                        helper.bell.put(None)
                run(relay.LEADS, place, TURNS)
            except BaseException:  # from a signal
                run(relay.ENDS, place, TURNS)
                raise
        finally:
            self.idle.extend(helpers)

    def grow(self, size: int) -> None:
        """Start helpers, unless somebody is doing it."""
        if not self.growing.acquire(blocking=False):
            return
        try:
            while self.size < size:
                # One that is more than the processors sleeps at once, or it would keep those that work from them.
                helper = _Helper(TURNS if self.size + 1 < available() else 0)
                try:
                    helper.thread.start()
                except RuntimeError:  # no more threads to be had, or the interpreter is ending
                    return
                self.size += 1
                self.idle.append(helper)
        finally:
            self.growing.release()

    def dismiss(self) -> None:
        """Send idle helpers home: at the end of the interpreter the code that they wait in goes away."""
        with suppress(IndexError):
            while True:
                helper = self.idle.pop()
                helper.dismissed = True
                helper.bell.put(None)
                helper.thread.join(1)


_no_more = suppress(IndexError)


@lru_cache(maxsize=256)
def _head(shape: Shape, threads: int) -> Job:
    """A job but for all addresses."""
    (width, stages), begin = shape, 0
    words = [len(stages), width, threads]
    words += (0,) * (relay.HEAD - len(words) + threads - 1)
    for parts, calls in stages:
        words += (calls, parts, 0, begin)
        for cut in pairwise(parts * number // threads for number in range(threads + 1)):
            words += cut
        begin += parts * calls
    return array("q", words)


class _OpenMP:
    """The team of threads that a library in this process keeps anyway, as PyTorch does.

    Two teams would be in each other's way: the threads of one look for work where the other's are to work.
    """

    def __init__(self, parallel: Callable[[int, int, int, int], None]) -> None:
        self.parallel = parallel

    def run(self, made: Callable[[int], Job], most: int) -> None:
        """Run a job made for so many threads: for this one and at most so many others of the team."""
        job = made(most + 1)
        # Where there are more threads than processors, those that wait keep them from those that work.
        turns = TURNS if most < available() else 0
        row = array("q", (_relay().entry, relay.JOINS, job.buffer_info()[0], turns))
        self.parallel(function(relay.Told()).entry, row.buffer_info()[0], most + 1, 0)

    def dismiss(self) -> None:
        """They are not ours to send home."""


def use_openmp(usual: Callable[[], int]) -> None:
    """Share parts with the team of the OpenMP library that all of the process sees, if there is one.

    `usual` tells of how many threads its keeper makes it, which is how many there are without a setting of ours.
    """
    global _team
    with suppress(AttributeError, OSError, TypeError):
        parallel = ctypes.CDLL(None).GOMP_parallel
        parallel.argtypes, parallel.restype = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint), None
        _team.dismiss()
        _team, threads.usual = _OpenMP(parallel), usual


def _processor_asker() -> Callable[[], int | None]:
    """What tells the processor that a thread runs on, where the system can tell and threads can be kept off one."""
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):
            return ctypes.PyDLL(None).sched_getcpu  # keeps Python's lock: it is over at once
    return lambda: None


_processor = _processor_asker()


@dataclass(frozen=True)
class _Apart:
    """Where the threads of a job run."""

    elsewhere: frozenset[int]
    """The processors that helpers are kept on."""
    here: NDArray[np.uint8]
    """The processor of the thread that calls, as a mask, as the system wants it."""
    everywhere: NDArray[np.uint8]
    """And all that it may use."""


def _apart() -> _Apart | None:
    """Where threads run if helpers are kept off the processor of this one; None if there are no others.

    A thread that wakes another is followed by it to its own processor, and a system that spares processors moves
    a thread to where another one runs: there one would wait until the other is done, whatever else is idle.
    """
    here = _processor()
    return None if here is None else _apart_from(here, frozenset(os.sched_getaffinity(0)))


@lru_cache(maxsize=64)
def _apart_from(here: int, may_use: frozenset[int]) -> _Apart | None:
    elsewhere = may_use - {here}
    if here not in may_use or not elsewhere or max(may_use) >= 8 * relay.MASK:
        return None
    return _Apart(elsewhere, _mask({here}), _mask(may_use))


def _mask(processors: Set[int]) -> NDArray[np.uint8]:
    """A set of processors as the system wants it."""
    bits = np.zeros(8 * relay.MASK, np.uint8)
    bits[list(processors)] = 1
    return np.packbits(bits, bitorder="little")


_team: _Team | _OpenMP = _Team()


def _renew() -> None:
    """A forked child has none of its parent's threads, OpenMP's neither, and perhaps locks that they held."""
    global _team
    _team = _Team()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew)
atexit.register(lambda: _team.dismiss())
