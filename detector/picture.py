"""One sheet about one sound: waveform, features, spikes, scores and events under each other."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from detector.errors import ConfigError
from detector.insides import Insides
from detector.manifest import ClassSpec

if TYPE_CHECKING:
    from detector.messages import Samples
    from detector.pipeline import Detector
    from detector.sinks.sink import Record

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
        self._insides: list[Insides] = []
        self._heard = 0

    @property
    def is_cut(self) -> bool:
        """Whether there was more sound than the sheet shows."""
        return self._heard > self._most

    def hear(self, samples: Samples) -> None:
        """Take samples (n,)."""
        if self._heard < self._most:
            self._samples.append(samples[: self._most - self._heard].copy())
        self._heard += len(samples)

    def see(self, insides: Insides) -> None:
        """Take what they brought about."""
        if insides.first_sample < self._most:
            self._insides.append(insides)

    def save(self, title: str, records: Sequence[Record]) -> None:
        """Draw the sheet, whole or not at all; raises OSError where the file cannot be written."""
        begun = [r for r in records if r["onset_s"] * self._features.sample_rate_hz < self._most]
        figure = self._drawn(title, begun)
        part = self._path.with_name(f".{self._path.stem}.{os.getpid()}{self._path.suffix}")
        try:
            figure.savefig(part, dpi=_DPI)
            part.replace(self._path)
        finally:
            part.unlink(missing_ok=True)

    def _drawn(self, title: str, records: Sequence[Record]) -> Any:
        from detector.picture_panels import (
            Span,
            draw_encoder,
            draw_events,
            draw_features,
            draw_layers,
            draw_scores,
            draw_wave,
        )

        means = np.concatenate([np.empty((0, len(self._classes))), *(i.means for i in self._insides)])
        labels = _shown(means, self._classes, records)
        rows = len({r["label"] for r in records})
        heights = (*_HEIGHTS, _ROW_INCHES * max(2, rows) + 0.2)
        figure = _figure_class()(figsize=(_WIDTH_INCHES, sum(heights) + 1.2), layout="constrained")
        axes = figure.subplots(len(heights), 1, sharex=True, gridspec_kw={"height_ratios": heights})
        figure.suptitle(f"{title}   ({self._model})", fontsize="medium")
        rate_hz = self._features.sample_rate_hz
        draw_wave(axes[0], np.concatenate([np.zeros(0, np.float32), *self._samples]), rate_hz)
        if self._insides:
            span = Span(self._features, self._insides[0].first_sample, len(means))
            draw_features(axes[1], span, np.concatenate([i.frames for i in self._insides]))
            draw_encoder(axes[2], span, np.concatenate([i.spikes for i in self._insides]))
            names = self._insides[0].layers
            layers = {name: np.concatenate([i.layers[name] for i in self._insides]) for name in names}
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


def _shown(means: NDArray[np.float64], classes: Sequence[ClassSpec], records: Sequence[Record]) -> list[str]:
    """Return the labels with an event, then those whose mean gets high, each part by its highest mean."""
    highest = dict(zip((c.label for c in classes), means.max(axis=0, initial=0.0).tolist(), strict=True))
    order = sorted(highest, key=lambda label: -highest[label])
    heard = {r["label"] for r in records if r["type"] == "offset"}
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
