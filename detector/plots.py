"""One sheet about one sound: waveform, features, spikes, scores and events, one panel each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from detector.config.paths import set_plot_cache
from detector.errors import ConfigError
from detector.features import log_mel_matrix, mel_centres_hz
from detector.manifest import ClassSpec, MfccParams
from detector.messages import Trace
from detector.records import OffsetRecord
from detector.system import install_command, replace_file

if TYPE_CHECKING:
    from detector.messages import Frames, LayerSpikes, Samples, Spikes
    from detector.pipeline import Detector
    from detector.records import EventRecord

LONGEST_S: Final = 600.0
"""Longest sound that a sheet shows: beyond it a spike is narrower than a dot of ink."""
_DPI: Final = 160
_WIDTH_INCHES: Final = 12.0
_HEIGHTS: Final = (1.0, 1.8, 2.4, 3.4, 2.2)
_ROW_INCHES: Final = 0.22
_MIN_SHOWN: Final = 0.25
"""A class has a curve if its mean score reaches this, or if it has an event."""
_COLUMNS: Final = 2400
"""Most columns of images and curves; of several frames in one, the highest value is shown."""
_MAX_CURVES: Final = 8
_MARKS_HZ: Final = (200, 500, 1000, 2000, 4000)
# Okabe and Ito's colours, which are distinct for colour-blind readers.
_COLOURS: Final = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8A7F00")
_UP, _DOWN = "#B2182B", "#2166AC"


class Sheet:
    """Collects the samples and traces of a detector, as its observer, and draws them."""

    wants_layers = True

    def __init__(self, path: Path, detector: Detector) -> None:
        """Prepare to write ``path``; raises ConfigError without matplotlib."""
        _figure_class()
        self._path, self._classes = path, detector.classes
        manifest = detector.manifest
        self._features, self._model = manifest.features, f"{manifest.name} {manifest.version}"
        self._max_samples = round(LONGEST_S * self._features.sample_rate_hz)
        self._samples: list[Samples] = []
        self._traces: list[Trace] = []
        self._received = 0

    @property
    def is_cut(self) -> bool:
        """Whether the sound is longer than the sheet shows."""
        return self._received > self._max_samples

    def on_chunk(self, samples: Samples) -> None:
        """Receive samples (n,)."""
        if self._received < self._max_samples:
            self._samples.append(samples[: self._max_samples - self._received].copy())
        self._received += len(samples)

    def on_trace(self, trace: Trace) -> None:
        """Receive the trace of every stage for them."""
        if trace.first_sample < self._max_samples:
            self._traces.append(trace)

    def save(self, title: str, records: Sequence[EventRecord]) -> None:
        """Draw the sheet, complete or not at all; raises OSError if the file cannot be written."""
        begun = [r for r in records if r.onset_s * self._features.sample_rate_hz < self._max_samples]
        from matplotlib import rc_context

        # A name may hold anything: $ is no formula, and what cannot be printed cannot be in an SVG file.
        shown = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in title)
        with rc_context({"text.parse_math": False}), replace_file(self._path) as part:
            self._drawn(shown, begun).savefig(part, dpi=_DPI)

    def _drawn(self, title: str, records: Sequence[EventRecord]) -> Any:
        means = np.concatenate([np.empty((0, len(self._classes))), *(t.means for t in self._traces)])
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
            draw_features(axes[1], span, np.concatenate([t.frames for t in self._traces]))
            draw_encoder(axes[2], span, np.concatenate([t.spikes for t in self._traces]))
            names = self._traces[0].layers
            layers = {name: np.concatenate([t.layers[name] for t in self._traces]) for name in names}
            draw_layers(axes[3], span, layers)
            draw_scores(axes[4], span, means, self._classes, labels)
        draw_events(axes[5], labels, records)
        axes[0].set_xlim(0, max(min(self._received, self._max_samples), 1) / rate_hz)
        axes[-1].set_xlabel("time (s)")
        for panel in axes:
            panel.tick_params(labelsize="small")
            panel.spines[["top", "right"]].set_visible(False)
        figure.align_ylabels()
        return figure


def _shown(means: NDArray[np.float64], classes: Sequence[ClassSpec], records: Sequence[EventRecord]) -> list[str]:
    """Return the labels with an event, then those with high mean scores, both by their highest mean score."""
    highest = dict(zip((c.label for c in classes), means.max(axis=0, initial=0.0).tolist(), strict=True))
    order = sorted(highest, key=lambda label: -highest[label])
    detected = {r.label for r in records if isinstance(r, OffsetRecord)}
    with_event = [label for label in order if label in detected]
    return with_event + [label for label in order if label not in detected and highest[label] >= _MIN_SHOWN]


def _figure_class() -> Any:
    """Return matplotlib's figure class, which needs no display; raises ConfigError without matplotlib."""
    try:
        set_plot_cache()
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        if error.name is None or not error.name.startswith("matplotlib"):
            raise
        raise ConfigError(f"--picture needs matplotlib: {install_command('plot')}") from error
    return Figure


