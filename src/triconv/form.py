"""The one trilinear form, its three roles, and what follows from them.

    T(v, w, h) = Σ_{n,o,i,c,k}  h[n,o,c] · w[c mod t, o, i, k] · v[n, i, s∘c + e∘k − p]

T is linear in each argument. Its derivative with respect to one role is an operation on the other two, and there are
no other operations: `OPERANDS` below is at once the list of operations and the table of all their derivatives.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from math import prod

from .channels import Channels
from .geometry import Geometry


class Role(Enum):
    """What an array is in the form; an operation is named by the role it produces."""

    VISIBLE = "visible"
    HIDDEN = "hidden"
    WEIGHT = "weight"


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

    @property
    def complex(self) -> bool:
        return self.dtype.startswith("complex")

    @property
    def terms(self) -> int:
        """How many products the form sums: examples × edges × hidden positions × taps."""
        return self.batch * self.channels.edges * prod(self.geometry.hidden) * prod(self.geometry.kernel)

    @property
    def flops(self) -> int:
        """Real additions and multiplications of the sum as written: 2 a term, 8 for complex numbers."""
        return self.terms * (8 if self.complex else 2)

    def bytes_of(self, role: Role) -> int:
        return prod(self.shape(role)) * self.itemsize

    @property
    def bytes(self) -> int:
        """What the operands and the result occupy: the least that must move."""
        return sum(self.bytes_of(role) for role in Role)


def weight_order(rank: int, banked: bool) -> tuple[int, ...]:
    """The axes of a weight in the physical order [t][k][i][o], hidden channels innermost, that engines like best."""
    lead = rank if banked else 0
    return (*range(lead), *range(lead + 2, lead + 2 + rank), lead + 1, lead)


def equation(problem: Problem) -> str:
    """The operation as a sum over indices, with the problem's own numbers in it."""
    axes = problem.geometry.axes
    hidden = [f"c{a}" if len(axes) > 1 else "c" for a in range(len(axes))]
    kernel = [f"k{a}" if len(axes) > 1 else "k" for a in range(len(axes))]
    visible = [f"x{a}" if len(axes) > 1 else "x" for a in range(len(axes))]
    places = []
    bank = []
    for axis, c, k in zip(axes, hidden, kernel, strict=True):
        pad = f" − {axis.before}" if axis.before else ""
        places.append(f"{_times(axis.stride, c)} + {_times(axis.dilation, k)}{pad}")
        bank.append("0" if axis.bank == 1 else c if axis.bank == axis.hidden else f"{c} mod {axis.bank}")
    lead = bank if problem.geometry.banked else []
    read = {
        Role.VISIBLE: f"v[{', '.join(['n', 'i', *places])}]",
        Role.HIDDEN: f"h[{', '.join(['n', 'o', *hidden])}]",
        Role.WEIGHT: f"w[{', '.join([*lead, 'o', 'i', *kernel])}]",
    }
    first, second = (read[role] for role in problem.operands)
    per_group = problem.channels.weight[1] if problem.channels.graph is None else problem.channels.visible
    over_k = [f"{k}<{axis.kernel}" for k, axis in zip(kernel, axes, strict=True)]
    over_c = [f"{c}<{axis.hidden}" for c, axis in zip(hidden, axes, strict=True)]
    match problem.produces:
        case Role.HIDDEN:
            left, over, given = read[Role.HIDDEN], [f"i<{per_group}", *over_k], ""
        case Role.VISIBLE:
            left = f"v[{', '.join(['n', 'i', *visible])}]"
            over = [f"o<{problem.channels.hidden // problem.channels.groups}", *over_c, *over_k]
            given = "; ".join(f"{x} = {place}" for x, place in zip(visible, places, strict=True))
        case Role.WEIGHT:
            left, over, given = read[Role.WEIGHT], [f"n<{problem.batch}", *over_c], ""
            if any(axis.bank < axis.hidden for axis in axes) and lead:
                left = f"w[{', '.join([*(f't{a}' for a in range(len(axes))), 'o', 'i', *kernel])}]"
                given = "; ".join(f"t{a} = {b}" for a, b in enumerate(bank))
    condition = f"   where {given}" if given else ""
    return f"{left} = Σ_{{{', '.join(over)}}} {first} · {second}{condition}"


def _times(factor: int, index: str) -> str:
    return index if factor == 1 else f"{factor}{index}"
