"""Parts of kernel calls shared by a team of threads, which work on them without Python's lock.

Whoever runs parts calls on helpers that have nothing to do and works itself; it waits only for parts that another
thread has begun. So nothing depends on a helper being there or in time: runs from many threads, or where no thread can
be started, are only less parallel. To hand over takes a microsecond where a helper is still awake. With PyTorch there
are no helpers: its own threads take part (`use_openmp`).
"""

from __future__ import annotations

import atexit
import ctypes
import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, compress, pairwise, repeat, starmap
from queue import SimpleQueue
from threading import Lock, Thread
from typing import Any

import numpy as np
from numpy.lib.array_utils import byte_bounds
from numpy.typing import NDArray

from ..memory import LINE, address
from . import relay, threads
from .compile import Call, function
from .threads import available, thread_count
from .words import CHECKED

NUMBERS_WORTH_A_THREAD = 1 << 16
"""To be copied. Handing work to a thread that sleeps takes as long."""

SLICES = 8
"""Of the work, for each thread, where cutting it costs nothing: of a thread that is held up, another takes some."""

TURNS = 10_000
"""For which a thread looks whether there is work or the end of it, some 25 ns each, before it goes to sleep."""

Part = Sequence[Call]


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


def run_stages(stages: Iterable[Sequence[Part]], threads: int) -> None:
    """Run stages of parts one after the other, the parts of each side by side on so many threads at most."""
    for parts in stages:
        run_all(parts, threads - 1)


def worth_sharing(numbers: int) -> bool:
    """Whether there are so many numbers to be copied that a second thread is worth it."""
    return numbers >= 2 * NUMBERS_WORTH_A_THREAD


def run_all(parts: Sequence[Part], helpers: int | None = None) -> None:
    """Run parts side by side, on this thread and at most so many helpers (None: one for each other part), to the end.

    Each has as many calls, which run in their order. In checked mode all run here, where kernels can raise.
    """
    most = len(parts) - 1
    if most < 1 or CHECKED:
        for part in parts:
            for call in part:
                call.run()
    else:
        _team.run(_rows(parts), most if helpers is None else min(helpers, most))


Rows = NDArray[np.int64]
"""The words of calls as relay.py reads them: an entry, what is each thread's own, its arguments; by part and call."""


@dataclass(frozen=True, eq=False)
class Sheet:
    """Parts of calls, written down once, to be run on other arrays each time."""

    rows: Rows
    """Those words that are addresses in arrays to come count from where these begin."""
    which: Rows
    """The number of that array; behind the last for all other words."""
    kept: tuple[NDArray[Any], ...]
    """The arrays that stay the same."""
    apart: int = 0
    """How many bytes each thread's own memory is behind that of the one before."""

    @classmethod
    def of(cls, parts: Sequence[Part], arrays: Sequence[NDArray[Any]], each: NDArray[Any] | None = None) -> Sheet:
        """Write down parts that are made for some arrays, of which others are to come in the same order.

        These stand for those to come: no two of them may share memory, or nobody knows which one an address is in.
        In one of them is what `each` thread has, if any: that of the first, and behind it that of the next, and so on.
        """
        rows, (low_own, high_own) = _rows(parts), (0, 0) if each is None else byte_bounds(each)
        ends = sorted((*byte_bounds(array), number) for number, array in enumerate(arrays))
        low, high, inside = map(np.array, zip(*ends, strict=True))
        numbers, none = {id(array): number for number, array in enumerate(arrays)}, len(arrays)
        _, longest, width = rows.shape
        calls = [call for own in parts for call in own]
        begins = [width * (longest * part + n) for part, own in enumerate(parts) for n in range(len(own))]
        pointers = [call.kernel.pointers for call in calls]
        lines = np.repeat(np.array(begins, np.intp), np.array([*map(len, pointers)], np.intp))
        position = np.array([*chain.from_iterable(pointers)], np.intp)
        pointed = [*chain.from_iterable(call.arrays for call in calls)]
        # One of the arrays itself is known; of views of them, and of what stays, it is seen where they begin.
        found = np.array([numbers.get(id(array), -1) for array in pointed], np.intp)
        where = rows.ravel()[lines + relay.FIRST + position]
        slot = np.searchsorted(low, where, "right") - 1
        found = np.where(found >= 0, found, np.where((slot >= 0) & (where < high[slot]), inside[slot], none))
        which = np.full(rows.shape, none, np.int64)
        which.flat[lines + relay.FIRST + position] = found
        # Where a copy begins further on in an array that another stands for, is no address in any.
        home = inside[np.searchsorted(low, low_own, "right") - 1]
        own = (low_own <= where) & (where < high_own) & (found == home)
        np.bitwise_or.at(rows.reshape(-1), lines + relay.OWN, own.astype(np.int64) << position)
        kept = tuple(compress(pointed, (found == none).tolist()))
        return cls(rows - _begin(arrays)[which], which, kept, high_own - low_own)

    def run(self, arrays: Sequence[NDArray[Any]], helpers: int) -> None:
        """Run the parts on these arrays, side by side on this thread and at most so many helpers."""
        self.run_from(_begin(arrays), helpers)

    def run_from(self, begins: Rows, helpers: int) -> None:
        """The same on arrays that begin at these addresses, of which the last is 0: whence other words count."""
        _team.run(self.rows + begins[self.which], min(helpers, len(self.rows) - 1), self.apart)