def draw_calendar(
    path: Path, events: Mapping[tuple[date, int], int], recorded_s: Mapping[tuple[date, int], float]
) -> None:
    """Draw events an hour of sound by date and hour of day, complete or not at all; grey: nothing was recorded.

    Raises OSError if the file cannot be written, ConfigError without matplotlib.
    """
    first = min(day for day, _ in recorded_s)
    days = (max(day for day, _ in recorded_s) - first).days + 1
    rates = np.full((24, days), np.nan)
    for (day, hour), seconds in recorded_s.items():
        # An event may begin in the last moment of an hour of which little was recorded.
        rates[hour, (day - first).days] = events.get((day, hour), 0) / max(seconds / 3600, 1 / 60)
    figure = _figure_class()(figsize=(min(16.0, 4 + days / 8), 5), layout="constrained")
    from matplotlib import dates as untyped

    dates: Any = untyped
    axes = figure.subplots()
    axes.set_facecolor("#cccccc")
    left = dates.date2num(first)
    extent = (left, left + days, 0, 24)
    image = axes.imshow(
        rates, origin="lower", aspect="auto", interpolation="nearest", cmap="magma", vmin=0, extent=extent
    )
    locator = dates.AutoDateLocator(minticks=1, maxticks=12)
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(dates.ConciseDateFormatter(locator))
    axes.set_yticks(range(0, 25, 3))
    axes.set_ylabel("hour of day")
    figure.colorbar(image, ax=axes, label="events an hour of sound")
    with replace_file(path) as part:
        figure.savefig(part, dpi=_DPI)


@dataclass(frozen=True, slots=True)
class Span:
    """The seconds that the frames of a sheet cover; a frame is drawn over its last hop."""

    params: MfccParams
    first_sample: int
    frames: int

    @property
    def begin_s(self) -> float:
        """Begin of the first frame's last hop."""
        p = self.params
        return (self.first_sample + p.frame_length - p.hop_length) / p.sample_rate_hz

    @property
    def end_s(self) -> float:
        """End of the last frame."""
        return self.begin_s + self.frames * self.params.hop_length / self.params.sample_rate_hz

    @property
    def ends_s(self) -> NDArray[np.float64]:
        """End of each frame, (frames,)."""
        p = self.params
        return self.begin_s + (np.arange(self.frames) + 1) * p.hop_length / p.sample_rate_hz


