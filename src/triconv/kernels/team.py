"""Parts of kernel calls shared by a team of threads, which work on them without Python's lock.

Whoever runs parts calls on helpers that have nothing to do and works itself; it waits only for parts that another
thread has begun. So nothing depends on a helper being there or in time: runs from many threads, or where no thread can
be started, are only less parallel. To hand over takes a microsecond where a helper is still awake.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import pairwise
from queue import SimpleQueue
from threading import Event, Lock, Thread

import numpy as np
from numpy.typing import NDArray

from ..memory import LINE, address
from . import threads
from .compile import Call, function
from .relay import ASLEEP, HEAD, HELPS, JOINS, LEADS, LEFT, WORD, Relay
from .threads import available, thread_count
from .words import CHECKED

NUMBERS_WORTH_A_THREAD = 1 << 16
"""To be copied. Handing work to a thread that sleeps takes as long."""

SLICES = 2
"""Of the work, for each thread, where cutting it costs nothing: of a thread that is held up, another takes some."""

TURNS = 10_000
"""For which a thread looks whether there is work or the end of it, some 25 ns each, before it goes to sleep."""

Part = Sequence[Call]


def in_parts(calls: Callable[[int, int], Part], numbers: int, slices: int = SLICES, pieces: int = 1) -> None:
    """Run calls(part, parts) for every part, side by side if there are numbers enough to be worth it.

    There are as many parts as threads, times slices; somewhat more where they or the pieces, of which there are a power
    of two, would not be a multiple of the other.
    """
    worth = numbers // NUMBERS_WORTH_A_THREAD
    most = thread_count() if worth > 1 else 1
    if most > 1:
        parts = min(most * slices, worth)
        if pieces > 1:
            parts = 1 << (parts - 1).bit_length() if parts < pieces else -(-parts // pieces) * pieces
        run_all([calls(part, parts) for part in range(parts)], most - 1)
    else:
        for call in calls(0, 1):
            call.run()


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
        _team.run(parts, most if helpers is None else min(helpers, most))


class _Helper:
    """A thread with a mailbox."""

    def __init__(self, turns: int) -> None:
        room = np.zeros(3 * LINE // WORD, np.int64)
        first = -address(room) % LINE // WORD
        self.mailbox = room[first : first + LINE // WORD]
        self.address = address(self.mailbox)
        self.turns = turns
        self.called, self.asleep, self.dismissed = False, False, False
        self.bell: SimpleQueue[None] = SimpleQueue()
        self.done = Event()
        """Set when a job has ended whose caller went to sleep."""
        self.kept_off: int | None = None
        # Daemons: the interpreter does not wait for threads that wait for it.
        self.thread = Thread(target=self.serve, name="triconv-helper", daemon=True)

    def call(self) -> None:
        """Have the helper look into its mailbox until it is let go."""
        self.done.clear()
        self.called = True
        if self.asleep:
            self.bell.put(None)

    def serve(self) -> None:
        """Work on what comes into the mailbox, for ever."""
        run = function(Relay())
        while not self.dismissed:
            run(HELPS, self.address, self.turns)
            if self.mailbox[ASLEEP]:
                self.mailbox[ASLEEP] = 0
                self.done.set()
                continue
            # Whoever calls says so before it looks whether to ring: one of the two sees what the other has said.
            self.asleep = True
            if not (self.called or self.dismissed):
                self.bell.get()
            self.asleep = False


class _Team:
    """Helpers, as many as a run could use so far, started when first needed."""

    def __init__(self) -> None:
        self.idle: deque[_Helper] = deque()
        self.size = 0
        self.growing = Lock()

    def run(self, parts: Sequence[Part], most: int) -> None:
        """Run parts on this thread and at most so many helpers."""
        helpers = self.take(most)
        try:
            _share(parts, helpers)
        finally:
            for helper in helpers:
                helper.called = False
            self.idle.extend(helpers)

    def take(self, most: int) -> list[_Helper]:
        """Helpers that nobody else has: as many as asked for, or as there are."""
        if self.size < most:
            self.grow(most)
        helpers: list[_Helper] = []
        with suppress(IndexError):
            while len(helpers) < most:
                helpers.append(self.idle.pop())
        return helpers

    def grow(self, size: int) -> None:
        with self.growing:
            while self.size < size:
                # Threads that are more than the processors must not keep those that work from them.
                helper = _Helper(TURNS if self.size + 1 < available() else 0)
                try:
                    helper.thread.start()
                except RuntimeError:  # no more threads to be had, or the interpreter is ending
                    return
                self.size += 1
                self.idle.append(helper)

    def dismiss(self) -> None:
        """Send idle helpers home: at the end of the interpreter the code that they wait in goes away."""
        with self.growing:
            for helper in self.take(0 if CHECKED else len(self.idle)):
                helper.dismissed = True
                helper.bell.put(None)
                helper.thread.join(1)


def _share(parts: Sequence[Part], helpers: Sequence[_Helper]) -> None:
    """Run parts on this thread and on helpers."""
    run = function(Relay())
    job = _job(parts, [helper.address for helper in helpers])
    with _apart(helpers):
        for helper in helpers:
            helper.call()
        try:
            run(LEADS, address(job), TURNS)
        finally:
            _wait(helpers, job)


def _wait(helpers: Sequence[_Helper], job: NDArray[np.int64]) -> None:
    """Wait for helpers that are still at work: arrays must not go while another thread writes them."""
    interruption: BaseException | None = None
    for helper, slot in zip(helpers, job[HEAD : HEAD + len(helpers)].tolist(), strict=True):
        while slot == LEFT and not helper.done.is_set():
            try:
                helper.done.wait()
            except BaseException as error:  # from a signal
                interruption = error
    if interruption is not None:
        raise interruption


def _job(parts: Sequence[Part], mailboxes: Sequence[int]) -> NDArray[np.int64]:
    """A table of calls as relay.py reads it, for this thread and as many helpers as there are mailboxes."""
    width, count = 1 + max(len(call.values) for part in parts for call in part), len(mailboxes) + 1
    words = [len(parts[0]), width, count, 0, *mailboxes]
    cuts = [len(parts) * number // count for number in range(count + 1)]
    for cut in pairwise(cuts):
        words += cut
    for part in parts:
        assert len(part) == len(parts[0]), f"{len(part)} calls: expected {len(parts[0])}, as in the first part"
        for call in part:
            words += (call.kernel.entry, *call.values, *(0,) * (width - 1 - len(call.values)))
    return np.array(words, np.int64)


class _OpenMP:
    """The team of threads that a library in this process keeps anyway, as PyTorch does.

    Two teams would be in each other's way: the threads of one look for work where the other's are to work.
    """

    def __init__(self, parallel: Callable[[int, int, int, int], None]) -> None:
        self.parallel = parallel

    def run(self, parts: Sequence[Part], most: int) -> None:
        """Run parts on this thread and at most so many others of the team."""
        job = _job(parts, [0] * most)
        row = np.array([JOINS, address(job), 0], np.int64)
        self.parallel(function(Relay()).entry, address(row), most + 1, 0)

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
        _team, threads.usual = _OpenMP(parallel), usual


def _processor_asker() -> Callable[[], int | None]:
    """What tells the processor that a thread runs on, where the system can tell and threads can be kept off one."""
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):
            return ctypes.PyDLL(None).sched_getcpu  # keeps Python's lock: it is over at once
    return lambda: None


_processor = _processor_asker()


@contextmanager
def _apart(helpers: Sequence[_Helper]) -> Iterator[None]:
    """Keep this thread on its processor while it works, and helpers off it.

    A thread that wakes another is followed by it to its own processor, and a system that spares processors moves
    a thread to where another one runs: there one would wait until the other is done, whatever else is idle.
    """
    here = _processor()
    may_use: set[int] = set() if here is None else os.sched_getaffinity(0)
    elsewhere = may_use - {here}
    if here is None or not elsewhere:
        yield
        return
    for helper in helpers:
        if helper.kept_off != here and helper.thread.native_id is not None:
            helper.kept_off = here
            _bind(helper.thread.native_id, elsewhere)
    _bind(0, {here})
    try:
        yield
    finally:
        _bind(0, may_use)


def _bind(thread: int, processors: set[int]) -> None:
    """Let a thread, 0 for this one, run on these processors only, if the system allows it."""
    with suppress(OSError):
        os.sched_setaffinity(thread, processors)


_team: _Team | _OpenMP = _Team()


def _renew() -> None:
    """A forked child has none of its parent's threads, OpenMP's neither, and perhaps locks that they held."""
    global _team
    _team = _Team()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew)
atexit.register(lambda: _team.dismiss())
