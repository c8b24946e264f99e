"""Modules on PyTorch tensors: convolutions of any rank, sharing and channel pattern, in place of PyTorch's and beyond.

`Conv1d` to `Conv3d` and `ConvTranspose1d` to `ConvTranspose3d` take the place of `torch.nn`'s by a change of the
import, and `replace` puts them into a model that exists. `Conv`, `ConvTranspose`, `LocallyConnected`,
`LocallyConnectedTranspose`, `Tiled` and `MaxPool` have any number of axes. Kernels are not flipped.
"""

from .autoencoder import Autoencoder, open_classifier
from .convolution import (
    Conv,
    Conv1d,
    Conv2d,
    Conv3d,
    Conv4d,
    ConvTranspose,
    ConvTranspose1d,
    ConvTranspose2d,
    ConvTranspose3d,
    ConvTranspose4d,
)
from .keras import from_keras
from .local import LocallyConnected, LocallyConnectedTranspose, Tiled
from .pooling import MaxPool, MaxPool1d, MaxPool2d, MaxPool3d, MaxPool4d
from .swap import Report, replace, restore

__all__ = [
    "Autoencoder",
    "Conv",
    "Conv1d",
    "Conv2d",
    "Conv3d",
    "Conv4d",
    "ConvTranspose",
    "ConvTranspose1d",
    "ConvTranspose2d",
    "ConvTranspose3d",
    "ConvTranspose4d",
    "LocallyConnected",
    "LocallyConnectedTranspose",
    "MaxPool",
    "MaxPool1d",
    "MaxPool2d",
    "MaxPool3d",
    "MaxPool4d",
    "Report",
    "Tiled",
    "from_keras",
    "open_classifier",
    "replace",
    "restore",
]
