"""Pictures of a run, made to be shown: its loss, its filters, its reconstructions.

Figures are built as objects, without pyplot and its global state. Many small images are drawn as one image with gaps,
which is much faster than as many axes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, isqrt, prod, sqrt
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from .arrays import Array
from .files import replace_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

DPI = 150
BLUE, ORANGE, GREEN = COLOURS = ("#0072B2", "#D55E00", "#009E73")
"""Of Okabe and Ito's colours, which colour-blind people tell apart."""
FAINT, DIM = "0.88", "0.45"


def plot_loss(metrics: Iterable[Mapping[str, Any]], path: Path | str) -> Figure:
    """Draw the losses of a run over its epochs, one panel for each phase, on seen and on unseen examples.

    Parameters
    ----------
    metrics
        Rows {"phase": str, "epoch": int, "loss": float}, perhaps with "unseen": float, as in metrics.jsonl. The loss of
        a phase "classifier" is a cross-entropy, of any other a mean squared error.
    path
        Of the picture, in the format that its extension names.

    Returns
    -------
    matplotlib.figure.Figure
        What was drawn.

    Raises
    ------
    ValueError
        When there are no rows.
    OSError
        One line; an older picture stays as it was.
    """
    phases: dict[str, list[Mapping[str, Any]]] = {}
    for row in metrics:
        phases.setdefault(row["phase"], []).append(row)
    if not phases:
        raise ValueError("metrics: expected at least one row")
    columns = 2 if len(phases) == 4 else min(len(phases), 3)
    rows = ceil(len(phases) / columns)
    figure = _figure(4.8 * columns, 3.4 * rows)
    figure.set_layout_engine("constrained", w_pad=0.15, h_pad=0.15)
    for number, (phase, lines) in enumerate(phases.items(), 1):
        _draw_phase(figure.add_subplot(rows, columns, number), phase, lines)
    return _save(figure, path)


