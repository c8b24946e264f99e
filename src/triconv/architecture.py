"""Parameters before there are arrays: the shapes and initial values of a layer, the stages of an autoencoder, as data.

Layers on NumPy arrays and modules of a framework both read these, so the same data is the same model.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from functools import cached_property
from math import prod, sqrt
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from .arguments import bank_per_axis, border_per_axis, channels_of, padding_per_axis, per_axis
from .arrays import allocate
from .form import weight_order
from .geometry import Geometry
from .problem import Options, problem_hidden

Array = NDArray[Any]
Bank = tuple[int, ...] | Literal["local"] | None
Scheme = Literal["he", "glorot"]


@dataclass(frozen=True, eq=False)
class Convolution:
    """The sizes and options of one convolution layer, seen from its visible side whichever way it is used."""

    visible_channels: int
    hidden_channels: int
    kernel_size: tuple[int, ...]
    stride: Any = 1
    padding: Any = 0
    dilation: Any = 1
    groups: Any = 1
    border: Any = "zero"
    bank: Any = None
    visible_size: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if isinstance(self.kernel_size, int) or not hasattr(self.kernel_size, "__len__"):
            raise TypeError(f"kernel_size={self.kernel_size!r}: expected one int per axis, which also sets the rank")
        for name in ("visible_channels", "hidden_channels"):
            per_axis(name, getattr(self, name), 1)
        for name in ("kernel_size", "stride", "dilation"):
            per_axis(name, getattr(self, name), self.rank)
        padding_per_axis(self.padding, self.rank)
        border_per_axis(self.border, self.rank)
        if self.bank is not None and self.visible_size is None:
            raise ValueError(
                f"bank={self.bank!r}: expected a visible_size with it, which says how many kernels there are"
            )
        if self.visible_size is not None:
            per_axis("visible_size", self.visible_size, self.rank)
            _ = self.weight_shape

    @property
    def rank(self) -> int:
        return len(self.kernel_size)

    @property
    def options(self) -> dict[str, Any]:
        """The keyword arguments of the operations."""
        return {name: getattr(self, name) for name in ("stride", "padding", "dilation", "groups", "border")}

    @cached_property
    def shared_shape(self) -> tuple[int, ...]:
        """The shape of one kernel of the bank."""
        return (*channels_of(self.groups, self.visible_channels, self.hidden_channels).weight, *self.kernel_size)

    def geometry(self, visible_size: tuple[int, ...]) -> Geometry:
        """The sizes that a visible size gives, without the bank."""
        visible = (1, self.visible_channels, *visible_size)
        return problem_hidden(visible, self.shared_shape, np.dtype("float32"), Options(**self.options)).geometry

    @cached_property
    def periods(self) -> tuple[int, ...]:
        """The period of the kernels over hidden positions; empty without a bank."""
        if self.bank is None or self.visible_size is None:
            return ()
        return bank_per_axis(self.bank, self.geometry(self.visible_size).hidden)

    @cached_property
    def visible_periods(self) -> tuple[int, ...]:
        """The period over visible positions of what a bank of kernels does to them; empty without a bank."""
        if self.bank is None or self.visible_size is None:
            return ()
        axes = self.geometry(self.visible_size).axes
        return tuple(axis.with_bank(period).visible_bank for axis, period in zip(axes, self.periods, strict=True))

    @cached_property
    def weight_shape(self) -> tuple[int, ...]:
        return (*self.periods, *self.shared_shape)

    def initial_weight(self, rng: np.random.Generator, scheme: Scheme, dtype: Any) -> Array:
        """Random values of He's or Glorot's variance, in the physical order that engines like."""
        taps = prod(self.kernel_size)
        edges = channels_of(self.groups, self.visible_channels, self.hidden_channels).edges
        fan_in, fan_out = edges * taps / self.hidden_channels, edges * taps / self.visible_channels
        weight = allocate("weight", self.weight_shape, dtype, weight_order(self.rank, bool(self.periods)))
        weight[...] = initial(self.weight_shape, fan_in, fan_out, rng, scheme)
        return weight


def initial(shape: tuple[int, ...], fan_in: float, fan_out: float, rng: np.random.Generator, scheme: Scheme) -> Array:
    """He: normal with variance 2 / fan_in, for ReLU. Glorot: uniform with variance 2 / (fan_in + fan_out)."""
    match scheme:
        case "he":
            return rng.standard_normal(shape) * sqrt(2 / max(fan_in, 1))
        case "glorot":
            bound = sqrt(6 / max(fan_in + fan_out, 1))
            return rng.uniform(-bound, bound, shape)
    raise ValueError(f'init={scheme!r}: expected "he" or "glorot"')


Activation = Literal["identity", "relu", "sigmoid", "tanh"]


@dataclass(frozen=True)
class Stage:
    """One stage of an autoencoder: H = g_h(b_h + W_e @_d V), and R = g_v(b_v + W_r @_d^T H) on the way back."""

    channels: int
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: str = "valid"
    bank: Bank = None


@dataclass(frozen=True)
class Architecture:
    """A stack of stages over visible arrays (N, channels, *size): all that rebuilds an autoencoder but its weights."""

    channels: int
    size: tuple[int, ...]
    stages: tuple[Stage, ...]
    tied: bool = True
    inner: Activation = "relu"
    code: Activation = "identity"
    output: Activation = "identity"
    convolutions: tuple[Convolution, ...] = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        if not self.stages:
            raise ValueError("stages=(): expected at least one")
        made, channels, size = [], self.channels, self.size
        for number, stage in enumerate(self.stages):
            try:
                convolution = Convolution(
                    channels,
                    stage.channels,
                    stage.kernel,
                    stride=stage.stride,
                    padding=stage.padding,
                    bank=stage.bank,
                    visible_size=size,
                )
                channels, size = stage.channels, convolution.geometry(size).hidden
            except (TypeError, ValueError) as error:
                raise type(error)(f"stage {number}: {error}") from None
            made.append(convolution)
        object.__setattr__(self, "convolutions", tuple(made))

    @property
    def rank(self) -> int:
        return len(self.size)

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """Of one example, from the visible through every stage to the code."""
        codes = [(c.hidden_channels, *c.geometry(c.visible_size or ()).hidden) for c in self.convolutions]
        return [(self.channels, *self.size), *codes]

    @property
    def code_shape(self) -> tuple[int, ...]:
        return self.shapes[-1]

    @property
    def code_size(self) -> int:
        """How many values encode one example."""
        return prod(self.code_shape)

    def to_json(self) -> str:
        data = asdict(self)
        del data["convolutions"]
        return json.dumps(data)

    @classmethod
    def from_json(cls, text: str) -> Architecture:
        data = json.loads(text)
        stages = tuple(
            Stage(
                stage["channels"],
                tuple(stage["kernel"]),
                tuple(stage["stride"]),
                stage["padding"],
                tuple(stage["bank"]) if isinstance(stage["bank"], list) else stage["bank"],
            )
            for stage in data.pop("stages")
        )
        return cls(size=tuple(data.pop("size")), stages=stages, **data)


def default_stages(channels: int, size: tuple[int, ...]) -> tuple[Stage, ...]:
    """Stages for images of a size when none are named: halved until 4 positions are left, then one code for the whole.

    The code has three eighths as many values as the image, and 128 at most.
    """
    code = min(max(3 * channels * prod(size) // 8, 1), 128)
    kernel = tuple(min(3, positions) for positions in size)
    stride = tuple(2 if positions > 16 else 1 for positions in size)
    stages: list[Stage] = []
    while not stages or any(positions > 4 for positions in size):
        stages.append(Stage(64 if stages else 32, kernel, stride, "same"))
        size = tuple(-(-positions // step) for positions, step in zip(size, stride, strict=True))
        stride = tuple(2 if positions > 4 else 1 for positions in size)
    return (*stages, Stage(code, size, (1,) * len(size), "valid"))


def default_output(images: Array) -> Activation:
    """The nonlinearity of a reconstruction when none is named: sigmoid where all values lie in [0, 1]."""
    return "sigmoid" if images.min() >= 0 and images.max() <= 1 else "identity"
