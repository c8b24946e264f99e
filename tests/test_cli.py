"""The command line: what it prints, what it writes, and how it says no."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import fields, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from triconv import checkpoint
from triconv.cli import app, parse
from triconv.coefficients import DEFAULT, Coefficients, kept
from triconv.data import load
from triconv.train import CHECKPOINT, FILES, MODEL

QUICK = ("--epochs", "2", "--tune-epochs", "1", "--stage", "4,kernel=3,stride=2,padding=same", "--stage", "6,kernel=4")
COMMAND = (sys.executable, "-m", "triconv")


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def refused(*arguments: str | Path) -> str:
    """The one line with which a command refuses."""
    result = run(*arguments)
    assert result.exit_code == 1, result.output
    assert result.stdout == ""
    line = result.stderr
    assert line.startswith("triconv: ")
    assert line.count("\n") == 1
    assert "Traceback" not in line
    return line


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "digits"
    result = run("train", *QUICK, "--out", folder)
    assert result.exit_code == 0, result.output
    return folder


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def pictures(folder: Path, count: int, size: tuple[int, int], mode: str = "RGB") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for number in range(count):
        shape = (size[1], size[0], 3) if mode == "RGB" else (size[1], size[0])
        Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).save(folder / f"{number:02}.png")
    return folder


def test_training_writes_all_its_files_and_a_table(here: Path) -> None:
    result = run("train", *QUICK)
    assert result.exit_code == 0, result.output
    folder = here / "runs" / "digits"
    written = {CHECKPOINT, MODEL, "metrics.jsonl", "loss.png", "filters.png", "reconstructions.png"}
    assert {file.name for file in folder.iterdir()} == written
    for name in ("loss.png", "filters.png", "reconstructions.png"):
        with Image.open(folder / name) as picture:
            picture.verify()
    for words in (
        "reconstruction error, 6 code values",
        "reconstruction error, PCA with 6 values",
        "reconstruction error, mean image",
        "accuracy, linear probe on codes",
        "accuracy, linear probe on pixels",
        "accuracy, fine-tuned classifier",
    ):
        assert words in result.output
    assert re.search(r"autoencoder epoch 2/2 loss \d+\.\d+ unseen \d+\.\d+ [\d,]+ images/s \d+ s left", result.output)


def test_torch_trains_to_the_same_files(trained: Path, here: Path) -> None:
    """The numbers are compared in test_torch_train."""
    result = run("train", *QUICK, "--framework", "torch", "--out", "run")
    assert result.exit_code == 0, result.output
    assert {file.name for file in (here / "run").iterdir()} == set(FILES)
    numpys, torchs = (checkpoint.load(folder / MODEL)[0] for folder in (trained, here / "run"))
    assert {name: array.shape for name, array in torchs.items()} == {name: one.shape for name, one in numpys.items()}
    for other in ("numpy", "torch"):
        again = run("train", "--resume", "run", "--framework", other)
        assert again.exit_code == 0, again.output
    unknown = run("train", "--framework", "jax")
    assert unknown.exit_code == 2
    assert "'jax'" in unknown.stderr


def test_a_second_run_gets_a_folder_of_its_own(here: Path) -> None:
    for _ in range(2):
        assert run("train", *QUICK).exit_code == 0
    assert {folder.name for folder in (here / "runs").iterdir()} == {"digits", "digits-2"}


def test_the_same_seed_gives_the_same_weights(trained: Path, tmp_path: Path) -> None:
    assert run("train", *QUICK, "--out", tmp_path / "again").exit_code == 0
    assert run("train", *QUICK, "--seed", "1", "--out", tmp_path / "other").exit_code == 0
    weights = [checkpoint.load(folder / MODEL)[0] for folder in (trained, tmp_path / "again", tmp_path / "other")]
    assert all(np.array_equal(array, weights[1][name]) for name, array in weights[0].items())
    assert not np.array_equal(weights[0]["model.encoder.0.weight"], weights[2]["model.encoder.0.weight"])


@pytest.mark.parametrize("signals", [1, 2])
def test_ctrl_c_saves_and_says_how_to_resume(tmp_path: Path, signals: int) -> None:
    folder = tmp_path / "run"
    long = ("--epochs", "100000", "--out", str(folder), *QUICK[2:])
    with subprocess.Popen(
        [*COMMAND, "train", *long], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "epoch 3/" in line:
                break
        for _ in range(signals):
            process.send_signal(signal.SIGINT)
            time.sleep(0.001)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors == f"triconv: stopped and saved; to continue: triconv train --resume {folder}\n"
    assert (folder / CHECKPOINT).exists()
    assert not (folder / MODEL).exists()


def test_a_killed_process_leaves_a_checkpoint_to_resume(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    long = ("--epochs", "100000", "--out", str(folder), *QUICK[2:])
    with subprocess.Popen([*COMMAND, "train", *long], stdout=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 60
        while not (folder / CHECKPOINT).exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        process.kill()
    checkpoint.load(folder / CHECKPOINT)
    assert not list(folder.glob("*.npy"))


def test_ctrl_c_during_the_report_says_how_to_resume(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(import_module("triconv.cli.train"), "report", interrupted)
    result = run("train", "--resume", trained)
    assert result.exit_code == 130
    assert result.stderr.endswith(f"triconv train --resume {trained}\n")
    assert result.stderr.count("\n") == 1


def test_a_diverged_run_is_a_failure(here: Path) -> None:
    np.save("a.npy", np.random.default_rng(0).random((30, 1, 8, 8)))
    overflow = ("--rate", "1e10", "--stage", "4", "--output", "identity")
    for name, options in (("a", ()), ("b", ("--batch", "1")), ("c", ("--epochs", "2")), ("d", overflow)):
        arguments = ("--rate", "1e30", "--epochs", "1", *options, "--out", name)
        done = subprocess.run([*COMMAND, "train", "a.npy", *arguments], capture_output=True, text=True)
        assert done.returncode == 1
        assert re.fullmatch(r"triconv: .*a learning rate below [\d.e+]+ may help\n", done.stderr), done.stderr
        assert not list((here / name).iterdir())


@pytest.mark.parametrize("name", ["a[/]b", "a[red]b", ":smile: [1]"])
def test_names_are_printed_as_they_are(here: Path, name: str) -> None:
    folder = pictures(here / name, 4, (8, 8))
    quick = ("--epochs", "1", "--stage", "2,kernel=3")
    result = run("train", folder, *quick, "--out", f"out {name}")
    assert result.exit_code == 0, result.output
    assert f"{name}: 3 images to learn" in result.stdout
    assert f"wrote out {name}\n" in result.stdout
    for command in ("encode", "reconstruct"):
        (here / f"{command} {name}").parent.mkdir(exist_ok=True)
        result = run(command, f"out {name}", folder, "-o", f"{command} {name}")
        assert result.exit_code == 0, result.output
        assert f"wrote {command} {name}: " in result.stdout


def test_refused_runs_leave_no_folder(here: Path) -> None:
    np.save("one.npy", np.zeros((1, 1, 8, 8)))
    np.savez("class.npz", images=np.zeros((20, 1, 8, 8)), labels=np.zeros(20, np.int64))
    for source, options, words in (
        ("one.npy", (), "at least 2 examples"),
        ("class.npz", (), "single class"),
        (None, ("--stage", "99999999999"), ""),
    ):
        message = refused("train", *([source] if source else []), *options, "--out", "new/run")
        assert words in message
        assert not (here / "new").exists()


def test_a_folder_of_other_files_keeps_them(here: Path) -> None:
    (here / ".write").write_text("mine")
    result = run("train", *QUICK, "--out", ".")
    assert result.exit_code == 0, result.output
    assert (here / ".write").read_text() == "mine"
    assert {file.name for file in here.iterdir()} == {".write", *FILES}


@pytest.mark.parametrize("name", FILES)
def test_no_file_of_a_run_is_overwritten(here: Path, name: str) -> None:
    (here / "old").mkdir()
    (here / "old" / name).write_text("mine")
    message = refused("train", *QUICK, "--out", "old")
    assert name in message
    assert ("--resume" in message) is (name == CHECKPOINT)
    assert [(file.name, file.read_text()) for file in (here / "old").iterdir()] == [(name, "mine")]


def test_nothing_trained_is_reported_without_losses(here: Path) -> None:
    result = run("train", "--epochs", "0", "--tune-epochs", "0", *QUICK[4:], "--out", "run")
    assert result.exit_code == 0, result.output
    assert "ratio to PCA" in result.stdout
    assert {file.name for file in (here / "run").iterdir()} == set(FILES) - {"loss.png"}


def test_moved_images_are_named_to_resume(here: Path) -> None:
    pictures(here / "old", 4, (20, 13))
    quick = ("--size", "6", "--epochs", "1", "--stage", "2,kernel=3")
    assert run("train", "old", *quick, "--out", "run").exit_code == 0
    shutil.move(here / "old", here / "new")
    message = refused("train", "--resume", "run")
    assert str(here / "old") in message
    assert "triconv train NEW --resume run" in message
    for arguments in (("new",), ("new", "--size", "6")):
        result = run("train", *arguments, "--resume", "run")
        assert result.exit_code == 0, result.output
    assert checkpoint.load(here / "run" / MODEL)[1]["source"] == {"images": str(here / "new"), "size": 6}
    assert "they have changed" in refused("train", "new", "--size", "5", "--resume", "run")
    assert "epochs" in refused("train", "new", "--epochs", "9", "--resume", "run")


@pytest.mark.slow
def test_the_defaults_keep_their_promise_on_digits(tmp_path: Path) -> None:
    """All defaults: a fifth less error than PCA, codes worth at least pixels, and 98 % after fine-tuning."""
    result = run("train", "--out", tmp_path / "run")
    assert result.exit_code == 0, result.output

    def figure(name: str) -> float:
        found = re.search(rf"{re.escape(name)} +(\d+\.\d+)%?", result.stdout)
        assert found, result.stdout
        return float(found[1])

    assert figure("ratio to PCA") <= 0.8
    assert figure("accuracy, fine-tuned classifier") >= 98
    assert figure("accuracy, linear probe on codes") >= figure("accuracy, linear probe on pixels")


def test_resume_of_a_finished_run_reports_again(trained: Path) -> None:
    before = (trained / MODEL).read_bytes()
    result = run("train", "--resume", trained)
    assert result.exit_code == 0, result.output
    assert "accuracy, fine-tuned classifier" in result.output
    assert (trained / MODEL).read_bytes() == before


def test_encode_and_reconstruct(trained: Path, tmp_path: Path) -> None:
    images = tmp_path / "images.npy"
    np.save(images, load().images[:7])
    assert run("encode", trained, images, "-o", tmp_path / "codes.npy").exit_code == 0
    codes = np.load(tmp_path / "codes.npy")
    assert codes.shape == (7, 6, 1, 1)
    result = run("reconstruct", trained, images, "-o", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert len(list((tmp_path / "out").glob("*.png"))) == 7
    assert re.search(r"mean squared error \d\.\d+", result.output)


def test_pictures_in_colour(tmp_path: Path) -> None:
    folder = pictures(tmp_path / "pictures", 6, (20, 13))
    out = tmp_path / "run"
    result = run("train", folder, "--size", "6", "--epochs", "1", "--stage", "4,kernel=3", "--out", out)
    assert result.exit_code == 0, result.output
    assert "28 images to learn, 8 unseen" in " ".join(result.output.split())  # 3 × 2 crops of each picture
    assert "accuracy" not in result.output
    result = run("reconstruct", out, folder, "--size", "6", "-o", tmp_path / "back")
    assert result.exit_code == 0, result.output
    assert len(list((tmp_path / "back").glob("*.png"))) == 36


@pytest.mark.parametrize("shape", [(12, 2, 15), (12, 1, 6, 5, 7)], ids=["one axis", "three axes"])
def test_arrays_of_other_ranks(tmp_path: Path, shape: tuple[int, ...]) -> None:
    images = tmp_path / "arrays.npy"
    np.save(images, np.random.default_rng(0).standard_normal(shape))
    out = tmp_path / "run"
    result = run("train", images, "--epochs", "1", "--stage", "4,kernel=3,stride=2", "--tied", "--out", out)
    assert result.exit_code == 0, result.output
    result = run("reconstruct", out, images, "-o", tmp_path / "back")
    assert result.exit_code == 0, result.output
    assert np.load(tmp_path / "back" / "reconstructions.npy").shape == shape


def test_labels_in_an_archive(tmp_path: Path) -> None:
    digits = load()
    assert digits.labels is not None
    images = tmp_path / "some.npz"
    np.savez(images, images=digits.images[:80], labels=digits.labels[:80])
    result = run("train", images, *QUICK, "--out", tmp_path / "run")
    assert result.exit_code == 0, result.output
    assert "accuracy, fine-tuned classifier" in result.output


@pytest.mark.parametrize(
    "options",
    [
        ("--greedy",),
        ("--tied", "--inner", "tanh", "--code", "sigmoid", "--output", "sigmoid"),
        ("--noise", "masking", "--amount", "0.2"),
        ("--stage", "2,kernel=1,bank=local", "--stage", "3,kernel=1x1,bank=1"),
    ],
)
def test_options_of_training(tmp_path: Path, options: tuple[str, ...]) -> None:
    images = tmp_path / "images.npy"
    np.save(images, load().images[:40])
    result = run("train", images, *QUICK, *options, "--out", tmp_path / "run")
    assert result.exit_code == 0, result.output


def test_check_prints_every_derivative_and_passes() -> None:
    result = run("check", "--order", "3")
    assert result.exit_code == 0, result.output
    assert "20 of 20 pass" in result.output
    for name in ("∂conv / ∂v", "∂²conv_transpose / ∂h²", "∂³conv_weight / ∂v³", "⟨w, conv_weight⟩"):
        assert name in result.output


def test_check_of_other_geometries() -> None:
    for options in (
        ("--visible", "1,4,9", "--weight", "6,2,3", "--groups", "2", "--dilation", "2", "--stride", "2"),
        ("--visible", "2,2,5,5", "--weight", "2,1,3,2,2,3", "--padding", "1:0,1", "--border", "reflect,circular"),
        ("--visible", "2,3", "--weight", "4,3", "--stride", "1", "--padding", "valid"),
    ):
        result = run("check", *(("--stride", "1") if "--stride" not in options else ()), *options)
        assert result.exit_code == 0, result.output


def test_check_fails_when_a_derivative_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    from triconv import tape

    right = tape.conv_weight
    monkeypatch.setattr(tape, "conv_weight", lambda *a, **k: 1.001 * right(*a, **k))
    result = run("check")
    assert result.exit_code == 1
    assert "FAIL" in result.output


def test_calibration_shows_and_keeps_what_it_measures(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def measured(show: Callable[[str], None]) -> Coefficients:
        show("cycles")
        return replace(DEFAULT, cycles=3.21e9)

    monkeypatch.setattr(import_module("triconv.cli.bench"), "measured", measured)
    monkeypatch.setenv("TRICONV_CACHE", str(here / "cache"))
    result = run("bench", "--calibrate")
    assert result.exit_code == 0, result.output
    (file,) = (here / "cache").iterdir()
    for words in (
        "measuring cycles",
        "3.21e+09",
        "4e+09",
        "cycles of a contraction",
        f"wrote {file}",
        "delete the file",
    ):
        assert words in result.stdout
    for one in fields(Coefficients):
        assert one.name in result.stdout
    assert kept() == replace(DEFAULT, cycles=3.21e9)


@pytest.mark.parametrize("more", [("--visible", "1,2,8,8"), ("--threads", "1"), ("--json", "a.json")])
def test_calibration_takes_no_other_option(more: tuple[str, str]) -> None:
    assert f"calibrate: expected no other option, not {more[0]}" in refused("bench", "--calibrate", *more)


def test_calibration_says_first_where_nothing_can_be_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    module = import_module("triconv.cli.bench")
    monkeypatch.setattr(module, "measured", lambda _: pytest.fail("ten seconds for nothing"))
    monkeypatch.setenv("TRICONV_CACHE", "")
    assert "TRICONV_CACHE=: expected a folder of this user's own" in refused("bench", "--calibrate")


def test_explain_says_what_and_why_not() -> None:
    result = run("explain", "conv_transpose", "--stride", "2", "--visible", "8,3,32,32", "--weight", "2,2,16,3,5,5")
    assert result.exit_code == 0, result.output
    for words in (
        "conv_transpose, float32",
        "hidden (8, 16, 14, 14)",
        "c0 mod 2",
        "flops",
        "workspace",
        "blocks vectors over",
        "roofline",
        "at one thread's peak",
        "not reference",
    ):
        assert words in " ".join(result.output.split())


def test_version_and_help() -> None:
    assert run("--version").output.startswith("triconv ")
    for name in ("train", "encode", "reconstruct", "check", "explain"):
        assert run(name, "--help").exit_code == 0


def test_refusals_of_training(trained: Path, here: Path) -> None:
    mixed = pictures(here / "mixed", 2, (8, 8))
    pictures(mixed / "more", 1, (9, 8))
    (here / "empty").mkdir()
    (here / "broken").mkdir()
    (here / "broken" / "a.png").write_bytes(b"not a picture")
    (here / "file").write_text("")
    for arguments, words in (
        (("train", "nowhere"), ["nowhere"]),
        (("train", "empty"), ["empty", "expected a folder with pictures"]),
        (("train", "broken"), ["a.png"]),
        (("train", "mixed"), ["--size"]),
        (("train", "mixed", "--size", "99"), ["99"]),
        (("train", "--stage", "0,kernel=3"), ["stage 0", "hidden_channels=0"]),
        (("train", "--stage", "4,kernel=9"), ["stage 0", "kernel size 9"]),
        (("train", "--stage", "4,colour=9"), ["4,colour=9", "CHANNELS"]),
        (("train", "--stage", "²"), ["stage='²'", "CHANNELS"]),
        (("train", "--stage", "4,padding=some"), ["padding='some'"]),
        (("train", "--stage", "4,bank=7"), ["bank", "7"]),
        (("train", "--rate", "0"), ["rate=0.0"]),
        (("train", "--noise", "masking", "--amount", "2"), ["amount=2.0"]),
        (("train", "--out", trained), [str(trained), "--resume"]),
        (("train", "--out", "file/run"), ["file/run", "cannot write"]),
        (("train", "--resume", "empty"), ["empty", "no such file"]),
        (("train", "--resume", trained, "--rate", "1"), ["rate", "--resume"]),
    ):
        message = refused(*arguments)
        for word in words:
            assert word in message, message
    assert not (here / "runs").exists() or not any((here / "runs").iterdir())


def test_refusals_of_using_a_run(trained: Path, here: Path) -> None:
    np.save("other.npy", np.zeros((2, 1, 9, 9), np.float32))
    np.save("images.npy", np.zeros((2, 1, 8, 8), np.float32))
    (here / "file").write_text("")
    (here / "cut").mkdir()
    (here / "cut" / MODEL).write_bytes((trained / MODEL).read_bytes()[:-9])
    for arguments, words in (
        (("encode", trained, "other.npy"), ["(1, 9, 9)", "(1, 8, 8)"]),
        (("encode", here, "images.npy"), ["no such file"]),
        (("encode", here / "cut", "images.npy"), [MODEL, "truncated"]),
        (("encode", trained, "missing.npy"), ["missing.npy"]),
        (("encode", trained, "images.npy", "-o", "file/codes.npy"), ["file/codes.npy"]),
        (("reconstruct", trained, "images.npy", "-o", "file"), ["cannot write file: File exists"]),
    ):
        message = refused(*arguments)
        for word in words:
            assert word in message, message
    assert {path.name for path in here.iterdir()} == {"other.npy", "images.npy", "file", "cut"}


def test_refusals_of_geometry() -> None:
    for arguments, words in (
        (("check", "--stride", "0"), ["stride=0"]),
        (("check", "--stride", "two"), ["stride='two'"]),
        (("check", "--padding", "some"), ["padding='some'"]),
        (("check", "--weight", "4,5,3,2"), ["weight", "visible channels"]),
        (("check", "--order", "0"), ["order=0"]),
        (("explain", "deconv"), ["operation='deconv'", "conv_transpose"]),
        (("explain", "--engine", "cudnn"), ["engine='cudnn'", "im2row"]),
        (("explain", "--dtype", "int8"), ["int8", "float32"]),
        (("explain", "--dtype", "colour"), ["colour"]),
        (("explain", "--visible", "1000000,3,9000,9000"), ["bytes"]),
    ):
        message = refused(*arguments)
        for word in words:
            assert word in message, message


def test_the_command_names_its_extra_when_that_is_missing() -> None:
    script = (
        "import importlib.util as u; find = u.find_spec\n"
        "u.find_spec = lambda name: None if name == 'typer' else find(name)\n"
        "from triconv.__main__ import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == "triconv: the command needs typer: pip install 'triconv[train]'\n"


def test_a_terminal_shows_a_live_bar(tmp_path: Path) -> None:
    pty = pytest.importorskip("pty", reason="terminals of this kind are a Unix thing")
    master, slave = pty.openpty()
    environment = os.environ | {"TERM": "xterm-256color", "COLUMNS": "100"}
    command = [*COMMAND, "train", *QUICK, "--out", str(tmp_path / "run")]
    with subprocess.Popen(command, stdout=slave, stderr=slave, env=environment) as process:
        os.close(slave)
        shown = b""
        while True:
            try:
                part = os.read(master, 65536)
            except OSError:
                break
            if not part:
                break
            shown += part
    os.close(master)
    assert process.returncode == 0
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode())
    assert re.search(r"autoencoder\s+━+ epoch 2/2  loss 0\.\d+  [\d,]+ images/s", text), text[-2000:]
    assert "\x1b[" in shown.decode()


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("same", "same"),
        ("1", 1),
        ("1,2", ((1, 1), (2, 2))),
        ("1:2,0", ((1, 2), (0, 0))),
        ("0:1", ((0, 1),)),
    ],
)
def test_padding_is_read(text: str, value: object) -> None:
    assert parse.padding(text) == value
