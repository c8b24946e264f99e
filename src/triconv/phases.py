"""A phase of training, and what a framework does in it: gradients, steps, losses, on arrays by name.

`train.Run` decides what happens when; where the numbers are worked out is a `Framework`.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from numpy.typing import NDArray

from .architecture import Architecture
from .layers import Adam, Layer, Parameter, backprop, in_batches
from .layers.base import Loss
from .processes import this_process

Array = NDArray[Any]
Part = int | Literal["autoencoder", "classifier"]
"""What of an architecture is trained: one stage, all of them, or the classifier that starts from their encoder."""
FrameworkName = Literal["numpy", "torch"]


@dataclass(frozen=True, eq=False)
class Phase:
    """One model trained with one optimiser on one data set: a stage of greedy training, the whole, the classifier."""

    name: str
    part: Part
    epochs: int
    rate: float
    model: Layer
    parameters: dict[str, Parameter]
    loss: Loss
    inputs: Array
    targets: Array
    unseen_inputs: Array
    unseen_targets: Array
    amount: float


class Learner(Protocol):
    """A phase's model and Adam, with values and state of their own."""

    def gradients(self, inputs: Array, targets: Array) -> float:
        """The loss of a batch; its gradients are kept for the step."""

    def step(self, rate: float) -> None:
        """Move the parameters by the gradients of the last batch."""

    def loss(self, inputs: Array, targets: Array) -> float:
        """The loss of many examples, of which nothing is learned."""

    def store(self) -> None:
        """Put the values into the phase's parameters."""

    @property
    def state(self) -> dict[str, Array]:
        """All that the optimiser remembers, under the names of `triconv.layers.Adam`."""

    def restore(self, state: Mapping[str, Array]) -> None:
        """Continue with an optimiser's state."""


class Framework(Protocol):
    """Where numbers are worked out, by one process or several that share every batch."""

    @property
    def leads(self) -> bool:
        """Whether this process writes the files and the screen."""

    def learner(self, architecture: Architecture, phase: Phase) -> Learner: ...

    def together(self) -> AbstractContextManager[object]:
        """Inside, the processes can talk to each other; none enters before all have come."""

    def any(self, flag: bool) -> bool:
        """Whether a flag is set in any process."""


class NumPy:
    """The layers of triconv, in one process."""

    leads = True

    def learner(self, architecture: Architecture, phase: Phase) -> Learner:  # noqa: ARG002 (the phase has the model)
        return _InNumPy(phase)

    def together(self) -> AbstractContextManager[object]:
        return nullcontext()

    def any(self, flag: bool) -> bool:
        return flag


class _InNumPy:
    def __init__(self, phase: Phase) -> None:
        self.phase = phase
        self.optimizer = Adam(phase.parameters, phase.rate)

    def gradients(self, inputs: Array, targets: Array) -> float:
        return backprop([self.phase.model], inputs, targets, self.phase.loss)

    def step(self, rate: float) -> None:
        self.optimizer.rate = rate
        self.optimizer.step()

    def loss(self, inputs: Array, targets: Array) -> float:
        return self.phase.loss(in_batches(self.phase.model, inputs), targets)[0]

    def store(self) -> None:
        """They are there."""

    @property
    def state(self) -> dict[str, Array]:
        return self.optimizer.state

    def restore(self, state: Mapping[str, Array]) -> None:
        self.optimizer.restore(state)


def framework_of(name: FrameworkName) -> Framework:
    """The framework of a name; loads what it needs.

    Raises
    ------
    ValueError
        One line when it is not installed, or is not for several processes and there are.
    """
    if name == "torch":
        try:
            from .torch.train import Torch
        except ImportError as error:
            raise ValueError(f"framework={name!r}: {error}") from None
        return Torch()
    if (process := this_process()).size > 1:
        raise ValueError(
            f"framework={name!r} in {process.size} processes: expected 'torch', which shares every batch among them"
        )
    return NumPy()
