"""Modules against PyTorch's own: values, initial values, text, state_dict both ways, gradients; and what is beyond."""

from __future__ import annotations

from typing import Any

import numpy as np
import oracle
import pytest
import torch
from nn_bound import allowed, assert_same
from torch import Tensor

import triconv
from triconv.torch import nn

CONVOLUTIONS: list[dict[str, Any]] = [
    {},
    {"stride": 2, "padding": 1},
    {"groups": 2, "bias": False, "dilation": 2},
    {"groups": 4, "padding": "same"},
    {"padding": "valid", "stride": 3},
    {"padding": "same", "dilation": 2, "padding_mode": "reflect"},
    {"padding": 2, "padding_mode": "replicate", "stride": 2},
    {"padding": 1, "padding_mode": "circular"},
]
TRANSPOSES: list[dict[str, Any]] = [
    {},
    {"stride": 2, "padding": 1, "output_padding": 1},
    {"groups": 2, "bias": False, "dilation": 2, "padding": 1},
    {"stride": 3, "output_padding": 2, "groups": 4},
    {"dilation": 3, "padding": 1, "output_padding": 1},  # as large as the stride: out of the padding after
]
MODULES = [(f"Conv{rank}d", options) for rank in (1, 2, 3) for options in CONVOLUTIONS]
MODULES += [(f"ConvTranspose{rank}d", options) for rank in (1, 2, 3) for options in TRANSPOSES]
NAMES = [f"{name}-{'-'.join(f'{k}={v}' for k, v in options.items())}" for name, options in MODULES]


def pair(name: str, options: dict[str, Any], *sizes: Any, seed: int = 0) -> tuple[Any, Any]:
    """A module of ours and PyTorch's, each made from the same seed."""
    made = []
    for where in (nn, torch.nn):
        torch.manual_seed(seed)
        made.append(getattr(where, name)(*(sizes or (4, 8, 3)), **options))
    return made[0], made[1]


def given(name: str, size: int = 8, dtype: Any = None) -> Tensor:
    rank = int(name[-2])
    return torch.randn(2, 4, *(range(size, size + rank)), dtype=dtype, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("name", "options"), MODULES, ids=NAMES)
def test_same_as_pytorchs(name: str, options: dict[str, Any]) -> None:
    ours, theirs = pair(name, options)
    assert repr(ours) == repr(theirs)
    assert isinstance(ours, type(theirs))
    assert [key for key, _ in ours.named_parameters()] == [key for key, _ in theirs.named_parameters()]
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    for key, value in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[key], value), f"{key} from the same seed"
    for attribute in theirs.__constants__:
        assert getattr(ours, attribute) == getattr(theirs, attribute), attribute
    assert_same(ours, theirs, x := given(name))
    assert_same(ours, theirs, x[0], what="without examples")


@pytest.mark.parametrize(
    "name", ["Conv1d", "Conv2d", "Conv3d", "ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d"]
)
def test_state_goes_both_ways(name: str) -> None:
    ours, _ = pair(name, {"stride": 2}, seed=2)
    _, theirs = pair(name, {"stride": 2}, seed=3)
    assert not torch.equal(ours.weight, theirs.weight)
    ours.load_state_dict(theirs.state_dict())
    assert_same(ours, theirs, given(name))
    again, _ = pair(name, {"stride": 2}, seed=4)
    theirs.load_state_dict(again.state_dict())
    assert_same(again, theirs, given(name))


