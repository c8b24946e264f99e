"""Results that outgrow the caches are written past them, where they have whole lines."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import triconv
from triconv.after import After
from triconv.engines import direct, reference
from triconv.form import Problem
from triconv.kernels import loops, prepared, program, ways
from triconv.memory import address

Array = NDArray[Any]

LINES = 16
"""float32 numbers of a cache line."""

RESULTS = {
    "whole": ((0, 0, 0), 0, True),
    "a number behind a line": ((0, 0, 0), 1, None),  # who calls sees that
    "a number between positions": ((0, 0, 1), 0, False),
    "a line between positions": ((0, 0, LINES), 0, True),
    "half a line between positions": ((0, 0, LINES // 2), 0, False),
    "a number between rows": ((0, 1, 0), 0, False),
    "a number between examples": ((1, 0, 0), 0, False),
}
"""Numbers that lie between examples, rows and positions of a result; how far it begins behind a line of the cache; and
whether it goes past the caches."""


@pytest.mark.parametrize("lies", RESULTS)
@pytest.mark.parametrize(("operation", "channels", "groups"), [("conv", 96, 3), ("conv_transpose", 32, 1)])
def test_large_results_go_past_the_caches(
    operation: str, channels: int, groups: int, lies: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where they have whole lines only: a vector that is not on one would end the process."""
    (gaps, start, goes), size = RESULTS[lies], 11 + groups  # a size that no other test has: what is cut for it is kept
    monkeypatch.setattr(loops, "BEYOND", 0)
    problem, a, b = large(operation, channels, groups, size)
    out, expected = lying(problem.shape(problem.produces), gaps, start), reference_of(problem, a, b)
    if goes is not None:
        taken = past(monkeypatch, problem, a, b, out)
        assert any(taken) is goes, taken
    for after in (None, After(positive=True)):
        out[...] = np.nan
        with triconv.threads(2):
            direct.build(problem)(a, b, out, None, after)
        np.testing.assert_array_equal(out, np.maximum(expected, 0) if after else expected)


def test_results_that_are_copied_on_stay_in_the_caches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those in the order (N, C, *X) of what is computed over channels; and those whose channels fill no lines."""
    monkeypatch.setattr(loops, "BEYOND", 0)
    problem, a, b = large("conv", 96, 3, 15)
    out = np.empty(problem.shape(problem.produces), np.float32)
    taken = past(monkeypatch, problem, a, b, out)
    assert taken
    assert not any(taken)
    problem, a, b = large("conv", 24, 1, 16)
    assert not any(past(monkeypatch, problem, a, b, lying(problem.shape(problem.produces), (0, 0, 0), 0)))


def large(operation: str, channels: int, groups: int, size: int) -> tuple[Problem, Array, Array]:
    """A problem whose result has so many channels, with an even number of positions on a row, and operands of it."""
    random, other = np.random.default_rng(0), 16 * groups
    visible, hidden = (channels, other) if operation == "conv_transpose" else (other, channels)
    shapes = (2, visible, size, 30), (hidden, visible // groups, 3, 4)
    options = {"stride": (1, 2), "padding": (1, 1), "groups": groups}
    problem = triconv.explain(operation, *shapes, engine="direct", dtype="float32", **options).problem
    a, b = (random.integers(-4, 5, problem.shape(role)).astype("float32") for role in problem.operands)
    return problem, np.moveaxis(np.ascontiguousarray(np.moveaxis(a, 1, -1)), -1, 1), b


def past(monkeypatch: pytest.MonkeyPatch, problem: Problem, a: Array, b: Array, out: Array) -> list[bool]:
    """Whether each of a problem's contractions writes past the caches, if the result begins on a line."""
    found: list[bool] = []

    def told(*how: Any) -> list[program.Tiled]:
        made = program.tiled(*how)
        found.extend(one.contraction.past for one in made)
        return made

    monkeypatch.setattr(prepared, "tiled", told)
    arrays = dict(zip((*problem.operands, problem.produces), (a, b, out), strict=True))
    strides = tuple(tuple(step // 4 for step in arrays[role].strides) for role in ways.ROLES)
    prepared.prepared(problem, strides, True, True)
    return found


def lying(shape: tuple[int, ...], gaps: tuple[int, int, int], start: int) -> Array:
    """A result with its channels innermost in memory, and so many numbers between examples, rows and positions."""
    batch, channels, rows, positions = shape
    steps = [channels + gaps[2]]
    steps.append(positions * steps[0] + gaps[1])
    steps.append(rows * steps[1] + gaps[0])
    room = np.full(batch * steps[2] + 2 * LINES, np.nan, np.float32)
    first = -(address(room) // 4) % LINES + start
    return np.ndarray(shape, np.float32, room, 4 * first, tuple(4 * step for step in (steps[2], 1, *steps[1::-1])))


def reference_of(problem: Problem, a: Array, b: Array) -> Array:
    found = np.full(problem.shape(problem.produces), np.nan, np.float32)
    reference.ENGINE.build(problem)(a, b, found)
    return found
