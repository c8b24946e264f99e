"""JAX's ways: conv_general_dilated in both memory orders, and conv_general_dilated_local; gradients by its own vjp."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib import import_module
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..arrays import STORED
from ..form import Problem, Role
from .way import Ready, Way, bordered, not_for, refuse
from .workload import Operands, masked, within_result

Array = NDArray[Any]
LIBRARY = "JAX"
LETTERS = "0123456789"


def ways() -> list[Way]:
    made: list[tuple[str, Callable[[Problem, Operands], Ready]]] = []
    for order, last in (("channels first", False), ("channels last", True)):
        made += [(order, partial(convolution, last=last)), (f"local, {order}", partial(local, last=last))]
    return [Way(f"{LIBRARY} {name}", LIBRARY, prepare, "jax") for name, prepare in made]


def _refuse(problem: Problem) -> None:
    refuse(
        a_border_that_is_not_zero=bordered(problem),
        complex_numbers=problem.complex,
        no_axes=problem.geometry.rank == 0,
        half_precision=problem.dtype in STORED,
    )
    if problem.dtype == "float64":
        import_module("jax").config.update("jax_enable_x64", True)


def convolution(problem: Problem, operands: Operands, last: bool) -> Ready:
    """conv_general_dilated at any rank; a channel graph is a weight with zeros."""
    not_for(banks=problem.geometry.banked)
    _refuse(problem)
    jax = import_module("jax")
    options = _options(problem, last)
    options["feature_group_count"] = problem.channels.groups

    def conv(v: Any, w: Any) -> Any:
        return jax.lax.conv_general_dilated(v, w, **options)

    rank = problem.geometry.rank
    order = {"data": (0, *range(2, 2 + rank), 1), "weight": (*range(2, 2 + rank), 1, 0)} if last else {}
    return _ready(problem, masked(problem, operands), conv, order)


def local(problem: Problem, operands: Operands, last: bool) -> Ready:
    """conv_general_dilated_local, whose weight has a kernel for each hidden position: a tiled one is repeated."""
    axes = problem.geometry.axes
    not_for(shared_kernels=not problem.geometry.banked)
    refuse(
        groups=problem.channels.groups != 1,
        a_period_that_does_not_divide_the_hidden_size=any(axis.hidden % axis.bank for axis in axes),
    )
    _refuse(problem)
    jax = import_module("jax")
    rank = len(axes)
    options = _options(problem, last) | {"filter_shape": problem.geometry.kernel}
    turns = [axis.hidden // axis.bank for axis in axes]
    width = problem.channels.weight[1] * prod(problem.geometry.kernel)

    def conv(v: Any, w: Any) -> Any:
        # The bank's axes are the weight's first; the local convolution wants (O, C·K, *Y), or (*Y, C·K, O).
        flat = w.reshape(*problem.geometry.bank, problem.channels.hidden, width)
        repeated = jax.numpy.tile(flat, (*turns, 1, 1))
        order = (*range(rank), rank + 1, rank) if last else (rank, rank + 1, *range(rank))
        return jax.lax.conv_general_dilated_local(v, repeated.transpose(order), **options)

    order = {"data": (0, *range(2, 2 + rank), 1)} if last else {}
    return _ready(problem, masked(problem, operands), conv, order)


def _options(problem: Problem, last: bool) -> dict[str, Any]:
    axes = problem.geometry.axes
    positions = LETTERS[: len(axes)]
    data = f"N{positions}C" if last else f"NC{positions}"
    weight = f"{positions}IO" if last else f"OI{positions}"
    return {
        "window_strides": [axis.stride for axis in axes],
        "padding": [(axis.before, axis.after) for axis in axes],
        "rhs_dilation": [axis.dilation for axis in axes],
        "dimension_numbers": (data, weight, data),
    }


def _ready(
    problem: Problem, operands: Operands, conv: Callable[[Any, Any], Any], order: dict[str, tuple[int, ...]]
) -> Ready:
    """The compiled operation: conv itself, or the transpose of the linear map that it is in one operand."""
    jax = import_module("jax")

    def place(role: Role, array: Array) -> Array:
        axes = order.get("weight" if role is Role.WEIGHT else "data", tuple(range(array.ndim)))
        return array.transpose(axes)

    a, b = (jax.device_put(np.ascontiguousarray(place(role, operands[role]))) for role in problem.operands)
    wanted = problem.produces
    empty = jax.ShapeDtypeStruct(place(wanted, np.empty(problem.shape(wanted), np.bool_)).shape, a.dtype)
    functions: dict[Role, Callable[[Any, Any], Any]] = {
        Role.HIDDEN: conv,
        Role.VISIBLE: lambda h, w: jax.linear_transpose(lambda v: conv(v, w), empty)(h)[0],
        Role.WEIGHT: lambda v, h: jax.linear_transpose(lambda w: conv(v, w), empty)(h)[0],
    }
    compiled = jax.jit(functions[wanted])
    back = np.argsort(order.get("weight" if wanted is Role.WEIGHT else "data", tuple(range(len(empty.shape)))))
    return Ready(
        lambda: compiled(a, b).block_until_ready(),
        lambda result: within_result(problem, np.asarray(result).transpose(back)),
    )