def draw_wave(axes: Any, wave: Samples, rate_hz: int) -> None:
    """Draw samples (n,) as the range of each column."""
    step = max(1, len(wave) // _COLUMNS)
    pieces = wave[: len(wave) // step * step].reshape(-1, step)
    if len(pieces):
        times = np.arange(len(pieces)) * step / rate_hz
        axes.fill_between(times, pieces.min(axis=1), pieces.max(axis=1), color="#444444", linewidth=0.4)
    axes.set_ylabel("waveform")


def draw_features(axes: Any, span: Span, frames: Frames) -> None:
    """Draw cepstra (frames, n_mfcc) as the log mel energies that they encode."""
    mel = frames @ log_mel_matrix(span.params)
    low, high = np.quantile(mel, (0.02, 0.999))
    _image(axes, span, _pooled(mel), cmap="magma", vmin=low, vmax=high)
    hz = mel_centres_hz(span.params)
    marks = [int(np.argmin(np.abs(hz - f))) for f in _MARKS_HZ if hz[0] <= f <= hz[-1]]
    axes.set_yticks(marks, [f"{hz[m] / 1000:.1f}" for m in marks])
    axes.set_ylabel("log mel (kHz)")


def draw_encoder(axes: Any, span: Span, spikes: Spikes) -> None:
    """Draw spikes (frames, 2 * thresholds, n_mfcc), a band of rows for each threshold: up red, down blue."""
    from matplotlib.colors import ListedColormap

    up, down = (_pooled(spikes[:, k::2].reshape(len(spikes), -1)) for k in (0, 1))
    # Frames that share a column may hold both: then the up spike is drawn.
    codes = np.where(up > 0, 2, np.where(down > 0, 0, 1))
    _image(axes, span, codes, cmap=ListedColormap([_DOWN, "white", _UP]), vmin=0, vmax=2)
    levels, width = spikes.shape[1] // 2, spikes.shape[2]
    for level in range(1, levels):
        axes.axhline(level * width - 0.5, color="#999999", linewidth=0.5)
    names = ["coarse", *[""] * (levels - 2), "fine"] if levels > 1 else ["delta"]
    axes.set_yticks([(k + 0.5) * width for k in range(levels)], names)
    axes.set_ylabel("encoder\nup red, down blue")


def draw_layers(axes: Any, span: Span, layers: LayerSpikes) -> None:
    """Draw the spikes (frames, neurons) of all layers above each other, with their mean rates."""
    if not layers:
        return
    together = _pooled(np.concatenate(list(layers.values()), axis=1))
    _image(axes, span, together, cmap="binary", vmin=0, vmax=1, interpolation="antialiased")
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
        if spec.label in labels[:_MAX_CURVES]:
            colour = _colour(labels, spec.label)
            axes.plot(span.ends_s, means[:, number], color=colour, linewidth=1.1, label=spec.label.replace("_", " "))
            axes.axhline(spec.decoder.on_threshold, color=colour, linewidth=0.7, linestyle=(0, (4, 4)))
    axes.set_ylim(0, 1.02)
    axes.set_ylabel("mean scores,\nthresholds dashed")
    if labels:
        place = {"loc": "lower left", "bbox_to_anchor": (0, 1), "borderaxespad": 0.2}
        axes.legend(fontsize="x-small", ncols=_MAX_CURVES, frameon=False, **place)


def draw_events(axes: Any, labels: Sequence[str], records: Sequence[EventRecord]) -> None:
    """Draw each event as a bar in the row of its label, in the colour of its curve, with its peak score."""
    ended = [record for record in records if isinstance(record, OffsetRecord)]
    rows = [label for label in labels if any(label == record.label for record in ended)]
    for record in ended:
        row, colour = rows.index(record.label), _colour(labels, record.label)
        axes.broken_barh([(record.onset_s, record.duration_s)], (row - 0.35, 0.7), color=colour)
        place = (record.onset_s + record.duration_s, row)
        axes.annotate(f" {record.peak or 0:.2f}", place, va="center", fontsize="x-small")
    names = [label.replace("_", " ") for label in rows]
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(max(len(names), 1) - 0.5, -0.5)
    axes.set_ylabel("events,\npeak scores")


def _image(axes: Any, span: Span, values: NDArray[Any], interpolation: str = "nearest", **colours: Any) -> None:
    """Draw values (columns, rows) as an image, the first row at the bottom."""
    extent = (span.begin_s, span.end_s, -0.5, values.shape[1] - 0.5)
    axes.imshow(values.T, extent=extent, origin="lower", aspect="auto", interpolation=interpolation, **colours)


def _colour(labels: Sequence[str], label: str) -> str:
    return _COLOURS[labels.index(label) % len(_COLOURS)]


def _pooled(values: NDArray[Any]) -> NDArray[Any]:
    """Return at most ``_COLUMNS`` rows, each the maximum of as many neighbours."""
    step = -(-len(values) // _COLUMNS)
    if step <= 1:
        return values
    missing = -len(values) % step
    whole = np.concatenate([values, np.repeat(values[-1:], missing, axis=0)])
    return np.asarray(whole.reshape(-1, step, values.shape[1]).max(axis=1))
