"""One epoch of `triconv train` on the digits, beside the same model, batches and optimiser in PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib import import_module
from math import ceil
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter, sleep
from typing import Any

import numpy as np
from numpy.typing import NDArray

from triconv.architecture import Architecture, Stage, default_output, default_stages
from triconv.autoencoder import Autoencoder
from triconv.benchmark.row import OURS, Row
from triconv.benchmark.timing import WARM, Timing
from triconv.data import Dataset, load
from triconv.recipe import Recipe, corrupt, decay
from triconv.train import Progress, Run

Array = NDArray[Any]

NAME, OPERATION = "triconv train, the digits", "epoch"
RECIPE = Recipe(epochs=1, tune_epochs=0)
FEW = 160
"""Images by whose epoch both are compared, of four steps: in forty, Adam and the largest of a pool enlarge what an
engine rounds, up to a thousandth where numbers are split, which is as much as a mistake in the noise makes."""

CLOSE = 1e-4
"""Relative difference of that epoch's mean loss."""


def measure_epoch(threads: int, rounds: int) -> Row:
    """Time an epoch in turn; every round begins anew from the same weights. Runs in the process of its threads."""
    row = Row(NAME, OPERATION, threads, dtype="float32", engine="auto")
    try:
        whole = load()
        dataset = Dataset(whole.images, None, whole.name)  # without labels there is the autoencoder's phase alone
        shape = whole.images.shape
        stages, output = default_stages(shape[1], shape[2:]), default_output(whole.images)
        architecture = Architecture(shape[1], shape[2:], stages, output=output)
        row.shapes = f"{len(dataset.split()[0].images)} images, {' → '.join(map(str, architecture.shapes))}"
        candidates: dict[str, Callable[[], tuple[float, float]]] = {OURS: partial(_ours, dataset, architecture)}
        row.libraries[OURS] = OURS
        for name, last, fused in (
            ("PyTorch channels first", False, False),
            ("PyTorch channels last", True, False),
            ("PyTorch channels first, fused Adam", False, True),
            ("PyTorch channels last, fused Adam", True, True),
        ):
            candidates[name] = partial(_theirs, dataset, architecture, last, fused)
            row.libraries[name] = "PyTorch"
        some = Dataset(whole.images[:FEW], None, whole.name)
        expected = _ours(some, architecture)[1]
        found = _theirs(some, architecture, last=False, fused=False, own_noise=False)[1]
        row.against, row.apart = "PyTorch channels first", abs(found / expected - 1) / CLOSE
        if not row.apart <= 1:
            raise ValueError(f"an epoch's mean loss is {expected:.6f} here and {found:.6f} in PyTorch")
        samples: dict[str, list[float]] = {name: [] for name in candidates}
        names = list(candidates)
        for turn in range(rounds + 1):
            first = turn % len(names)
            for name in names[first:] + names[:first]:
                sleep(WARM)
                seconds, _ = candidates[name]()
                if turn:
                    samples[name].append(seconds)
        row.timings = {name: Timing(tuple(found), 1) for name, found in samples.items()}
    except Exception as error:
        row.failure = f"{type(error).__name__}: {' '.join(str(error).split())}"
    return row


def _ours(dataset: Dataset, architecture: Architecture) -> tuple[float, float]:
    """The seconds of an epoch, as `triconv train` runs it, and its mean loss: until its figures are shown."""
    ended: list[tuple[float, float]] = []

    def show(progress: Progress) -> None:
        if progress.metrics is not None:
            ended.append((perf_counter(), progress.metrics["loss"]))

    with TemporaryDirectory() as folder:
        run = Run(Path(folder), dataset, architecture, RECIPE)
        start = perf_counter()
        run.train(show)
    return ended[0][0] - start, ended[0][1]


def _theirs(
    dataset: Dataset, architecture: Architecture, last: bool, fused: bool, own_noise: bool = True
) -> tuple[float, float]:
    return Twin(architecture, last, fused, own_noise).epoch(dataset)


