"""Training: the same losses as PyTorch, the same bits after an interruption, nothing lost, nothing half-written."""

from __future__ import annotations

import errno
import json
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from triconv import checkpoint, train
from triconv.architecture import Architecture, Stage, default_stages
from triconv.autoencoder import Autoencoder
from triconv.data import Dataset, load
from triconv.layers import Adam, backprop, mean_squared_error
from triconv.recipe import Recipe, corrupt, decay
from triconv.train import CHECKPOINT, METRICS, MODEL, Run, Stopped

STAGES = (Stage(4, (3, 3), (2, 2), "same"), Stage(5, (4, 4), (1, 1)))
RECIPE = Recipe(epochs=3, batch=16, tune_epochs=2, noise="gaussian", amount=0.1)


@pytest.fixture(scope="module")
def digits() -> Dataset:
    whole = load()
    assert whole.labels is not None
    return replace(whole, images=whole.images[:100], labels=whole.labels[:100])


def make(folder: Path, dataset: Dataset, recipe: Recipe = RECIPE) -> Run:
    folder.mkdir(exist_ok=True)
    return Run(folder, dataset, Architecture(1, (8, 8), STAGES), recipe)


def stopping_after(steps: int, act: Callable[[], None]) -> Callable[[Any], None]:
    """A progress display that acts when it has seen so many steps."""
    seen: list[int] = []

    def show(_: Any) -> None:
        seen.append(1)
        if len(seen) == steps:
            act()

    return show


@pytest.mark.parametrize("tied", [False, True], ids=["free", "tied"])
def test_losses_are_torchs_for_50_steps(tied: bool) -> None:
    """The digits' default architecture, its initial weights, batches and optimiser, in float64."""
    images = load().split()[0].images.astype(np.float64)
    architecture = Architecture(1, (8, 8), default_stages(1, (8, 8)), tied)
    model = Autoencoder(architecture, dtype="float64")
    tensors = {name: torch.tensor(one.value, requires_grad=True) for name, one in model.parameters.items()}
    ours, theirs = Adam(model.parameters, 3e-3), torch.optim.Adam(tensors.values(), 3e-3)
    order = np.random.default_rng(0).permutation(len(images))
    for step in range(50):
        batch = images[np.take(order, range(step * 64, step * 64 + 64), mode="wrap")]
        loss = backprop([model], batch, batch, mean_squared_error)
        ours.step()
        expected = functional.mse_loss(in_torch(architecture, tensors, torch.tensor(batch)), torch.tensor(batch))
        theirs.zero_grad()
        expected.backward()
        theirs.step()
        assert loss == pytest.approx(expected.item(), rel=1e-9), f"step {step}"


