"""Convolution modules of any rank, and under the names that PyTorch has for the first three."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
import torch.fx
from torch import Tensor

from ...arguments import Groups, Padding, PerAxis
from ...geometry import Axis
from ...kept import Kept
from ..calls import call, found
from ..options import DEFAULTS
from ..registry import bare
from .base import Bias, Convolving, examples, with_bias
from .kept import kept_for


class Conv(Convolving):
    """Convolve in any number of dimensions and add a bias: H = b + W @_d V. The kernel is not flipped.

    ::

        h[n, o, c] = b[o] + Σ_{i,k}  w[c mod t, o, i, k] · v[n, i, s∘c + e∘k − p]

    `torch.nn.Conv1d`, `Conv2d` and `Conv3d` with more axes, banks of kernels and channel graphs. Arguments, attributes,
    text, initial values from a seed and state_dict keys are theirs. A bank of kernels lies in memory with its hidden
    channels innermost, as engines like it; `triconv.torch.nn` says what wants contiguous tensors, and what to do then.

    Parameters
    ----------
    in_channels, out_channels
        C_in and C_out.
    kernel_size
        K, one int per axis, which also sets the rank; in `Conv1d` to `Conv4d` an int will do.
    stride, padding, dilation
        s, p and e, as for `triconv.conv`; "same" takes strides too.
    groups
        An int, or a channel graph: a boolean (C_out, C_in) array or tensor. The weight is dense then; its entries
        outside the graph are ignored. The graph is a part of what is built, as kernel_size is, and no buffer: copies
        and pickles have it, and a state_dict has not, so load one into a module made with the same graph. (Checkpoints
        keep PyTorch's keys so; and the graph, which is read on the processor, stays there with its values whatever
        `to` and `to_empty` do.)
    bias
        True or "channel" is one number per channel; "bank" one per channel and kernel of the bank; False is none.
    padding_mode
        "zeros", "reflect", "replicate" or "circular"; or one per axis.
    device, dtype
        Of the parameters.
    bank
        None for one shared kernel; the period t of kernels that take turns over hidden positions, an int or one per
        axis; or "local", one kernel for each hidden position, with a visible_size.
    visible_size
        X, an int or one per axis, if the input has always this size.

    Shapes
    ------
    input (N, C_in, *X) or (C_in, *X), output (N, C_out, *Y) or (C_out, *Y) in the memory order of the input; weight
    (C_out, C_in/groups, *K) or (*t, C_out, C_in/groups, *K).

    Raises
    ------
    ValueError, TypeError
        One line that names the argument, its value and what was expected.

    Notes
    -----
    Goodfellow 2010, section 4; the lecture of Šegvić, "Multi-channel 2D conv".

    Examples
    --------
    >>> import torch
    >>> from triconv.torch.nn import Conv
    >>> layer = Conv(3, 8, (3, 3, 3, 3), stride=2, padding=1)
    >>> layer(torch.zeros(5, 3, 4, 4, 4, 4)).shape
    torch.Size([5, 8, 2, 2, 2, 2])
    >>> Conv(3, 8, (3, 3), padding=1, bank=(2, 1), groups=torch.ones(8, 3, dtype=torch.bool).tril())
    Conv(3, 8, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1), groups=graph of 21 edges, bank=(2, 1))
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: PerAxis,
        stride: PerAxis = 1,
        padding: Padding = 0,
        dilation: PerAxis = 1,
        groups: Groups = 1,
        bias: Bias = True,
        padding_mode: str | Sequence[str] = "zeros",
        device: Any = None,
        dtype: Any = None,
        *,
        bank: Any = None,
        visible_size: PerAxis | None = None,
    ) -> None:
        """Make the parameters and draw their values."""
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            dilation,
            0,
            groups,
            bias,
            padding_mode,
            device,
            dtype,
            bank,
            visible_size,
        )

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (PyTorch's name)
        return self._conv_forward(input, self.weight, self.bias)

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:  # noqa: A002
        return convolved(input, weight, bias, self.visible_size, self.options, kept_for(self, input, weight))


class ConvTranspose(Convolving):
    """Apply the transpose of a convolution and add a bias: R = b + W @_d^T H. The kernel is not flipped.

    ::

        v[n, i, x] = b[i] + Σ_{o,c,k : s∘c + e∘k − p = x}  w[c mod t, o, i, k] · h[n, o, c]

    `torch.nn.ConvTranspose1d`, `ConvTranspose2d` and `ConvTranspose3d` with more axes, banks of kernels, channel graphs
    and every padding_mode. The input is the hidden of a convolution, the output its visible.

    Parameters
    ----------
    in_channels, out_channels
        C_out and C_in of the convolution that this is the transpose of.
    output_padding
        How much larger than the smallest the output is, per axis. From s visible sizes in a row a convolution of
        stride s makes the same hidden size, so s − 1 is the most; what is more comes out of the padding after, as in
        PyTorch, and is refused where that is not enough. The positions more, at the end, have what the windows put
        there, or zero, and the bias. An output_size in the call, or a visible_size, says the same in a clearer way;
        with a visible_size, or a word for the padding, it is 0.
    groups
        An int, or a channel graph: a boolean (in_channels, out_channels) array or tensor, as for `Conv`.
    bias
        True or "channel" is one number per channel; "bank" one per channel and position that the bank tells apart
        (every position when it is local); False is none.
    visible_size
        X, the size of the output, an int or one per axis.
    kernel_size, stride, padding, dilation, padding_mode, device, dtype, bank
        As for `Conv`. Of a border, what the convolution reads from it is added back to where it came from.

    Shapes
    ------
    input (N, C_out, *Y) or (C_out, *Y), output (N, C_in, *X) or (C_in, *X) in the memory order of the input; weight
    (C_out, C_in/groups, *K) or (*t, C_out, C_in/groups, *K), which a `Conv` and its transpose can share.

    Raises
    ------
    ValueError, TypeError
        One line that names the argument, its value and what was expected.

    Notes
    -----
    Goodfellow 2010, section 5.1.

    Examples
    --------
    >>> import torch
    >>> from triconv.torch.nn import ConvTranspose
    >>> layer = ConvTranspose(8, 3, (3, 3), stride=2, padding=1)
    >>> layer(torch.zeros(5, 8, 7, 7)).shape, layer(torch.zeros(5, 8, 7, 7), output_size=(14, 14)).shape
    (torch.Size([5, 3, 13, 13]), torch.Size([5, 3, 14, 14]))
    """

    visible_first = False

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: PerAxis,
        stride: PerAxis = 1,
        padding: Padding = 0,
        output_padding: PerAxis = 0,
        groups: Groups = 1,
        bias: Bias = True,
        dilation: PerAxis = 1,
        padding_mode: str | Sequence[str] = "zeros",
        device: Any = None,
        dtype: Any = None,
        *,
        bank: Any = None,
        visible_size: PerAxis | None = None,
    ) -> None:
        """Make the parameters and draw their values."""
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            dilation,
            output_padding,
            groups,
            bias,
            padding_mode,
            device,
            dtype,
            bank,
            visible_size,
        )
        if why := why_no_output_padding(self):
            raise ValueError(f"output_padding={self.output_padding}: {why}")

    def forward(self, input: Tensor, output_size: Sequence[int] | None = None) -> Tensor:  # noqa: A002 (PyTorch's name)
        steps = self.kernel_size, self.output_padding, self.visible_size
        kept = kept_for(self, input, self.weight)
        return transposed(input, self.weight, self.bias, output_size, steps, self.options, kept)