@pytest.mark.parametrize(
    ("name", "options"), [MODULES[at] for at in (1, 9, 18, 25, 30)], ids=[NAMES[at] for at in (1, 9, 18, 25, 30)]
)
def test_gradients_of_parameters_and_input(name: str, options: dict[str, Any]) -> None:
    """In double precision, so that the loose bound of a sum over the whole output still tells them apart."""
    ours, theirs = pair(name, {**options, "dtype": torch.float64})
    found = []
    for module in (ours, theirs):
        x = given(name, dtype=torch.float64).requires_grad_()
        y = module(x)
        cotangent = torch.randn(y.shape, dtype=y.dtype, generator=torch.Generator().manual_seed(2))
        found.append((y, torch.autograd.grad(y, [x, *module.parameters()], cotangent)))
    (y, ours_found), (_, theirs_found) = found
    # No gradient sums more products than there are numbers in the output and in the weight, none above 8² in size.
    terms = y.numel() + ours.weight.numel()
    for one, two in zip(ours_found, theirs_found, strict=True):
        oracle.assert_close(one, two, oracle.bound(terms, 64.0 * terms, np.float64) * torch.ones(one.shape).numpy())


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_output_size(rank: int) -> None:
    name = f"ConvTranspose{rank}d"
    ours, theirs = pair(name, {"stride": 3, "padding": 1})
    x = given(name, size=4)
    least = theirs(x).shape[2:]
    for size in (least, [one + 1 for one in least], [one + 2 for one in least]):
        assert_same(ours, theirs, x, list(size))
        assert_same(ours, theirs, x, [2, 8, *size])
        assert_same(ours, theirs, x[0], [8, *size])
    with pytest.raises(ValueError, match=r"^output_size=\(.*\): visible size .* comes from visible size"):
        ours(x, output_size=[one + 3 for one in least])


def test_lbfgs_and_vectors_take_shared_weights() -> None:
    """They view parameters as flat: a weight of PyTorch's lies as PyTorch's does."""
    layer = nn.Conv2d(2, 3, 3)
    assert torch.nn.utils.parameters_to_vector(layer.parameters()).numel() == 57
    optimizer = torch.optim.LBFGS(layer.parameters(), max_iter=3)
    x = torch.randn(2, 2, 5, 5)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = layer(x).square().mean()
        loss.backward()
        return loss

    before = closure().item()
    optimizer.step(closure)
    assert closure().item() < before


@pytest.mark.parametrize("name", [f"{kind}{rank}d" for kind in ("Conv", "ConvTranspose") for rank in (1, 2, 3)])
@pytest.mark.parametrize(
    "options", [{}, {"padding": 2}, {"padding": "same", "dilation": 3}, {"padding": "valid"}], ids=str
)
def test_padding_as_copied_code_reads_it(name: str, options: dict[str, Any]) -> None:
    """An attribute that PyTorch's modules have for torch.nn.functional.pad."""
    if "Transpose" in name and isinstance(options.get("padding"), str):
        pytest.skip("PyTorch has no words for the padding of a transpose")
    ours, theirs = (getattr(library, name)(2, 3, 4, **options) for library in (nn, torch.nn))
    assert ours._reversed_padding_repeated_twice == theirs._reversed_padding_repeated_twice
    assert type(ours._reversed_padding_repeated_twice) is type(theirs._reversed_padding_repeated_twice)


def test_padding_beyond_pytorchs_as_copied_code_reads_it() -> None:
    pads = nn.Conv2d(2, 3, 3, padding=((1, 2), (0, 3)))._reversed_padding_repeated_twice
    x = torch.ones(1, 2, 4, 4)
    assert torch.nn.functional.pad(x, pads).shape == (1, 2, 7, 7)
    assert pads == (0, 3, 1, 2)
    assert nn.Conv2d(2, 3, 3, padding="full")._reversed_padding_repeated_twice == [2, 2, 2, 2]


def test_names_are_thin() -> None:
    """A name with a rank is Conv with that many axes."""
    for rank in (1, 2, 3, 4):
        torch.manual_seed(0)
        named = getattr(nn, f"Conv{rank}d")(2, 3, 2, padding=1, dilation=2)
        torch.manual_seed(0)
        general = nn.Conv(2, 3, (2,) * rank, padding=1, dilation=2)
        x = torch.randn(1, 2, *(4,) * rank)
        assert torch.equal(named(x), general(x))
        torch.manual_seed(0)
        named = getattr(nn, f"ConvTranspose{rank}d")(2, 3, 2, stride=2)
        torch.manual_seed(0)
        general = nn.ConvTranspose(2, 3, (2,) * rank, stride=2)
        assert torch.equal(named(x), general(x))


