"""Training an autoencoder in PyTorch: the gradients, steps and losses of a phase, in one process or in several.

Several processes are started by torchrun. Each takes its share of every batch, and DistributedDataParallel adds their
gradients; a share counts as much as it is of the batch, so the sum is the whole batch's gradient, however it is cut.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, distributed, nn
from torch.nn import functional

from ..architecture import Architecture
from ..kernels.threads import VARIABLE, available, threads
from ..processes import this_process
from .nn import Autoencoder

Array = NDArray[Any]

LOSSES: dict[str, Callable[..., Tensor]] = {
    "mean_squared_error": functional.mse_loss,
    "softmax_cross_entropy": functional.cross_entropy,
}
"""By the names of `triconv.layers.losses`."""
MEMORIES = {"mean": "exp_avg", "square": "exp_avg_sq"}
"""What Adam remembers, under the names of `triconv.layers.Adam` and of PyTorch's."""
AT_ONCE = 256
"""Examples of which a loss is worked out at once when nothing is learned from them."""


class Torch:
    """PyTorch as a framework of `triconv.train`: on a graphics processor for each process if there are enough."""

    def __init__(self) -> None:
        self.process = this_process()
        on_cuda = torch.cuda.is_available() and self.process.local_size <= torch.cuda.device_count()
        self.device = torch.device("cuda", self.process.local_rank) if on_cuda else torch.device("cpu")

    @property
    def leads(self) -> bool:
        return self.process.leads

    def learner(self, architecture: Architecture, phase: Any) -> Learner:
        """What trains a phase (`triconv.phases.Phase`)."""
        arrays = {name: parameter.value for name, parameter in phase.parameters.items()}
        return Learner(self, architecture, phase.part, arrays, phase.loss.__name__)

    @contextmanager
    def together(self) -> Iterator[None]:
        """Inside, the processes can talk to each other; none enters before all have come.

        Raises
        ------
        ConnectionError
            When another process ends before this one.
        """
        if self.process.size == 1:
            yield
            return
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)
        distributed.init_process_group("nccl" if self.device.type == "cuda" else "gloo")
        try:
            distributed.barrier()
            with nullcontext() if VARIABLE in os.environ else threads(max(available() // self.process.local_size, 1)):
                yield
            distributed.barrier()
        except RuntimeError as error:  # what PyTorch raises when another process has ended
            reason = str(error).splitlines()[0]
            raise ConnectionError(f"process {self.process.rank} of {self.process.size}: {reason}") from error
        finally:
            # What still holds the group would end it with the interpreter, whose threads it then waits for and aborts.
            gc.collect()
            distributed.destroy_process_group()

    def share(self, array: Array) -> Tensor:
        """This process's share of a batch."""
        own = np.array_split(array, self.process.size)[self.process.rank]
        return torch.from_numpy(np.ascontiguousarray(own)).to(self.device)

    def total(self, own: float) -> float:
        """The sum of the processes' numbers."""
        if self.process.size == 1:
            return own
        number = torch.tensor(own, dtype=torch.float64, device=self.device)
        distributed.all_reduce(number)
        return number.item()

    def any(self, flag: bool) -> bool:
        """Whether a flag is set in any process."""
        return self.total(flag) > 0


class Learner:
    """A part of an autoencoder and its Adam, as `triconv.phases.Learner` says.

    Arguments: what to train of the architecture, the values by name, which `store` writes, and the name of the loss.
    """

    def __init__(
        self, framework: Torch, architecture: Architecture, part: int | str, arrays: Mapping[str, Array], loss: str
    ) -> None:
        self.framework, self.arrays, self.of = framework, arrays, LOSSES[loss]
        dtype = torch.from_numpy(next(iter(arrays.values()))).dtype
        whole = Autoencoder(architecture, device=framework.device, dtype=dtype)
        self.module, self.parameters = _part(whole, part, arrays)
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(torch.from_numpy(arrays[name]))
        self.optimizer = torch.optim.Adam(self.parameters.values(), fused=True)
        self.restore({"steps": np.array(0)})

    @cached_property
    def shared(self) -> nn.Module:
        """The module; with several processes its gradients are the mean over them."""
        if self.framework.process.size == 1:
            return self.module
        return nn.parallel.DistributedDataParallel(self.module)

    def gradients(self, inputs: Array, targets: Array) -> float:
        """The loss of a batch; its gradients are kept for the step."""
        self.optimizer.zero_grad()
        loss = self._part_of_loss(self.shared, inputs, targets)
        (loss * self.framework.process.size).backward()
        return self.framework.total(loss.item())

    def step(self, rate: float) -> None:
        """Move the parameters by the gradients of the last batch."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()

    @torch.no_grad()
    def loss(self, inputs: Array, targets: Array) -> float:
        """The loss of many examples, of which nothing is learned."""
        pieces = range(0, len(inputs), AT_ONCE)
        batches = ((inputs[start : start + AT_ONCE], targets[start : start + AT_ONCE]) for start in pieces)
        own = sum(self._part_of_loss(self.module, *batch).item() * len(batch[0]) for batch in batches)
        return self.framework.total(own / len(inputs))

    def _part_of_loss(self, module: nn.Module, inputs: Array, targets: Array) -> Tensor:
        """What this process's share adds to the mean over the batch."""
        share = self.framework.share
        return self.of(module(share(inputs)), share(targets), reduction="sum") / targets.size

    def store(self) -> None:
        """Write the values into the arrays."""
        for name, parameter in self.parameters.items():
            self.arrays[name][...] = parameter.numpy(force=True)

    @property
    def state(self) -> dict[str, Array]:
        """All that Adam remembers, under the names of `triconv.layers.Adam`."""
        held = {name: self.optimizer.state[parameter] for name, parameter in self.parameters.items()}
        steps = next(iter(held.values()))["step"]
        arrays = {
            f"{memory}.{name}": own[theirs].numpy(force=True)
            for memory, theirs in MEMORIES.items()
            for name, own in held.items()
        }
        return {"steps": np.array(int(steps)), **arrays}

    def restore(self, state: Mapping[str, Array]) -> None:
        """Continue with an Adam's state; nothing but the number of steps is zeros."""
        for name, parameter in self.parameters.items():
            own = self.optimizer.state[parameter]
            own["step"] = torch.tensor(float(state["steps"]), device=parameter.device)
            for memory, theirs in MEMORIES.items():
                own[theirs] = torch.zeros_like(parameter)
                if int(state["steps"]):
                    own[theirs].copy_(torch.from_numpy(state[f"{memory}.{name}"]))


def _part(
    whole: Autoencoder, part: int | str, arrays: Mapping[str, Array]
) -> tuple[nn.Module, dict[str, nn.Parameter]]:
    """The module that is trained, and its parameters under the names of the arrays."""
    if part == "classifier":
        head = arrays[f"{len(whole.architecture.stages) + 1}.bias"]  # after the stages and the flattening of their code
        classifier = whole.classifier(len(head))
        return classifier, dict(classifier.named_parameters())
    module: nn.Module = whole
    if isinstance(part, int):
        module = nn.Sequential(whole.encoder[part], whole.up[part], whole.decoder[part], whole.down[part])
    own = {id(parameter) for parameter in module.parameters()}
    return module, {name: parameter for name, parameter in whole.named_parameters() if id(parameter) in own}
