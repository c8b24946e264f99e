"""What the convolution modules of any rank share: their arguments, parameters, initial values and text."""

from __future__ import annotations

from math import prod, sqrt
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, unset_fake_temporarily
from torch.nn import Parameter
from torch.nn.modules.conv import _ConvNd
from torch.nn.parameter import UninitializedParameter

from ...architecture import Convolution
from ...arguments import LOCAL, axes_in, channels_of, group_count, padding_per_axis, per_axis
from ...form import weight_order
from ...geometry import Border
from ..layout import strides_of
from ..operands import check_device, check_dtype, check_graph
from ..options import plain, short
from ..registry import nobody_watches
from .kept import forget

Bias = bool | Literal["channel", "bank"]

BORDER: dict[str, Border] = {
    "zeros": "zero",
    "reflect": "reflect",
    "replicate": "replicate",
    "circular": "circular",
}
"""The border that each padding_mode of PyTorch is."""


class Convolving(_ConvNd):
    """A convolution used in one direction, with a bias on what it produces.

    Attributes are those of PyTorch's own modules and mean the same; all that a forward pass reads is in them and in the
    class, so that an instance of PyTorch's class becomes one of ours by a change of class, and back.
    """

    rank: ClassVar[int | None] = None
    """The number of spatial axes; None: as kernel_size says."""
    visible_first: ClassVar[bool] = True
    """Whether what goes in is the visible, and not the hidden."""

    groups: Any
    padding_mode: Any
    weight: Any
    bias: Any
    bank: Any = None
    visible_size: tuple[int, ...] | None = None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        stride: Any,
        padding: Any,
        dilation: Any,
        output_padding: Any,
        groups: Any,
        bias: Bias,
        padding_mode: Any,
        device: Any,
        dtype: Any,
        bank: Any,
        visible_size: Any,
    ) -> None:
        # PyTorch's own __init__ knows neither other ranks nor banks and graphs.
        torch.nn.Module.__init__(self)
        rank = axes_in(kernel_size) if self.rank is None else self.rank
        if self.rank is None and isinstance(kernel_size, int):
            raise TypeError(f"kernel_size={kernel_size!r}: expected one int per axis, which also sets the rank")
        (self.in_channels,) = per_axis("in_channels", in_channels, 1)
        (self.out_channels,) = per_axis("out_channels", out_channels, 1)
        self.kernel_size = per_axis("kernel_size", kernel_size, rank)
        self.stride = per_axis("stride", stride, rank)
        self.padding = _padding(padding, rank)
        self.dilation = per_axis("dilation", dilation, rank)
        self.transposed = not self.visible_first
        self.output_padding = per_axis("output_padding", output_padding, rank, 0)
        # A channel graph is no buffer: it is read on the processor whatever the device, is no part of PyTorch's
        # checkpoints, and must outlive to_empty().
        self.groups = _graph(groups) if group_count(_numpy(groups)) is None else per_axis("groups", groups, 1)[0]
        self.padding_mode = padding_mode
        _ = self.border
        # PyTorch's modules have it and code that was copied from them reads it; nothing here does.
        self._reversed_padding_repeated_twice = _repeated(self.padding, self.kernel_size, self.dilation)
        periods = plain(bank)
        self.bank = None if bank is None else periods if isinstance(periods, tuple) else (periods,) * rank
        self.visible_size = None if visible_size is None else per_axis("visible_size", visible_size, rank)
        self._make(bias, device, dtype)
        self.reset_parameters()

    def _make(self, bias: Bias, device: Any, dtype: Any) -> None:
        """The parameters, without values."""
        bias = bias if isinstance(bias, str) else bool(bias)  # as PyTorch takes it
        if not (isinstance(bias, bool) or bias in ("channel", "bank")):
            raise ValueError(f'bias={bias!r}: expected True, False, "channel" or "bank"')
        made = {"device": device, "dtype": dtype}
        wait = self._waits()
        if wait:
            self.weight = UninitializedParameter(**made)
        else:
            self.weight = Parameter(empty_weight(self, self._weight_shape(), **made))
        if not bias:
            self.register_parameter("bias", None)
        elif bias == "bank" and wait:
            self.bias = UninitializedParameter(**made)
        else:
            periods = self._bias_periods() if bias == "bank" else ()
            self.bias = Parameter(torch.empty((*periods, self.out_channels), **made))

    def _waits(self) -> bool:
        """Whether the shape of the weight depends on a visible size that is not known yet."""
        local = self.bank is not None and LOCAL in self.bank
        if local and self.visible_size is None:
            raise ValueError(
                f"bank={self.bank!r}: expected a visible_size with it, which says how many kernels there are; "
                "LocallyConnected waits for its first input instead"
            )
        return False

    @property
    def border(self) -> Any:
        """What the padding reads, under the name that operations have for it."""
        if isinstance(self.padding_mode, str) and self.padding_mode in BORDER:
            return BORDER[self.padding_mode]
        rank = len(self.kernel_size)
        modes = () if isinstance(self.padding_mode, str) else tuple(self.padding_mode)
        if len(modes) != rank or any(mode not in BORDER for mode in modes):
            expected = f"expected one of {', '.join(BORDER)}, or {rank} of them, one per axis"
            raise ValueError(f"padding_mode={self.padding_mode!r}: {expected}")
        return tuple(BORDER[mode] for mode in modes)

    @property
    def options(self) -> dict[str, Any]:
        """The keyword arguments of the operations."""
        # Models are changed after they are made: PyTorch takes one number for all axes then, too.
        rank = len(self.kernel_size)
        return {
            "stride": (self.stride,) * rank if isinstance(self.stride, int) else self.stride,
            "padding": self.padding,
            "dilation": self.dilation,
            "groups": self.groups,
            "border": self.border,
        }

    def convolution(self, visible_size: tuple[int, ...] | None = None) -> Convolution:
        """The sizes and options as data, as NumPy's layers have them."""
        ends = (self.in_channels, self.out_channels)
        visible, hidden = ends if self.visible_first else reversed(ends)
        options = {**self.options, "groups": _numpy(self.groups)}
        bank = None if visible_size is None else self.bank
        return Convolution(visible, hidden, self.kernel_size, bank=bank, visible_size=visible_size, **options)

    def _weight_shape(self) -> tuple[int, ...]:
        if self.visible_size is None and self.bank is not None:
            return (*per_axis("bank", self.bank, len(self.kernel_size)), *self.convolution().shared_shape)
        return self.convolution(self.visible_size).weight_shape

    def _bias_periods(self) -> tuple[int, ...]:
        """The periods over positions of what is produced."""
        if self.visible_size is not None:
            spec = self.convolution(self.visible_size)
            return spec.periods if self.visible_first else spec.visible_periods
        if not self.visible_first and self.bank is not None:
            raise ValueError('bias="bank": expected a visible_size with it, over whose positions it repeats')
        return () if self.bank is None else per_axis("bank", self.bank, len(self.kernel_size))

    def train(self, mode: bool = True) -> Self:
        """As of all modules; what was made of the weight is forgotten."""
        forget(self)
        return super().train(mode)

    def reset_parameters(self) -> None:
        """Draw weight and bias as PyTorch's own modules do: the same numbers from the same seed.

        Both are uniform in ±1/√(connections), where PyTorch counts connections along the weight's second axis and over
        the taps; in a channel graph it is their mean. Kernels of a bank are drawn one after the other.
        """
        if isinstance(self.weight, UninitializedParameter):
            return
        lead = self.weight.ndim - len(self.kernel_size) - 2
        shared = self.weight.shape[lead:]
        spec = self.convolution()
        edges = channels_of(spec.groups, spec.visible_channels, spec.hidden_channels).edges
        fan = edges / shared[0] * prod(self.kernel_size)
        with torch.no_grad():
            drawn = torch.empty(self.weight.shape, dtype=self.weight.dtype, device=self.weight.device)
            torch.nn.init.kaiming_uniform_(drawn.view(-1, *shared[1:]), a=sqrt(5))
            dense = prod(shared[1:])
            self.weight.copy_(drawn if fan in (0, dense) else drawn * sqrt(dense / fan))
            if self.bias is not None and not isinstance(self.bias, UninitializedParameter):
                limit = 1 / sqrt(fan) if fan else 0.0
                torch.nn.init.uniform_(self.bias, -limit, limit)

    def extra_repr(self) -> str:
        """As PyTorch's own modules write it, and what they have not."""
        rank = len(self.kernel_size)
        graph = isinstance(self.groups, Tensor)
        groups = f"graph of {int(self.groups.sum())} edges" if graph else self.groups
        said = [
            ("padding", self.padding, (0,) * rank),
            ("dilation", self.dilation, (1,) * rank),
            ("output_padding", self.output_padding, (0,) * rank),
            ("groups", groups, 1),
            ("bias", self.bias is not None, True),
            ("padding_mode", self.padding_mode, "zeros"),
            ("bank", self.bank, None),
            ("visible_size", self.visible_size, None),
        ]
        always = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"
        return ", ".join([always, *(f"{name}={value}" for name, value, default in said if value != default)])


