"""How many threads a call may use: settings, the environment, and the processors that there are."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from contextvars import ContextVar
from functools import lru_cache
from math import ceil
from pathlib import Path

VARIABLE = "TRICONV_NUM_THREADS"

MOST = 1024
"""The largest number of threads to ask for."""

_here: ContextVar[tuple[int, ...]] = ContextVar("triconv_threads", default=())
_everywhere: list[threads] = []


def available() -> int:
    """The processors that this process may use: those it is bound to, and no more than its share of time is worth."""
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(bound, _granted())


usual: Callable[[], int] = available
"""How many threads there are without a setting; whoever lends its own threads says it (`team.use_openmp`)."""


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
        return usual()
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
        processors that this process may use; with `triconv.torch`, which shares PyTorch's threads, as many as those.

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


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_granted.cache_clear)  # it may be in another control group