def random_values(module: torch.nn.Module) -> dict[str, Any]:
    return {name: parameter.detach().numpy() for name, parameter in module.named_parameters()}


GRAPH = np.random.default_rng(0).random((6, 4)) < 0.5
BEYOND: list[dict[str, Any]] = [
    {"kernel_size": ()},
    {"kernel_size": (2, 1, 2, 3), "stride": (1, 2, 1, 1), "padding": 1},
    {"kernel_size": (3, 3), "padding": ((1, 0), (0, 2)), "stride": 2},
    {"kernel_size": (3, 2), "padding": "full", "padding_mode": ("zeros", "circular")},
    {"kernel_size": (3,), "padding": "same", "stride": 2},
    {"kernel_size": (3, 3), "groups": GRAPH, "dilation": (1, 2)},
    {"kernel_size": (3, 3), "bank": 2, "groups": 2},
    {"kernel_size": (3, 3), "bank": (2, "local"), "visible_size": (7, 8), "bias": "bank"},
    {"kernel_size": (3, 2), "bank": "local", "visible_size": (7, 8), "groups": GRAPH, "bias": "channel", "stride": 2},
]


@pytest.mark.parametrize("options", BEYOND, ids=[str(number) for number in range(len(BEYOND))])
def test_beyond_pytorch_as_numpy(options: dict[str, Any]) -> None:
    """Ranks, pads, graphs and banks that PyTorch has not, against the NumPy operations."""
    layer = nn.Conv(4, 6, **options, dtype=torch.float64)
    rank = len(options["kernel_size"])
    x = torch.randn(3, 4, *(7, 8, 5, 6)[:rank], dtype=torch.float64)
    values = random_values(layer)
    border = {"zeros": "zero", "circular": "circular"}
    mode = options.get("padding_mode", "zeros")
    named = {key: options[key] for key in ("stride", "padding", "dilation", "groups") if key in options}
    named["border"] = border[mode] if isinstance(mode, str) else tuple(border[one] for one in mode)
    expected = triconv.conv(x.numpy(), values["weight"], **named)
    bias = values["bias"]
    for position in np.ndindex(*expected.shape[2:]):
        kernel = tuple(c % t for c, t in zip(position, bias.shape[:-1], strict=bias.ndim > 1))
        expected[(slice(None), slice(None), *position)] += bias[kernel]
    oracle.assert_close(layer(x).detach(), expected, allowed(layer, x))


@pytest.mark.parametrize("options", BEYOND, ids=[str(number) for number in range(len(BEYOND))])
def test_transpose_is_the_adjoint(options: dict[str, Any]) -> None:
    """⟨H, W V⟩ = ⟨Wᵀ H, V⟩ with the weight that both share."""
    layer = nn.Conv(4, 6, **{**options, "bias": False}, dtype=torch.float64)
    back = nn.ConvTranspose(6, 4, **{**options, "bias": False}, dtype=torch.float64)
    back.weight = layer.weight
    x = torch.randn(3, 4, *(7, 8, 5, 6)[: len(options["kernel_size"])], dtype=torch.float64)
    y = layer(x)
    h = torch.randn(y.shape, dtype=torch.float64)
    v = back(h, output_size=x.shape[2:])
    assert v.shape == x.shape
    terms = y.numel() * layer.weight[0].numel()
    magnitude = (h.abs() * y.abs()).sum() + (v.abs() * x.abs()).sum()
    one, two = (h * y).sum().item(), (v * x).sum().item()
    assert abs(one - two) <= oracle.bound(terms, magnitude.item(), np.float64)
    assert abs(one) > oracle.bound(terms, magnitude.item(), np.float64)


