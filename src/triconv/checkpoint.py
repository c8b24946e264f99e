"""Named arrays and a description of them in one file: safetensors, which holds data and no code."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .files import replace_file

Array = NDArray[Any]

KEY = "triconv"


def save(path: Path, arrays: Mapping[str, Array], description: Mapping[str, Any]) -> None:
    """Write arrays and a description beside the file, and put it in its place when it is whole.

    Parameters
    ----------
    path
        Of a .safetensors file, whose folder exists.
    arrays
        By name; written in C order.
    description
        Anything that JSON holds.

    Raises
    ------
    OSError
        One line that names the path; an older file stays as it was.
    """
    from safetensors.numpy import save as serialise

    held = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    with replace_file(path) as beside:
        beside.write_bytes(serialise(held, {KEY: json.dumps(description)}))


def load(path: Path) -> tuple[dict[str, Array], dict[str, Any]]:
    """Read what `save` wrote: arrays by name, and the description.

    Raises
    ------
    ValueError
        One line when the file is missing, truncated, damaged or another program's.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
            description = json.loads((file.metadata() or {})[KEY])
    except FileNotFoundError:
        raise ValueError(f"{path}: expected a checkpoint, but there is no such file") from None
    except (KeyError, json.JSONDecodeError):
        raise ValueError(f"{path}: expected a checkpoint of triconv, but its description is missing") from None
    except (SafetensorError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{path}: expected a checkpoint, but it is truncated or damaged ({reason})") from None
    return arrays, description


@contextmanager
def fitting(path: Path) -> Iterator[None]:
    """Say in one line, with the file's name, what of it does not fit together."""
    try:
        yield
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: weights and architecture do not belong together: {error}") from None


def part(arrays: dict[str, Array], prefix: str) -> dict[str, Array]:
    """The arrays whose name starts with a prefix, under the rest of their names."""
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
