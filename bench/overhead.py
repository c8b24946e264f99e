"""`python -m bench.overhead`: what a call of the PyTorch front end takes that has next to nothing to compute."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from functools import partial
from time import process_time

import torch
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn import functional, grad

from triconv.benchmark.timing import interleave
from triconv.torch import conv, conv_transpose, conv_weight
from triconv.torch.nn import Conv2d

WANTED = 3.0
"""At most so many times as long as PyTorch's own."""

KERNEL, DATA = (4, 4, 3, 3), (1, 4, 8, 8)

Call = Callable[..., Tensor]


def candidates() -> dict[str, tuple[Call, Call, list[Tensor]]]:
    """The same call here and in PyTorch, and what it takes; of modules the parameters are given too."""
    random = torch.Generator().manual_seed(0)
    v, h, w = (torch.randn(shape, generator=random) for shape in (DATA, DATA, KERNEL))
    ours, theirs = Conv2d(4, 4, 3, padding=1), torch.nn.Conv2d(4, 4, 3, padding=1)
    ours.load_state_dict(theirs.state_dict())
    return {
        "conv": (partial(conv, padding=1), partial(functional.conv2d, padding=1), [v, w]),
        "conv_transpose": (partial(conv_transpose, padding=1), partial(functional.conv_transpose2d, padding=1), [h, w]),
        "conv_weight": (
            lambda v, h: conv_weight(v, h, 3, padding=1),
            lambda v, h: grad.conv2d_weight(v, KERNEL, h, padding=1),
            [v, h],
        ),
        "Conv2d": (ours, theirs, [v]),
    }


def steps(call: Call, given: list[Tensor]) -> dict[str, Callable[[], object]]:
    """The call without a gradient, with one to come, and with one."""
    leaves = [one.clone().requires_grad_() for one in given]
    wanted = [*leaves, *(call.parameters() if isinstance(call, torch.nn.Module) else ())]
    cotangent = torch.ones_like(call(*given))

    def plain() -> Tensor:
        with torch.no_grad():
            return call(*given)

    return {
        "no gradient": plain,
        "forward": lambda: call(*leaves),
        "forward and backward": lambda: torch.autograd.grad(call(*leaves), wanted, cotangent),
    }


def main(given: list[str] | None = None) -> int:
    """Measure on one thread, in time of the processor, and print the table; is nothing above what is wanted?"""
    parser = argparse.ArgumentParser("bench.overhead", description=__doc__)
    parser.add_argument("--rounds", type=int, default=15, help="samples of each candidate")
    options = parser.parse_args(given)
    torch.set_num_threads(1)
    table = Table("operation", "what", "µs", "PyTorch, µs", "ratio", box=SIMPLE_HEAD, pad_edge=False)
    worst = 0.0
    for name, (ours, theirs, given_to) in candidates().items():
        here, there = steps(ours, given_to), steps(theirs, given_to)
        for what in here:
            timings = interleave({"ours": here[what], "theirs": there[what]}, options.rounds, clock=process_time)
            own, other = (timings[one].median for one in ("ours", "theirs"))
            worst = max(worst, own / other)
            table.add_row(name, what, f"{own * 1e6:.1f}", f"{other * 1e6:.1f}", f"{own / other:.2f}")
    Console().print(table)
    print(f"at most {WANTED:g} is wanted; the largest is {worst:.2f}")
    return int(worst > WANTED)


if __name__ == "__main__":
    sys.exit(main())
