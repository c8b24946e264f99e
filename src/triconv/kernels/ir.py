"""LLVM's language as text: types, values, and a builder that writes one line for each instruction, by LLVM's own names.

llvmlite has these as well, for all of the language and for modules that are changed once they are built; to write a
kernel with them takes as long as LLVM takes to compile it.

    module = Module(triple)
    build = Builder(Function(module, VOID, [I64], "f").append_basic_block("entry"))
    build.ret_void()
    text = str(module)
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import cache


class Type:
    """A type; of vectors, of `count` numbers of another. Types are the same only if they are the same object."""

    __slots__ = ("bytes", "count", "element", "suffix", "text")

    def __init__(self, text: str, suffix: str, size: int, element: Type | None = None, count: int = 1) -> None:
        self.text, self.suffix, self.bytes = text, suffix, size  # as LLVM writes it, alone and in names of functions
        self.element, self.count = element or self, count

    def __call__(self, number: float | Sequence[int] | None) -> Value:
        """A constant: a number, numbers of a vector one by one, or all zeros."""
        if number is None:
            return Value(self, "zeroinitializer")
        if isinstance(number, Sequence):
            return Value(self, f"<{', '.join([f'{self.element.text} {one}' for one in number])}>")
        if self.count > 1:
            return Value(self, f"splat ({self.element(number).typed})")
        return Value(self, _hexadecimal(self, number) if self in (FLOAT, DOUBLE) else str(number))

    def __repr__(self) -> str:
        return self.text


class Value:
    """What an instruction makes, an argument, or a constant."""

    __slots__ = ("ref", "type", "typed")

    def __init__(self, kind: Type, ref: str) -> None:
        self.type, self.ref, self.typed = kind, ref, f"{kind.text} {ref}"


I1, I8, I16, I32, I64 = (Type(f"i{bits}", f"i{bits}", bits // 8) for bits in (1, 8, 16, 32, 64))
HALF, BFLOAT = Type("half", "f16", 2), Type("bfloat", "bf16", 2)
FLOAT, DOUBLE = Type("float", "f32", 4), Type("double", "f64", 8)
POINTER, VOID = Type("ptr", "p0", 8), Type("void", "", 0)


@cache
def vector(element: Type, count: int) -> Type:
    """A vector type."""
    return Type(f"<{count} x {element.text}>", f"v{count}{element.suffix}", count * element.bytes, element, count)


def like(kind: Type, element: Type) -> Type:
    """As many of another type."""
    return element if kind.element is kind else vector(element, kind.count)


def undefined(kind: Type) -> Value:
    """A value that is any."""
    return Value(kind, "undef")


def _hexadecimal(kind: Type, number: float) -> str:
    """A number as LLVM wants it, exactly; one of float32 as the float64 that it is, too."""
    (rounded,) = struct.unpack("f", struct.pack("f", number)) if kind is FLOAT else (number,)
    return f"0x{int.from_bytes(struct.pack('>d', rounded)):016x}"


class Callee:
    """What can be called: its result's type, and what it is called by."""

    __slots__ = ("ref", "result")

    def __init__(self, result: Type, ref: str) -> None:
        self.result, self.ref = result, ref


def inline_assembly(result: Type, text: str, constraints: str, lasting: bool = False) -> Callee:
    """Instructions as they are, of which LLVM knows nothing but the constraints of operands; `lasting` ones stay
    where nobody asks for their result."""
    return Callee(result, f'asm {"sideeffect " * lasting}"{text}", "{constraints}"')


class Block:
    """Lines in a row, ended by one that says where to go."""

    __slots__ = ("end", "function", "label", "lines")

    def __init__(self, function: Function, label: str) -> None:
        self.function, self.label, self.lines, self.end = function, label, list[str | Phi](), ""


class Phi(Value):
    """A value by the block that one comes from; these may be told later."""

    __slots__ = ("incoming",)

    def __init__(self, kind: Type, ref: str) -> None:
        super().__init__(kind, ref)
        self.incoming: list[str] = []

    def add_incoming(self, value: Value, block: Block) -> None:
        self.incoming.append(f"[{value.ref}, %{block.label}]")

    def __str__(self) -> str:
        return f"{self.ref} = phi {self.type.text} {', '.join(self.incoming)}"


