"""Slices of a table of tiles over a pool of threads. Kernels let go of Python's lock, so slices run side by side.

Whoever runs several calls offers them to the pool and works on them itself; it waits only for calls that another
thread has begun. So nothing depends on a worker being free or being there: calls from many threads, from workers
themselves or where no thread can be started are only less parallel. A hand-off costs about 5 µs.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from functools import lru_cache, partial
from math import ceil
from pathlib import Path
from queue import SimpleQueue
from threading import Lock, Thread
from typing import Any

VARIABLE = "TRICONV_NUM_THREADS"

MOST = 1024
"""The largest number of threads to ask for."""

NUMBERS_WORTH_A_THREAD = 1 << 16
"""To be copied. Handing work to a thread takes as long."""

SLICES = 2
"""Of the work, for each thread. They are taken in turn, so a thread that wakes late, or is held up, takes fewer."""

_here: ContextVar[tuple[int, ...]] = ContextVar("triconv_threads", default=())
_everywhere: list[threads] = []


def available() -> int:
    """The processors that this process may use: those it is bound to, and no more than its share of time is worth."""
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(bound, _granted())


@lru_cache(maxsize=1)
def _granted(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> int:
    """How many processors' time the control group of this process may take; read once."""
    first_version = root / "cpu/cpu.cfs_quota_us", root / "cpu/cpu.cfs_period_us"
    limits: list[tuple[Path, ...]] = [first_version]
    try:
        group = next((line[3:] for line in own.read_text().splitlines() if line.startswith("0::")), "/")
    except OSError:
        group = "/"
    place = root / group.lstrip("/")
    limits += [(folder / "cpu.max",) for folder in (place, *place.parents) if folder.is_relative_to(root)]
    least = MOST
    for files in limits:
        try:
            quota, period = map(int, " ".join(file.read_text() for file in files).split())
        except (OSError, ValueError):  # no such file, or no limit: "max"
            continue
        if quota > 0 and period > 0:
            least = min(least, ceil(quota / period))
    return least


def thread_count() -> int:
    """How many threads a large enough call uses here and now."""
    if here := _here.get():
        return here[-1]
    if _everywhere:
        return _everywhere[-1].count
    text = os.environ.get(VARIABLE, "").strip()
    if not text:
        return available()
    if not (text.isascii() and text.isdecimal() and len(text) < 6 and 1 <= int(text) <= MOST):
        raise ValueError(f"{VARIABLE}={text!r}: expected a number of threads from 1 to {MOST}")
    return int(text)


class threads:  # noqa: N801 (used as a function)
    """Set how many threads calls may use: at once and everywhere, or inside a with statement only.

    A with statement holds for this thread, and this asyncio task, alone. The number is the most: a call too small to
    be worth sharing stays on the thread that makes it. No result depends on it.

    Parameters
    ----------
    count
        From 1 to 1024. Without a setting it is the environment variable TRICONV_NUM_THREADS, or else the number of
        processors that this process may use.

    Examples
    --------
    >>> import triconv
    >>> with triconv.threads(1):
    ...     pass  # calls in here stay on this thread
    """

    def __init__(self, count: int) -> None:
        expected = f"expected a number of threads from 1 to {MOST}"
        if isinstance(count, bool) or not hasattr(count, "__index__"):
            raise TypeError(f"threads={count!r}: {expected}, got {type(count).__name__}")
        if not 1 <= count.__index__() <= MOST:
            raise ValueError(f"threads={count!r}: {expected}")
        self.count = count.__index__()
        # A setting until a with statement takes it back. Earlier ones stay: this one may be about to be taken back.
        _everywhere.append(self)
        del _everywhere[:-MOST]

    def __enter__(self) -> threads:
        with suppress(ValueError):
            _everywhere.remove(self)
        _here.set((*_here.get(), self.count))
        return self

    def __exit__(self, *_: object) -> None:
        _here.set(_here.get()[:-1])


def run_all(calls: Sequence[Callable[[], Any]], helpers: int | None = None) -> None:
    """Run calls side by side, on this thread and at most so many helpers (None: one for each other call), to the end.

    What the first of those that fail raises is raised, with a note of what others raised.
    """
    if len(calls) == 1:
        calls[0]()
    elif calls:
        most = len(calls) - 1
        _pool.run(calls, most if helpers is None else min(helpers, most))


