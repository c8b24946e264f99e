"""The training loop: phases of epochs of steps, progress, and checkpoints from which a run continues bit by bit.

What a step does depends on nothing but the parameters, the optimiser's state and where the step is: the order of the
examples and the noise on them are drawn from a seed made of (seed, phase, epoch, step). So a checkpoint is those arrays
and that place, and may be taken after any step.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property
from math import ceil, isfinite
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import checkpoint
from .architecture import Architecture
from .autoencoder import Autoencoder, load_parameters
from .data import Dataset
from .files import remove_leftovers, replace_file
from .interruptions import interruptions
from .layers import Layer, Sequential, in_batches, mean_squared_error, softmax_cross_entropy
from .phases import Framework, Learner, NumPy, Part, Phase
from .recipe import Recipe, corrupt, decay

Array = NDArray[Any]

CHECKPOINT, MODEL, METRICS = "checkpoint.safetensors", "model.safetensors", "metrics.jsonl"
PICTURES = ("loss.png", "filters.png", "reconstructions.png")
FILES = (CHECKPOINT, MODEL, METRICS, *PICTURES)
"""All that a run writes into its folder."""
SECONDS_BETWEEN_CHECKPOINTS = 5.0


@dataclass(frozen=True)
class Place:
    """Where a run is: so many steps into an epoch of a phase, with the sum of the losses of this epoch so far."""

    phase: int = 0
    epoch: int = 0
    step: int = 0
    total: float = 0.0


@dataclass(frozen=True)
class Progress:
    """What a progress display shows after a step."""

    phase: str
    epoch: int
    epochs: int
    loss: float
    images: int
    all_images: int
    metrics: dict[str, Any] | None = None
    """The line of metrics.jsonl, when the step ended an epoch."""


class Stopped(Exception):  # noqa: N818 (not an error)
    """The user stopped the run; it is saved."""


class Run:
    """A training run: a data set, an architecture and a recipe, in a folder.

    Several processes that train together each have such a run; all do the same, and one of them writes the files.
    """

    def __init__(
        self,
        folder: Path,
        dataset: Dataset,
        architecture: Architecture,
        recipe: Recipe,
        source: dict[str, Any] | None = None,
        framework: Framework | None = None,
    ) -> None:
        if dataset.images.shape[1:] != (architecture.channels, *architecture.size):
            raise ValueError(
                f"images of shape {dataset.images.shape}: expected (N, {architecture.channels}, *{architecture.size})"
            )
        if dataset.labels is not None and dataset.labels.max() >= len(dataset.labels):
            raise ValueError(
                f"labels up to {dataset.labels.max()}: expected classes 0, 1, …, "
                f"fewer than the {len(dataset.labels)} images"
            )
        if dataset.labels is not None and len(np.unique(dataset.labels)) < 2:
            raise ValueError("labels of a single class: expected at least two classes, or no labels")
        self.folder, self.dataset, self.architecture, self.recipe = folder, dataset, architecture, recipe
        self.source, self.framework = source or {}, framework or NumPy()
        self.seen, self.unseen = dataset.split()
        self.model = Autoencoder(architecture, seed=recipe.seed)
        self.place = Place()
        self.metrics: list[dict[str, Any]] = []
        self._learner: Learner | None = None
        self._saved_at = monotonic()

    @cached_property
    def classifier(self) -> Sequential | None:
        """The classifier, which starts as a copy of the encoder at the moment when it is first asked for."""
        if self.dataset.labels is None:
            return None
        return self.model.classifier(int(self.dataset.labels.max()) + 1, seed=self.recipe.seed)

    @property
    def phase_names(self) -> list[str]:
        stages = [f"stage {number}" for number in range(len(self.architecture.stages))] if self.recipe.greedy else []
        return [*(stages or ["autoencoder"]), *(["classifier"] if self.dataset.labels is not None else [])]

    @property
    def finished(self) -> bool:
        return self.place.phase >= len(self.phase_names)

    def phase(self, number: int) -> Phase:
        """The phase of a number, with the models as they are now."""
        name, recipe = self.phase_names[number], self.recipe
        seen, unseen = self.seen.images, self.unseen.images
        if name == "classifier":
            assert self.classifier
            assert self.seen.labels is not None
            assert self.unseen.labels is not None
            return Phase(
                name,
                "classifier",
                recipe.tune_epochs,
                recipe.tune_rate,
                self.classifier,
                self.classifier.parameters,
                softmax_cross_entropy,
                seen,
                self.seen.labels,
                unseen,
                self.unseen.labels,
                amount=recipe.tune_amount,
            )
        model: Layer = self.model
        parameters = self.model.parameters
        part: Part = "autoencoder"
        if recipe.greedy:
            part = number
            seen, unseen = (in_batches(self.encoder(number), images) for images in (seen, unseen))
            model, parameters = self.model.stage(number), self.model.stage_parameters(number)
        loss = mean_squared_error
        return Phase(
            name, part, recipe.epochs, recipe.rate, model, parameters, loss, seen, seen, unseen, unseen, recipe.amount
        )

    def encoder(self, stages: int) -> Sequential:
        """The first stages of the encoder."""
        return Sequential(self.model.encoders[:stages])

    def train(self, progress: Callable[[Progress], None] = lambda _: None) -> None:
        """Train from where the run is to its end. Raises Stopped, with everything saved, when the user interrupts."""
        quiet = np.errstate(over="ignore", invalid="ignore")  # checked where it counts
        with self.framework.together(), interruptions() as interrupted, quiet:
            while not self.finished:
                phase = self.phase(self.place.phase)
                if self._learner is None:
                    self._learner = self.framework.learner(self.architecture, phase)
                self._train_phase(phase, self._learner, progress, interrupted)
                self._learner.store()
                self.place, self._learner = Place(self.place.phase + 1), None
                self.save()
        self.save_model()

    def _train_phase(
        self, phase: Phase, learner: Learner, progress: Callable[[Progress], None], interrupted: Callable[[], bool]
    ) -> None:
        number, count = self.place.phase, len(phase.inputs)
        steps = ceil(count / self.recipe.batch)
        for epoch in range(self.place.epoch, phase.epochs):
            order = np.random.default_rng([self.recipe.seed, number, epoch]).permutation(count)
            for step in range(self.place.step, steps):
                chosen = order[step * self.recipe.batch : (step + 1) * self.recipe.batch]
                inputs, targets = phase.inputs[chosen], phase.targets[chosen]
                rng = np.random.default_rng([self.recipe.seed, number, epoch, step])
                loss = learner.gradients(corrupt(inputs, self.recipe.noise, phase.amount, rng), targets)
                self._check_loss(phase, "loss", loss)
                learner.step(phase.rate * decay((epoch * steps + step) / (phase.epochs * steps)))
                total = self.place.total + loss * len(chosen)
                done = epoch * count + step * self.recipe.batch + len(chosen)
                self.place = Place(number, epoch, step + 1, total)
                line = self._end_epoch(phase, learner) if step + 1 == steps else None
                average = total / (step * self.recipe.batch + len(chosen))
                progress(Progress(phase.name, epoch + 1, phase.epochs, average, done, phase.epochs * count, line))
                if self.framework.any(interrupted()):
                    self.save()
                    raise Stopped
                if monotonic() - self._saved_at > SECONDS_BETWEEN_CHECKPOINTS:
                    self.save()

    def _check_loss(self, phase: Phase, name: str, loss: float) -> None:
        if not isfinite(loss):
            raise FloatingPointError(
                f"{name}={loss} in phase {phase.name}, epoch {self.place.epoch + 1}: expected a finite number; "
                f"a learning rate below {phase.rate} may help"
            )

    def _end_epoch(self, phase: Phase, learner: Learner) -> dict[str, Any]:
        unseen = learner.loss(phase.unseen_inputs, phase.unseen_targets)
        self._check_loss(phase, "unseen loss", unseen)
        epoch, loss = self.place.epoch + 1, self.place.total / len(phase.inputs)
        line = {"phase": phase.name, "epoch": epoch, "loss": loss, "unseen": unseen}
        self.metrics.append(line)
        self.place = Place(self.place.phase, epoch)
        return line

    def save(self) -> None:
        """Write checkpoint and metrics; each is whole or the one before."""
        self._saved_at = monotonic()
        if not self.framework.leads:
            return
        if self._learner is not None:
            self._learner.store()
        arrays = self._weights(self.classifier if "classifier" in self.__dict__ else None)
        if self._learner is not None:
            arrays |= {f"optimizer.{name}": array for name, array in self._learner.state.items()}
        checkpoint.save(self.folder / CHECKPOINT, arrays, self._description() | {"place": asdict(self.place)})
        with replace_file(self.folder / METRICS) as beside:
            beside.write_text("".join(json.dumps(line) + "\n" for line in self.metrics), encoding="utf-8")
        self._saved_at = monotonic()

    def save_model(self) -> None:
        """Write the weights and the architecture that rebuilds them."""
        if self.framework.leads:
            checkpoint.save(self.folder / MODEL, self._weights(self.classifier), self._description())

    def _weights(self, classifier: Sequential | None) -> dict[str, Array]:
        """All parameters by name; refused after divergence, so that no file with finite ones is replaced."""
        arrays = {f"model.{name}": one.value for name, one in self.model.parameters.items()}
        if classifier is not None:
            arrays |= {f"classifier.{name}": one.value for name, one in classifier.parameters.items()}
        for name, array in arrays.items():
            if not np.isfinite(array).all():
                raise FloatingPointError(
                    f"parameter {name}: expected finite numbers, but training diverged; a lower learning rate may help"
                )
        return arrays

    def _description(self) -> dict[str, Any]:
        return {
            "architecture": self.architecture.to_json(),
            "recipe": asdict(self.recipe),
            "source": self.source,
            "fingerprint": self.dataset.fingerprint,
            "metrics": self.metrics,
        }

    @classmethod
    def resume(cls, folder: Path, load: Callable[[dict[str, Any]], Dataset], framework: Framework | None = None) -> Run:
        """The run in a folder, where its checkpoint left it; `load` finds the data again by the source it came from.

        It may go on in another framework than it began in.
        """
        arrays, description = checkpoint.load(folder / CHECKPOINT)
        try:
            architecture = Architecture.from_json(description["architecture"])
            recipe, place = Recipe(**description["recipe"]), Place(**description["place"])
            source, fingerprint, metrics = (description[key] for key in ("source", "fingerprint", "metrics"))
        except (KeyError, TypeError) as error:
            raise ValueError(f"{folder / CHECKPOINT}: expected a checkpoint of this version ({error})") from None
        dataset = load(source)
        if dataset.fingerprint != fingerprint:
            raise ValueError(f"{dataset.name}: expected the images that {folder} was trained on, but they have changed")
        run = cls(folder, dataset, architecture, recipe, source, framework)
        run.place, run.metrics = place, metrics
        for name in FILES if run.framework.leads else ():
            remove_leftovers(folder / name)
        try:
            run._restore(arrays)
        except (KeyError, ValueError) as error:
            raise ValueError(f"{folder / CHECKPOINT}: weights of another architecture: {error}") from None
        return run

    def _restore(self, arrays: dict[str, Array]) -> None:
        load_parameters(self.model.parameters, checkpoint.part(arrays, "model."))
        if (tuned := checkpoint.part(arrays, "classifier.")) and self.classifier is not None:
            load_parameters(self.classifier.parameters, tuned)
        if state := checkpoint.part(arrays, "optimizer."):
            self._learner = self.framework.learner(self.architecture, self.phase(self.place.phase))
            self._learner.restore(state)
