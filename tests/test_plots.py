"""Pictures of a run: what is drawn, from the figures that come back, and that files are whole."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox
from numpy.typing import NDArray
from PIL import Image

from triconv.plots import BLUE, ORANGE, plot_filters, plot_loss, plot_reconstructions

Array = NDArray[Any]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "picture.png"


def row(phase: str, epoch: int, loss: float, unseen: float | None = None) -> dict[str, Any]:
    return {"phase": phase, "epoch": epoch, "loss": loss} | ({} if unseen is None else {"unseen": unseen})


def words(figure: Figure) -> str:
    """All text of a figure that is seen."""
    return "\n".join(text.get_text() for text in figure.findobj(Text) if text.get_visible())


def drawn(axes: Axes) -> Array:
    """The one image of axes, gaps as NaN."""
    (image,) = axes.images
    array = image.get_array()
    assert array is not None
    return np.ma.filled(array, np.nan)


def random(*shape: int) -> Array:
    return np.random.default_rng(0).standard_normal(shape)


def cells(image: Array, side: int, enlarged: int) -> Array:
    """The values of a montage of square cells, one per enlarged pixel: (rows, columns, side, side, …)."""
    size = side * enlarged
    gap = max(2, size // 12)
    rows, columns = ((extent + gap) // (size + gap) for extent in image.shape[:2])
    found = [
        [image[r * (size + gap) :, c * (size + gap) :][:size:enlarged, :size:enlarged] for c in range(columns)]
        for r in range(rows)
    ]
    return np.array(found)


DRAW: dict[str, Callable[[Path], Figure]] = {
    "loss": lambda path: plot_loss([row("autoencoder", epoch, 1 / epoch, 2 / epoch) for epoch in (1, 2, 3)], path),
    "loss, greedy": lambda path: plot_loss(
        [row(phase, epoch, 1 / epoch) for phase in ("stage 0", "stage 1", "stage 2", "classifier") for epoch in (1, 2)],
        path,
    ),
    "filters, grey": lambda path: plot_filters(random(5, 1, 3, 3), 2, path),
    "filters, colour": lambda path: plot_filters(random(5, 3, 5, 5), 2, path),
    "filters, many channels": lambda path: plot_filters(random(5, 4, 3, 3), 2, path),
    "filters, rank 1": lambda path: plot_filters(random(9, 2, 5), 1, path),
    "filters, rank 3": lambda path: plot_filters(random(9, 1, 3, 3, 3), 3, path),
    "reconstructions, grey": lambda path: plot_reconstructions(random(2, 1, 8, 8), random(2, 1, 8, 8), path),
    "reconstructions, colour": lambda path: plot_reconstructions(random(2, 3, 8, 9), random(2, 3, 8, 9), path),
    "reconstructions, rank 1": lambda path: plot_reconstructions(random(5, 1, 9), random(5, 1, 9), path),
    "reconstructions, rank 4": lambda path: plot_reconstructions(
        random(2, 1, 3, 3, 4, 4), random(2, 1, 3, 3, 4, 4), path
    ),
}


@pytest.mark.parametrize("draw", DRAW.values(), ids=DRAW)
def test_one_whole_legible_picture(draw: Callable[[Path], Figure], path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A PNG of a size to look at, with nothing cut off and no text over another."""
    boxes: dict[Text, Bbox] = {}  # of texts that are really drawn, where they were the last time
    draw_text = Text.draw

    def record(text: Text, renderer: Any) -> None:
        if text.get_text() and text.get_visible():
            boxes[text] = text.get_window_extent(renderer).padded(-1)
        draw_text(text, renderer)

    monkeypatch.setattr(Text, "draw", record)
    assert isinstance(draw(path), Figure)
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    with Image.open(path) as picture:
        picture.load()
        assert picture.format == "PNG"
        assert 150 < picture.width < 2500
        assert 150 < picture.height < 2000
        dark = np.asarray(picture.convert("L")) < 250
    edge = 10
    assert dark[edge:-edge, edge:-edge].any()
    for side in (dark[:edge], dark[-edge:], dark[:, :edge], dark[:, -edge:]):
        assert not side.any()
    assert len(boxes) >= 2
    pairs = combinations(boxes.items(), 2)
    assert [(a.get_text(), b.get_text()) for (a, at), (b, place) in pairs if at.overlaps(place)] == []


