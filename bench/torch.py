"""`python -m bench.torch`: what autograd does with our operations and modules, beside PyTorch's own."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from math import exp, log
from pathlib import Path
from statistics import fmean

import torch
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn import functional

from triconv.benchmark.measure import in_process
from triconv.benchmark.memory import resident_extra
from triconv.benchmark.row import OURS, Row
from triconv.benchmark.table import busy, loads, to_json, write_json
from triconv.benchmark.timing import WARM, interleave
from triconv.cli.bench import WIDTH
from triconv.cli.parse import sizes
from triconv.torch import conv

from .networks import NETWORKS, Step

LIBRARY = "PyTorch"
FIRST = "channels first"
CLOSE = 1e-4
"""Relative difference of the norms. Sums of n products in float32 are off by about √n · 6e-8, and n is below 1e6; what
an optimiser's single step adds is of the same size."""
QUICK = 2
"""Examples of each workload with --quick."""

Convolution = Callable[[Tensor, Tensor], Tensor]


def forward_backward(convolve: Convolution, v: Tensor, w: Tensor, u: Tensor) -> tuple[Tensor, ...]:
    """The gradients of ½ |conv(v, w)|² to both operands: 3 convolutions."""
    del u
    hidden = convolve(v, w)
    return torch.autograd.grad(hidden, (v, w), hidden.detach())


def gradient_penalty(convolve: Convolution, v: Tensor, w: Tensor, u: Tensor) -> tuple[Tensor, ...]:
    """The gradient to the weight of |∂/∂v ½ |conv(v, w)|²|²: 5 convolutions."""
    del u
    hidden = convolve(v, w)
    (slope,) = torch.autograd.grad(hidden, v, hidden, create_graph=True)
    return torch.autograd.grad(slope, w, slope.detach())


def hessian_vector(convolve: Convolution, v: Tensor, w: Tensor, u: Tensor) -> tuple[Tensor, ...]:
    """The Hessian of ½ |conv(v, w)|² with respect to the weight, times u: 4 convolutions."""
    hidden = convolve(v, w)
    (slope,) = torch.autograd.grad(hidden, w, hidden, create_graph=True)
    return torch.autograd.grad(slope, w, u)


DERIVATIVES = {
    "forward and backward": forward_backward,
    "gradient penalty": gradient_penalty,
    "Hessian-vector product": hessian_vector,
}


@dataclass(frozen=True)
class Workload:
    """One convolution, as both libraries take it."""

    name: str
    visible: tuple[int, ...]
    weight: tuple[int, ...]
    stride: int = 1
    padding: int = 0
    groups: int = 1

    def ways(self, derivative: Callable[..., tuple[Tensor, ...]]) -> dict[str, Callable[[], tuple[Tensor, ...]]]:
        """The derivative by each library in each memory order."""
        options = {"stride": self.stride, "padding": self.padding, "groups": self.groups}
        theirs = getattr(functional, f"conv{len(self.visible) - 2}d")
        random = torch.Generator().manual_seed(0)
        values = [torch.randn(shape, generator=random) for shape in (self.visible, self.weight, self.weight)]
        found = {}
        for library, function in ((OURS, conv), (LIBRARY, theirs)):
            for last in (True, False):
                v, w, u = (placed(value, last) for value in values)
                convolve = partial(function, **options)
                found[way(library, last)] = partial(derivative, convolve, v.requires_grad_(), w.requires_grad_(), u)
        return found


def placed(tensor: Tensor, last: bool) -> Tensor:
    """A copy with its channels innermost in memory, or in the order of its axes."""
    return tensor.movedim(1, -1).clone(memory_format=torch.contiguous_format).movedim(-1, 1) if last else tensor.clone()


def way(library: str, last: bool) -> str:
    """A name: ours is channels last where nothing is said, as in the other benchmark."""
    order = "channels last" if last else FIRST
    return library if (library, last) == (OURS, True) else f"{library} {order}"


WORKLOADS = {
    one.name: one
    for one in (
        Workload("3×3 64→64 @56", (8, 64, 56, 56), (64, 64, 3, 3), padding=1),
        Workload("1×1 256→64 @56", (8, 256, 56, 56), (64, 256, 1, 1)),
        Workload("3×3 256→256 @14", (8, 256, 14, 14), (256, 256, 3, 3), padding=1),
        Workload("depthwise 3×3 256 @28", (8, 256, 28, 28), (256, 1, 3, 3), padding=1, groups=256),
        Workload("3×3/2 128→128 @56", (8, 128, 56, 56), (128, 128, 3, 3), stride=2, padding=1),
        Workload("1-D 9 64→64 @4096", (8, 64, 4096), (64, 64, 9), padding=4),
        Workload("3-D 3×3×3 32→32 @16³", (4, 32, 16, 16, 16), (32, 32, 3, 3, 3), padding=1),
    )
}


@torch.enable_grad()
def measure_derivative(name: str, derivative: str, threads: int, rounds: int, seconds: float, quick: bool) -> Row:
    """A row of one workload, in the process of its threads."""
    workload = WORKLOADS[name]
    row = Row(name, derivative, threads, f"{workload.visible} · {workload.weight}", "float32")
    shape = (min(QUICK, workload.visible[0]), *workload.visible[1:]) if quick else workload.visible
    return _measured(row, Workload(name, shape, *_rest(workload)).ways(DERIVATIVES[derivative]), rounds, seconds)