# What the modules compute, from plain data: each is one node of a graph that torch.fx traces, as PyTorch's modules are.


@torch.fx.wrap
def convolved(
    given: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    size: tuple[int, ...] | None,
    options: dict[str, Any],
    kept: Kept | None = None,
) -> Tensor:
    """`Conv` of an input, which has the size, if there is one; with what is kept of the weight."""
    visible, single = examples(given, len(options["stride"]))
    if size is not None and tuple(visible.shape[2:]) != size:
        sizes = ", ".join(map(str, size))
        raise ValueError(f"input of shape {tuple(given.shape)}: expected (examples, channels, {sizes})")
    produced = _call("conv", visible, weight, (), options, kept, bias)
    return produced.squeeze(0) if single else produced


@torch.fx.wrap
def transposed(
    given: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    output_size: Sequence[int] | None,
    steps: tuple[Any, ...],
    options: dict[str, Any],
    kept: Kept | None = None,
) -> Tensor:
    """`ConvTranspose` of an input; `steps` are kernel_size, output_padding and visible_size."""
    hidden, single = examples(given, len(options["stride"]))
    size, padding = visible_sizes(hidden.shape[2:], output_size, steps, options)
    try:
        produced = _call("conv_transpose", hidden, weight, (size,), {**options, "padding": padding}, kept, bias)
    except (TypeError, ValueError) as error:
        raise as_given(error, output_size) from None
    return produced.squeeze(0) if single else produced


def as_given(error: TypeError | ValueError, output_size: Sequence[int] | None) -> TypeError | ValueError:
    """An error about a visible size under the name that it was given by."""
    if output_size is None:
        return error
    return type(error)(str(error).replace("visible_size=", "output_size=", 1))


