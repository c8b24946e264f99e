"""What engines make of a module's weight, kept from call to call while the weight is the same.

It is looked at in evaluation mode only, and without gradients: there weights rest. They are the same while PyTorch's
version counter says so, they lie where they lay, and the sum of their words, which is taken in a fraction of the time
that it takes to make them ready, is what it was: ``weight.data.mul_(2)``, pruning and NumPy views write past the
counter.
"""

from __future__ import annotations

from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor
from torch.nn import Module

from ...kept import Kept
from ..registry import bare, nobody_watches

WORTH = 1 << 16
"""Bytes of a weight from which on to look costs less than to make it ready again."""


Words = tuple[int, bytes]
"""The sum of the words of 8 bytes that numbers occupy, and the bytes left over."""


class _State(NamedTuple):
    """A weight as it was."""

    weight: Tensor
    held: Tensor
    """Another name for its memory, which nobody else gets as long as it has this."""
    lying: tuple[Any, ...]
    """Its version, and how and where it lay: its memory may go elsewhere under both names, as to be shared."""
    words: Words
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
        or (len(state.kept) and state.words != _words(weight))
    ):
        if weight.numel() != _places(weight):
            return None
        state = _states[module] = _State(weight, weight.detach(), lying, _words(weight), Kept())
    return state.kept


def _words(weight: Tensor) -> Words:
    """What tells apart weights that fill their places."""
    flat = weight.detach().as_strided((weight.numel(),), (1,)).view(torch.uint8).numpy()
    whole = len(flat) // 8 * 8
    return int(np.add.reduce(flat[:whole].view(np.uint64))), flat[whole:].tobytes()


def _places(weight: Tensor) -> int:
    """How many places there are from the first number to the last: as many as numbers if each has one, without gaps."""
    return 1 + sum((size - 1) * step for size, step in zip(weight.shape, weight.stride(), strict=True))


def forget(module: Module) -> None:
    """Drop what was made of a module's weight."""
    _states.pop(module, None)