class Function(Callee):
    """A function of a module: only declared, as long as it has no blocks."""

    __slots__ = ("apart", "args", "attributes", "blocks", "linkage", "made", "module")

    def __init__(self, module: Module, result: Type, arguments: Sequence[Type], name: str) -> None:
        super().__init__(result, f'@"{name}"')
        self.module, self.blocks, self.made = module, list[Block](), 0
        self.args = [Value(kind, f"%a{number}") for number, kind in enumerate(arguments)]
        self.linkage, self.attributes = "", list[str]()
        self.apart = False
        """Whether what is read or written through one pointer is never through another."""
        module.functions[name] = self

    def append_basic_block(self, name: str) -> Block:
        block = Block(self, f"{name}{len(self.blocks)}")
        self.blocks.append(block)
        return block

    def __str__(self) -> str:
        if not self.blocks:
            return f"declare {self.result.text} {self.ref}({', '.join([one.type.text for one in self.args])})"
        noalias = " noalias" if self.apart else ""
        given = ", ".join([f"{one.type.text}{noalias if one.type is POINTER else ''} {one.ref}" for one in self.args])
        lines = [f"define {self.linkage} {self.result.text} {self.ref}({given}) {' '.join(self.attributes)} {{"]
        for block in self.blocks:
            lines += [f"{block.label}:", *map(str, block.lines), block.end]
        return "\n".join([*lines, "}"])


class Module:
    """Functions, for a kind of processor."""

    def __init__(self, triple: str) -> None:
        self.triple = triple
        self.functions: dict[str, Function] = {}

    def declared(self, result: Type, arguments: Sequence[Type], name: str) -> Function:
        """A function of that name, which is declared here if there is none."""
        return self.functions.get(name) or Function(self, result, arguments, name)

    def __str__(self) -> str:
        head = f'target triple = "{self.triple}"\ntarget datalayout = ""'
        return "\n\n".join([head, *map(str, self.functions.values()), "!0 = !{i32 1}\n"])


COMPARED = {"<": "lt", "<=": "le", ">": "gt", ">=": "ge", "==": "eq", "!=": "ne", "ord": "rd"}


def _two(name: str) -> Callable[[Builder, Value, Value], Value]:
    """An instruction on two numbers of a type, which makes one of that type."""

    def write(build: Builder, a: Value, b: Value) -> Value:
        return build.value(a.type, f"{name} {a.typed}, {b.ref}")

    return write


def _to(name: str) -> Callable[[Builder, Value, Type], Value]:
    """An instruction that makes a value of another type, if it is another."""

    def write(build: Builder, value: Value, kind: Type) -> Value:
        return value if value.type is kind else build.value(kind, f"{name} {value.typed} to {kind.text}")

    return write


