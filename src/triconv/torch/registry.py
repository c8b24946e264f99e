"""How an operator becomes one of PyTorch's own: the library, and the levels of differentiation.

An operator has a kernel for every thing that PyTorch may do with a call. The one that differentiates is an
autograd.Function of a single level: transforms of torch.func that are nested inside each other, forward and backward
ones, call it once for each of them, with the operator below as what is differentiated.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch._functorch.utils import enable_single_level_autograd_function
from torch.autograd import forward_ad

if TYPE_CHECKING:
    from torch.autograd import Function as SingleLevelFunction
else:
    from torch.autograd.function import _SingleLevelFunction as SingleLevelFunction

__all__ = [
    "SingleLevelFunction",
    "bare",
    "below",
    "nobody_watches",
    "outer_levels",
    "primal",
    "register",
    "wanted",
    "watched",
]

library = torch.library.Library("triconv", "DEF")


def register(
    name: str,
    schema: str,
    *,
    on_processor: Callable[..., Any],
    elsewhere: Callable[..., Any],
    nowhere: Callable[..., Any],
    batched: Callable[..., Any],
    level: Callable[..., Any],
) -> Any:
    """Define an operator, by its kernels on tensors of the processor, of other devices and without numbers.

    `batched` is its rule for vmap; `level` applies a SingleLevelFunction to the
    dispatch keys of a call and its arguments.
    """
    library.define(f"{name}{schema}", tags=(torch.Tag.pt2_compliant_tag, torch.Tag.needs_exact_strides))

    def differentiated(keys: Any, *arguments: Any) -> Any:
        with enable_single_level_autograd_function():
            return level(keys, *arguments)

    library.impl(name, on_processor, "CPU")
    library.impl(name, elsewhere, "CompositeExplicitAutograd")
    library.impl(name, differentiated, "Autograd", with_keyset=True)
    torch.library.register_fake(f"triconv::{name}", nowhere, lib=library)
    torch.library.register_vmap(f"triconv::{name}", batched, lib=library)
    return getattr(torch.ops.triconv, name).default


def below(operator: Any, keys: Any, *arguments: Any) -> Any:
    """An operator without this level of differentiation; deeper ones are no business of it, and stay as they are."""
    with torch._C._AutoDispatchBelowAutograd(), torch.enable_grad(), outer_levels():
        return operator.redispatch(keys & torch._C._after_autograd_keyset, *arguments)


def outer_levels() -> AbstractContextManager[None]:
    """Let what a forward derivative calls be differentiated by the levels outside: PyTorch turns that off, for all."""
    switched: AbstractContextManager[None] = forward_ad._set_fwd_grad_enabled(True)
    return switched


def primal(tensor: Tensor) -> Tensor:
    """A tensor without its tangent at this level."""
    value: Tensor = forward_ad.unpack_dual(tensor).primal
    return value


def asked_for(node: Any, number: int) -> bool:
    """Whether the backward pass that is running wants the gradient of a node's so many-th tensor.

    `needs_input_grad` says whether it could be wanted; torch.autograd.grad names the few that are.
    """
    following, _ = node.next_functions[number]
    try:
        wants: bool = torch._C._will_engine_execute_node(following)
    except RuntimeError:  # no pass of PyTorch's engine is running; or a leaf that is named itself, which it refuses
        return True
    return wants


# A call that none of this would change goes past it.

_CLASSES = frozenset((Tensor, torch.nn.Parameter))

_BACKENDS = torch._C.DispatchKeySet(torch._C.DispatchKey.BackendSelect)
_QUIET = frozenset(
    keys.raw_repr() for keys in (_BACKENDS, _BACKENDS | torch._C.DispatchKeySet(torch._C.DispatchKey.ADInplaceOrView))
)
"""What PyTorch does to every call, in inference mode and out of it: nothing of interest."""


def bare(tensor: Tensor) -> bool:
    """Whether a tensor is numbers on the processor, in PyTorch's own classes, with at most a gradient wanted."""
    return (
        type(tensor) in _CLASSES
        and tensor.is_cpu
        and tensor.layout is torch.strided
        and not tensor.is_conj()
        and not tensor.is_neg()
        and not tensor._is_zerotensor()
    )


def nobody_watches() -> bool:
    """Whether no transform, mode, tracer or profiler is active that would have to know of a call."""
    return (
        torch._C._dispatch_tls_local_include_set().raw_repr() in _QUIET
        and forward_ad._current_level < 0
        and not torch.is_autocast_enabled("cpu")
        and not torch._C._autograd._profiler_enabled()
    )


def wanted(a: Tensor, b: Tensor) -> bool:
    """Whether a gradient is wanted of what comes out of two tensors."""
    return torch.is_grad_enabled() and (a.requires_grad or b.requires_grad)


def watched(tensor: Tensor) -> bool:
    """Whether PyTorch has anything to do about a call with a tensor besides the call."""
    return torch.compiler.is_compiling() or not bare(tensor) or not nobody_watches() or wanted(tensor, tensor)
