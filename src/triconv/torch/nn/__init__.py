"""Modules on PyTorch tensors: convolutions of any rank, sharing and channel pattern, in place of PyTorch's and beyond.

`Conv1d` to `Conv3d` and `ConvTranspose1d` to `ConvTranspose3d` take the place of `torch.nn`'s by a change of the
import, and `replace` puts them into a model that exists. `Conv`, `ConvTranspose`, `LocallyConnected`,
`LocallyConnectedTranspose`, `Tiled` and `MaxPool` have any number of axes. Kernels are not flipped.

Weights of one shared kernel lie in memory as PyTorch's do. Those of a bank, as locally connected and tiled layers have
them, have their hidden channels innermost, as engines like it: they are not contiguous. Optimisers, `clip_grad_norm_`,
`state_dict`, `AveragedModel`, `prune.ln_structured` and parametrizations take them. What views a parameter as flat
refuses them ("view size is not compatible"): `parameters_to_vector`, `LBFGS`, `prune.l1_unstructured`,
`init.orthogonal_`, `fully_shard` and safetensors. For these let the weight be contiguous, which is slower and nothing
else::

    layer.weight.data = layer.weight.data.contiguous()

as `vector_to_parameters` and a parametrization leave it too. What counts axes counts those of the bank first:
`init.kaiming_normal_` and its like take a bank's second axis for the channels, `weight_norm` and `spectral_norm` its
first for the outputs. `layer.reset_parameters()` draws each kernel as PyTorch would; other values are drawn for each::

    for kernel in layer.weight.detach().flatten(0, len(layer.kernel_size) - 1):  # views: (C_out, C_in/groups, *K)
        torch.nn.init.kaiming_normal_(kernel)

and the hidden channels are axis ``dim=len(layer.kernel_size)`` for `weight_norm`.

In evaluation mode and without gradients, modules keep what engines make of a weight of 64 KiB and more, as inference
wants it: until ``train()``, or until PyTorch's version counter, where the weight lies, or the sums of its words say
that it changed.
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
