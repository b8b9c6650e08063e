"""What browsers are told of the model, and sounds that are heard again for their picture."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any, Final

from detector.insides import Insides
from detector.manifest import MfccParams
from detector.mfcc_tables import mel_centres_hz
from detector.pipeline import Detector
from detector.sinks.sink import Station
from detector.sources import read_sound
from detector.web.packing import MEMBRANE_STEP, RANGE_DB
from detector.web.pictures import Pictures

_BLOCK_S: Final = 1


class Looks:
    """Describes the model, and looks into it with sounds that were kept."""

    def __init__(self, detector: Detector, station: Station, pictures: Pictures) -> None:
        """Take the detector, whose stream is left alone."""
        self.card: Final = card(detector, station)
        self._detector, self._pictures = detector, pictures
        self._one_at_a_time = threading.Lock()

    def again(self, path: Path) -> dict[str, Any]:
        """Return the picture of a sound file; raises SourceError where it cannot be read."""
        with self._one_at_a_time:
            detector = self._detector.fresh()
            detector.observer = album = _Album()
            rate_hz = detector.sample_rate_hz
            sound = read_sound(path, rate_hz)
            for at in range(0, len(sound), _BLOCK_S * rate_hz):
                detector.push(sound[at : at + _BLOCK_S * rate_hz])
            detector.flush()
        return self._pictures.picture(album.seen, "clip")


class _Album:
    wants_layers = True

    def __init__(self) -> None:
        self.seen: list[Insides] = []

    def see(self, insides: Insides) -> None:
        self.seen.append(insides)


def card(detector: Detector, station: Station) -> dict[str, Any]:
    """Return what ``/api/model`` tells."""
    m = detector.manifest
    p, reported = m.features, {label for label, _ in station.classes}
    return {
        "node": station.node,
        "source": station.source,
        "version": station.version,
        "name": m.name,
        "model_version": m.version,
        "model_sha256": detector.sha256,
        "licence": m.licence,
        "parameters": m.network.parameters,
        "latency_s": m.latency_samples / p.sample_rate_hz,
        "classes": [
            {
                "label": c.label,
                "category": c.category,
                "threshold": c.decoder.on_threshold,
                "off_threshold": c.decoder.off_threshold,
                "reported": c.label in reported,
            }
            for c in detector.classes
        ],
        "features": _features(p),
        "encoder": {"rule": m.encoder.rule, "planes": 2 * len(m.encoder.thresholds), "width": p.n_mfcc},
        "layers": [
            {"name": x.name, "kind": x.kind, "neurons": x.neurons, "macs": x.macs, "spikes": bool(x.spikes)}
            for x in m.network.layers
        ],
        "membrane_step": MEMBRANE_STEP,
        "training": {
            "epochs": m.training.epochs,
            "clips": m.training.clips,
            "sources": [s.name for s in m.training.sources],
        },
        "metrics": dict(m.metrics),
    }


def _features(p: MfccParams) -> dict[str, Any]:
    return {
        "sample_rate_hz": p.sample_rate_hz,
        "hop_s": p.hop_length / p.sample_rate_hz,
        "frame_s": p.frame_length / p.sample_rate_hz,
        "mel_hz": [round(float(hz), 1) for hz in mel_centres_hz(p)],
        "range_db": RANGE_DB,
    }
