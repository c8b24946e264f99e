"""How much memory a call takes besides its operands and its result.

What engines and allocators keep from one call for the next is given back first: a call that takes it again would
otherwise seem to take none.
"""

from __future__ import annotations

import ctypes
import gc
import tracemalloc
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from ..memory import release

PROCESS = Path("/proc/self")


def traced_extra(call: Callable[[], NDArray[Any]]) -> int:
    """The most bytes that NumPy and Python held during a call beyond those before it and the result's."""
    _give_back()
    tracemalloc.start()
    try:
        result = call()
        return max(tracemalloc.get_traced_memory()[1] - result.nbytes, 0)
    finally:
        tracemalloc.stop()


def resident_extra(call: Callable[[], object], result: int) -> int | None:
    """The most resident bytes during a call beyond those before it and the result's; None where the system can't say.

    It counts what any library allocates. It is as exact as pages are: some hundred KiB.
    """
    _give_back()
    try:
        (PROCESS / "clear_refs").write_text("5", encoding="ascii")  # the high-water mark starts again from here
        before = _resident("VmRSS")
        call()
        return max(_resident("VmHWM") - before - result, 0)
    except (OSError, StopIteration):
        return None


def _give_back() -> None:
    """Free what engines keep between calls, and give what is free back to the system."""
    release()
    gc.collect()
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def _resident(field: str) -> int:
    lines = (PROCESS / "status").read_text(encoding="ascii", errors="replace").splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(f"{field}:"))