def _begin(arrays: Sequence[NDArray[Any]]) -> Rows:
    """Where arrays begin, and where words count from that are no addresses."""
    return np.array([*map(address, arrays), 0], np.int64)


class _Helper:
    """A thread with a mailbox."""

    def __init__(self, turns: int) -> None:
        room = np.zeros(3 * LINE // relay.WORD, np.int64)
        first = -address(room) % LINE // relay.WORD
        self.mailbox = room[first : first + LINE // relay.WORD]
        self.address = address(self.mailbox)
        self.turns = turns
        self.asleep, self.dismissed = False, False
        self.bell: SimpleQueue[None] = SimpleQueue()
        self.kept_on: set[int] = set()
        # Daemons: the interpreter does not wait for threads that wait for it.
        self.thread = Thread(target=self.serve, name="triconv-helper", daemon=True)

    def serve(self) -> None:
        """Work on what comes into the mailbox, for ever."""
        run = function(relay.Relay())
        while not self.dismissed:
            run(relay.HELPS, self.address, self.turns)
            # A caller posts, then looks whether to ring: one of the two sees what the other has done.
            self.asleep = True
            if self.mailbox[relay.MAIL] == relay.FREE and not self.dismissed:
                self.bell.get()
            self.asleep = False


class _Team:
    """Helpers, as many as a run could use so far, started when first needed."""

    def __init__(self) -> None:
        self.idle: deque[_Helper] = deque()
        self.size = 0
        self.growing = Lock()

    def run(self, rows: Rows, most: int, apart: int = 0) -> None:
        """Run parts on this thread and at most so many helpers, whose own memory is so many bytes apart."""
        if self.size < most:
            self.grow(most)
        run, helpers = function(relay.Relay()), list[_Helper]()
        try:
            with suppress(IndexError):  # in one step, so that no signal finds a helper between here and there
                helpers.extend(starmap(self.idle.pop, repeat((), most)))
            job, *masks = _job(rows, [helper.address for helper in helpers], apart), *_apart(helpers)
            if masks:
                job[relay.WITHIN : relay.AFTER + 1] = [address(mask) for mask in masks]
            place = address(job)
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


def _rows(parts: Sequence[Part]) -> Rows:
    """The words of calls; of parts that have fewer than others, the last are nothing."""
    width = relay.FIRST + max(len(call.values) for part in parts for call in part)
    longest, words = max(map(len, parts)), list[int]()
    for part in parts:
        for call in part:
            words += (call.kernel.entry, 0, *call.values, *(0,) * (width - relay.FIRST - len(call.values)))
        words += (relay.NOTHING,) * (width * (longest - len(part)))
    return np.array(words, np.int64).reshape(len(parts), longest, width)


def _job(rows: Rows, mailboxes: Sequence[int], apart: int) -> Rows:
    """A table of calls as relay.py reads it, for this thread and as many helpers as there are mailboxes."""
    job = np.concatenate([_head(rows.shape, len(mailboxes) + 1), rows.ravel()])
    job[relay.APART] = apart
    job[relay.HEAD : relay.HEAD + len(mailboxes)] = mailboxes
    return job


@lru_cache(maxsize=256)
def _head(shape: tuple[int, int, int], threads: int) -> Rows:
    """What a table begins with that many tables share: all but the mailboxes and the masks."""
    parts, calls, width = shape
    words = [calls, width, threads]
    words += (0,) * (relay.HEAD - len(words) + threads - 1)
    for cut in pairwise(parts * number // threads for number in range(threads + 1)):
        words += cut
    return np.array(words, np.int64)


class _OpenMP:
    """The team of threads that a library in this process keeps anyway, as PyTorch does.

    Two teams would be in each other's way: the threads of one look for work where the other's are to work.
    """

    def __init__(self, parallel: Callable[[int, int, int, int], None]) -> None:
        self.parallel = parallel

    def run(self, rows: Rows, most: int, apart: int = 0) -> None:
        """Run parts on this thread and at most so many others of the team, whose own memory is so many bytes apart."""
        job = _job(rows, [0] * most, apart)
        row = np.array([relay.JOINS, address(job), 0], np.int64)
        self.parallel(function(relay.Relay()).entry, address(row), most + 1, 0)

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


def _apart(helpers: Sequence[_Helper]) -> list[NDArray[np.uint8]]:
    """Keep helpers off the processor of this thread; masks of that one, and of those that it may use besides.

    A thread that wakes another is followed by it to its own processor, and a system that spares processors moves
    a thread to where another one runs: there one would wait until the other is done, whatever else is idle.
    """
    here = _processor()
    if here is None or not helpers:
        return []
    may_use = os.sched_getaffinity(0)
    elsewhere = may_use - {here}
    if here not in may_use or not elsewhere or max(may_use) >= 8 * relay.MASK:
        return []
    for helper in helpers:
        if helper.kept_on != elsewhere and helper.thread.native_id is not None:
            helper.kept_on = elsewhere
            with suppress(OSError):
                os.sched_setaffinity(helper.thread.native_id, elsewhere)
    return [_mask(frozenset((here,))), _mask(frozenset(may_use))]


@lru_cache(maxsize=64)
def _mask(processors: frozenset[int]) -> NDArray[np.uint8]:
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
