"""What the PyTorch benchmark measures is the same thing in every way."""

from __future__ import annotations

import pytest
import torch
from rich.console import Console

from bench.networks import NETWORKS, Network, Step, UNet, local, resnet18, unfolded
from bench.overhead import candidates, steps
from bench.torch import DERIVATIVES, FIRST, LIBRARY, QUICK, Workload, placed, table, way
from triconv.benchmark.row import OURS, Row
from triconv.benchmark.timing import Timing

SMALL = [
    Workload("strided", (2, 4, 9, 9), (6, 4, 3, 3), stride=2, padding=1),
    Workload("depthwise", (2, 4, 6, 6), (4, 1, 3, 3), padding=1, groups=4),
    Workload("1-D", (2, 4, 12), (3, 4, 5), padding=2),
    Workload("3-D", (1, 2, 5, 4, 3), (3, 2, 3, 3, 3), padding=1),
]


@pytest.mark.parametrize("workload", SMALL, ids=lambda one: one.name)
@pytest.mark.parametrize("derivative", DERIVATIVES)
def test_every_way_computes_the_same(workload: Workload, derivative: str) -> None:
    """Sums of at most some thousand products of normal numbers, three deep, in float32."""
    results = {name: call() for name, call in workload.ways(DERIVATIVES[derivative]).items()}
    assert set(results) == {way(library, last) for library in (OURS, LIBRARY) for last in (True, False)}
    expected = results[f"{LIBRARY} {FIRST}"]
    for found in results.values():
        for mine, theirs in zip(found, expected, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5 * float(theirs.abs().max()))


@pytest.mark.parametrize("name", candidates())
def test_overhead_is_of_the_same_calls(name: str) -> None:
    ours, theirs, given = candidates()[name]
    for mine, other in zip(steps(ours, given).values(), steps(theirs, given).values(), strict=True):
        torch.testing.assert_close(mine(), other(), rtol=1e-4, atol=1e-5)


def test_orders_in_memory() -> None:
    tensor = torch.arange(24.0).reshape(1, 2, 3, 4)
    assert placed(tensor, last=True).is_contiguous(memory_format=torch.channels_last)
    assert placed(tensor, last=False).is_contiguous()
    assert torch.equal(placed(tensor, last=True), tensor)


def test_networks_have_their_sizes() -> None:
    assert sum(one.numel() for one in resnet18().parameters()) == 11_689_512  # as published with torchvision's
    assert UNet((4, 8)).eval()(torch.zeros(1, 1, 16, 16)).shape == (1, 2, 16, 16)
    assert all(network.batch >= QUICK for network in NETWORKS.values())


def test_the_unfolded_network_is_the_local_one() -> None:
    model = local(5, (2, 3, 4))
    images = torch.randn(3, 2, 5, 5)
    torch.testing.assert_close(unfolded(model)(images), model(images), rtol=1e-4, atol=1e-5)


def test_steps_with_replace_are_the_plain_ones() -> None:
    """They learn what they are told: the output goes against the gradient that is given."""
    network = Network(lambda: UNet((4, 8)), (1, 16, 16), 2)
    steps = [Step(network, ours, last, 2) for ours in (False, True) for last in (False, True)]
    outputs = [[one for _ in range(3) for one in step.once()] for step in steps]
    told = [float((output * steps[0].slope).sum()) for output in outputs[0]]
    assert told[2] < told[0]
    for found in outputs:
        torch.testing.assert_close(found, outputs[0], rtol=1e-4, atol=1e-4)


def test_a_step_that_does_not_learn_tells_its_gradients() -> None:
    network = Network(lambda: local(5, (2, 3)), (2, 5, 5), 2, lambda _: None, False, unfolded)
    ours, theirs = (Step(network, own, True, 2) for own in (True, False))
    (output, weight), (expected, gradient) = ours.once(), theirs.once()
    torch.testing.assert_close(output, expected, rtol=1e-4, atol=1e-5)
    assert float(weight.norm()) == pytest.approx(float(gradient.norm()), rel=1e-4)


def test_the_table_has_the_ratio_to_the_better_order() -> None:
    row = Row("a workload", "gradient penalty", 1, apart=0.1)
    row.timings = {name: Timing((seconds,), 1) for name, seconds in zip(names(), (2e-3, 3e-3, 8e-3, 5e-3), strict=True)}
    row.libraries = {name: OURS if name.startswith(OURS) else LIBRARY for name in names()}
    console = Console(width=200, record=True, quiet=False)
    with console.capture() as caught:
        console.print(table([row, Row("another", "step", 1, failure="norms apart")]))
    text = " ".join(caught.get().split())
    assert "2.00 3.00 5.00 2.50 PyTorch channels first" in text
    assert "FAILED: norms apart" in text


def names() -> list[str]:
    return [way(library, last) for library in (OURS, LIBRARY) for last in (True, False)]
