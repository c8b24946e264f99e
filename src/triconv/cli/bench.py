"""The command that measures a user's own geometry."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..benchmark.calibrate import calibrate as measured
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
from ..coefficients import DEFAULT, keep, kept
from ..form import OPERATIONS
from . import parse
from .app import FAILED, command, console
from .check import Border, Dilation, Groups, Padding, Stride, Visible, Weight, options_of

WIDTH = 240
"""Columns of a table that goes to a file or a pipe."""


@command
def bench(
    context: typer.Context,
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
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="Measure instead what choices of engines depend on, and keep it.")
    ] = False,
) -> None:
    """Measure the operations beside PyTorch and JAX.

    For one geometry, with whichever of them are installed: speed, shares of what the machine can do, first calls,
    memory. Every result is checked. Or, with --calibrate, measure the machine's coefficients, by which engines are
    chosen from then on.
    """
    if calibrate:
        _refuse_others(context)
        _calibrate()
        return
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


def _refuse_others(context: typer.Context) -> None:
    """Say so where options are given that --calibrate has no use for."""
    for name in context.params:
        source = context.get_parameter_source(name)
        if name != "calibrate" and source is not None and source.name == "COMMANDLINE":
            raise ValueError(f"calibrate: expected no other option, not --{name}")


def _calibrate() -> None:
    """Measure the coefficients, keep them for processes to come, and show them."""
    keep(kept() or DEFAULT)  # says where nothing can be kept before anything is measured
    found = measured(lambda name: console.print(f"measuring {name}"))
    place = keep(found)
    table = Table(title="coefficients of this machine, one thread", box=SIMPLE_HEAD)
    for title in ("name", "default", "measured", "unit", "meaning"):
        table.add_column(title, justify="right" if title in ("default", "measured") else "left")
    for one in fields(found):
        figures = (f"{getattr(which, one.name):.3g}" for which in (DEFAULT, found))
        table.add_row(one.name, *figures, one.metadata["unit"], one.metadata["meaning"])
    _wide().print(table)
    console.print(f"wrote {place}", soft_wrap=True)
    console.print("processes that start from now on choose by it; delete the file to go back", soft_wrap=True)


def _wide() -> Console:
    """Where a table that is wide is printed: whole, unless a person looks at a terminal."""
    return console if console.is_terminal else Console(width=WIDTH, markup=False, emoji=False, highlight=False)


def show(rows: list[Row], title: str, lines: list[str]) -> None:
    """Print the table, what its columns mean, and lines below it."""
    wide = _wide()
    wide.print(table(rows, title))
    wide.print(Text(LEGEND, "dim"))
    for line in lines:
        wide.print(line)
