"""Which engines take a problem of the grid, and how far their results may lie from the sum as written."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
import oracle
from grid import OPERATIONS, Row
from numpy.typing import NDArray

import triconv
from triconv.dispatch import ENGINES
from triconv.engines import winograd
from triconv.filtering import Filtering, filtering
from triconv.form import Problem, Role

Array = NDArray[Any]

TOTAL = [name for name, engine in ENGINES.items() if not engine.spreads]
"""Engines that sum as written, and take every problem."""

ROLE = {"conv": "hidden", "conv_transpose": "hidden", "conv_weight": "weight"}
"""What a filtering of an operation makes: the transpose is a convolution that makes the visible."""


def problem_of(operation: str, row: Row) -> Problem:
    return triconv.explain(
        operation, row.visible, row.weight, engine="reference", dtype=row.dtype, **row.options
    ).problem


def takes(engine: str, operation: str, row: Row) -> bool:
    return not ENGINES[engine].why_not(problem_of(operation, row))


HALVED = 2.0**-15 * (1 + 2.0**-7)
"""Of a product of split numbers, what may be left out: of low halves, 2⁻⁸ · 2⁻⁸, and rests, 2⁻¹⁷ for either factor."""


def allowed(operation: str, row: Row, operands: dict[str, Array], engine: str) -> Array:
    """By the sum as written; or of what goes through transforms, by the most that these reach on the way."""
    if engine == "split":
        sizes = {role: np.abs(array).astype("float64") for role, array in operands.items()}
        return np.asarray(row.allowed(operation, operands) + HALVED * row.expected(operation, sizes))
    if engine != "winograd":
        return row.allowed(operation, operands, engine not in TOTAL)
    a, b = OPERATIONS[operation]
    largest = prod(float(np.abs(one[np.isfinite(one)]).max(initial=0)) for one in (operands[a], operands[b]))
    total, every = 0.0, winograd.parts(problem_of(operation, row))
    for part in every:
        filterings, sums = filterings_of(part), sums_of(part)
        growth = prod(one.growth(ROLE[operation]) for one in filterings)
        roundings = sums + 3 * sum(len(one.weight) for one in filterings) + len(every)
        total += oracle.bound(roundings, sums * growth * largest, row.dtype)
    return np.asarray(total)


def filterings_of(part: winograd.Part) -> list[Filtering]:
    """Of the axes of a part, in the tiles that are chosen; or of its first alone."""
    if part.along is not None:
        return [filtering(*part.along)]
    sizes = winograd.tile_sizes(part.problem)
    return [filtering(m, k) for m, k in zip(sizes, part.problem.geometry.kernel, strict=True)]


def sums_of(part: winograd.Part) -> int:
    """How many products are summed up at each point of a part: of channels, or of tiles.

    Where the first axis alone is transformed, also of its pieces, and of the taps of all others.
    """
    problem, channels = part.problem, part.problem.channels
    if part.along is not None:
        first, *others = problem.geometry.axes
        return channels.visible * len(first.pieces(part.along.taps)) * prod(axis.kernel for axis in others)
    sizes = winograd.tile_sizes(problem)
    if problem.produces is Role.WEIGHT:
        return problem.batch * prod(len(axis.tiles(m)) for axis, m in zip(problem.geometry.axes, sizes, strict=True))
    return channels.weight[1] if problem.produces is Role.HIDDEN else channels.hidden // channels.groups


LIKELY = 10
"""How many times what its root mean square is at most an error of random sign may be. It is more once in e⁵⁰/2 times
(Hoeffding), as in the benchmark (Higham and Mary 2019)."""


def likely(operation: str, row: Row, operands: dict[str, Array]) -> float:
    """How far Winograd's results of operands that are independent random numbers may lie from the sum as written.

    What may happen at worst (`allowed`) says nothing in single precision where sums have many terms. Of roundings of
    random sign, each at most u = eps / 2 of the number that is rounded, squares add up instead. Let a and b be the root
    mean squares of the operands, A and B the matrices that transform them, R that of the result, and n how many
    products are summed at a point p. A product's square is then a²b²|A_p|²|B_p|² on average, and that of the sum of the
    first k is k times that: rounding every sum counts n(n + 1)/2 times the square, if products are added one after the
    other, and less in any other order. Rounding what transforms make, entry by entry, counts 3 Σ P times for each of
    the n products: on every axis, of three transforms that have at most P entries in a row or a column.
    """
    made, every, total = ROLE[operation], winograd.parts(problem_of(operation, row)), 0.0
    squares = [float(np.mean(np.square(operands[role], dtype=float))) for role in OPERATIONS[operation]]
    for part in every:
        filterings, sums = filterings_of(part), sums_of(part)
        roundings = (sums + 1) / 2 + 3 * sum(len(one.weight) for one in filterings) + len(every)
        total += roundings * sums * prod(squares) * prod(squared_growth(one, made) for one in filterings)
    return float(LIKELY * np.finfo(row.dtype).eps / 2 * np.sqrt(total))


def squared_growth(one: Filtering, made: str) -> float:
    """The most that Σ_p R[p, c]² |A_p|² |B_p|² is for any entry c of what is made."""
    rows = {role: np.square(getattr(one, role)) for role in ("visible", "weight", "hidden")}
    own = rows.pop(made)
    return float((own * np.prod([matrix.sum(axis=1) for matrix in rows.values()], axis=0)[:, None]).sum(axis=0).max())