def in_torch(architecture: Architecture, p: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """The autoencoder in PyTorch's own operations: explicit padding, conv2d, conv_transpose2d, cropping."""
    functions: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
        "identity": lambda t: t,
        "relu": torch.relu,
        "sigmoid": torch.sigmoid,
        "tanh": torch.tanh,
    }
    pads = []
    last = len(architecture.stages) - 1
    for number, stage in enumerate(architecture.stages):
        size, kernel, stride = x.shape[-1], stage.kernel[0], stage.stride[0]
        total = max((-(-size // stride) - 1) * stride + kernel - size, 0) if stage.padding == "same" else 0
        pads.append((total // 2, size))
        padded = functional.pad(x, (total // 2, total - total // 2) * 2)
        x = functional.conv2d(padded, p[f"encoder.{number}.weight"], p[f"encoder.{number}.bias"], stride=stride)
        x = functions[architecture.code if number == last else architecture.inner](x)
    for number, stage in reversed(list(enumerate(architecture.stages))):
        before, size = pads[number]
        weight = p[f"encoder.{number}.weight" if architecture.tied else f"decoder.{number}.weight"]
        full = functional.conv_transpose2d(x, weight, stride=stage.stride[0])
        full = functional.pad(full, (0, max(before + size - full.shape[-1], 0)) * 2)
        x = full[..., before : before + size, before : before + size] + p[f"decoder.{number}.bias"][:, None, None]
        x = functions[architecture.output if number == 0 else architecture.inner](x)
    return x


@pytest.mark.parametrize("greedy", [False, True], ids=["end to end", "greedy"])
@pytest.mark.parametrize("steps", [1, 5, 7, 15, 16, 20, 25])
def test_a_stopped_run_continues_to_the_same_bits(tmp_path: Path, digits: Dataset, steps: int, greedy: bool) -> None:
    recipe = replace(RECIPE, greedy=greedy)
    whole = make(tmp_path / "whole", digits, recipe)
    whole.train()
    stopped = make(tmp_path / "stopped", digits, recipe)
    with pytest.raises(Stopped):
        stopped.train(stopping_after(steps, lambda: os.kill(os.getpid(), signal.SIGINT)))
    again = Run.resume(tmp_path / "stopped", lambda _: digits)
    assert not again.finished
    again.train()
    expected, found = (checkpoint.load(tmp_path / name / MODEL)[0] for name in ("whole", "stopped"))
    assert expected.keys() == found.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)
    assert whole.metrics == again.metrics
    assert (tmp_path / "whole" / METRICS).read_text() == (tmp_path / "stopped" / METRICS).read_text()


def test_a_killed_run_continues_from_its_last_checkpoint(
    tmp_path: Path, digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train, "SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    whole = make(tmp_path / "whole", digits)
    whole.train()

    class Killed(BaseException):
        pass

    def die() -> None:
        raise Killed

    killed = make(tmp_path / "killed", digits)
    with pytest.raises(Killed):
        killed.train(stopping_after(8, die))
    again = Run.resume(tmp_path / "killed", lambda _: digits)
    assert again.place.step + again.place.epoch > 0
    again.train()
    for name, array in checkpoint.load(tmp_path / "whole" / MODEL)[0].items():
        np.testing.assert_array_equal(checkpoint.load(tmp_path / "killed" / MODEL)[0][name], array)


def test_a_full_disk_leaves_the_last_checkpoint(
    tmp_path: Path, digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make(tmp_path / "run", digits)
    with pytest.raises(Stopped):
        run.train(stopping_after(3, lambda: os.kill(os.getpid(), signal.SIGINT)))
    good = (tmp_path / "run" / CHECKPOINT).read_bytes()

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    again = Run.resume(tmp_path / "run", lambda _: digits)
    with pytest.raises(OSError, match=r"checkpoint\.safetensors") as caught:
        again.train()
    assert "\n" not in str(caught.value)
    assert (tmp_path / "run" / CHECKPOINT).read_bytes() == good
    assert sorted(file.name for file in (tmp_path / "run").iterdir()) == sorted([CHECKPOINT, METRICS])


def test_metrics_have_a_line_an_epoch(tmp_path: Path, digits: Dataset) -> None:
    run = make(tmp_path, digits)
    run.train()
    lines = [json.loads(line) for line in (tmp_path / METRICS).read_text().splitlines()]
    assert [(line["phase"], line["epoch"]) for line in lines] == [
        *(("autoencoder", epoch) for epoch in (1, 2, 3)),
        *(("classifier", epoch) for epoch in (1, 2)),
    ]
    assert all(np.isfinite([line["loss"], line["unseen"]]).all() for line in lines)
    assert lines[2]["loss"] < lines[0]["loss"]


def test_greedy_training_moves_one_stage_at_a_time(tmp_path: Path, digits: Dataset) -> None:
    run = make(tmp_path, digits, replace(RECIPE, greedy=True, epochs=1))
    before = {name: one.value.copy() for name, one in run.model.parameters.items()}
    steps = -(-len(run.seen.images) // RECIPE.batch)
    with pytest.raises(Stopped):
        run.train(stopping_after(steps, lambda: os.kill(os.getpid(), signal.SIGINT)))
    changed = {name for name, one in run.model.parameters.items() if not np.array_equal(one.value, before[name])}
    assert changed == set(run.model.stage_parameters(0))


def test_fine_tuning_leaves_the_autoencoder_alone(tmp_path: Path, digits: Dataset) -> None:
    run = make(tmp_path, digits)
    run.train()
    arrays, _ = checkpoint.load(tmp_path / MODEL)
    model = Autoencoder.open(tmp_path / MODEL)
    np.testing.assert_array_equal(model.forward(digits.images), run.model.forward(digits.images))
    tuned = arrays["classifier.0.0.weight"]
    assert tuned.shape == arrays["model.encoder.0.weight"].shape
    assert not np.array_equal(tuned, arrays["model.encoder.0.weight"])


def test_a_diverging_run_says_so(tmp_path: Path, digits: Dataset) -> None:
    run = make(tmp_path, digits, replace(RECIPE, rate=1e30))
    with np.errstate(all="ignore"), pytest.raises(FloatingPointError, match="learning rate below 1e"):
        run.train()


def test_the_last_step_may_diverge_too(tmp_path: Path, digits: Dataset) -> None:
    """One step: its loss is that before the step, and finite; nothing is written."""
    run = make(tmp_path, digits, replace(RECIPE, rate=1e30, epochs=1, batch=100))
    with pytest.raises(FloatingPointError, match=r"unseen loss=.*learning rate below 1e"):
        run.train()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("part", ["model", "classifier"])
def test_weights_that_are_not_finite_replace_no_file(tmp_path: Path, digits: Dataset, part: str) -> None:
    run = make(tmp_path, digits)
    run.train()
    good = {name: (tmp_path / name).read_bytes() for name in (CHECKPOINT, MODEL)}
    model = run.model if part == "model" else run.classifier
    assert model
    next(iter(model.parameters.values())).value.flat[-1] = np.nan
    for save in (run.save, run.save_model):
        with pytest.raises(FloatingPointError, match="expected finite numbers") as caught:
            save()
        assert "\n" not in str(caught.value)
    assert {name: (tmp_path / name).read_bytes() for name in good} == good


@pytest.mark.parametrize("signals", [1, 2])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_loses_nothing(tmp_path: Path, digits: Dataset, number: int, signals: int) -> None:
    def act() -> None:
        for _ in range(signals):
            os.kill(os.getpid(), number)

    with pytest.raises(Stopped):
        make(tmp_path, digits).train(stopping_after(3, act))
    assert Run.resume(tmp_path, lambda _: digits).place.step == 3


def test_a_third_signal_acts_at_once(tmp_path: Path, digits: Dataset) -> None:
    def act() -> None:
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        make(tmp_path, digits).train(stopping_after(3, act))
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_resuming_sweeps_what_a_killed_save_left(tmp_path: Path, digits: Dataset) -> None:
    make(tmp_path, digits).save()
    left = [".checkpoint.0123abcd.safetensors", ".model.0123abcd.safetensors", ".metrics.0123abcd.jsonl"]
    left += [f".{name}.0123abcd.png" for name in ("loss", "filters", "reconstructions")]
    kept = [".other.0123abcd.png", ".checkpoint.safetensors", ".loss.12.png"]
    for name in (*left, *kept):
        (tmp_path / name).touch()
    Run.resume(tmp_path, lambda _: digits)
    assert {file.name for file in tmp_path.iterdir()} == {CHECKPOINT, METRICS, *kept}


def test_labels_of_one_class_are_refused(tmp_path: Path, digits: Dataset) -> None:
    with pytest.raises(ValueError, match="labels of a single class: expected at least two"):
        make(tmp_path, replace(digits, labels=np.zeros(100, np.int64)))


def test_data_of_another_shape_is_refused(tmp_path: Path, digits: Dataset) -> None:
    with pytest.raises(ValueError, match="images of shape"):
        Run(tmp_path, digits, Architecture(1, (9, 9), STAGES), RECIPE)


def test_labels_that_are_no_classes_are_refused(tmp_path: Path, digits: Dataset) -> None:
    labels = np.where(np.arange(100) < 50, 0, 10**9)
    with pytest.raises(ValueError, match="labels up to 1000000000: expected classes"):
        make(tmp_path, replace(digits, labels=labels))


def test_changed_data_is_refused(tmp_path: Path, digits: Dataset) -> None:
    make(tmp_path, digits).save()
    with pytest.raises(ValueError, match="they have changed"):
        Run.resume(tmp_path, lambda _: replace(digits, images=digits.images + 1))


@pytest.mark.parametrize("damage", ["truncated", "foreign", "missing", "other architecture", "other version"])
def test_damaged_checkpoints_are_refused_in_one_line(tmp_path: Path, digits: Dataset, damage: str) -> None:
    run = make(tmp_path, digits)
    run.save()
    path = tmp_path / CHECKPOINT
    arrays, description = checkpoint.load(path)
    match damage:
        case "truncated":
            path.write_bytes(path.read_bytes()[:-100])
        case "foreign":
            path.write_bytes(b"PK\x03\x04 something else entirely")
        case "missing":
            path.unlink()
        case "other architecture":
            architecture = json.loads(description["architecture"])
            architecture["stages"][0]["channels"] = 7
            checkpoint.save(path, arrays, description | {"architecture": json.dumps(architecture)})
        case "other version":
            checkpoint.save(path, arrays, {"architecture": description["architecture"]})
    with pytest.raises(ValueError, match="checkpoint") as caught:
        Run.resume(tmp_path, lambda _: digits)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_noise() -> None:
    images = np.ones((200, 1, 20, 20), np.float32)
    rng = np.random.default_rng(0)
    assert corrupt(images, "none", 0.5, rng) is images
    noisy, masked = corrupt(images, "gaussian", 0.5, rng), corrupt(images, "masking", 0.3, rng)
    # 80,000 values: means and deviations are right to a few times 1 / sqrt(80,000).
    close = 5 / np.sqrt(images.size)
    assert noisy.dtype == masked.dtype == np.float32
    assert noisy.std() == pytest.approx(0.5, abs=close)
    assert masked.mean() == pytest.approx(0.7, abs=close)
    assert set(np.unique(masked)) == {0, 1}


def test_the_learning_rate_falls_from_whole_to_nothing() -> None:
    assert decay(0) == 1
    assert decay(0.5) == pytest.approx(0.5)
    assert decay(1) == pytest.approx(0)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"epochs": -1}, ["epochs=-1", "at least 0"]),
        ({"batch": 0}, ["batch=0", "at least 1"]),
        ({"rate": 0.0}, ["rate=0.0", "positive"]),
        ({"tune_rate": float("nan")}, ["tune_rate=nan", "positive"]),
        ({"noise": "salt"}, ["noise='salt'", "masking"]),
        ({"noise": "masking", "amount": 1.0}, ["amount=1.0", "below 1"]),
        ({"noise": "gaussian", "amount": -1.0}, ["amount=-1.0"]),
    ],
)
def test_impossible_recipes_are_told(change: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 (the words are checked)
        Recipe(**change)
    for word in words:
        assert word in str(caught.value)
