"""Slices of a table of tiles over a pool of threads. Kernels let go of Python's lock, so slices run side by side."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from typing import Any

VARIABLE = "TRICONV_NUM_THREADS"

_wanted: ContextVar[int | None] = ContextVar("triconv_threads", default=None)
_everywhere: list[int] = []
_pools: dict[tuple[int, int], ThreadPoolExecutor] = {}


def available() -> int:
    """The processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def thread_count() -> int:
    """How many threads a large enough call uses here and now."""
    if (wanted := _wanted.get()) is not None:
        return wanted
    if _everywhere:
        return _everywhere[0]
    text = os.environ.get(VARIABLE, "")
    if not text:
        return available()
    if not text.isdigit() or int(text) < 1:
        raise ValueError(f"{VARIABLE}={text!r}: expected a number of threads of at least 1")
    return int(text)


class threads:  # noqa: N801 (used as a function)
    """Set how many threads calls may use: at once and everywhere, or inside a with statement only.

    Examples
    --------
    >>> import triconv
    >>> with triconv.threads(1):
    ...     pass  # calls in here stay on this thread
    """

    def __init__(self, count: int) -> None:
        if isinstance(count, bool) or not hasattr(count, "__index__") or int(count) < 1:
            raise ValueError(f"threads={count!r}: expected a number of at least 1")
        self._before = list(_everywhere)
        _everywhere[:] = [int(count)]
        self._count = int(count)

    def __enter__(self) -> threads:
        _everywhere[:] = self._before
        self._token = _wanted.set(self._count)
        return self

    def __exit__(self, *_: object) -> None:
        _wanted.reset(self._token)


def run_all(calls: Sequence[Callable[[], Any]]) -> None:
    """Run calls side by side, the first of them on this thread, and wait for all."""
    first, *others = calls
    if not others:
        first()
        return
    futures = [_pool(len(others)).submit(call) for call in others]
    try:
        first()
    finally:
        for future in futures:
            future.result()


def _pool(size: int) -> ThreadPoolExecutor:
    """This process's pool of a size; a forked child makes its own, as threads do not survive a fork."""
    key = os.getpid(), size
    if key not in _pools:
        _pools[key] = ThreadPoolExecutor(size, thread_name_prefix="triconv")
    return _pools[key]
