"""The three operations as operators of PyTorch: `triconv::conv`, `triconv::conv_transpose`, `triconv::conv_weight`.

Whatever PyTorch does to tensors it does by calling an operator's kernel for it. So all there is to say is said here,
for the three at once: what they compute (on processors by the engines, elsewhere by PyTorch's own operators), what
results look like, what the derivatives are (form.OPERANDS), how a batch passes (`batching`), and autocast.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils.flop_counter import register_flop_formula

from ..arguments import Groups
from ..dispatch import AUTO
from ..form import OPERANDS, Problem, Role, name_of
from . import engines, portable
from .batching import batched
from .engines import Sizes
from .layout import strides_of
from .operands import check_devices, check_order
from .options import read, short
from .registry import (
    SingleLevelFunction,
    asked_for,
    bare,
    below,
    library,
    nobody_watches,
    outer_levels,
    primal,
    register,
    wanted,
)
from .stages import Ready, Stage, look

SIZES = {
    Role.HIDDEN: "",
    Role.VISIBLE: "SymInt[]? visible_size, ",
    Role.WEIGHT: "SymInt[] kernel_size, SymInt[]? bank, ",
}
SHARED = "SymInt groups, Tensor? graph, str options, int[]? order"
"""A channel graph is a tensor on the processor; `options` is a text (see `options`); `order` names the result's axes as
they lie in memory, the outermost first: without it, as `engines.best_order` says."""

OPERATORS: dict[Role, Any] = {}


def problem_of(produces: Role, a: Tensor, b: Tensor, sizes: Sizes, groups: Groups, text: str) -> Problem:
    return engines.problem_of(name_of(produces), tuple(a.shape), tuple(b.shape), a.dtype, sizes, groups, text)


def order_for(produces: Role, a: Tensor, b: Tensor, sizes: Sizes, order: list[int] | None) -> list[int]:
    """The order of a result: `engines.best_order` if none is asked for."""
    if order is not None:
        return order
    banked = produces is Role.WEIGHT and sizes[1] is not None
    return engines.best_order(produces, banked, (a.shape, a.stride()), (b.shape, b.stride()))


# What is computed.


def ready(produces: Role, a: Tensor, b: Tensor, *rest: Any) -> engines.Call:
    """The call of an engine."""
    *sizes, groups, graph, text, order = rest
    order = tuple(order_for(produces, a, b, sizes, order))
    pattern = groups if graph is None else engines.pattern_of(graph.numpy())
    known = tuple([None if size is None else tuple(size) for size in sizes])
    return engines.ready(produces, a.shape, b.shape, a.dtype, known, pattern, text, order)


def on_processor(produces: Role, a: Tensor, b: Tensor, *rest: Any) -> Tensor:
    """By the engines."""
    check_devices(produces, a, b)
    check_order(rest[-1])
    return ready(produces, a, b, *rest).run(a, b)


def elsewhere(produces: Role, a: Tensor, b: Tensor, *rest: Any) -> Tensor:
    """By PyTorch's own operators."""
    *sizes, groups, graph, text, order = rest
    if (engine := read(text).get("engine", AUTO)) != AUTO:
        raise ValueError(f'engine={engine!r}: expected "{AUTO}" for tensors on {a.device}')
    problem = problem_of(produces, a, b, sizes, groups if graph is None else graph.cpu().numpy(), text)
    out = _empty(problem, a, order_for(produces, a, b, sizes, order))
    return out.copy_(portable.compute(problem, a, b))


def nowhere(produces: Role, a: Tensor, b: Tensor, *rest: Any) -> Tensor:
    """The shape, dtype and memory order alone, for tensors without numbers."""
    check_devices(produces, a, b)
    *sizes, groups, graph, text, order = rest
    if graph is not None:
        groups = np.ones(tuple(graph.shape), short(graph.dtype))
    problem = problem_of(produces, a, b, sizes, groups, text)
    return _empty(problem, a, order_for(produces, a, b, sizes, order))


def _empty(problem: Problem, like: Tensor, order: list[int]) -> Tensor:
    shape = problem.shape(problem.produces)
    return like.new_empty_strided(shape, strides_of(shape, order))


# What the derivatives are.


