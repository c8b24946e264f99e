"""The processor that code is generated for: its name, features, vector width, registers and caches."""

from __future__ import annotations

import os
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

    def lanes(self, itemsize: int) -> int:
        """How many numbers a vector register holds."""
        return self.vector_bytes // itemsize


NAMED: dict[str, tuple[str, str, str, int, int]] = {
    "avx512": ("x86_64-unknown-linux-gnu", "x86-64-v4", "", 64, 32),
    "avx2": ("x86_64-unknown-linux-gnu", "x86-64-v3", "", 32, 16),
    "sse": ("x86_64-unknown-linux-gnu", "x86-64", "", 16, 16),
    "neon": ("aarch64-unknown-linux-gnu", "generic", "+neon", 16, 32),
}
"""Targets to ask for by name; code for one that the machine is not can be compiled, and looked at, but not run."""


@lru_cache(maxsize=8)
def target(name: str | None = None) -> Target:
    """The processor at hand, or the one that a name or the environment asks for."""
    name = name or os.environ.get(VARIABLE) or "host"
    if name in NAMED:
        return Target(*NAMED[name])
    if name != "host":
        raise ValueError(f"{VARIABLE}={name!r}: expected host or one of {', '.join(NAMED)}")
    features = llvm.get_host_cpu_features()
    triple = llvm.get_process_triple()
    if features.get("avx512f") and features.get("avx512vl"):
        shape = 64, 32
    elif features.get("avx2") and features.get("fma"):
        shape = 32, 16
    else:
        shape = 16, 32 if triple.startswith(("aarch64", "arm64")) else 16
    return Target(triple, llvm.get_host_cpu_name(), features.flatten(), *shape)


@lru_cache(maxsize=1)
def cache_bytes() -> tuple[int, int]:
    """The data caches of one core, first and second level; common sizes where the system does not say."""
    found = {1: 32 << 10, 2: 512 << 10}
    for index in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*"):
        try:
            kind, level, size = ((index / name).read_text().strip() for name in ("type", "level", "size"))
        except OSError:
            continue
        if kind != "Instruction" and int(level) in found:
            found[int(level)] = int(size.rstrip("KM")) << (20 if size.endswith("M") else 10)
    return found[1], found[2]
