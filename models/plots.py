"""Plots without a display: figures, rasters, training curves, confusion matrices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from detector.system import replace_file

DPI = 120
_DARK = 0.5
"""Share of a row above which a cell is dark enough for white text."""


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure of a size in inches, without a display."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save(figure: Figure, path: Path) -> None:
    """Write the figure as PNG, complete or not at all, creating its folder where it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replace_file(path) as part:
        figure.savefig(part, dpi=DPI)


def raster(axes: Any, spikes: NDArray[Any], *, colour: str = "black") -> None:
    """Draw spikes (steps, neurons) as dots: time to the right, neurons upwards."""
    steps, neurons = np.nonzero(spikes)
    axes.scatter(steps, neurons, s=2.0, marker="|", color=colour, linewidths=0.8)
    axes.set_xlim(-0.5, spikes.shape[0] - 0.5)
    axes.set_ylim(-0.5, spikes.shape[1] - 0.5)


def draw_curves(curves: Mapping[str, Sequence[float]], path: Path, *, title: str) -> None:
    """Draw one panel for each curve over the epochs, at most five to a row."""
    columns = min(len(curves), 5)
    rows = -(-len(curves) // columns)
    figure = new_figure(3.6 * columns, 3.0 * rows)
    panels = figure.subplots(rows, columns, squeeze=False).flatten()
    for axes in panels[len(curves) :]:
        axes.remove()
    for axes, (name, values) in zip(panels, curves.items(), strict=False):
        axes.plot(range(1, len(values) + 1), values)
        axes.set_xlabel("epoch")
        axes.set_title(name, fontsize="medium")
        axes.grid(alpha=0.3)
    figure.suptitle(title)
    save(figure, path)


def draw_confusion(  # noqa: PLR0913 - one picture
    counts: NDArray[np.int64],
    labels: Sequence[str],
    path: Path,
    *,
    title: str,
    columns: Sequence[str] | None = None,
    axis_names: tuple[str, str] = ("true class", "predicted class"),
) -> None:
    """Draw counts (true class, predicted class) as a matrix, coloured by the share of its row.

    ``columns`` names the columns where they are not the labels; ``axis_names`` are those of rows and columns.
    """
    down, right = ([name.replace("_", " ") for name in names] for names in (labels, columns or labels))
    figure = new_figure(3.1 + 0.4 * len(right), 2.5 + 0.4 * len(down))
    axes = figure.subplots()
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(counts):
        if count:
            colour = "white" if share[row, column] > _DARK else "black"
            axes.text(column, row, str(count), ha="center", va="center", fontsize=8, color=colour)
    axes.set_xticks(range(len(right)), right, rotation=60, ha="right")
    axes.set_yticks(range(len(down)), down)
    axes.set_xlabel(axis_names[1])
    axes.set_ylabel(axis_names[0])
    axes.set_title(title)
    save(figure, path)
