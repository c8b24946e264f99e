"""Images in and out: pictures, arrays and the digits as one array of floats; arrays as pictures."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from .arrays import Array, allocate
from .files import make_directory, replace_file

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

UNSEEN = 0.2
"""The share of the examples that `Dataset.split` sets aside."""

NOT_DRAWN = frozenset({"BUFR", "GRIB", "HDF5", "MPEG"})
"""Formats that Pillow knows by name but cannot draw."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images (N, C, *X), float32 and C-contiguous, pixels in [0, 1]; their classes (N,), int64, or None; a name."""

    images: Array
    labels: Array | None
    name: str

    def split(self) -> tuple[Dataset, Dataset]:
        """Seen and unseen examples: always the same fifth is unseen, with each label in the same proportion.

        Crops of one picture are examples like any other, so some may be seen and some not.

        Raises
        ------
        ValueError
            When there are too few examples, or too few of a label, to have one on either side.

        Examples
        --------
        >>> import numpy as np
        >>> from triconv.data import Dataset
        >>> seen, unseen = Dataset(np.zeros((10, 1, 4), np.float32), np.array([0, 1] * 5), "ten").split()
        >>> len(seen.images), unseen.labels
        (8, array([0, 1]))
        """
        from sklearn.model_selection import train_test_split

        count = len(self.images)
        if count < 2:
            raise ValueError(f"{self.name}: expected at least 2 examples to split into seen and unseen, got {count}")
        if self.labels is not None:
            classes, sizes = np.unique(self.labels, return_counts=True)
            if sizes.min() < 2:
                raise ValueError(
                    f"{self.name}: expected at least 2 examples of each label to split into seen and unseen, "
                    f"got 1 of label {classes[sizes.argmin()]}"
                )
            if ceil(count * UNSEEN) < len(classes):
                raise ValueError(
                    f"{self.name}: expected at least {5 * len(classes) - 4} examples to split {len(classes)} labels "
                    f"into seen and unseen, got {count}"
                )
        seen, unseen = train_test_split(np.arange(count), test_size=UNSEEN, random_state=0, stratify=self.labels)
        return self._part(seen), self._part(unseen)

    def _part(self, chosen: Array) -> Dataset:
        return Dataset(self.images[chosen], None if self.labels is None else self.labels[chosen], self.name)

    @cached_property
    def fingerprint(self) -> str:
        """A short hash of images and labels: the same data, wherever it came from, has the same one."""
        content = blake2b(digest_size=8)
        for array in (self.images, self.labels):
            if array is None:
                content.update(b"none")
            else:
                content.update(f"{array.dtype.str}{array.shape}".encode())
                content.update(np.ascontiguousarray(array).data)
        return content.hexdigest()


def load(source: Path | str | None = None, *, size: int | None = None) -> Dataset:
    """Read images: a folder of pictures, one picture, an array of any rank, or the digits that scikit-learn ships.

    Parameters
    ----------
    source
        None for the digits: 1,797 pictures of 8 × 8, with labels.

        A folder: every picture in it and below it, sorted by name. Hidden files and other files are passed over. Grey
        when all are grey, otherwise RGB; transparency is laid on white, the camera's orientation is applied, and of
        several frames the first is taken. A picture's file is read like a folder of one.

        An .npy or .npz file of (N, C, *X), with at least one spatial axis: bytes are divided by 255, booleans become 0
        and 1, floats stay as they are. In an .npz the array is named "images" or is the only one, and integers named
        "labels" are the classes, from 0.
    size
        Cut every picture into as many size × size crops as fit side by side, centred; otherwise all must have one size.

    Raises
    ------
    ValueError, TypeError
        One line that names the file and says what was expected of it.
    MemoryError
        With the bytes asked for.

    Examples
    --------
    >>> from triconv.data import load
    >>> digits = load()
    >>> digits.images.shape, digits.labels[:5]
    ((1797, 1, 8, 8), array([0, 1, 2, 3, 4]))
    """
    if size is not None:
        if isinstance(size, bool) or not hasattr(size, "__index__"):
            raise TypeError(f"size={size!r}: expected an int of at least 1, got {type(size).__name__}")
        if size < 1:
            raise ValueError(f"size={size}: expected an int of at least 1")
    path = None if source is None else Path(source)
    is_array = path is not None and path.suffix.lower() in (".npy", ".npz") and not os.path.isdir(path)
    if size is not None and (path is None or is_array):
        raise ValueError(f"size={size}: expected pictures to cut, got {'the digits' if path is None else path}")
    if path is None:
        return _digits()
    with _reading(path, "images"):
        path.stat()
    images, labels = _arrays(path) if is_array else (_pictures(path, size), None)
    return Dataset(images, labels, str(source))


def _digits() -> Dataset:
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = np.ascontiguousarray(digits.images[:, None], np.float32) / np.float32(16)
    return Dataset(images, np.asarray(digits.target, np.int64), "digits")


