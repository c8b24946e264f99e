"""The command that measures a user's own geometry."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from ..benchmark.machine import Machine
from ..benchmark.measure import Settings, measure
from ..benchmark.row import Row
from ..benchmark.table import (
    LEGEND,
    asked_operations,
    busy,
    loads,
    machines,
    notes,
    table,
    to_json,
    write_chart,
    write_json,
)
from ..benchmark.workload import Workload
from ..form import OPERATIONS
from . import parse
from .app import FAILED, command, console
from .check import Border, Dilation, Groups, Padding, Stride, Visible, Weight, options_of

WIDTH = 240
"""Columns of a table that goes to a file or a pipe."""


@command
def bench(
    visible: Visible = "8,64,56,56",
    weight: Weight = "64,64,3,3",
    stride: Stride = "1",
    padding: Padding = "same",
    dilation: Dilation = "1",
    groups: Groups = 1,
    border: Border = "zero",
    dtype: Annotated[str, typer.Option(help="float32, float64, complex64, complex128.")] = "float32",
    engine: Annotated[str, typer.Option(help="auto, measure, or the name of one.")] = "auto",
    operations: Annotated[str, typer.Option(help="Which, between commas.")] = ",".join(OPERATIONS),
    threads: Annotated[str, typer.Option(help="Numbers of threads, between commas.")] = "1,2",
    rounds: Annotated[int, typer.Option(help="Samples of each candidate.")] = 10,
    seconds: Annotated[float, typer.Option(help="After so many seconds a candidate leaves the rounds.")] = 1.0,
    json: Annotated[Path | None, typer.Option(help="Write all samples there.")] = None,
    chart: Annotated[Path | None, typer.Option(help="Draw the ratios there, a PNG.")] = None,
) -> None:
    """Measure the operations beside PyTorch and JAX.

    For one geometry, with whichever of them are installed: speed, shares of what the machine can do, first calls,
    memory. Every result is checked.
    """
    shapes = parse.sizes("visible", visible), parse.sizes("weight", weight)
    asked = asked_operations(operations)
    counts = parse.sizes("threads", threads)
    workload = Workload(visible, *shapes, options_of(stride, padding, dilation, groups, border), dtype)
    for operation in asked:
        workload.plan(operation, engine)  # says what is wrong before anything is measured
    rows, limits, load = [], {}, loads()
    for found in measure([workload], asked, counts, Settings(rounds, seconds, engine)):
        if isinstance(found, Machine):
            limits[found.threads] = found
        else:
            rows.append(found)
    show(rows, f"visible {shapes[0]}, weight {shapes[1]}, {dtype}", [*machines(limits), *busy(load), *notes(rows)])
    if json is not None:
        write_json(to_json(rows, limits, load), json)
        console.print(f"wrote {json}", soft_wrap=True)
    if chart is not None:
        write_chart(rows, chart)
        console.print(f"wrote {chart}", soft_wrap=True)
    if any(row.failure for row in rows):
        raise typer.Exit(FAILED)


def show(rows: list[Row], title: str, lines: list[str]) -> None:
    """Print the table, what its columns mean, and lines below it."""
    wide = console if console.is_terminal else Console(width=WIDTH, markup=False, emoji=False, highlight=False)
    wide.print(table(rows, title))
    wide.print(Text(LEGEND, "dim"))
    for line in lines:
        wide.print(line)
