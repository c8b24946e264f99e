"""Which visible channels each hidden channel sees: all, its group's, or those of a dependency graph.

A pattern is data. Engines read it as `blocks`: dense rectangles of connected channels, equal ones stacked, so that
work and memory scale with the edges of the pattern and no engine asks which kind of pattern it is.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Index = NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class Blocks:
    """B dense rectangles of one size: hidden channels (B, a), visible channels and the weight's columns (B, b)."""

    hidden: Index
    visible: Index
    columns: Index


@dataclass(frozen=True)
class Channels:
    """Channel counts, and either a number of groups or a graph (a boolean (hidden, visible) array as bytes)."""

    visible: int
    hidden: int
    groups: int = 1
    graph: bytes | None = None

    @property
    def weight(self) -> tuple[int, int]:
        """The two channel axes of the weight: a graph's weight is dense."""
        return self.hidden, self.visible // self.groups

    @cached_property
    def mask(self) -> NDArray[np.bool_] | None:
        """The graph as a read-only boolean (hidden, visible) array; None for groups, whose weight has no idle entry."""
        if self.graph is None:
            return None
        return np.frombuffer(self.graph, dtype=np.bool_).reshape(self.hidden, self.visible)

    @cached_property
    def blocks(self) -> tuple[Blocks, ...]:
        """The connected rectangles; every edge lies in exactly one. A hidden channel without edges lies in none."""
        if self.mask is None:
            hidden = np.arange(self.hidden).reshape(self.groups, -1)
            visible = np.arange(self.visible).reshape(self.groups, -1)
            return (Blocks(hidden, visible, visible % visible.shape[1]),)
        seen_by: dict[bytes, list[int]] = defaultdict(list)
        for o, row in enumerate(self.mask):
            seen_by[row.tobytes()].append(o)
        by_size: dict[tuple[int, int], list[tuple[list[int], Index]]] = defaultdict(list)
        for row, hidden_channels in seen_by.items():
            sees = np.flatnonzero(np.frombuffer(row, dtype=np.bool_))
            if sees.size:
                by_size[len(hidden_channels), sees.size].append((hidden_channels, sees))
        stacks = []
        for rectangles in by_size.values():
            hidden = np.array([h for h, _ in rectangles])
            visible = np.array([v for _, v in rectangles])
            stacks.append(Blocks(hidden, visible, visible))
        return tuple(stacks)

    @property
    def edges(self) -> int:
        """How many (hidden, visible) pairs are connected."""
        if self.mask is None:
            return self.hidden * self.weight[1]
        return int(np.count_nonzero(self.mask))
