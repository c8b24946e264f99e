"""From a kernel's description to a callable: compiled by LLVM, kept as object code on disk for the next process.

What a file of the cache holds is executed, so it is read only when nobody but this user can have put it there, and
only when it is whole (`cache`).

The key is all that the code depends on: the kernel's description, the source that writes kernels (which also stands
for triconv's version), the processor's name and features, and the versions of LLVM and llvmlite. Anything unexpected
means compiling again.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import sys
import threading
from collections.abc import Callable, Hashable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import llvmlite
import llvmlite.binding as llvm
from numpy.lib.array_utils import byte_bounds
from numpy.typing import NDArray

from .. import cache
from . import ir
from .target import Target, runnable
from .words import CHECKED, POINTER

KEPT = cache.Shelf("o", 4096)
"""Object code, of 1 to 10 kB a kernel."""

FOLDER = str(Path(__file__).parent)

_lock = threading.RLock()
_functions: dict[Described, Compiled] = {}
_linked: set[str] = set()
"""What the code is called that is in memory."""
_kept_alive: list[Any] = []

if hasattr(os, "register_at_fork"):
    # Nobody is in the middle of LLVM when a process forks, so the child's is whole and its lock is free.
    os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release)


class Described(Hashable, Protocol):
    """A kernel as data: hashable, told apart by its repr, with the names and types of its arguments and its writer."""

    @property
    def name(self) -> str: ...
    @property
    def arguments(self) -> dict[str, ir.Type]: ...
    def emit(self, module: ir.Module, name: str, machine: Target) -> None: ...


class Filed(NamedTuple):
    """A file of object code, the key that it belongs to, and what the code is called."""

    name: str
    key: bytes
    symbol: str


class Compiled(Protocol):
    """A kernel to be called with addresses and whole numbers; other Python threads run while it does.

    In checked mode it wants `within` besides: for each array the first address and the one after the last.
    """

    entry: int
    """Where machine code can call it; none in checked mode."""
    pointers: tuple[int, ...]
    """Which of its arguments are addresses in arrays."""
    filed: Filed | None
    """Where its object code is kept, if it is."""

    def __call__(self, *values: int, **within: Sequence[tuple[int, int]]) -> None: ...


class Call(NamedTuple):
    """A kernel, its arguments, and the arrays that these lie in, which stay as long as the call does."""

    kernel: Compiled
    values: tuple[int, ...]
    arrays: tuple[NDArray[Any], ...]

    def run(self) -> None:
        """Run the kernel on this thread."""
        if CHECKED:
            self.kernel(*self.values, **bounds(*self.arrays))
        else:
            self.kernel(*self.values)


def function(kernel: Described) -> Compiled:
    """A kernel's machine code. What is compiled already is found without waiting for what is being compiled."""
    found = _functions.get(kernel)
    if found is None:
        with _lock:
            found = _functions.get(kernel)
            if found is None:
                found = _functions[kernel] = _function(kernel, runnable())
    return found


def _function(kernel: Described, machine: Target) -> Compiled:
    symbol, linker = _symbol(kernel), _linker(machine)
    key = _key(kernel, machine)
    if symbol not in _linked:
        code = None if key is None else KEPT.read(kernel.name, key)
        if code is None:
            code = object_code(kernel, machine, symbol)
            if key is not None:
                KEPT.write(kernel.name, key, code)
        _link(linker, symbol, code)
    place = linker.get_function_address(symbol)
    kinds = [ctypes.c_void_p if kind is POINTER else ctypes.c_int64 for kind in kernel.arguments.values()]
    if CHECKED:
        return _checked(kernel, ctypes.CFUNCTYPE(None, *kinds, ctypes.c_void_p)(place))
    compiled: Any = ctypes.CFUNCTYPE(None, *kinds)(place)
    compiled.entry = place
    compiled.pointers = tuple(number for number, kind in enumerate(kinds) if kind is ctypes.c_void_p)
    compiled.filed = None if key is None else Filed(kernel.name, key, symbol)
    return compiled  # type: ignore[no-any-return]


def _link(linker: Any, symbol: str, code: bytes) -> None:
    """Put object code into memory, where it stays."""
    linker.add_object_file(llvm.ObjectFileRef.from_data(code))
    linker.finalize_object()
    _linked.add(symbol)


def entry(filed: Filed) -> int | None:
    """Where machine code can call a kernel whose object code is kept, as `Compiled.entry`; None if it is gone."""
    with _lock:
        linker = _linker(runnable())
        if filed.symbol not in _linked:
            if (code := KEPT.read(filed.name, filed.key)) is None:
                return None
            _link(linker, filed.symbol, code)
        return int(linker.get_function_address(filed.symbol))


