"""Layers on NumPy arrays behind the lectures' interface, losses, and the optimisers that train them."""

from .base import Layer, Parameter, Sequential, backprop, in_batches
from .convolution import Affine, Conv, ConvTranspose
from .elementwise import ReLU, Sigmoid, Tanh
from .losses import binary_cross_entropy, hinge, mean_squared_error, softmax_cross_entropy
from .optimizers import SGD, Adam
from .spatial import Flatten, GlobalMaxPool, MaxPool, Upsample

__all__ = [
    "SGD",
    "Adam",
    "Affine",
    "Conv",
    "ConvTranspose",
    "Flatten",
    "GlobalMaxPool",
    "Layer",
    "MaxPool",
    "Parameter",
    "ReLU",
    "Sequential",
    "Sigmoid",
    "Tanh",
    "Upsample",
    "backprop",
    "binary_cross_entropy",
    "hinge",
    "in_batches",
    "mean_squared_error",
    "softmax_cross_entropy",
]
