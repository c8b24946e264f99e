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
    masking, which sets that share of the values to zero.
    """

    epochs: int = 40
    batch: int = 64
    rate: float = 3e-3
    greedy: bool = False
    noise: Noise = "none"
    amount: float = 0.0
    tune_epochs: int = 15
    tune_rate: float = 1e-3
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
        if not (self.amount >= 0 and isfinite(self.amount)) or (self.noise == "masking" and self.amount >= 1):
            raise ValueError(f"amount={self.amount}: expected a standard deviation, or for masking a share below 1")


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