@pytest.mark.parametrize("name", ["loss", "filters, grey", "reconstructions, grey"])
def test_failure_leaves_the_old_picture(name: str, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path.write_bytes(b"old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"^cannot write .*picture.png: No space left on device$"):
        DRAW[name](path)
    assert [file.read_bytes() for file in path.parent.iterdir()] == [b"old"]


def test_extension_names_the_format(tmp_path: Path) -> None:
    plot_filters(random(2, 1, 3, 3), 2, tmp_path / "x.pdf")
    assert (tmp_path / "x.pdf").read_bytes().startswith(b"%PDF")
    plot_filters(random(2, 1, 3, 3), 2, str(tmp_path / "plain"))
    assert (tmp_path / "plain").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match=r"^.*x\.txt: expected a picture's extension, one of .*png.*$"):
        plot_filters(random(2, 1, 3, 3), 2, tmp_path / "x.txt")
    with pytest.raises(OSError, match=r"^cannot write .*: No such file or directory$"):
        plot_filters(random(2, 1, 3, 3), 2, tmp_path / "missing" / "x.png")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["plain", "x.pdf"]


def test_no_global_state(path: Path) -> None:
    plot_filters(random(2, 1, 3, 3), 2, path)
    if "matplotlib.pyplot" in sys.modules:
        assert sys.modules["matplotlib.pyplot"].get_fignums() == []


# Loss


def test_a_panel_for_each_phase(path: Path) -> None:
    rows = [row("stage 0", e, 1 / e, 3 / e) for e in (1, 2, 3)] + [row("classifier", e, 5 / e, 6 / e) for e in (1, 2)]
    stage, classifier = plot_loss(rows, path).axes
    assert (stage.get_title(), classifier.get_title()) == ("Loss of stage 0", "Loss of the classifier")
    assert (stage.get_ylabel(), classifier.get_ylabel()) == ("mean squared error", "cross-entropy (nats)")
    assert stage.get_xlabel() == classifier.get_xlabel() == "epoch"
    seen, unseen = stage.lines
    assert np.array_equal(seen.get_xydata(), [(1, 1), (2, 1 / 2), (3, 1 / 3)])
    assert np.array_equal(unseen.get_xydata(), [(1, 3), (2, 3 / 2), (3, 1)])
    assert {to_hex(line.get_color()).upper() for line in stage.lines} == {BLUE, ORANGE}


def test_curves_are_labelled_in_their_colours_without_overlap(path: Path) -> None:
    for unseen in (0.2501, 0.2499, 0.25, 9.0):
        (axes,) = plot_loss([row("autoencoder", 1, 1, 1), row("autoencoder", 2, 0.25, unseen)], path).axes
        labels = {text.get_text().split()[0]: text for text in axes.texts}
        assert set(labels) == {"seen", "unseen"}
        for line in axes.lines:
            assert labels[str(line.get_label())].get_color() == line.get_color()
        boxes = [text.get_window_extent() for text in axes.texts]
        assert not boxes[0].padded(-1).overlaps(boxes[1].padded(-1))
        upper = max(axes.texts, key=lambda text: text.get_window_extent().y0).get_text()
        assert unseen == 0.25 or upper.startswith("unseen") == (unseen > 0.25)


def test_scale_is_logarithmic_when_all_are_positive(path: Path) -> None:
    lasts = {"a": 1e-4, "b": 0.0, "c": 0.0011, "d": 0.11, "e": 0.26, "f": 0.6, "g": 0.99}
    rows = [row(phase, epoch, loss) for phase, last in lasts.items() for epoch, loss in ((1, 1.0), (2, last))]
    panels = plot_loss(rows, path).axes
    assert [axes.get_yscale() for axes in panels] == ["log", "linear", *["log"] * 5]
    for axes in panels:
        ticks = axes.transData.transform([(1, y) for y in axes.get_yticks() if y > 0 or axes.get_yscale() == "linear"])
        heights = axes.transAxes.inverted().transform(ticks)[:, 1]
        inside = heights[(heights >= 0) & (heights <= 1)]
        assert 3 <= len(inside) <= 12
        assert np.diff([0, *inside, 1]).max() < 0.45  # and they are spread over the axis


def test_losses_that_are_not_finite(path: Path) -> None:
    rows = [row("a", 1, 1.0, np.inf), row("a", 2, np.nan), row("a", 3, 0.5, 2.0), row("b", 1, np.nan)]
    a, b = plot_loss(rows, path).axes
    assert [line.get_xydata().tolist() for line in a.lines] == [[[1, 1], [3, 0.5]], [[3, 2]]]
    assert not b.lines
    assert [text.get_text() for text in b.texts] == ["no finite loss"]


def test_one_epoch(path: Path) -> None:
    (axes,) = plot_loss([row("autoencoder", 1, 0.3)], path).axes
    assert [tick for tick in axes.get_xticks() if 0 <= tick <= 2] == [0, 1, 2]
    assert [text.get_text() for text in axes.texts] == ["seen 0.3"]


def test_no_metrics(path: Path) -> None:
    with pytest.raises(ValueError, match=r"^metrics: expected at least one row$"):
        plot_loss([], path)
    assert not path.exists()


# Filters


def test_grid_of_grey_filters(path: Path) -> None:
    weight = random(11, 1, 4, 4)
    figure = plot_filters(weight, 2, path)
    axes, bar = figure.axes
    found = cells(drawn(axes), 4, 8).reshape(-1, 4, 4)
    assert np.array_equal(found[:11], weight[:, 0])
    assert np.isnan(found[11:]).all()
    assert axes.images[0].get_clim() == (-np.abs(weight).max(), np.abs(weight).max())
    assert bar.get_ylabel() == "weight"
    assert axes.get_title() == "11 filters of size 4 × 4"


def test_zero_is_white_and_signs_are_red_and_blue(path: Path) -> None:
    (axes, _) = plot_filters(np.array([-1.0, 0, 1]).reshape(1, 1, 1, 3), 2, path).axes
    red, green, blue, _ = np.moveaxis(axes.images[0].to_rgba(np.array([-1.0, 0, 1])), -1, 0)
    assert blue[0] > red[0]
    assert red[2] > blue[2]
    assert min(red[1], green[1], blue[1]) > 0.95


def test_colour_filters(path: Path) -> None:
    weight = random(8, 3, 4, 4)
    (axes,) = plot_filters(weight, 2, path).axes
    top = np.abs(weight).max()
    found = cells(drawn(axes), 4, 8).reshape(-1, 4, 4, 3)
    assert np.allclose(found, np.moveaxis(0.5 + weight / (2 * top), 1, -1), atol=1e-6)
    assert axes.get_xlabel() == f"grey is 0; in each channel black is −{top:.2g} and white {top:.2g}"


def test_rows_and_columns_of_channels(path: Path) -> None:
    weight = random(32, 16, 4, 4)
    axes = plot_filters(weight, 2, path).axes[0]
    assert np.array_equal(cells(drawn(axes), 4, 8), weight[:8, :8])
    assert axes.get_title() == "first 8 of 32 filters of size 4 × 4, first 8 of 16 visible channels"
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("visible channel", "hidden channel")
    axes = plot_filters(weight[:, :2], 2, path, limit=12).axes[0]
    assert np.array_equal(cells(drawn(axes), 4, 8), weight[:6, :2])


def test_limit(path: Path) -> None:
    weight = random(100, 1, 4, 4)
    axes = plot_filters(weight, 2, path).axes[0]
    assert axes.get_title() == "first 64 of 100 filters of size 4 × 4"
    assert np.array_equal(cells(drawn(axes), 4, 8).reshape(-1, 4, 4), weight[:64, 0])
    assert plot_filters(weight, 2, path, limit=1).axes[0].get_title().startswith("first 1 of 100 filters")


def test_bank_starts_at_its_first_position(path: Path) -> None:
    weight = random(2, 3, 16, 1, 4, 4)
    axes = plot_filters(weight, 2, path).axes[0]
    assert np.array_equal(cells(drawn(axes), 4, 8).reshape(-1, 4, 4), weight.reshape(-1, 4, 4)[:64])
    assert axes.get_title().splitlines() == [
        "first 64 of 96 filters of size 4 × 4",
        "bank of 2 × 3: positions (0, 0) to (1, 0), 16 hidden channels at each",
    ]
    title = plot_filters(random(5, 8, 1, 3), 1, path, limit=8).axes[0].get_title()
    assert title.splitlines()[1] == "bank of 5: position (0), 8 hidden channels at each"


def test_curves_of_rank_1(path: Path) -> None:
    weight = random(10, 4, 5)
    figure = plot_filters(weight, 1, path)
    (axes,) = figure.axes
    assert axes.get_title() == "10 filters of size 5, first 3 of 4 visible channels"
    curves = [collection for collection in axes.collections if not str(collection.get_label()).startswith("_")]
    assert [collection.get_label() for collection in curves] == ["0", "1", "2"]
    top = np.abs(weight).max()
    for channel, collection in enumerate(curves):
        heights = np.array([kernel_path.vertices[:, 1] for kernel_path in collection.get_paths()])
        base = np.repeat([0, -1], [8, 2])[:, None]
        assert np.allclose((heights - base) / 0.9, 0.5 + 0.45 * weight[:, channel] / top)
    assert axes.get_xlabel() == f"in each frame: tap 0 to 4; weight, 0 in the middle, ±{top:.2g} at the edges"
    assert "visible channel" in words(figure)


def test_central_slices_of_filters(path: Path) -> None:
    weight = random(8, 1, 5, 3, 4, 4)
    axes = plot_filters(weight, 4, path).axes[0]
    assert np.array_equal(cells(drawn(axes), 4, 8).reshape(-1, 4, 4), weight[:, 0, 2, 1])
    assert axes.get_title().splitlines() == ["8 filters of size 5 × 3 × 4 × 4", "central slices of 4 × 4"]


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf])
def test_filters_without_a_scale(path: Path, value: float) -> None:
    axes = plot_filters(np.full((2, 1, 3, 3), value), 2, path).axes[0]
    assert axes.images[0].get_clim() == (-1, 1)