def bounds(*arrays: NDArray[Any]) -> dict[str, Any]:
    """What a kernel wants to know of its arrays besides their addresses: nothing, but in checked mode."""
    return {"within": [byte_bounds(array) for array in arrays]} if CHECKED else {}


def _checked(kernel: Described, run: Callable[..., None]) -> Compiled:
    """A kernel of checked mode, which raises what it finds."""
    arrays = [name for name, kind in kernel.arguments.items() if kind is POINTER]

    def call(*values: int, within: Sequence[tuple[int, int]]) -> None:
        if len(within) != len(arrays):
            raise TypeError(f"kernel {kernel.name}: bounds of {len(within)} arrays: expected {', '.join(arrays)}")
        limits = (ctypes.c_int64 * (2 * len(arrays) + 2))(*(address for pair in within for address in pair), 0, 0)
        run(*values, ctypes.addressof(limits))
        number, offset = limits[2 * len(arrays) :]
        if number:
            raise IndexError(
                f"kernel {kernel}: {arrays[number - 1]} at byte {offset}: expected an offset inside its array"
            )

    compiled: Any = call
    compiled.entry = 0
    return compiled  # type: ignore[no-any-return]


def _symbol(kernel: Described) -> str:
    """What the kernel's code is called, which no other kernel's is: all code is linked together."""
    return f"{kernel.name}_{hashlib.sha256(_told_apart(kernel)).hexdigest()[:32]}"


def _told_apart(kernel: Described) -> bytes:
    return f"{type(kernel).__module__} {kernel!r}".encode()


def object_code(kernel: Described, machine: Target, symbol: str = "") -> bytes:
    """Compile a kernel for a target, which need not be the machine at hand; `symbol` is what to call the code."""
    with _lock:
        return bytes(_machine(machine).emit_object(_optimised(kernel, machine, symbol or kernel.name)))


def assembly(kernel: Described, machine: Target) -> str:
    """The assembly of a kernel for a target, to look at."""
    with _lock:
        return str(_machine(machine).emit_assembly(_optimised(kernel, machine, kernel.name)))


def _optimised(kernel: Described, machine: Target, symbol: str) -> Any:
    module = ir.Module(machine.triple)
    kernel.emit(module, symbol, machine)
    module.functions[symbol].attributes.append("nounwind")
    parsed = llvm.parse_assembly(str(module))
    # The kernels say themselves what is a vector and what is unrolled, and whoever emits the code keeps loops short: a
    # whole level of passes takes as long as that, and makes none of them faster.
    passes = llvm.create_new_module_pass_manager()
    passes.add_sroa_pass()
    passes.add_instruction_combine_pass()
    passes.run(parsed, llvm.create_pass_builder(_machine(machine), llvm.create_pipeline_tuning_options()))
    return parsed


@lru_cache(maxsize=8)
def _machine(machine: Target) -> Any:
    return _new_machine(machine)


def _new_machine(machine: Target) -> Any:
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    chosen = llvm.Target.from_triple(machine.triple)
    return chosen.create_target_machine(cpu=machine.cpu, features=machine.features, opt=2, jit=True, reloc="default")


@lru_cache(maxsize=8)
def _linker(machine: Target) -> Any:
    """What puts object code into memory, and keeps it there. LLVM's newer one takes four times as long for a kernel."""
    nothing = llvm.parse_assembly(f'target triple = "{machine.triple}"')
    linker = llvm.create_mcjit_compiler(nothing, _new_machine(machine))  # which is its own then
    _kept_alive.append(linker)
    return linker


def _key(kernel: Described, machine: Target) -> bytes | None:
    """A digest of all that a kernel's code depends on; None where its source is not there to be read."""
    module = sys.modules.get(type(kernel).__module__)
    written = _source(FOLDER), _source(getattr(module, "__file__", None))
    if None in written:
        return None
    versions = llvmlite.__version__, llvm.llvm_version_info
    beside = _beside(machine, versions, CHECKED, *written)
    return hashlib.sha256(beside + _told_apart(kernel)).digest()


@lru_cache(maxsize=8)
def _beside(*what: Hashable) -> bytes:
    """A digest of what all kernels' code depends on."""
    return hashlib.sha256(repr(what).encode()).digest()


@lru_cache(maxsize=64)
def _source(path: str | None) -> str | None:
    """A digest of a module's source, or of all in a folder."""
    if path is None:
        return None
    files = sorted(Path(path).glob("*.py")) if os.path.isdir(path) else [Path(path)]
    digest = hashlib.sha256()
    try:
        for file in files:
            digest.update(hashlib.sha256(file.read_bytes()).digest())
    except OSError:
        return None
    return digest.hexdigest() if files else None
