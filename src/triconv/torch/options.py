"""The arguments of a call as a text: what an operator of PyTorch can carry, and a cache can find."""

from __future__ import annotations

from ast import literal_eval
from collections.abc import Mapping
from functools import lru_cache
from operator import index
from typing import Any

import torch

from ..arguments import border_per_axis, padding_per_axis, per_axis

DEFAULTS: dict[str, Any] = {
    "stride": 1,
    "padding": 0,
    "dilation": 1,
    "border": "zero",
    "precision": "default",
    "engine": "auto",
}
"""What the three operations take where nothing is said."""


def written(values: Mapping[str, Any], defaults: Mapping[str, Any]) -> str:
    """The values that are not the defaults, as Python writes a dict; torch.compile can trace this."""
    return repr({name: plain(value) for name, value in values.items() if value is not defaults[name]})


def plain(value: Any) -> Any:
    """Python's own numbers for whatever counts, tuples for whatever lists them."""
    if isinstance(value, list | tuple):
        return tuple([plain(one) for one in value])
    if isinstance(value, int):  # asked first: torch.compile has numbers that it does not know yet, with no attributes
        return value if isinstance(value, bool) else index(value)
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    return index(value) if hasattr(value, "__index__") else value


@lru_cache(maxsize=1024)
def read(text: str) -> dict[str, Any]:
    """The values that a text says."""
    values: dict[str, Any] = literal_eval(text)
    return values


@lru_cache(maxsize=1024)
def with_first_axis(text: str, rank: int) -> str:
    """The same on one more axis, the first, along which positions are apart: a kernel of one, and no padding."""
    values = {**DEFAULTS, **read(text)}
    padding = values["padding"]
    moved = {
        "stride": (1, *per_axis("stride", values["stride"], rank)),
        "dilation": (1, *per_axis("dilation", values["dilation"], rank)),
        # What a word means for a kernel of one is no padding.
        "padding": padding if isinstance(padding, str) else ((0, 0), *padding_per_axis(padding, rank)),
        "border": ("zero", *border_per_axis(values["border"], rank)),
    }
    return written({**values, **moved}, DEFAULTS)


def short(dtype: torch.dtype) -> str:
    """The name of a dtype, as NumPy has it too."""
    return str(dtype).removeprefix("torch.")
