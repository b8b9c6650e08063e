"""Tables and plots of show-encoding and show-neuron: encodings of one input, and one neuron under two resets.

The neuron of this project (``models.network.csnn``) subtracts the threshold at the spike, so that the
remainder decays:

    U[t] = beta * (U[t-1] - threshold * S[t-1]) + I[t]

snnTorch's ``Leaky`` with ``reset_mechanism="subtract"`` subtracts the whole threshold one step later
(``reset_delay=True``), from a potential that has decayed meanwhile:

    U[t] = beta * U[t-1] - threshold * S[t-1] + I[t]

Each spike lowers the latter by (1 - beta) * threshold more, so it fires less often.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import snntorch
import torch
from matplotlib.layout_engine import ConstrainedLayoutEngine
from numpy.typing import NDArray

from detector.audio.sources import read_chunks
from detector.errors import ConfigError
from detector.features import MfccExtractor
from detector.manifest import EncoderParams
from detector.messages import Frames, Samples
from detector.network import load_model
from models.images.encodings import ENCODING_STEPS, Encoding, Scale, relative_error, rms_error
from models.images.mnist import SIDE, load_mnist
from models.network.scan import SurrogateStep, lif_scan
from models.plots import new_figure, raster, save

THRESHOLD = 1.0
NEURON_STEPS = 40
Signal = NDArray[np.float32]
"""(steps,): one value per step."""
_PANEL_PT = 170
"""Approximate height and width of a raster in points, for the size of spike markers."""
UP, DOWN = "#c0392b", "#2471a3"
OURS, THEIRS = "#1e8449", "#b9770e"
_GREY_THRESHOLDS = (0.5, 0.25, 0.125, 0.0625)
"""Powers of two: together they encode any change between grey values to within the finest."""


@dataclass(frozen=True, slots=True)
class Trace:
    """Input, potential and spikes of one neuron; all (steps,)."""

    current: Signal
    potential: Signal
    """U: the membrane potential that is compared with the threshold."""
    carried: Signal
    """V: the potential carried to the next step."""
    spikes: Signal


def trace_seed(current: Signal, beta: float, threshold: float = THRESHOLD) -> Trace:
    """Return the trace of the project's neuron for a current (steps,), from ``models.network.scan`` step by step."""
    mem, fired = torch.zeros(1, 1, 1), []
    carried = []
    for value in _steps(current):
        spike, mem = lif_scan(
            value.view(1, 1, 1, 1), torch.tensor([beta]), mem, threshold, SurrogateStep("fast_sigmoid", 10)
        )
        fired.append(spike.item())
        carried.append(mem.item())
    after, spikes = np.array(carried, np.float32), np.array(fired, np.float32)
    # The scan returns V; the spike shows what was subtracted from U.
    return Trace(current, after + np.float32(threshold) * spikes, after, spikes)


def trace_snntorch(current: Signal, beta: float, threshold: float = THRESHOLD) -> Trace:
    """Return the trace of ``snntorch.Leaky`` with its defaults, for a current (steps,)."""
    neuron = snntorch.Leaky(beta=beta, threshold=threshold, reset_mechanism="subtract")
    mem, fired, potential = torch.zeros(1), [], []
    for value in _steps(current):
        spike, mem = neuron(value.view(1), mem)
        fired.append(spike.item())
        potential.append(mem.item())
    carried = np.array(potential, np.float32)
    return Trace(current, carried, carried, np.array(fired, np.float32))


