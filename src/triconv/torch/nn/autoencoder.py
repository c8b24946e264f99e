"""The convolutional autoencoder of Goodfellow 2010 as modules, in files that the NumPy one reads and writes too."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import Flatten, Identity, Linear, Module, ModuleList, ReLU, Sequential, Sigmoid, Tanh

from ... import checkpoint
from ...architecture import Activation, Architecture, Convolution
from .convolution import Conv, ConvTranspose

Array = NDArray[Any]

ACTIVATIONS: dict[Activation, Callable[[], Module]] = {
    "identity": Identity,
    "relu": ReLU,
    "sigmoid": Sigmoid,
    "tanh": Tanh,
}


class Autoencoder(Module):
    """Encode by stacked strided convolutions and decode by their transposes. Kernels are not flipped.

    ::

        R = g_v(b_v + W_r @_d^T g_h(b_h + W_e @_d V))

    for one stage; the code of a stage is the visible of the next. W_r is W_e when the architecture is tied. The same
    model as `triconv.autoencoder.Autoencoder`: same architecture, parameter names, values from a seed, and files.

    Parameters
    ----------
    architecture
        Channels, sizes, stages and nonlinearities: `triconv.architecture.Architecture`.
    seed
        Of the initial weights, which have Glorot's variance; biases start at zero. Values are those of the NumPy
        autoencoder of this seed.
    device, dtype
        Of the parameters.

    Notes
    -----
    Goodfellow 2010, section 5.

    Examples
    --------
    >>> import torch
    >>> from triconv.architecture import Architecture, Stage
    >>> from triconv.torch.nn import Autoencoder
    >>> stages = (Stage(8, (3, 3), (2, 2), "same"), Stage(10, (4, 4), (1, 1)))
    >>> model = Autoencoder(Architecture(1, (8, 8), stages, tied=True))
    >>> model.encode(torch.zeros(5, 1, 8, 8)).shape, model(torch.zeros(5, 1, 8, 8)).shape
    (torch.Size([5, 10, 1, 1]), torch.Size([5, 1, 8, 8]))
    >>> [name for name, _ in model.named_parameters()]
    ['encoder.0.weight', 'encoder.0.bias', 'encoder.1.weight', 'encoder.1.bias', 'decoder.0.bias', 'decoder.1.bias']
    """

    def __init__(
        self,
        architecture: Architecture,
        *,
        seed: int | np.random.Generator = 0,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        self.architecture = architecture
        self.encoder, self.decoder = ModuleList(), ModuleList()
        inner = [architecture.inner] * (len(architecture.stages) - 1)
        self.up = ModuleList(map(_activation, [*inner, architecture.code]))
        self.down = ModuleList(map(_activation, [architecture.output, *inner]))
        rng = np.random.default_rng(seed)
        for spec in architecture.convolutions:
            seen, hidden, size = spec.visible_channels, spec.hidden_channels, spec.visible_size
            options = {name: value for name, value in spec.options.items() if name != "border"}
            options |= {"bank": spec.bank, "visible_size": size, "device": device, "dtype": dtype}
            encoder = Conv(seen, hidden, spec.kernel_size, **options)
            decoder = ConvTranspose(hidden, seen, spec.kernel_size, **options)
            if architecture.tied:
                decoder.weight = encoder.weight
            _set(encoder, first := spec.initial_weight(rng, "glorot", "float64"))
            _set(decoder, first if architecture.tied else spec.initial_weight(rng, "glorot", "float64"))
            self.encoder.append(encoder)
            self.decoder.append(decoder)

    def encode(self, visible: Tensor, *, stages: int | None = None) -> Tensor:
        """The code of examples (N, C, *X), after all stages or the first few."""
        for layer, activation in list(zip(self.encoder, self.up, strict=True))[:stages]:
            visible = activation(layer(visible))
        return visible

    def decode(self, code: Tensor) -> Tensor:
        """The examples that a code stands for."""
        for layer, activation in list(zip(self.decoder, self.down, strict=True))[::-1]:
            code = activation(layer(code))
        return code

    def forward(self, visible: Tensor) -> Tensor:
        return self.decode(self.encode(visible))

    def classifier(self, classes: int, *, seed: int | np.random.Generator = 0) -> Sequential:
        """A convolutional network that starts as a copy of the encoder, with an affine layer from code to scores."""
        like = self.encoder[0].weight
        head = Linear(self.architecture.code_size, classes, device=like.device, dtype=like.dtype)
        spec = Convolution(self.architecture.code_size, classes, ())
        _set(head, spec.initial_weight(np.random.default_rng(seed), "glorot", "float64"))
        stages = [Sequential(layer, activation) for layer, activation in zip(self.encoder, self.up, strict=True)]
        return Sequential(*deepcopy(stages), Flatten(), head)

    def load(self, arrays: Mapping[str, Array]) -> None:
        """Take the values of all parameters, by name."""
        _load(self, arrays)

    def save(self, path: Path, *, classifier: Sequential | None = None) -> None:
        """Write weights and architecture into a file that both front ends open, the classifier with them."""
        arrays = {f"model.{name}": _array(one) for name, one in self.named_parameters()}
        if classifier is not None:
            arrays |= {f"classifier.{name}": _array(one) for name, one in classifier.named_parameters()}
        checkpoint.save(path, arrays, {"architecture": self.architecture.to_json()})

    @classmethod
    def open(cls, path: Path) -> Autoencoder:
        """The autoencoder in a file that a training run or `save` wrote."""
        arrays, description = checkpoint.load(path)
        with checkpoint.fitting(path):
            model = cls(Architecture.from_json(description["architecture"]))
            model.load(checkpoint.part(arrays, "model."))
        return model


def open_classifier(path: Path) -> Sequential:
    """The fine-tuned classifier in a file that a training run or `Autoencoder.save` wrote: from images to scores."""
    arrays, description = checkpoint.load(path)
    if not (tuned := checkpoint.part(arrays, "classifier.")):
        raise ValueError(f"{path}: expected a classifier, but it was written without one")
    with checkpoint.fitting(path):
        architecture = Architecture.from_json(description["architecture"])
        head = tuned[f"{len(architecture.stages) + 1}.bias"]  # after the stages and the flattening of their code
        model = Autoencoder(architecture).classifier(len(head))
        _load(model, tuned)
    return model


def _activation(name: Activation) -> Module:
    if name not in ACTIVATIONS:
        raise ValueError(f"activation {name!r}: expected one of {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]()


def _set(layer: Any, values: Array) -> None:
    """Initial values of a layer: those of its weight, and a bias of zero."""
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(values))
        layer.bias.zero_()


def _load(module: Module, arrays: Mapping[str, Array]) -> None:
    """Copy arrays into parameters of the same names; those that are shared are there once."""
    parameters = dict(module.named_parameters())
    for name, parameter in parameters.items():
        shape = tuple(parameter.shape)
        if name not in arrays:
            raise ValueError(f"parameter {name}: expected shape {shape}, but it is missing")
        if arrays[name].shape != shape:
            raise ValueError(f"parameter {name} of shape {arrays[name].shape}: expected {shape}")
    if unknown := sorted(set(arrays) - set(parameters)):
        raise ValueError(f"parameter {unknown[0]}: not one of this architecture's, {', '.join(parameters)}")
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(torch.from_numpy(arrays[name]))


def _array(parameter: Tensor) -> Array:
    """The numbers of a parameter, in float32 where NumPy has not its dtype."""
    tensor = parameter.detach().cpu()
    array: Array = (tensor.float() if tensor.dtype is torch.bfloat16 else tensor).numpy()
    return array