def test_graph_counts_its_edges() -> None:
    """Initial values have the scale of the connections that are there."""
    torch.manual_seed(0)
    graph = torch.zeros(64, 64, dtype=torch.bool)
    graph[:, :4] = True
    layer = nn.Conv(64, 64, (3, 3), groups=graph)
    limit = 1 / (4 * 9) ** 0.5
    assert limit * 0.99 < layer.weight.abs().max() <= limit * (1 + 1e-6)
    assert layer.state_dict().keys() == {"weight", "bias"}
    assert "graph of 256 edges" in repr(layer)


def test_graph_is_the_layers_own() -> None:
    """Changing the array afterwards changes nothing; nor does the default device."""
    graph = np.ones((3, 2), dtype=bool)
    layer = nn.Conv(2, 3, (1,), groups=graph)
    x = torch.randn(1, 2, 5)
    before = layer(x)
    graph[:] = False
    assert torch.equal(layer(x), before)
    with torch.device("meta"):
        layer = nn.Conv(2, 3, (1,), groups=np.eye(3, 2, dtype=bool))
    assert layer.weight.is_meta
    layer = layer.to_empty(device="cpu")
    layer.reset_parameters()
    assert torch.equal(layer(x)[:, 2], layer.bias[2].expand(1, 5))


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize(
    "options", [{}, {"stride": 1, "padding": 1}, {"dilation": 2}, {"ceil_mode": True, "stride": 2}], ids=str
)
def test_max_pool_as_pytorchs(rank: int, options: dict[str, Any]) -> None:
    ours = getattr(nn, f"MaxPool{rank}d")(3, return_indices=True, **options)
    theirs = getattr(torch.nn, f"MaxPool{rank}d")(3, return_indices=True, **options)
    assert repr(ours) == repr(theirs)
    assert isinstance(ours, type(theirs))
    x = torch.randn(2, 3, *(9, 8, 7)[:rank])
    for one in (x, x[0]):
        for actual, expected in zip(ours(one), theirs(one), strict=True):
            assert torch.equal(actual, expected)
    ours.return_indices = False
    assert torch.equal(ours(x), theirs(x)[0])


def test_max_pool_of_any_rank() -> None:
    x = torch.randn(2, 3, 4, 5, 4, 3)
    hidden, indices = nn.MaxPool((2, 3, 2, 1), stride=(2, 2, 1, 1), return_indices=True)(x)
    values, where = triconv.max_pool(x.numpy(), (2, 3, 2, 1), stride=(2, 2, 1, 1))
    assert np.array_equal(hidden, values)
    assert np.array_equal(indices, where)
    assert torch.equal(nn.MaxPool(2)(x), nn.MaxPool4d(2)(x))
    assert torch.equal(nn.MaxPool((2, 2, 2, 2))(x[0]), nn.MaxPool4d(2)(x)[0])


def biased(bias: Tensor) -> Tensor:
    layer = nn.Conv2d(3, 4, 3)
    layer.bias = torch.nn.Parameter(bias, requires_grad=False)
    result: Tensor = layer(torch.zeros(1, 3, 9, 9))
    return result


