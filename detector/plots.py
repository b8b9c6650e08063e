"""One sheet about one sound: waveform, features, spikes, scores and events under each other.

The panels of a sheet: each draws one room's work over the same seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from detector.errors import ConfigError
from detector.features import log_mel_matrix, mel_centres_hz
from detector.manifest import ClassSpec, MfccParams
from detector.messages import Trace
from detector.system.files import replace_file

if TYPE_CHECKING:
    from detector.messages import Samples
    from detector.pipeline import Detector
    from detector.records import EventRecord, OffsetRecord

LONGEST_S: Final = 600.0
"""Sound that a sheet shows at most: beyond it a spike is narrower than ink."""
SUFFIXES: Final = (".png", ".pdf", ".svg")
_EXTRA: Final = "--picture needs matplotlib: pip install 'snn-detect[plot]'"
_DPI: Final = 160
_WIDTH_INCHES: Final = 12.0
_HEIGHTS: Final = (1.0, 1.8, 2.4, 3.4, 2.2)
_ROW_INCHES: Final = 0.22
_LEAST_SHOWN: Final = 0.25
"""Classes whose mean never gets this high have no curve."""


class Sheet:
    """Gathers what a detector hears and does, as its observer, and draws it."""

    wants_layers = True

    def __init__(self, path: Path, detector: Detector) -> None:
        """Prepare to write ``path``; raises ConfigError without matplotlib."""
        _figure_class()
        self._path, self._classes = path, detector.classes
        manifest = detector.manifest
        self._features, self._model = manifest.features, f"{manifest.name} {manifest.version}"
        self._most = round(LONGEST_S * self._features.sample_rate_hz)
        self._samples: list[Samples] = []
        self._traces: list[Trace] = []
        self._heard = 0

    @property
    def is_cut(self) -> bool:
        """Whether there was more sound than the sheet shows."""
        return self._heard > self._most

    def on_chunk(self, samples: Samples) -> None:
        """Take samples (n,)."""
        if self._heard < self._most:
            self._samples.append(samples[: self._most - self._heard].copy())
        self._heard += len(samples)

    def on_trace(self, trace: Trace) -> None:
        """Take what they brought about."""
        if trace.first_sample < self._most:
            self._traces.append(trace)

    def save(self, title: str, records: Sequence[EventRecord]) -> None:
        """Draw the sheet, complete or not at all; raises OSError where the file cannot be written."""
        begun = [r for r in records if r.onset_s * self._features.sample_rate_hz < self._most]
        figure = self._drawn(title, begun)
        with replace_file(self._path) as part:
            figure.savefig(part, dpi=_DPI)

    def _drawn(self, title: str, records: Sequence[EventRecord]) -> Any:

        means = np.concatenate([np.empty((0, len(self._classes))), *(i.means for i in self._traces)])
        labels = _shown(means, self._classes, records)
        rows = len({r.label for r in records})
        heights = (*_HEIGHTS, _ROW_INCHES * max(2, rows) + 0.2)
        figure = _figure_class()(figsize=(_WIDTH_INCHES, sum(heights) + 1.2), layout="constrained")
        axes = figure.subplots(len(heights), 1, sharex=True, gridspec_kw={"height_ratios": heights})
        figure.suptitle(f"{title}   ({self._model})", fontsize="medium")
        rate_hz = self._features.sample_rate_hz
        draw_wave(axes[0], np.concatenate([np.zeros(0, np.float32), *self._samples]), rate_hz)
        if self._traces:
            span = Span(self._features, self._traces[0].first_sample, len(means))
            draw_features(axes[1], span, np.concatenate([i.frames for i in self._traces]))
            draw_encoder(axes[2], span, np.concatenate([i.spikes for i in self._traces]))
            names = self._traces[0].layers
            layers = {name: np.concatenate([i.layers[name] for i in self._traces]) for name in names}
            draw_layers(axes[3], span, layers)
            draw_scores(axes[4], span, means, self._classes, labels)
        draw_events(axes[5], labels, records)
        axes[0].set_xlim(0, max(min(self._heard, self._most), 1) / rate_hz)
        axes[-1].set_xlabel("time (s)")
        for one in axes:
            one.tick_params(labelsize="small")
            one.spines[["top", "right"]].set_visible(False)
        figure.align_ylabels()
        return figure


def _shown(means: NDArray[np.float64], classes: Sequence[ClassSpec], records: Sequence[EventRecord]) -> list[str]:
    """Return the labels with an event, then those whose mean gets high, each part by its highest mean."""
    highest = dict(zip((c.label for c in classes), means.max(axis=0, initial=0.0).tolist(), strict=True))
    order = sorted(highest, key=lambda label: -highest[label])
    heard = {r.label for r in records if isinstance(r, OffsetRecord)}
    with_event = [label for label in order if label in heard]
    return with_event + [label for label in order if label not in heard and highest[label] >= _LEAST_SHOWN]


def _figure_class() -> Any:
    """Return matplotlib's figure, which draws without a screen; raises ConfigError without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        if error.name is None or not error.name.startswith("matplotlib"):
            raise
        raise ConfigError(_EXTRA) from error
    return Figure


