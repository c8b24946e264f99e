"""The form's own data: operands, shapes, counts, the derivative table and the printed equation."""

from __future__ import annotations

import re
from functools import partial
from math import prod
from typing import Any

import numpy as np
import oracle
import pytest
from grid import BY_NAME, GRID, RESULT, Array, Row, normal

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
        "w[b, o, i, k] = Σ_{n<2, c<6} v[n, i, c + k] · h[n, o, c]   where b = c mod 2"
    ),
    ("conv_weight", "bank of one"): "w[0, o, i, k] = Σ_{n<2, c<4} v[n, i, c + k] · h[n, o, c]",
    ("conv_weight", "local"): "w[c, o, i, k] = Σ_{n<2} v[n, i, c + k] · h[n, o, c]",
    ("conv_weight", "image, tiled on one axis, local on the other"): (
        "w[b0, c1, o, i, k0, k1] = Σ_{n<2, c0<4} v[n, i, c0 + k0, c1 + k1] · h[n, o, c0, c1]   where b0 = c0 mod 2"
    ),
    ("conv", "affine in groups"): "h[n, o] = Σ_{i<3} v[n, i + 3⌊o/2⌋] · w[o, i]",
    ("conv_transpose", "affine in groups"): (
        "v[n, j] = Σ_{o<4, i<3} h[n, o] · w[o, i]   where j = i + 3⌊o/2⌋"
    ),
    ("conv_weight", "affine in groups"): "w[o, i] = Σ_{n<2} v[n, i + 3⌊o/2⌋] · h[n, o]",
    ("conv_transpose", "depthwise"): (
        "v[n, o, x] = Σ_{c<4, k<3} h[n, o, c] · w[o, 0, k]   where x = c + k"
    ),
    ("conv", "depthwise with a multiplier"): "h[n, o, c] = Σ_{k<2} v[n, ⌊o/2⌋, 2c + k] · w[o, 0, k]",
    ("conv_transpose", "depthwise with a multiplier"): (
        "v[n, j, x] = Σ_{o<6, c<3, k<2} h[n, o, c] · w[o, 0, k]   where j = ⌊o/2⌋; x = 2c + k"
    ),
    ("conv_transpose", "graph"): (
        "v[n, i, x] = Σ_{o<5, c<6, k<3} h[n, o, c] · w[o, i, k]   where graph[o, i]; x = c + k − 1"
    ),
    ("conv_weight", "graph"): "w[o, i, k] = Σ_{n<2, c<6} v[n, i, c + k − 1] · h[n, o, c]   where graph[o, i]",
    ("conv", "circular, strided and dilated"): (
        "h[n, o, c] = Σ_{i<2, k<3} v[n, i, circular(2c + 2k − 3)] · w[o, i, k]"
    ),
    ("conv_transpose", "reflect"): (
        "v[n, i, x] = Σ_{o<2, c<6, k<3} h[n, o, c] · w[o, i, k]   where x = reflect(c + k − 1)"
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


ENTRY = r"([vhw])\[([^\]]*)\]"
PRINTED = re.compile(rf"{ENTRY} = (?:Σ_\{{([^}}]*)\}} )?{ENTRY} · {ENTRY}(?:   where (.*))?")
BORDERS = ("circular", "reflect", "replicate")
ROLES = {role.value[0]: role.value for role in Role}


def value(text: str, names: dict[str, Any], size: int) -> Any:
    """What a printed expression is, for all indices at once; a border leads back to an axis of this size."""
    text = re.sub(r"⌊(\w+)/(\d+)⌋", r"(\1 // \2)", text.replace("−", "-").replace(" mod ", " % "))
    text = re.sub(r"\b(\d+)([a-z(])", r"\1 * \2", text)
    borders = {name: np.vectorize(partial(oracle.read, size=size, border=name), otypes=[int]) for name in BORDERS}
    return np.asarray(eval(text, {"__builtins__": {}}, names | borders))


def entries(array: Array, places: list[str], names: dict[str, Any], bordered: range) -> Array:
    """An array's entries at printed places; along the bordered axes they may lie outside, and are zero there."""
    inside, at = np.array(True), []
    for axis, (place, size) in enumerate(zip(places, array.shape, strict=True)):
        index = value(place, names, size)
        within = (index >= 0) & (index < size)
        assert within.all() or axis in bordered, f"{place} leaves axis {axis} of size {size}"
        inside = inside & within
        at.append(index * within)
    found: Array = inside * array[tuple(at)]
    return found


def evaluated(text: str, operands: dict[str, Array], shape: tuple[int, ...], graph: Any) -> Array:
    """The sum that a printed equation says, term by term; the result's shape says how far its free indices run."""
    match = PRINTED.fullmatch(text)
    assert match, text
    left, over, where = match[2].split(", "), match[3].split(", ") if match[3] else [], match[8]
    free = {index: size for index, size in zip(left, shape, strict=True) if index != "0"}
    summed = {index: int(size) for index, size in (one.split("<") for one in over)}
    assert not free.keys() & summed.keys(), "an index is free and summed over at once"
    assert prod(free.values()) == prod(shape), "two places of the result share an index, or 0 is not all there is"
    sizes = [*free.values(), *summed.values()]
    grid = np.ogrid[tuple(slice(size) for size in sizes)]
    names = dict(zip((*free, *summed), grid, strict=True), graph=graph)
    terms = np.ones(sizes)
    for letter, places in ((match[4], match[5]), (match[6], match[7])):
        bordered = range(2, len(shape)) if letter == "v" else range(0)
        terms = terms * entries(operands[ROLES[letter]], places.split(", "), names, bordered)
    for condition in where.split("; ") if where else []:
        index, _, place = condition.rpartition(" = ")
        holds = value(place, names, free.get(index, 0))
        terms = terms * (holds == names[index] if index else holds)
    total: Array = terms.sum(axis=tuple(range(len(free), len(sizes))))
    return total.reshape(shape)


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("row", GRID, ids=lambda row: row.name)
def test_the_printed_equation_is_the_operation(operation: str, row: Row) -> None:
    """Whole numbers make the comparison exact."""
    random = np.random.default_rng(5)
    operands = {role: random.integers(-9, 10, getattr(row, role)).astype(float) for role in ROLES.values()}
    shape = getattr(row, RESULT[operation])
    printed = evaluated(equation(problem(operation, row)), operands, shape, row.options["groups"])
    computed = row.call(getattr(triconv, operation), operation, operands, engine="reference")
    np.testing.assert_array_equal(printed, computed)
