"""Speed and memory of the detector on this machine.

Everything is measured in a new interpreter with one thread, so that imports and other work of the
calling process do not count.
"""

from __future__ import annotations

import json
import math
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detector.errors import DetectorError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from rich.console import Console

    from detector.pipeline import Detector

SECONDS = 60


def run(model: Path | None = None) -> dict[str, Any]:
    """Measure a model file (None: the one that ships) in a new process, and return the figures.

    Raises ManifestError for a model that is missing or invalid, DetectorError if the process fails.
    """
    from detector.pipeline import Detector

    Detector.load(model)  # an invalid model is reported here, with its exit code
    command = [sys.executable, "-m", "detector.bench", *([str(model)] if model else [])]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - this very module
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise DetectorError(f"bench: the process that measures failed: {lines[-1]}")
    figures: dict[str, Any] = json.loads(done.stdout)
    return figures


def print_table(figures: dict[str, Any], console: Console) -> None:
    """Print the figures as a table."""
    from rich.table import Table

    f = figures
    table = Table("measure", "value", title=f"{f['model']}: {f['seconds']} s of sound, one thread")
    for name, key in (("stream, one frame a call", "cpu_s_per_s"), ("replay, blocks of frames", "replay_cpu_s_per_s")):
        table.add_row(name, f"{f[key]:.5f} CPU s per s of sound = {1 / f[key]:.0f} times real time")
    table.add_row("floor: MFCC and onnxruntime calls alone", f"{f['floor_cpu_s_per_s']:.5f} CPU s per s of sound")
    table.add_row("stream / floor", f"{f['over_floor']:.2f}")
    table.add_row("step p50 / p99 / max", " / ".join(f"{f['step_us'][k]:.0f}" for k in ("p50", "p99", "max")) + " us")
    table.add_row("stages, p50 of a step", _pairs(f["stages_us"], " us"))
    table.add_row("import / load", f"{f['import_s']:.3f} / {f['load_s']:.3f} s")
    table.add_row("peak memory (RSS)", f"{f['peak_rss_mb']:.0f} MB")
    table.add_row("model file / state", f"{f['model_kib']:.0f} / {f['state_kib']:.1f} KiB")
    table.add_row("parameters", str(f["parameters"]))
    table.add_row("spikes per neuron and second", _pairs(f["spikes_per_neuron_s"], ""))
    for kind in ("dense", "effective"):
        table.add_row(f"{kind} synaptic operations", f"{f[f'{kind}_ops_per_s'] / 1e6:.1f} M per s of sound")
    console.print(table)


def measure(model: Path | None) -> dict[str, Any]:
    """Measure in this process, which should be a new one, and return the figures."""
    start = time.perf_counter()
    from detector.pipeline import Detector

    imported = time.perf_counter()
    detector = Detector.load(model)
    loaded = time.perf_counter()
    sound = bench_sound(detector.sample_rate_hz)
    stream = _stream(detector, sound)
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    stages, floor = _stages(detector, sound)
    manifest = detector.manifest
    return {
        "model": f"{manifest.name}-{manifest.version}",
        "seconds": SECONDS,
        **stream,
        "replay_cpu_s_per_s": push_timed(detector, sound, detector.sample_rate_hz)[1],
        "floor_cpu_s_per_s": floor,
        "over_floor": stream["cpu_s_per_s"] / floor,
        "stages_us": stages,
        "import_s": imported - start,
        "load_s": loaded - imported,
        "peak_rss_mb": peak_mb,
        "model_kib": detector.path.stat().st_size / 1024,
        "state_kib": sum(4 * math.prod(s.shape) for s in manifest.network.states) / 1024,
        "parameters": manifest.network.parameters,
        **activity(detector, sound),
    }


def bench_sound(rate_hz: int) -> NDArray[np.float32]:
    """Return a minute of the demo scene, (samples,): music, speech and background."""
    import numpy as np

    from detector.audio.sources import read_sound

    scene = read_sound(str(resources.files("models") / "demo" / "scene.flac"), rate_hz)
    return np.resize(scene, SECONDS * rate_hz)


def _stream(detector: Detector, sound: NDArray[np.float32]) -> dict[str, Any]:
    """Push one hop at a time, without pauses, as for a live stream."""
    import numpy as np

    hop = detector.manifest.features.hop_length
    chunks = [sound[i : i + hop] for i in range(0, len(sound), hop)]
    for chunk in chunks[:200]:
        detector.push(chunk)
    detector.reset()
    steps = np.empty(len(chunks))
    begin = time.process_time()
    for i, chunk in enumerate(chunks):
        at = time.perf_counter()
        detector.push(chunk)
        steps[i] = time.perf_counter() - at
    cpu = time.process_time() - begin
    detector.flush()
    p50, p99 = np.quantile(steps, (0.5, 0.99)) * 1e6
    return {"cpu_s_per_s": cpu / SECONDS, "step_us": {"p50": p50, "p99": p99, "max": steps.max() * 1e6}}


