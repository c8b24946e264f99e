"""What PyTorch has for parameters: vectors, pruning, initial values, norms, checkpoints."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.utils import prune

from triconv.torch import nn

pytestmark = pytest.mark.usefixtures("seed")


@pytest.fixture
def seed() -> None:
    torch.manual_seed(0)


# Banks of kernels lie with their hidden channels innermost.

BANKED: dict[str, Callable[[], torch.nn.Module]] = {
    "local": lambda: nn.LocallyConnected(3, 4, (3, 3), visible_size=(6, 6)),
    "tiled": lambda: nn.Tiled(3, 4, (3, 3), period=2),
}
FLAT: dict[str, Callable[[torch.nn.Module], Any]] = {
    "parameters_to_vector": lambda layer: torch.nn.utils.parameters_to_vector(layer.parameters()),
    "prune": lambda layer: prune.l1_unstructured(layer, "weight", 0.5),
    "orthogonal": lambda layer: torch.nn.init.orthogonal_(layer.weight),
    "LBFGS": lambda layer: stepped(layer, torch.optim.LBFGS(layer.parameters(), max_iter=2)),
}


def stepped(layer: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """The loss is less than before."""

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = layer(torch.ones(2, 3, 6, 6)).square().sum()
        loss.backward()
        return loss

    before = closure().item()
    optimizer.step(closure)
    assert closure().item() < before


@pytest.mark.parametrize("what", FLAT)
@pytest.mark.parametrize("kind", BANKED)
def test_what_wants_flat_parameters_takes_a_contiguous_bank(kind: str, what: str) -> None:
    layer = BANKED[kind]()
    x = torch.randn(2, 3, 6, 6)
    with pytest.raises(RuntimeError, match="view size is not compatible"):
        FLAT[what](layer)
    layer = BANKED[kind]()
    expected = layer(x)
    layer.weight.data = layer.weight.data.contiguous()
    torch.testing.assert_close(layer(x), expected)
    FLAT[what](layer)
    layer(x).sum().backward()


@pytest.mark.parametrize("kind", BANKED)
def test_a_bank_is_written_from_a_vector(kind: str) -> None:
    layer = BANKED[kind]()
    x, before = torch.randn(2, 3, 6, 6), layer.weight.detach().clone()
    expected = layer(x)
    vector = torch.cat([parameter.detach().reshape(-1) for parameter in layer.parameters()])
    torch.nn.utils.vector_to_parameters(vector, layer.parameters())
    assert torch.equal(layer.weight, before)
    torch.testing.assert_close(layer(x), expected)


@pytest.mark.parametrize("kind", BANKED)
def test_structured_pruning_and_norms_of_a_bank(kind: str) -> None:
    layer, x = BANKED[kind](), torch.randn(2, 3, 6, 6)
    expected, rank = layer(x), len(layer.kernel_size)
    torch.nn.utils.parametrizations.weight_norm(layer, dim=rank)
    assert layer.parametrizations.weight.original0.numel() == layer.out_channels
    torch.testing.assert_close(layer(x), expected)
    torch.nn.utils.parametrize.remove_parametrizations(layer, "weight")
    torch.testing.assert_close(layer(x), expected)
    prune.ln_structured(layer, "weight", 0.5, n=2, dim=rank)
    kept = layer.weight.detach().movedim(rank, 0).flatten(1).any(1)
    assert int(kept.sum()) == 2
    torch.nn.utils.parametrizations.spectral_norm(BANKED[kind](), dim=rank)(x).sum().backward()


@pytest.mark.parametrize("kind", BANKED)
def test_each_kernel_of_a_bank_is_drawn(kind: str) -> None:
    """As the module's docstring says; its fan is of one kernel, where a whole bank's would be another."""
    layer = BANKED[kind]()
    steps = layer.weight.stride()
    for kernel in layer.weight.detach().flatten(0, len(layer.kernel_size) - 1):
        assert torch.nn.init._calculate_fan_in_and_fan_out(kernel) == (27, 36)
        torch.nn.init.constant_(kernel, 7.0)
    assert torch.equal(layer.weight, torch.full_like(layer.weight, 7.0))
    assert layer.weight.stride() == steps
    assert torch.nn.init._calculate_fan_in_and_fan_out(layer.weight)[0] != 27


def test_a_graph_is_built_and_not_loaded() -> None:
    graph = torch.ones(4, 3, dtype=torch.bool).tril()
    layer = nn.Conv2d(3, 4, 3, groups=graph)
    assert set(layer.state_dict()) == {"weight", "bias"}
    moved = layer.to("meta").to_empty(device="cpu")
    for one in (moved, copy.deepcopy(moved), pickle.loads(pickle.dumps(moved))):
        assert torch.equal(one.groups, graph)


def test_replaced_convolutions_promote() -> None:
    model = torch.nn.Conv2d(3, 4, 3)
    x = torch.randn(2, 3, 6, 6, dtype=torch.float64)
    with pytest.raises(RuntimeError):
        model(x)
    nn.replace(model)
    assert model(x).dtype is torch.float64
    assert model.weight.dtype is torch.float32