@pytest.mark.parametrize(
    ("weight", "options", "kind", "message"),
    [
        (np.zeros((2, 1, 3)), {"rank": 2}, ValueError, "weight: expected (C_out, C_in/groups, *K) or (*t, C_out"),
        (np.zeros((2, 0, 3, 3)), {"rank": 2}, ValueError, "weight: expected (C_out, C_in/groups, *K) or (*t, C_out"),
        (np.zeros((2, 1)), {"rank": 0}, ValueError, "rank=0: expected at least 1"),
        (np.zeros((2, 1, 3, 3), complex), {"rank": 2}, TypeError, "weight of dtype complex128: expected real floats"),
        (np.zeros((2, 1, 3, 3)), {"rank": 2, "limit": 0}, ValueError, "limit=0: expected at least 1"),
    ],
)
def test_weights_that_cannot_be_drawn(
    path: Path, weight: Array, options: dict[str, int], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind) as raised:
        plot_filters(weight, path=path, **options)
    assert str(raised.value).startswith(message)
    assert "\n" not in str(raised.value)
    assert not path.exists()


# Reconstructions


def test_rows_of_reconstructions(path: Path) -> None:
    images = np.random.default_rng(0).random((20, 1, 4, 4))
    reconstructions, other = images + 0.1, images * 0
    figure = plot_reconstructions(images, reconstructions, path, labels=np.arange(20) % 7, other=other)
    rows = figure.axes[:4]
    for axes, expected in zip(rows, (images, reconstructions, other, np.full_like(images, 0.1)), strict=True):
        assert np.allclose(cells(drawn(axes), 4, 8)[0], expected[:12, 0], atol=1e-12)
    assert [axes.get_ylabel() for axes in rows] == [
        "original",
        "reconstruction\nMSE 0.01",
        f"PCA\nMSE {np.mean(images**2):.3g}",
        "absolute error\nof reconstruction",
    ]
    assert [label.get_text() for label in rows[0].get_xticklabels()] == [str(n % 7) for n in range(12)]
    assert [axes.images[0].get_clim() for axes in rows[:3]] == [(0, 1)] * 3
    low, high = rows[3].images[0].get_clim()
    assert low == 0
    assert high == pytest.approx(0.1)
    assert "first 12 of 20 examples of size 4 × 4" in words(figure)


