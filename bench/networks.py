"""Networks in plain torch.nn whose training step is measured: ResNet-18, a U-Net, and a locally connected one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from triconv.torch.nn import LocallyConnected, replace


class Residual(nn.Module):
    """Two 3×3 convolutions around which the input goes, by a 1×1 convolution where shapes differ."""

    def __init__(self, visible: int, hidden: int, stride: int) -> None:
        super().__init__()
        self.inside = nn.Sequential(
            nn.Conv2d(visible, hidden, 3, stride, 1, bias=False),
            nn.BatchNorm2d(hidden),
            nn.ReLU(),
            nn.Conv2d(hidden, hidden, 3, 1, 1, bias=False),
            nn.BatchNorm2d(hidden),
        )
        around = nn.Sequential(nn.Conv2d(visible, hidden, 1, stride, bias=False), nn.BatchNorm2d(hidden))
        self.around = around if stride > 1 or visible != hidden else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.inside(x) + self.around(x))


def resnet18() -> nn.Module:
    """He et al. 2015, the one of 18 layers."""
    blocks, channels = [], 64
    for hidden, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
        blocks += [Residual(channels, hidden, stride), Residual(hidden, hidden, 1)]
        channels = hidden
    start = nn.Sequential(nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1))
    return nn.Sequential(start, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 1000))


class UNet(nn.Module):
    """Ronneberger et al. 2015, small: four sizes, padded, as many classes as scores at each position."""

    def __init__(self, channels: tuple[int, ...] = (32, 64, 128, 256)) -> None:
        super().__init__()
        self.down = nn.ModuleList(twice(a, b) for a, b in zip((1, *channels), channels, strict=False))
        pairs = list(pairwise(channels))[::-1]
        self.enlarge = nn.ModuleList(nn.ConvTranspose2d(low, high, 2, 2) for high, low in pairs)
        self.up = nn.ModuleList(twice(2 * high, high) for high, _ in pairs)
        self.last = nn.Conv2d(channels[0], 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        kept = []
        for number, block in enumerate(self.down):
            x = block(functional.max_pool2d(x, 2) if number else x)
            kept.append(x)
        for enlarge, block, beside in zip(self.enlarge, self.up, kept[-2::-1], strict=True):
            x = block(torch.cat([beside, enlarge(x)], 1))
        return self.last(x)


def twice(visible: int, hidden: int) -> nn.Module:
    """Two 3×3 convolutions, each with normalisation and ReLU."""
    layers: list[nn.Module] = []
    for channels in (visible, hidden):
        layers += [nn.Conv2d(channels, hidden, 3, padding=1, bias=False), nn.BatchNorm2d(hidden), nn.ReLU()]
    return nn.Sequential(*layers)


class Unfolded(nn.Module):
    """A locally connected 3×3 layer as users write it: patches by unfold, one matrix for each position by einsum."""

    def __init__(self, layer: LocallyConnected) -> None:
        super().__init__()
        rows, columns, hidden = layer.weight.shape[:3]
        self.weight = nn.Parameter(layer.weight.detach().reshape(rows * columns, hidden, -1).clone())
        self.size = (rows, columns)

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.einsum("nkl,lok->nol", functional.unfold(x, 3, padding=1), self.weight)
        return hidden.unflatten(2, self.size)


def local(size: int, channels: tuple[int, ...]) -> nn.Module:
    """Locally connected 3×3 layers."""
    layers: list[nn.Module] = []
    for visible, hidden in pairwise(channels):
        layer = LocallyConnected(visible, hidden, (3, 3), visible_size=(size, size), padding=1, bias=False)
        layers += [layer, nn.ReLU()]
    return nn.Sequential(*layers)


def unfolded(model: nn.Module) -> nn.Module:
    """The same network by unfold."""
    assert isinstance(model, nn.Sequential)
    return nn.Sequential(*(Unfolded(one) if isinstance(one, LocallyConnected) else one for one in model))


@dataclass(frozen=True)
class Network:
    """A network, its input, and how the two ways are made of it."""

    make: Callable[[], nn.Module]
    visible: tuple[int, ...]
    """Channels and sizes."""
    batch: int
    ours: Callable[[nn.Module], object] = replace
    """Done to the model in place."""
    learns: bool = True
    """Whether a step of SGD is part of what is measured."""
    theirs: Callable[[nn.Module], nn.Module] = nn.Identity().forward

    @property
    def sizes(self) -> str:
        return str((self.batch, *self.visible))


NETWORKS = {
    "ResNet-18 @224, replace": Network(resnet18, (3, 224, 224), 8),
    "U-Net @128, replace": Network(UNet, (1, 128, 128), 8),
    "local 3×3 16→32→32 @28": Network(
        lambda: local(28, (16, 32, 32)), (16, 28, 28), 32, lambda _: None, False, unfolded
    ),
    "local 3×3 64→64→64 @28": Network(
        lambda: local(28, (64, 64, 64)), (64, 28, 28), 8, lambda _: None, False, unfolded
    ),
    "local 3×3 32→32→32 @14": Network(
        lambda: local(14, (32, 32, 32)), (32, 14, 14), 64, lambda _: None, False, unfolded
    ),
}


class Step:
    """One step of training: forward, backward from a gradient that is given, and SGD where the model learns.

    What a loss takes is PyTorch's on both sides, so there is none: its tensors would count as both networks' memory.
    """

    def __init__(self, network: Network, ours: bool, last: bool, batch: int) -> None:
        torch.manual_seed(0)
        model = network.make()
        if ours:
            network.ours(model)
        else:
            model = network.theirs(model)
        self.format = torch.channels_last if last else torch.contiguous_format
        self.model = model if any(one.ndim > 4 for one in model.parameters()) else model.to(memory_format=self.format)
        self.visible = self._random((batch, *network.visible))
        with torch.no_grad():
            shape = self.model(self.visible).shape
        self.slope = self._random(shape) / shape.numel()
        self.learns = network.learns
        self.optimizer = torch.optim.SGD(self.model.parameters(), 1e-3)

    def _random(self, shape: tuple[int, ...]) -> Tensor:
        drawn = torch.randn(shape)
        return drawn.contiguous(memory_format=self.format) if len(shape) == 4 else drawn

    def once(self) -> list[Tensor]:
        """What the model gives, after which it takes a step, and the gradients, unless the step has used them."""
        self.optimizer.zero_grad()
        output = self.model(self.visible)
        output.backward(self.slope)
        if self.learns:
            self.optimizer.step()
            return [output.detach()]
        return [output.detach(), *(one.grad for one in self.model.parameters() if one.grad is not None)]
