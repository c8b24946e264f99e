"""What is measured, and what each row must show."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatch
from functools import partial
from typing import Any

import numpy as np

from triconv.benchmark.first import TINY
from triconv.benchmark.workload import Workload
from triconv.kernels.target import target

OPERATIONS = ("conv", "conv_transpose", "conv_weight")


@dataclass(frozen=True)
class Group:
    """Rows that are judged together: what each must show, in words, and the least that all must show together."""

    title: str
    mean: float = 0
    """The geometric mean of their ratios to the best peer."""
    median: float = 0

    def __str__(self) -> str:
        both = (("geometric mean", self.mean), ("median", self.median))
        return ", ".join([self.title, *(f"{name} ≥ {least:g}" for name, least in both if least)])


GROUPS = {
    1: Group("dense, where oneDNN is strong: each ≥ 0.95", median=1.0),
    2: Group("strided gradients to the visible, first layers, odd channels, float64, transposed: each ≥ 1.0", mean=1.5),
    3: Group(
        "locally connected and tiled: each ≥ 8 × unfold and JAX's local convolution, or ≥ 70 % of memory bandwidth "
        "where the weight does not fit in cache; tiled also ≥ 1 × a convolution per kernel"
    ),
    4: Group("4-D, depthwise, channel graph: each its own"),
    5: Group("stride 1 and few taps: each ≥ 1.7, 5×5 ≥ 1.5, 3×3×3 ≥ 2", mean=2.2),
    6: Group("all in float32: each ≥ 1.0", mean=2.0),
    7: Group(
        "bfloat16, where the processor multiplies it: each ≥ 1.0 × PyTorch's, ≥ 1.5 × our own float32 direct engine"
    ),
}


@dataclass(frozen=True)
class Aim:
    """What a row must show: the group it is judged in, and the least ratios to ways whose names begin so."""

    group: int
    least: tuple[tuple[float, str], ...]


@dataclass(frozen=True, eq=False)
class Case:
    """A workload and the aims of its operations; an operation without one is measured and not judged."""

    workload: Workload
    aims: Mapping[str, tuple[Aim, ...]] = field(default_factory=dict)


def cases(only: str = "*") -> list[Case]:
    """The cases whose names match a pattern, or contain it."""
    return [case for case in _all() if fnmatch(case.workload.name, only) or only in case.workload.name]


def _all() -> Iterator[Case]:
    yield from _resnet()
    yield from _dense()
    yield from _weak_spots()
    yield from _banks()
    yield from _others()
    yield from _halves() if target().pairs else ()
    yield Case(TINY)


def _case(
    name: str,
    visible: tuple[int, ...],
    weight: tuple[int, ...],
    aim: Aim | Mapping[str, Aim],
    dtype: str = "float32",
    few_taps: float = 0,
    **options: Any,
) -> Case:
    """A case with the aim of each operation, besides that of all, and of few taps where it must be so much faster."""
    others = [EVERY] if dtype == "float32" else []
    others += [Aim(5, ((few_taps, ""),))] if few_taps else []
    own = dict.fromkeys(OPERATIONS, aim) if isinstance(aim, Aim) else aim
    aims = {operation: (one, *others) for operation, one in own.items()}
    return Case(Workload(name, visible, weight, options, dtype), aims)


STRONG, WEAK, BANK = Aim(1, ((0.95, ""),)), Aim(2, ((1.0, ""),)), Aim(3, ((8.0, ""),))
EVERY = Aim(6, ((1.0, ""),))
TILED = Aim(3, ((8.0, "PyTorch unfold"), (8.0, "JAX local"), (1.0, "PyTorch convolution per kernel")))
STRIDED = {"conv": STRONG, "conv_transpose": WEAK, "conv_weight": STRONG}


def _resnet() -> Iterator[Case]:
    """The distinct convolutions of ResNet-50 with 8 images of 224²; strides are in the 3×3, as in torchvision."""
    yield _case("resnet 7×7/2 3→64 @224", (8, 3, 224, 224), (64, 3, 7, 7), WEAK, stride=2, padding=3)
    size, channels = 56, 64
    for inner, outer, stride in ((64, 256, 1), (128, 512, 2), (256, 1024, 2), (512, 2048, 2)):
        yield _resnet_case(1, channels, inner, size)  # into the first block
        if stride > 1:
            yield _resnet_case(3, inner, inner, size, stride)
            yield _resnet_case(1, channels, outer, size, stride)  # the first block's shortcut
        size, channels = size // stride, outer
        yield _resnet_case(3, inner, inner, size)
        yield _resnet_case(1, inner, outer, size)
        yield _resnet_case(1, outer, inner, size)  # into the other blocks


def _resnet_case(kernel: int, visible: int, hidden: int, size: int, stride: int = 1) -> Case:
    name = f"resnet {kernel}×{kernel}{f'/{stride}' if stride > 1 else ''} {visible}→{hidden} @{size}"
    aim = STRIDED if stride > 1 else STRONG
    shapes = (8, visible, size, size), (hidden, visible, kernel, kernel)
    few_taps = 1.7 if kernel == 3 and stride == 1 else 0
    return _case(name, *shapes, aim, few_taps=few_taps, stride=stride, padding=kernel // 2)


def _dense() -> Iterator[Case]:
    yield _case(
        "groups 8, 3×3 256→256 @28", (8, 256, 28, 28), (256, 32, 3, 3), STRONG, few_taps=1.7, padding=1, groups=8
    )
    yield _case("5×5 64→64 @28", (8, 64, 28, 28), (64, 64, 5, 5), STRONG, few_taps=1.5, padding=2)
    yield _case("1-D 9 64→64 @4096", (8, 64, 4096), (64, 64, 9), STRONG, padding=4)
    yield _case("3-D 3×3×3 32→32 @16³", (4, 32, 16, 16, 16), (32, 32, 3, 3, 3), STRONG, few_taps=2.0, padding=1)
    yield _case(
        "dilated 2, 3×3 128→128 @28", (8, 128, 28, 28), (128, 128, 3, 3), STRONG, few_taps=1.7, padding=2, dilation=2
    )


def _weak_spots() -> Iterator[Case]:
    yield _case("lenet 5×5 1→6 @28", (64, 1, 28, 28), (6, 1, 5, 5), WEAK, padding=2)
    yield _case("odd channels, 3×3 17→23 @56", (8, 17, 56, 56), (23, 17, 3, 3), WEAK, few_taps=1.7, padding=1)
    yield _case("transposed 4×4/2 256→128 @16", (8, 128, 32, 32), (256, 128, 4, 4), WEAK, stride=2, padding=1)
    yield _case("float64 3×3 64→64 @56", (8, 64, 56, 56), (64, 64, 3, 3), WEAK, "float64", padding=1)
    yield _case("float64 1×1 256→64 @56", (8, 256, 56, 56), (64, 256, 1, 1), WEAK, "float64")


def _banks() -> Iterator[Case]:
    local = partial(_case, aim=BANK, padding=1)
    yield local("local 3×3 16→32 @28, batch 32", (32, 16, 28, 28), (28, 28, 32, 16, 3, 3))
    yield local("local 3×3 64→64 @28, batch 8", (8, 64, 28, 28), (28, 28, 64, 64, 3, 3))
    yield local("local 3×3 32→32 @14, batch 64", (64, 32, 14, 14), (14, 14, 32, 32, 3, 3))
    tiled = partial(_case, aim=TILED, padding=1)
    yield tiled("tiled 2×2, 3×3 32→32 @28", (32, 32, 28, 28), (2, 2, 32, 32, 3, 3))
    yield tiled("tiled 4×4, 3×3 32→32 @28", (32, 32, 28, 28), (4, 4, 32, 32, 3, 3))


def _halves() -> Iterator[Case]:
    """The dense workloads in bfloat16."""
    aim = Aim(7, ((1.0, "PyTorch"), (1.5, "triconv, float32")))
    for case in (*_resnet(), *_dense()):
        one = case.workload
        yield _case(f"bfloat16 {one.name}", one.visible, one.weight, aim, "bfloat16", **one.options)


def _others() -> Iterator[Case]:
    every = Aim(4, ((1.1, "PyTorch"), (20, "JAX")))
    yield _case("4-D 3⁴ 16→16 @10⁴", (2, 16, 10, 10, 10, 10), (16, 16, 3, 3, 3, 3), every, padding=1)
    small = Aim(4, ((1.2, ""),))
    yield _case("depthwise 3×3 256 @28", (8, 256, 28, 28), (256, 1, 3, 3), small, padding=1, groups=256)
    large = {
        "conv": Aim(4, ((0.9, "PyTorch channels last"), (20, "PyTorch channels first"))),
        "conv_transpose": Aim(4, ((1.5, ""),)),
        "conv_weight": Aim(4, ((10, ""),)),
    }
    yield _case("depthwise 31×31 64 @56", (8, 64, 56, 56), (64, 1, 31, 31), large, padding=15, groups=64)
    graph = np.random.default_rng(0).random((128, 128)) < 0.1
    fifth = Aim(4, ((5, "triconv, dense"),))
    yield _case("graph of 10 %, 3×3 128→128 @28", (8, 128, 28, 28), (128, 128, 3, 3), fifth, padding=1, groups=graph)
