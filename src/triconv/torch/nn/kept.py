"""What engines make of a module's weight, kept from call to call while the weight is the same.

It is looked at in evaluation mode only, and without gradients: there weights rest. They are the same while PyTorch's
version counter says so and they lie where they lay. What writes past the counter, as ``weight.data.mul_(2)`` and NumPy
views do, is noticed by some of the numbers, spread over all of them.
"""

from __future__ import annotations

from typing import NamedTuple
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
    version: int
    sample: Tensor
    kept: Kept


_states: WeakKeyDictionary[Module, _State] = WeakKeyDictionary()


def kept_for(module: Module, data: Tensor, weight: Tensor) -> Kept | None:
    """What was made of a module's weight; None where it is not to be kept, or somebody watches."""
    if module.training or torch.is_grad_enabled() or torch.compiler.is_compiling():
        return None
    if not (bare(data) and bare(weight) and nobody_watches()) or weight.is_inference() or 0 in weight.stride():
        return None
    count = weight.numel()
    if count * weight.itemsize < WORTH:
        return None
    sample = weight.as_strided((SAMPLED,), (count // SAMPLED,))
    state = _states.get(module)
    if (
        state is None
        or state.weight is not weight
        or state.version != weight._version
        or state.held.data_ptr() != weight.data_ptr()
        or state.held.stride() != weight.stride()
        or not torch.equal(state.sample, sample)
    ):
        state = _states[module] = _State(weight, weight.detach(), weight._version, sample.clone(), Kept())
    return state.kept


def forget(module: Module) -> None:
    """Drop what was made of a module's weight."""
    _states.pop(module, None)
