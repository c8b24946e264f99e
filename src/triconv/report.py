"""What a trained run is worth: its errors on unseen examples beside simpler ways to do the same, and its pictures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .layers import in_batches
from .plots import plot_filters, plot_loss, plot_reconstructions
from .train import PICTURES, Run

Array = NDArray[Any]


@dataclass(frozen=True)
class Report:
    """Mean squared errors on unseen examples, and with labels the accuracies on them. PCA keeps as many values."""

    code_size: int
    components: int
    """Of PCA: the code size, or all there are."""
    error: float
    pca_error: float
    mean_error: float
    probe_codes: float | None = None
    probe_pixels: float | None = None
    tuned: float | None = None

    def rows(self) -> list[tuple[str, str]]:
        """The report as lines of a table: what, and the figure."""
        rows = [
            (f"reconstruction error, {self.code_size} code values", f"{self.error:.5f}"),
            (f"reconstruction error, PCA with {self.components} values", f"{self.pca_error:.5f}"),
            ("reconstruction error, mean image", f"{self.mean_error:.5f}"),
            ("ratio to PCA", f"{self.error / self.pca_error:.3f}" if self.pca_error > 0 else "PCA is exact"),
        ]
        named = {
            "accuracy, linear probe on codes": self.probe_codes,
            "accuracy, linear probe on pixels": self.probe_pixels,
            "accuracy, fine-tuned classifier": self.tuned,
        }
        return rows + [(name, f"{value:.2%}") for name, value in named.items() if value is not None]


def report(run: Run) -> Report:
    """Measure a trained run on its unseen examples, beside scikit-learn's PCA and linear probe, and draw its pictures.

    Writes loss.png, unless nothing was trained, filters.png and reconstructions.png into the run's folder.
    """
    seen, unseen = run.seen, run.unseen
    flat, flat_unseen = (part.images.reshape(len(part.images), -1) for part in (seen, unseen))
    by_pca, components = _pca(flat, flat_unseen, run.architecture.code_size)
    reconstructed = in_batches(run.model, unseen.images)
    accuracies = {}
    if run.classifier is not None and seen.labels is not None and unseen.labels is not None:
        encoder = run.encoder(len(run.architecture.stages))
        codes, codes_unseen = (in_batches(encoder, part.images) for part in (seen, unseen))
        accuracies = {
            "probe_codes": _probe(codes.reshape(len(codes), -1), seen.labels, codes_unseen, unseen.labels),
            "probe_pixels": _probe(flat, seen.labels, flat_unseen, unseen.labels),
            "tuned": float(np.mean(in_batches(run.classifier, unseen.images).argmax(axis=1) == unseen.labels)),
        }
    _draw(run, reconstructed, by_pca.reshape(unseen.images.shape))
    return Report(
        run.architecture.code_size,
        components,
        _error(reconstructed, unseen.images),
        _error(by_pca, flat_unseen),
        _error(flat.mean(axis=0), flat_unseen),
        **accuracies,
    )


def _error(prediction: Array, target: Array) -> float:
    return float(np.mean((prediction - target) ** 2, dtype=np.float64))


def _pca(seen: Array, unseen: Array, size: int) -> tuple[Array, int]:
    """The unseen examples from their leading principal components, and how many those are."""
    from sklearn.decomposition import PCA

    components = min(size, *seen.shape)
    pca = PCA(components, random_state=0).fit(seen)
    return np.asarray(pca.inverse_transform(pca.transform(unseen))), components


def _probe(seen: Array, labels: Array, unseen: Array, unseen_labels: Array) -> float:
    """The accuracy on unseen examples of logistic regression on standardised values."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    probe.fit(seen.astype(np.float64), labels)
    return float(probe.score(unseen.reshape(len(unseen), -1).astype(np.float64), unseen_labels))


def _draw(run: Run, reconstructed: Array, by_pca: Array) -> None:
    loss, filters, reconstructions = (run.folder / name for name in PICTURES)
    if run.metrics:
        plot_loss(run.metrics, loss)
    weight = run.model.parameters["encoder.0.weight"].value
    plot_filters(weight, run.architecture.rank, filters)
    plot_reconstructions(run.unseen.images, reconstructed, reconstructions, labels=run.unseen.labels, other=by_pca)
