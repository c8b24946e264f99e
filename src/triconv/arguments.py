"""What a user may write for an argument, read once: per-axis values, padding, groups, bank, border, precision.

Each reader returns plain data or raises one line that names the argument, its value and what was expected.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import index
from typing import Any, Literal, get_args

import numpy as np

from .channels import Channels
from .geometry import BORDERS, Border, Pads

PerAxis = int | Sequence[int]
Padding = int | str | Sequence[int] | Sequence[tuple[int, int]]
Groups = Any  # an int or a boolean (hidden channels, visible channels) array
Bank = int | str | Sequence[int | str] | None

LOCAL = "local"

Precision = Literal["default", "highest"]


def per_axis(name: str, value: Any, rank: int, least: int = 1) -> tuple[int, ...]:
    """An int for every axis or one per axis, each at least `least`."""
    expected = f"expected an int of at least {least}, or {rank} of them"
    values = (
        tuple(value) if isinstance(value, Sequence | np.ndarray) and not isinstance(value, str) else (value,) * rank
    )
    if len(values) != rank:
        raise ValueError(f"{name}={value!r}: {expected}, one per axis, got {len(values)}")
    return tuple(_whole(name, value, one, least, expected, axis) for axis, one in enumerate(values))


def _whole(name: str, value: Any, one: Any, least: int, expected: str, axis: int) -> int:
    if isinstance(one, bool | np.bool_) or not hasattr(one, "__index__"):
        raise TypeError(f"{name}={value!r}: {expected}, got {type(one).__name__} on axis {axis}")
    if (number := index(one)) < least:
        raise ValueError(f"{name}={value!r}: {expected}, got {number} on axis {axis}")
    return number


def padding_per_axis(value: Any, rank: int) -> tuple[Pads, ...]:
    """An int, one int or pair (before, after) per axis, or "valid", "same", "full"."""
    expected = f'expected an int of at least 0, {rank} of them or of pairs (before, after), "valid", "same" or "full"'
    if isinstance(value, str):
        if value not in ("valid", "same", "full"):
            raise ValueError(f"padding={value!r}: {expected}")
        return (value,) * rank  # type: ignore[return-value]
    values = tuple(value) if isinstance(value, Sequence | np.ndarray) else (value,) * rank
    if len(values) != rank:
        raise ValueError(f"padding={value!r}: {expected}, got {len(values)} values for {rank} axes")
    pads: list[Pads] = []
    for axis, one in enumerate(values):
        pair = tuple(one) if isinstance(one, Sequence | np.ndarray) and not isinstance(one, str) else (one, one)
        if len(pair) != 2:
            raise ValueError(f"padding={value!r}: {expected}, got {one!r} on axis {axis}")
        before, after = (_whole("padding", value, side, 0, expected, axis) for side in pair)
        pads.append((before, after))
    return tuple(pads)


def border_per_axis(value: Any, rank: int) -> tuple[Border, ...]:
    """A border's name for every axis or one per axis."""
    values = tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else (value,) * rank
    if len(values) != rank or any(one not in BORDERS for one in values):
        raise ValueError(f"border={value!r}: expected one of {', '.join(BORDERS)}, or {rank} of them, one per axis")
    return values


def bank_per_axis(value: Any, hidden: tuple[int, ...]) -> tuple[int, ...]:
    """A period for every axis or one per axis, "local" meaning the hidden size."""
    rank = len(hidden)
    several = isinstance(value, Sequence | np.ndarray) and not isinstance(value, str)
    values = tuple(value) if several else (value,) * rank
    expected = f'expected a period between 1 and the hidden size, "local", or {rank} of them, one per axis'
    if len(values) != rank:
        raise ValueError(f"bank={value!r}: {expected}, got {len(values)}")
    sizes = [size if one == LOCAL else one for one, size in zip(values, hidden, strict=True)]
    periods = tuple(_whole("bank", value, one, 1, expected, axis) for axis, one in enumerate(sizes))
    for axis, (period, size) in enumerate(zip(periods, hidden, strict=True)):
        if period > size:
            raise ValueError(f"bank={value!r}: {expected}, got {period} for hidden size {size} on axis {axis}")
    return periods


def channels_of(groups: Any, visible: int, hidden: int) -> Channels:
    """The channel pattern that `groups` means for these channel counts."""
    if isinstance(groups, np.ndarray | Sequence) and not isinstance(groups, str):
        graph = np.asarray(groups)
        if graph.dtype != np.bool_:
            raise TypeError(f"groups: a channel graph is a boolean array, got dtype {graph.dtype}; use groups != 0")
        if graph.shape != (hidden, visible):
            raise ValueError(
                f"groups: expected a channel graph of shape (hidden, visible channels) = {(hidden, visible)}, "
                f"got {graph.shape}"
            )
        return Channels(visible, hidden, graph=graph.tobytes())
    (count,) = per_axis("groups", groups, 1)
    for name, number in (("visible", visible), ("hidden", hidden)):
        if number % count:
            raise ValueError(f"groups={count}: expected a divisor of the {number} {name} channels")
    return Channels(visible, hidden, count)


def precision_of(value: Any) -> Precision:
    if value not in get_args(Precision):
        raise ValueError(f'precision={value!r}: expected "default" or "highest"')
    precision: Precision = value
    return precision
