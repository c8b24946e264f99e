"""From the shapes and arguments of a call to a Problem: the one place where operands are held against each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from .arguments import (
    Bank,
    Groups,
    Padding,
    PerAxis,
    bank_per_axis,
    border_per_axis,
    channels_of,
    group_count,
    padding_per_axis,
    per_axis,
    precision_of,
)
from .channels import Channels
from .form import Problem, Role
from .geometry import Axis, Geometry, backward, forward

Shape = tuple[int, ...]


class Kind(Protocol):
    """What is asked of a dtype."""

    @property
    def name(self) -> str: ...
    @property
    def itemsize(self) -> int: ...


@dataclass(frozen=True, eq=False)
class Options:
    """The arguments that every operation takes, as the user wrote them."""

    stride: PerAxis = 1
    padding: Padding = 0
    dilation: PerAxis = 1
    groups: Groups = 1
    border: str | tuple[str, ...] = "zero"
    precision: str = "default"


def problem_hidden(visible: Shape, weight: Shape, dtype: Kind, options: Options) -> Problem:
    """The problem of conv."""
    rank = _rank("visible", visible)
    periods, (out, per_group), kernel = _split_weight(weight, rank)
    channels = channels_of(options.groups, visible[1], out)
    _match_weight(weight, per_group, channels)
    axes = _axes(visible[2:], None, kernel, options)
    return _problem(Role.HIDDEN, visible[0], axes, periods, channels, dtype, options)


def problem_visible(hidden: Shape, weight: Shape, size: Any, dtype: Kind, options: Options) -> Problem:
    """The problem of conv_transpose; a size of None is the smallest visible that yields this hidden."""
    rank = _rank("hidden", hidden)
    periods, (out, per_group), kernel = _split_weight(weight, rank)
    if out != hidden[1]:
        raise ValueError(f"weight of shape {weight}: expected {hidden[1]} hidden channels, as hidden has, got {out}")
    channels = channels_of(options.groups, per_group * (group_count(options.groups) or 1), out)
    sizes = None if size is None else per_axis("visible_size", size, rank)
    try:
        axes = _axes(sizes, hidden[2:], kernel, options)
    except ValueError as error:
        raise ValueError(
            f"visible_size={sizes}: {error}" if "comes from visible size" in str(error) else error
        ) from None
    return _problem(Role.VISIBLE, hidden[0], axes, periods, channels, dtype, options)


def problem_weight(
    visible: Shape, hidden: Shape, kernel_size: Any, bank: Bank, dtype: Kind, options: Options
) -> Problem:
    """The problem of conv_weight."""
    rank = _rank("visible", visible)
    if _rank("hidden", hidden) != rank:
        raise ValueError(f"hidden of shape {hidden}: expected {2 + rank} axes, as visible of shape {visible}")
    if hidden[0] != visible[0]:
        raise ValueError(f"hidden of shape {hidden}: expected {visible[0]} examples, as visible has, got {hidden[0]}")
    kernel = per_axis("kernel_size", kernel_size, rank)
    channels = channels_of(options.groups, visible[1], hidden[1])
    axes = _axes(visible[2:], hidden[2:], kernel, options)
    periods = None if bank is None else bank_per_axis(bank, hidden[2:])
    return _problem(Role.WEIGHT, visible[0], axes, periods, channels, dtype, options)


def _rank(name: str, shape: Shape) -> int:
    if len(shape) < 2:
        raise ValueError(f"{name} of shape {shape}: expected (examples, channels, *positions)")
    for axis, size in enumerate(shape[1:]):
        if size < 1:
            what = "channels" if axis == 0 else f"positions on axis {axis - 1}"
            raise ValueError(f"{name} of shape {shape}: expected at least 1 of its {what}")
    return len(shape) - 2


def _split_weight(weight: Shape, rank: int) -> tuple[Shape | None, Shape, Shape]:
    """The bank's periods (None without a bank), the two channel counts and the kernel size of a weight's shape."""
    if len(weight) not in (2 + rank, 2 + 2 * rank):
        banked = f" or, with a bank, (*bank, C_out, C_in/groups, *K) with {2 + 2 * rank}" if rank else ""
        raise ValueError(
            f"weight of shape {weight}: expected (C_out, C_in/groups, *K) with {2 + rank} axes{banked} "
            f"for {rank} spatial axes, got {len(weight)}"
        )
    if 0 in weight:
        raise ValueError(f"weight of shape {weight}: expected at least 1 along axis {weight.index(0)}")
    lead = len(weight) - 2 - rank
    return weight[:lead] or None, weight[lead : lead + 2], weight[lead + 2 :]


def _match_weight(weight: Shape, per_group: int, channels: Channels) -> None:
    if per_group != channels.weight[1]:
        by = "" if channels.groups == 1 else f" in each of {channels.groups} groups"
        raise ValueError(
            f"weight of shape {weight}: expected {channels.weight[1]} visible channels{by}, "
            f"as visible has {channels.visible}, got {per_group}"
        )


def _axes(visible: Shape | None, hidden: Shape | None, kernel: Shape, options: Options) -> tuple[Axis, ...]:
    """The axes, of which the visible sizes, the hidden sizes or both are known."""
    rank = len(kernel)
    steps = zip(
        kernel,
        per_axis("stride", options.stride, rank),
        per_axis("dilation", options.dilation, rank),
        padding_per_axis(options.padding, rank),
        border_per_axis(options.border, rank),
        (f" on axis {axis}" for axis in range(rank)),
        strict=True,
    )
    if hidden is None:
        return tuple(forward(x, *step) for x, step in zip(visible or (), steps, strict=True))
    sizes = visible or (None,) * rank
    return tuple(backward(x, y, *step) for x, y, step in zip(sizes, hidden, steps, strict=True))


def _problem(
    produces: Role,
    batch: int,
    axes: tuple[Axis, ...],
    periods: Shape | None,
    channels: Channels,
    dtype: Kind,
    options: Options,
) -> Problem:
    if periods is not None:
        bank = bank_per_axis(periods, tuple(axis.hidden for axis in axes))
        axes = tuple(axis.with_bank(period) for axis, period in zip(axes, bank, strict=True))
    geometry = Geometry(axes, banked=periods is not None)
    precision = precision_of(options.precision)
    return Problem(produces, geometry, channels, batch, dtype.name, dtype.itemsize, precision)