def test_labels_stand_above_their_images(path: Path) -> None:
    axes = plot_reconstructions(random(3, 1, 4, 4), random(3, 1, 4, 4), path).axes[0]
    ticks = axes.get_xticks()
    assert ticks.tolist() == [15.5, 49.5, 83.5]  # 32 pixels each, 2 between
    assert [label.get_text() for label in axes.get_xticklabels()] == ["no. 0", "no. 1", "no. 2"]


def test_colour_reconstructions(path: Path) -> None:
    images = np.random.default_rng(0).random((2, 3, 4, 4))
    off = np.array([0.5, 0.25, 0]).reshape(3, 1, 1)
    figure = plot_reconstructions(images, images - off, path, other=images, other_name="copy")
    original, reconstruction, other, error = figure.axes[:4]
    assert np.allclose(cells(drawn(original), 4, 8)[0], np.moveaxis(images, 1, -1))
    assert np.allclose(cells(drawn(reconstruction), 4, 8)[0], np.moveaxis(images - off, 1, -1).clip(0, 1))
    assert np.allclose(cells(drawn(error), 4, 8)[0], 0.25)
    assert other.get_ylabel() == "copy\nMSE 0"
    assert "2 examples of size 4 × 4, 3 channels" in words(figure)


def test_first_of_many_channels(path: Path) -> None:
    images = random(2, 5, 4, 4)
    figure = plot_reconstructions(images, images * 0, path)
    assert np.array_equal(cells(drawn(figure.axes[0]), 4, 8)[0], images[:, 0])
    assert f"MSE {np.mean(images**2):.3g}" in words(figure)
    assert "2 examples of size 4 × 4, the first of 5 channels" in words(figure)