class Twin:
    """The autoencoder, tied, in PyTorch's own operations, from the same initial weights."""

    def __init__(self, architecture: Architecture, last: bool, fused: bool, own_noise: bool) -> None:
        self.torch = import_module("torch")
        self.architecture, self.own_noise = architecture, own_noise
        self.format = self.torch.channels_last if last else self.torch.contiguous_format
        model = Autoencoder(architecture, seed=RECIPE.seed)
        self.weights = {}
        for name, one in model.parameters.items():
            tensor = self.torch.from_numpy(np.ascontiguousarray(one.value).copy())
            tensor = tensor.contiguous(memory_format=self.format) if tensor.ndim == 4 else tensor
            self.weights[name] = tensor.requires_grad_()
        self.optimizer = self.torch.optim.Adam(self.weights.values(), RECIPE.rate, fused=fused or None)

    def epoch(self, dataset: Dataset) -> tuple[float, float]:
        """The seconds of an epoch and its mean loss."""
        seen, unseen = (self._placed(part.images) for part in dataset.split())
        functional = import_module("torch.nn.functional")
        start = perf_counter()
        with self.torch.enable_grad():
            steps = ceil(len(seen) / RECIPE.batch)
            order = np.random.default_rng([RECIPE.seed, 0, 0]).permutation(len(seen))
            total = 0.0
            for step in range(steps):
                chosen = self.torch.from_numpy(order[step * RECIPE.batch : (step + 1) * RECIPE.batch])
                for group in self.optimizer.param_groups:
                    group["lr"] = RECIPE.rate * decay(step / steps)
                images = seen[chosen]
                loss = functional.mse_loss(self.forward(self._noisy(images, step)), images)
                self.optimizer.zero_grad()
                loss.backward()
                self.optimizer.step()
                total += loss.item() * len(chosen)
        with self.torch.inference_mode():
            functional.mse_loss(self.forward(unseen), unseen).item()
        return perf_counter() - start, total / len(seen)

    def _placed(self, images: Array) -> Any:
        return self.torch.from_numpy(np.ascontiguousarray(images)).contiguous(memory_format=self.format)

    def _noisy(self, images: Any, step: int) -> Any:
        """With PyTorch's own noise, or with the very noise that `triconv train` draws."""
        if self.own_noise:
            return images + self.torch.randn_like(images) * RECIPE.amount
        rng = np.random.default_rng([RECIPE.seed, 0, 0, step])
        return self._placed(corrupt(np.ascontiguousarray(images.numpy()), RECIPE.noise, RECIPE.amount, rng))

    def forward(self, x: Any) -> Any:
        """Encode and decode; where padding is not the same on both sides it is made, and cropped, explicitly."""
        functional = import_module("torch.nn.functional")
        functions: dict[str, Callable[[Any], Any]] = {
            "identity": lambda t: t,
            "relu": self.torch.relu,
            "sigmoid": self.torch.sigmoid,
            "tanh": self.torch.tanh,
        }
        last = len(self.architecture.stages) - 1
        sizes = []
        for number, stage in enumerate(self.architecture.stages):
            around = _around(stage, x.shape[2:])
            sizes.append((around, x.shape[2:]))
            even = around[::2] == around[1::2]
            weight, bias = self.weights[f"encoder.{number}.weight"], self.weights[f"encoder.{number}.bias"]
            padded = x if even else functional.pad(x, around)
            x = functional.conv2d(padded, weight, bias, stage.stride, around[-2::-2] if even else 0)
            x = functions[self.architecture.code if number == last else self.architecture.inner](x)
        for number, stage in reversed(list(enumerate(self.architecture.stages))):
            around, size = sizes[number]
            weight, bias = self.weights[f"encoder.{number}.weight"], self.weights[f"decoder.{number}.bias"]
            even = around[::2] == around[1::2] and all(step == 1 for step in stage.stride)
            x = functional.conv_transpose2d(x, weight, bias, stage.stride, around[-2::-2] if even else 0)
            if not even:
                before = around[-2::-2]
                short = [max(b + s - have, 0) for b, s, have in zip(before, size, x.shape[2:], strict=True)]
                if any(short):
                    raise ValueError(f"stage {number}: positions that no window reaches are not this twin's")
                x = x[..., before[0] : before[0] + size[0], before[1] : before[1] + size[1]]
            x = functions[self.architecture.output if number == 0 else self.architecture.inner](x)
        return x


def _around(stage: Stage, size: tuple[int, ...]) -> list[int]:
    """Padding before and after, last axis first, as functional.pad takes it."""
    sides = []
    for positions, kernel, stride in reversed(list(zip(size, stage.kernel, stage.stride, strict=True))):
        total = max((-(-positions // stride) - 1) * stride + kernel - positions, 0) if stage.padding == "same" else 0
        sides += [total // 2, total - total // 2]
    return sides