def _draw_phase(axes: Axes, phase: str, lines: list[Mapping[str, Any]]) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    ends, seen = [], []
    for name, key, colour in (("seen", "loss", BLUE), ("unseen", "unseen", ORANGE)):
        points = [(line["epoch"], line[key]) for line in lines if line.get(key) is not None]
        points = [(epoch, loss) for epoch, loss in points if np.isfinite(loss)]
        if points:
            axes.plot(
                *zip(*points, strict=True), color=colour, marker="o" if len(points) < 25 else "", ms=4, label=name
            )
            ends.append((points[-1][1], points[-1][0], name, colour))
            seen += [loss for _, loss in points]
    if seen and min(seen) > 0:
        axes.set_yscale("log")
        ratio = max(seen) / min(seen)
        steps = (1,) if ratio > 1000 else (1, 2, 5) if ratio > 20 else (1, 1.5, 2, 3, 5, 7)
        axes.yaxis.set_major_locator(LogLocator(subs=steps) if ratio > 3 else MaxNLocator(6))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
    for place, (loss, epoch, name, colour) in enumerate(sorted(ends)):
        axes.annotate(
            f"{name} {loss:.3g}",
            (epoch, loss),
            xytext=(7, 0),
            textcoords="offset points",
            va="center" if len(ends) == 1 else ("top", "bottom")[place],  # so that close ends do not overlap
            color=colour,
            annotation_clip=False,
        )
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    if len(lines) == 1:
        axes.set_xlim(lines[0]["epoch"] - 1, lines[0]["epoch"] + 1)
    if not ends:
        axes.set_yticks([])
        axes.text(0.5, 0.5, "no finite loss", transform=axes.transAxes, ha="center", color=DIM)
    axes.set_title(f"Loss of the {phase}" if phase in ("autoencoder", "classifier") else f"Loss of {phase}")
    axes.set_xlabel("epoch")
    axes.set_ylabel("cross-entropy (nats)" if phase == "classifier" else "mean squared error")
    axes.margins(y=0.12)  # room for the labels
    axes.grid(color=FAINT)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def plot_filters(weight: ArrayLike, rank: int, path: Path | str, *, limit: int = 64) -> Figure:
    """Draw the kernels of a weight on one scale, the first of them when there are many.

    With 1 visible channel they are a grid; with 3 and rank 2 a grid in RGB; with others a row for each hidden channel
    and a column for each visible one. Kernels of rank 1 are curves; of rank 3 and more, central slices are drawn. Of a
    bank, the kernels at its first position come first.

    Parameters
    ----------
    weight
        (C_out, C_in/groups, *K), or with a bank (*t, C_out, C_in/groups, *K).
    rank
        The number of kernel axes.
    path
        Of the picture, in the format that its extension names.
    limit
        How many kernels to draw at most.

    Returns
    -------
    matplotlib.figure.Figure
        What was drawn.

    Raises
    ------
    ValueError, TypeError
        When the weight is not real or has not this rank.
    OSError
        One line; an older picture stays as it was.
    """
    values = np.asarray(weight)
    if rank < 1:
        raise ValueError(f"rank={rank}: expected at least 1; a kernel of rank 0 is a number")
    if values.ndim not in (2 + rank, 2 + 2 * rank) or 0 in values.shape:
        raise ValueError(
            f"weight: expected (C_out, C_in/groups, *K) or (*t, C_out, C_in/groups, *K) with {rank} kernel axes, "
            f"got shape {values.shape}"
        )
    if values.dtype.kind != "f":
        raise TypeError(f"weight of dtype {values.dtype}: expected real floats")
    _at_least_one(limit)
    bank, (hidden, visible), size = values.shape[: -2 - rank], values.shape[-2 - rank : -rank], values.shape[-rank:]
    kernels = _slices(values.reshape(-1, visible, *size), rank).astype(float)
    top = _largest(kernels)
    rgb = rank == 2 and visible == 3
    channels = visible if rgb else min(visible, 3 if rank == 1 else isqrt(limit))
    shown = min(len(kernels), limit if rgb or rank == 1 else limit // channels)
    title = _filters_title((shown, channels), bank, (hidden, visible), size)
    kernels = kernels[:shown, :channels]
    if rank == 1:
        figure = _filter_curves(kernels, top, title)
    elif rgb:
        figure = _filter_images(np.moveaxis(0.5 + kernels / (2 * top), 1, -1), _columns(shown), top, title)
    else:
        columns = _columns(shown) if visible == 1 else channels
        figure = _filter_images(kernels.reshape(-1, *kernels.shape[2:]), columns, top, title)
        if visible > 1:
            figure.axes[0].set(xlabel="visible channel", ylabel="hidden channel")
    return _save(figure, path)


def _filters_title(
    shown: tuple[int, int], bank: tuple[int, ...], channels: tuple[int, int], size: tuple[int, ...]
) -> str:
    """How many of how many filters are drawn, from which positions of the bank, and which part of them."""
    hidden, visible = channels
    title = f"{_of(shown[0], hidden * prod(bank), 'filter')} of size {_times(size)}"
    if shown[1] < visible:
        title += f", {_of(shown[1], visible, 'visible channel')}"
    if bank:
        last = np.unravel_index((shown[0] - 1) // hidden, bank)
        first, final = (", ".join(str(int(index)) for index in place) for place in ((0,) * len(bank), last))
        where = f"position ({first})" if first == final else f"positions ({first}) to ({final})"
        title += f"\nbank of {_times(bank)}: {where}, {_of(hidden, hidden, 'hidden channel')} at each"
    if len(size) > 2:
        title += f"\ncentral slices of {_times(size[-2:])}"
    return title


def _filter_images(cells: Array, columns: int, top: float, title: str) -> Figure:
    montage = _montage(cells, columns)
    high, wide = montage.image.shape[:2]
    scale = min(0.62 / montage.cell[0], 7 / wide, 7 / high)
    figure = _figure(scale * wide + 1.4, scale * high + 0.9, "compressed")
    axes = figure.add_subplot()
    drawn = _draw_montage(axes, montage, "RdBu_r", -top, top)
    axes.set_title(title)
    if cells.ndim == 4:
        axes.set_xlabel(f"grey is 0; in each channel black is −{top:.2g} and white {top:.2g}")
    else:
        figure.colorbar(drawn, ax=axes, label="weight", aspect=scale * high / 0.15)
    return figure


def _filter_curves(kernels: Array, top: float, title: str) -> Figure:
    """Each kernel as a curve for each of its channels, in a frame from -top to top."""
    from matplotlib.collections import LineCollection

    count, channels, taps = kernels.shape
    columns = _columns(count)
    rows = ceil(count / columns)
    figure = _figure(0.4 + 0.9 * columns, 0.9 + 0.75 * rows)
    axes = figure.add_subplot()
    places = np.stack([np.arange(count) % columns, -(np.arange(count) // columns)], -1).astype(float)
    along = np.linspace(0.05, 0.95, taps) if taps > 1 else np.array([0.5])
    frame = np.array([(0, 0), (1, 0), (1, 1), (0, 1), (0, 0)]) * (0.94, 0.9)
    zero = np.array([(0, 0.5), (1, 0.5)]) * (0.94, 0.9)
    for lines, colour in ((frame, "0.7"), (zero, FAINT)):
        axes.add_collection(LineCollection(list(places[:, None] + lines), colors=colour, linewidths=0.8))
    for channel in range(channels):
        heights = 0.5 + 0.45 * kernels[:, channel] / top
        curves = np.stack([np.broadcast_to(along, heights.shape), heights], -1) * (0.94, 0.9)
        axes.add_collection(
            LineCollection(list(places[:, None] + curves), colors=COLOURS[channel], linewidths=1.5, label=f"{channel}")
        )
        axes.plot(*(places[:, None] + curves).reshape(-1, 2).T, ".", ms=3, color=COLOURS[channel])
    axes.set(xlim=(-0.05, columns), ylim=(-rows + 0.95, 0.95))
    _bare(axes)
    axes.set_title(title)
    axes.set_xlabel(f"in each frame: tap 0 to {taps - 1}; weight, 0 in the middle, ±{top:.2g} at the edges")
    if channels > 1:
        figure.legend(loc="outside lower center", ncols=channels, title="visible channel", frameon=False)
    return figure


def plot_reconstructions(
    images: ArrayLike,
    reconstructions: ArrayLike,
    path: Path | str,
    *,
    labels: ArrayLike | None = None,
    limit: int = 12,
    other: ArrayLike | None = None,
    other_name: str = "PCA",
) -> Figure:
    """Draw images above their reconstructions, perhaps another method's, and how far off the reconstructions are.

    Of rank 1 they are curves in one panel. Of rank 3 and more central slices are drawn. Of channels other than 1, or 3
    at rank 2, the first is drawn. The mean squared errors are those of all values of all images, drawn or not.

    Parameters
    ----------
    images, reconstructions, other
        (N, C, *X), alike.
    path
        Of the picture, in the format that its extension names.
    labels
        (N,), what to write above each image; None numbers them.
    limit
        How many to draw at most, the first.
    other_name
        What to call the other method.

    Returns
    -------
    matplotlib.figure.Figure
        What was drawn.

    Raises
    ------
    ValueError
        When the shapes are not alike.
    OSError
        One line; an older picture stays as it was.
    """
    original = np.asarray(images)
    if original.ndim < 3 or 0 in original.shape:
        raise ValueError(f"images: expected (N, C, *X) with at least one spatial axis, got shape {original.shape}")
    _at_least_one(limit)
    count, channels, *size = original.shape
    rank, shown = len(size), min(count, limit)
    methods = [("reconstruction", np.asarray(reconstructions))]
    if other is not None:
        methods.append((other_name, np.asarray(other)))
    for name, values in methods:
        if values.shape != original.shape:
            raise ValueError(f"{name}: expected the shape of images, {original.shape}, got {values.shape}")
    for name, values in [("images", original), *methods]:
        if values.dtype.kind not in "fiub":
            raise TypeError(f"{name} of dtype {values.dtype}: expected real numbers")
    names = [f"no. {number}" for number in range(shown)]
    if labels is not None:
        if np.shape(labels) != (count,):
            raise ValueError(f"labels: expected shape ({count},), one for each image, got {np.shape(labels)}")
        names = [str(label) for label in np.asarray(labels)[:shown]]
    rgb = rank == 2 and channels == 3
    drawn = [("original", _part(original[:shown], rank, rgb))]
    for name, values in methods:
        with np.errstate(all="ignore"):  # not finite is shown as it is
            error = np.mean(np.square(values.astype(float) - original))
        drawn.append((f"{name}\nMSE {error:.3g}", _part(values[:shown], rank, rgb)))
    title = f"{_of(shown, count, 'example')} of size {_times(size)}"
    if channels > 1:
        title += f", {channels} channels" if rgb else f", the first of {channels} channels"
    if rank > 2:
        title += f", central slices of {_times(size[-2:])}"
    return _save((_reconstructed_curves if rank == 1 else _reconstructed_images)(drawn, names, title), path)


def _reconstructed_images(drawn: list[tuple[str, Array]], names: list[str], title: str) -> Figure:
    """A row for the originals, one for each method, and one for the first method's absolute error."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    original, reconstruction = drawn[0][1], drawn[1][1]
    with np.errstate(all="ignore"):
        error = np.abs(reconstruction - original)
    error = error.mean(-1) if error.ndim == 4 else error
    low, high = _limits(original)
    grey, heat = ("gray", low, high), ("magma", 0.0, _largest(error))
    rows = [(name, (values - low) / (high - low) if values.ndim == 4 else values, grey) for name, values in drawn]
    rows.append(("absolute error\nof reconstruction", error, heat))
    count, height = len(original), original.shape[1] / original.shape[2]
    side = min(0.85, 11 / count, 1.4 / height)
    figure = _figure(side * count + 2.4, side * height * len(rows) + 0.9, "compressed")
    panels = list(figure.subplots(len(rows), 1, squeeze=False)[:, 0])
    for axes, (name, values, scale) in zip(panels, rows, strict=True):
        montage = _montage(values, count)
        _draw_montage(axes, montage, *scale)
        axes.set_ylabel(name, rotation=0, ha="right", va="center")
    panels[0].xaxis.tick_top()
    panels[0].set_xticks(montage.lefts + montage.cell[1] / 2 - 0.5, names)
    panels[0].tick_params(length=0)
    figure.suptitle(title)
    for group, (colours, bottom, top), label in ((panels[:-1], grey, "value"), (panels[-1:], heat, "error")):
        mapping, thin = ScalarMappable(Normalize(bottom, top), colours), side * height * len(group) / 0.12
        figure.colorbar(mapping, ax=group, label=label, pad=0.01, aspect=thin)
    return figure


def _reconstructed_curves(drawn: list[tuple[str, Array]], names: list[str], title: str) -> Figure:
    count = len(names)
    columns = min(count, 4)
    rows = ceil(count / columns)
    figure = _figure(0.8 + 2.7 * columns, 1.2 + 1.7 * rows)
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    for number, axes in enumerate(panels):
        axes.set_visible(number < count)
    for axes, name, number in zip(panels, names, range(count), strict=False):
        for (label, values), colour, width in zip(drawn, ("0.7", BLUE, ORANGE), (4, 1.5, 1.2), strict=False):
            axes.plot(values[number], color=colour, lw=width, label=label.replace("\n", ", ") if number == 0 else None)
        axes.set_title(name, fontsize="medium")
        axes.grid(color=FAINT)
        axes.spines[["top", "right"]].set_visible(False)
        if number % columns == 0:
            axes.set_ylabel("value")
        if number + columns >= count:  # the last of its column
            axes.set_xlabel("position")
            axes.tick_params(labelbottom=True)
    figure.suptitle(title)
    figure.legend(loc="outside lower center", ncols=len(drawn), frameon=False)
    return figure


# Words


def _at_least_one(limit: int) -> None:
    if limit < 1:
        raise ValueError(f"limit={limit}: expected at least 1")


def _of(part: int, whole: int, what: str) -> str:
    return f"{'' if part == whole else f'first {part} of '}{whole} {what}{'' if whole == 1 else 's'}"


def _times(size: Sequence[int]) -> str:
    return " × ".join(map(str, size))


# Values


def _slices(values: Array, rank: int) -> Array:
    """The middle of all spatial axes but the last two; spatial axes are the last `rank`."""
    for _ in range(rank - 2):
        values = values.take(values.shape[-rank] // 2, axis=-rank)
        rank -= 1
    return values


def _part(values: Array, rank: int, rgb: bool) -> Array:
    """What of (N, C, *X) is drawn, as floats: (N, H, W, 3) for RGB, otherwise the first channel."""
    values = values.real.astype(float)
    return np.moveaxis(values, 1, -1) if rgb else _slices(values[:, 0], rank)


def _limits(values: Array) -> tuple[float, float]:
    """The scale of values: 0 to 1 for pictures, otherwise from the least to the largest."""
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    if low >= 0 and 0.5 <= high <= 1:
        return 0.0, 1.0
    return (low, high) if low < high else (low, low + 1)


def _largest(values: Array) -> float:
    """The largest finite magnitude, or 1 when there is none above 0."""
    return float(np.abs(values[np.isfinite(values)]).max(initial=0)) or 1.0


def _columns(count: int) -> int:
    return min(count, max(8, ceil(sqrt(count))))


# Drawing


@dataclass(frozen=True)
class Montage:
    """Many cells (n, h, w) or (n, h, w, 3) as one image, enlarged, with gaps that are NaN; and the cells' corners."""

    image: Array
    tops: Array
    lefts: Array
    cell: tuple[int, int]


def _montage(cells: Array, columns: int) -> Montage:
    enlarged = max(1, 32 // max(cells.shape[1:3]))
    cells = cells.repeat(enlarged, 1).repeat(enlarged, 2)
    count, tall, wide = cells.shape[:3]
    gap = max(2, max(tall, wide) // 12)
    row, column = np.divmod(np.arange(count), columns)
    tops, lefts = row * (tall + gap), column * (wide + gap)
    image = np.full((tops.max() + tall, lefts.max() + wide, *cells.shape[3:]), np.nan)
    for top, left, cell in zip(tops, lefts, cells, strict=True):
        image[top : top + tall, left : left + wide] = cell
    return Montage(image, tops, lefts, (tall, wide))


def _draw_montage(axes: Axes, montage: Montage, colours: str, low: float, high: float) -> AxesImage:
    from matplotlib import colormaps
    from matplotlib.collections import LineCollection

    image, (tall, wide) = montage.image, montage.cell
    smooth = "nearest" if max(tall, wide) < 128 else "auto"
    if image.ndim == 3:
        drawn = axes.imshow(np.nan_to_num(image, nan=1.0).clip(0, 1), interpolation=smooth)
    else:
        colormap = colormaps[colours].with_extremes(bad="white")
        drawn = axes.imshow(image, colormap, vmin=low, vmax=high, interpolation=smooth)
    corners = np.stack([montage.lefts, montage.tops], -1)[:, None] - 0.5
    frames = corners + np.array([(0, 0), (wide, 0), (wide, tall), (0, tall), (0, 0)])
    axes.add_collection(LineCollection(list(frames), colors="0.6", linewidths=0.5), autolim=False)
    axes.set(xlim=(-2, image.shape[1] + 1), ylim=(image.shape[0] + 1, -2))  # room for the frames
    _bare(axes)
    return drawn


def _bare(axes: Axes) -> None:
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)


def _figure(width: float, height: float, layout: Literal["constrained", "compressed"] = "constrained") -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=DPI, layout=layout)
    FigureCanvasAgg(figure)
    return figure


def _save(figure: Figure, path: Path | str) -> Figure:
    form = Path(path).suffix[1:].lower() or "png"
    known = figure.canvas.get_supported_filetypes()
    if form not in known:
        raise ValueError(f"{path}: expected a picture's extension, one of {', '.join(sorted(known))}")
    with replace_file(path) as beside:
        figure.savefig(beside, format=form, dpi=DPI, bbox_inches="tight", pad_inches=0.15, facecolor="white")
    return figure
