"""The autoencoder: the equation of Goodfellow 2010, section 5, its gradients, stacking, tying, and the classifier."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from triconv import checkpoint, conv, conv_transpose
from triconv.architecture import Architecture, Stage
from triconv.autoencoder import Autoencoder, open_classifier
from triconv.layers import backprop, mean_squared_error
from triconv.testing import finite_differences

RNG = np.random.default_rng(11)

# Central differences of step 1e-6 of a loss near 1: about 1e-16 / 1e-6 and 1e-12 times a third derivative near 1.
STEP, CLOSE = 1e-6, 1e-8

ARCHITECTURES = {
    "one stage": Architecture(2, (5, 4), (Stage(3, (3, 2), (1, 1)),), tied=False, code="sigmoid", output="sigmoid"),
    "one stage tied": Architecture(2, (5, 4), (Stage(3, (3, 2), (1, 1)),), tied=True, code="tanh", output="sigmoid"),
    "strided with left-over": Architecture(1, (8, 7), (Stage(3, (3, 3), (2, 3)),), tied=True, code="tanh"),
    "stacked": Architecture(1, (8,), (Stage(3, (3,), (2,), "same"), Stage(4, (2,), (1,))), tied=False, inner="tanh"),
    "stacked tied, local": Architecture(
        1, (6, 6), (Stage(2, (3, 3), (1, 1), bank="local"), Stage(3, (2, 2), (2, 2), bank=(2, 1))), True, "tanh"
    ),
    "three dimensions": Architecture(1, (4, 3, 3), (Stage(2, (2, 2, 2), (2, 1, 1)),), tied=False, code="sigmoid"),
    "no dimensions": Architecture(6, (), (Stage(4, (), ()), Stage(2, (), ())), tied=True, inner="sigmoid"),
}


def perturbed(architecture: Architecture) -> tuple[Autoencoder, np.ndarray]:
    model = Autoencoder(architecture, dtype="float64")
    for parameter in model.parameters.values():
        parameter.value[...] = 0.5 * RNG.standard_normal(parameter.value.shape)
    return model, RNG.standard_normal((2, architecture.channels, *architecture.size))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_gradient_by_finite_differences(name: str) -> None:
    model, x = perturbed(ARCHITECTURES[name])
    target = RNG.standard_normal(x.shape)

    def loss(_: np.ndarray) -> float:
        return mean_squared_error(model.forward(x), target)[0]

    backprop([model], x, target, mean_squared_error)
    for label, parameter in model.parameters.items():
        expected = finite_differences(loss, parameter.value, STEP)
        assert parameter.gradient is not None
        np.testing.assert_allclose(parameter.gradient, expected, atol=CLOSE, err_msg=label)
    model.forward(x)
    gradient = model.backward(mean_squared_error(model.forward(x), target)[1])
    np.testing.assert_allclose(gradient, finite_differences(loss, x, STEP), atol=CLOSE)


@pytest.mark.parametrize("tied", [False, True])
def test_it_is_the_equation(tied: bool) -> None:
    architecture = Architecture(2, (7, 5), (Stage(3, (3, 2), (2, 1)),), tied, code="tanh", output="sigmoid")
    model, v = perturbed(architecture)
    p = {name: parameter.value for name, parameter in model.parameters.items()}
    w_e = p["encoder.0.weight"]
    w_r = w_e if tied else p["decoder.0.weight"]
    h = np.tanh(p["encoder.0.bias"][:, None, None] + conv(v, w_e, stride=(2, 1)))
    r = conv_transpose(h, w_r, visible_size=(7, 5), stride=(2, 1)) + p["decoder.0.bias"][:, None, None]
    # The same operations in another order: a few roundings of numbers near 1.
    np.testing.assert_allclose(model.forward(v), 1 / (1 + np.exp(-r)), rtol=1e-13)
    assert ("decoder.0.weight" in p) is not tied


def test_a_stack_is_its_stages_one_inside_the_other() -> None:
    model, x = perturbed(ARCHITECTURES["stacked"])
    inner_code = model.encode(x, stages=1)
    np.testing.assert_array_equal(model.encode(x), model.encoders[1].forward(inner_code))
    by_hand = model.decoders[0].forward(model.decoders[1].forward(model.encode(x)))
    np.testing.assert_array_equal(model.forward(x), by_hand)
    assert model.stage(1).forward(inner_code).shape == inner_code.shape
    named = set(model.stage_parameters(1))
    assert named == {f"{side}.1.{kind}" for side in ("encoder", "decoder") for kind in ("weight", "bias")}


def test_the_classifier_starts_as_the_encoder_and_leaves_it_alone() -> None:
    model, x = perturbed(ARCHITECTURES["stacked"])
    code = model.encode(x)
    classifier = model.classifier(3, seed=1)
    head = classifier.layers[-1]
    np.testing.assert_array_equal(classifier.forward(x), head.forward(code.reshape(len(x), -1)))
    for parameter in classifier.parameters.values():
        parameter.value += 1
    np.testing.assert_array_equal(model.encode(x), code)


@pytest.mark.parametrize("name", ["one stage", "stacked", "stacked tied, local", "no dimensions"])
def test_a_classifier_is_rebuilt_from_its_file(name: str, tmp_path: Path) -> None:
    architecture = ARCHITECTURES[name]
    model = Autoencoder(architecture)
    classifier = model.classifier(3, seed=1)
    for parameter in classifier.parameters.values():
        parameter.value += RNG.standard_normal(parameter.value.shape).astype(np.float32)
    arrays = {f"model.{name}": one.value for name, one in model.parameters.items()}
    tuned = {f"classifier.{name}": one.value for name, one in classifier.parameters.items()}
    description = {"architecture": architecture.to_json()}
    checkpoint.save(tmp_path / "both.safetensors", arrays | tuned, description)
    x = RNG.standard_normal((4, architecture.channels, *architecture.size)).astype(np.float32)
    again = open_classifier(tmp_path / "both.safetensors")
    np.testing.assert_array_equal(again.forward(x), classifier.forward(x))
    assert again.forward(x).shape == (4, 3)

    checkpoint.save(tmp_path / "none.safetensors", arrays, description)
    with pytest.raises(ValueError, match=r"none\.safetensors: expected a classifier"):
        open_classifier(tmp_path / "none.safetensors")
    del tuned["classifier.0.0.bias"]
    checkpoint.save(tmp_path / "part.safetensors", arrays | tuned, description)
    with pytest.raises(ValueError, match=r"part\.safetensors: .*0\.0\.bias.*missing"):
        open_classifier(tmp_path / "part.safetensors")


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_architectures_survive_json(name: str) -> None:
    architecture = ARCHITECTURES[name]
    again = Architecture.from_json(architecture.to_json())
    assert again == architecture
    assert again.code_shape == architecture.code_shape


def test_code_shapes() -> None:
    architecture = ARCHITECTURES["stacked"]
    assert architecture.shapes == [(1, 8), (3, 4), (4, 3)]
    assert architecture.code_size == 12


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Architecture(1, (8,), ()), ["stages", "at least one"]),
        (lambda: Architecture(1, (3,), (Stage(2, (5,), (1,)),)), ["stage 0", "kernel size 5", "axis 0"]),
        (lambda: Architecture(1, (5,), (Stage(2, (3,), (1,)), Stage(2, (4,), (1,)))), ["stage 1", "kernel size 4"]),
        (lambda: Architecture(1, (5,), (Stage(0, (3,), (1,)),)), ["stage 0", "hidden_channels=0"]),
        (lambda: Architecture(1, (5,), (Stage(2, (3,), (1,), bank=(9,)),)), ["stage 0", "bank=(9,)", "hidden size 3"]),
        (lambda: Architecture(1, (5, 5), (Stage(2, (3,), (1,)),)), ["stage 0"]),
        (lambda: Autoencoder(Architecture(1, (5,), (Stage(2, (3,), (1,)),), code="gelu")), ["'gelu'", "relu"]),  # type: ignore[arg-type]
    ],
)  # fmt: skip
def test_impossible_architectures_are_told_in_one_line(make: Any, words: list[str]) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 (the words are checked)
        make()
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


def test_weights_of_another_architecture_are_refused() -> None:
    model = Autoencoder(ARCHITECTURES["stacked"])
    arrays = {name: parameter.value for name, parameter in model.parameters.items()}
    with pytest.raises(ValueError, match=r"encoder.0.bias: expected shape \(3,\), but it is missing"):
        model.load({name: array for name, array in arrays.items() if name != "encoder.0.bias"})
    with pytest.raises(ValueError, match=r"encoder.0.bias of shape \(4,\): expected \(3,\)"):
        model.load(arrays | {"encoder.0.bias": np.zeros(4)})
    with pytest.raises(ValueError, match="parameter extra: not one"):
        model.load(arrays | {"extra": np.zeros(4)})