class Form(SingleLevelFunction):
    """One level of differentiation of the trilinear form, backward and forward: no numbers of its own."""

    @staticmethod
    def forward(ctx: Any, way: Any, produces: Role, a: Tensor, b: Tensor, *rest: Any) -> Tensor:
        """The result by a call that is ready, or by the operator below this level, whose keys `way` is then."""
        if isinstance(way, Ready):
            ctx.stage, out = way, way.call.run(a, b)
        else:
            *sizes, groups, graph, text, order = rest
            order = order_for(produces, a, b, sizes, order)
            out = below(OPERATORS[produces], way, a, b, *sizes, groups, graph, text, order)
            ctx.stage = Stage(produces, look(a), look(b), look(out), (groups, graph, text))
            ctx.save_for_forward(a, b)  # of what is ready nobody takes a forward derivative
        _, _, needs_a, needs_b, *_ = ctx.needs_input_grad
        ctx.save_for_backward(a if needs_b else None, b if needs_a else None)
        ctx.set_materialize_grads(False)
        return out

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor | None) -> Any:
        gradients: list[Tensor | None] = [None, None]
        if cotangent is not None:
            stage, (a, b) = ctx.stage, ctx.saved_tensors
            one, two = OPERANDS[stage.produces]
            # An operand is saved for the gradient of the other; of one alone nobody needs to ask.
            ask = not (a is None or b is None or stage.tiny)
            if b is not None and (not ask or asked_for(ctx, 0)):
                gradients[0] = _derivative(stage, one, {stage.produces: cotangent, two: b.conj()})
            if a is not None and (not ask or asked_for(ctx, 1)):
                gradients[1] = _derivative(stage, two, {stage.produces: cotangent, one: a.conj()})
        return (None, None, *gradients, *(None,) * (len(ctx.needs_input_grad) - 4))

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor | None:
        stage = ctx.stage
        operands = OPERANDS[stage.produces]
        total = None
        with outer_levels():
            arrays = {role: primal(x) for role, x in zip(operands, ctx.saved_tensors, strict=True)}
            for role, tangent in zip(operands, tangents[2:4], strict=True):
                if tangent is not None:
                    term = _derivative(stage, stage.produces, {**arrays, role: tangent})
                    total = term if total is None else total + term
        return total


def _derivative(stage: Stage, x: Role, arrays: dict[Role, Tensor]) -> Tensor:
    """The operation that produces a role, on two that are there, with the sizes and the memory order of its own."""
    one, two = OPERANDS[x]
    a, b = arrays[one], arrays[two]
    if _plain(a, b) and not wanted(a, b):
        return stage.call_of(x, a.dtype).run(a, b)
    return straight(x, a, b, *stage.rest(x))


def straight(produces: Role, a: Tensor, b: Tensor, *rest: Any) -> Tensor:
    """The operator, past all that PyTorch may do about it if it would do nothing."""
    if not _plain(a, b):
        result: Tensor = OPERATORS[produces](a, b, *rest)
        return result
    call = ready(produces, a, b, *rest)
    if not wanted(a, b):
        return call.run(a, b)
    return level(produces, Ready(produces, look(a), look(b), rest[-4:-1], call), a, b)


def _plain(a: Tensor, b: Tensor) -> bool:
    """Whether PyTorch has nothing to do about a call but to note it for a gradient."""
    return bare(a) and bare(b) and nobody_watches() and not torch.compiler.is_compiling()


def level(produces: Role, way: Any, *arguments: Any) -> Tensor:
    """The operation with one level of differentiation; `way` as for `Form`."""
    result: Tensor = Form.apply(way, produces, *arguments)  # type: ignore[no-untyped-call]
    return result


# What autocast does: PyTorch's own convolutions are computed in the lower precision, and so are these.


AUTOCAST = ("cpu", "cuda")


def lowered(device: str, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """The operands as autocast wants them, where it is on: of its dtype, if they are real and not double."""
    if device in AUTOCAST and torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        a, b = (x.to(dtype) if x.is_floating_point() and x.dtype is not torch.float64 else x for x in (a, b))
    return a, b


def autocast(produces: Role, key: Any, device: str, a: Tensor, b: Tensor, *rest: Any) -> Tensor:
    a, b = lowered(device, a, b)
    with torch._C._ExcludeDispatchKeyGuard(torch._C.DispatchKeySet(key)):
        result: Tensor = OPERATORS[produces](a, b, *rest)
    return result


# What counters of PyTorch's say.


def flops(produces: Role, a: Tensor, b: Tensor, *rest: Any, **_: Any) -> int:
    """As `FlopCounterMode` asks: what the sum as written takes, of a channel graph its edges where they are known."""
    *sizes, groups, graph, text, _order = rest
    return problem_of(produces, a, b, sizes, groups if graph is None else _numbers(graph), text).flops


def _numbers(graph: Tensor) -> Any:
    """The array of a channel graph, in which all is connected if it has no numbers."""
    there = graph.is_cpu and not isinstance(graph, FakeTensor)
    return graph.numpy() if there else np.ones(tuple(graph.shape), short(graph.dtype))


for _role, (_one, _two) in OPERANDS.items():
    OPERATORS[_role] = register(
        name_of(_role),
        f"(Tensor {_one.value}, Tensor {_two.value}, {SIZES[_role]}{SHARED}) -> Tensor",
        on_processor=partial(on_processor, _role),
        elsewhere=partial(elsewhere, _role),
        nowhere=partial(nowhere, _role),
        batched=partial(batched, partial(straight, _role), _role),
        level=partial(level, _role),
    )
    register_flop_formula(getattr(torch.ops.triconv, name_of(_role)), get_raw=True)(partial(flops, _role))
    for _device in AUTOCAST:
        _key = getattr(torch._C.DispatchKey, f"Autocast{_device.upper()}")
        library.impl(name_of(_role), partial(autocast, _role, _key, _device), f"Autocast{_device.upper()}")
