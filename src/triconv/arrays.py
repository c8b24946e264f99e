"""Arrays as they come in and go out: which dtypes there are, and where results lie in memory."""

from __future__ import annotations

from functools import lru_cache
from importlib import import_module
from math import prod
from typing import Any
from warnings import catch_warnings

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .memory import KEPT_STRIDES, LARGE, empty

Array = NDArray[Any]

COMPUTED = ("float32", "float64", "complex64", "complex128")
STORED = {"float16": "float32", "bfloat16": "float32"}
"""dtypes that are only stored, and what they are computed in."""


def operand(name: str, value: ArrayLike) -> Array:
    """The value as an array of a dtype that the operations take."""
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(f"{name}: masked arrays are not taken, their mask would be lost; use {name}.filled(...)")
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise ValueError(f"{name}: expected an array: {str(error).splitlines()[0]}") from None
    if array.dtype.name not in COMPUTED and array.dtype.name not in STORED:
        raise TypeError(f"{name} of dtype {array.dtype}: {_expected(array.dtype)}")
    return array


def common_dtype(*dtypes: np.dtype[Any]) -> np.dtype[Any]:
    """NumPy's promotion of the dtypes, in the machine's byte order."""
    try:
        dtype = np.result_type(*dtypes)
    except TypeError:
        names = " and ".join(str(dtype) for dtype in dtypes)
        raise TypeError(
            f"dtypes {names}: NumPy has no common type for them; cast one, for example to float32"
        ) from None
    if dtype.name not in COMPUTED and dtype.name not in STORED:
        raise TypeError(f"dtype {dtype}: {_expected(dtype)}")
    return dtype


def named_dtype(value: Any) -> np.dtype[Any]:
    """The dtype that a user names, by a string, a NumPy type or a dtype; one that operations take."""
    expected = f"expected {', '.join((*COMPUTED, *STORED))}"
    if not isinstance(value, str | type | np.dtype) or value == "":
        raise TypeError(f"dtype={type(value).__name__}: {expected}, by name, type or dtype")
    try:
        with catch_warnings(action="ignore"):  # of names that NumPy takes no longer
            dtype = np.dtype(import_module("ml_dtypes").bfloat16 if value == "bfloat16" else value)
    except (TypeError, ModuleNotFoundError):
        raise TypeError(f"dtype={value!r}: {expected}") from None
    if dtype.name not in COMPUTED and dtype.name not in STORED:
        raise TypeError(f"dtype={value!r}: {expected}")
    return common_dtype(dtype)


def compute_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The dtype that a result of this dtype is computed in."""
    return np.dtype(STORED.get(dtype.name, dtype))


def allocate(what: str, shape: tuple[int, ...], dtype: Any, order: Array | tuple[int, ...]) -> Array:
    """An uninitialised array in the memory order of another one, or with its axes in the given physical order."""
    kind = np.dtype(dtype)
    try:
        if isinstance(order, tuple):
            return empty(shape, kind, _steps(shape, kind.itemsize, order))
        if order.ndim == len(shape) and prod(shape) * kind.itemsize >= LARGE:
            return empty(shape, kind, _steps(shape, kind.itemsize, _outermost_first(order.strides)))
        return np.empty_like(order, kind, shape=shape, subok=False)
    except (MemoryError, ValueError):
        need = prod(shape) * kind.itemsize
        raise MemoryError(f"{what} to shape {shape} asks for {need} bytes") from None


@lru_cache(maxsize=KEPT_STRIDES)
def _outermost_first(strides: tuple[int, ...]) -> tuple[int, ...]:
    """The axes of an array in their physical order."""
    return tuple(sorted(range(len(strides)), key=lambda axis: -abs(strides[axis])))


@lru_cache(maxsize=KEPT_STRIDES)
def _steps(shape: tuple[int, ...], itemsize: int, order: tuple[int, ...]) -> tuple[int, ...]:
    """The strides of an array with its axes in this physical order."""
    steps, step = [0] * len(shape), itemsize
    for axis in reversed(order):
        steps[axis], step = step, step * max(1, shape[axis])
    return tuple(steps)


def _expected(dtype: np.dtype[Any]) -> str:
    expected = f"expected {', '.join((*COMPUTED, *STORED))}"
    if dtype.kind not in "biufc":
        return expected
    return f"{expected}; cast it, for example with .astype({'complex128' if dtype.kind == 'c' else 'float64'!r})"