def _call(
    operation: str,
    data: Tensor,
    weight: Tensor,
    sizes: Any,
    options: dict[str, Any],
    kept: Kept | None,
    bias: Tensor | None,
) -> Tensor:
    """The public operation and the bias: in one pass, and with what is kept of the weight, if nothing watches."""
    values = tuple([options.get(name, default) for name, default in DEFAULTS.items()])
    arguments = operation, data, weight, sizes, options["groups"], values
    if not torch.is_grad_enabled() and (stage := found(*arguments)) is not None:
        if bias is not None and bare(bias) and stage.call.adds(bias):
            return stage.call.run(data, weight, kept, bias)
        return with_bias(stage.call.run(data, weight, kept), bias)
    return with_bias(call(*arguments), bias)


def visible_sizes(
    hidden: Sequence[int], output_size: Sequence[int] | None, steps: tuple[Any, ...], options: dict[str, Any]
) -> tuple[Any, Any]:
    """The visible size of a transpose, None being the smallest, and the padding."""
    rank = len(hidden)
    kernel_size, output_padding, visible_size = steps
    if output_size is not None:
        given = tuple(output_size)
        if not rank <= len(given) <= rank + 2:
            raise ValueError(f"output_size={given}: expected {rank} sizes, one per axis, got {len(given)}")
        return given[len(given) - rank :], options["padding"]
    if visible_size is not None or not any(output_padding):
        return visible_size, options["padding"]
    known = not torch.compiler.is_compiling() and all(type(size) is int for size in hidden)  # numbers, not symbols
    find = _kept_larger if known else _larger
    pads = _pairs(options["padding"])
    return find(tuple(hidden), kernel_size, output_padding, options["stride"], options["dilation"], pads)


def _larger(hidden: Any, kernel: Any, more: Any, stride: Any, dilation: Any, pads: Any) -> tuple[Any, Any]:
    """The visible size that is so much more than the smallest, and the padding that it has."""
    sizes: list[int] = []
    padding: list[tuple[int, int]] = []
    for y, k, s, e, extra, (before, after) in zip(hidden, kernel, stride, dilation, more, pads, strict=True):
        sizes.append(Axis(1, y, k, s, e).reach - before - after + extra)
        padding.append((before, after - _beyond(extra, s)))
    return tuple(sizes), tuple(padding)


_kept_larger = lru_cache(maxsize=256)(_larger)


def _pairs(padding: Any) -> tuple[tuple[int, int], ...]:
    """The padding before and after each axis, where it is no word; torch.compile can trace this."""
    return tuple([(pad, pad) if isinstance(pad, int) else pad for pad in padding])


def _beyond(more: int, stride: int) -> int:
    """How much of an output_padding no visible size of the same padding has: it comes out of the padding after."""
    return max(more - stride + 1, 0)


def why_no_output_padding(module: Any) -> str:
    """What keeps a transposed convolution from its output_padding; nothing if it can have it."""
    if not any(module.output_padding):
        return ""
    if isinstance(module.padding, str) or getattr(module, "visible_size", None) is not None:
        return "expected 0 where the padding is a word or a visible_size is given; output_size says it too"
    steps = zip(module.output_padding, module.stride, _pairs(module.padding), strict=True)
    for axis, (more, stride, (_, after)) in enumerate(steps):
        if _beyond(more, stride) > after:
            return f"expected at most {stride - 1 + after}, one less than stride and padding together, on axis {axis}"
    return ""


class Conv1d(Conv, torch.nn.Conv1d):
    """`Conv` along one axis; takes the place of `torch.nn.Conv1d`. The kernel is not flipped."""

    rank = 1


class Conv2d(Conv, torch.nn.Conv2d):
    """`Conv` along two axes; takes the place of `torch.nn.Conv2d`. The kernel is not flipped."""

    rank = 2


class Conv3d(Conv, torch.nn.Conv3d):
    """`Conv` along three axes; takes the place of `torch.nn.Conv3d`. The kernel is not flipped."""

    rank = 3


class Conv4d(Conv):
    """`Conv` along four axes, as in volumes over time. The kernel is not flipped."""

    rank = 4


class ConvTranspose1d(ConvTranspose, torch.nn.ConvTranspose1d):
    """`ConvTranspose` along one axis; takes the place of `torch.nn.ConvTranspose1d`. The kernel is not flipped."""

    rank = 1


class ConvTranspose2d(ConvTranspose, torch.nn.ConvTranspose2d):
    """`ConvTranspose` along two axes; takes the place of `torch.nn.ConvTranspose2d`. The kernel is not flipped."""

    rank = 2


class ConvTranspose3d(ConvTranspose, torch.nn.ConvTranspose3d):
    """`ConvTranspose` along three axes; takes the place of `torch.nn.ConvTranspose3d`. The kernel is not flipped."""

    rank = 3


class ConvTranspose4d(ConvTranspose):
    """`ConvTranspose` along four axes. The kernel is not flipped."""

    rank = 4
