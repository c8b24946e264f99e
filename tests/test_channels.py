"""Channel patterns as blocks: every edge in exactly one, nothing else in any."""

from __future__ import annotations

from collections import Counter

import numpy as np
import oracle
import pytest
from numpy.typing import NDArray

from triconv.channels import Channels

RANDOM = np.random.default_rng(0)
GRAPHS = [RANDOM.random((o, i)) < share for o in (1, 3, 6) for i in (1, 2, 5) for share in (0.0, 0.3, 0.7, 1.0)]
GROUPS = [(1, 1, 1), (1, 3, 2), (2, 4, 6), (3, 3, 3), (3, 3, 9), (3, 6, 3), (4, 8, 4)]


def edges_of(channels: Channels) -> Counter[tuple[int, int, int]]:
    """(hidden, visible, column) of every entry of every block."""
    found: Counter[tuple[int, int, int]] = Counter()
    for stack in channels.blocks:
        assert len(stack.hidden) == len(stack.visible) == len(stack.columns)
        assert stack.visible.shape == stack.columns.shape
        for outputs, inputs, columns in zip(stack.hidden, stack.visible, stack.columns, strict=True):
            for o in outputs:
                found.update((int(o), int(i), int(j)) for i, j in zip(inputs, columns, strict=True))
    return found


@pytest.mark.parametrize(("groups", "visible", "hidden"), GROUPS)
def test_blocks_of_groups(groups: int, visible: int, hidden: int) -> None:
    channels = Channels(visible, hidden, groups)
    assert edges_of(channels) == Counter(oracle.edges(groups, visible, hidden))
    assert channels.edges == visible * hidden // groups
    assert channels.weight == (hidden, visible // groups)
    assert channels.mask is None
    (stack,) = channels.blocks
    assert stack.hidden.shape == (groups, hidden // groups)


@pytest.mark.parametrize("graph", GRAPHS, ids=lambda graph: f"{graph.shape}, {graph.sum()} edges")
def test_blocks_of_a_graph(graph: NDArray[np.bool_]) -> None:
    hidden, visible = graph.shape
    channels = Channels(visible, hidden, graph=graph.tobytes())
    assert edges_of(channels) == Counter(oracle.edges(graph, visible, hidden))
    assert channels.edges == graph.sum()
    assert channels.weight == (hidden, visible)
    np.testing.assert_array_equal(channels.mask, graph)


def test_hidden_channels_that_see_the_same_share_a_block() -> None:
    """Work scales with the edges: a graph of two dense groups is two rectangles, of equal size, in one stack."""
    graph = np.kron(np.eye(2, dtype=bool), np.ones((3, 2), dtype=bool))
    (stack,) = Channels(4, 6, graph=graph.tobytes()).blocks
    assert stack.hidden.tolist() == [[0, 1, 2], [3, 4, 5]]
    assert stack.visible.tolist() == stack.columns.tolist() == [[0, 1], [2, 3]]
    one_dense = Channels(4, 6, graph=np.ones((6, 4), dtype=bool).tobytes())
    assert [stack.hidden.shape for stack in one_dense.blocks] == [(1, 6)]
    assert Channels(4, 6, graph=np.zeros((6, 4), dtype=bool).tobytes()).blocks == ()


def test_channels_are_hashable_data() -> None:
    graph = np.eye(3, dtype=bool)
    assert Channels(3, 3, graph=graph.tobytes()) == Channels(3, 3, graph=graph.tobytes())
    assert len({Channels(3, 3, 3), Channels(3, 3, 3), Channels(3, 3), Channels(3, 3, graph=graph.tobytes())}) == 3
    mask = Channels(3, 3, graph=graph.tobytes()).mask
    assert mask is not None
    assert not mask.flags.writeable
