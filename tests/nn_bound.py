"""How far two modules of the same parameters may lie apart, from the products that each number of an output sums."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import numpy as np
import oracle
import torch
from torch import Tensor
from torch.nn import Module


def allowed(module: Module, given: Tensor, *rest: Any) -> Any:
    """The bound for a linear module's output: its terms and their magnitudes, counted by the module itself."""
    dtype = torch.finfo(given.dtype).dtype
    return oracle.bound(*(_sums(module, given, rest, what) for what in (torch.ones_like, torch.abs)), np.dtype(dtype))


def _sums(module: Module, given: Tensor, rest: tuple[Any, ...], what: Callable[[Tensor], Tensor]) -> Any:
    twin = deepcopy(module).double()
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.copy_(what(parameter))
        return twin(what(given.double()), *rest).numpy()


def assert_same(ours: Module, theirs: Module, given: Tensor, *rest: Any, what: str = "") -> None:
    """The outputs of two linear modules with the same parameters are the same to rounding."""
    actual, expected = ours(given, *rest), theirs(given, *rest)
    assert actual.dtype is expected.dtype
    oracle.assert_close(actual.detach(), expected.detach(), allowed(theirs, given, *rest), what or repr(theirs))
