"""`python -m bench.errors`: how far results of random operands in float32 are from those in float64, by engine."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from statistics import median

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from triconv.benchmark.workload import Workload, operands, within_result
from triconv.dispatch import ENGINES
from triconv.form import OPERATIONS

from .workloads import cases

MEASURED = ("direct", "winograd", "split", "fft")


def errors(workload: Workload, operation: str) -> Iterator[tuple[str, float]]:
    """Of each engine that can, the error's root mean square by the result's."""
    problem = workload.problem(operation)
    a, b = operands(problem).values()
    exact, found = (np.zeros(problem.shape(problem.produces), dtype) for dtype in ("float64", "float32"))
    double = Workload(workload.name, workload.visible, workload.weight, workload.options, "float64")
    double.plan(operation, "direct").run(a.astype("float64"), b.astype("float64"), exact)
    whole = np.sqrt(np.mean(np.square(exact)))
    for name in MEASURED:
        if not ENGINES[name].why_not(problem):
            workload.plan(operation, name).run(a, b, found)
            wrong = within_result(problem, found - exact)
            yield name, float(np.sqrt(np.mean(np.square(wrong))) / whole)


def main(given: list[str] | None = None) -> int:
    """Measure, and print the least, the median and the most of each engine."""
    parser = argparse.ArgumentParser("bench.errors", description=__doc__)
    parser.add_argument("--only", default="*", help="workloads whose names match, or contain, this")
    options = parser.parse_args(given)
    every: dict[str, list[tuple[float, str]]] = {name: [] for name in MEASURED}
    for workload in (case.workload for case in cases(options.only) if case.workload.dtype == "float32"):
        for operation in OPERATIONS:
            for name, error in errors(workload, operation):
                every[name].append((error, f"{operation}, {workload.name}"))
    table = Table("engine", "least", "median", "most", "where most", "how many", box=SIMPLE_HEAD, pad_edge=False)
    for name, found in every.items():
        if found:
            sizes = [error for error, _ in found]
            most, where = max(found)
            table.add_row(name, f"{min(sizes):.1e}", f"{median(sizes):.1e}", f"{most:.1e}", where, str(len(sizes)))
    Console().print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