def push_timed(detector: Detector, sound: NDArray[np.float32], length: int) -> tuple[float, float]:
    """Push sound (samples,) in chunks of ``length``, and return wall and CPU seconds per second of sound."""
    rate_hz = detector.sample_rate_hz
    detector.push(sound[:rate_hz])
    detector.reset()
    cpu_s, wall_s = time.process_time(), time.perf_counter()
    for i in range(0, len(sound), length):
        detector.push(sound[i : i + length])
    cpu_s, wall_s = time.process_time() - cpu_s, time.perf_counter() - wall_s
    detector.flush()
    seconds = len(sound) / rate_hz
    return wall_s / seconds, cpu_s / seconds


def _stages(detector: Detector, sound: NDArray[np.float32]) -> tuple[dict[str, float], float]:
    """Return the median time of each stage in us, and the floor: CPU seconds of MFCC and onnxruntime calls alone."""
    import numpy as np

    from detector.decoder import EventDecoder
    from detector.encoder import DeltaEncoder
    from detector.features import MfccExtractor
    from detector.network import BoundGraph, StreamingNetwork, load_model

    model = load_model(detector.path)
    p = model.manifest.features
    chunks = [sound[i : i + p.hop_length] for i in range(0, len(sound), p.hop_length)]
    frames, features_us, features_cpu = _time(MfccExtractor(p).push, chunks)
    spikes, encoder_us, _ = _time(DeltaEncoder(model.manifest.encoder).push, frames)
    scores, network_us, _ = _time(StreamingNetwork(model).push, spikes)
    decoder = EventDecoder(model.manifest.classes, p.hop_length, p.frame_length)
    _, decoder_us, _ = _time(decoder.push, scores)
    states = tuple({s.name: np.zeros(s.shape, np.float32) for s in model.manifest.network.states} for _ in range(2))
    graph = BoundGraph(model.session, 1, states)
    _, _, calls_cpu = _time(lambda x: graph.run(x, 0), [s for s in spikes if len(s)])
    stages = {"features": features_us, "encoder": encoder_us, "network": network_us, "decoder": decoder_us}
    return stages, (features_cpu + calls_cpu) / SECONDS


def _time(stage: Callable[[Any], Any], items: list[Any]) -> tuple[list[Any], float, float]:
    """Return a stage's result for each item, the median of its time in us, and its CPU seconds."""
    import numpy as np

    results, taken = [], np.empty(len(items))
    begin = time.process_time()
    for i, item in enumerate(items):
        at = time.perf_counter()
        results.append(stage(item))
        taken[i] = time.perf_counter() - at
    return results, float(np.median(taken)) * 1e6, time.process_time() - begin


def activity(detector: Detector, sound: NDArray[np.float32]) -> dict[str, Any]:
    """Count spikes and synaptic operations (dense, and effective: those whose input spikes; NeuroBench's terms)."""
    from detector.encoder import DeltaEncoder
    from detector.features import MfccExtractor
    from detector.messages import Trace
    from detector.network import StreamingNetwork, load_model, synaptic_operations

    model = load_model(detector.path)
    frames = MfccExtractor(model.manifest.features).push(sound)
    spikes = DeltaEncoder(model.manifest.encoder).push(frames)
    trace = Trace(0)
    StreamingNetwork(model).push(spikes, trace)
    rates = {"encoder": float(spikes.mean()), **{name: float(fired.mean()) for name, fired in trace.layers.items()}}
    per_second = model.manifest.features.sample_rate_hz / model.manifest.features.hop_length
    dense, effective = synaptic_operations(model.manifest, rates)
    return {
        "spikes_per_neuron_s": {name: rate * per_second for name, rate in rates.items()},
        "dense_ops_per_s": dense,
        "effective_ops_per_s": effective,
    }


def _pairs(values: dict[str, float], unit: str) -> str:
    return ", ".join(f"{name} {value:.1f}{unit}" for name, value in values.items())


if __name__ == "__main__":
    try:
        print(json.dumps(measure(Path(sys.argv[1]) if len(sys.argv) > 1 else None)))
    except DetectorError as error:
        sys.exit(str(error))