@contextmanager
def _reading(path: Path, kind: str) -> Iterator[None]:
    """Turn whatever goes wrong while a file is read, and readers raise anything, into one line that names it."""
    try:
        yield
    except MemoryError as error:
        raise MemoryError(f"{path}: {_line(error)}") from None
    except Exception as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or _line(error)
        raise ValueError(f"{path}: cannot be read as {kind}: {reason}") from None


def _line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "") or type(error).__name__


# Pictures


def _pictures(path: Path, size: int | None) -> Array:
    files = _picture_files(path) if path.is_dir() else [path]
    if not files:
        raise ValueError(f"{path}: expected a folder with pictures, found none")
    blocks: list[Array] = []
    for file in files:
        with _reading(file, "a picture"):
            pixels = _read(file)
        if size is not None:
            pixels = _crops(pixels, size, file)
        elif blocks and pixels.shape[1:] != blocks[0].shape[2:]:
            raise ValueError(
                f"expected pictures of one size, got {files[0]} ({_extent(blocks[0])}) and {file} ({_extent(pixels)}); "
                "cut crops of one size with --size"
            )
        else:
            pixels = pixels[None]
        blocks.append(pixels)
    channels = max(block.shape[1] for block in blocks)
    shape = (sum(map(len, blocks)), channels, *blocks[0].shape[2:])
    images = allocate("images", shape, np.float32, (0, 1, 2, 3))
    start = 0
    for block in blocks:
        part = images[start : start + len(block)]
        part[...] = block  # grey among colour: the same in all three channels
        if block.dtype.kind == "u":
            part /= np.iinfo(block.dtype).max
        start += len(block)
    return images


def _extent(pixels: Array) -> str:
    return f"{pixels.shape[-1]} × {pixels.shape[-2]}"


def _picture_files(folder: Path) -> list[Path]:
    from PIL import Image

    def fail(error: OSError) -> None:
        raise ValueError(f"{error.filename}: cannot be read as a folder: {error.strerror}")

    Image.init()
    known = Image.registered_extensions().items()
    endings = {ending for ending, form in known if form in Image.OPEN and form not in NOT_DRAWN}
    found: list[Path] = []
    for root, folders, names in os.walk(folder, onerror=fail):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [
            Path(root, name) for name in names if not name.startswith(".") and Path(name).suffix.lower() in endings
        ]
    return sorted(found)


