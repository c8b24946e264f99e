"""LLVM's language as text: what the builder writes is what LLVM reads."""

from __future__ import annotations

import llvmlite.binding as llvm
import numpy as np
import pytest

from triconv.kernels.ir import (
    BFLOAT,
    DOUBLE,
    FLOAT,
    HALF,
    I1,
    I32,
    I64,
    POINTER,
    VOID,
    Builder,
    Function,
    Module,
    like,
    vector,
)


def begun() -> tuple[Module, Builder]:
    module = Module(llvm.get_process_triple())
    function = Function(module, VOID, [I64, POINTER], "f")
    return module, Builder(function.append_basic_block("entry"))


def read(module: Module) -> str:
    """The text as LLVM writes it, once it has read and verified it."""
    parsed = llvm.parse_assembly(str(module))
    parsed.verify()
    return str(parsed)


@pytest.mark.parametrize("number", [0.1, -1 / 3, 1e-45, 3.4e38, float("inf")])
def test_constants_are_exact(number: float) -> None:
    """A number of float32 is written as the float64 that it is, or LLVM would not read it."""
    single = float(np.float32(number))
    for kind, value in ((FLOAT, single), (DOUBLE, number)):
        assert int(kind(number).ref, 16) == np.float64(value).view(np.uint64)
        module, build = begun()
        build.store(vector(kind, 4)(number), build.function.args[1])
        build.ret_void()
        assert "<4 x" in read(module)


def test_types_are_told_apart_by_what_they_are() -> None:
    assert vector(FLOAT, 4) is vector(FLOAT, 4) is not vector(DOUBLE, 4)
    assert like(vector(FLOAT, 8), I1) is vector(I1, 8)
    assert like(FLOAT, I1) is I1
    assert [kind.bytes for kind in (HALF, BFLOAT, FLOAT, DOUBLE, I32, POINTER, vector(I32, 8))] == [
        2,
        2,
        4,
        8,
        4,
        8,
        32,
    ]


def test_a_block_that_ends_otherwise_is_left_so() -> None:
    module, build = begun()
    entry = build.block
    with build.if_else(build.icmp_signed("<", build.function.args[0], I64(3))) as (then, otherwise):
        with then:
            build.ret_void()
        with otherwise:
            build.store(I64(1), build.function.args[1])
    build.ret_void()
    inside, other, behind = build.function.blocks[1:]
    assert (inside.end, other.end, behind.end) == ("ret void", f"br label %{behind.label}", "ret void")
    assert entry.end.startswith("br i1 %v1,")
    assert read(module).count("ret void") == 2


def test_room_on_the_stack_is_taken_once() -> None:
    """At the function's beginning, however often a loop comes by."""
    module, build = begun()
    inner = build.function.append_basic_block("inner")
    build.branch(inner)
    build.position_at_end(inner)
    index = build.phi(I64)
    index.add_incoming(I64(0), build.function.blocks[0])
    build.alloca(FLOAT, 16, align=64)
    following = build.add_nsw(index, I64(1))
    index.add_incoming(following, inner)
    after = build.function.append_basic_block("after")
    build.cbranch(build.icmp_signed("<", following, build.function.args[0]), inner, after)
    build.position_at_end(after)
    build.ret_void()
    text = read(module)
    assert "alloca [16 x float], align 64" in text.split("br label")[0]
    assert "phi i64 [ 0, %entry0 ], [ %v3, %inner1 ]" in text


def test_functions_are_declared_once() -> None:
    module, build = begun()
    for _ in range(2):
        build.call(
            module.declared(VOID, [POINTER, I32, I32, I32], "llvm.prefetch.p0"), [build.function.args[1]] + [I32(1)] * 3
        )
    build.ret_void()
    assert read(module).count("declare void @llvm.prefetch.p0") == 1


def test_arrays_lie_apart_only_where_that_is_said() -> None:
    module, build = begun()
    build.ret_void()
    assert "noalias" not in read(module)
    build.function.apart = True
    assert read(module).count("noalias") == 1
