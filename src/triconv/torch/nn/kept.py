"""What engines make of a module's weight, kept from call to call while the weight is the same.

It is looked at in evaluation mode only, and without gradients: there weights rest. They are the same while PyTorch's
version counter says so, they lie where they lay, and the sums of their words, which are taken in a fraction of the
time that it takes to make them ready, are what they were: ``weight.data.mul_(2)``, pruning and NumPy views write past
the counter.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
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


APART = 1021
"""Sums that words of 8 bytes are added to in turn: a prime, so that kernels that change places change sums."""


class _Made(Kept):
    """What was made of a weight, and what its sums were before."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight, self.sums = weight, b""

    def of(self, key: Hashable, make: Callable[[], Any]) -> Any:
        if not len(self):
            self.sums = _sums(self.weight)
        return super().of(key, make)


class _State(NamedTuple):
    """A weight as it was."""

    weight: Tensor
    lying: tuple[Any, ...]
    """Its version, and how and where it lay: its memory may go elsewhere under all names, as to be shared."""
    made: _Made
    """With another name for its memory, which nobody else gets as long as it has this."""


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
        or (len(state.made) and state.made.sums != _sums(weight))
    ):
        if weight.numel() != _places(weight):
            return None
        state = _states[module] = _State(weight, lying, _Made(weight.detach()))
    return state.made


def _sums(weight: Tensor) -> bytes:
    """What tells apart weights that fill their places: sums over an odd number of rows of words, and what is left.

    What is added to every word alike, as another sign or exponent is, an even number of times could be nothing.
    """
    flat = weight.detach().as_strided((weight.numel(),), (1,)).view(torch.uint8).numpy()
    rows = len(flat) // (8 * APART)
    whole = 8 * APART * (rows - 1 + rows % 2)
    words = flat[:whole].view(np.uint64).reshape(-1, APART)
    sums: bytes = np.add.reduce(words, axis=0).tobytes()
    return sums + flat[whole:].tobytes()


def _places(weight: Tensor) -> int:
    """How many places there are from the first number to the last: as many as numbers if each has one, without gaps."""
    return 1 + sum((size - 1) * step for size, step in zip(weight.shape, weight.stride(), strict=True))


def forget(module: Module) -> None:
    """Drop what was made of a module's weight."""
    _states.pop(module, None)
