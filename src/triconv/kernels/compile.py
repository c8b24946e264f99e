"""From a kernel's description to a callable: compiled by LLVM, kept as object code on disk for the next process.

A file of the cache is used only when it is this user's own, nobody else can write it, and it holds what its name and
its digest say. Anything else, and any failure to read or write, means compiling again: the cache is never an error.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import stat
import tempfile
import threading
from collections.abc import Callable, Hashable, Sequence
from dataclasses import asdict
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, Protocol

import llvmlite
import llvmlite.binding as llvm
from llvmlite import ir

from .target import Target, target
from .words import CHECKED

VARIABLE = "TRICONV_CACHE"
MAGIC = b"triconv object 1\n"
DIGEST = 32

_lock = threading.RLock()
_kept_alive: list[Any] = []


class Described(Hashable, Protocol):
    """A kernel as data: hashable, told apart by its repr, with the names and types of its arguments and its writer."""

    @property
    def name(self) -> str: ...
    @property
    def arguments(self) -> dict[str, ir.Type]: ...
    def emit(self, module: ir.Module, name: str, machine: Target) -> None: ...


def function(kernel: Described) -> Callable[..., None]:
    """A kernel to be called with addresses and whole numbers; other Python threads run while it does.

    In checked mode it wants `within` besides: for each array the first address and the one after the last.
    """
    with _lock:
        return _function(kernel, target())


@cache
def _function(kernel: Described, machine: Target) -> Callable[..., None]:
    path = _path(kernel, machine)
    code = _read(path)
    if code is None:
        code = object_code(kernel, machine)
        _write(path, code)
    library = llvm.JITLibraryBuilder().add_object_img(code).add_current_process().export_symbol(kernel.name)
    linked = library.link(_jit(machine), f"{kernel.name}.{len(_kept_alive)}")
    _kept_alive.append(linked)
    kinds = [
        ctypes.c_void_p if isinstance(kind, ir.PointerType) else ctypes.c_int64 for kind in kernel.arguments.values()
    ]
    if CHECKED:
        return _checked(kernel, ctypes.CFUNCTYPE(None, *kinds, ctypes.c_void_p)(linked[kernel.name]))
    return ctypes.CFUNCTYPE(None, *kinds)(linked[kernel.name])


def _checked(kernel: Described, run: Callable[..., None]) -> Callable[..., None]:
    """A kernel of checked mode, which raises what it finds."""
    arrays = [name for name, kind in kernel.arguments.items() if isinstance(kind, ir.PointerType)]

    def call(*values: int, within: Sequence[tuple[int, int]]) -> None:
        bounds = [address for pair in within for address in pair]
        limits = (ctypes.c_int64 * (len(bounds) + 2))(*bounds, 0, 0)
        run(*values, ctypes.addressof(limits))
        if limits[len(bounds)]:
            array, offset = arrays[limits[len(bounds)] - 1], limits[len(bounds) + 1]
            raise IndexError(f"kernel {kernel}: {array} at byte {offset}: expected an offset inside its array")

    return call


def object_code(kernel: Described, machine: Target) -> bytes:
    """Compile a kernel for a target, which need not be the machine at hand."""
    return bytes(_machine(machine).emit_object(_optimised(kernel, machine)))


def assembly(kernel: Described, machine: Target) -> str:
    """The assembly of a kernel for a target, to look at."""
    return str(_machine(machine).emit_assembly(_optimised(kernel, machine)))


def _optimised(kernel: Described, machine: Target) -> Any:
    module = ir.Module(kernel.name)
    module.triple = machine.triple
    kernel.emit(module, kernel.name, machine)
    parsed = llvm.parse_assembly(str(module))
    tuning = llvm.create_pipeline_tuning_options(speed_level=2)
    # The kernels say themselves what is a vector and what is unrolled.
    tuning.loop_vectorization = tuning.slp_vectorization = tuning.loop_unrolling = False
    builder = llvm.create_pass_builder(_machine(machine), tuning)
    builder.getModulePassManager().run(parsed, builder)
    return parsed


@lru_cache(maxsize=8)
def _machine(machine: Target) -> Any:
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    chosen = llvm.Target.from_triple(machine.triple)
    return chosen.create_target_machine(cpu=machine.cpu, features=machine.features, opt=2, jit=True, reloc="pic")


@lru_cache(maxsize=1)
def _jit(machine: Target) -> Any:
    return llvm.create_lljit_compiler(_machine(machine))


@lru_cache(maxsize=1)
def _own_source() -> bytes:
    """A digest of the code that writes kernels: another version writes other kernels."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.digest()


def _path(kernel: Described, machine: Target) -> Path | None:
    folder = _folder()
    if folder is None:
        return None
    versions = (llvmlite.__version__, llvm.llvm_version_info)
    text = repr((kernel, asdict(machine), versions, CHECKED)).encode() + _own_source()
    return folder / f"{kernel.name}-{hashlib.sha256(text).hexdigest()[:40]}.o"


@lru_cache(maxsize=1)
def _folder() -> Path | None:
    """The cache's folder, this user's alone; None when there can be none."""
    wanted = os.environ.get(VARIABLE)
    if wanted == "":
        return None
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    folder = Path(wanted or os.path.join(base, "triconv"))
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return folder if _is_ours(folder.stat()) else None
    except OSError:
        return None


def _is_ours(status: os.stat_result) -> bool:
    """Whether only this user can have written a file or folder."""
    if not hasattr(os, "getuid"):
        return True
    return status.st_uid == os.getuid() and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _read(path: Path | None) -> bytes | None:
    """The object code in a file of the cache, if it is whole and ours."""
    if path is None:
        return None
    try:
        with path.open("rb") as file:
            if not _is_ours(os.fstat(file.fileno())):
                return None
            content = file.read()
    except OSError:
        return None
    head, code = content[: len(MAGIC) + DIGEST], content[len(MAGIC) + DIGEST :]
    return code if head == MAGIC + hashlib.sha256(code).digest() else None


def _write(path: Path | None, code: bytes) -> None:
    """Put object code in the cache, beside and renamed."""
    if path is None:
        return
    beside = None
    try:
        handle, beside = tempfile.mkstemp(dir=path.parent, suffix=".part")  # readable and writable by its owner alone
        with os.fdopen(handle, "wb") as file:
            file.write(MAGIC + hashlib.sha256(code).digest() + code)
        os.replace(beside, path)
    except OSError:
        if beside is not None and os.path.exists(beside):
            os.unlink(beside)
