"""The one trilinear form, its three roles, and what follows from them.

    T(v, w, h) = Σ_{n,o,i,c,k}  h[n,o,c] · w[c mod t, o, i, k] · v[n, i, s∘c + e∘k − p]

T is linear in each argument. Its derivative with respect to one role is an operation on the other two, and there are
no other operations: `OPERANDS` below is at once the list of operations and the table of all their derivatives.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from functools import cached_property
from math import prod

from .channels import Channels
from .geometry import Axis, Geometry


class Role(Enum):
    """What an array is in the form; an operation is named by the role it produces."""

    VISIBLE = "visible"
    HIDDEN = "hidden"
    WEIGHT = "weight"

    __hash__ = object.__hash__  # there is one of each, and Enum's own is written in Python


OPERANDS: dict[Role, tuple[Role, Role]] = {
    Role.HIDDEN: (Role.VISIBLE, Role.WEIGHT),  # conv            H = W @_d V     ∂T/∂h
    Role.VISIBLE: (Role.HIDDEN, Role.WEIGHT),  # conv_transpose  R = W @_d^T H   ∂T/∂v
    Role.WEIGHT: (Role.VISIBLE, Role.HIDDEN),  # conv_weight     A = H #_d V     ∂T/∂w
}
"""The operation that produces each role, by its operands, in the order in which functions take them.

It is the derivative table too. To differentiate the operation that produces R with respect to its operand X, put the
cotangent in R's place and call the operation that produces X: its operands are OPERANDS[X], and R is one of them.
"""

OPERATIONS: dict[str, Role] = {"conv": Role.HIDDEN, "conv_transpose": Role.VISIBLE, "conv_weight": Role.WEIGHT}
"""The public name of the operation that produces each role."""


def name_of(produces: Role) -> str:
    """The public name of the operation that produces a role."""
    return next(name for name, role in OPERATIONS.items() if role is produces)


@dataclass(frozen=True)
class Problem:
    """One operation at one size: all that an engine may ask before it sees an array."""

    produces: Role
    geometry: Geometry
    channels: Channels
    batch: int
    dtype: str
    itemsize: int
    precision: str = "default"

    @property
    def name(self) -> str:
        """The public name of the operation."""
        return name_of(self.produces)

    def producing(self, role: Role) -> Problem:
        """The operation that produces another role, at the same size."""
        return replace(self, produces=role)

    @property
    def operands(self) -> tuple[Role, Role]:
        return OPERANDS[self.produces]

    def shape(self, role: Role) -> tuple[int, ...]:
        """The shape of the array in a role."""
        match role:
            case Role.VISIBLE:
                return (self.batch, self.channels.visible, *self.geometry.visible)
            case Role.HIDDEN:
                return (self.batch, self.channels.hidden, *self.geometry.hidden)
            case Role.WEIGHT:
                bank = self.geometry.bank if self.geometry.banked else ()
                return (*bank, *self.channels.weight, *self.geometry.kernel)

    def order(self, role: Role) -> tuple[int, ...]:
        """The axes of the array in a role, in the physical order that engines like best: channels innermost."""
        rank = self.geometry.rank
        return weight_order(rank, self.geometry.banked) if role is Role.WEIGHT else (0, *range(2, 2 + rank), 1)

    @property
    def complex(self) -> bool:
        return self.dtype.startswith("complex")

    @property
    def terms(self) -> int:
        """How many products the form sums: examples × edges × hidden positions × taps."""
        return self.batch * self.channels.edges * prod(self.geometry.hidden) * prod(self.geometry.kernel)

    @property
    def products(self) -> int:
        """How many of the terms meet no zeros of a border."""
        return self.batch * self.channels.edges * prod(axis.products for axis in self.geometry.axes)

    @property
    def flops(self) -> int:
        """Real additions and multiplications of the sum as written: 2 a term, 8 for complex numbers."""
        return self.terms * (8 if self.complex else 2)

    def bytes_of(self, role: Role) -> int:
        return prod(self.shape(role)) * self.itemsize

    @cached_property
    def bytes(self) -> int:
        """What the operands and the result occupy: the least that must move."""
        return sum(self.bytes_of(role) for role in Role)

    @cached_property
    def _padded(self) -> dict[Role, int]:
        """The numbers of an example's arrays, with what windows reach around them."""
        axes = self.geometry.axes
        around = 2 if self.produces is Role.VISIBLE else 0  # only windows of a transpose reach beyond the hidden
        return {
            Role.VISIBLE: self.channels.visible * prod(max(axis.visible, axis.reach) for axis in axes),
            Role.HIDDEN: self.channels.hidden * prod(axis.hidden + around * (axis.span - 1) for axis in axes),
            Role.WEIGHT: 0,
        }

    @cached_property
    def extra(self) -> int:
        """The bytes of one padded copy of the operands, and of the weight: the most to take besides the result."""
        numbers = self.batch * sum(self._padded[role] for role in self.operands)
        return self.itemsize * numbers + self.bytes_of(Role.WEIGHT)

    @property
    def padded(self) -> int:
        """The bytes of one padded copy of operands and result."""
        return self.itemsize * self.batch * sum(self._padded.values()) + self.bytes_of(Role.WEIGHT)


