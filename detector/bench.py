"""Speed and memory of the detector on this machine.

Everything is measured in a new interpreter with one thread, so that imports and other work of the
calling process do not count.
"""

from __future__ import annotations

import json
import math
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detector.errors import DetectorError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from rich.console import Console

    from detector.messages import Trace
    from detector.pipeline import Detector

SECONDS = 60
ROUNDS = 3
"""Turns of each engine where they are compared: the median counts."""
_YAMNET_RATE_HZ, _YAMNET_SAMPLES, _YAMNET_HOP_S = 16000, 15600, 0.975
_COMPARED = {
    "cpu_s_per_s": "stream, one frame a push: CPU s per s of sound",
    "silence_cpu_s_per_s": "the same, digital silence",
    "replay_cpu_s_per_s": "replay, a second a push",
    "p50_us": "p50 of a push, us",
    "p99_us": "p99 of a push, us",
    "import_s": "import, s",
    "load_s": "load, s",
    "peak_rss_mb": "peak memory (RSS), MB",
}


def run(model: Path | None = None, engine: str | None = None) -> dict[str, Any]:
    """Measure a model file (None: the one that ships) in a new process, and return the figures.

    Raises ManifestError for a model that is missing or invalid, DetectorError if the process fails.
    """
    from detector.network import load_model

    load_model(model)  # an invalid model is reported here, with its exit code
    return _measured(["model", str(model or "")], engine)


def compare(model: Path | None = None, yamnet: Path | None = None, rounds: int = ROUNDS) -> dict[str, Any]:
    """Measure both engines in turns, each in new processes, and YAMNet's TensorFlow Lite file beside them.

    The figures of each are the medians of all rounds; ratios are of the C core to onnxruntime, and of its stream to
    YAMNet with a decision every 0.975 s. Raises DetectorError where an engine or LiteRT is not installed.
    """
    found: dict[str, list[dict[str, Any]]] = {"core": [], "onnxruntime": []}
    peer: list[float] = []
    for _ in range(rounds):
        for engine, figures in found.items():
            figures.append(_flat(run(model, engine)))
        if yamnet is not None:
            peer.append(_measured(["yamnet", str(yamnet)], None)["cpu_s_per_s"])
    medians = {
        engine: {k: statistics.median(f[k] for f in figures) for k in _COMPARED} for engine, figures in found.items()
    }
    core, other = medians["core"], medians["onnxruntime"]
    result: dict[str, Any] = {
        "seconds": SECONDS,
        "rounds": rounds,
        "instructions": found["core"][0]["instructions"],
        "engines": medians,
        "core_over_onnxruntime": {k: core[k] / other[k] for k in _COMPARED},
        "silence_over_sound": core["silence_cpu_s_per_s"] / core["cpu_s_per_s"],
    }
    if peer:
        result["yamnet_cpu_s_per_s"] = statistics.median(peer)
        result["core_over_yamnet"] = core["cpu_s_per_s"] / result["yamnet_cpu_s_per_s"]
    return result


def _flat(figures: dict[str, Any]) -> dict[str, Any]:
    return figures | {f"{name}_us": figures["step_us"][name] for name in ("p50", "p99")}


def _measured(arguments: list[str], engine: str | None) -> dict[str, Any]:
    """Return what a new process of this module measures."""
    from detector.network import ENGINE_VARIABLE

    environment = os.environ | ({ENGINE_VARIABLE: engine} if engine else {})
    command = [sys.executable, "-m", "detector.bench", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)  # noqa: S603 - this very module
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise DetectorError(f"bench: the process that measures failed: {lines[-1]}")
    figures: dict[str, Any] = json.loads(done.stdout)
    return figures


