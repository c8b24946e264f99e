"""Checks that the three operations are what they claim, for any geometry and any order of differentiation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .form import OPERANDS, Role, name_of
from .ops import explain
from .tape import Tape, Variable

Array = NDArray[Any]

EPSILON = float(np.finfo(np.float64).eps)


@dataclass(frozen=True)
class Check:
    """One comparison: what was compared, how far the two sides are apart, and how far rounding can bring them."""

    name: str
    formula: str
    error: float
    bound: float

    @property
    def passed(self) -> bool:
        return self.error <= self.bound


def finite_differences(function: Callable[[Array], float], x: Array, step: float = 1e-6) -> Array:
    """Estimate a gradient, entry by entry, from central differences of a function. Nothing is flipped.

    ::

        g[j] = (f(x + ε e_j) − f(x − ε e_j)) / 2ε

    Parameters
    ----------
    function
        Takes an array like x and returns a number.
    x
        Real; it is changed in place during the call and restored.
    step
        ε; the error is about ε² f''' + 1e-16 f / ε.

    Examples
    --------
    >>> import numpy as np
    >>> from triconv.testing import finite_differences
    >>> finite_differences(lambda x: float((x**2).sum()), np.array([1.0, 3.0])).round(6)
    array([2., 6.])
    """
    gradient = np.zeros_like(x)
    for place in np.ndindex(x.shape):
        held = x[place]
        x[place] = held + step
        above = function(x)
        x[place] = held - step
        gradient[place] = (above - function(x)) / (2 * step)
        x[place] = held
    return gradient


def check_identity(
    visible_shape: Sequence[int], weight_shape: Sequence[int], *, seed: int = 0, **options: Any
) -> list[Check]:
    """Check ⟨h, conv⟩ = ⟨v, conv_transpose⟩ = ⟨w, conv_weight⟩ on random arrays. The kernel is not flipped.

    All three are T(v, w, h). It is necessary, not sufficient: three operations that are wrong in the same way pass.

    Parameters
    ----------
    visible_shape, weight_shape
        (N, C_in, *X) and (C_out, C_in/groups, *K), or with a bank (*t, C_out, C_in/groups, *K).
    seed
        Of the arrays, float64 and normal.
    options
        As for `triconv.conv`.

    Returns
    -------
    list of Check
        With bounds from rounding alone: terms × ε × the sum of the terms' absolute values.

    Notes
    -----
    Goodfellow 2010, section 7: the three are derivatives of one form.

    Examples
    --------
    >>> from triconv.testing import check_identity
    >>> all(check.passed for check in check_identity((2, 3, 9), (4, 3, 3), stride=2))
    True
    """
    tape, arrays, terms = _arrays(visible_shape, weight_shape, seed, options)
    sizes = _sizes(arrays)
    form = {role: float(np.vdot(tape.call(role, arrays).value, arrays[role].value)) for role in Role}
    bound = terms * EPSILON * float(np.vdot(tape.call(Role.HIDDEN, sizes).value, sizes[Role.HIDDEN].value))
    return [
        Check(
            f"⟨h, conv⟩ = ⟨{role.value[0]}, {name_of(role)}⟩",
            "T(v, w, h)",
            abs(form[Role.HIDDEN] - form[role]),
            2 * bound,
        )
        for role in (Role.VISIBLE, Role.WEIGHT)
    ]


def check_gradients(
    visible_shape: Sequence[int], weight_shape: Sequence[int], *, order: int = 2, seed: int = 0, **options: Any
) -> list[Check]:
    """Check derivatives of all three operations against differences, up to an order. The kernel is not flipped.

    For each operation y = op(a, b) the first function is f₁ = ½⟨y, y⟩; its gradients by the table are again calls of
    the three operations. The next function is f₂ = Σ ⟨u, ∂f₁⟩ with random u, and so on. Each f is a polynomial of
    degree 4 at most along a line, for which the five-point difference is exact: what is left is rounding.

    Parameters
    ----------
    visible_shape, weight_shape
        (N, C_in, *X) and (C_out, C_in/groups, *K), or with a bank (*t, C_out, C_in/groups, *K).
    order
        The highest order of differentiation, at least 1.
    seed
        Of the arrays, float64 and normal.
    options
        As for `triconv.conv`.

    Returns
    -------
    list of Check
        One for each operation, order and operand, with the derivative's formula in calls of the operations.

    Raises
    ------
    ValueError, TypeError
        As the operations.

    Notes
    -----
    Goodfellow 2010, sections 5, 6 and 7: the six identities, applied repeatedly.

    Examples
    --------
    >>> from triconv.testing import check_gradients
    >>> checks = check_gradients((2, 3, 9), (4, 3, 3), order=1, stride=2)
    >>> print(checks[0].name, "=", checks[0].formula, checks[0].passed)
    ∂conv / ∂v = conv_transpose(conv(v, w), w) True
    """
    if order < 1:
        raise ValueError(f"order={order}: expected at least 1")
    tape, arrays, terms = _arrays(visible_shape, weight_shape, seed, options)
    return [
        check
        for produces in OPERANDS
        for check in _check_operation(tape, produces, arrays, terms, order, np.random.default_rng(seed + 1))
    ]


STEP = 0.5
"""Any step will do, as the difference is exact; this one keeps the numbers near 1."""


@dataclass(frozen=True, eq=False)
class _Function:
    """f of an order: ½⟨y, y⟩ with y = op(a, b), then Σ ⟨u, gradient of the f before⟩ with the u of each order."""

    tape: Tape
    produces: Role
    us: tuple[dict[Role, Array], ...]

    def gradients(self, arrays: dict[Role, Variable]) -> dict[Role, Variable]:
        """The gradients of f with respect to both operands, where it depends on them."""
        roles = OPERANDS[self.produces]
        y = self.tape.call(self.produces, arrays)
        outputs = [(y, y)]
        found: dict[Role, Variable] = {}
        for number in range(len(self.us) + 1):
            if number:
                u = self.us[number - 1]
                outputs = [(g, Variable(u[role], f"u{number}_{role.value[0]}")) for role, g in found.items()]
            gradients = self.tape.gradients(outputs, [arrays[role] for role in roles])
            found = {role: g for role, g in zip(roles, gradients, strict=True) if g is not None}
        return found

    def __call__(self, arrays: dict[Role, Variable]) -> float:
        if not self.us:
            y = self.tape.call(self.produces, arrays).value
            return float(np.vdot(y, y)) / 2
        before = _Function(self.tape, self.produces, self.us[:-1]).gradients(arrays)
        return float(sum(np.vdot(self.us[-1][role], g.value) for role, g in before.items()))

    def bound(self, arrays: dict[Role, Variable]) -> float:
        """f of the absolute values: its coefficients are positive, so this bounds every partial sum on the way to f."""
        sized = tuple({role: np.abs(value) for role, value in u.items()} for u in self.us)
        sizes = {role: Variable(np.abs(variable.value)) for role, variable in arrays.items()}
        return abs(_Function(self.tape, self.produces, sized)(sizes))


def _check_operation(
    tape: Tape, produces: Role, arrays: dict[Role, Variable], terms: int, order: int, rng: np.random.Generator
) -> Iterator[Check]:
    def random() -> dict[Role, Array]:
        return {role: rng.standard_normal(arrays[role].value.shape) for role in OPERANDS[produces]}

    us = tuple(random() for _ in range(order - 1))
    for level in range(1, order + 1):
        f = _Function(tape, produces, us[: level - 1])
        direction = random()
        for role, gradient in f.gradients(arrays).items():
            # Five points: exact for the polynomials of degree 4 that f is along a line.
            steps = [_moved(arrays, role, multiple * STEP * direction[role]) for multiple in (-2, -1, 1, 2)]
            values = [f(step) for step in steps]
            slope = (values[0] - 8 * values[1] + 8 * values[2] - values[3]) / (12 * STEP)
            far = _moved(_sizes(arrays), role, 2 * STEP * np.abs(direction[role]))
            yield Check(
                f"{_power('∂', level)}{name_of(produces)} / {_power(f'∂{role.value[0]}', level)}",
                gradient.text,
                abs(slope - float(np.vdot(gradient.value, direction[role]))),
                (level + 1) * terms * EPSILON * 18 / (12 * STEP) * f.bound(far),
            )


def _moved(arrays: dict[Role, Variable], role: Role, by: Array) -> dict[Role, Variable]:
    return {**arrays, role: Variable(arrays[role].value + by, arrays[role].name)}


def _sizes(arrays: dict[Role, Variable]) -> dict[Role, Variable]:
    return {role: Variable(np.abs(variable.value), variable.name) for role, variable in arrays.items()}


def _power(text: str, level: int) -> str:
    return text if level == 1 else f"{text}{'⁰¹²³⁴⁵⁶⁷⁸⁹'[level] if level < 10 else f'^{level}'}"


def _arrays(
    visible_shape: Sequence[int], weight_shape: Sequence[int], seed: int, options: dict[str, Any]
) -> tuple[Tape, dict[Role, Variable], int]:
    """A tape, random leaves in all three roles, and more terms than any one sum over them has."""
    plan = explain("conv", tuple(visible_shape), tuple(weight_shape), dtype="float64", **options)
    geometry = plan.problem.geometry
    bank = geometry.bank if geometry.banked else None
    rng = np.random.default_rng(seed)
    arrays = {role: Variable(rng.standard_normal(plan.shape(role)), role.value[0]) for role in Role}
    mask = plan.problem.channels.mask
    if mask is not None:  # what lies outside a graph is ignored, so its gradient is zero by definition
        arrays[Role.WEIGHT] = Variable(
            arrays[Role.WEIGHT].value * mask.reshape(*mask.shape, *(1,) * geometry.rank), Role.WEIGHT.value[0]
        )
    terms = sum(prod(plan.shape(role)) for role in Role)  # more than any sum on the way has
    return Tape(geometry.visible, geometry.kernel, bank, options), arrays, terms
