"""What a user may write for an argument, read once: per-axis values, padding, groups, bank, border, precision.

Each reader returns plain data or raises one line that names the argument, its value and what was expected.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import index
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from .channels import Channels
from .geometry import BORDERS, Border, Pads

PerAxis = int | Sequence[int]
Padding = int | str | Sequence[int] | Sequence[tuple[int, int]]
Groups = Any  # an int or a boolean (hidden channels, visible channels) array
Bank = int | str | Sequence[int | str] | None

LOCAL = "local"

Precision = Literal["default", "highest"]


MOST = 1 << 60
"""The largest number taken for a size or a step: sums of a few of them are still whole numbers of the machine."""


def _listed(value: Any) -> Any:
    """An array, of any library, as Python's own lists and numbers, anything else as it is."""
    return value.tolist() if hasattr(value, "tolist") else value


def _several(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def axes_in(value: Any) -> int:
    """How many axes a value is for, as far as it tells: the array that has them is not there yet."""
    value = _listed(value)
    return len(value) if _several(value) else 1


def per_axis(name: str, value: Any, rank: int, least: int = 1) -> tuple[int, ...]:
    """An int for every axis or one per axis, each at least `least`."""
    expected = f"expected an int of at least {least}, or {rank} of them"
    value = _listed(value)
    if not _several(value):
        return (_whole(name, value, value, least, expected, 0),) * rank
    if len(value) != rank:
        raise ValueError(f"{name}={value!r}: {expected}, one per axis, got {len(value)}")
    return tuple(_whole(name, value, one, least, expected, axis) for axis, one in enumerate(value))


def sizes_of(name: str, value: Any) -> tuple[int, ...]:
    """A shape: a sequence of sizes, which may be zero."""
    shape = getattr(value, "shape", ())
    if len(shape) > 1:  # the array itself, whose numbers say nothing to whoever meant its sizes
        raise TypeError(f"{name}: an array of shape {tuple(shape)}, expected a sequence of sizes, such as this shape")
    values = _listed(value)
    if not _several(values):
        raise TypeError(f"{name}={value!r}: expected a sequence of sizes")
    return per_axis(name, values, len(values), 0)


def _whole(name: str, value: Any, one: Any, least: int, expected: str, axis: int) -> int:
    if isinstance(one, bool | np.bool_) or not hasattr(one, "__index__"):
        raise TypeError(f"{name}={value!r}: {expected}, got {type(one).__name__} on axis {axis}")
    # A number that a tracer does not know yet stays a symbol: to ask for its index would be to know it.
    if (number := one if hasattr(one, "node") else index(one)) < least:
        raise ValueError(f"{name}={value!r}: {expected}, got {number} on axis {axis}")
    if number > MOST:
        raise ValueError(f"{name}={value!r}: {expected}, and at most {MOST} on axis {axis}")
    return number


def padding_per_axis(value: Any, rank: int) -> tuple[Pads, ...]:
    """An int, one int or pair (before, after) per axis, or "valid", "same", "full"."""
    expected = f'expected an int of at least 0, {rank} of them or of pairs (before, after), "valid", "same" or "full"'
    if isinstance(value, str):
        if value not in ("valid", "same", "full"):
            raise ValueError(f"padding={value!r}: {expected}")
        return (value,) * rank  # type: ignore[return-value]
    value = _listed(value)
    if not _several(value):
        return ((_whole("padding", value, value, 0, expected, 0),) * 2,) * rank
    if len(value) != rank:
        raise ValueError(f"padding={value!r}: {expected}, got {len(value)} values for {rank} axes")
    pads: list[Pads] = []
    for axis, one in enumerate(map(_listed, value)):
        pair = tuple(one) if _several(one) else (one, one)
        if len(pair) != 2:
            raise ValueError(f"padding={value!r}: {expected}, got {one!r} on axis {axis}")
        before, after = (_whole("padding", value, side, 0, expected, axis) for side in pair)
        pads.append((before, after))
    return tuple(pads)


def border_per_axis(value: Any, rank: int) -> tuple[Border, ...]:
    """A border's name for every axis or one per axis."""
    value = _listed(value)
    values = tuple(value) if _several(value) else (value,) * max(rank, 1)
    if any(one not in BORDERS for one in values) or (_several(value) and len(values) != rank):
        raise ValueError(f"border={value!r}: expected one of {', '.join(BORDERS)}, or {rank} of them, one per axis")
    return values[:rank]


def bank_per_axis(value: Any, hidden: tuple[int, ...]) -> tuple[int, ...]:
    """A period for every axis or one per axis, "local" meaning the hidden size."""
    rank = len(hidden)
    value = _listed(value)
    expected = f'expected a period between 1 and the hidden size, "local", or {rank} of them, one per axis'
    if not _several(value) and value != LOCAL:
        _whole("bank", value, value, 1, expected, 0)
    values = tuple(value) if _several(value) else (value,) * rank
    if len(values) != rank:
        raise ValueError(f"bank={value!r}: {expected}, got {len(values)}")
    sizes = [size if one == LOCAL else one for one, size in zip(values, hidden, strict=True)]
    periods = tuple(_whole("bank", value, one, 1, expected, axis) for axis, one in enumerate(sizes))
    for axis, (period, size) in enumerate(zip(periods, hidden, strict=True)):
        if period > size:
            raise ValueError(f"bank={value!r}: {expected}, got {period} for hidden size {size} on axis {axis}")
    return periods


def group_count(groups: Any) -> int | None:
    """The number of groups; None when `groups` is a channel graph."""
    if _several(groups) or (isinstance(groups, np.ndarray) and groups.ndim):
        return None
    return per_axis("groups", groups, 1)[0]


def channels_of(groups: Any, visible: int, hidden: int) -> Channels:
    """The channel pattern that `groups` means for these channel counts."""
    count = group_count(groups)
    if count is None:
        return Channels(visible, hidden, graph=_graph(groups, visible, hidden).tobytes())
    for name, number in (("visible", visible), ("hidden", hidden)):
        if number % count:
            raise ValueError(f"groups={count}: expected a divisor of the {number} {name} channels")
    return Channels(visible, hidden, count)


def _graph(groups: Any, visible: int, hidden: int) -> NDArray[np.bool_]:
    shape = f"(hidden, visible channels) = {(hidden, visible)}"
    expected = f"expected a number, or a channel graph: a boolean array of shape {shape}"
    try:
        graph = np.asarray(groups)
    except ValueError:
        raise ValueError(f"groups={groups!r}: {expected}, got rows of different lengths") from None
    if graph.dtype != np.bool_:
        raise TypeError(f"groups: {expected}, got {graph.shape} of dtype {graph.dtype}; use groups != 0")
    if graph.shape != (hidden, visible):
        raise ValueError(f"groups: {expected}, got {graph.shape}")
    return graph


def precision_of(value: Any) -> Precision:
    value = _listed(value)
    if not isinstance(value, str) or value not in get_args(Precision):
        raise ValueError(f'precision={value!r}: expected "default" or "highest"')
    precision: Precision = value  # type: ignore[assignment]
    return precision
