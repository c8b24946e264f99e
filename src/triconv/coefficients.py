"""What engines' estimates depend on the machine for: few named coefficients, by default those of one processor.

`triconv bench --calibrate` measures them and keeps them in the cache's folder, for this processor and target; they
are read once a process, when an engine is first chosen. They decide which engine, and which tiles, a problem is given,
and so in which order its sums are taken: nothing else. Two processes with the same coefficients compute the same bits.
"""

from __future__ import annotations

import os
import re
from ast import literal_eval
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import lru_cache, wraps
from hashlib import sha256
from time import perf_counter, time_ns
from typing import Any, TypeVar

from . import cache

VARIABLE = "TRICONV_CALIBRATED"
"""Where it is 0, the default ones are used, whatever was measured, and nothing that was chosen before is looked up."""

LEAST = 1e-30
"""No coefficient is as small, and none is as large as one by that."""

Answer = TypeVar("Answer", bound=Callable[..., Any])

FORMAT = 1
"""Of the file, and of what coefficients mean; files of another are not read."""


def _of(default: float, unit: str, meaning: str) -> Any:
    return field(default=default, metadata={"unit": unit, "meaning": meaning})


@dataclass(frozen=True)
class Coefficients:
    """By default those of one core of a Zen 5 at 4.5 GHz; of `split`, which it cannot run, those with which a Xeon of
    the 4th generation chooses well by the others."""

    cycles: float = _of(4e9, "1/s", "cycles of a contraction, of which each multiplies and adds two vectors")
    copied: float = _of(25e9, "B/s", "read and written by copies")
    started: float = _of(1e-6, "s", "to start a kernel: of a sum, of a copy, of the test whether all is finite")
    called: float = _of(5e-6, "s", "to call the direct engine")
    winograd_multiplied: float = _of(0.57, "cycles", "winograd: to multiply and add a vector between transforms")
    winograd_transformed: float = _of(6.8, "cycles", "winograd: for each vector of a transform of tiles")
    winograd_kernel: float = _of(5.0, "cycles", "winograd: for each vector of a transform of kernels")
    winograd_called: float = _of(1.2e-5, "s", "winograd: to call it, for each part of a stride")
    split_multiplied: float = _of(16, "cycles", "split: to multiply matrices of 16 rows of halves")
    split_copied: float = _of(5e10, "B/s", "split: read and written by copies into halves")
    fft_multiplied: float = _of(0.62, "cycles", "fft: to multiply and add a vector")
    fft_moved: float = _of(1.1e11, "B/s", "fft: read and written between stages")
    fft_started: float = _of(1.9e-6, "s", "fft: to start a stage")
    moved: float = _of(3.5e10, "B/s", "read and written far from a core, beyond the near caches")
    converted: float = _of(20e9, "B/s", "read and written to convert numbers to another dtype")
    loop: float = _of(5e-6, "s", "reference: a turn of a loop in Python")
    term: float = _of(1e-9, "s", "reference: a product that NumPy adds")
    rowed: float = _of(1e9, "B/s", "im2row: written as rows")
    gemm: float = _of(3e10, "1/s", "im2row: additions and multiplications of NumPy's product")
    listed: float = _of(4e-8, "s", "matrix: an entry made")
    sparse: float = _of(2e-9, "s", "matrix: a product of SciPy's")

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not LEAST < value < 1 / LEAST:
                raise ValueError(f"{name}={value!r}: expected a number above zero")


DEFAULT = Coefficients()

NEAR = 4 << 20
"""Bytes that stay near a core from one call to the next, whatever else the last of the caches holds."""


def moving(size: int) -> float:
    """Seconds to read or write so many bytes, of which some are near."""
    return max(0, size - NEAR) / coefficients().moved


def multiplying(products: int, lanes: int) -> float:
    """Seconds to multiply and add so many numbers at the peak of one thread: two vectors a cycle."""
    return products / (2 * lanes) / coefficients().cycles


_used: list[Coefficients] = []
_depending: list[Callable[[], None]] = []


def coefficients() -> Coefficients:
    """Those that were measured on this machine, or the default ones; read once."""
    if not _used:
        _used.append(DEFAULT if os.environ.get(VARIABLE) == "0" else kept() or DEFAULT)
    return _used[0]


