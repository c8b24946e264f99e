"""PyTorch's own samples of its convolutions, right and wrong ones, through ours. A bias and a missing batch axis are
the business of the functional wrapper below, as they are of PyTorch's."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from oracle import FACTOR, assert_close, per_axis
from torch import Tensor
from torch.nn.functional import pad

import triconv.torch as tt

pytest.importorskip("expecttest", reason="PyTorch's samples import expecttest, of the extra `test`")
from torch.testing._internal.common_methods_invocations import op_db

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths:UserWarning")

NAMES = [f"nn.functional.conv{transpose}{rank}d" for transpose in ("", "_transpose") for rank in (1, 2, 3)]
OPINFOS = {info.name: info for info in op_db if info.name in NAMES}
DTYPES = [torch.float32, torch.float64, torch.complex64, torch.complex128, torch.float16, torch.bfloat16]

OURS_TAKES = {
    "should be the same": "a bias of another dtype, which PyTorch's promotion adds",
    "padding='same' is not supported for strided convolutions": "as JAX and TensorFlow define it",
}
"""What PyTorch refuses and we do not, by its message."""


def wide(tensor: Tensor) -> Any:
    return tensor.detach().to(torch.complex128 if tensor.is_complex() else torch.float64).numpy()


def functional(name: str, x: Tensor, weight: Tensor, bias: Tensor | None = None, **options: Any) -> Tensor:
    """PyTorch's function of this name by our operations: a batch axis and a bias put around them."""
    rank = int(name[-2])
    if x.ndim == rank + 1:
        return functional(name, x[None], weight, bias, **options)[0]
    if "transpose" in name:
        mores = per_axis(options.pop("output_padding", 0), rank)
        smallest = tt.conv_transpose(x.detach(), weight.detach(), **options).shape[2:]
        size = [y + more for y, more in zip(smallest, mores, strict=True)]
        # PyTorch takes more than a stride: there conv would have further hidden positions, which are zero here.
        steps = zip(mores, per_axis(options.get("stride", 1), rank), strict=True)
        x = pad(x, [zeros for more, step in reversed(list(steps)) for zeros in (0, more // step)])
        result = tt.conv_transpose(x, weight, visible_size=size, **options)
    else:
        result = tt.conv(x, weight, **options)
    return result if bias is None else result + bias.reshape(-1, *(1,) * rank)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_samples(name: str, dtype: torch.dtype) -> None:
    """The same shapes and, to rounding, the same numbers and gradients: of halves, rounded once and with PyTorch's own
    rounding on the way."""
    seen = 0
    for sample in OPINFOS[name].sample_inputs("cpu", dtype, requires_grad=True):
        arguments = [sample.input, *(x for x in sample.args if x is not None)]

        def results(function: Any, *given: Tensor, options: Any = sample.kwargs) -> list[Tensor]:
            """The value, and the gradients for a cotangent of ones."""
            value = function(*given, **options)
            return [value, *torch.autograd.grad(value, given, torch.ones_like(value))]

        actual = results(partial(functional, name), *arguments)
        expected = results(OPINFOS[name].op, *arguments)
        sizes = [x.detach().abs().double().requires_grad_() for x in arguments]
        # A sum over the channels and taps, or over the examples and positions.
        terms = max(x.numel() for x in (*arguments, actual[0])) + 1
        for one, two, size in zip(actual, expected, results(partial(functional, name), *sizes), strict=True):
            assert one.dtype == two.dtype == dtype
            allowed = 2 * FACTOR * (terms + 2) * torch.finfo(dtype).eps * size.detach()
            assert_close(wide(one), wide(two), allowed.numpy(), f"{name} {sample.kwargs}")
        seen += 1
    assert seen >= 10


@pytest.mark.parametrize("name", [name for name in NAMES if OPINFOS[name].error_inputs_func is not None])
def test_error_samples(name: str) -> None:
    """What PyTorch refuses we refuse, in one line, but for what is defined here."""
    refused = 0
    for error in OPINFOS[name].error_inputs("cpu"):
        sample = error.sample_input
        with pytest.raises(error.error_type, match=error.error_regex):
            OPINFOS[name].op(sample.input, *sample.args, **sample.kwargs)
        if error.error_regex in OURS_TAKES and sample.input.is_floating_point():
            assert functional(name, sample.input, *sample.args, **sample.kwargs).numel()
            continue
        with pytest.raises((ValueError, TypeError)) as caught:
            functional(name, sample.input, *sample.args, **sample.kwargs)
        assert "\n" not in str(caught.value)
        refused += 1
    assert refused >= 7
