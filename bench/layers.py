"""`python -m bench.layers`: layers of well-known networks beside PyTorch and JAX, in the ways that users call them.

None of them has an aim: they show what is slow beside the workloads that have one.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from fnmatch import fnmatch
from statistics import geometric_mean
from typing import Any

from triconv.benchmark.machine import Machine
from triconv.benchmark.measure import Settings, measure
from triconv.benchmark.row import Row
from triconv.benchmark.table import busy, loads, machines, notes
from triconv.benchmark.workload import Workload
from triconv.cli.bench import show
from triconv.cli.parse import sizes

from .workloads import OPERATIONS

Layer = tuple[int, int, int, tuple[int, ...], tuple[int, ...], dict[str, Any]]
"""Examples, visible and hidden channels, visible positions, kernel, and the options of the operations."""

LAYERS: dict[str, Layer] = {
    "alexnet 3→64 11×11/4 @224": (16, 3, 64, (224, 224), (11, 11), {"stride": 4, "padding": 2}),
    "vgg 3→64 3×3 @224": (2, 3, 64, (224, 224), (3, 3), {"padding": 1}),
    "vgg 64→64 3×3 @224": (2, 64, 64, (224, 224), (3, 3), {"padding": 1}),
    "vgg 512→512 3×3 @14": (16, 512, 512, (14, 14), (3, 3), {"padding": 1}),
    "vgg classifier 512→1024 7×7 @7": (16, 512, 1024, (7, 7), (7, 7), {}),
    "inception 192→192 1×7 @17": (8, 192, 192, (17, 17), (1, 7), {"padding": (0, 3)}),
    "resnet 1024→1024 3×3 @7": (8, 1024, 1024, (7, 7), (3, 3), {"padding": 1}),
    "resnet 256→256 3×3 @14, batch 1": (1, 256, 256, (14, 14), (3, 3), {"padding": 1}),
    "resnet 1024→256 1×1 @14, batch 1": (1, 1024, 256, (14, 14), (1, 1), {}),
    "resnext 128 3×3 in 32 groups @56": (8, 128, 128, (56, 56), (3, 3), {"padding": 1, "groups": 32}),
    "resnext 256 3×3/2 in 32 groups @56": (8, 256, 256, (56, 56), (3, 3), {"stride": 2, "padding": 1, "groups": 32}),
    "regnet 240 3×3 in 10 groups @28": (8, 240, 240, (28, 28), (3, 3), {"padding": 1, "groups": 10}),
    "shufflenet 240→240 1×1 in 3 groups @28": (16, 240, 240, (28, 28), (1, 1), {"groups": 3}),
    "mobilenet 96→24 1×1 @56": (16, 96, 24, (56, 56), (1, 1), {}),
    "mobilenet depthwise 96 3×3/2 @112": (32, 96, 96, (112, 112), (3, 3), {"stride": 2, "padding": 1, "groups": 96}),
    "mobilenet depthwise 64 3×3 @112, batch 1": (1, 64, 64, (112, 112), (3, 3), {"padding": 1, "groups": 64}),
    "efficientnet 3→32 3×3/2 @224": (8, 3, 32, (224, 224), (3, 3), {"stride": 2, "padding": 1}),
    "efficientnet depthwise 240 5×5 @28": (16, 240, 240, (28, 28), (5, 5), {"padding": 2, "groups": 240}),
    "efficientnet depthwise 96 5×5/2 @56": (16, 96, 96, (56, 56), (5, 5), {"stride": 2, "padding": 2, "groups": 96}),
    "convnext depthwise 96 7×7 @56": (8, 96, 96, (56, 56), (7, 7), {"padding": 3, "groups": 96}),
    "convnext 96→192 2×2/2 @56": (8, 96, 192, (56, 56), (2, 2), {"stride": 2}),
    "vit 3→768 16×16/16 @224": (8, 3, 768, (224, 224), (16, 16), {"stride": 16}),
    "unet up 128→64 2×2/2 @64": (4, 128, 64, (64, 64), (2, 2), {"stride": 2}),
    "unet 3-D 32→32 3×3×3 @32": (2, 32, 32, (32, 32, 32), (3, 3, 3), {"padding": 1}),
    "r3d 3→64 7×7×7/(1,2,2) @16×112×112": (1, 3, 64, (16, 112, 112), (7, 7, 7), {"stride": (1, 2, 2), "padding": 3}),
    "r(2+1)d 64→64 1×3×3 @8×56×56": (1, 64, 64, (8, 56, 56), (1, 3, 3), {"padding": (0, 1, 1)}),
    "deeplab 256→256 3×3, dilation 12 @33": (2, 256, 256, (33, 33), (3, 3), {"padding": 12, "dilation": 12}),
    "dcgan 64→128 4×4/2 @64": (16, 64, 128, (64, 64), (4, 4), {"stride": 2, "padding": 1}),
    "srcnn 3→64 9×9 @33": (16, 3, 64, (33, 33), (9, 9), {"padding": 4}),
    "output 64→1 3×3 @128": (4, 64, 1, (128, 128), (3, 3), {"padding": 1}),
    "filter 1→1 11×11 @512": (4, 1, 1, (512, 512), (11, 11), {"padding": 5}),
    "wavenet 128→128 2, dilation 64 @4096": (4, 128, 128, (4096,), (2,), {"dilation": 64}),
    "wav2vec 1→512 10/5 @16000": (4, 1, 512, (16000,), (10,), {"stride": 5}),
    "tacotron 80→512 5 @1500": (8, 80, 512, (1500,), (5,), {"padding": 2}),
    "conformer depthwise 256 31 @500": (8, 256, 256, (500,), (31,), {"padding": 15, "groups": 256}),
}


def workloads(only: str) -> list[Workload]:
    """The layers whose names have a part that matches."""
    return [
        Workload(name, (n, seen, *size), (made, seen // options.get("groups", 1), *kernel), options)
        for name, (n, seen, made, size, kernel, options) in LAYERS.items()
        if fnmatch(name, f"*{only}*")
    ]


def summary(rows: list[Row]) -> Iterator[str]:
    """What all ratios are together, and the rows in which a peer is faster."""
    ratios = {row.title: ratio for row in rows if (ratio := row.ratio()) is not None}
    if ratios:
        least = min(ratios.values())
        yield f"{len(ratios)} rows: geometric mean {geometric_mean(ratios.values()):.2f}, least {least:.2f}"
    yield from (f"  {title}: {ratio:.2f}" for title, ratio in ratios.items() if ratio < 1)


def main(given: list[str] | None = None) -> int:
    """Measure, and print a table and the rows in which a peer is faster."""
    parser = argparse.ArgumentParser("bench.layers", description=__doc__)
    parser.add_argument("--only", default="*", help="layers whose name has a part like this")
    parser.add_argument("--threads", default="2", help="how many threads, as in 1,2")
    parser.add_argument("--rounds", type=int, default=7, help="samples of each")
    parser.add_argument("--seconds", type=float, default=0.3, help="after which a candidate leaves the rounds")
    options, load = parser.parse_args(given), loads()
    settings = Settings(options.rounds, options.seconds, first_calls=False)
    rows, limit = list[Row](), dict[int, Machine]()
    for found in measure(workloads(options.only), OPERATIONS, sizes("threads", options.threads), settings):
        if isinstance(found, Machine):
            limit[found.threads] = found
            continue
        rows.append(found)
        said = found.failure or f"{found.ratio() or 0:.2f}"
        print(f"{len(rows):4} {found.title}: {said}", file=sys.stderr, flush=True)
    show(rows, "layers of well-known networks", [*machines(limit), *busy(load), *notes(rows), *summary(rows)])
    return int(any(row.failure for row in rows))


if __name__ == "__main__":
    raise SystemExit(main())
