"""The form's own data: operands, shapes, counts, the derivative table and the printed equation."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
import oracle
import pytest
from grid import BY_NAME, GRID, RESULT, Row, normal

import triconv
from triconv.form import OPERANDS, OPERATIONS, Problem, Role, equation, weight_order


def problem(operation: str, row: Row) -> Problem:
    return triconv.explain(
        operation, row.visible, row.weight, dtype=row.dtype, engine="reference", **row.options
    ).problem


def test_an_operation_is_named_by_the_role_it_produces() -> None:
    assert {name: role.value for name, role in OPERATIONS.items()} == RESULT
    assert set(OPERANDS) == set(Role)
    for role, operands in OPERANDS.items():
        assert {role, *operands} == set(Role)
    assert OPERANDS[Role.HIDDEN] == (Role.VISIBLE, Role.WEIGHT)
    assert OPERANDS[Role.VISIBLE] == (Role.HIDDEN, Role.WEIGHT)
    assert OPERANDS[Role.WEIGHT] == (Role.VISIBLE, Role.HIDDEN)


DIFFERENTIATED = [(name, operand.value) for name, role in OPERATIONS.items() for operand in OPERANDS[role]]


@pytest.mark.parametrize(("operation", "operand"), DIFFERENTIATED)
@pytest.mark.parametrize(
    "name", ["affine in groups", "stride and dilation share a factor", "tiled on a graph", "image, bordered per axis"]
)
def test_the_derivative_table(operation: str, operand: str, name: str) -> None:
    """⟨cotangent, f(…, δ, …)⟩ = ⟨δ, the operation of the operand's role, cotangent in the place of f's⟩."""
    row = BY_NAME[name]
    random = np.random.default_rng(1)
    operands = {role: normal(random, getattr(row, role), "float64") for role in ("visible", "weight", "hidden")}
    produced = RESULT[operation]

    def produce(role: Role) -> Any:
        function = next(name for name, made in OPERATIONS.items() if made is role)
        first, second = (operands[one.value] for one in OPERANDS[role])
        return getattr(triconv, function)(first, second, **row.extra(function), **row.options)

    # The direction is what stands in the operand's role, the cotangent what stands in the role produced.
    change = produce(Role(produced))
    gradient = produce(Role(operand))
    left, right = (change * operands[produced]).sum(), (gradient * operands[operand]).sum()
    absolute = {role: np.abs(array) for role, array in operands.items()}
    magnitude = (row.expected(operation, absolute) * absolute[produced]).sum()
    assert abs(left - right) <= oracle.bound(problem(operation, row).terms, magnitude, "float64")
    assert abs(left) > 1e-3


@pytest.mark.parametrize("operation", OPERATIONS)
def test_shapes_and_counts(operation: str) -> None:
    for row in GRID:
        one = problem(operation, row)
        assert one.name == operation
        for role in Role:
            assert one.shape(role) == getattr(row, role.value)
            assert one.bytes_of(role) == prod(one.shape(role)) * np.dtype(row.dtype).itemsize
        assert one.bytes == sum(one.bytes_of(role) for role in Role)
        over = oracle.sum_over(row.visible[1:], row.out, row.kernel, row.options)
        assert one.terms == row.visible[0] * len(over.edges) * over.reads.size
        assert one.flops == one.terms * (8 if "complex" in row.dtype else 2)
        assert one.complex == ("complex" in row.dtype)
        for other, role in OPERATIONS.items():
            assert one.producing(role) == problem(other, row)


@pytest.mark.parametrize(
    ("rank", "banked", "order"),
    [
        (0, False, (1, 0)),
        (1, False, (2, 1, 0)),
        (2, False, (2, 3, 1, 0)),
        (1, True, (0, 3, 2, 1)),
        (2, True, (0, 1, 4, 5, 3, 2)),
        (3, True, (0, 1, 2, 5, 6, 7, 4, 3)),
    ],
)
def test_weight_order_is_bank_tap_visible_hidden(rank: int, banked: bool, order: tuple[int, ...]) -> None:
    assert weight_order(rank, banked) == order


EQUATIONS = {
    ("conv", "affine"): "h[n, o] = Σ_{i<5} v[n, i] · w[o, i]",
    ("conv_transpose", "affine"): "v[n, i] = Σ_{o<4} h[n, o] · w[o, i]",
    ("conv_weight", "affine"): "w[o, i] = Σ_{n<3} v[n, i] · h[n, o]",
    ("conv", "signal"): "h[n, o, c] = Σ_{i<3, k<3} v[n, i, c + k] · w[o, i, k]",
    ("conv", "stride and dilation coprime"): "h[n, o, c] = Σ_{i<2, k<4} v[n, i, 3c + 2k − 2] · w[o, i, k]",
    ("conv_transpose", "stride and dilation coprime"): (
        "v[n, i, x] = Σ_{o<2, c<4, k<4} h[n, o, c] · w[o, i, k]   where x = 3c + 2k − 2"
    ),
    ("conv_weight", "stride and dilation coprime"): (
        "w[o, i, k] = Σ_{n<2, c<4} v[n, i, 3c + 2k − 2] · h[n, o, c]"
    ),
    ("conv", "tiled"): "h[n, o, c] = Σ_{i<2, k<3} v[n, i, c + k] · w[c mod 2, o, i, k]",
    ("conv", "local"): "h[n, o, c] = Σ_{i<2, k<3} v[n, i, c + k] · w[c, o, i, k]",
    ("conv", "bank of one"): "h[n, o, c] = Σ_{i<2, k<3} v[n, i, c + k] · w[0, o, i, k]",
    ("conv_weight", "tiled"): (
        "w[t0, o, i, k] = Σ_{n<2, c<6} v[n, i, c + k] · h[n, o, c]   where t0 = c mod 2"
    ),
    ("conv", "depthwise with a multiplier"): "h[n, o, c] = Σ_{i<1, k<2} v[n, i, 2c + k] · w[o, i, k]",
    ("conv_transpose", "depthwise with a multiplier"): (
        "v[n, i, x] = Σ_{o<2, c<3, k<2} h[n, o, c] · w[o, i, k]   where x = 2c + k"
    ),
    ("conv", "image, tiled on one axis, local on the other"): (
        "h[n, o, c0, c1] = Σ_{i<2, k0<3, k1<2} v[n, i, c0 + k0, c1 + k1] · w[c0 mod 2, c1, o, i, k0, k1]"
    ),
    ("conv_transpose", "image, every axis its own"): (
        "v[n, i, x0, x1] = Σ_{o<3, c0<3, c1<3, k0<3, k1<2} h[n, o, c0, c1] · w[o, i, k0, k1]"
        "   where x0 = 2c0 + k0 − 1; x1 = 3c1 + 2k1 − 2"
    ),
}  # fmt: skip


@pytest.mark.parametrize(("operation", "name"), EQUATIONS)
def test_equation_with_the_numbers_filled_in(operation: str, name: str) -> None:
    assert equation(problem(operation, BY_NAME[name])) == EQUATIONS[operation, name]
