"""Images in and out."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from triconv.data import Dataset, load, save_pictures

Array = NDArray[Any]


def ramp(height: int, width: int, channels: int = 0) -> Array:
    """Bytes that differ from place to place."""
    shape = (height, width, channels) if channels else (height, width)
    return (np.arange(int(np.prod(shape))) * 7 % 256).reshape(shape).astype(np.uint8)


def picture(path: Path, pixels: Array, mode: str | None = None, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    made = Image.fromarray(pixels)
    (made.convert(mode) if mode else made).save(path, **options)
    return path


def one_line(source: Path, kind: type[Exception] = ValueError, **options: Any) -> str:
    """The error of a source, which is one line and does not chain another to confuse with."""
    with pytest.raises(kind) as raised:
        load(source, **options)
    assert "\n" not in str(raised.value)
    assert raised.value.__cause__ is None
    return str(raised.value)


# The digits


def test_digits() -> None:
    from sklearn.datasets import load_digits

    digits, (pixels, labels) = load(), load_digits(return_X_y=True)
    assert digits.name == "digits"
    assert digits.images.shape == (1797, 1, 8, 8)
    assert digits.images.dtype == np.float32
    assert digits.images.flags.c_contiguous
    assert np.array_equal(digits.images.reshape(1797, 64) * 16, pixels)
    assert digits.labels is not None
    assert digits.labels.dtype == np.int64
    assert np.array_equal(digits.labels, labels)


def test_import_loads_no_extras() -> None:
    code = "import sys, triconv.data, triconv.plots; print({'PIL', 'sklearn', 'matplotlib', 'scipy'} & {*sys.modules})"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"


# Splitting


def test_split_is_fixed_stratified_and_complete() -> None:
    digits = load()
    seen, unseen = digits.split()
    again = load().split()
    assert (len(seen.images), len(unseen.images)) == (1437, 360)
    assert (seen.fingerprint, unseen.fingerprint) == tuple(part.fingerprint for part in again)
    assert seen.labels is not None
    assert unseen.labels is not None
    assert digits.labels is not None
    whole = np.concatenate([part.images.reshape(-1, 64) for part in (seen, unseen)])
    assert np.array_equal(np.sort(whole, axis=0), np.sort(digits.images.reshape(-1, 64), axis=0))
    assert np.abs(np.bincount(unseen.labels) - np.bincount(digits.labels) * 0.2).max() < 1
    assert seen.name == unseen.name == "digits"


def test_split_keeps_labels_with_their_images() -> None:
    labels = np.arange(50) % 5
    images = (labels + 10 * np.arange(50)).astype(np.float32).reshape(50, 1, 1)
    for part in Dataset(images, labels, "x").split():
        assert part.labels is not None
        assert np.array_equal(part.images.ravel() % 5, part.labels)


def test_split_without_labels() -> None:
    seen, unseen = Dataset(np.arange(10, dtype=np.float32).reshape(10, 1, 1), None, "x").split()
    assert (len(seen.images), len(unseen.images)) == (8, 2)
    assert sorted([*seen.images.ravel(), *unseen.images.ravel()]) == list(range(10))
    assert seen.labels is None


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0], "x: expected at least 2 examples to split into seen and unseen, got 1"),
        (
            [0, 1, 0, 0],
            "x: expected at least 2 examples of each label to split into seen and unseen, got 1 of label 1",
        ),
        ([0, 1, 2] * 3, "x: expected at least 11 examples to split 3 labels into seen and unseen, got 9"),
    ],
)
def test_too_few_to_split(labels: list[int], message: str) -> None:
    with pytest.raises(ValueError) as raised:  # noqa: PT011 (compared below)
        Dataset(np.zeros((len(labels), 1, 2), np.float32), np.array(labels), "x").split()
    assert str(raised.value) == message


def test_smallest_that_split() -> None:
    for labels in (None, np.array([0, 0]), np.array([0, 0, 0, 0, 1, 1]), np.arange(11) % 3):
        count = 2 if labels is None else len(labels)
        seen, unseen = Dataset(np.zeros((count, 1, 2), np.float32), labels, "x").split()
        assert min(len(seen.images), len(unseen.images)) >= 1


def test_fingerprint() -> None:
    images = np.arange(8, dtype=np.float32).reshape(2, 1, 4)
    labels = np.array([0, 1])
    base = Dataset(images, labels, "x").fingerprint
    assert base == Dataset(np.asfortranarray(images), labels.copy(), "another name").fingerprint
    changed = images.copy()
    changed[1, 0, 3] = np.nextafter(np.float32(7), np.float32(8))
    others = [
        Dataset(changed, labels, "x"),
        Dataset(images.reshape(2, 2, 2), labels, "x"),
        Dataset(images, labels[::-1], "x"),
        Dataset(images, None, "x"),
    ]
    assert len({base, *(other.fingerprint for other in others)}) == 5


def test_the_digits_and_their_split_are_those_of_older_runs() -> None:
    """A run is resumed on the same examples, so neither may change."""
    digits = load()
    assert digits.fingerprint == "b340d8c8138d276b"
    assert digits.split()[1].fingerprint == "b8450a19d338bc74"


# Pictures


def test_folder_in_the_order_of_names(tmp_path: Path) -> None:
    for number, name in enumerate(["b.png", "a.bmp", "sub/a.png", "sub/deeper/c.GIF", "C.tiff"]):
        picture(tmp_path / name, np.full((3, 4), 10 * number, np.uint8))
    for name in (".hidden.png", ".folder/x.png", "notes.txt", "table.h5", "film.mpg", "x.npy", "readme"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"no picture")
    data = load(str(tmp_path))
    assert data.images.shape == (5, 1, 3, 4)
    assert data.images.dtype == np.float32
    assert data.images.flags.c_contiguous
    assert np.array_equal(np.rint(data.images[:, 0, 0, 0] * 255), [40, 10, 0, 20, 30])
    assert data.labels is None
    assert data.name == str(tmp_path)


@pytest.mark.parametrize("ending", ["png", "bmp", "tiff", "pgm", "webp", "gif"])
def test_one_grey_picture(tmp_path: Path, ending: str) -> None:
    pixels = ramp(5, 6)
    path = picture(tmp_path / f"x.{ending}", pixels, **({"lossless": True} if ending == "webp" else {}))
    images = load(path).images
    channels = 3 if ending == "webp" else 1  # a format that has no grey
    assert images.shape == (1, channels, 5, 6)
    assert np.array_equal(images[0], np.broadcast_to(pixels / np.float32(255), (channels, 5, 6)))


def test_colour_is_channels_first(tmp_path: Path) -> None:
    pixels = ramp(5, 6, 3)
    images = load(picture(tmp_path / "x.png", pixels)).images
    assert np.array_equal(images, np.moveaxis(pixels, 2, 0)[None] / np.float32(255))


def test_grey_among_colour_becomes_rgb(tmp_path: Path) -> None:
    picture(tmp_path / "a.png", ramp(4, 4))
    picture(tmp_path / "b.png", ramp(4, 4, 3))
    images = load(tmp_path).images
    assert images.shape == (2, 3, 4, 4)
    assert np.array_equal(images[0], np.broadcast_to(ramp(4, 4) / np.float32(255), (3, 4, 4)))
    assert np.array_equal(images[1], np.moveaxis(ramp(4, 4, 3), 2, 0) / np.float32(255))


def test_palette(tmp_path: Path) -> None:
    colours = Image.new("P", (2, 1))
    colours.putpalette([255, 0, 0, 0, 0, 255])
    colours.putdata([1, 0])
    colours.save(tmp_path / "colours.png")
    images = load(tmp_path / "colours.png").images
    assert images[0, :, 0].T.tolist() == [[0, 0, 1], [1, 0, 0]]
    greys = colours.copy()
    greys.putpalette([51, 51, 51, 255, 255, 255])
    greys.save(tmp_path / "greys.png")
    assert load(tmp_path / "greys.png").images.tolist() == [[[[1.0, np.float32(0.2)]]]]


def test_transparency_is_laid_on_white(tmp_path: Path) -> None:
    rgba = np.array([[[255, 0, 0, 255], [9, 9, 9, 0], [0, 0, 0, 51]]], np.uint8)
    images = load(picture(tmp_path / "rgba.png", rgba)).images
    assert np.rint(images[0, :, 0].T * 255).tolist() == [[255, 0, 0], [255, 255, 255], [204, 204, 204]]
    grey = np.array([[[7, 255], [7, 0]]], np.uint8)
    images = load(picture(tmp_path / "la.png", grey)).images
    assert np.rint(images * 255).tolist() == [[[[7, 255]]]]
    marked = picture(tmp_path / "transparent.png", np.array([[7, 8]], np.uint8), transparency=8)
    assert np.rint(load(marked).images * 255).tolist() == [[[[7, 255]]]]


def test_cmyk_and_one_bit(tmp_path: Path) -> None:
    cmyk = Image.new("CMYK", (2, 2), (0, 255, 255, 0))
    cmyk.save(tmp_path / "cmyk.tiff")
    assert load(tmp_path / "cmyk.tiff").images[0, :, 0, 0].tolist() == [1, 0, 0]
    Image.fromarray(np.array([[0, 255]], np.uint8)).convert("1").save(tmp_path / "bit.png")
    assert load(tmp_path / "bit.png").images.tolist() == [[[[0, 1]]]]


@pytest.mark.parametrize("ending", ["png", "tiff", "pgm"])
def test_sixteen_bits(tmp_path: Path, ending: str) -> None:
    values = np.array([[0, 1, 257, 32768, 65535]], np.uint16)
    images = load(picture(tmp_path / f"x.{ending}", values)).images
    assert np.array_equal(images[0, 0], values / np.float32(65535))


def test_floats(tmp_path: Path) -> None:
    values = np.array([[0, 0.25, 1]], np.float32)
    assert np.array_equal(load(picture(tmp_path / "x.tiff", values)).images[0, 0], values)
    for wrong in (2.0, -0.5, np.nan):
        path = picture(tmp_path / "y.tiff", np.array([[0, wrong]], np.float32))
        assert "expected grey from 0 to 1, got values from" in one_line(path)
    path = picture(tmp_path / "z.tiff", np.array([[0, 70000]], np.int32))
    assert one_line(path).endswith("expected 16-bit grey, got values from 0 to 70000; scale them and save an .npy file")


def test_orientation_of_the_camera(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    pixels = ramp(2, 3)
    images = load(picture(tmp_path / "x.png", pixels, exif=exif)).images
    assert np.array_equal(images[0, 0], np.rot90(pixels, -1) / np.float32(255))


def test_first_of_several_frames(tmp_path: Path) -> None:
    frames = [Image.new("L", (2, 2), grey) for grey in (10, 200)]
    frames[0].save(tmp_path / "x.tiff", save_all=True, append_images=frames[1:])
    assert np.rint(load(tmp_path / "x.tiff").images * 255).tolist() == [[[[10, 10], [10, 10]]]]


def test_crops_are_centred(tmp_path: Path) -> None:
    pixels = ramp(8, 11, 3)
    images = load(picture(tmp_path / "x.png", pixels), size=3).images
    expected = [np.moveaxis(pixels[top : top + 3, left : left + 3], 2, 0) for top in (1, 4) for left in (1, 4, 7)]
    assert np.array_equal(images, np.stack(expected) / np.float32(255))


def test_crops_of_pictures_of_several_sizes(tmp_path: Path) -> None:
    picture(tmp_path / "a.png", ramp(4, 4))
    picture(tmp_path / "b.png", ramp(9, 4))
    assert load(tmp_path, size=4).images.shape == (3, 1, 4, 4)


def test_sizes_that_differ(tmp_path: Path) -> None:
    for name, shape in (("a", (4, 4)), ("b", (4, 4)), ("c", (5, 4)), ("d", (6, 6))):
        picture(tmp_path / f"{name}.png", ramp(*shape))
    assert one_line(tmp_path) == (
        f"expected pictures of one size, got {tmp_path / 'a.png'} (4 × 4) and {tmp_path / 'c.png'} (4 × 5); "
        "cut crops of one size with --size"
    )


def test_picture_smaller_than_size(tmp_path: Path) -> None:
    path = picture(tmp_path / "a.png", ramp(4, 9))
    assert one_line(tmp_path, size=5) == f"{path}: expected a picture of at least 5 × 5 for size=5, got 9 × 4"


@pytest.mark.parametrize(
    ("size", "kind", "message"),
    [
        (0, ValueError, "size=0: expected an int of at least 1"),
        (-3, ValueError, "size=-3: expected an int of at least 1"),
        (2.0, TypeError, "size=2.0: expected an int of at least 1, got float"),
        (True, TypeError, "size=True: expected an int of at least 1, got bool"),
    ],
)
def test_size_that_is_none(tmp_path: Path, size: Any, kind: type[Exception], message: str) -> None:
    assert one_line(tmp_path, kind, size=size) == message


def test_size_is_for_pictures(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((2, 1, 8, 8)))
    assert one_line(tmp_path / "x.npy", size=4).endswith(f"expected pictures to cut, got {tmp_path / 'x.npy'}")
    with pytest.raises(ValueError, match=r"^size=4: expected pictures to cut, got the digits$"):
        load(size=4)


def test_no_such_place(tmp_path: Path) -> None:
    for name in ("missing", "missing.npy", "missing.png"):
        path = tmp_path / name
        assert one_line(path) == f"{path}: cannot be read as images: No such file or directory"


def test_folder_without_pictures(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    assert one_line(tmp_path) == f"{tmp_path}: expected a folder with pictures, found none"


@pytest.mark.parametrize("ending", ["png", "jpg", "gif", "bmp", "tiff", "webp", "pgm"])
@pytest.mark.parametrize("kept", [0.0, 0.02, 0.5, 0.9])
def test_truncated_picture(tmp_path: Path, ending: str, kept: float) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8)
    picture(tmp_path / f"a.{ending}", noise)
    path = picture(tmp_path / f"b.{ending}", noise)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept)])
    assert one_line(tmp_path).startswith(f"{path}: cannot be read as a picture: ")


def test_not_a_picture(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    path.write_text("text")
    reason = "it is damaged, or of a format that Pillow does not know"
    assert one_line(path) == f"{path}: cannot be read as a picture: {reason}"
    (tmp_path / "link.png").symlink_to("nowhere")
    path.unlink()
    assert one_line(tmp_path).endswith("link.png: cannot be read as a picture: No such file or directory")


@pytest.mark.parametrize("limit", [80, 20], ids=["warning", "error"])
def test_decompression_bomb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    path = picture(tmp_path / "x.png", ramp(10, 10))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    assert one_line(path).startswith(f"{path}: cannot be read as a picture: Image size (100 pixels) exceeds limit of")


def test_unreadable_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture(tmp_path / "sub" / "a.png", ramp(2, 2))
    scandir = os.scandir

    def refuse(path: Any) -> Any:
        if str(path).endswith("sub"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert one_line(tmp_path) == f"{tmp_path / 'sub'}: cannot be read as a folder: Permission denied"


# Arrays


@pytest.mark.parametrize("shape", [(2, 3, 4), (2, 1, 4, 5), (1, 2, 3, 4, 5), (2, 1, 2, 2, 2, 2)])
@pytest.mark.parametrize("dtype", ["float16", "float32", ">f8", "uint8", "bool"])
def test_arrays_of_any_rank(tmp_path: Path, shape: tuple[int, ...], dtype: str) -> None:
    values = (np.random.default_rng(0).random(shape) * 255).astype(dtype)
    np.save(tmp_path / "x.npy", np.asfortranarray(values))
    data = load(tmp_path / "x.npy")
    assert data.images.dtype == np.float32
    assert data.images.flags.c_contiguous
    assert np.array_equal(data.images, values.astype(np.float32) / np.float32(255 if dtype == "uint8" else 1))
    assert data.labels is None


def test_npz(tmp_path: Path) -> None:
    images, labels = np.random.default_rng(0).random((4, 1, 3)), np.array([0, 2, 1, 0], np.uint8)
    np.savez(tmp_path / "x.npz", images=images, labels=labels, other=np.zeros(3))
    data = load(tmp_path / "x.npz")
    assert np.array_equal(data.images, images.astype(np.float32))
    assert data.labels is not None
    assert data.labels.dtype == np.int64
    assert np.array_equal(data.labels, labels)
    np.savez_compressed(tmp_path / "y.npz", pixels=images, labels=labels)
    assert load(tmp_path / "y.npz").fingerprint == data.fingerprint
    np.savez(tmp_path / "z.npz", images)
    assert load(tmp_path / "z.npz").labels is None


@pytest.mark.parametrize(
    ("values", "kind", "message"),
    [
        (np.zeros((4, 4)), ValueError, "expected (N, C, *X) with at least one spatial axis, got shape (4, 4)"),
        (np.zeros(()), ValueError, "expected (N, C, *X) with at least one spatial axis, got shape ()"),
        (
            np.zeros((0, 1, 4)),
            ValueError,
            "expected at least one example, channel and position, got shape (0, 1, 4)",
        ),
        (
            np.zeros((2, 1, 0)),
            ValueError,
            "expected at least one example, channel and position, got shape (2, 1, 0)",
        ),
        (
            np.zeros((2, 1, 4), np.int64),
            TypeError,
            "expected floats, bytes (uint8, divided by 255) or booleans, got dtype int64; "
            "divide integers by their largest value and save it with .astype('float32')",
        ),
        (
            np.zeros((2, 1, 4), complex),
            TypeError,
            "expected floats, bytes (uint8, divided by 255) or booleans, got dtype complex128; "
            "cast it and save it with .astype('float32')",
        ),
        (
            np.array([[[1, np.nan, np.inf, -np.inf]]]),
            ValueError,
            "expected finite float32 values, got 3 of 4 that are not",
        ),
        (np.array([[[1, 1e39]]]), ValueError, "expected finite float32 values, got 1 of 2 that are not"),
    ],
    ids=str,
)
def test_arrays_that_are_not_images(tmp_path: Path, values: Array, kind: type[Exception], message: str) -> None:
    path = tmp_path / "x.npy"
    np.save(path, values)
    assert one_line(path, kind) == f"{path}: {message}"


def test_object_array(tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    np.save(path, np.full((2, 1, 3), None), allow_pickle=True)
    assert "Object arrays cannot be loaded" in one_line(path)


@pytest.mark.parametrize("ending", ["npy", "npz"])
@pytest.mark.parametrize("kept", [0.0, 0.1, 0.5, 0.99])
def test_truncated_array(tmp_path: Path, ending: str, kept: float) -> None:
    path = tmp_path / f"x.{ending}"
    (np.save if ending == "npy" else np.savez)(path, np.random.default_rng(0).random((8, 1, 8, 8)))
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept)])
    assert one_line(path).startswith(f"{path}: cannot be read as an .npy or .npz file: ")


def test_damaged_npz(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    np.savez(path, np.random.default_rng(0).random((8, 1, 8, 8)))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)
    assert one_line(path).startswith(f"{path}: cannot be read as an .npy or .npz file: Bad CRC-32")


@pytest.mark.parametrize("content", [b"text", b"\x80\x04\x95", b""])
def test_another_kind_of_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.npy"
    path.write_bytes(content)
    reason = "it is another kind of file, or empty"
    assert one_line(path) == f"{path}: cannot be read as an .npy or .npz file: {reason}"


def test_array_too_large_for_memory(tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    header = {"descr": "<f4", "fortran_order": False, "shape": (10**15, 1, 1)}
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
    assert one_line(path, MemoryError).startswith(f"{path}: Unable to allocate")


def test_npz_without_images(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    for arrays, names in (
        ({"a": np.zeros(3), "b": np.zeros(3)}, "a, b"),
        ({"labels": np.zeros(3)}, "labels"),
        ({}, "none"),
    ):
        np.savez(path, **arrays)
        expected = f'expected an array named "images" or a single one, got {names}'
        assert one_line(path) == f"{path}: cannot be read as an .npy or .npz file: {expected}"


def test_npz_with_other_files(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("images", b"text")
    assert one_line(path) == f'{path}: cannot be read as an .npy or .npz file: what it has as "images" is no array'


@pytest.mark.parametrize(
    ("labels", "kind", "message"),
    [
        (np.zeros(3, int), ValueError, "expected labels of shape (4,), one for each image, got (3,)"),
        (np.zeros((4, 1), int), ValueError, "expected labels of shape (4,), one for each image, got (4, 1)"),
        (np.array([0, 1, -1, 2]), ValueError, "expected labels from 0, got -1"),
        (
            np.array(["a", "b", "a", "b"]),
            TypeError,
            "expected labels that are integers, got dtype <U1; np.unique(labels, return_inverse=True)[1] numbers them",
        ),
    ],
)
def test_labels_that_do_not_fit(tmp_path: Path, labels: Array, kind: type[Exception], message: str) -> None:
    path = tmp_path / "x.npz"
    np.savez(path, images=np.zeros((4, 1, 3)), labels=labels)
    assert one_line(path, kind) == f"{path}: {message}"


# Pictures out


@pytest.mark.parametrize("channels", [1, 3])
def test_round_trip(tmp_path: Path, channels: int) -> None:
    images = np.arange(2 * channels * 20).reshape(2, channels, 4, 5).astype(np.float32) / np.float32(255)
    paths = save_pictures(images, tmp_path / "new" / "folder")
    assert [path.name for path in paths] == ["000.png", "001.png"]
    assert sorted(paths) == sorted((tmp_path / "new" / "folder").iterdir())
    with Image.open(paths[1]) as saved:
        assert saved.format == "PNG"
        assert saved.mode == ("L" if channels == 1 else "RGB")
        assert saved.size == (5, 4)
    assert np.array_equal(load(tmp_path / "new").images, images)


def test_grey_levels_are_rounded_and_clipped(tmp_path: Path) -> None:
    levels = np.array([-1, 0, 0.4 / 255, 0.6 / 255, 0.2, 1, 7])
    (path,) = save_pictures(levels.reshape(1, 1, 1, 7), tmp_path)
    assert np.asarray(Image.open(path)).tolist() == [[0, 0, 0, 1, 51, 255, 255]]


def test_names(tmp_path: Path) -> None:
    paths = save_pictures(np.zeros((2, 1, 2, 2)), str(tmp_path), ["cat", "dog.PNG"])
    assert [path.name for path in paths] == ["cat.png", "dog.PNG"]
    assert [path.name for path in save_pictures(np.zeros((1001, 1, 1, 1)), tmp_path)][::1000] == [
        "0000.png",
        "1000.png",
    ]
    assert save_pictures(np.zeros((0, 1, 2, 2)), tmp_path) == []


@pytest.mark.parametrize(
    ("images", "names", "kind", "message"),
    [
        (np.zeros((2, 2, 4, 4)), None, ValueError, "images: expected (N, 1 or 3, H, W) to save as pictures, got shape"),
        (np.zeros((2, 1, 4)), None, ValueError, "images: expected (N, 1 or 3, H, W) to save as pictures, got shape"),
        (np.zeros((2, 1, 0, 4)), None, ValueError, "images: expected (N, 1 or 3, H, W) to save as pictures"),
        (np.zeros((2, 1, 4, 4), np.uint8), None, TypeError, "images of dtype uint8: expected floats from 0 (black)"),
        (np.full((2, 1, 1, 1), np.nan), None, ValueError, "images: expected finite values, got 2 of 2 that are not"),
        (np.zeros((2, 1, 1, 1)), ["a"], ValueError, "names: expected 2, one for each image, got 1"),
        (np.zeros((2, 1, 1, 1)), ["a", "a.png"], ValueError, "names: expected 2 different ones, got 1"),
        (np.zeros((2, 1, 1, 1)), ["a", "../b"], ValueError, "names: expected names of files without a folder"),
        (np.zeros((2, 1, 1, 1)), ["a", ""], ValueError, "names: expected names of files without a folder, got ''"),
    ],
)
def test_what_is_no_picture_writes_nothing(
    tmp_path: Path, images: Array, names: list[str] | None, kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind) as raised:
        save_pictures(images, tmp_path / "out", names)
    assert str(raised.value).startswith(message)
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "out").exists()


def test_full_disk_leaves_whole_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fail_after: Callable[[int], Any]
) -> None:
    monkeypatch.setattr(os, "fsync", fail_after(1))
    with pytest.raises(OSError, match=r"^cannot write .*001\.png: No space left on device$"):
        save_pictures(np.zeros((3, 1, 2, 2)), tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["000.png"]


@pytest.fixture
def fail_after() -> Callable[[int], Any]:
    """A function that raises "no space left on device" after so many calls."""

    def make(calls: int) -> Any:
        left = [calls]

        def function(*_: Any) -> None:
            left[0] -= 1
            if left[0] < 0:
                raise OSError(28, "No space left on device")

        return function

    return make


def test_directory_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(OSError, match=r"^cannot write .*file: File exists$"):
        save_pictures(np.zeros((1, 1, 2, 2)), tmp_path / "file")