ERRORS: list[tuple[Any, type[Exception], str]] = [
    (lambda: nn.Conv(3, 4, 3), TypeError, r"kernel_size=3: expected one int per axis, which also sets the rank"),
    (lambda: nn.Conv2d(0, 4, 3), ValueError, r"in_channels=0: expected an int of at least 1"),
    (lambda: nn.Conv2d(3, 4.0, 3), TypeError, r"out_channels=4.0: expected an int"),
    (lambda: nn.Conv2d(3, 4, (3, 3, 3)), ValueError, r"kernel_size=\(3, 3, 3\): .* 2 of them, one per axis, got 3"),
    (lambda: nn.Conv2d(3, 4, 3, groups=2), ValueError, r"groups=2: expected a divisor of the 3 visible channels"),
    (lambda: nn.ConvTranspose2d(3, 4, 3, groups=2), ValueError, r"groups=2: expected a divisor of the 3 hidden"),
    (lambda: nn.Conv2d(3, 4, 3, groups=torch.ones(4, 3)), TypeError, r"groups: .* use groups != 0"),
    (lambda: nn.Conv2d(3, 4, 3, groups=np.ones((3, 4), bool)), ValueError, r"groups: .* got \(3, 4\)"),
    (lambda: nn.Conv2d(3, 4, 3, padding="some"), ValueError, r"padding='some': expected"),
    (lambda: nn.Conv2d(3, 4, 3, stride=0), ValueError, r"stride=0: expected an int of at least 1"),
    (lambda: nn.Conv2d(3, 4, 3, padding_mode="zero"), ValueError, r"padding_mode='zero': expected one of zeros, "),
    (lambda: nn.Conv2d(3, 4, 3, bias="all"), ValueError, r"bias='all': expected True"),
    (lambda: nn.Conv2d(3, 4, 3, bank="local"), ValueError, r"bank=\('local', 'local'\): expected a visible_size"),
    (lambda: nn.Conv2d(3, 4, 3, bank=(2, 2, 2)), ValueError, r"bank=\(2, 2, 2\): expected"),
    (lambda: nn.Conv2d(3, 4, 3, bank=9, visible_size=8), ValueError, r"got 9 for hidden size 6"),
    (lambda: nn.ConvTranspose2d(3, 4, 3, output_padding=1), ValueError, r"output_padding=\(1, 1\): expected at most 0"),
    (lambda: nn.ConvTranspose2d(3, 4, 3, 2, "same", 1), ValueError, r"output_padding=\(1, 1\): expected 0 where"),
    (lambda: nn.ConvTranspose2d(3, 4, 3, bank=2, bias="bank"), ValueError, r'bias="bank": expected a visible_size'),
    (lambda: nn.Conv2d(3, 4, 3)(torch.zeros(3, 3)), ValueError, r"input of shape \(3, 3\): expected \(examples, chan"),
    (lambda: nn.Conv2d(3, 4, 3)(torch.zeros(1, 2, 9, 9)), ValueError, r"as visible has 2, got 3"),
    (lambda: nn.Conv2d(3, 4, 3)(torch.zeros(1, 3, 2, 9)), ValueError, r"expected at most the padded visible size 2"),
    (lambda: nn.Conv2d(3, 4, 3)(torch.zeros(1, 3, 9, 9).int()), TypeError, r"visible of dtype int32"),
    (lambda: biased(torch.zeros(1)), ValueError, r"bias of shape \(1,\): expected \(4,\), or a bank of at most \(7,"),
    (lambda: biased(torch.zeros(())), ValueError, r"bias of shape \(\): expected \(4,\), or a bank"),
    (lambda: biased(torch.zeros(4, 1, 1)), ValueError, r"bias of shape \(4, 1, 1\): expected \(4,\), or a bank"),
    (lambda: biased(torch.zeros(8, 2, 4)), ValueError, r"bias of shape \(8, 2, 4\): .* at most \(7, 7, 4\)"),
    (lambda: biased(torch.zeros(4) * 1j), TypeError, r"bias of dtype complex64: expected a real one"),
    (lambda: biased(torch.zeros(4).int()), TypeError, r"bias of dtype int32: expected float32"),
    (lambda: biased(torch.zeros(4, device="meta")), ValueError, r"bias on device meta: expected cpu, as input"),
    (lambda: nn.MaxPool(0), ValueError, r"kernel_size=0: expected an int of at least 1"),
    (lambda: nn.MaxPool2d(2)(torch.zeros(4, 4)), ValueError, r"input of shape \(4, 4\): expected \(examples, chan"),
]


@pytest.mark.parametrize(("call", "error", "message"), ERRORS, ids=[str(number) for number in range(len(ERRORS))])
def test_errors_are_one_line(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message) as raised:
        call()
    assert "\n" not in str(raised.value)
