"""Our own operations, in the memory order of layers and in PyTorch's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..arrays import STORED, allocate
from ..channels import Channels
from ..dispatch import choose
from ..form import Problem, Role
from ..ops import conv, conv_transpose, conv_weight
from .way import NotMeant, Ready, Way, not_for
from .workload import Operands, as_layers_keep, channels_last, masked, within_result

Array = NDArray[Any]
LIBRARY = "triconv"


def ways(engine: str = "auto") -> list[Way]:
    """Channels innermost with the weight as layers keep it; the same with what is made of the weight kept; float32 in
    place of half precision, by the direct engine; PyTorch's order; a channel graph as dense channels."""

    def ours(problem: Problem, operands: Operands) -> Ready:
        placed = {role: _placed(problem, role, array) for role, array in operands.items()}
        return ready(problem, placed, engine)

    def kept(problem: Problem, operands: Operands) -> Ready:
        plan = choose(problem, engine)
        not_for(
            this_operation=problem.produces is not Role.HIDDEN,
            dtypes_that_are_only_stored=plan.problem.dtype != problem.dtype or problem.dtype in STORED,
        )
        data, weight = (_placed(problem, role, operands[role]) for role in problem.operands)
        run, shape = plan.with_weight(weight), problem.shape(problem.produces)

        def call() -> Array:
            out = allocate("hidden", shape, problem.dtype, data)
            run(data, out)
            return out

        return Ready(call, np.asarray)

    def plain(problem: Problem, operands: Operands) -> Ready:
        return ready(problem, operands, engine)

    def dense(problem: Problem, operands: Operands) -> Ready:
        if problem.channels.graph is None:
            raise NotMeant("not for problems without a channel graph")
        # Of the sum as written, as the graph's is: what is left out is compared, and not another algorithm.
        made = ours(replace(as_dense(problem), precision="highest"), masked(problem, operands))
        return Ready(made.call, lambda result: within_result(problem, result))

    def single(problem: Problem, operands: Operands) -> Ready:
        if problem.dtype not in STORED:
            raise NotMeant("not for problems in full precision")
        wide = {role: array.astype(STORED[problem.dtype]) for role, array in operands.items()}
        placed = {role: _placed(problem, role, array) for role, array in wide.items()}
        return ready(problem, placed, "direct")

    return [
        Way("triconv", LIBRARY, ours),
        Way("triconv, weight kept", LIBRARY, kept),
        Way("triconv, float32", LIBRARY, single),
        Way("triconv, channels first", LIBRARY, plain),
        Way("triconv, dense", LIBRARY, dense),
    ]


def _placed(problem: Problem, role: Role, array: Array) -> Array:
    """An operand as it lies best."""
    return as_layers_keep(array, problem) if role is Role.WEIGHT else channels_last(array)


def ready(problem: Problem, operands: Operands, engine: str) -> Ready:
    """The public operation on operands as they lie in memory."""
    axes = problem.geometry.axes
    options: dict[str, Any] = {
        "stride": tuple(axis.stride for axis in axes),
        "padding": tuple((axis.before, axis.after) for axis in axes),
        "dilation": tuple(axis.dilation for axis in axes),
        "groups": problem.channels.groups if problem.channels.graph is None else problem.channels.mask,
        "border": tuple(axis.border for axis in axes),
        "precision": problem.precision,
        "engine": engine,
    }
    a, b = (operands[role] for role in problem.operands)
    geometry = problem.geometry
    visible, kernel, bank = geometry.visible, geometry.kernel, geometry.bank if geometry.banked else None
    calls: dict[Role, Callable[[], Array]] = {
        Role.HIDDEN: lambda: conv(a, b, **options),
        Role.VISIBLE: lambda: conv_transpose(a, b, visible_size=visible, **options),
        Role.WEIGHT: lambda: conv_weight(a, b, kernel, bank=bank, **options),
    }
    return Ready(calls[problem.produces], np.asarray)


def as_dense(problem: Problem) -> Problem:
    """The same sizes with every visible channel connected to every hidden one."""
    return replace(problem, channels=Channels(problem.channels.visible, problem.channels.hidden))