def print_table(figures: dict[str, Any], console: Console) -> None:
    """Print the figures of one engine as a table."""
    from rich.table import Table

    f = figures
    table = Table("measure", "value", title=f"{f['model']}: {f['seconds']} s of sound, one thread")
    table.add_row("engine", f"{f['engine']} ({f['engine_reason']})")
    rows = [("stream, one frame a push", "cpu_s_per_s"), ("replay, a second a push", "replay_cpu_s_per_s")]
    for name, key in (*rows, ("digital silence, one frame a push", "silence_cpu_s_per_s")):
        table.add_row(name, f"{f[key]:.5f} CPU s per s of sound = {1 / f[key]:.0f} times real time")
    table.add_row("push p50 / p99 / max", " / ".join(f"{f['step_us'][k]:.0f}" for k in ("p50", "p99", "max")) + " us")
    if f["stages_us"]:
        table.add_row("stages, p50 of a step", _pairs(f["stages_us"], " us"))
    table.add_row("import / load", f"{f['import_s']:.3f} / {f['load_s']:.3f} s")
    table.add_row("peak memory (RSS)", f"{f['peak_rss_mb']:.0f} MB")
    table.add_row("model file / state", f"{f['model_kib']:.0f} / {f['state_kib']:.1f} KiB")
    table.add_row("parameters", str(f["parameters"]))
    table.add_row("spikes per neuron and second", _pairs(f["spikes_per_neuron_s"], ""))
    for kind in ("dense", "effective"):
        table.add_row(f"{kind} synaptic operations", f"{f[f'{kind}_ops_per_s'] / 1e6:.1f} M per s of sound")
    console.print(table)


def print_comparison(result: dict[str, Any], console: Console) -> None:
    """Print what ``compare`` returned as a table."""
    from rich.table import Table

    title = f"{result['seconds']} s of sound, {result['rounds']} rounds in turns, medians"
    table = Table("measure", f"C core ({result['instructions']})", "onnxruntime", "ratio", title=title)
    core, other = result["engines"]["core"], result["engines"]["onnxruntime"]
    for key, name in _COMPARED.items():
        table.add_row(name, f"{core[key]:.4g}", f"{other[key]:.4g}", f"{result['core_over_onnxruntime'][key]:.3f}")
    table.add_row("digital silence / sound", f"{result['silence_over_sound']:.3f}", "", "")
    if "core_over_yamnet" in result:
        value = result["yamnet_cpu_s_per_s"]
        table.add_row(
            "YAMNet every 0.975 s: CPU s per s of sound", "", f"{value:.4g}", f"{result['core_over_yamnet']:.3f}"
        )
    console.print(table)


def measure(model: Path | None) -> dict[str, Any]:
    """Measure in this process, which should be a new one, and return the figures."""
    start = time.perf_counter()
    from detector.pipeline import Detector

    imported = time.perf_counter()
    detector = Detector.load(model)
    loaded = time.perf_counter()
    import numpy as np

    from detector.engine import core
    from detector.network import load_model

    sound = bench_sound(detector.sample_rate_hz)
    stream = _stream(detector, sound)
    silence = _stream(detector, np.zeros_like(sound))
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    manifest, is_core = detector.manifest, detector.engine == "core"
    return {
        "model": f"{manifest.name}-{manifest.version}",
        "engine": detector.engine,
        "engine_reason": load_model(detector.path).engine_reason,
        "instructions": core.instructions() if is_core else "",
        "seconds": SECONDS,
        **stream,
        "silence_cpu_s_per_s": silence["cpu_s_per_s"],
        "replay_cpu_s_per_s": push_timed(detector, sound, detector.sample_rate_hz)[1],
        "stages_us": {} if is_core else _stages(detector, sound),
        "import_s": imported - start,
        "load_s": loaded - imported,
        "peak_rss_mb": peak_mb,
        "model_kib": detector.path.stat().st_size / 1024,
        "state_kib": sum(4 * math.prod(s.shape) for s in manifest.network.states) / 1024,
        "parameters": manifest.network.parameters,
        **activity(detector, sound),
    }


