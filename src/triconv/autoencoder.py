"""The convolutional autoencoder of Goodfellow 2010, stacked, and the classifier that its encoder becomes."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import checkpoint
from .architecture import Activation, Architecture
from .layers import Affine, Conv, ConvTranspose, Flatten, Layer, Parameter, ReLU, Sequential, Sigmoid, Tanh

Array = NDArray[Any]

ACTIVATIONS: dict[Activation, type[Layer] | None] = {"identity": None, "relu": ReLU, "sigmoid": Sigmoid, "tanh": Tanh}


class Autoencoder(Layer):
    """Encode by stacked strided convolutions and decode by their transposes. Kernels are not flipped.

    ::

        R = g_v(b_v + W_r @_d^T g_h(b_h + W_e @_d V))

    for one stage; the code of a stage is the visible of the next. W_r is W_e when the architecture is tied.

    Parameters
    ----------
    architecture
        Channels, sizes, stages and nonlinearities: `triconv.architecture.Architecture`.
    seed
        Of the initial weights, which have Glorot's variance; biases start at zero.
    dtype
        Of the parameters.

    Notes
    -----
    Goodfellow 2010, section 5. `forward` reconstructs; `backward` is section 5's gradients.

    Examples
    --------
    >>> import numpy as np
    >>> from triconv.architecture import Architecture, Stage
    >>> from triconv.autoencoder import Autoencoder
    >>> stages = (Stage(8, (3, 3), (2, 2), "same"), Stage(10, (4, 4), (1, 1)))
    >>> model = Autoencoder(Architecture(1, (8, 8), stages, tied=True))
    >>> model.encode(np.zeros((5, 1, 8, 8), np.float32)).shape
    (5, 10, 1, 1)
    >>> model.forward(np.zeros((5, 1, 8, 8), np.float32)).shape
    (5, 1, 8, 8)
    >>> list(model.parameters)
    ['encoder.0.weight', 'encoder.0.bias', 'decoder.0.bias', 'encoder.1.weight', 'encoder.1.bias', 'decoder.1.bias']
    """

    def __init__(
        self, architecture: Architecture, *, seed: int | np.random.Generator = 0, dtype: Any = "float32"
    ) -> None:
        super().__init__()
        self.architecture = architecture
        rng = np.random.default_rng(seed)
        self.encoders: list[Sequential] = []
        self.decoders: list[Sequential] = []
        last = len(architecture.stages) - 1
        for number, spec in enumerate(architecture.convolutions):
            up = architecture.code if number == last else architecture.inner
            down = architecture.output if number == 0 else architecture.inner
            options = {**spec.options, "bank": spec.bank, "visible_size": spec.visible_size, "dtype": dtype}
            seen, hidden, kernel = spec.visible_channels, spec.hidden_channels, spec.kernel_size
            encoder = Conv(seen, hidden, kernel, init="glorot", seed=rng, **options)
            shared = encoder.weight if architecture.tied else None
            decoder = ConvTranspose(hidden, seen, kernel, init="glorot", seed=rng, weight=shared, **options)
            self.encoders.append(Sequential([encoder, *_activation(up)]))
            self.decoders.append(Sequential([decoder, *_activation(down)]))
            for stack, layer in (("encoder", encoder), ("decoder", decoder)):
                for name, parameter in layer.parameters.items():
                    if stack == "encoder" or parameter is not shared:
                        self.parameters[f"{stack}.{number}.{name}"] = parameter

    def encode(self, visible: Array, *, stages: int | None = None) -> Array:
        """The code of examples (N, C, *X), after all stages or the first few."""
        return Sequential(self.encoders[:stages]).forward(visible)

    def decode(self, code: Array) -> Array:
        """The examples that a code stands for."""
        return Sequential(reversed(self.decoders)).forward(code)

    def forward(self, x: Array) -> Array:
        return self.decode(self.encode(x))

    def backward(self, gradient: Array) -> Array:
        return Sequential([*self.encoders, *reversed(self.decoders)]).backward(gradient)

    def stage(self, number: int) -> Sequential:
        """One stage as an autoencoder of its own, from its visible and back: what greedy training trains."""
        return Sequential([self.encoders[number], self.decoders[number]])

    def stage_parameters(self, number: int) -> dict[str, Parameter]:
        """The parameters of one stage under their names in the whole."""
        return {name: one for name, one in self.parameters.items() if name.split(".")[1] == str(number)}

    def classifier(self, classes: int, *, seed: int | np.random.Generator = 0) -> Sequential:
        """A convolutional network that starts as a copy of the encoder, with an affine layer from code to scores."""
        dtype = next(iter(self.parameters.values())).value.dtype
        head = Affine(self.architecture.code_size, classes, init="glorot", seed=seed, dtype=dtype)
        return Sequential([*deepcopy(self.encoders), Flatten(), head])

    def load(self, arrays: Mapping[str, Array]) -> None:
        """Take the values of all parameters, by name."""
        load_parameters(self.parameters, arrays)

    @classmethod
    def open(cls, path: Path) -> Autoencoder:
        """The autoencoder in a file that a training run wrote."""
        arrays, description = checkpoint.load(path)
        with checkpoint.fitting(path):
            model = cls(Architecture.from_json(description["architecture"]))
            model.load(checkpoint.part(arrays, "model."))
        return model


def open_classifier(path: Path) -> Sequential:
    """The fine-tuned classifier in a file that a training run wrote: from images (N, C, *X) to scores (N, classes)."""
    arrays, description = checkpoint.load(path)
    if not (tuned := checkpoint.part(arrays, "classifier.")):
        raise ValueError(f"{path}: expected a classifier, but it was written without labels or before fine-tuning")
    with checkpoint.fitting(path):
        architecture = Architecture.from_json(description["architecture"])
        head = tuned[f"{len(architecture.stages) + 1}.bias"]  # after the stages and the flattening of their code
        model = Autoencoder(architecture).classifier(len(head))
        load_parameters(model.parameters, tuned)
    return model


def load_parameters(parameters: Mapping[str, Parameter], arrays: Mapping[str, Array]) -> None:
    """Copy arrays into parameters of the same names; one line says which are missing, unknown or of another shape."""
    for name, parameter in parameters.items():
        if name not in arrays:
            raise ValueError(f"parameter {name}: expected shape {parameter.value.shape}, but it is missing")
        if arrays[name].shape != parameter.value.shape:
            raise ValueError(f"parameter {name} of shape {arrays[name].shape}: expected {parameter.value.shape}")
    if unknown := sorted(set(arrays) - set(parameters)):
        raise ValueError(f"parameter {unknown[0]}: not one of this architecture's, {', '.join(parameters)}")
    for name, parameter in parameters.items():
        parameter.value[...] = arrays[name]


def _activation(name: Activation) -> list[Layer]:
    if name not in ACTIVATIONS:
        raise ValueError(f"activation {name!r}: expected one of {', '.join(ACTIVATIONS)}")
    made = ACTIVATIONS[name]
    return [] if made is None else [made()]
