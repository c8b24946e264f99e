"""`python -m bench.choice`: on random geometries, how long the chosen engine takes beside the best one."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from time import perf_counter, process_time
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

import triconv
from triconv.benchmark.in_triconv import ways
from triconv.benchmark.machine import described
from triconv.benchmark.table import busy, loads, write_json
from triconv.benchmark.timing import interleave
from triconv.benchmark.workload import Workload, operands
from triconv.cli.bench import WIDTH
from triconv.coefficients import DEFAULT, coefficients
from triconv.dispatch import SLOWER, WORTH_A_TRIAL
from triconv.form import OPERATIONS

CLOSE, SHARE, WORST = 1.1, 0.95, 1.5
"""What is asked for: the chosen engine within 10 % of the best on so many geometries, and nowhere so much slower."""

LEAST, MOST = 2e5, 6e9
"""Flops of a geometry: calls that are more than their overhead, and end soon."""

KERNELS = (1, 2, 3, 3, 3, 4, 5, 7, 9, 11, 15)
POSITIONS = {1: (100, 500, 2000, 8000), 2: (7, 14, 20, 28, 40, 56, 80), 3: (6, 10, 16)}
VISIBLE, HIDDEN = (1, 3, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256), (8, 16, 24, 32, 48, 64, 96, 128, 192, 256)


@dataclass(frozen=True)
class Geometry:
    """What is drawn: a workload and an operation."""

    workload: Workload
    operation: str

    @property
    def title(self) -> str:
        one = self.workload
        options = (f"{name} {value}" for name, value in one.options.items() if name != "padding" and value != 1)
        return ", ".join([f"{self.operation} {one.dtype}, visible {one.visible}, weight {one.weight}", *options])


@dataclass(frozen=True)
class Found:
    """The seconds that engines took on a geometry, the median of the rounds, and those that they should have taken."""

    title: str
    chosen: str
    seconds: dict[str, float]
    expected: dict[str, float]

    @property
    def best(self) -> str:
        return min(self.seconds, key=self.seconds.__getitem__)

    @property
    def ratio(self) -> float:
        return self.seconds[self.chosen] / self.seconds[self.best]


def geometries(seed: int) -> Iterator[Geometry]:
    """Geometries without end, the same ones for a seed."""
    random = Random(seed)
    while True:
        drawn = _drawn(random)
        if drawn is not None and LEAST <= drawn.workload.plan(drawn.operation).flops <= MOST:
            yield drawn


def _drawn(random: Random) -> Geometry | None:
    """One that may be too small or too large; none where the kernel does not fit."""
    rank = random.choice((1, 2, 2, 2, 2, 3))
    kernel = (random.choice(KERNELS),) * rank
    if random.random() < 0.3:
        kernel = tuple(random.choice((1, 3, 5, 7)) for _ in range(rank))
    stride = random.choice((1, 1, 1, 2, 3))
    dilation = random.choice((1, 1, 1, 2)) if stride == 1 else 1
    positions = tuple(random.choice(POSITIONS[rank]) for _ in range(rank))
    visible, hidden = random.choice(VISIBLE), random.choice(HIDDEN)
    groups = random.choices(("none", "some", "depthwise"), (70, 15, 15))[0]
    many = 1
    if groups == "some":
        many = random.choice([n for n in (2, 4, 8, 32) if visible % n == hidden % n == 0] or [1])
    elif groups == "depthwise":
        many = visible = hidden
    padding = tuple(dilation * (size - 1) // 2 for size in kernel)
    spans = [dilation * (size - 1) + 1 - 2 * before for size, before in zip(kernel, padding, strict=True)]
    batch, dtype = random.choice((1, 2, 4, 8)), random.choice(("float32", "float32", "float32", "float64"))
    operation = random.choice(tuple(OPERATIONS))
    if any(span > size for span, size in zip(spans, positions, strict=True)):
        return None
    options = {"stride": stride, "padding": padding, "dilation": dilation, "groups": many}
    shapes = (batch, visible, *positions), (hidden, visible // many, *kernel)
    return Geometry(Workload("drawn", *shapes, options, dtype), operation)


def measured(drawn: Geometry, rounds: int, threads: int) -> Found:
    """Every engine that should not take several times as long as the best, in turn."""
    chosen = drawn.workload.plan(drawn.operation)
    able = (name for name, reason in chosen.why_not.items() if reason.startswith(SLOWER))
    plans = {chosen.engine.name: chosen}
    for name in able:
        with suppress(MemoryError):  # slow ones may also be too large
            plans[name] = drawn.workload.plan(drawn.operation, name)
    worth = {name: plan for name, plan in plans.items() if plan.seconds <= WORTH_A_TRIAL * chosen.seconds}
    values = operands(chosen.problem)
    calls = {name: ways(name)[0].ready(chosen.problem, values).call for name in worth}
    # What else runs on the machine is not in the time of a process, which is the call's own where it has one thread.
    clock = process_time if threads == 1 else perf_counter
    timings = interleave(calls, rounds, clock=clock)
    seconds = {name: timing.median for name, timing in timings.items()}
    return Found(drawn.title, chosen.engine.name, seconds, {name: plan.seconds for name, plan in worth.items()})


def missed(found: Sequence[Found]) -> Table:
    """Where another engine was faster by more than is close."""
    table = Table(box=SIMPLE_HEAD, title="where another engine was faster; milliseconds measured (and expected)")
    for name in ("geometry", "chosen", "best", "×"):
        table.add_column(name, justify="right" if name == "×" else "left")
    for one in sorted(found, key=lambda one: -one.ratio):
        if one.ratio > CLOSE:
            both = [f"{name} {_both(one, name)}" for name in (one.chosen, one.best)]
            table.add_row(one.title, *both, f"{one.ratio:.2f}")
    return table


def _both(one: Found, name: str) -> str:
    return f"{one.seconds[name] * 1e3:.3g} ({one.expected[name] * 1e3:.3g})"


def summary(found: Sequence[Found]) -> dict[str, Any]:
    """The share that is close, the worst, and whether that is what is asked for."""
    close = sum(one.ratio <= CLOSE for one in found)
    worst = max((one.ratio for one in found), default=1.0)
    return {
        "count": len(found),
        "close": close,
        "worst": worst,
        "met": close >= SHARE * len(found) and worst <= WORST,
    }


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("bench.choice", description=__doc__)
    parser.add_argument("--seed", type=int, default=7, help="of the geometries")
    parser.add_argument("--count", type=int, default=200, help="how many")
    parser.add_argument("--skip", type=int, default=0, help="how many to leave out before")
    parser.add_argument("--rounds", type=int, default=9, help="samples of each engine")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, default=Path("runs/choice.json"), help="where all figures go")
    return parser.parse_args(given)


def main(given: list[str] | None = None) -> int:
    """Measure, print where another engine was faster, write all figures."""
    options, load, found = arguments(given), loads(), list[Found]()
    triconv.threads(options.threads)
    for number, drawn in enumerate(geometries(options.seed)):
        if number >= options.skip + options.count:
            break
        if number >= options.skip:
            found.append(measured(drawn, options.rounds, options.threads))
            one = found[-1]
            print(f"{number + 1:4} {one.ratio:.2f} {one.chosen} {one.title}", file=sys.stderr, flush=True)
    said = summary(found)
    console = Console(width=WIDTH, markup=False, emoji=False, highlight=False)
    console.print(missed(found))
    print(
        f"within 10 % of the best engine: {said['close']} of {said['count']}; the slowest takes {said['worst']:.2f} ×"
    )
    print(f"{'as' if said['met'] else 'NOT as'} asked for: {SHARE:.0%} within 10 %, none above {WORST} ×")
    print(f"by {'the default' if coefficients() == DEFAULT else 'measured'} coefficients")
    for line in busy(load):
        print(line)
    settings = {name: value for name, value in vars(options).items() if name != "json"}
    settings["coefficients"] = asdict(coefficients())
    rows = [asdict(one) | {"ratio": one.ratio} for one in found]
    write_json({"described": described(), "load": load, "settings": settings, **said, "rows": rows}, options.json)
    print(f"wrote {options.json}")
    return 0 if found else 1


if __name__ == "__main__":
    sys.exit(main())