class Builder:
    """Instructions at the end of a block."""

    def __init__(self, block: Block) -> None:
        self.block, self.function = block, block.function

    def _line(self, text: str) -> None:
        self.block.lines.append(text)

    def value(self, kind: Type, text: str) -> Value:
        """What an instruction makes."""
        self.function.made += 1
        value = Value(kind, f"%v{self.function.made}")
        self.block.lines.append(f"{value.ref} = {text}")
        return value

    # Blocks

    def position_at_end(self, block: Block) -> None:
        self.block = block

    def branch(self, block: Block) -> None:
        self.block.end = f"br label %{block.label}"

    def cbranch(self, condition: Value, then: Block, otherwise: Block) -> None:
        self.block.end = f"br {condition.typed}, label %{then.label}, label %{otherwise.label}"

    def ret_void(self) -> None:
        self.block.end = "ret void"

    def phi(self, kind: Type) -> Phi:
        self.function.made += 1
        found = Phi(kind, f"%v{self.function.made}")
        self.block.lines.append(found)
        return found

    @contextmanager
    def if_then(self, condition: Value) -> Iterator[None]:
        """Only if a condition holds."""
        inside, behind = (self.function.append_basic_block(name) for name in ("if", "endif"))
        self.cbranch(condition, inside, behind)
        with self._within(inside, behind):
            yield
        self.block = behind

    @contextmanager
    def if_else(self, condition: Value) -> Iterator[tuple[AbstractContextManager[None], AbstractContextManager[None]]]:
        """What is done if a condition holds, and what if it does not."""
        inside, other, behind = (self.function.append_basic_block(name) for name in ("if", "else", "endif"))
        self.cbranch(condition, inside, other)
        yield self._within(inside, behind), self._within(other, behind)
        self.block = behind

    @contextmanager
    def _within(self, block: Block, behind: Block) -> Iterator[None]:
        """Lines of a block that goes on behind it, unless it ends otherwise."""
        self.block = block
        yield
        if not self.block.end:
            self.branch(behind)

    # Numbers

    add, sub, mul = _two("add"), _two("sub"), _two("mul")
    add_nsw, sub_nsw, mul_nsw = _two("add nsw"), _two("sub nsw"), _two("mul nsw")  # no overflow of signed numbers
    sdiv, udiv, urem = _two("sdiv"), _two("udiv"), _two("urem")
    shl, lshr, and_, or_ = _two("shl"), _two("lshr"), _two("and"), _two("or")
    fadd, fsub, fmul = _two("fadd"), _two("fsub"), _two("fmul")

    def not_(self, a: Value) -> Value:
        return self.value(a.type, f"xor {a.typed}, -1")

    def fneg(self, a: Value) -> Value:
        return self.value(a.type, f"fneg {a.typed}")

    def _compared(self, name: str, a: Value, b: Value) -> Value:
        return self.value(like(a.type, I1), f"{name} {a.typed}, {b.ref}")

    def icmp_signed(self, sign: str, a: Value, b: Value) -> Value:
        return self._compared(f"icmp {'' if sign in ('==', '!=') else 's'}{COMPARED[sign]}", a, b)

    def icmp_unsigned(self, sign: str, a: Value, b: Value) -> Value:
        return self._compared(f"icmp {'' if sign in ('==', '!=') else 'u'}{COMPARED[sign]}", a, b)

    def fcmp_ordered(self, sign: str, a: Value, b: Value) -> Value:
        """Neither is a NaN, and they compare so; "ord" asks no more than the first."""
        return self._compared(f"fcmp o{COMPARED[sign]}", a, b)

    def fcmp_unordered(self, sign: str, a: Value, b: Value) -> Value:
        """One is a NaN, or they compare so."""
        return self._compared(f"fcmp u{COMPARED[sign]}", a, b)

    def select(self, condition: Value, a: Value, b: Value) -> Value:
        return self.value(a.type, f"select {condition.typed}, {a.typed}, {b.typed}")

    # Types

    zext, sext, trunc = _to("zext"), _to("sext"), _to("trunc")
    fpext, fptrunc, bitcast = _to("fpext"), _to("fptrunc"), _to("bitcast")
    inttoptr, ptrtoint = _to("inttoptr"), _to("ptrtoint")

    # Vectors

    def shuffle_vector(self, a: Value, b: Value, lanes: Value) -> Value:
        kind = vector(a.type.element, lanes.type.count)
        return self.value(kind, f"shufflevector {a.typed}, {b.typed}, {lanes.typed}")

    def insert_element(self, whole: Value, one: Value, lane: Value) -> Value:
        return self.value(whole.type, f"insertelement {whole.typed}, {one.typed}, {lane.typed}")

    def extract_element(self, whole: Value, lane: Value) -> Value:
        return self.value(whole.type.element, f"extractelement {whole.typed}, {lane.typed}")

    # Memory

    def alloca(self, kind: Type, count: int = 0, align: int = 0) -> Value:
        """Room on the stack from a function's beginning on, for one or so many."""
        self.function.made += 1
        value, size = Value(POINTER, f"%v{self.function.made}"), f"[{count} x {kind.text}]" if count else kind.text
        self.function.blocks[0].lines.append(f"{value.ref} = alloca {size}{_aligned(align)}")
        return value

    def gep(self, place: Value, offset: Value, element: Type, inbounds: bool = False) -> Value:
        """A place so many elements further on; of vectors, places."""
        kind, name = place.type, "getelementptr inbounds" if inbounds else "getelementptr"
        return self.value(kind, f"{name} {element.text}, {place.typed}, {offset.typed}")

    def load(self, place: Value, kind: Type, align: int = 0) -> Value:
        return self.value(kind, f"load {kind.text}, {place.typed}{_aligned(align)}")

    def store(self, value: Value, place: Value, align: int = 0, past: bool = False) -> None:
        """Write a value; perhaps past the caches."""
        self._line(f"store {value.typed}, {place.typed}{_aligned(align)}{', !nontemporal !0' if past else ''}")

    def load_atomic(self, place: Value, kind: Type, order: str) -> Value:
        return self.value(kind, f"load atomic {kind.text}, {place.typed} {order}, align {kind.bytes}")

    def atomic_rmw(self, name: str, place: Value, value: Value, order: str) -> Value:
        return self.value(value.type, f"atomicrmw {name} {place.typed}, {value.typed} {order}")

    def cmpxchg(self, place: Value, expected: Value, value: Value, order: str) -> Value:
        """Write a value where another one is; was it there?"""
        pair = f"{{{value.type.text}, i1}}"
        found = self.value(I1, f"cmpxchg {place.typed}, {expected.typed}, {value.typed} {order} {order}")
        return self.value(I1, f"extractvalue {pair} {found.ref}, 1")

    # Calls

    def call(self, callee: Callee, values: Sequence[Value]) -> Value:
        """What a function returns; of one that returns nothing, not to be used."""
        given = ", ".join([value.typed for value in values])
        text = f"call {callee.result.text} {callee.ref}({given})"
        if callee.result is not VOID:
            return self.value(callee.result, text)
        self._line(text)
        return NOTHING


NOTHING = Value(VOID, "")


def _aligned(size: int) -> str:
    return f", align {size}" if size else ""
