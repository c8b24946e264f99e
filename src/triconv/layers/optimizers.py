"""Optimisers: they change parameters in place, and their state can be saved and restored bit by bit."""

from __future__ import annotations

from collections.abc import Mapping
from math import sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .base import Parameter, each_once

Array = NDArray[Any]


class Optimizer:
    """A rule that moves parameters against their gradients. `state` is all it remembers between steps, as arrays.

    A parameter that is there under several names is moved once, under the first.
    """

    memories: tuple[str, ...] = ()

    def __init__(self, parameters: Mapping[str, Parameter], rate: float) -> None:
        if not rate > 0:
            raise ValueError(f"rate={rate}: expected a positive learning rate")
        self.parameters = each_once(parameters)
        self.rate = rate
        self.steps = 0
        self.memory = {
            memory: {name: np.zeros_like(parameter.value) for name, parameter in self.parameters.items()}
            for memory in self.memories
        }

    def step(self) -> None:
        """Move every parameter that has a gradient."""
        self.steps += 1
        for name, parameter in self.parameters.items():
            if parameter.gradient is not None:
                parameter.value -= self.change(name, parameter.gradient)

    def change(self, name: str, gradient: Array) -> Array:
        """What to take from a parameter."""
        raise NotImplementedError

    @property
    def state(self) -> dict[str, Array]:
        arrays = {f"{memory}.{name}": array for memory, held in self.memory.items() for name, array in held.items()}
        return {"steps": np.array(self.steps), **arrays}

    def restore(self, state: Mapping[str, Array]) -> None:
        """Continue where another optimiser of the same parameters was when its state was read."""
        self.steps = int(state["steps"])
        for memory, held in self.memory.items():
            for name, array in held.items():
                array[...] = state[f"{memory}.{name}"]


class SGD(Optimizer):
    """Stochastic gradient descent with momentum: m ← μ m + g, θ ← θ − η m. Nothing is flipped.

    Parameters
    ----------
    parameters
        By name, as a layer has them.
    rate, momentum
        η > 0, and 0 ≤ μ < 1.

    Examples
    --------
    >>> import numpy as np
    >>> from triconv.layers import SGD, Parameter
    >>> parameter = Parameter(np.array([1.0]))
    >>> optimizer = SGD({"x": parameter}, rate=0.1, momentum=0.5)
    >>> for _ in range(2):
    ...     parameter.gradient = np.array([1.0])
    ...     optimizer.step()
    >>> parameter.value
    array([0.75])
    """

    memories = ("momentum",)

    def __init__(self, parameters: Mapping[str, Parameter], rate: float, *, momentum: float = 0.0) -> None:
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum={momentum}: expected at least 0 and less than 1")
        super().__init__(parameters, rate)
        self.momentum = momentum

    def change(self, name: str, gradient: Array) -> Array:
        held = self.memory["momentum"][name]
        held *= self.momentum
        held += gradient
        return self.rate * held


class Adam(Optimizer):
    """Adam: steps of about the learning rate, scaled by running means of the gradient and of its square.

    ::

        m ← β₁ m + (1 − β₁) g,   v ← β₂ v + (1 − β₂) g²,   θ ← θ − η · m / (1 − β₁ᵗ) / (√(v / (1 − β₂ᵗ)) + ε)

    Parameters
    ----------
    parameters
        By name, as a layer has them.
    rate, betas, epsilon
        η > 0, (β₁, β₂) in [0, 1), and ε ≥ 0.

    Notes
    -----
    Kingma and Ba 2015, algorithm 1. Nothing is flipped.

    Examples
    --------
    >>> import numpy as np
    >>> from triconv.layers import Adam, Parameter
    >>> parameter = Parameter(np.array([1.0]))
    >>> parameter.gradient = np.array([123.0])
    >>> Adam({"x": parameter}, rate=0.1).step()
    >>> parameter.value.round(6)
    array([0.9])
    """

    memories = ("mean", "square")

    def __init__(
        self,
        parameters: Mapping[str, Parameter],
        rate: float = 1e-3,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        epsilon: float = 1e-8,
    ) -> None:
        if not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"betas={betas}: expected two numbers of at least 0 and less than 1")
        if not epsilon >= 0:
            raise ValueError(f"epsilon={epsilon}: expected at least 0")
        super().__init__(parameters, rate)
        self.betas, self.epsilon = betas, epsilon

    def change(self, name: str, gradient: Array) -> Array:
        first, second = self.betas
        mean, square = self.memory["mean"][name], self.memory["square"][name]
        mean += (1 - first) * (gradient - mean)
        square += (1 - second) * (gradient * gradient - square)
        scale = self.rate / (1 - first**self.steps)
        return scale * mean / (np.sqrt(square) / sqrt(1 - second**self.steps) + self.epsilon)