def weight_order(rank: int, banked: bool) -> tuple[int, ...]:
    """The axes of a weight in the physical order [t][k][i][o], hidden channels innermost, that engines like best."""
    lead = rank if banked else 0
    return (*range(lead), *range(lead + 2, lead + 2 + rank), lead + 1, lead)


def equation(problem: Problem) -> str:
    """The operation as a sum over indices, with the problem's own numbers in it; beyond a zero border, v is zero.

    What the form has at a place of the result is the result's index there if it is a bare index, and then it is not
    summed over. Otherwise the result gets an index of its own, which a condition ties to what the form has.
    """
    axes, channels = problem.geometry.axes, problem.channels
    banked = axes if problem.geometry.banked else ()
    c, k, x = (_indices(letter, len(axes)) for letter in "ckx")
    channel, column = _channel(channels)
    form = {
        Role.VISIBLE: ["n", channel, *map(_place, axes, c, k)],
        Role.HIDDEN: ["n", "o", *c],
        Role.WEIGHT: [*map(_bank, banked, c), "o", column, *k],
    }
    own = {
        Role.VISIBLE: ["n", "j", *x],
        Role.HIDDEN: form[Role.HIDDEN],
        Role.WEIGHT: [*_indices("b", len(banked)), "o", column, *k],
    }
    result = form[problem.produces]
    left = [place if place.isalnum() else index for place, index in zip(result, own[problem.produces], strict=True)]
    sizes = dict(zip(["n", "o", column, *c, *k], _sizes(problem), strict=True))
    over = ", ".join(f"{index}<{size}" for index, size in sizes.items() if index not in (*left, "0"))
    conditions = ["graph[o, i]"] if channels.graph is not None else []
    conditions += [f"{index} = {place}" for index, place in zip(left, result, strict=True) if index != place]
    factors = " · ".join(_entry(role, form[role]) for role in problem.operands)
    where = f"   where {'; '.join(conditions)}" if conditions else ""
    return f"{_entry(problem.produces, left)} = {f'Σ_{{{over}}} ' if over else ''}{factors}{where}"


def _entry(role: Role, places: list[str]) -> str:
    return f"{role.value[0]}[{', '.join(places)}]"


def _indices(letter: str, rank: int) -> list[str]:
    return [letter] if rank == 1 else [f"{letter}{axis}" for axis in range(rank)]


def _sizes(problem: Problem) -> tuple[int, ...]:
    """How far n, o, i, c and k run."""
    return (problem.batch, *problem.channels.weight, *problem.geometry.hidden, *problem.geometry.kernel)


def _channel(channels: Channels) -> tuple[str, str]:
    """The visible channel that hidden channel o sees through a column of the weight, and that column."""
    if channels.groups == 1:
        return "i", "i"
    per_group, columns = channels.hidden // channels.groups, channels.weight[1]
    group = "o" if per_group == 1 else f"⌊o/{per_group}⌋"
    return (group, "0") if columns == 1 else (f"i + {_times(columns, group)}", "i")


def _place(axis: Axis, c: str, k: str) -> str:
    """The visible position that hidden position c and tap k meet."""
    pad = f" − {axis.before}" if axis.before else ""
    place = f"{_times(axis.stride, c)} + {_times(axis.dilation, k)}{pad}"
    return place if axis.border == "zero" else f"{axis.border}({place})"


def _bank(axis: Axis, c: str) -> str:
    """The kernel of the bank that hidden position c uses."""
    if axis.bank == 1:
        return "0"
    return c if axis.bank == axis.hidden else f"{c} mod {axis.bank}"


def _times(factor: int, index: str) -> str:
    return index if factor == 1 else f"{factor}{index}"
