"""`replace` and `restore`: the classes change and nothing else does; what is left is said, with the reason."""

from __future__ import annotations

import io
from copy import deepcopy
from typing import Any

import oracle
import pytest
import torch
from nn_bound import allowed
from torch import Tensor
from torch.nn.utils import parametrizations

from triconv.torch import nn
from triconv.torch.nn import replace, restore


class Shared(torch.nn.Module):
    """A convolution that is there twice, one with a kernel that is not trained, and a list of others."""

    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Conv2d(3, 4, 3, padding=1)
        self.again = self.first
        self.rest = torch.nn.ModuleList([torch.nn.Conv2d(3, 4, 1), torch.nn.ConvTranspose2d(4, 3, 2, 2)])


def model() -> torch.nn.Sequential:
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, padding=1, padding_mode="circular"),
        torch.nn.BatchNorm2d(8),
        torch.nn.ReLU(),
        torch.nn.Sequential(torch.nn.Conv2d(8, 8, 3, stride=2, groups=4), torch.nn.Dropout(0.5)),
        torch.nn.ConvTranspose2d(8, 4, 3, stride=2, output_padding=1),
        torch.nn.Flatten(2),
        torch.nn.Conv1d(4, 4, 5, bias=False),
        torch.nn.ConvTranspose1d(4, 2, 11),
        torch.nn.Unflatten(2, (-1, 5, 3)),
        torch.nn.Conv3d(2, 2, 2),
        torch.nn.ConvTranspose3d(2, 1, 2),
    )


CHANGED = ("0", "3.0", "4", "6", "7", "9", "10")


def everything(module: torch.nn.Module) -> dict[str, Any]:
    """All that a module has, its parameters by identity."""
    return {
        name: {
            key: (list(value.items()) if isinstance(value, dict) else value)
            for key, value in one.__dict__.items()
            if key not in ("_modules", nn.swap.BEFORE)
        }
        for name, one in module.named_modules()
    }


def test_classes_change_and_nothing_else() -> None:
    plain = model().eval()
    plain[3].train()
    handles = [plain[0].register_forward_hook(lambda *_: None), plain[4].register_forward_pre_hook(lambda *_: None)]
    plain[0].register_buffer("mine", torch.ones(1))
    before, classes = everything(plain), [type(one) for one in plain.modules()]
    weights = {name: id(one) for name, one in plain.named_parameters()}
    report = replace(plain)
    assert (report.changed, report.left) == (CHANGED, {})
    for name in CHANGED:
        module = plain.get_submodule(name)
        assert type(module).__module__ == "triconv.torch.nn.convolution"
        assert type(module).__bases__[1].__name__ == type(module).__name__
    assert {name: id(one) for name, one in plain.named_parameters()} == weights
    assert str(everything(plain)) == str(before)
    assert len(handles) == 2
    assert restore(plain).changed == CHANGED
    assert [type(one) for one in plain.modules()] == classes
    assert str(everything(plain)) == str(before)
    assert all(nn.swap.BEFORE not in one.__dict__ for one in plain.modules())


def test_outputs_stay() -> None:
    """Module by module on the same inputs, to rounding."""
    plain, ours = model().eval(), model().eval()
    replace(ours)
    x = torch.randn(2, 3, 12, 12)
    for one, two in zip(plain, ours, strict=True):
        expected = one(x)
        if any(True for _ in one.parameters()):
            linear = one[0] if isinstance(one, torch.nn.Sequential) else one
            if not isinstance(one, torch.nn.BatchNorm2d):
                oracle.assert_close(two(x).detach(), expected.detach(), allowed(linear, x))
        x = expected.detach()


def test_training_goes_on() -> None:
    """An optimiser that was made before moves the same parameters, and a hook on one is called."""
    ours = model()
    optimizer = torch.optim.SGD(ours.parameters(), lr=0.1)
    called: list[int] = []
    ours[0].weight.register_hook(lambda gradient: called.append(gradient.ndim))
    ours[0].register_forward_hook(lambda *_: called.append(0))
    replace(ours)
    before = [one.clone() for one in ours.parameters()]
    ours(torch.randn(2, 3, 12, 12)).square().sum().backward()
    optimizer.step()
    assert called == [0, 4]
    moved = [not torch.equal(one, two) for one, two in zip(ours.parameters(), before, strict=True)]
    assert moved.count(True) >= len(moved) - 1  # the bias before a batch normalisation does not matter