if TYPE_CHECKING:
    from detector.messages import Frames, LayerSpikes, Samples, Spikes

_COLUMNS: Final = 2400
"""Columns of pictures and curves at most; of several frames in one, the highest value is shown."""
_MOST_CURVES: Final = 8
_MARKS_HZ: Final = (200, 500, 1000, 2000, 4000)
# Okabe and Ito's colours, which the colour-blind tell apart.
_COLOURS: Final = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8A7F00")
_UP, _DOWN = "#B2182B", "#2166AC"


@dataclass(frozen=True, slots=True)
class Span:
    """The seconds that the frames of a sheet cover: each stands where its last hop was heard."""

    params: MfccParams
    first_sample: int
    frames: int

    @property
    def begin_s(self) -> float:
        """Where the first frame's last hop begins."""
        p = self.params
        return (self.first_sample + p.frame_length - p.hop_length) / p.sample_rate_hz

    @property
    def end_s(self) -> float:
        """Where the last frame ends."""
        return self.begin_s + self.frames * self.params.hop_length / self.params.sample_rate_hz

    @property
    def ends_s(self) -> NDArray[np.float64]:
        """Where each frame ends, (frames,)."""
        p = self.params
        return self.begin_s + (np.arange(self.frames) + 1) * p.hop_length / p.sample_rate_hz


