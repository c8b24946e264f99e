"""PyTorch's convolutions in a model for ours, in place, and back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import Module
from torch.nn.modules.conv import _ConvNd
from torch.nn.parameter import UninitializedParameter

from ..engines import DTYPES
from ..options import short
from . import convolution
from .base import Convolving

NAMES = ("Conv1d", "Conv2d", "Conv3d", "ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d")

OURS: dict[type[Module], type[Convolving]] = {getattr(torch.nn, name): getattr(convolution, name) for name in NAMES}

BEFORE = "_class_before_triconv"
"""The attribute of a replaced module that says what to go back to; it travels with copies of it."""


@dataclass(frozen=True)
class Report:
    """Which modules of a model changed their class, and why other convolutions did not; ``print`` shows it."""

    changed: tuple[str, ...]
    """By their names in the model, "" being the model itself."""
    left: dict[str, str]
    """The reason by name."""

    def __str__(self) -> str:
        kept = [f"left {name or 'the model itself'}: {why}" for name, why in self.left.items()]
        count = len(self.changed)
        return "\n".join([f"changed {count} convolution{'' if count == 1 else 's'}", *kept])


def replace(model: Module) -> Report:
    """Let triconv compute a model's convolutions, in place; outputs are the same to rounding. No kernel is flipped.

    `torch.nn.Conv1d` to `Conv3d` and `ConvTranspose1d` to `ConvTranspose3d`, wherever they are in the model, change
    their class and nothing else: parameters are the same objects, and hooks, buffers, attributes and the training mode
    stay, so optimisers, checkpoints and references to the modules go on. They remain instances of PyTorch's classes.

    Nothing is cast: parameters keep their dtypes. An input of another dtype than the weight's, which PyTorch's modules
    refuse, is taken, and the output has the dtype of NumPy's promotion (float32 and float64 give float64), the bias
    cast to it; under autocast both have its dtype, as PyTorch's have.

    Parameters
    ----------
    model
        Any module, also a convolution itself.

    Returns
    -------
    Report
        What changed; and what did not, with the reason: modules whose parameters wait for a first input, subclasses
        (parametrized modules are), a forward of a module's own, dtypes that the operations have not, and an
        output_padding beyond stride and padding.

    Raises
    ------
    TypeError
        When the model is no module.

    Examples
    --------
    >>> import torch
    >>> from triconv.torch.nn import replace, restore
    >>> model = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.ReLU(), torch.nn.LazyConv2d(8, 3))
    >>> print(replace(model))
    changed 1 convolution
    left 2: its parameters wait for a first input; call the model once before
    >>> type(model[0]).__module__, isinstance(model[0], torch.nn.Conv2d)
    ('triconv.torch.nn.convolution', True)
    >>> restore(model).changed, type(model[0]) is torch.nn.Conv2d
    (('0',), True)
    """
    changed, left = [], {}
    for name, module in _modules(model):
        if not isinstance(module, _ConvNd) or isinstance(module, Convolving):
            continue
        if why := _why_not(module):
            left[name] = why
        else:
            module.__dict__[BEFORE] = type(module)
            module.__class__ = OURS[type(module)]
            changed.append(name)
    return Report(tuple(changed), left)


def restore(model: Module) -> Report:
    """Give the modules that `replace` changed their classes back: the exact inverse. No kernel is flipped.

    Parameters
    ----------
    model
        A model that `replace` had, or a copy of it. Modules that were made as ours stay.

    Returns
    -------
    Report
        What changed; and what did not, with the reason: modules that have become of another class since.

    Raises
    ------
    TypeError
        When the model is no module.

    Examples
    --------
    See `replace`.
    """
    changed, left = [], {}
    for name, module in _modules(model):
        if (before := module.__dict__.get(BEFORE)) is None:
            continue
        if type(module) is OURS[before]:
            del module.__dict__[BEFORE]
            module.__class__ = before
            changed.append(name)
        else:
            left[name] = f"it has become {type(module).__name__} since; undo that before"
    return Report(tuple(changed), left)


def _modules(model: Any) -> list[tuple[str, Module]]:
    """Every module of a model once, by its first name."""
    if not isinstance(model, Module):
        raise TypeError(f"model of type {type(model).__name__}: expected a torch.nn.Module")
    return list(model.named_modules())


def _why_not(module: Any) -> str:
    """What keeps a convolution of PyTorch's from becoming ours; nothing if it can."""
    if any(isinstance(one, UninitializedParameter) for one in module.parameters(recurse=False)):
        return "its parameters wait for a first input; call the model once before"
    if torch.nn.utils.parametrize.is_parametrized(module):
        return "it is parametrized; replace before that"
    if type(module) not in OURS:
        return f"{type(module).__name__} is a subclass, whose code may differ"
    if own := sorted({"forward", "_conv_forward"} & set(module.__dict__)):
        return f"it has a {own[0]} of its own"
    dtypes = {one.dtype for one in module.parameters(recurse=False)}
    if unknown := sorted(short(dtype) for dtype in dtypes if dtype not in DTYPES):
        return f"dtype {unknown[0]}: expected {', '.join(DTYPES.values())}"
    if module.transposed and (why := convolution.why_no_output_padding(module)):
        return f"output_padding={module.output_padding}: {why}"
    return ""
