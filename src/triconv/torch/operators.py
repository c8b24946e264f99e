"""The three operations as operators of PyTorch: `triconv::conv`, `triconv::conv_transpose`, `triconv::conv_weight`.

Whatever PyTorch does to tensors it does by calling an operator's kernel for it. So all there is to say is said here,
for the three at once: what they compute (on processors by the engines, elsewhere by PyTorch's own operators), what
results look like, what the derivatives are (form.OPERANDS), how a batch passes (`batching`), and autocast.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch._functorch.utils import enable_single_level_autograd_function
from torch.autograd import forward_ad
from torch.autograd.forward_ad import _set_fwd_grad_enabled
from torch.autograd.function import _SingleLevelFunction

from ..arguments import Groups
from ..form import OPERANDS, Problem, Role, name_of
from . import engines, portable
from .batching import batched
from .engines import Sizes
from .layout import order_of, strides_of

SIZES = {
    Role.HIDDEN: "",
    Role.VISIBLE: "SymInt[]? visible_size, ",
    Role.WEIGHT: "SymInt[] kernel_size, SymInt[]? bank, ",
}
SHARED = "SymInt groups, Tensor? graph, str options, int[]? order"
"""A channel graph is a tensor on the processor; `options` is a text (see `options`); `order` names the result's axes as
they lie in memory, the outermost first: without it, as `engines.best_order` says."""

library = torch.library.Library("triconv", "DEF")

OPERATORS: dict[Role, Any] = {}


def problem_of(produces: Role, a: Tensor, b: Tensor, sizes: Sizes, groups: Groups, text: str) -> Problem:
    return engines.problem_of(name_of(produces), tuple(a.shape), tuple(b.shape), a.dtype, sizes, groups, text)


def order_for(produces: Role, a: Tensor, sizes: Sizes, order: list[int] | None) -> list[int]:
    """The order of a result, which is the first operand's or as engines like it if none is asked for."""
    if order is not None:
        return order
    banked = produces is Role.WEIGHT and sizes[1] is not None
    return engines.best_order(produces, a.ndim - 2, banked, order_of(a.shape, a.stride()))


# What is computed.


def ready(produces: Role, a: Tensor, b: Tensor, *rest: Any) -> engines.Call:
    """The call of an engine."""
    *sizes, groups, graph, text, order = rest
    sizes = tuple([None if size is None else tuple(size) for size in sizes])
    order = tuple(order_for(produces, a, sizes, order))
    pattern = groups if graph is None else (tuple(graph.shape), graph.numpy().tobytes())
    return engines.ready(produces, a.shape, b.shape, a.dtype, sizes, pattern, text, order)


def on_processor(produces: Role, a: Tensor, b: Tensor, *rest: Any) -> Tensor:
    """By the engines."""
    return ready(produces, a, b, *rest).run(a, b)


def elsewhere(produces: Role, a: Tensor, b: Tensor, *rest: Any) -> Tensor:
    """By PyTorch's own operators."""
    *sizes, groups, graph, text, order = rest
    problem = problem_of(produces, a, b, sizes, groups if graph is None else graph.cpu().numpy(), text)
    out = _empty(problem, a, order_for(produces, a, sizes, order))
    return out.copy_(portable.compute(problem, a, b))


def nowhere(produces: Role, a: Tensor, b: Tensor, *rest: Any) -> Tensor:
    """The shape, dtype and memory order alone, for tensors without numbers."""
    *sizes, groups, graph, text, order = rest
    problem = problem_of(produces, a, b, sizes, groups, text)
    if graph is not None and tuple(graph.shape) != problem.channels.weight:
        shape = f"(hidden, visible channels) = {problem.channels.weight}"
        raise ValueError(f"groups: expected a channel graph of shape {shape}, got {tuple(graph.shape)}")
    return _empty(problem, a, order_for(produces, a, sizes, order))


def _empty(problem: Problem, like: Tensor, order: list[int]) -> Tensor:
    shape = problem.shape(problem.produces)
    return like.new_empty_strided(shape, strides_of(shape, order))


# What the derivatives are.


class Form(_SingleLevelFunction):
    """One level of differentiation of the trilinear form, backward and forward: no numbers of its own."""

    @staticmethod
    def forward(ctx: Any, way: Any, produces: Role, a: Tensor, b: Tensor, *rest: Any) -> Tensor:
        """The result by a call made ready, or by the operator below this level, whose keys `way` is then."""
        *sizes, groups, graph, text, order = rest
        order = order_for(produces, a, sizes, order)
        if isinstance(way, engines.Call):
            out = way.run(a, b)
        else:
            # Deeper levels of differentiation are no business of this one, which must not turn them off.
            with torch._C._AutoDispatchBelowAutograd(), torch.enable_grad(), _set_fwd_grad_enabled(True):
                out = OPERATORS[produces].redispatch(
                    way & torch._C._after_autograd_keyset, a, b, *sizes, groups, graph, text, order
                )
        ctx.produces, ctx.rank, ctx.shared = produces, a.ndim - 2, (groups, graph, text)
        one, two = OPERANDS[produces]
        ctx.looks = {one: (a.shape, a.stride()), two: (b.shape, b.stride()), produces: (out.shape, out.stride())}
        needs_a, needs_b = ctx.needs_input_grad[2:4]
        ctx.save_for_backward(a if needs_b else None, b if needs_a else None)
        ctx.save_for_forward(a, b)
        ctx.set_materialize_grads(False)
        return out

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor | None) -> Any:
        gradients: list[Tensor | None] = [None, None]
        if cotangent is not None:
            operands = OPERANDS[ctx.produces]
            for number, other in enumerate(reversed(ctx.saved_tensors)):
                if ctx.needs_input_grad[2 + number]:
                    arrays = {ctx.produces: cotangent, operands[1 - number]: other.conj()}
                    gradients[number] = _derivative(operands[number], arrays, ctx)
        return (None, None, *gradients, *(None,) * (len(ctx.needs_input_grad) - 4))

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor | None:
        total = None
        operands = OPERANDS[ctx.produces]
        arrays = dict(zip(operands, ctx.saved_tensors, strict=True))
        for role, tangent in zip(operands, tangents[2:4], strict=True):
            if tangent is not None:
                term = _derivative(ctx.produces, {**arrays, role: tangent}, ctx)
                total = term if total is None else total + term
        return total