def examples(given: Tensor, rank: int) -> tuple[Tensor, bool]:
    """The input with examples along its first axis, and whether it was a single one without that axis."""
    if given.ndim == rank + 2:
        return given, False
    if given.ndim == rank + 1:
        return given.unsqueeze(0), True
    raise ValueError(
        f"input of shape {tuple(given.shape)}: expected (examples, channels, *positions) "
        f"or (channels, *positions) with {rank} spatial axes"
    )


def with_bias(produced: Tensor, bias: Tensor | None) -> Tensor:
    """Add the bias: one number a channel, or a bank of them that repeats over positions."""
    if bias is None:
        return produced
    check_bias(bias, produced)
    if bias.ndim == 1:
        bias = bias.view(-1, *(1,) * (produced.ndim - 2))
    else:
        for axis, (period, size) in enumerate(zip(bias.shape[:-1], produced.shape[2:], strict=True)):
            if period not in (1, size):
                bias = bias.index_select(axis, torch.arange(size, device=bias.device) % period)
        bias = bias.movedim(-1, 0)
    if bias.dtype is not produced.dtype:
        bias = bias.to(produced.dtype)  # under autocast it is the lower one
    if not torch.compiler.is_compiling() and nobody_watches():
        return produced.add_(bias)  # the result is ours alone
    return produced + bias


