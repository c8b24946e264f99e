"""A small tape on which the three operations are differentiated to any order, by the one table.

A variable is a leaf or a sum of calls; a call is one of the three operations on two variables; the derivative of a call
is a call. So derivatives of every order are variables again, which can be evaluated, differentiated and printed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from .form import OPERANDS, Role, name_of
from .ops import conv, conv_transpose, conv_weight

Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Call:
    """One operation on variables, named by the role it produces."""

    produces: Role
    operands: dict[Role, Variable]

    @property
    def text(self) -> str:
        return f"{name_of(self.produces)}({', '.join(operand.text for operand in self.operands.values())})"


@dataclass(frozen=True, eq=False)
class Variable:
    """A value, and how it came about: a leaf of a given name, or a sum of calls."""

    value: Array
    name: str = ""
    calls: tuple[Call, ...] = ()

    @property
    def text(self) -> str:
        return self.name or " + ".join(call.text for call in self.calls)

    def __add__(self, other: Variable) -> Variable:
        return Variable(self.value + other.value, calls=self.calls + other.calls)


class Tape:
    """The three operations at one geometry, on variables, and their derivatives by the table."""

    def __init__(self, visible_size: Sequence[int], kernel_size: Sequence[int], bank: Any, options: dict[str, Any]):
        self.visible_size, self.kernel_size = tuple(visible_size), tuple(kernel_size)
        self.bank, self.options = bank, options

    def call(self, produces: Role, operands: dict[Role, Variable]) -> Variable:
        a, b = (operands[role].value for role in OPERANDS[produces])
        match produces:
            case Role.HIDDEN:
                value = conv(a, b, **self.options)
            case Role.VISIBLE:
                value = conv_transpose(a, b, visible_size=self.visible_size, **self.options)
            case Role.WEIGHT:
                value = conv_weight(a, b, self.kernel_size, bank=self.bank, **self.options)
        return Variable(value, calls=(Call(produces, {role: operands[role] for role in OPERANDS[produces]}),))

    def gradients(self, outputs: Sequence[tuple[Variable, Variable]], wrt: Sequence[Variable]) -> list[Variable | None]:
        """The gradients of Σ ⟨cotangent, output⟩ with respect to variables; None where there is no dependence.

        Each step is the table: put the cotangent in the place of the role that the call produced, and call the
        operation that produces the operand's role.
        """
        cotangents: dict[Variable, Variable] = {}

        def add(variable: Variable, part: Variable) -> None:
            cotangents[variable] = cotangents[variable] + part if variable in cotangents else part

        for output, cotangent in outputs:
            add(output, cotangent)
        for variable in _backwards([output for output, _ in outputs]):
            for call in variable.calls if variable in cotangents else ():
                for role, operand in call.operands.items():
                    known = {**call.operands, call.produces: cotangents[variable]}
                    add(operand, self.call(role, known))
        return [cotangents.get(variable) for variable in wrt]


def _backwards(outputs: Sequence[Variable]) -> list[Variable]:
    """Every variable that the outputs depend on, each before the ones it was made from."""
    done: dict[Variable, None] = {}

    def visit(variable: Variable) -> None:
        if variable in done:
            return
        for call in variable.calls:
            for operand in call.operands.values():
                visit(operand)
        done[variable] = None

    for output in outputs:
        visit(output)
    return list(reversed(done))
