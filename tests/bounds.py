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
from triconv.filtering import filtering
from triconv.form import Problem

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


def allowed(operation: str, row: Row, operands: dict[str, Array], engine: str) -> Array:
    """By the sum as written; or of what goes through transforms, by the most that these reach on the way."""
    if engine != "winograd":
        return row.allowed(operation, operands, engine not in TOTAL)
    (a, b), problem = OPERATIONS[operation], problem_of(operation, row)
    channels = problem.channels
    sums = max(channels.weight[1], channels.hidden // channels.groups)
    if operation == "conv_weight":
        sums = problem.batch * prod(problem.geometry.hidden)
    largest = prod(float(np.abs(one[np.isfinite(one)]).max(initial=0)) for one in (operands[a], operands[b]))
    total = 0.0
    for part in winograd.parts(problem):
        sizes, axes = winograd.tile_sizes(part.problem), part.problem.geometry.axes
        filterings = [filtering(m, axis.kernel) for m, axis in zip(sizes, axes, strict=True)]
        growth = prod(one.growth(ROLE[operation]) for one in filterings)
        roundings = sums + 3 * sum(len(one.weight) for one in filterings) + len(winograd.parts(problem))
        total += oracle.bound(roundings, sums * growth * largest, row.dtype)
    return np.asarray(total)
