"""The formula as loops: one term of the sum after the other, for every problem there is. Slow, and the oracle."""

from __future__ import annotations

from math import prod

import numpy as np

from ..coefficients import coefficients
from ..engine import Array, Engine, Run, quiet, takes_all
from ..form import Problem, Role
from ..geometry import OUTSIDE


def build(problem: Problem) -> Run:
    banks = [axis.banks for axis in problem.geometry.axes]
    sources = [axis.sources for axis in problem.geometry.axes]
    edges = [
        (hidden, visible, columns)
        for stack in problem.channels.blocks
        for outputs, visible, columns in zip(stack.hidden, stack.visible, stack.columns, strict=True)
        for hidden in outputs
    ]

    def run(a: Array, b: Array, out: Array) -> None:
        out[...] = 0
        role = dict(zip(problem.operands, (a, b), strict=True)) | {problem.produces: out}
        v, h, w = role[Role.VISIBLE], role[Role.HIDDEN], role[Role.WEIGHT]
        for c in np.ndindex(problem.geometry.hidden):
            bank = tuple(t[ci] for t, ci in zip(banks, c, strict=True)) if problem.geometry.banked else ()
            for k in np.ndindex(problem.geometry.kernel):
                x = tuple(source[ci, ki] for source, ci, ki in zip(sources, c, k, strict=True))
                outside = OUTSIDE in x
                for o, i, column in edges:
                    seen = np.zeros((problem.batch, len(i)), v.dtype) if outside else v[:, i, *x]
                    match problem.produces:
                        case Role.HIDDEN:
                            h[:, o, *c] += seen @ w[*bank, o, column, *k]
                        case Role.WEIGHT:
                            w[*bank, o, column, *k] += seen.T @ h[:, o, *c]
                        case Role.VISIBLE if not outside:
                            v[:, i, *x] += np.outer(h[:, o, *c], w[*bank, o, column, *k])

    return quiet(run)


def cost(problem: Problem) -> float:
    loops = prod(problem.geometry.hidden) * prod(problem.geometry.kernel) * problem.channels.hidden
    return coefficients().loop * loops + coefficients().term * problem.terms


def workspace(problem: Problem) -> int:
    return 2 * problem.batch * problem.channels.visible * problem.itemsize


def tables(problem: Problem) -> int:
    return 8 * sum(axis.hidden * (axis.kernel + 1) for axis in problem.geometry.axes)


ENGINE = Engine("reference", takes_all, cost, workspace, tables, build)