def in_parts(run: Callable[[int, int], None], numbers: int) -> None:
    """run(part, parts) for every part, side by side if there are numbers enough to be worth it."""
    worth = numbers // NUMBERS_WORTH_A_THREAD
    most = thread_count() if worth > 1 else 1
    if most == 1:
        run(0, 1)
    else:
        parts = min(most * SLICES, worth)
        run_all([partial(run, part, parts) for part in range(parts)], most - 1)


class _Job:
    """Calls to be run once each by whoever takes them first, until one fails."""

    def __init__(self, calls: Sequence[Callable[[], Any]]) -> None:
        self.left = deque(enumerate(calls))
        self.failures: list[tuple[bool, int, BaseException]] = []
        self.begun: list[None] = []
        self.ended: list[None] = []
        self.changed: SimpleQueue[None] = SimpleQueue()

    def work(self) -> None:
        """Run calls until none is left to take."""
        while True:
            try:
                number, call = self.left.popleft()
            except IndexError:
                return
            try:
                call()
            except BaseException as error:  # of a worker too; an interruption goes before an error
                self.failures.append((isinstance(error, Exception), number, error))
                self.left.clear()

    def help(self) -> None:
        """Work on another thread, which says so before it takes anything."""
        self.begun.append(None)
        try:
            self.work()
        finally:
            self.ended.append(None)
            self.changed.put(None)

    def wait(self) -> None:
        """Let no further call begin, and wait for helpers: arrays must not go while another thread writes them."""
        self.left.clear()
        while len(self.ended) < len(self.begun):  # not a count of its own, which a signal could leave wrong
            try:
                self.changed.get()
            except BaseException as error:  # from a signal
                self.failures.append((False, -1, error))


def _processor_asker() -> Callable[[], int | None]:
    """What tells the processor that a thread runs on, where the system can tell and threads can be kept off one."""
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):
            return ctypes.PyDLL(None).sched_getcpu  # keeps Python's lock: it is over at once
    return lambda: None


_processor = _processor_asker()


def _bind(thread: int, processors: set[int]) -> None:
    """Let a thread, 0 for this one, run on these processors only, if the system allows it."""
    with suppress(OSError):
        os.sched_setaffinity(thread, processors)


class _Pool:
    """Threads that wait for jobs: as many as a job could use so far, started when first needed."""

    def __init__(self) -> None:
        self.jobs: SimpleQueue[_Job] = SimpleQueue()
        self.size = 0
        self.growing = Lock()
        self.workers: list[int] = []
        """Their numbers in the system."""
        self.kept_off: tuple[int, int] | None = None
        """The processor that workers keep off, and how many of them do."""

    @contextmanager
    def apart(self) -> Iterator[None]:
        """Keep this thread on its processor while it works, and workers off it.

        A thread that wakes another is followed by it to its own processor, and a system that spares processors moves
        a thread to where another one runs: there one would wait until the other is done, whatever else is idle.
        """
        here = _processor()
        may_use: set[int] = set() if here is None else os.sched_getaffinity(0)
        elsewhere = may_use - {here}
        if here is None or not elsewhere:
            yield
            return
        if self.kept_off != (here, len(self.workers)):
            self.kept_off = here, len(self.workers)
            for worker in self.workers[:]:
                _bind(worker, elsewhere)
        _bind(0, {here})
        try:
            yield
        finally:
            _bind(0, may_use)

    def run(self, calls: Sequence[Callable[[], Any]], helpers: int) -> None:
        job = _Job(calls)
        if self.size < helpers:
            self.grow(helpers)
        with self.apart():
            try:
                for _ in range(min(helpers, self.size)):
                    self.jobs.put(job)
                job.work()
            finally:
                job.wait()
        if job.failures:
            (_, _, first), *others = sorted(job.failures, key=lambda failure: failure[:2])
            for *_, other in others:
                first.add_note(f"and another thread raised {other!r}")
            raise first

    def grow(self, size: int) -> None:
        with self.growing:
            while self.size < size:
                # Daemons: the interpreter does not wait for threads that wait for it.
                worker = Thread(target=self.serve, name=f"triconv-{self.size + 1}", daemon=True)
                try:
                    worker.start()
                except RuntimeError:  # no more threads to be had, or the interpreter is ending
                    return
                self.size += 1
                if worker.native_id is not None:
                    self.workers.append(worker.native_id)

    def serve(self) -> None:
        while True:
            self.jobs.get().help()


_pool = _Pool()


def _renew() -> None:
    """A forked child has none of its parent's threads, and perhaps locks that they held."""
    global _pool
    _pool = _Pool()
    _granted.cache_clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew)