def _derivative(x: Role, arrays: dict[Role, Tensor], ctx: Any) -> Tensor:
    """The operation that produces a role, on two that are there, with the sizes and the memory order of its own."""
    shape, steps = ctx.looks[x]
    sizes: Sizes = ()
    if x is Role.VISIBLE:
        sizes = (shape[2:],)
    elif x is Role.WEIGHT:
        sizes = (shape[len(shape) - ctx.rank :], shape[: ctx.rank] if len(shape) > 2 + ctx.rank else None)
    one, two = (arrays[role] for role in OPERANDS[x])
    return straight(x, one, two, *sizes, *ctx.shared, order_of(shape, steps))


def straight(produces: Role, a: Tensor, b: Tensor, *rest: Any) -> Tensor:
    """The operator, past all that PyTorch may do about it if it would do nothing."""
    if torch.compiler.is_compiling() or not (bare(a) and bare(b) and nobody_watches()):
        result: Tensor = OPERATORS[produces](a, b, *rest)
        return result
    if torch.is_grad_enabled() and (a.requires_grad or b.requires_grad):
        return Form.apply(ready(produces, a, b, *rest), produces, a, b, *rest)
    return ready(produces, a, b, *rest).run(a, b)


def bare(tensor: Tensor) -> bool:
    """Whether a tensor is numbers on the processor, in PyTorch's own classes, with at most a gradient wanted."""
    return (
        type(tensor) in BARE
        and tensor.is_cpu
        and tensor.layout is torch.strided
        and not tensor.is_conj()
        and not tensor.is_neg()
    )


BARE = frozenset((Tensor, torch.nn.Parameter))


_ORDINARY = torch._C.DispatchKeySet(torch._C.DispatchKey.BackendSelect)
_QUIET = frozenset(
    keys.raw_repr()
    for keys in (_ORDINARY, _ORDINARY | torch._C.DispatchKeySet(torch._C.DispatchKey.ADInplaceOrView))
)
"""What PyTorch does to every tensor in inference mode, and out of it: nothing of interest."""


def nobody_watches() -> bool:
    """Whether no transform, mode or tracer is active that would have to know of a call."""
    return (
        torch._C._dispatch_tls_local_include_set().raw_repr() in _QUIET
        and forward_ad._current_level < 0
        and not torch.is_autocast_enabled("cpu")
    )


def differentiable(keys: Any, produces: Role, *arguments: Any) -> Tensor:
    with enable_single_level_autograd_function():
        result: Tensor = Form.apply(keys, produces, *arguments)
    return result


# What autocast does: PyTorch's own convolutions are computed in the lower precision, and so are these.


def autocast(produces: Role, key: Any, device: str, a: Tensor, b: Tensor, *rest: Any) -> Tensor:
    dtype = torch.get_autocast_dtype(device)
    with torch._C._ExcludeDispatchKeyGuard(torch._C.DispatchKeySet(key)):
        a, b = (x.to(dtype) if x.is_floating_point() and x.dtype is not torch.float64 else x for x in (a, b))
        result: Tensor = OPERATORS[produces](a, b, *rest)
    return result


def _register(produces: Role) -> None:
    name = name_of(produces)
    one, two = (role.value for role in OPERANDS[produces])
    library.define(
        f"{name}(Tensor {one}, Tensor {two}, {SIZES[produces]}{SHARED}) -> Tensor",
        tags=(torch.Tag.pt2_compliant_tag, torch.Tag.needs_exact_strides),
    )
    operator = OPERATORS[produces] = getattr(torch.ops.triconv, name).default
    library.impl(name, partial(on_processor, produces), "CPU")
    library.impl(name, partial(elsewhere, produces), "CompositeExplicitAutograd")
    library.impl(name, lambda keys, *arguments: differentiable(keys, produces, *arguments), "Autograd", with_keyset=True)
    for device in ("CPU", "CUDA"):
        key = getattr(torch._C.DispatchKey, f"Autocast{device}")
        library.impl(name, partial(autocast, produces, key, device.lower()), f"Autocast{device}")
    torch.library.register_fake(f"triconv::{name}", partial(nowhere, produces), lib=library)
    torch.library.register_vmap(f"triconv::{name}", partial(batched, operator, produces), lib=library)


for _role in OPERANDS:
    _register(_role)
