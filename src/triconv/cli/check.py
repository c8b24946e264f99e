"""The commands about the operations themselves: check their derivatives, explain what a call would do."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from ..form import OPERATIONS
from ..ops import explain as explain_operation
from ..testing import check_gradients, check_identity
from . import parse
from .app import FAILED, command, console

Visible = Annotated[str, typer.Option(help="Shape of the visible: examples, channels, then one size per axis.")]
Weight = Annotated[
    str, typer.Option(help="Shape of the weight: [bank periods,] hidden channels, visible per group, kernel.")
]
Stride = Annotated[str, typer.Option(help="One number, or one per axis.")]
Padding = Annotated[str, typer.Option(help="valid, same, full, a number, one per axis, or before:after per axis.")]
Dilation = Annotated[str, typer.Option(help="One number, or one per axis.")]
Groups = Annotated[int, typer.Option(help="Groups of channels.")]
Border = Annotated[str, typer.Option(help="zero, circular, reflect or replicate; one, or one per axis between commas.")]


def options_of(stride: str, padding: str, dilation: str, groups: int, border: str) -> dict[str, Any]:
    """The arguments of the operations that a command's options stand for."""
    borders = tuple(border.split(","))
    return {
        "stride": parse.per_axis("stride", stride),
        "padding": parse.padding(padding),
        "dilation": parse.per_axis("dilation", dilation),
        "groups": groups,
        "border": borders[0] if len(borders) == 1 else borders,
    }


@command
def check(
    visible: Visible = "2,3,7,6",
    weight: Weight = "4,3,3,2",
    stride: Stride = "2,1",
    padding: Padding = "same",
    dilation: Dilation = "1",
    groups: Groups = 1,
    border: Border = "zero",
    order: Annotated[int, typer.Option(help="The highest order of differentiation.")] = 2,
    seed: Annotated[int, typer.Option(help="Of the random arrays.", min=0)] = 0,
) -> None:
    """Check all derivatives numerically.

    The trilinear identity, and the derivatives of each operation y through f = ½⟨y, y⟩, against finite differences in
    float64; u1 is a random direction in which the first derivative is differentiated again.
    """
    shapes = parse.sizes("visible", visible), parse.sizes("weight", weight)
    options = options_of(stride, padding, dilation, groups, border)
    checks = check_identity(*shapes, seed=seed, **options)
    checks += check_gradients(*shapes, order=order, seed=seed, **options)
    table = Table(title=f"visible {shapes[0]}, weight {shapes[1]}", box=SIMPLE_HEAD)
    table.add_column("compared; the gradient of f = ½⟨y, y⟩, y the operation")
    table.add_column("apart", justify="right", no_wrap=True)
    table.add_column("allowed", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for one in checks:
        verdict = Text("pass", "green") if one.passed else Text("FAIL", "bold red")
        table.add_row(
            Text(one.name).append(f"\n  {one.formula}", "dim"), f"{one.error:.1e}", f"{one.bound:.1e}", verdict
        )
    console.print(table)
    failed = sum(not one.passed for one in checks)
    console.print(f"{len(checks) - failed} of {len(checks)} pass; allowed is what rounding alone can do")
    if failed:
        raise typer.Exit(FAILED)


@command
def explain(
    operation: Annotated[str, typer.Argument(help=f"{', '.join(OPERATIONS)}.")] = "conv",
    visible: Visible = "8,3,32,32",
    weight: Weight = "16,3,5,5",
    stride: Stride = "1",
    padding: Padding = "valid",
    dilation: Dilation = "1",
    groups: Groups = 1,
    border: Border = "zero",
    dtype: Annotated[str, typer.Option(help="float32, float64, complex64, complex128, float16.")] = "float32",
    engine: Annotated[str, typer.Option(help="auto, measure, or the name of one.")] = "auto",
) -> None:
    """Explain what an operation would do.

    Shapes, equation, work, the chosen engine, and why not another; nothing is computed.
    """
    shapes = parse.sizes("visible", visible), parse.sizes("weight", weight)
    options = options_of(stride, padding, dilation, groups, border)
    plan = explain_operation(operation, *shapes, engine=engine, dtype=dtype, **options)
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, text in plan.rows():
        table.add_row(name, Text(text))
    console.print(table)