def use(other: Coefficients) -> None:
    """Estimate and choose by other ones from now on, in this process."""
    _used[:] = [other]
    for forget in _depending:
        forget()


def forgetting(forget: Callable[[], None]) -> None:
    """What to call when others are used."""
    _depending.append(forget)


def depending(kept: int) -> Callable[[Answer], Answer]:
    """Keep so many answers of a function that depend on coefficients, until others are used."""

    def keeping(function: Answer) -> Answer:
        cached: Any = lru_cache(maxsize=kept)(function)
        forgetting(cached.cache_clear)
        return cached  # type: ignore[no-any-return]

    return keeping


BEGUN = time_ns()
"""When this package's files were read, about: of those that are younger nobody knows which ones this process runs."""

ANSWERS = cache.Shelf("answer", 4096)

LONG = 5e-4
"""Seconds that an answer takes which is worth a file: to read one takes a fifth of that."""


def lasting(function: Answer) -> Answer:
    """Keep answers of a function on disk, for processes to come.

    They are literals, and depend on nothing but coefficients, this package, and arguments that their repr tells apart.
    """
    name = function.__name__.strip("_")

    @wraps(function)
    def answer(*given: Any) -> Any:
        key = fingerprint(name, given)
        if key is None:
            return function(*given)
        with suppress(ValueError, SyntaxError):
            if (content := ANSWERS.read(name, key)) is not None:
                return literal_eval(content.decode())
        begun = perf_counter()
        found = function(*given)
        if perf_counter() - begun > LONG:
            ANSWERS.write(name, key, repr(found).encode())
        return found

    return answer  # type: ignore[return-value]


def fingerprint(*given: Any) -> bytes | None:
    """What tells answers apart that depend on coefficients, this package, and arguments that their repr tells apart;
    None where none is to be kept."""
    source = b"" if os.environ.get(VARIABLE) == "0" else _source()
    return sha256(source + repr((coefficients(), *given)).encode()).digest() if source else None


@lru_cache(maxsize=1)
def _source() -> bytes:
    """What tells this package from another version of it: when its files were written, and how long they are."""
    found = []
    try:
        for folder, _, names in os.walk(os.path.dirname(__file__)):
            files = [os.path.join(folder, name) for name in names if name.endswith(".py")]
            found += [(path, *_state(os.stat(path))) for path in files]
    except OSError:
        return b""
    if any(max(written, changed) > BEGUN for _, written, changed, _ in found):  # since it was read: by others, or here
        return b""
    return sha256(repr(sorted(found)).encode()).digest() if found else b""


def _state(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_mtime_ns, status.st_ctime_ns, status.st_size


def kept() -> Coefficients | None:
    """Those that were measured on this machine, if they are there and whole."""
    import json

    content = cache.read(file_name())
    with suppress(ValueError, TypeError, KeyError, AttributeError, RecursionError):
        data = json.loads(content or b"")
        named = data["measured"].keys() == asdict(DEFAULT).keys()
        if named and data["format"] == FORMAT and data["of"] == [processor(), _target()]:
            return Coefficients(**data["measured"])
    return None


def keep(measured: Coefficients) -> str:
    """Write them for the processes that start from now on, and say where."""
    import json

    data = {"format": FORMAT, "of": [processor(), _target()], "measured": asdict(measured)}
    place = cache.place()
    if place is None or not cache.write(file_name(), (json.dumps(data, indent=1) + "\n").encode()):
        raise OSError(f"{cache.VARIABLE}={place or ''}: expected a folder of this user's own, to keep coefficients in")
    return os.path.join(place, file_name())


def file_name() -> str:
    """One for each processor, and target of code, as folders may be shared."""
    return f"coefficients-{re.sub(r'[^A-Za-z0-9.]+', '-', f'{processor()} {_target()}')}.json"


@lru_cache(maxsize=1)
def processor() -> str:
    """What the system calls the processor."""
    with suppress(OSError, StopIteration), open("/proc/cpuinfo", encoding="utf-8") as lines:
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    import platform

    return platform.processor() or platform.machine()


def _target() -> str:
    """What code is compiled for, if not for the processor at hand."""
    return os.environ.get("TRICONV_TARGET") or "host"
