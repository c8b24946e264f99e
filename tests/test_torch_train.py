"""Training in PyTorch: NumPy's losses, NumPy's files, and with two processes the losses of one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from triconv import checkpoint
from triconv.architecture import Architecture, Stage, default_stages
from triconv.autoencoder import Autoencoder
from triconv.cli import app
from triconv.data import Dataset, load
from triconv.phases import FrameworkName, framework_of
from triconv.processes import VARIABLES, Process, this_process
from triconv.recipe import Recipe
from triconv.torch.train import Torch
from triconv.train import CHECKPOINT, FILES, METRICS, MODEL, Run, Stopped

STAGES = (Stage(4, (3, 3), (2, 2), "same"), Stage(5, (4, 4), (1, 1)))
TILED = (Stage(4, (3, 3), (1, 1), "same", (2, 2)), Stage(5, (3, 3), (2, 2), "valid", "local"))
RECIPE = Recipe(epochs=2, batch=16, tune_epochs=2)
CLOSE = 1e-9
"""Relative. Sums of at most some thousand products in float64 differ by 1e-13 or less; Adam, which divides by the
gradient's own size, enlarges that from step to step, by no more than 1e4 in the few steps here."""
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2")
TORCHRUN += ("--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0")  # a free port


def digits(count: int) -> Dataset:
    """The first of the digits, in float64: so that rounding is all that may differ, and stays small."""
    whole = load()
    assert whole.labels is not None
    return replace(whole, images=whole.images[:count].astype(np.float64), labels=whole.labels[:count])


def make(folder: Path, name: FrameworkName, recipe: Recipe = RECIPE, count: int = 100, **options: Any) -> Run:
    folder.mkdir(exist_ok=True)
    architecture = Architecture(1, (8, 8), **{"stages": STAGES, **options})
    run = Run(folder, digits(count), architecture, recipe, framework=framework_of(name))
    run.model = Autoencoder(architecture, seed=recipe.seed, dtype="float64")
    return run


def resumed(folder: Path, name: FrameworkName) -> Run:
    """The run of a folder, in the dtype of its checkpoint."""
    arrays, description = checkpoint.load(folder / CHECKPOINT)
    run = Run.resume(folder, lambda _: digits(100), framework_of(name))
    run.model = Autoencoder(run.architecture, dtype="float64")
    for part in ("classifier", "_learner"):
        run.__dict__.pop(part, None)
    run._learner = None
    run._restore(arrays)
    assert description["fingerprint"] == run.dataset.fingerprint
    return run


def assert_same_losses(found: list[dict[str, Any]], expected: list[dict[str, Any]], close: float = CLOSE) -> None:
    assert [(line["phase"], line["epoch"]) for line in found] == [(line["phase"], line["epoch"]) for line in expected]
    for mine, other in zip(found, expected, strict=True):
        for name in ("loss", "unseen"):
            assert mine[name] == pytest.approx(other[name], rel=close), (name, mine)


def metrics(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / METRICS).read_text().splitlines()]


def test_two_epochs_on_the_digits_have_numpys_losses(tmp_path: Path) -> None:
    """The defaults of `triconv train`: 45 steps an epoch."""
    runs = [
        make(tmp_path, name, Recipe(epochs=2, tune_epochs=1), 1797, stages=default_stages(1, (8, 8)), output="sigmoid")
        for name in ("numpy", "torch")
    ]
    for run in runs:
        run.train()
    assert_same_losses(runs[1].metrics, runs[0].metrics)