def check_bias(bias: Tensor, produced: Tensor) -> None:
    """Raise what a bias is not that it has to be, where adding it would broadcast or drop a part of it."""
    if bias.shape == produced.shape[1:2] and bias.dtype is produced.dtype and bias.device == produced.device:
        return
    channels, *sizes = produced.shape[1:]
    *periods, last = bias.shape or (0,)
    fits = last == channels and (not periods or len(periods) == len(sizes))
    if not fits or any(period > size for period, size in zip(periods, sizes, strict=False)):
        expected = f"({channels},), or a bank of at most {(*sizes, channels)}"
        raise ValueError(f"bias of shape {tuple(bias.shape)}: expected {expected}")
    if bias.dtype is not produced.dtype:
        check_dtype("bias", bias.dtype)
        if bias.is_complex() and not produced.is_complex():
            raise TypeError(f"bias of dtype {short(bias.dtype)}: expected a real one for results that are real")
    if bias.device != produced.device:
        check_device("bias", bias, "input", produced)


def empty_weight(module: Convolving, shape: tuple[int, ...], **made: Any) -> Tensor:
    """A weight without values: a bank in the physical order that engines like best.

    Where PyTorch has such a weight it lies as PyTorch's does, as LBFGS, parameters_to_vector and safetensors want it.
    """
    rank = len(module.kernel_size)
    if len(shape) == rank + 2:
        return torch.empty(shape, **made)
    return torch.empty_strided(shape, strides_of(shape, weight_order(rank, True)), **made)


def _padding(padding: Any, rank: int) -> Any:
    """A word as it is; else one int per axis, or one pair per axis where they are not all alike on both sides."""
    pads: Any = padding_per_axis(padding, rank)
    if isinstance(padding, str):
        return padding
    return tuple(before for before, _ in pads) if all(before == after for before, after in pads) else pads


def _repeated(padding: Any, kernel: tuple[int, ...], dilation: tuple[int, ...]) -> Any:
    """The padding as torch.nn.functional.pad takes it: before and after each axis, the last axis first."""
    spans = [step * (taps - 1) for taps, step in zip(kernel, dilation, strict=True)]
    words = {"valid": [(0, 0) for _ in spans], "same": [(span // 2, span - span // 2) for span in spans]}
    words["full"] = [(span, span) for span in spans]
    pads = (
        words[padding]
        if isinstance(padding, str)
        else [one if isinstance(one, tuple) else (one, one) for one in padding]
    )
    repeated = tuple(pad for pair in reversed(pads) for pad in pair)
    return list(repeated) if isinstance(padding, str) else repeated


def _numpy(groups: Any) -> Any:
    """A channel graph as an array, for what reads arrays; a number as it is."""
    if not isinstance(groups, Tensor):
        return groups
    check_graph(groups)
    if isinstance(groups, FakeTensor):
        raise ValueError("groups: expected a channel graph with values, got a fake tensor; make it outside of the mode")
    with unset_fake_temporarily():
        return groups.detach().cpu().numpy()


def _graph(groups: Any) -> Tensor:
    """A copy of a channel graph on the processor, whatever the default device or mode is."""
    array = np.array(_numpy(groups))
    with unset_fake_temporarily():
        return torch.from_numpy(array)
