"""`python -m bench.after`: bias, ReLU and its mask in the pass that writes a result, beside the same afterwards."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from time import process_time

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

import triconv
from triconv.after import After
from triconv.benchmark.table import busy, loads
from triconv.benchmark.timing import interleave
from triconv.benchmark.workload import Workload, operands
from triconv.benchmark.workload import channels_last as last
from triconv.cli.bench import WIDTH
from triconv.form import Role
from triconv.ops import conv, conv_transpose, followed

WORKLOADS = (
    Workload("3×3 64→64 @56", (8, 64, 56, 56), (64, 64, 3, 3), {"padding": 1}),
    Workload("1×1 256→64 @56", (8, 256, 56, 56), (64, 256, 1, 1)),
    Workload("1×1 64→256 @56", (8, 64, 56, 56), (256, 64, 1, 1)),
    Workload("depthwise 3×3 256 @28", (8, 256, 28, 28), (256, 1, 3, 3), {"padding": 1, "groups": 256}),
    Workload("3×3/2 128→128 @56", (8, 128, 56, 56), (128, 128, 3, 3), {"padding": 1, "stride": 2}),
    Workload("3×3 32→64 @8, batch 64", (64, 32, 8, 8), (64, 32, 3, 3), {"padding": 1}),
)

Calls = dict[str, Callable[[], object]]


def candidates(workload: Workload) -> Iterator[tuple[str, Calls]]:
    """Forward with bias and ReLU, and back through both: the operation alone, the rest afterwards, all in one pass."""
    values, options = operands(workload.problem()), workload.options
    v, w = last(values[Role.VISIBLE]), values[Role.WEIGHT]
    bias, size = np.linspace(-1, 1, len(w), dtype=np.float32), v.shape[2:]
    after = After(bias, positive=True)

    def forward() -> object:
        q = conv(v, w, **options)
        after.apply(q)
        return q

    q = followed("conv", v, w, after, **options)
    once = After(where=v)

    def back() -> object:
        gradient = conv_transpose(q, w, visible_size=size, **options)
        once.apply(gradient)
        return gradient

    yield (
        "bias, ReLU",
        {
            "alone": lambda: conv(v, w, **options),
            "afterwards": forward,
            "in one pass": lambda: followed("conv", v, w, after, **options),
        },
    )
    yield (
        "mask",
        {
            "alone": lambda: conv_transpose(q, w, visible_size=size, **options),
            "afterwards": back,
            "in one pass": lambda: followed("conv_transpose", q, w, once, visible_size=size, **options),
        },
    )


def main(given: list[str] | None = None) -> int:
    """Measure, and print milliseconds: medians of the process's time, of one thread."""
    parser = argparse.ArgumentParser("bench.after", description=__doc__)
    parser.add_argument("--rounds", type=int, default=15, help="samples of each")
    parser.add_argument("--only", default="", help="workloads whose name contains this")
    options, load = parser.parse_args(given), loads()
    table = Table(box=SIMPLE_HEAD, title="milliseconds, one thread")
    for name in ("workload", "with", "alone", "afterwards", "in one pass", "ratio"):
        table.add_column(name, justify="left" if name in ("workload", "with") else "right")
    with triconv.threads(1):
        for workload in (one for one in WORKLOADS if options.only in one.name):
            for name, calls in candidates(workload):
                found = interleave(calls, options.rounds, clock=process_time)
                times = [found[way].median * 1e3 for way in ("alone", "afterwards", "in one pass")]
                table.add_row(workload.name, name, *(f"{one:.3f}" for one in times), f"{times[1] / times[2]:.2f}")
    Console(width=WIDTH, markup=False, emoji=False, highlight=False).print(table)
    for line in busy(load):
        print(line)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