def draw_wave(axes: Any, wave: Samples, rate_hz: int) -> None:
    """Draw samples (n,) by the lowest and highest of each column."""
    step = max(1, len(wave) // _COLUMNS)
    pieces = wave[: len(wave) // step * step].reshape(-1, step)
    if len(pieces):
        times = np.arange(len(pieces)) * step / rate_hz
        axes.fill_between(times, pieces.min(axis=1), pieces.max(axis=1), color="#444444", linewidth=0.4)
    axes.set_ylabel("waveform")


def draw_features(axes: Any, span: Span, frames: Frames) -> None:
    """Draw cepstra (frames, n_mfcc) as the log mel energies that they stand for."""
    mel = frames @ log_mel_matrix(span.params)
    low, high = np.quantile(mel, (0.02, 0.999))
    _picture(axes, span, _pooled(mel), cmap="magma", vmin=low, vmax=high)
    hz = mel_centres_hz(span.params)
    marks = [int(np.argmin(np.abs(hz - f))) for f in _MARKS_HZ if hz[0] <= f <= hz[-1]]
    axes.set_yticks(marks, [f"{hz[m] / 1000:.1f}" for m in marks])
    axes.set_ylabel("log mel (kHz)")


def draw_encoder(axes: Any, span: Span, spikes: Spikes) -> None:
    """Draw one band of rows for each threshold: up spikes red, down spikes blue."""
    from matplotlib.colors import ListedColormap

    up, down = (_pooled(spikes[:, k::2].reshape(len(spikes), -1)) for k in (0, 1))
    # Where frames share a column, both may have fired: then the up spike shows.
    codes = np.where(up > 0, 2, np.where(down > 0, 0, 1))
    _picture(axes, span, codes, cmap=ListedColormap([_DOWN, "white", _UP]), vmin=0, vmax=2)
    levels, width = spikes.shape[1] // 2, spikes.shape[2]
    for level in range(1, levels):
        axes.axhline(level * width - 0.5, color="#999999", linewidth=0.5)
    names = ["coarse", *[""] * (levels - 2), "fine"] if levels > 1 else ["delta"]
    axes.set_yticks([(k + 0.5) * width for k in range(levels)], names)
    axes.set_ylabel("encoder\nup red, down blue")


def draw_layers(axes: Any, span: Span, layers: LayerSpikes) -> None:
    """Draw the spikes of all layers above each other, with their mean rates."""
    if not layers:
        return
    together = _pooled(np.concatenate(list(layers.values()), axis=1))
    _picture(axes, span, together, cmap="binary", vmin=0, vmax=1, interpolation="antialiased")
    neurons = np.array([spikes.shape[1] for spikes in layers.values()])
    ends = np.cumsum(neurons)
    for edge in ends[:-1]:
        axes.axhline(edge - 0.5, color=_COLOURS[0], linewidth=0.6)
    per_s = span.params.sample_rate_hz / span.params.hop_length
    names = [f"{name}\n{spikes.mean() * per_s:.1f} Hz" for name, spikes in layers.items()]
    axes.set_yticks(ends - neurons / 2, names)
    axes.set_ylabel("layers' spikes, mean rates")


def draw_scores(
    axes: Any, span: Span, means: NDArray[np.float64], classes: Sequence[ClassSpec], labels: Sequence[str]
) -> None:
    """Draw the means (frames, classes) of some labels, each with its on-threshold."""
    for number, spec in enumerate(classes):
        if spec.label in labels[:_MOST_CURVES]:
            colour = _colour(labels, spec.label)
            axes.plot(span.ends_s, means[:, number], color=colour, linewidth=1.1, label=spec.label.replace("_", " "))
            axes.axhline(spec.decoder.on_threshold, color=colour, linewidth=0.7, linestyle=(0, (4, 4)))
    axes.set_ylim(0, 1.02)
    axes.set_ylabel("mean scores,\nthresholds dashed")
    if labels:
        place = {"loc": "lower left", "bbox_to_anchor": (0, 1), "borderaxespad": 0.2}
        axes.legend(fontsize="x-small", ncols=_MOST_CURVES, frameon=False, **place)


def draw_events(axes: Any, labels: Sequence[str], records: Sequence[EventRecord]) -> None:
    """Draw each sound as a bar in the row of its label, with its peak score; the colour is that of its curve."""
    ended = [record for record in records if isinstance(record, OffsetRecord)]
    heard = [label for label in labels if any(label == record.label for record in ended)]
    for record in ended:
        row, colour = heard.index(record.label), _colour(labels, record.label)
        axes.broken_barh([(record.onset_s, record.duration_s)], (row - 0.35, 0.7), color=colour)
        place = (record.onset_s + record.duration_s, row)
        axes.annotate(f" {record.peak or 0:.2f}", place, va="center", fontsize="x-small")
    names = [label.replace("_", " ") for label in heard]
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(max(len(names), 1) - 0.5, -0.5)
    axes.set_ylabel("events,\npeak scores")


def _picture(axes: Any, span: Span, values: NDArray[Any], interpolation: str = "nearest", **colours: Any) -> None:
    """Draw values (columns, rows), the first row at the bottom."""
    extent = (span.begin_s, span.end_s, -0.5, values.shape[1] - 0.5)
    axes.imshow(values.T, extent=extent, origin="lower", aspect="auto", interpolation=interpolation, **colours)


def _colour(labels: Sequence[str], label: str) -> str:
    return _COLOURS[labels.index(label) % len(_COLOURS)]


def _pooled(values: NDArray[Any]) -> NDArray[Any]:
    """Return at most ``_COLUMNS`` rows, each the highest of as many neighbours."""
    step = -(-len(values) // _COLUMNS)
    if step <= 1:
        return values
    lacking = -len(values) % step
    whole = np.concatenate([values, np.repeat(values[-1:], lacking, axis=0)])
    return np.asarray(whole.reshape(-1, step, values.shape[1]).max(axis=1))
