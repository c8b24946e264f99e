"""The commands about autoencoders: train one, encode with it, reconstruct with it."""

from __future__ import annotations

from itertools import count
from pathlib import Path
from tempfile import TemporaryFile
from typing import Annotated, Any

import numpy as np
import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table

from ..architecture import Activation, Architecture, default_output, default_stages
from ..autoencoder import Autoencoder
from ..data import Dataset, load, save_pictures
from ..files import make_directory, replace_file
from ..layers import Sequential, in_batches
from ..phases import Framework, FrameworkName, framework_of
from ..recipe import Noise, Recipe
from ..report import report
from ..train import CHECKPOINT, FILES, MODEL, Run, Stopped
from . import parse
from .app import INTERRUPTED, command, console, fail
from .display import progress_display

RUNS = Path("runs")
"""Where runs go that are not told where."""

Size = Annotated[int | None, typer.Option(help="Cut pictures into squares of this many pixels.", min=1)]
Trained = Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a training run.")]
Images = Annotated[Path, typer.Argument(metavar="IMAGES", help="A folder of pictures, a picture, .npy or .npz.")]


@command
def train(
    context: typer.Context,
    images: Annotated[
        Path | None,
        typer.Argument(metavar="IMAGES", help="A folder of pictures, .npy or .npz (N, C, *X); none: digits."),
    ] = None,
    size: Size = None,
    stage: Annotated[
        list[str] | None,
        typer.Option(help="CHANNELS[,kernel=K][,stride=S][,padding=P][,bank=T|local]; once for each stage."),
    ] = None,
    tied: Annotated[bool, typer.Option(help="Decode with the encoder's weights.")] = True,
    inner: Annotated[Activation, typer.Option(help="Nonlinearity between stages.")] = "relu",
    code: Annotated[Activation, typer.Option(help="Nonlinearity of the code.")] = "identity",
    output: Annotated[
        Activation | None, typer.Option(help="Nonlinearity of the reconstruction; none: sigmoid for values in [0, 1].")
    ] = None,
    greedy: Annotated[bool, typer.Option(help="Train stage by stage instead of end to end.")] = False,
    noise: Annotated[Noise, typer.Option(help="Denoising: what corrupts the input.")] = Recipe.noise,
    amount: Annotated[
        float, typer.Option(help="Its standard deviation, or the share of values it masks.")
    ] = Recipe.amount,
    epochs: Annotated[int, typer.Option(help="Passes over the images.", min=0)] = Recipe.epochs,
    batch: Annotated[int, typer.Option(help="Images in a step.", min=1)] = Recipe.batch,
    rate: Annotated[float, typer.Option(help="Adam's learning rate.")] = Recipe.rate,
    tune_epochs: Annotated[int, typer.Option(help="Passes to fine-tune the classifier.", min=0)] = Recipe.tune_epochs,
    tune_rate: Annotated[float, typer.Option(help="Learning rate of the fine-tuning.")] = Recipe.tune_rate,
    tune_amount: Annotated[float, typer.Option(help="Noise while fine-tuning.")] = Recipe.tune_amount,
    seed: Annotated[int, typer.Option(help="Of weights, order and noise.", min=0)] = 0,
    framework: Annotated[
        FrameworkName, typer.Option(help="What computes; torch, under torchrun, shares every batch among processes.")
    ] = "numpy",
    out: Annotated[Path | None, typer.Option(help="The run's folder; it must be new.")] = None,
    resume: Annotated[
        Path | None, typer.Option(metavar="RUN", help="Continue the run in this folder; IMAGES: where they are now.")
    ] = None,
) -> None:
    """Train a convolutional autoencoder.

    With labels a classifier is fine-tuned from it too; both are compared with simpler ways to do the same.
    """
    computes = framework_of(framework)
    if resume is not None:
        _refuse_others(context)
        run = _resumed(resume, images, size, computes)
    else:
        dataset = load(images, size=size)
        channels, *shape = dataset.images.shape[1:]
        stages = tuple(parse.stage(text, len(shape)) for text in stage or ()) or default_stages(channels, tuple(shape))
        output = output or default_output(dataset.images)
        architecture = Architecture(channels, tuple(shape), stages, tied, inner, code, output)
        recipe = Recipe(epochs, batch, rate, greedy, noise, amount, tune_epochs, tune_rate, tune_amount, seed)
        folder = _new_folder(out, dataset.name) if computes.leads else Path()
        run = Run(folder, dataset, architecture, recipe, _source(images, size), computes)
        if computes.leads:
            _make_writable(run.folder)  # last, so that a refusal leaves nothing behind
    _train(run, "" if framework == "numpy" else f" --framework {framework}")


