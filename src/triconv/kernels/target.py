"""The processor that code is generated for: its name, features, vector width, registers and caches."""

from __future__ import annotations

import ctypes
import os
import sys
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import llvmlite.binding as llvm

VARIABLE = "TRICONV_TARGET"


@dataclass(frozen=True)
class Target:
    """What kernels need to know of a processor."""

    triple: str
    cpu: str
    features: str
    vector_bytes: int
    registers: int
    imitated: bool = False
    """Whether products of matrices are written in vectors, as the processor has none: to test, not to be fast."""

    def lanes(self, itemsize: int) -> int:
        """How many numbers a vector register holds."""
        return self.vector_bytes // itemsize

    @property
    def halves(self) -> bool:
        """Whether it converts float16 to float32 and back, as all do but baseline x86."""
        return self.vector_bytes > NAMED["sse"][2] or not self.triple.startswith(X86)

    @property
    def pairs(self) -> bool:
        """Whether it adds products of pairs of bfloat16 to float32 in one instruction."""
        return "+avx512bf16" in self.features.split(",")

    @property
    def matrices(self) -> bool:
        """Whether it multiplies small matrices of such pairs, and the system lets it."""
        return self.imitated or (self.pairs and "+amx-bf16" in self.features.split(",") and matrices_allowed())

    @property
    def foresees(self) -> bool:
        """Whether it finds out by itself which lines the next tiles read and write, where each has few numbers of many
        places. Zen 5 does, and takes longer for who asks; a Xeon does not; other Zens were not measured."""
        return self.cpu.startswith("znver")

    def at_once(self, dtype: str, itemsize: int) -> int:
        """How many numbers of a dtype, or pairs of it, it begins to multiply in half a cycle at most."""
        return self.lanes(itemsize) * (MATRIX if self.matrices and dtype.startswith("bfloat16") else 1)


MATRIX = 8
"""How many times as many products of bfloat16 a cycle has where they are of matrices."""

X86, ARM = "x86_64", "aarch64"

_AVX2 = ("avx2", "bmi", "bmi2", "f16c", "fma", "lzcnt", "movbe")
_AVX512 = (*_AVX2, "avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl")

IMITATED = "imitated"
"""The target whose products of matrices (AMX) are written in vectors."""

NAMED: dict[str, tuple[str, str, int, int, tuple[str, ...]]] = {
    "avx512": (X86, "x86-64-v4", 64, 32, _AVX512),
    "avx2": (X86, "x86-64-v3", 32, 16, _AVX2),
    "sse": (X86, "x86-64", 16, 16, ()),
    "neon": (ARM, "generic", 16, 32, ()),
    IMITATED: (X86, "x86-64-v4", 64, 32, (*_AVX512, "avx512bf16")),
}
"""Targets to ask for by name: processor family, LLVM's name, bytes of a vector, vector registers, features to run it.

Code for one that the processor at hand is not can be compiled, and looked at, but not run.
"""


@lru_cache(maxsize=8)
def target(name: str | None = None) -> Target:
    """The processor at hand, or the one that a name or the environment asks for."""
    name = name or os.environ.get(VARIABLE) or "host"
    triple = llvm.get_process_triple()
    if name in NAMED:
        family, cpu, vector_bytes, registers, _ = NAMED[name]
        features = "+avx512bf16" if name == IMITATED else ""
        if family != _family():
            triple = f"{family}-unknown-linux-gnu"
        return Target(triple, cpu, features, vector_bytes, registers, name == IMITATED)
    if name != "host":
        raise ValueError(f"{VARIABLE}={name!r}: expected host or one of {', '.join(NAMED)}")
    widest = next((one for one in NAMED if not lacking(one)), "sse")
    return Target(triple, llvm.get_host_cpu_name(), llvm.get_host_cpu_features().flatten(), *NAMED[widest][2:4])


def runnable() -> Target:
    """The target that is asked for, if the processor at hand can run its code."""
    name = os.environ.get(VARIABLE, "")
    if name in NAMED and (missing := lacking(name)):
        able = ", ".join(["host", *(other for other in NAMED if not lacking(other))])
        raise ValueError(f"{VARIABLE}={name!r}: expected one of {able}, as this processor lacks {', '.join(missing)}")
    return target()


def lacking(name: str) -> list[str]:
    """What a named target needs and the processor at hand, or its operating system, lacks."""
    family, _, _, _, needed = NAMED[name]
    if family != _family():
        return [family]
    features = llvm.get_host_cpu_features()
    return [feature for feature in needed if not features.get(feature)]


REQUEST, MATRICES, SYSTEM_CALL = 0x1023, 18, 158
"""What asks Linux on x86 for room to keep the registers of matrices; without it their instructions are errors."""


@lru_cache(maxsize=1)
def matrices_allowed() -> bool:
    """Whether the system lets this process use these registers."""
    try:
        return sys.platform == "linux" and not int(ctypes.CDLL(None).syscall(SYSTEM_CALL, REQUEST, MATRICES))
    except (OSError, AttributeError):
        return False


def _family() -> str:
    """The processor family at hand; the systems have several names for one."""
    first = str(llvm.get_process_triple()).split("-")[0]
    return {"arm64": ARM, "arm64e": ARM, "amd64": X86}.get(first, first)


@lru_cache(maxsize=1)
def cache_bytes() -> tuple[int, int]:
    """The data caches of one core, first and second level; common sizes where the system does not say."""
    found = caches()
    return found.get(1, 32 << 10), found.get(2, 512 << 10)


Machine = tuple[Target, tuple[int, int], bool]


def machine() -> Machine:
    """All that is asked of the machine at hand, but how long it takes."""
    return target(), cache_bytes(), target().matrices


def caches(folder: Path = Path("/sys/devices/system/cpu/cpu0/cache")) -> dict[int, int]:
    """Bytes of the caches of data, by their level, as far as the system says."""
    found = dict[int, int]()
    for index in sorted(folder.glob("index*")):
        with suppress(OSError, ValueError):
            kind, level, size = ((index / name).read_text().strip() for name in ("type", "level", "size"))
            bytes_ = int(size.rstrip("KMG")) << {"K": 10, "M": 20, "G": 30}.get(size[-1:], 0)
            if kind != "Instruction" and bytes_ > 0:
                found[int(level)] = bytes_
    return found
