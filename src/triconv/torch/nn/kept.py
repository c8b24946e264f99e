"""What engines make of a module's weight, kept from call to call while the weight is the same.

It is looked at in evaluation mode only, and without gradients: there weights rest. They are the same while PyTorch's
version counter says so and they lie where they lay. What writes past the counter, as ``weight.data.mul_(2)`` and NumPy
views do, is noticed by some of the numbers, spread over all of them.
"""

from __future__ import annotations

from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.nn import Module

from ...kept import Kept
from ..registry import bare, nobody_watches

WORTH = 1 << 16
"""Bytes of a weight from which on to look costs less than to make it ready again."""

SAMPLED = 61
"""Numbers that are compared."""


class _State(NamedTuple):
    """A weight as it was."""

    weight: Tensor
    held: Tensor
    """Another name for its memory, which nobody else gets as long as it has this."""
    lying: tuple[Any, ...]
    """Its version, and how and where it lay: its memory may go elsewhere under both names, as to be shared."""
    sample: Tensor
    kept: Kept


_states: WeakKeyDictionary[Module, _State] = WeakKeyDictionary()


def kept_for(module: Module, data: Tensor, weight: Tensor) -> Kept | None:
    """What was made of a module's weight; None where it is not to be kept, or somebody watches."""
    if module.training or torch.is_grad_enabled() or torch.compiler.is_compiling():
        return None
    if not (bare(data) and bare(weight) and nobody_watches()) or weight.is_inference() or weight.nbytes < WORTH:
        return None
    lying = weight._version, weight.data_ptr(), weight.shape, weight.stride(), weight.dtype
    state = _states.get(module)
    if (
        state is None
        or state.weight is not weight
        or state.lying != lying
        or not torch.equal(state.sample, _sample(weight))
    ):
        if _repeats(weight):
            return None
        state = _states[module] = _State(weight, weight.detach(), lying, _sample(weight).clone(), Kept())
    return state.kept


def _sample(weight: Tensor) -> Tensor:
    """Some of the numbers of a weight that has each in a place of its own."""
    return weight.as_strided((SAMPLED,), (weight.numel() // SAMPLED,))


def _repeats(weight: Tensor) -> bool:
    """Whether numbers share their places, as there are fewer of these."""
    places = 1 + sum((size - 1) * step for size, step in zip(weight.shape, weight.stride(), strict=True))
    return weight.numel() > places


def forget(module: Module) -> None:
    """Drop what was made of a module's weight."""
    _states.pop(module, None)
