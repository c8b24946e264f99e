"""An operation on operands that lie in some way, and what its derivatives are called with."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ..form import OPERANDS, Role
from .engines import Call, Lying, pattern_of, ready
from .layout import order_of

ASKING = 100_000
"""Floating-point operations of a gradient from which on to ask whether it is wanted.

PyTorch answers by an exception where the gradient of a leaf is named itself: it takes about as long as a smaller one.
"""


def look(tensor: Tensor) -> Lying:
    """How a tensor lies."""
    return tensor.shape, tensor.stride()


class Stage:
    """What one level of differentiation is about."""

    tiny = False
    """Whether gradients are computed unasked."""

    def __init__(self, produces: Role, a: Lying, b: Lying, out: Lying, shared: tuple[Any, ...]) -> None:
        """`shared` are groups, graph and options."""
        one, two = OPERANDS[produces]
        self.produces, self.shared = produces, shared
        self.looks = {one: a, two: b, produces: out}
        self.rank = len((a if one is not Role.WEIGHT else out)[0]) - 2
        self._calls: dict[Role, Call] = {}

    def rest(self, x: Role) -> tuple[Any, ...]:
        """What the operation that produces a role takes besides its operands: its sizes and memory order are known."""
        return self._rests[x]

    @cached_property
    def _rests(self) -> dict[Role, tuple[Any, ...]]:
        rests = {}
        for x, (shape, steps) in self.looks.items():
            sizes: tuple[Any, ...] = ()
            if x is Role.VISIBLE:
                sizes = (shape[2:],)
            elif x is Role.WEIGHT:
                bank = shape[: self.rank] if len(shape) > 2 + self.rank else None
                sizes = shape[len(shape) - self.rank :], bank
            rests[x] = *sizes, *self.shared, order_of(shape, steps)
        return rests

    def call_of(self, x: Role, dtype: torch.dtype) -> Call:
        """The engine's call that produces a role."""
        if x not in self._calls:
            one, two = (self.looks[role][0] for role in OPERANDS[x])
            *sizes, groups, graph, text, order = self.rest(x)
            pattern = groups if graph is None else pattern_of(graph.numpy())
            self._calls[x] = ready(x, tuple(one), tuple(two), dtype, tuple(sizes), pattern, text, tuple(order))
        return self._calls[x]


class Ready(Stage):
    """With the call of an engine, where nothing else is to be called: found once for all that are alike."""

    def __init__(self, produces: Role, a: Lying, b: Lying, shared: tuple[Any, ...], call: Call) -> None:
        super().__init__(produces, a, b, call.lying, shared)
        self.call, self.tiny = call, call.plan.problem.flops < ASKING