def _read(file: Path) -> Array:
    """One picture as (1 or 3, height, width): bytes, 16-bit integers, or floats in [0, 1]."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file) as opened:
                opened.load()
                picture = ImageOps.exif_transpose(opened)
    except UnidentifiedImageError:  # whose message would name the file again
        raise ValueError("it is damaged, or of a format that Pillow does not know") from None
    if picture.mode in ("I", "F") or picture.mode.startswith("I;16"):
        return _deep(np.asarray(picture))[None]
    palette = picture.mode in ("P", "PA")
    picture = _opaque(picture)
    if picture.mode in ("1", "L"):
        return np.asarray(picture.convert("L"))[None]
    pixels = np.moveaxis(np.asarray(picture.convert("RGB")), 2, 0)
    return pixels[:1].copy() if palette and (pixels == pixels[0]).all() else pixels


def _deep(values: Array) -> Array:
    """Grey values of more than 8 bits: 16-bit integers as they are, floats when they are in [0, 1]."""
    top, scale = (65535, "16-bit grey") if values.dtype.kind in "iu" else (1, "grey from 0 to 1")
    low, high = values.min(), values.max()
    if not (low >= 0 and high <= top):  # not a number neither
        raise ValueError(f"expected {scale}, got values from {low} to {high}; scale them and save an .npy file")
    return values.astype(np.uint16 if values.dtype.kind in "iu" else np.float32)


def _opaque(picture: Picture) -> Picture:
    """The picture laid on white when it has transparency; grey stays grey."""
    from PIL import Image

    if picture.getbands()[-1] not in ("A", "a") and "transparency" not in picture.info:
        return picture
    grey = picture.mode in ("1", "L", "LA", "La")
    paper = Image.new("RGBA", picture.size, "white")
    return Image.alpha_composite(paper, picture.convert("RGBA")).convert("L" if grey else "RGB")


def _crops(pixels: Array, size: int, file: Path) -> Array:
    """All size × size squares that fit side by side in the middle: (C, H, W) to (squares, C, size, size)."""
    channels, height, width = pixels.shape
    rows, columns = height // size, width // size
    if not rows * columns:
        raise ValueError(
            f"{file}: expected a picture of at least {size} × {size} for size={size}, got {_extent(pixels)}"
        )
    top, left = (height - rows * size) // 2, (width - columns * size) // 2
    squares = pixels[:, top : top + rows * size, left : left + columns * size]
    squares = squares.reshape(channels, rows, size, columns, size)
    return np.ascontiguousarray(squares.transpose(1, 3, 0, 2, 4)).reshape(-1, channels, size, size)


# Arrays


def _arrays(path: Path) -> tuple[Array, Array | None]:
    labels = None
    with _reading(path, "an .npy or .npz file"), path.open("rb") as file:
        if not file.read(6).startswith((b"\x93NUMPY", b"PK")):
            raise ValueError("it is another kind of file, or empty")
        file.seek(0)
        content = np.load(file, allow_pickle=False)
        if isinstance(content, np.lib.npyio.NpzFile):
            with content:
                images = _member(content, _images_name(content.files))
                labels = _member(content, "labels") if "labels" in content.files else None
        else:
            images = content
    images = _floats(path, images)
    return images, None if labels is None else _classes(path, labels, len(images))


def _member(archive: np.lib.npyio.NpzFile, name: str) -> Array:
    if isinstance(array := archive[name], np.ndarray):
        return array
    raise ValueError(f'what it has as "{name}" is no array')


def _images_name(names: list[str]) -> str:
    if "images" in names:
        return "images"
    others = [name for name in names if name != "labels"]
    if len(others) != 1:
        raise ValueError(f'expected an array named "images" or a single one, got {", ".join(names) or "none"}')
    return others[0]


def _floats(path: Path, values: Array) -> Array:
    if values.ndim < 3:
        raise ValueError(f"{path}: expected (N, C, *X) with at least one spatial axis, got shape {values.shape}")
    if 0 in values.shape:
        raise ValueError(f"{path}: expected at least one example, channel and position, got shape {values.shape}")
    if values.dtype.kind not in "fb" and values.dtype != np.uint8:
        hint = "divide integers by their largest value" if values.dtype.kind in "iu" else "cast it"
        raise TypeError(
            f"{path}: expected floats, bytes (uint8, divided by 255) or booleans, got dtype {values.dtype}; "
            f"{hint} and save it with .astype('float32')"
        )
    images = allocate("images", values.shape, np.float32, tuple(range(values.ndim)))
    with np.errstate(over="ignore", under="ignore"):
        images[...] = values
    if values.dtype == np.uint8:
        images /= 255
    if wrong := images.size - int(np.isfinite(images).sum()):
        raise ValueError(f"{path}: expected finite float32 values, got {wrong} of {images.size} that are not")
    return images


def _classes(path: Path, labels: Array, count: int) -> Array:
    if labels.dtype.kind not in "iub":
        raise TypeError(
            f"{path}: expected labels that are integers, got dtype {labels.dtype}; "
            "np.unique(labels, return_inverse=True)[1] numbers them"
        )
    if labels.shape != (count,):
        raise ValueError(f"{path}: expected labels of shape ({count},), one for each image, got {labels.shape}")
    classes = labels.astype(np.int64)
    if classes.min() < 0:
        raise ValueError(f"{path}: expected labels from 0, got {classes.min()}")
    return classes


# Pictures out


def save_pictures(images: ArrayLike, directory: Path | str, names: Sequence[str] | None = None) -> list[Path]:
    """Write each image as a PNG file and return the paths; the directory is made when it is missing.

    Parameters
    ----------
    images
        (N, 1, H, W) for grey or (N, 3, H, W) for RGB, floats: 0 is black, 1 is white, and what is beyond is clipped.
    directory
        Where to.
    names
        One per image, with or without ".png"; None numbers them: 000.png, 001.png …

    Raises
    ------
    ValueError, TypeError
        Before anything is written.
    OSError
        One line; files that are there are whole.
    """
    from PIL import Image

    array = np.asarray(images)
    if array.ndim != 4 or array.shape[1] not in (1, 3) or 0 in array.shape[1:]:
        raise ValueError(f"images: expected (N, 1 or 3, H, W) to save as pictures, got shape {array.shape}")
    if array.dtype.kind != "f":
        raise TypeError(f"images of dtype {array.dtype}: expected floats from 0 (black) to 1 (white)")
    if wrong := array.size - int(np.isfinite(array).sum()):
        raise ValueError(f"images: expected finite values, got {wrong} of {array.size} that are not")
    files = _picture_names(len(array), names)
    folder = make_directory(directory)
    paths = [folder / file for file in files]
    for path, image in zip(paths, array, strict=True):
        pixels = np.rint(np.clip(image, 0, 1).astype(np.float64) * 255).astype(np.uint8)
        with replace_file(path) as beside:
            Image.fromarray(pixels[0] if len(pixels) == 1 else np.moveaxis(pixels, 0, 2)).save(beside, "PNG")
    return paths


def _picture_names(count: int, names: Sequence[str] | None) -> list[str]:
    if names is None:
        digits = max(len(str(count - 1)), 3)
        return [f"{number:0{digits}}.png" for number in range(count)]
    if len(names) != count:
        raise ValueError(f"names: expected {count}, one for each image, got {len(names)}")
    files = [name if name.lower().endswith(".png") else f"{name}.png" for name in names]
    for name, file in zip(names, files, strict=True):
        if not name or Path(file).name != file or "\\" in file or "\0" in file:
            raise ValueError(f"names: expected names of files without a folder, got {name!r}")
    if len(set(files)) < count:
        raise ValueError(f"names: expected {count} different ones, got {len(set(files))}")
    return files
