"""The autoencoder as a module is the NumPy one: values from a seed, outputs, gradients, names, and files both ways."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from triconv import autoencoder, checkpoint
from triconv.architecture import Architecture, Stage
from triconv.layers import mean_squared_error
from triconv.torch import nn

ARCHITECTURES: dict[str, Architecture] = {
    "tied": Architecture(1, (8, 8), (Stage(8, (3, 3), (2, 2), "same"), Stage(10, (4, 4), (1, 1))), output="sigmoid"),
    "untied": Architecture(2, (9,), (Stage(6, (3,), (2,)), Stage(4, (2,), (1,))), tied=False, inner="tanh"),
    "banks": Architecture(1, (8, 6), (Stage(5, (3, 3), (2, 1), "same", 2), Stage(7, (2, 2), (1, 1), bank="local"))),
    "volume": Architecture(1, (4, 4, 4), (Stage(3, (2, 2, 2), (2, 2, 2)),), code="relu"),
}


@pytest.fixture(params=list(ARCHITECTURES))
def architecture(request: pytest.FixtureRequest) -> Architecture:
    return ARCHITECTURES[request.param]


def images(architecture: Architecture) -> Any:
    return np.random.default_rng(1).random((3, architecture.channels, *architecture.size))


def both(architecture: Architecture, seed: int = 3) -> tuple[nn.Autoencoder, autoencoder.Autoencoder]:
    ours = nn.Autoencoder(architecture, seed=seed, dtype=torch.float64)
    return ours, autoencoder.Autoencoder(architecture, seed=seed, dtype="float64")


def test_the_same_model(architecture: Architecture) -> None:
    ours, theirs = both(architecture)
    parameters = dict(ours.named_parameters())
    assert set(parameters) == set(theirs.parameters)
    for name, one in theirs.parameters.items():
        assert np.array_equal(parameters[name].detach(), one.value), name
    single = nn.Autoencoder(architecture, seed=3)
    for name, one in autoencoder.Autoencoder(architecture, seed=3).parameters.items():
        assert np.array_equal(dict(single.named_parameters())[name].detach(), one.value), name


def test_the_same_numbers(architecture: Architecture) -> None:
    """Codes, reconstructions and the gradients of a loss: to the rounding of a few layers in double precision."""
    ours, theirs = both(architecture)
    x = images(architecture)
    v = torch.from_numpy(x)
    np.testing.assert_allclose(ours.encode(v).detach(), theirs.encode(x), rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(ours.encode(v, stages=1).detach(), theirs.encode(x, stages=1), rtol=1e-11, atol=1e-12)
    y = theirs.forward(x)
    loss, gradient = mean_squared_error(y, x)
    theirs.backward(gradient)
    result = ours(v)
    np.testing.assert_allclose(result.detach(), y, rtol=1e-11, atol=1e-12)
    found = torch.nn.functional.mse_loss(result, v)
    factor = loss / found.item()  # the NumPy loss sums over an example's values
    (found * factor).backward()
    for name, parameter in ours.named_parameters():
        expected = theirs.parameters[name].gradient
        np.testing.assert_allclose(parameter.grad, expected, rtol=1e-9, atol=1e-11, err_msg=name)


def test_ties_hold(architecture: Architecture) -> None:
    model = nn.Autoencoder(architecture)
    for one in (model, deepcopy(model), model.double()):
        for encoder, decoder in zip(one.encoder, one.decoder, strict=True):
            assert (encoder.weight is decoder.weight) == architecture.tied


def test_files_go_both_ways(architecture: Architecture, tmp_path: Path) -> None:
    ours, theirs = nn.Autoencoder(architecture, seed=4), autoencoder.Autoencoder(architecture, seed=5)
    x = images(architecture).astype(np.float32)
    ours.save(path := tmp_path / "ours.safetensors")
    opened = autoencoder.Autoencoder.open(path)
    for name, parameter in ours.named_parameters():
        assert np.array_equal(opened.parameters[name].value, parameter.detach())
    arrays = {f"model.{name}": one.value for name, one in theirs.parameters.items()}
    checkpoint.save(path, arrays, {"architecture": architecture.to_json(), "metrics": []})
    again = nn.Autoencoder.open(path)
    assert again.architecture == architecture
    for name, parameter in again.named_parameters():
        assert np.array_equal(theirs.parameters[name].value, parameter.detach())
    np.testing.assert_allclose(again(torch.from_numpy(x)).detach(), theirs.forward(x), rtol=1e-4, atol=1e-5)


def test_classifiers_go_both_ways(architecture: Architecture, tmp_path: Path) -> None:
    ours, theirs = nn.Autoencoder(architecture, seed=4), autoencoder.Autoencoder(architecture, seed=4)
    tuned, other = ours.classifier(3, seed=6), theirs.classifier(3, seed=6)
    x = images(architecture).astype(np.float32)
    assert set(dict(tuned.named_parameters())) == set(other.parameters)
    np.testing.assert_allclose(tuned(torch.from_numpy(x)).detach(), other.forward(x), rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        tuned[0][0].bias.add_(1)  # a copy: the autoencoder stays
    assert not any(layer.bias.any() for layer in ours.encoder)
    ours.save(path := tmp_path / "both.safetensors", classifier=tuned)
    for name, one in autoencoder.open_classifier(path).parameters.items():
        assert np.array_equal(one.value, dict(tuned.named_parameters())[name].detach())
    again = nn.open_classifier(path)
    assert torch.equal(again(torch.from_numpy(x)), tuned(torch.from_numpy(x)))


def test_half_weights_are_saved(tmp_path: Path) -> None:
    architecture = ARCHITECTURES["volume"]
    model = nn.Autoencoder(architecture, dtype=torch.bfloat16)
    model.save(path := tmp_path / "half.safetensors")
    again = nn.Autoencoder.open(path)
    assert torch.equal(again.encoder[0].weight, model.encoder[0].weight.float())


def test_wrong_files_are_one_line(tmp_path: Path) -> None:
    tied, untied = ARCHITECTURES["tied"], ARCHITECTURES["untied"]
    path = tmp_path / "wrong.safetensors"
    with pytest.raises(ValueError, match="no such file"):
        nn.Autoencoder.open(path)
    nn.Autoencoder(tied).save(path)
    with pytest.raises(ValueError, match="expected a classifier, but it was written without one"):
        nn.open_classifier(path)
    arrays, _ = checkpoint.load(path)
    checkpoint.save(path, arrays, {"architecture": untied.to_json()})
    with pytest.raises(ValueError, match="do not belong together") as raised:
        nn.Autoencoder.open(path)
    assert "\n" not in str(raised.value)
    whole = checkpoint.part(arrays, "model.")
    model = nn.Autoencoder(tied)
    for changed, message in (
        ({**whole, "more": np.zeros(1)}, "parameter more: not one of this architecture's"),
        ({name: one for name, one in whole.items() if name != "decoder.0.bias"}, "decoder.0.bias: .* it is missing"),
        ({**whole, "decoder.0.bias": np.zeros(2)}, r"decoder.0.bias of shape \(2,\): expected \(1,\)"),
    ):
        with pytest.raises(ValueError, match=message):
            model.load(changed)