@torch.enable_grad()
def measure_network(name: str, threads: int, rounds: int, seconds: float, quick: bool) -> Row:
    """A row of one network's training step: its memory too, where it is of interest."""
    network = NETWORKS[name]
    operation = "training step" if network.learns else "forward and backward"
    row = Row(name, operation, threads, network.sizes, "float32")
    steps: dict[str, Step] = {}
    for library in (OURS, LIBRARY):
        for last in (True, False):
            steps[way(library, last)] = Step(network, library == OURS, last, QUICK if quick else network.batch)
    row = _measured(row, {name: step.once for name, step in steps.items()}, rounds, seconds)
    for title, one in (("resident", OURS), ("resident of the best peer", row.best())):
        found = None if one is None else resident_extra(steps[one].once, 0)
        if found is not None:
            row.extra[title] = found
    return row


def _rest(workload: Workload) -> tuple[tuple[int, ...], int, int, int]:
    return workload.weight, workload.stride, workload.padding, workload.groups


def _measured(row: Row, ways: Mapping[str, Callable[[], Iterable[Tensor]]], rounds: int, seconds: float) -> Row:
    """The row with its ways checked against each other and timed in turn."""
    norms = {name: [float(one.double().norm()) for one in call()] for name, call in ways.items()}
    row.against = f"{LIBRARY} {FIRST}"
    apart = [abs(mine / theirs - 1) for mine, theirs in zip(norms[OURS], norms[row.against], strict=True)]
    row.apart = max(apart) / CLOSE
    row.libraries = {name: OURS if name.startswith(OURS) else LIBRARY for name in ways}
    if not row.apart <= 1:
        row.failure = f"norms {norms[OURS]} here and {norms[row.against]} in PyTorch"
        return row
    row.timings = interleave(ways, rounds, seconds, warm=WARM)
    return row


def table(rows: Iterable[Row]) -> Table:
    """One line a row."""
    made = Table(box=SIMPLE_HEAD, pad_edge=False)
    for name in (
        "workload",
        "what",
        "threads",
        "ms",
        f"ms, {FIRST}",
        f"{LIBRARY}, ms",
        "ratio",
        "to",
        "memory, MiB",
        "checked",
    ):
        made.add_column(name, justify="left" if name in ("workload", "what", "to") else "right", no_wrap=True)
    for row in rows:
        if row.failure:
            made.add_row(row.workload, row.operation, str(row.threads), f"FAILED: {row.failure}")
            continue
        best = row.best() or ""
        times = [f"{row.timings[name].median * 1e3:.2f}" for name in (OURS, f"{OURS} {FIRST}", best)]
        memory = " / ".join(f"{row.extra[name] / 2**20:.0f}" for name in row.extra)
        ratio = f"{row.ratio():.2f}{'?' * row.disturbed}"
        made.add_row(row.workload, row.operation, str(row.threads), *times, ratio, best, memory, f"{row.apart:.2g}")
    return made


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("bench.torch", description=__doc__)
    parser.add_argument("--only", default="", metavar="NAME", help="rows whose workload or derivative contains this")
    parser.add_argument("--threads", default="1", help="numbers of threads, between commas")
    parser.add_argument("--rounds", type=int, default=10, help="samples of each candidate")
    parser.add_argument("--seconds", type=float, default=2.0, help="after so many, a candidate leaves the rounds")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK} examples, 3 rounds: whether it all runs")
    parser.add_argument("--json", type=Path, default=Path("runs/bench-torch.json"), help="where all samples go")
    return parser.parse_args(given)


def main(given: list[str] | None = None) -> int:
    """Measure, print the table and the geometric means, write all samples."""
    options = arguments(given)
    rounds, seconds = (3, 0.2) if options.quick else (options.rounds, options.seconds)
    load, rows = loads(), []
    for threads in sizes("threads", options.threads):
        asked = [(measure_derivative, name, kind) for kind in DERIVATIVES for name in WORKLOADS]
        for function, *names in [*asked, *((measure_network, name) for name in NETWORKS)]:
            if any(options.only in name for name in names):
                row = in_process(threads, function, *names, threads, rounds, seconds, options.quick)
                print(f"{row.title}: {row.failure or f'{row.ratio():.2f}'}", file=sys.stderr, flush=True)
                rows.append(row)
    if not rows:
        print(f"bench: only={options.only!r}: no row is called so", file=sys.stderr)
        return 1
    console = Console(width=None if sys.stdout.isatty() else WIDTH, markup=False, emoji=False, highlight=False)
    console.print(table(rows))
    for kind in DERIVATIVES:
        own = [row for row in rows if row.operation == kind and row.workload in WORKLOADS]
        ratios = [ratio for row in own if (ratio := row.ratio()) is not None]
        if ratios:
            console.print(f"{kind}: geometric mean {exp(fmean(map(log, ratios))):.2f}, least {min(ratios):.2f}")
    for line in busy(load):
        console.print(line)
    write_json(to_json(rows, {}, load, quick=options.quick), options.json)
    console.print(f"wrote {options.json}", soft_wrap=True)
    return int(any(row.failure for row in rows))


if __name__ == "__main__":
    sys.exit(main())
