"""The commands about models: what one is, whether it is whole, how fast it runs here."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from detector.cli.program import MODEL_VARIABLE, model_option, print_json

if TYPE_CHECKING:
    from detector.manifest import Manifest
    from detector.network import Model

_json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
_file_argument = click.argument(
    "path", metavar="[FILE]", required=False, type=click.Path(path_type=Path), envvar=MODEL_VARIABLE
)
_FLOAT32_BYTES = 4


@click.group()
def model() -> None:
    """Look into a model file (default: the one that ships)."""


@model.command()
@_file_argument
@_json_option
def info(path: Path | None, *, as_json: bool) -> None:
    """Say what a model hears, how it is built, and what it was trained on."""
    from detector.network import load_model

    loaded = load_model(path)
    if as_json:
        print_json(_summary(loaded) | {"manifest": dataclasses.asdict(loaded.manifest)})
        return
    for heading, text in _in_words(loaded):
        click.echo(f"{heading:<10} {text}")


@model.command()
@_file_argument
@_json_option
def verify(path: Path | None, *, as_json: bool) -> None:
    """Check a model's manifest, its tensors and its arithmetic; exit code 2 where one is wrong."""
    from detector.network import verify as verify_network
    from detector.pipeline import Detector

    Detector.load(path)  # every room looks at its own parameters
    found = verify_network(path)
    if as_json:
        print_json(found)
        return
    click.echo(f"{found['path']}\nsha256 {found['sha256']}")
    click.echo("manifest: complete and consistent")
    click.echo("tensors: names and shapes are those of the manifest")
    click.echo(f"arithmetic: {found['frames']} frames one by one and in blocks give the same bits, scores in [0, 1]")
    click.echo("the model is good")


@click.command()
@model_option
@_json_option
def bench(model: Path | None, *, as_json: bool) -> None:
    """Measure speed, latency and memory on this machine."""
    from detector import bench as measurement

    stats = measurement.run(model)
    if as_json:
        print_json(stats)
        return
    from rich.console import Console

    measurement.print_table(stats, Console())


def _summary(loaded: Model) -> dict[str, object]:
    """Return what follows from the file and the manifest, for programs."""
    network = loaded.manifest.network
    return {
        "path": str(loaded.path),
        "sha256": loaded.sha256,
        "file_bytes": loaded.path.stat().st_size,
        "state_bytes": sum(_FLOAT32_BYTES * math.prod(s.shape) for s in network.states),
        "macs_per_frame": sum(layer.macs for layer in network.layers),
        "latency_s": loaded.manifest.latency_samples / loaded.manifest.features.sample_rate_hz,
    }


def _in_words(loaded: Model) -> Iterator[tuple[str, str]]:
    """Yield headings and lines; an empty heading goes on with the one before."""
    manifest, facts = loaded.manifest, _summary(loaded)
    yield "model", f"{manifest.name} {manifest.version}, licence {manifest.licence}"
    yield "file", f"{facts['path']}, {loaded.path.stat().st_size / 1024:.0f} KiB"
    yield "sha256", loaded.sha256
    yield from _sounds(manifest)
    yield from _rooms(manifest, facts)
    training = manifest.training
    yield "training", f"{training.clips} clips, {training.epochs} epochs, seed {training.seed}"
    yield "", f"folds left out: {', '.join(map(str, training.folds_left_out))}"
    yield "", f"command: {training.command}"
    for number, source in enumerate(training.sources):
        yield "data" if number == 0 else "", f"{source.name} ({source.licence}): {source.use}"
    for number, (name, value) in enumerate(manifest.metrics.items()):
        yield "metrics" if number == 0 else "", f"{name} {value:g}"


def _sounds(manifest: Manifest) -> Iterator[tuple[str, str]]:
    width = max(len(label) for label in manifest.labels)
    for number, sound in enumerate(manifest.classes):
        d = sound.decoder
        limits = f"onset from {d.on_threshold:.2f}, offset below {d.off_threshold:.2f}"
        yield "sounds" if number == 0 else "", f"{sound.label:<{width}}  {sound.category:<10}  {limits}"


def _rooms(manifest: Manifest, facts: dict[str, object]) -> Iterator[tuple[str, str]]:
    f, network = manifest.features, manifest.network
    ms = 1000 / f.sample_rate_hz
    yield "features", f"{f.n_mfcc} MFCC of {f.n_mels} mel bands, {f.f_min_hz:g} to {f.f_max_hz:g} Hz"
    yield "", f"frames of {f.frame_length * ms:g} ms every {f.hop_length * ms:g} ms at {f.sample_rate_hz} Hz"
    levels, rule = len(manifest.encoder.thresholds), manifest.encoder.rule.replace("_", " ")
    leak = f", leak {manifest.encoder.leak:g} a frame" if manifest.encoder.leak else ""
    yield "encoder", f"{rule}{leak}, {levels} thresholds a coefficient: {2 * levels * f.n_mfcc} binary spike trains"
    neurons = sum(layer.neurons for layer in network.layers if layer.spikes)
    yield "network", f"{network.parameters} parameters, {neurons} spiking neurons ({network.neuron.upper()})"
    yield "", f"{facts['macs_per_frame']} dense multiply-adds a frame, {facts['state_bytes']} bytes of state"
    for layer in network.layers:
        yield "", f"{layer.name}: {layer.kind}, {layer.inputs} inputs, {layer.neurons} outputs, {layer.macs} a frame"
    yield "latency", f"{manifest.latency_samples * ms:g} ms until a score can know of a sound"
