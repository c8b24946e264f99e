"""How to train an autoencoder, as data: epochs, rates, noise, and what each of them means."""

from __future__ import annotations

from dataclasses import dataclass
from math import cos, isfinite, pi
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Noise = Literal["none", "gaussian", "masking"]


@dataclass(frozen=True)
class Recipe:
    """How to train: epochs and Adam's learning rate of both parts, examples in a batch, noise, seed.

    Denoising: the input is corrupted and the target is not, by Gaussian noise of standard deviation `amount`, or by
    masking, which sets that share of the values to zero. The classifier is fine-tuned with noise of `tune_amount`.
    """

    epochs: int = 60
    batch: int = 32
    rate: float = 7e-3
    greedy: bool = False
    noise: Noise = "gaussian"
    amount: float = 0.18
    tune_epochs: int = 30
    tune_rate: float = 5e-3
    tune_amount: float = 0.2
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("epochs", 0), ("batch", 1), ("tune_epochs", 0), ("seed", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}={getattr(self, name)}: expected at least {least}")
        for name in ("rate", "tune_rate"):
            if not (getattr(self, name) > 0 and isfinite(getattr(self, name))):
                raise ValueError(f"{name}={getattr(self, name)}: expected a positive learning rate")
        if self.noise not in ("none", "gaussian", "masking"):
            raise ValueError(f'noise={self.noise!r}: expected "none", "gaussian" or "masking"')
        for name in ("amount", "tune_amount"):
            amount = getattr(self, name)
            if not (amount >= 0 and isfinite(amount)) or (self.noise == "masking" and amount >= 1):
                raise ValueError(f"{name}={amount}: expected a standard deviation, or for masking a share below 1")


def corrupt(images: Array, noise: Noise, amount: float, rng: np.random.Generator) -> Array:
    """The images with Gaussian noise, or with a share of their values set to zero."""
    if noise == "gaussian":
        added: Array = rng.standard_normal(images.shape, images.dtype) * images.dtype.type(amount)
        return images + added
    if noise == "masking":
        kept: Array = images * (rng.random(images.shape, images.dtype) >= amount)
        return kept
    return images


def decay(done: float) -> float:
    """The learning rate's factor when a share of a phase is done: half a cosine, from 1 to 0."""
    return 0.5 * (1 + cos(pi * done))