def test_central_slices_of_reconstructions(path: Path) -> None:
    images = random(2, 3, 5, 4, 4)
    figure = plot_reconstructions(images, images, path)
    assert np.array_equal(cells(drawn(figure.axes[0]), 4, 8)[0], images[:, 0, 2])
    assert "2 examples of size 5 × 4 × 4, the first of 3 channels, central slices of 4 × 4" in words(figure)


def test_signals_are_curves_in_one_panel(path: Path) -> None:
    images, other = random(5, 2, 9), random(5, 2, 9)
    figure = plot_reconstructions(images, images / 2, path, other=other)
    panels = [axes for axes in figure.axes if axes.get_visible()]
    assert len(panels) == 5
    for number, axes in enumerate(panels):
        curves = np.array([line.get_ydata() for line in axes.lines])
        assert np.array_equal(curves, [images[number, 0], images[number, 0] / 2, other[number, 0]])
        assert axes.get_title() == f"no. {number}"
        assert axes.get_xlabel() == ("position" if number else "")
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [
        "original",
        f"reconstruction, MSE {np.mean(images**2 / 4):.3g}",
        f"PCA, MSE {np.mean((other - images) ** 2):.3g}",
    ]
    assert "the first of 2 channels" in words(figure)


@pytest.mark.parametrize(
    ("shape", "value"),
    [
        ((3, 1, 9), np.nan),
        ((3, 1, 4, 4), 0.0),
        ((3, 1, 4, 4), np.inf),
        ((3, 3, 4, 4), np.nan),
        ((3, 1, 200, 150), np.nan),
    ],
    ids=str,
)
def test_constant_and_not_finite(path: Path, shape: tuple[int, ...], value: float) -> None:
    images = np.zeros(shape)
    images[..., 0] = value
    plot_reconstructions(images, np.full(shape, value), path)
    assert path.exists()


@pytest.mark.parametrize(
    ("images", "reconstructions", "options", "kind", "message"),
    [
        (
            np.zeros((2, 3)),
            np.zeros((2, 3)),
            {},
            ValueError,
            "images: expected (N, C, *X) with at least one spatial axis",
        ),
        (np.zeros((0, 1, 3)), np.zeros((0, 1, 3)), {}, ValueError, "images: expected (N, C, *X)"),
        (
            np.zeros((2, 1, 3)),
            np.zeros((2, 1, 4)),
            {},
            ValueError,
            "reconstruction: expected the shape of images, (2, 1, 3), got (2, 1, 4)",
        ),
        (
            np.zeros((2, 1, 3)),
            np.zeros((2, 1, 3)),
            {"other": np.zeros((1, 1, 3))},
            ValueError,
            "PCA: expected the shape of images, (2, 1, 3), got (1, 1, 3)",
        ),
        (
            np.zeros((2, 1, 3)),
            np.zeros((2, 1, 3)),
            {"labels": [1]},
            ValueError,
            "labels: expected shape (2,), one for each image, got (1,)",
        ),
        (np.zeros((2, 1, 3)), np.zeros((2, 1, 3)), {"limit": 0}, ValueError, "limit=0: expected at least 1"),
        (
            np.zeros((2, 1, 3)),
            np.zeros((2, 1, 3), complex),
            {},
            TypeError,
            "reconstruction of dtype complex128: expected real numbers",
        ),
    ],
)
def test_reconstructions_that_do_not_fit(
    path: Path, images: Array, reconstructions: Array, options: dict[str, Any], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind) as raised:
        plot_reconstructions(images, reconstructions, path, **options)
    assert str(raised.value).startswith(message)
    assert "\n" not in str(raised.value)
    assert not path.exists()