def test_shared_ones_change_once() -> None:
    module = Shared()
    report = replace(module)
    assert report.changed == ("first", "rest.0", "rest.1")
    assert module.again is module.first
    assert type(module.again) is nn.Conv2d
    assert replace(module).changed == ()
    assert restore(module).changed == report.changed
    assert type(module.again) is torch.nn.Conv2d
    assert restore(module).changed == ()


def test_a_convolution_by_itself() -> None:
    module = torch.nn.Conv2d(3, 4, 3)
    assert replace(module).changed == ("",)
    assert type(module) is nn.Conv2d
    assert restore(module).changed == ("",)
    assert type(module) is torch.nn.Conv2d


def test_copies_can_go_back() -> None:
    module = model()
    replace(module)
    torch.save(module, file := io.BytesIO())
    file.seek(0)
    for copy in (deepcopy(module), torch.load(file, weights_only=False)):
        assert type(copy[0]) is nn.Conv2d
        assert restore(copy).changed == CHANGED
        assert type(copy[0]) is torch.nn.Conv2d
    assert type(module[0]) is nn.Conv2d


def test_ours_from_the_start_stay() -> None:
    module = torch.nn.Sequential(nn.Conv2d(3, 4, 3), torch.nn.Conv2d(4, 4, 3), nn.LocallyConnected(4, 4, (2, 2)))
    report = replace(module)
    assert (report.changed, report.left) == (("1",), {})
    assert restore(module).changed == ("1",)
    assert type(module[0]) is nn.Conv2d


class Subclass(torch.nn.Conv2d):
    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        return super().forward(input) + 1


def own_forward() -> torch.nn.Module:
    module = torch.nn.Conv2d(3, 4, 3)
    module.forward = lambda x: x  # type: ignore[method-assign, assignment]
    return module


LEFT: dict[str, tuple[Any, str]] = {
    "lazy": (lambda: torch.nn.LazyConv2d(4, 3), "its parameters wait for a first input"),
    "subclass": (lambda: Subclass(3, 4, 3), "Subclass is a subclass, whose code may differ"),
    "parametrized": (lambda: parametrizations.weight_norm(torch.nn.Conv2d(3, 4, 3)), "it is parametrized"),
    "own forward": (own_forward, "it has a forward of its own"),
    "dtype": (lambda: torch.nn.Conv2d(3, 4, 3).to(torch.float8_e4m3fn), "dtype float8_e4m3fn: expected float32"),
    "output_padding": (
        lambda: torch.nn.ConvTranspose2d(3, 4, 3, dilation=3, output_padding=1),
        "output_padding=(1, 1): expected at most 0",
    ),
}


@pytest.mark.parametrize("name", LEFT)
def test_what_is_left_is_said(name: str) -> None:
    make, reason = LEFT[name]
    one = make()
    module = torch.nn.ModuleDict({"one": one, "two": torch.nn.Conv2d(3, 4, 3)})
    before = type(one)
    report = replace(module)
    assert report.changed == ("two",)
    assert list(report.left) == ["one"]
    assert report.left["one"].startswith(reason)
    assert f"left one: {reason}" in str(report)
    assert type(one) is before
    assert restore(module).changed == ("two",)


def test_lazy_ones_are_taken_after_their_first_call() -> None:
    module = torch.nn.Sequential(torch.nn.LazyConv2d(4, 3))
    module(torch.zeros(1, 3, 5, 5))
    assert replace(module).changed == ("0",)


def test_what_has_become_another_class_is_left_by_restore() -> None:
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3))
    replace(module)
    parametrizations.weight_norm(module[0])
    report = restore(module)
    assert report.changed == ()
    assert report.left == {"0": "it has become ParametrizedConv2d since; undo that before"}
    torch.nn.utils.parametrize.remove_parametrizations(module[0], "weight")
    assert restore(module).changed == ("0",)


def test_only_modules() -> None:
    for call in (replace, restore):
        with pytest.raises(TypeError, match=r"model of type int: expected a torch\.nn\.Module"):
            call(3)  # type: ignore[arg-type]


@pytest.mark.parametrize("layer", [torch.nn.Conv2d, torch.nn.ConvTranspose2d])
def test_a_stride_set_later_may_be_one_number(layer: Any) -> None:
    plain = layer(3, 4, 3)
    plain.stride = 2
    x = torch.randn(2, 3, 9, 9)
    expected = plain(x)
    model = torch.nn.Sequential(plain)
    replace(model)
    torch.testing.assert_close(model(x), expected)
