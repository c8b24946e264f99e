"""Which index takes up a batch: the rule by which `vmap` passes the three operations.

In the form T(v, w, h) each index belongs to some of the three roles: examples to visible and hidden, hidden channels to
hidden and weight, visible channels to visible and weight, and a spatial axis with kernels of its own to all three.
Whatever operands have a batch, the result has it too, and exactly one of these indices belongs to those roles and to
no other: it becomes longer, or is put in, and the operation is called once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..form import OPERANDS, Role
from .options import with_first_axis

V, H, W = Role.VISIBLE, Role.HIDDEN, Role.WEIGHT

INDEX = {frozenset((V, H)): 0, frozenset((H, W)): 1, frozenset((V, W)): 2}
"""Of two roles that have a batch the index that takes it: examples, hidden channels or visible channels."""


@dataclass(frozen=True)
class Batch:
    """A batch of a size over operations of one rank and number of groups, on weights with or without a bank."""

    size: int
    rank: int
    banked: bool
    groups: int

    def place(self, role: Role, index: int) -> tuple[int, int]:
        """The axis of an index in a role, and into how many groups it is parted there."""
        if index == 0:
            return 0, 1
        if role is W:
            lead = self.rank if self.banked else 0
            return lead + index - 1, self.groups if index == 1 else 1
        return 1, self.groups

    def fold(self, tensor: Tensor, role: Role, index: int) -> Tensor:
        """Let an index take the batch, which is the first axis: in each group, once for each of the batch."""
        axis, parts = self.place(role, index)
        width = tensor.shape[axis + 1] // parts
        split: Tensor = tensor.unflatten(axis + 1, (parts, width))
        return split.movedim(0, axis + 1).flatten(axis, axis + 2)

    def unfold(self, tensor: Tensor, role: Role, index: int) -> Tensor:
        """Give the batch back."""
        axis, parts = self.place(role, index)
        width = tensor.shape[axis] // (parts * self.size)
        split: Tensor = tensor.unflatten(axis, (parts, self.size, width))
        return split.movedim(axis + 1, 0).flatten(axis + 1, axis + 2)

    def lay(self, tensor: Tensor, role: Role) -> Tensor:
        """Let the batch be the first spatial axis, with a kernel of its own for each position: always a view."""
        if role is not W:
            return tensor.movedim(0, 2)
        if not self.banked:
            tensor = tensor[(slice(None), *(None,) * self.rank)]
        return tensor.unsqueeze(tensor.ndim - self.rank)

    def lift(self, tensor: Tensor, role: Role) -> Tensor:
        """Take the axis back."""
        if role is not W:
            return tensor.movedim(2, 0)
        tensor = tensor.squeeze(tensor.ndim - self.rank - 1)
        return tensor if self.banked else tensor.squeeze(tuple(range(1, 1 + self.rank)))

    def lay_order(self, order: list[int] | None, role: Role) -> list[int] | None:
        """The order in memory of what `lift` gives a result of this order from."""
        if order is None:
            return None
        if role is not W:
            return [2, *(axis + (axis >= 2) for axis in order)]
        lead = self.rank + 1
        kernel = lead + 2
        moved = [axis + lead - (self.rank if self.banked else 0) for axis in order]
        moved = [axis + (axis >= kernel) for axis in moved]
        return [*(axis for axis in range(kernel + 1 + self.rank) if axis not in moved), *moved]


def batched(
    operator: Callable[..., Tensor], produces: Role, info: Any, in_dims: tuple[Any, ...], *arguments: Any
) -> tuple[Tensor, int]:
    """The operation on operands of which some have a batch, along the axes `in_dims`; the batch of the result."""
    a, b, *sizes, groups, graph, text, order = arguments
    if in_dims[2 + len(sizes) + 1] is not None:
        raise NotImplementedError("groups: expected one channel graph for the whole batch, got a batch of them")
    roles = OPERANDS[produces]
    dims = dict(zip(roles, in_dims[:2], strict=True))
    given = {
        role: tensor if dims[role] is None else _some(tensor.movedim(dims[role], 0))
        for role, tensor in zip(roles, (a, b), strict=True)
    }
    rank = a.ndim - 2 - (dims[roles[0]] is not None)
    weight_axes = 0 if produces is W else given[W].ndim - (dims[W] is not None)
    banked = sizes[1] is not None if produces is W else weight_axes > 2 + rank
    batch = Batch(max(info.batch_size, 1), rank, banked, groups)
    have = frozenset([produces, *(role for role in roles if dims[role] is not None)])
    if (index := INDEX.get(have)) is not None:
        folded = [batch.fold(x, role, index) if role in have else x for role, x in given.items()]
        if graph is not None and index:
            graph = graph.repeat((batch.size, 1) if index == 1 else (1, batch.size))
        result = operator(*folded, *sizes, groups, graph, text, order)
        return batch.unfold(result, produces, index)[: info.batch_size], 0
    if produces is V:
        sizes = [None if sizes[0] is None else [batch.size, *sizes[0]]]
    elif produces is W:
        sizes = [[1, *sizes[0]], [batch.size, *(sizes[1] if banked else (1,) * rank)]]
    laid = [batch.lay(x, role) for role, x in given.items()]
    order = batch.lay_order(order, produces)
    result = operator(*laid, *sizes, groups, graph, with_first_axis(text, rank), order)
    return batch.lift(result, produces)[: info.batch_size], 0


def _some(tensor: Tensor) -> Tensor:
    """A batch of none as one of zeros, which no index would take up otherwise; it is taken away again afterwards."""
    return tensor if len(tensor) else torch.cat([tensor, tensor.new_zeros((1, *tensor.shape[1:]))])
