"""The commands ``snn-detect model`` and ``snn-detect bench``."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from detector.cli.program import MODEL_VARIABLE, CommandGroup, json_option, model_option, print_json, print_text
from detector.manifest import SENSITIVITIES

if TYPE_CHECKING:
    from detector.manifest import ClassResults, ClassSpec, Manifest
    from detector.network import Model

_file_argument = click.argument(
    "path", metavar="[FILE]", required=False, type=click.Path(path_type=Path), envvar=MODEL_VARIABLE
)
_FLOAT32_BYTES = 4


@click.group(cls=CommandGroup)
def model() -> None:
    """Inspect a model file (default: the one that ships)."""


@model.command()
@_file_argument
@json_option
def info(path: Path | None, *, as_json: bool) -> None:
    """Show a model's classes, architecture and training."""
    from detector.network import load_model

    loaded = load_model(path)
    if as_json:
        print_json(_summary(loaded) | {"manifest": loaded.manifest.as_dict()})
        return
    for heading, lines in _sections(loaded):
        for number, line in enumerate(lines):
            print_text(f"{heading if number == 0 else '':<10} {line}")


@model.command()
@_file_argument
@json_option
def verify(path: Path | None, *, as_json: bool) -> None:
    """Check manifest, tensors and arithmetic of a model.

    Exit code 2 if one of them is wrong.
    """
    from detector.network import verify as verify_network
    from detector.pipeline import Detector

    Detector.load(path)  # each stage checks its own parameters
    found = verify_network(path)
    if as_json:
        print_json(found)
        return
    print_text(f"{found['path']}\nsha256 {found['sha256']}")
    click.echo("manifest: complete and consistent")
    click.echo("tensors: names and shapes are those of the manifest")
    engines = " and ".join(found["engines"])
    click.echo(
        f"arithmetic: {found['frames']} frames one by one and in blocks, scores in [0, 1]: same bits in {engines}"
    )
    click.echo("the model is good")


@click.command()
@model_option
@click.option("--engines", is_flag=True, help="Compare the C core with onnxruntime, in turns.")
@click.option(
    "--yamnet",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="With --engines: a TensorFlow Lite file of YAMNet to compare with (needs ai-edge-litert).",
)
@json_option
def bench(model: Path | None, yamnet: Path | None, *, engines: bool, as_json: bool) -> None:
    """Measure speed, latency and memory on this machine."""
    from detector import bench as measurement

    if yamnet is not None and not engines:
        raise click.UsageError("--yamnet needs --engines")
    stats = measurement.compare(model, yamnet) if engines else measurement.run(model)
    if as_json:
        print_json(stats)
        return
    from rich.console import Console

    (measurement.print_comparison if engines else measurement.print_table)(stats, Console())


def _summary(loaded: Model) -> dict[str, object]:
    """Return figures that follow from the file and the manifest."""
    network = loaded.manifest.network
    return {
        "path": str(loaded.path),
        "sha256": loaded.sha256,
        "engine": loaded.engine,
        "engine_reason": loaded.engine_reason,
        "file_bytes": loaded.path.stat().st_size,
        "state_bytes": sum(_FLOAT32_BYTES * math.prod(s.shape) for s in network.states),
        "macs_per_frame": sum(layer.macs for layer in network.layers),
        "latency_s": loaded.manifest.latency_samples / loaded.manifest.features.sample_rate_hz,
    }


def _sections(loaded: Model) -> Iterator[tuple[str, list[str]]]:
    """Yield headings, each with its lines."""
    manifest, summary = loaded.manifest, _summary(loaded)
    f, encoder, network, training = manifest.features, manifest.encoder, manifest.network, manifest.training
    ms = 1000 / f.sample_rate_hz
    yield "model", [f"{manifest.name} {manifest.version}, licence {manifest.licence}"]
    yield "file", [f"{summary['path']}, {loaded.path.stat().st_size / 1024:.0f} KiB"]
    yield "sha256", [loaded.sha256]
    yield "engine", [f"{loaded.engine}: {loaded.engine_reason}"]
    width = max(len(label) for label in manifest.labels)
    yield "points", list(_point_lines(manifest))
    yield "sounds", [_class_line(spec, width) for spec in manifest.classes]
    yield (
        "features",
        [
            f"{f.n_mfcc} MFCC of {f.n_mels} mel bands, {f.f_min_hz:g} to {f.f_max_hz:g} Hz",
            f"frames of {f.frame_length * ms:g} ms every {f.hop_length * ms:g} ms at {f.sample_rate_hz} Hz",
        ],
    )
    levels, rule = len(encoder.thresholds), encoder.rule.replace("_", " ")
    leak = f", leak {encoder.leak:g} a frame" if encoder.leak else ""
    trains = 2 * levels * f.n_mfcc
    yield "encoder", [f"{rule}{leak}, {levels} thresholds a coefficient: {trains} binary spike trains"]
    neurons = sum(layer.neurons for layer in network.layers if layer.spikes)
    lines = [f"{network.parameters} parameters, {neurons} spiking neurons ({network.neuron.upper()})"]
    lines += [f"{summary['macs_per_frame']} dense multiply-adds a frame, {summary['state_bytes']} bytes of state"]
    lines += [f"{n.name}: {n.kind}, {n.inputs} inputs, {n.neurons} outputs, {n.macs} a frame" for n in network.layers]
    yield "network", lines
    yield "latency", [f"{manifest.latency_samples * ms:g} ms of sound before it shows in a score"]
    lines = [f"{training.clips} clips, {training.epochs} epochs, seed {training.seed}"]
    lines += [f"folds left out: {', '.join(map(str, training.folds_left_out))}", f"command: {training.command}"]
    yield "training", lines
    yield "data", [f"{source.name} ({source.licence}): {source.use}" for source in training.sources]
    yield "metrics", [f"{name} {value:g}" for name, value in manifest.metrics.items()]


def _point_lines(manifest: Manifest) -> Iterator[str]:
    """Yield the operating points, each with the false events that it was chosen for and the thresholds."""
    points = manifest.operating_points
    if points is None:
        yield "balanced only: the thresholds below"
        return
    of = "each class" if points.of == "class" else points.of
    for name in SENSITIVITIES:
        thresholds = [c.at(name).decoder.on_threshold for c in manifest.classes]
        default = ", the default" if name == "balanced" else ""
        yield (
            f"{name:<8}  chosen for at most {getattr(points, name):g} false events an hour of {of}{default}; "
            f"onsets from {min(thresholds):.2f} to {max(thresholds):.2f}"
        )


def _class_line(spec: ClassSpec, width: int) -> str:
    d = spec.decoder
    return (
        f"{spec.label:<{width}}  {spec.category:<10}  onset from {d.on_threshold:.2f}, "
        f"offset below {d.off_threshold:.2f}{_results(spec.results)}"
    )


def _results(r: ClassResults | None) -> str:
    if r is None:
        return ""
    latency = "" if r.latency_s is None else f", {r.latency_s:.1f} s late"
    return (
        f"  {'ready' if r.is_ready else 'on trial'}: found {r.found}/{r.references}, "
        f"{r.false_per_hour:.1f} false an hour{latency}"
    )