def measure_yamnet(file: Path) -> dict[str, Any]:
    """Measure YAMNet's TensorFlow Lite file in this process, a window every 0.975 s, one thread."""
    import numpy as np

    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError as error:
        raise DetectorError(f"bench: LiteRT is not installed ({error}); pip install ai-edge-litert") from error
    interpreter = Interpreter(model_path=str(file), num_threads=1)
    given = interpreter.get_input_details()[0]
    interpreter.resize_tensor_input(given["index"], [_YAMNET_SAMPLES])
    interpreter.allocate_tensors()
    sound = bench_sound(_YAMNET_RATE_HZ)
    hop = round(_YAMNET_HOP_S * _YAMNET_RATE_HZ)
    windows = [np.resize(sound[i : i + _YAMNET_SAMPLES], _YAMNET_SAMPLES) for i in range(0, len(sound), hop)]
    begin = 0.0
    for number, window in enumerate([*windows[:3], *windows]):
        begin = time.process_time() if number == 3 else begin  # noqa: PLR2004 - three to warm up
        interpreter.set_tensor(given["index"], window)
        interpreter.invoke()
        interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    return {"cpu_s_per_s": (time.process_time() - begin) / SECONDS}


def bench_sound(rate_hz: int) -> NDArray[np.float32]:
    """Return a minute of the demo scene, (samples,): music, speech and background."""
    import numpy as np

    from detector.audio.sources import read_sound
    from detector.network import shipped_file

    scene = read_sound(shipped_file("demo/scene.flac"), rate_hz)
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


def _stages(detector: Detector, sound: NDArray[np.float32]) -> dict[str, float]:
    """Return the median time of each stage in us, with the network in onnxruntime."""
    from detector.decoder import EventDecoder
    from detector.encoder import DeltaEncoder
    from detector.features import MfccExtractor
    from detector.network import StreamingNetwork, load_model

    model = load_model(detector.path)
    p = model.manifest.features
    chunks = [sound[i : i + p.hop_length] for i in range(0, len(sound), p.hop_length)]
    frames, features_us = _time(MfccExtractor(p).push, chunks)
    spikes, encoder_us = _time(DeltaEncoder(model.manifest.encoder).push, frames)
    scores, network_us = _time(StreamingNetwork(model).push, spikes)
    decoder = EventDecoder(model.manifest.classes, p.hop_length, p.frame_length)
    _, decoder_us = _time(decoder.push, scores)
    return {"features": features_us, "encoder": encoder_us, "network": network_us, "decoder": decoder_us}


def _time(stage: Callable[[Any], Any], items: list[Any]) -> tuple[list[Any], float]:
    """Return a stage's result for each item, and the median of its time in us."""
    import numpy as np

    results, taken = [], np.empty(len(items))
    for i, item in enumerate(items):
        at = time.perf_counter()
        results.append(stage(item))
        taken[i] = time.perf_counter() - at
    return results, float(np.median(taken)) * 1e6


class _Activity:
    """Takes the traces of a whole sound."""

    wants_layers = True

    def __init__(self) -> None:
        self.traces: list[Trace] = []

    def on_trace(self, trace: Trace) -> None:
        self.traces.append(trace)


def activity(detector: Detector, sound: NDArray[np.float32]) -> dict[str, Any]:
    """Count spikes and synaptic operations (dense, and effective: those whose input spikes; NeuroBench's terms)."""
    from detector.network import synaptic_operations

    own, seen = detector.fresh(), _Activity()
    own.observer = seen
    own.process(sound)
    (trace,) = seen.traces
    rates = {"encoder": float(trace.spikes.mean())}
    rates |= {name: float(fired.mean()) for name, fired in trace.layers.items()}
    features = detector.manifest.features
    per_second = features.sample_rate_hz / features.hop_length
    dense, effective = synaptic_operations(detector.manifest, rates)
    return {
        "spikes_per_neuron_s": {name: rate * per_second for name, rate in rates.items()},
        "dense_ops_per_s": dense,
        "effective_ops_per_s": effective,
    }


def _pairs(values: dict[str, float], unit: str) -> str:
    return ", ".join(f"{name} {value:.1f}{unit}" for name, value in values.items())


if __name__ == "__main__":
    kind, name = sys.argv[1:]
    try:
        figures = measure_yamnet(Path(name)) if kind == "yamnet" else measure(Path(name) if name else None)
        print(json.dumps(figures))
    except DetectorError as error:
        sys.exit(str(error))