def _train(run: Run, options: str) -> None:
    """Train and report; `options` are to be given again to continue in the same way."""
    again = f"triconv train --resume {run.folder}{options}"
    seen, unseen = len(run.seen.images), len(run.unseen.images)
    console.print(f"{run.dataset.name}: {seen} images to learn, {unseen} unseen", soft_wrap=True)
    shapes = " → ".join(str(shape) for shape in run.architecture.shapes)
    console.print(f"{shapes}: {run.architecture.code_size} code values")
    try:
        with progress_display() as show:
            run.train(show)
        if not run.framework.leads:
            return
        rows = report(run).rows()
    except Stopped:
        fail(f"stopped and saved; to continue: {again}", INTERRUPTED)
    except KeyboardInterrupt:
        if not (run.folder / CHECKPOINT).exists():
            raise
        fail(f"interrupted; to continue from the last checkpoint: {again}", INTERRUPTED)
    table = Table(title=f"on {unseen} unseen images", show_header=False, box=SIMPLE_HEAD)
    table.add_column()
    table.add_column(justify="right")
    for row in rows:
        table.add_row(*row)
    console.print(table)
    console.print(f"wrote {run.folder}", soft_wrap=True)


def _refuse_others(context: typer.Context) -> None:
    """A resumed run takes its options from its checkpoint; others would be ignored, so they are refused.

    Where the images are may change: that they are the same is checked. So may what computes.
    """
    for name in context.params:
        origin = context.get_parameter_source(name)
        if (
            name not in ("resume", "images", "size", "framework")
            and origin is not None
            and origin.name == "COMMANDLINE"
        ):
            raise ValueError(f"--resume with {name}: a resumed run keeps the options it was started with")


def _resumed(folder: Path, images: Path | None, size: int | None, framework: Framework) -> Run:
    given = {name: value for name, value in _source(images, size).items() if value is not None}

    def load_source(source: dict[str, Any]) -> Dataset:
        source |= given
        if source["images"] is not None and not Path(source["images"]).exists():
            raise ValueError(
                f"{source['images']}: no such file or folder; if the images have moved, "
                f"name the new place: triconv train NEW --resume {folder}"
            )
        return load(source["images"], size=source["size"])

    return Run.resume(folder, load_source, framework)


def _source(images: Path | None, size: int | None) -> dict[str, Any]:
    return {"images": None if images is None else str(images.resolve()), "size": size}


def _new_folder(out: Path | None, name: str) -> Path:
    """Where a new run goes: a folder with no run's files in it, so that nothing is overwritten."""
    numbered = (RUNS / (Path(name).stem + (f"-{number}" if number > 1 else "")) for number in count(1))
    folder = out or next(folder for folder in numbered if not folder.exists() or not any(folder.iterdir()))
    if held := [name for name in FILES if (folder / name).exists()]:
        advice = f"; continue it with --resume {folder}" if CHECKPOINT in held else ""
        raise ValueError(f"--out {folder}: expected a new folder, but it holds a run's {held[0]}{advice}")
    return folder


def _make_writable(folder: Path) -> None:
    """Make the folder, and find out before training whether files can be written there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ValueError(f"--out {folder}: cannot write there: {error.strerror}") from None


@command
def encode(
    run: Trained,
    images: Images,
    output: Annotated[Path, typer.Option("-o", "--output", help="The .npy file to write.")] = Path("codes.npy"),
    size: Size = None,
) -> None:
    """Write the codes of images.

    An .npy array (N, channels, *positions).
    """
    model, dataset = _open(run, images, size)
    codes = in_batches(Sequential(model.encoders), dataset.images)
    with replace_file(output) as beside, beside.open("wb") as file:
        np.save(file, codes)
    console.print(f"wrote {output}: {codes.shape} {codes.dtype}", soft_wrap=True)


@command
def reconstruct(
    run: Trained,
    images: Images,
    output: Annotated[Path, typer.Option("-o", "--output", help="The folder to write.")] = Path("reconstructions"),
    size: Size = None,
) -> None:
    """Write the reconstructions of images.

    Pictures, or an .npy file for arrays that are none.
    """
    model, dataset = _open(run, images, size)
    reconstructed = in_batches(model, dataset.images)
    error = float(np.mean((reconstructed - dataset.images) ** 2, dtype=np.float64))
    make_directory(output)
    if reconstructed.ndim == 4 and reconstructed.shape[1] in (1, 3):
        written = f"{len(save_pictures(reconstructed, output))} pictures"
    else:
        with replace_file(output / "reconstructions.npy") as beside, beside.open("wb") as file:
            np.save(file, reconstructed)
        written = f"reconstructions.npy {reconstructed.shape}"
    console.print(f"wrote {output}: {written}, mean squared error {error:.5f}", soft_wrap=True)


def _open(run: Path, images: Path, size: int | None) -> tuple[Autoencoder, Dataset]:
    model = Autoencoder.open(run / MODEL if (run / MODEL).exists() else run / CHECKPOINT)
    dataset = load(images, size=size)
    expected = (model.architecture.channels, *model.architecture.size)
    if dataset.images.shape[1:] != expected:
        raise ValueError(
            f"{images}: images of shape {dataset.images.shape[1:]}: expected {expected}, as {run} was trained on"
        )
    return model, dataset