@pytest.mark.parametrize("stages", [STAGES, TILED], ids=["strided", "banks"])
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "free"])
@pytest.mark.parametrize("greedy", [False, True], ids=["end to end", "greedy"])
def test_every_phase_has_numpys_losses(tmp_path: Path, greedy: bool, tied: bool, stages: tuple[Stage, ...]) -> None:
    recipe = replace(RECIPE, greedy=greedy, noise="masking", amount=0.2)
    options = {"stages": stages, "tied": tied, "inner": "tanh", "code": "relu", "output": "sigmoid"}
    runs = [make(tmp_path / name, name, recipe, **options) for name in ("numpy", "torch")]
    for run in runs:
        run.train()
    assert_same_losses(runs[1].metrics, runs[0].metrics)
    numpys, torchs = (checkpoint.load(run.folder / MODEL) for run in runs)
    assert numpys[0].keys() == torchs[0].keys()
    for name, array in numpys[0].items():
        assert torchs[0][name].dtype == array.dtype
        np.testing.assert_allclose(torchs[0][name], array, rtol=1e-6, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("steps", [1, 5, 7, 13], ids=["first", "epoch's end", "middle", "classifier"])
@pytest.mark.parametrize("names", [("numpy", "torch"), ("torch", "numpy"), ("torch", "torch")], ids="→".join)
def test_a_stopped_run_goes_on_in_either(
    tmp_path: Path, names: tuple[FrameworkName, FrameworkName], steps: int
) -> None:
    whole = make(tmp_path / "whole", names[1])
    whole.train()
    stopped = make(tmp_path / "stopped", names[0])
    left = iter(range(steps - 1, -1, -1))
    with pytest.raises(Stopped):
        stopped.train(lambda _: None if next(left) else os.kill(os.getpid(), signal.SIGINT))
    again = resumed(tmp_path / "stopped", names[1])
    assert not again.finished
    again.train()
    assert_same_losses(again.metrics, whole.metrics, 0 if names[0] == names[1] else CLOSE)
    if names[0] == names[1]:
        expected, found = (checkpoint.load(tmp_path / name / MODEL)[0] for name in ("whole", "stopped"))
        for name, array in expected.items():
            np.testing.assert_array_equal(found[name], array, err_msg=name)


def test_a_diverging_run_says_so(tmp_path: Path) -> None:
    with pytest.raises(FloatingPointError, match="learning rate below 1e"):
        make(tmp_path, "torch", replace(RECIPE, rate=1e200)).train()
    assert not list(tmp_path.iterdir())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no accelerator")
def test_on_an_accelerator_losses_are_numpys(tmp_path: Path) -> None:
    runs = [make(tmp_path, name) for name in ("numpy", "torch")]
    assert isinstance(runs[1].framework, Torch)
    assert runs[1].framework.device.type == "cuda"
    for run in runs:
        run.train()
    assert_same_losses(runs[1].metrics, runs[0].metrics)


UNEQUAL = replace(RECIPE, batch=79, greedy=True)
"""Of 80 examples: shares of 40 and 39, and in the other batch of 1 and none."""


HANGS = 400
"""Seconds after which a command does not end at all; ten are usual, and many times as much where others compute."""


@contextmanager
def together(folder: Path, *command: str | Path) -> Iterator[subprocess.Popen[str]]:
    """A command in two processes, whose working directory is a folder; none is left over afterwards."""
    tests = Path(__file__).parent
    path = os.pathsep.join([str(tests), *filter(None, (str(tests.parent / "src"), os.environ.get("PYTHONPATH")))])
    kept = {name: text for name, text in os.environ.items() if name not in VARIABLES}
    with subprocess.Popen(
        [*TORCHRUN, *map(str, command)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder,
        env={**kept, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
    ) as process:
        try:
            yield process
        finally:
            process.terminate()  # torchrun ends its workers then; one that has ended takes no notice


def test_two_processes_have_the_losses_of_one(tmp_path: Path) -> None:
    """Exactly, but for rounding: the issue asks for 1e-6, and unequal shares would be off by a hundredth."""
    (tmp_path / "script.py").write_text(
        "from pathlib import Path\n"
        "from test_torch_train import UNEQUAL, make\n"
        f"make(Path({str(tmp_path / 'two')!r}), 'torch', UNEQUAL).train()\n"
    )
    (tmp_path / "two").mkdir()
    with together(tmp_path, tmp_path / "script.py") as process:
        _, errors = process.communicate(timeout=HANGS)
    assert process.returncode == 0, errors
    one = make(tmp_path / "one", "torch", UNEQUAL)
    one.train()
    assert_same_losses(metrics(tmp_path / "two"), one.metrics)


QUICK = ("--stage", "4,kernel=3,stride=2,padding=same", "--stage", "6,kernel=4", "--epochs", "2", "--tune-epochs", "1")


def test_two_processes_write_and_speak_as_one(tmp_path: Path) -> None:
    """In float32, as the command trains; the losses of so few steps are one process's to 1e-6 even so."""
    few = load().images[:90]
    np.save(tmp_path / "few.npy", few)
    arguments = ("train", str(tmp_path / "few.npy"), *QUICK[:-2], "--framework", "torch", "--out")
    with together(tmp_path, "-m", "triconv", *arguments, tmp_path / "two") as process:
        output, errors = process.communicate(timeout=HANGS)
    assert process.returncode == 0, errors
    assert output.count("images to learn") == output.count("wrote ") == output.count("ratio to PCA") == 1
    assert output.count("autoencoder epoch 1/2") == 1
    assert {file.name for file in (tmp_path / "two").iterdir()} == set(FILES)
    assert {file.name for file in tmp_path.iterdir()} == {"few.npy", "two"}
    one = CliRunner().invoke(app, [*arguments, str(tmp_path / "one")])
    assert one.exit_code == 0, one.output
    assert_same_losses(metrics(tmp_path / "two"), metrics(tmp_path / "one"), 1e-6)
    tops = [output.splitlines()[:2], one.stdout.splitlines()[:2]]
    assert tops[0] == tops[1]


def test_two_processes_stop_together_and_go_on_alone(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    command = ("-m", "triconv", "train", *QUICK[:4], "--epochs", "100000", "--framework", "torch", "--out", folder)
    with together(tmp_path, *command) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "epoch 2/" in line:
                break
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=HANGS)
    said = [line for line in errors.splitlines() if line.startswith("triconv: ")]
    assert said == [f"triconv: stopped and saved; to continue: triconv train --resume {folder} --framework torch"]
    assert {file.name for file in folder.iterdir()} == {CHECKPOINT, METRICS}
    arrays, description = checkpoint.load(folder / CHECKPOINT)
    place = description["place"]
    steps = place["epoch"] * -(-1437 // 32) + place["step"]
    assert int(arrays["optimizer.steps"]) == steps > 0
    run = Run.resume(folder, lambda _: load())
    with pytest.raises(Stopped):
        run.train(lambda _: os.kill(os.getpid(), signal.SIGINT))
    assert int(checkpoint.load(folder / CHECKPOINT)[0]["optimizer.steps"]) == steps + 1


def test_another_process_that_ends_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("init_process_group", "barrier", "destroy_process_group"):
        monkeypatch.setattr(torch.distributed, name, lambda *_: None)
    framework = Torch()
    framework.process = Process(1, 2)
    with pytest.raises(ConnectionError, match=r"^process 1 of 2: closed by peer$"), framework.together():
        raise RuntimeError("closed by peer\nand more")


def alone(*arguments: str, before: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    script = f"import sys; sys.argv = ['triconv', *{arguments!r}]\n{before}\nfrom triconv.__main__ import main; main()"
    return subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env={**os.environ, **environment}
    )


@pytest.mark.parametrize(
    ("arguments", "before", "environment", "line"),
    [
        (
            ("--framework", "torch"),
            "sys.modules['torch'] = None",
            {},
            "framework='torch': triconv.torch needs PyTorch: pip install 'triconv[torch]'",
        ),
        (
            (),
            "",
            dict(zip(VARIABLES, "0202", strict=True)),
            "framework='numpy' in 2 processes: expected 'torch', which shares every batch among them",
        ),
        (
            ("--framework", "torch"),
            "",
            dict(zip(VARIABLES, ("0", "two", "0", "2"), strict=True)),
            "WORLD_SIZE='two': expected a whole number, as torchrun sets it",
        ),
        (("--framework", "torch"), "", dict(zip(VARIABLES, "1212", strict=True)), ""),
    ],
    ids=["no torch", "numpy under torchrun", "environment", "all but the first are silent"],
)
def test_refusals_are_one_line(
    tmp_path: Path, arguments: tuple[str, ...], before: str, environment: dict[str, str], line: str
) -> None:
    options = ("train", "--rate", "0", "--out", str(tmp_path / "new"), *arguments)
    done = alone(*options, before=before, **environment)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (f"triconv: {line}\n" if line else "")
    assert not list(tmp_path.iterdir())


def test_the_command_loads_torch_only_when_asked() -> None:
    script = "import sys, triconv.cli, triconv.train; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True)


def test_processes_are_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    assert this_process() == Process(0, 1, 0, 1)
    for name, text in zip(VARIABLES, "5813", strict=True):
        monkeypatch.setenv(name, text)
    assert this_process() == Process(5, 8, 1, 3)
    assert not this_process().leads


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_shares_make_the_batch(size: int) -> None:
    batch = np.arange(12.0).reshape(4, 3)
    framework = Torch()
    shares = []
    for rank in range(size):
        framework.process = Process(rank, size)
        shares.append(framework.share(batch).numpy(force=True))
    np.testing.assert_array_equal(np.concatenate(shares), batch)
    assert all(len(a) - len(b) in (0, 1) for a, b in pairwise(shares))
