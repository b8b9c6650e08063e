"""The model: what it is, whether it is whole, and how onnxruntime runs it here."""

from __future__ import annotations

import time
from typing import Final

from detector.doctor.finding import SETTINGS, Finding, ok, problem, warning
from detector.errors import DetectorError
from detector.live.parts import make_detector
from detector.network import Model, load_model, verify
from detector.pipeline import Detector
from detector.settings import Settings

MODEL: Final = "model"
THREADS: Final = "threads"
_DIGITS: Final = 12
_REST_S: Final = 0.3
_SPINNING: Final = 0.5
"""Share of a core that a detector without work may not use."""
_SPIN_KEY: Final = "session.intra_op.allow_spinning"


def check_model(settings: Settings) -> tuple[Detector | None, Finding]:
    """Return the detector that the settings ask for, and what is to be said of its model; None: it cannot be."""
    try:
        detector = make_detector(settings)
        verify(detector.path)
    except DetectorError as error:
        advice = "snn-detect model verify looks again; without listening.path, the model that ships is used"
        return None, problem(MODEL, str(error), advice, SETTINGS)
    manifest = detector.manifest
    latency_ms = 1000 * manifest.latency_samples / detector.sample_rate_hz
    frame_ms = 1000 * manifest.features.hop_length / detector.sample_rate_hz
    mean_ms = frame_ms * max(c.decoder.smoothing_frames for c in manifest.classes)
    high_ms = frame_ms * max(c.decoder.min_on_frames for c in manifest.classes)
    return detector, ok(
        MODEL,
        f"{manifest.name}-{manifest.version}, sha256 {detector.sha256[:_DIGITS]}, {len(detector.labels)} sounds, "
        f"arithmetic verified; scores know of a sound after {latency_ms:g} ms, and it is told once their mean over "
        f"{mean_ms:g} ms has been high for {high_ms:g} ms ({detector.path})",
    )


def check_threads(detector: Detector) -> Finding:
    """Look whether onnxruntime computes in one thread, and rests when there is nothing to compute."""
    model = load_model(detector.path)
    options = model.session.get_session_options()
    threads = (options.intra_op_num_threads, options.inter_op_num_threads)
    spins = options.get_session_config_entry(_SPIN_KEY) != "0"
    share = _idle_share(model)
    if threads != (1, 1) or spins or share > _SPINNING:
        found = f"onnxruntime has {threads[0]} and {threads[1]} threads, and uses {share:.0%} of a core without work"
        return warning(THREADS, found, "install onnxruntime again, in a version that pyproject.toml allows")
    return ok(THREADS, f"onnxruntime computes in one thread and rests without work ({share:.0%} of a core)")


def _idle_share(model: Model) -> float:
    """Return the share of a core that this process uses behind a computation."""
    verify(model.path, frames=2)
    cpu_s, wall_s = time.process_time(), time.perf_counter()
    time.sleep(_REST_S)
    return (time.process_time() - cpu_s) / (time.perf_counter() - wall_s)