def step_current(level: float = 0.6, steps: int = NEURON_STEPS) -> Signal:
    """Return a current (steps,) that is on from one eighth to seven eighths of the time."""
    current = np.zeros(steps, np.float32)
    current[steps // 8 : steps * 7 // 8] = level
    return current


def train_current(weight: float = 0.9, steps: int = NEURON_STEPS) -> Signal:
    """Return the current (steps,) of a synapse: sparse spikes, then denser ones, then a burst."""
    current = np.zeros(steps, np.float32)
    for share in (0.05, 0.2, 0.35, 0.425, 0.5, 0.55, 0.6, 0.65, 0.75, 0.775, 0.8, 0.825, 0.85):
        current[int(share * steps)] = weight
    return current


@dataclass(frozen=True, slots=True)
class EncodingInput:
    """A sound or image to encode, with the parameters of its encoders."""

    title: str
    signal: NDArray[np.float32]
    """The sound (samples,), or the image (28, 28)."""
    frames: Frames
    scale: Scale
    """For the encodings that need values in [0, 1]."""
    deviation: NDArray[np.float32]
    """Standard deviation of each value, the unit of the relative error, (n,)."""
    params: EncoderParams
    unit: str
    frame_s: float | None
    """Time from frame to frame; None for an image."""

    @property
    def loudest(self) -> int:
        """Index of the frame with the largest coefficient 0, which follows the energy in all bands."""
        return int(self.frames[:, 0].argmax())


def sound(path: Path, seconds: float) -> EncodingInput:
    """Return the first seconds of a sound file, with the front end of the shipped model.

    Only that part of the file is read. Raises SourceError for other files.
    """
    manifest = load_model().manifest
    samples = _first(path, seconds, manifest.features.sample_rate_hz)
    extractor = MfccExtractor(manifest.features)
    frames = np.concatenate((extractor.push(samples), extractor.flush()))
    rate = manifest.features.sample_rate_hz
    # The deviation of a constant column may be a rounding error instead of 0.
    deviation = np.where(np.ptp(frames, axis=0) > 0, frames.std(axis=0, dtype=np.float64), 0).astype(np.float32)
    return EncodingInput(
        title=f"{path.name}, {samples.size / rate:.1f} s",
        signal=samples,
        frames=frames,
        scale=Scale.of(frames),
        deviation=deviation,
        params=manifest.encoder,
        unit="MFCC (natural log of energy)",
        frame_s=manifest.features.hop_length / rate,
    )


def digit(data: Path, index: int) -> EncodingInput:
    """Return an image of MNIST's test set, its rows read as 28 frames of 28 values, from the top down.

    Raises ConfigError where there is no such image, SourceError where there is no MNIST.
    """
    images, labels = load_mnist(data, train=False)
    if not 0 <= index < len(images):
        raise ConfigError(f"--mnist {index}: the test set has the images 0 to {len(images) - 1}")
    image = (images[index] / 255).astype(np.float32)
    zeros = np.zeros(SIDE, np.float32)
    return EncodingInput(
        title=f"MNIST test image {index}, a {labels[index]}",
        signal=image,
        frames=image,
        scale=Scale(zeros, zeros + 1),
        # One unit for all columns: those at the margins are constant.
        deviation=np.full(SIDE, image.std(), np.float32),
        params=EncoderParams("send_on_delta", tuple((d,) * SIDE for d in _GREY_THRESHOLDS), 0.0, (0.0,) * SIDE),
        unit="grey value, 0 to 1",
        frame_s=None,
    )


def table(source: EncodingInput, encodings: Sequence[Encoding]) -> str:
    """Return spikes per value and errors of the encodings as lines of text."""
    frames, width = source.frames.shape
    rows = [f"{source.title}: {frames} frames of {width} values", ""]
    rows.append(f"{'encoding':17} {'steps/frame':>11} {'spikes/value':>12} {'RMS error':>10} {'in std':>7}")
    for e in encodings:
        absolute = rms_error(e.decoded, source.frames)
        relative = relative_error(e.decoded, source.frames, source.deviation)
        shown = "-" if math.isnan(relative) else f"{relative:.3f}"
        rows.append(f"{e.name:17} {e.steps_per_frame:11} {e.spikes_per_value:12.2f} {absolute:10.3f} {shown:>7}")
    scaled = "grey values as they are" if source.frame_s is None else "each coefficient from its minimum to its maximum"
    rows += [
        "",
        f"RMS error: {source.unit}; in std: in standard deviations, where 1 is the error of the mean.",
        f"Rate and latency take values in [0, 1]: {scaled}.",
    ]
    return "\n".join(rows)


def draw_encodings(source: EncodingInput, encodings: Sequence[Encoding], path: Path) -> None:
    """Draw the signal and its frames, and below them the spikes and decoded frames of each encoding."""
    columns = len(encodings)
    figure = new_figure(3.5 * columns, 10.5)
    figure.set_layout_engine(ConstrainedLayoutEngine(hspace=0.04, h_pad=0.08))
    figure.suptitle(f"{source.title}, encoded as spikes in {columns} ways", fontsize=18)
    grid = figure.add_gridspec(3, columns)
    _draw_signal(figure.add_subplot(grid[0, :2]), source)
    features = figure.add_subplot(grid[0, 2:])
    image = _draw_frames(features, source, source.frames)
    features.set_title(_features_title(source), pad=12)
    _mark_loudest(features, source)
    for column, encoding in enumerate(encodings):
        _draw_spikes(figure.add_subplot(grid[1, column]), source, encoding)
        _draw_decoded(figure.add_subplot(grid[2, column]), source, encoding)
    figure.colorbar(image, ax=[features, *figure.axes[-2:]], label=_colour_label(source), aspect=40)
    figure.supxlabel(
        "std: standard deviation of the values above; an error of 1 is that of always predicting their mean"
    )
    save(figure, path)


def neuron_pairs(beta: float) -> dict[str, tuple[Trace, Trace]]:
    """Return, for each input, the traces of the project's neuron and of snnTorch's default."""
    inputs = {"step current": step_current(), "spike train": train_current()}
    return {name: (trace_seed(i, beta), trace_snntorch(i, beta)) for name, i in inputs.items()}


def draw_neuron(pairs: Mapping[str, tuple[Trace, Trace]], beta: float, path: Path) -> None:
    """Draw one column for each input: the input, the two membranes, the spikes of both."""
    figure = new_figure(7.0 * len(pairs), 9.5)
    title = rf"One leaky integrate-and-fire neuron, two resets ($\beta$ = {beta:g}, threshold $\theta$ = {THRESHOLD:g})"
    figure.suptitle(title, fontsize=16)
    grid = figure.subplots(4, len(pairs), sharex="col", squeeze=False, height_ratios=(1, 2.2, 2.2, 0.8))
    levels = np.concatenate([(t.potential, t.carried) for pair in pairs.values() for t in pair])
    # Space above for the legend; one scale, so that the membranes can be compared.
    limits = (levels.min() - 0.15, levels.max() + 0.5)
    for column, (name, (ours, theirs)) in zip(grid.T, pairs.items(), strict=True):
        _draw_input(column[0], name, ours)
        _draw_membrane(column[1], ours, OURS, r"immediate reset: $U_t = \beta\,(U_{t-1} - \theta S_{t-1}) + I_t$")
        _draw_membrane(column[2], theirs, THEIRS, r"snnTorch's default: $U_t = \beta\,U_{t-1} - \theta S_{t-1} + I_t$")
        _draw_trains(column[3], ours, theirs)
        for axes in column[1:3]:
            axes.set_ylim(limits)
    save(figure, path)


def _steps(current: Signal) -> tuple[torch.Tensor, ...]:
    return torch.from_numpy(np.ascontiguousarray(current, np.float32)).unbind()


def _first(path: Path, seconds: float, rate_hz: int) -> Samples:
    """Read the first seconds of a file at a rate, second by second."""
    wanted = round(seconds * rate_hz)
    samples = np.empty(0, np.float32)
    with closing(read_chunks(path, rate_hz)) as source:
        for chunk in source:
            samples = np.concatenate((samples, chunk.samples))
            if samples.size >= wanted:
                break
    return samples[:wanted]


def _draw_signal(axes: Any, source: EncodingInput) -> None:
    if source.frame_s is None:
        axes.imshow(source.signal, cmap="gray_r", vmin=0, vmax=1)
        axes.set(title="the image", xlabel="column", ylabel="row")
        return
    seconds = len(source.frames) * source.frame_s
    axes.plot(np.arange(source.signal.size) * seconds / source.signal.size, source.signal, lw=0.5, color="black")
    axes.set(title="the sound", xlabel="time (s)", ylabel="amplitude (full scale is 1)", xlim=(0, seconds))
    axes.margins(y=0.1)


def _features_title(source: EncodingInput) -> str:
    frames, width = source.frames.shape
    if source.frame_s is None:
        return f"its rows as {frames} frames of {width} values"
    return f"its features: {width} MFCC every {1000 * source.frame_s:g} ms (mark: the loudest frame)"


def _draw_frames(axes: Any, source: EncodingInput, frames: Frames) -> Any:
    """Draw frames over time: a sound's coefficients in deviations from their mean, an image's grey values."""
    if source.frame_s is None:
        axes.set(xlabel="frame (row of the image)", ylabel="value (column)")
        return axes.imshow(frames.T, cmap="gray_r", vmin=0, vmax=1, origin="lower", aspect="auto")
    unit = np.where(source.deviation > 0, source.deviation, 1)
    level = (frames - source.frames.mean(axis=0)) / unit
    width = frames.shape[1]
    extent = (0, len(frames) * source.frame_s, -0.5, width - 0.5)
    axes.set(xlabel="time (s)", ylabel="MFCC")
    return axes.imshow(level.T, cmap="RdBu_r", vmin=-3, vmax=3, origin="lower", aspect="auto", extent=extent)


def _colour_label(source: EncodingInput) -> str:
    return "grey value" if source.frame_s is None else "standard deviations from the mean"


def _draw_spikes(axes: Any, source: EncodingInput, encoding: Encoding) -> None:
    """Draw an encoding's spikes: over the steps where values are held, else over the frames."""
    if encoding.steps_per_frame == ENCODING_STEPS:
        _draw_held(axes, source, encoding)
    else:
        _draw_changes(axes, source, encoding)


def _draw_held(axes: Any, source: EncodingInput, encoding: Encoding) -> None:
    if source.frame_s is None:
        spikes, what, name = encoding.spikes.reshape(ENCODING_STEPS, -1), "whole image", "pixel, row by row"
    else:
        spikes, what, name = encoding.spikes[:, source.loudest], "loudest frame only", "MFCC"
    _dots(axes, spikes)
    axes.set(xlabel="step", ylabel=name)
    axes.set_title(f"{encoding.name}\n{what}, held for {ENCODING_STEPS} steps", fontsize=11)


def _dots(axes: Any, spikes: NDArray[Any], colour: str = "black") -> None:
    raster(axes, spikes, colour=colour)
    steps, neurons = spikes.shape
    size, width = max(2.0, (0.9 * _PANEL_PT / neurons) ** 2), min(1.2, 0.9 * _PANEL_PT / steps)
    axes.collections[-1].set(sizes=[size], linewidths=width)


def _draw_changes(axes: Any, source: EncodingInput, encoding: Encoding) -> None:
    spikes = encoding.spikes
    if spikes.ndim == 2:  # noqa: PLR2004 - signs instead of planes
        spikes = np.stack((spikes > 0, spikes < 0), axis=1)
    levels = spikes.shape[1] // 2
    # The finest threshold first and palest, below those of coarser ones.
    for level in reversed(range(levels)):
        opaque = f"{round(255 * (1 - 0.75 * level / levels)):02x}"
        _dots(axes, spikes[:, 2 * level], UP + opaque)
        _dots(axes, spikes[:, 2 * level + 1], DOWN + opaque)
    thresholds = "1 threshold" if levels == 1 else f"{levels} thresholds (pale: fine)"
    axes.set_title(f"{encoding.name}\nred up, blue down, {thresholds}", fontsize=11)
    if source.frame_s is None:
        axes.set(xlabel="frame (row of the image)", ylabel="value (column)")
    else:
        _seconds_below(axes, source.frame_s, len(spikes))


def _draw_decoded(axes: Any, source: EncodingInput, encoding: Encoding) -> None:
    error = relative_error(encoding.decoded, source.frames, source.deviation)
    if source.frame_s is None:
        axes.imshow(encoding.decoded, cmap="gray_r", vmin=0, vmax=1)
        axes.set(xlabel="column", ylabel="row")
    else:
        _draw_frames(axes, source, encoding.decoded)
    wrong = "" if math.isnan(error) else f": error {error:.2f} std"
    axes.set_title(f"decoded{wrong}\n{encoding.spikes_per_value:.2f} spikes per value", fontsize=11)


def _mark_loudest(axes: Any, source: EncodingInput) -> None:
    if source.frame_s is not None:
        at = (source.loudest + 0.5) * source.frame_s
        axes.plot([at], [1.02], "v", color="black", clip_on=False, transform=axes.get_xaxis_transform())


def _seconds_below(axes: Any, frame_s: float, frames: int) -> None:
    """Label an axis of frames with seconds."""
    step = 1 if frames * frame_s >= 2 else 0.2  # noqa: PLR2004 - a handful of ticks
    ticks = np.arange(0, frames * frame_s, step)
    axes.set_xticks(ticks / frame_s - 0.5, [f"{tick:g}" for tick in ticks.round(1)])
    axes.set(xlabel="time (s)", ylabel="MFCC")


def _draw_input(axes: Any, name: str, trace: Trace) -> None:
    axes.bar(range(len(trace.current)), trace.current, width=1, color="#7f8c8d", edgecolor="white", linewidth=0.5)
    axes.set_title(f"input: {name}")
    axes.set_ylabel("current $I_t$")


def _draw_membrane(axes: Any, trace: Trace, colour: str, title: str) -> None:
    """Draw U as dots, decay as lines, and an immediate reset as a drop."""
    steps = np.arange(len(trace.potential))
    # Each step shows U, then the carried potential, which differs only after an immediate reset.
    path = np.stack((trace.potential, trace.carried), axis=1).ravel()
    axes.plot(steps.repeat(2), path, color=colour, linewidth=1, alpha=0.7)
    fired = trace.spikes > 0
    axes.plot(steps[~fired], trace.potential[~fired], "o", color=colour, markersize=4, label="$U_t$")
    axes.plot(steps[fired], trace.potential[fired], "*", color=colour, markersize=12, label="$U_t$ with a spike")
    axes.axhline(THRESHOLD, color="black", linestyle="--", linewidth=1, label=r"threshold $\theta$")
    axes.set_title(title)
    axes.set_ylabel("membrane potential")
    axes.grid(alpha=0.3)
    axes.legend(loc="upper left", fontsize=8, ncols=3)


def _draw_trains(axes: Any, ours: Trace, theirs: Trace) -> None:
    trains = [np.flatnonzero(trace.spikes) for trace in (theirs, ours)]
    axes.eventplot(trains, colors=[THEIRS, OURS], linelengths=0.7, linewidths=2.5)
    axes.set_yticks([0, 1], ["snnTorch", "immediate"])
    axes.set(
        title=f"spikes: {len(trains[1])} with the immediate reset, {len(trains[0])} with snnTorch's", xlabel="step"
    )
