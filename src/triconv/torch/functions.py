"""The three operations on PyTorch tensors: validate, and call an operator or, where nothing watches, an engine."""

from __future__ import annotations

from torch import Tensor

from ..arguments import Bank, Groups, Padding, PerAxis
from ..ops import Border
from .calls import call


def conv(
    visible: Tensor,
    weight: Tensor,
    *,
    stride: PerAxis = 1,
    padding: Padding = 0,
    dilation: PerAxis = 1,
    groups: Groups = 1,
    border: Border = "zero",
    engine: str = "auto",
    precision: str = "default",
) -> Tensor:
    """Convolve in any number of dimensions: hidden from visible and weight. The kernel is not flipped.

    ::

        h[n, o, c] = Σ_{i,k}  w[c mod t, o, i, k] · v[n, i, s∘c + e∘k − p]

    Parameters
    ----------
    visible, weight
        Tensors (N, C_in, *X) and (C_out, C_in/groups, *K), or with a bank (*t, C_out, C_in/groups, *K).
    stride, padding, dilation, border, precision
        As for `triconv.conv`.
    groups
        An int, or a channel graph: a boolean (C_out, C_in) tensor or array, read on the processor. (For
        ``torch.export(strict=True)``, which loses the values of every NumPy array that it meets, a tensor: an array is
        refused there.)
    engine
        As for `triconv.conv`, on processors; elsewhere PyTorch's own operators compute, and only
        "auto" is taken.

    Returns
    -------
    torch.Tensor
        hidden (N, C_out, *Y), in the memory order of visible: channels_last gives channels_last. float32, float64,
        complex64 or complex128 by NumPy's promotion, where PyTorch's own convolutions refuse dtypes that differ;
        float16 and bfloat16 are summed in float32 and rounded once (where the processor multiplies bfloat16 itself,
        numbers below 2⁻¹²⁶ may count as zero). Under autocast, its dtype.

        It can be differentiated with respect to visible and weight, in both modes and any number of times; a complex
        gradient is PyTorch's, the conjugate of the derivative.

    Raises
    ------
    ValueError, TypeError, MemoryError
        As `triconv.conv`; operands that are no dense tensors, or on different devices.

    Notes
    -----
    ``H = W @_d V`` in Goodfellow 2010, section 4. Its derivatives are `conv_transpose` and `conv_weight`.

    Examples
    --------
    >>> import torch
    >>> from triconv.torch import conv
    >>> signal = torch.tensor([[[1.0, 2.0, 4.0, 8.0]]], requires_grad=True)
    >>> hidden = conv(signal, torch.tensor([[[1.0, -1.0]]]))
    >>> hidden
    tensor([[[-1., -2., -4.]]], grad_fn=<FormBackward>)
    >>> torch.autograd.grad(hidden.sum(), signal)
    (tensor([[[ 1.,  0.,  0., -1.]]]),)
    """
    return call("conv", visible, weight, (), groups, (stride, padding, dilation, border, precision, engine))


def conv_transpose(
    hidden: Tensor,
    weight: Tensor,
    *,
    visible_size: PerAxis | None = None,
    stride: PerAxis = 1,
    padding: Padding = 0,
    dilation: PerAxis = 1,
    groups: Groups = 1,
    border: Border = "zero",
    engine: str = "auto",
    precision: str = "default",
) -> Tensor:
    """Apply the exact transpose of `conv`: visible from hidden and weight. The kernel is not flipped.

    ::

        v[n, i, x] = Σ_{o,c,k : s∘c + e∘k − p = x}  w[c mod t, o, i, k] · h[n, o, c]

    Parameters
    ----------
    hidden, weight
        Tensors (N, C_out, *Y) and (C_out, C_in/groups, *K), or with a bank (*t, C_out, C_in/groups, *K). The weight of
        `torch.nn.ConvTranspose2d` is such a weight as it is: its input is our hidden.
    visible_size
        X, an int or one per axis: a size from which conv makes this hidden size. None is the smallest, PyTorch's
        output_padding of 0.
    stride, padding, dilation, groups, border, engine, precision
        As for `conv`.

    Returns
    -------
    torch.Tensor
        visible (N, C_in, *X), in the memory order of hidden; dtypes and derivatives as for `conv`. Transposed, not
        conjugated.

    Raises
    ------
    ValueError, TypeError, MemoryError
        As `conv`; a visible_size that does not yield this hidden is told which sizes do.

    Notes
    -----
    ``R = W @_d^T H`` in Goodfellow 2010, sections 3 and 4; "integrated backward" in the lecture of Šegvić.

    Examples
    --------
    >>> import torch
    >>> from triconv.torch import conv_transpose
    >>> conv_transpose(torch.tensor([[[1.0, 10.0]]]), torch.tensor([[[1.0, 2.0, 3.0]]]), stride=2)
    tensor([[[ 1.,  2., 13., 20., 30.]]])
    """
    options = stride, padding, dilation, border, precision, engine
    return call("conv_transpose", hidden, weight, (visible_size,), groups, options)


def conv_weight(
    visible: Tensor,
    hidden: Tensor,
    kernel_size: PerAxis,
    *,
    bank: Bank = None,
    stride: PerAxis = 1,
    padding: Padding = 0,
    dilation: PerAxis = 1,
    groups: Groups = 1,
    border: Border = "zero",
    engine: str = "auto",
    precision: str = "default",
) -> Tensor:
    """Correlate hidden with visible: conv's derivative with respect to weight. The kernel is not flipped.

    ::

        w[b, o, i, k] = Σ_{n,c : c mod t = b}  h[n, o, c] · v[n, i, s∘c + e∘k − p]

    Parameters
    ----------
    visible, hidden
        Tensors (N, C_in, *X) and (N, C_out, *Y), of sizes that belong together.
    kernel_size
        K, an int or one per axis.
    bank
        None for a shared kernel; or the period t, an int or one per axis, "local" meaning the hidden size.
    stride, padding, dilation, groups, border, engine, precision
        As for `conv`. Outside a channel graph the result is exactly zero.

    Returns
    -------
    torch.Tensor
        weight (C_out, C_in/groups, *K), or (*t, C_out, C_in/groups, *K) with a bank; in memory the hidden channels are
        innermost, as layers keep their weights. As a gradient it lies as the weight does. dtypes and derivatives as for
        `conv`.

    Raises
    ------
    ValueError, TypeError, MemoryError
        As `conv`.

    Notes
    -----
    ``A = H #_d V`` in Goodfellow 2010, sections 2 and 4.

    Examples
    --------
    >>> import torch
    >>> from triconv.torch import conv_weight
    >>> conv_weight(torch.tensor([[[1.0, 2.0, 4.0, 8.0]]]), torch.tensor([[[1.0, 0.0, 1.0]]]), 2)
    tensor([[[ 5., 10.]]])
    """
    options = stride, padding, dilation, border, precision, engine
    return call("conv_weight", visible, hidden, (kernel_size, bank), groups, options)
