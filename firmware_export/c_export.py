"""A model file as one folder of C99: the whole detector, with nothing to allocate and nothing to link but libm.

The C itself is not made here: it lies in the package, and is compiled as it is. What is made are
the two files of the model, ``snn_model.h`` (sizes) and ``snn_model.c`` (tables), and a README.
"""

from __future__ import annotations

import math
import shutil
import tempfile
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from detector.errors import ConfigError
from detector.manifest import MfccParams
from detector.mfcc_tables import dct_matrix, mel_filterbank, window_coefficients
from firmware_export.c_tables import c_array, c_float, c_text
from firmware_export.model_reading import Layer, Network, read_network

_MARK: Final = "snn_model.h"
"""A folder that holds this was made here, and may be made anew."""
_WORD: Final = 32


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a layer's state lies in the arrays of all layers."""

    ring: int
    words: int
    spikes: int
    synapses: int
    membranes: int


def export_c(model: Path, out: Path) -> None:
    """Write a model as a folder of C.

    Raises ManifestError for what is no model or cannot be expressed, ConfigError for a folder that
    cannot be written or holds something else; nothing half-written stays.
    """
    network = read_network(model)
    _check(network)
    if out.exists() and not (out.is_dir() and ((out / _MARK).is_file() or not any(out.iterdir()))):
        raise ConfigError(f"{out} is there and was not made by this command; name another folder")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as beside:
            made = Path(beside) / out.name
            made.mkdir()
            _write(network, made)
            if out.exists():
                shutil.rmtree(out)
            made.rename(out)
    except OSError as error:
        raise ConfigError(f"{error.filename or out}: cannot be written ({error.strerror})") from error


def _write(network: Network, folder: Path) -> None:
    _copy(resources.files("firmware_export").joinpath("c"), folder)
    (folder / "snn_model.h").write_text(header(network), encoding="ascii")
    (folder / "snn_model.c").write_text(tables(network), encoding="ascii")


def _copy(source: Traversable, folder: Path) -> None:
    """Copy what the package holds, folder by folder; it may lie in an archive."""
    for entry in source.iterdir():
        if entry.is_dir():
            (folder / entry.name).mkdir()
            _copy(entry, folder / entry.name)
        else:
            (folder / entry.name).write_bytes(entry.read_bytes())


def _check(network: Network) -> None:
    """Raise ConfigError for what the C cannot do."""
    features, encoder = network.manifest.features, network.manifest.encoder
    if features.n_fft < 4 or features.n_fft & (features.n_fft - 1):  # noqa: PLR2004 - the least with a half
        raise ConfigError(f"features.n_fft is {features.n_fft}; in C it must be a power of two")
    if encoder.rule == "frame_difference" and encoder.rest:
        raise ConfigError("the frame difference has no rest")


def header(network: Network) -> str:
    """Return ``snn_model.h``: the sizes of everything."""
    m, places = network.manifest, _places(network)
    f, e, layers = m.features, m.encoder, network.layers
    bins = _mel_spans(f)[1]
    numbers: dict[str, int | str] = {
        "SAMPLE_RATE_HZ": f.sample_rate_hz,
        "FRAME_LENGTH": f.frame_length,
        "HOP_LENGTH": f.hop_length,
        "N_FFT": f.n_fft,
        "N_MELS": f.n_mels,
        "N_MFCC": f.n_mfcc,
        "MEL_TERMS": int(bins.sum()),
        "PREEMPHASIS": c_float(f.preemphasis),
        "HAS_LOG_FLOOR": int(f.log_floor > 0),
        "LOG_FLOOR": c_float(f.log_floor),
        "APPEND_ENERGY": int(f.append_energy),
        "SEND_ON_DELTA": int(e.rule == "send_on_delta"),
        "THRESHOLDS": len(e.thresholds),
        "PLANES": 2 * len(e.thresholds),
        "HAS_REST": int(bool(e.rest)),
        "KEEP": c_float(1 - e.leak),
        "CONVS": len(layers) - 1,
        "HIDDEN": layers[-1].weight.shape[0],
        "CLASSES": len(m.classes),
        "BAND_FRAMES": layers[0].past + 1,
        "SPIKE_WORDS": sum(p.ring * p.words for p in places),
        "SYNAPSES": max(1, sum(_neurons(x) for x in layers if x.neurons.alpha is not None)),
        "MEMBRANES": sum(map(_neurons, layers)),
        "MOST_NEURONS": max(map(_neurons, layers)),
        "ROW_LENGTHS(row)": " ".join(f"row({n})" for n in _row_lengths(network)),
        "TIME_PERIOD": math.lcm(layers[0].past + 1, *(p.ring for p in places)),
        "MOST_SMOOTHING": max(c.decoder.smoothing_frames for c in m.classes),
    }
    defines = "".join(f"#define SNN_{name} {value}\n" for name, value in numbers.items())
    return f"{_origin(network)}{_HEADER_TOP}{defines}{_HEADER_TYPES}"


def tables(network: Network) -> str:
    """Return ``snn_model.c``: every table and weight, to the bit."""
    m = network.manifest
    f, e, r = m.features, m.encoder, network.readout
    first, count, weights = _mel_spans(f)
    angles = -2 * np.pi * np.arange(f.n_fft // 2) / f.n_fft
    turns = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    parts = [
        _origin(network) + '#include "snn_detect.h"\n\n',
        f"const char *const snn_labels[SNN_CLASSES] = {{{', '.join(c_text(c.label) for c in m.classes)}}};\n",
        f"const char snn_model_name[] = {c_text(f'{m.name}-{m.version}')};\n",
        f"const char snn_model_sha256[] = {c_text(network.sha256)};\n\n",
        c_array("float", "snn_window", _single(window_coefficients(f)), shape="[SNN_FRAME_LENGTH]"),
        c_array("float", "snn_turns", _single(turns), shape="[SNN_N_FFT / 2][2]"),
        c_array("uint16_t", "snn_mel_first", first, shape="[SNN_N_MELS]"),
        c_array("uint16_t", "snn_mel_count", count, shape="[SNN_N_MELS]"),
        c_array("float", "snn_mel_weights", _single(weights / f.n_fft), shape="[SNN_MEL_TERMS]"),
        c_array("float", "snn_dct", _single(dct_matrix(f)), shape="[SNN_N_MELS][SNN_N_MFCC]"),
        c_array("float", "snn_thresholds", _single(np.array(e.thresholds)), shape="[SNN_THRESHOLDS][SNN_N_MFCC]"),
        c_array("float", "snn_rest", _single(np.array(e.rest or [0.0] * f.n_mfcc)), shape="[SNN_N_MFCC]"),
        c_array("float", "snn_to_bands", network.to_bands, shape="[SNN_N_MFCC][SNN_N_MELS]"),
        *(_layer_tables(i, layer) for i, layer in enumerate(network.layers)),
        _layer_list(network),
        c_array("float", "snn_readout_weight", np.ascontiguousarray(r.weight.T).ravel()),
        c_array("float", "snn_readout_bias", r.bias, shape="[SNN_CLASSES]"),
        c_array("float", "snn_readout_beta", r.beta.ravel(), shape="[SNN_CLASSES]"),
        _class_list(network),
    ]
    return "".join(parts)


def _origin(network: Network) -> str:
    m = network.manifest
    return f"/* {m.name} {m.version}, model file sha256 {network.sha256}: made by snn-export c, not to be edited. */\n"


def _places(network: Network) -> list[_Place]:
    """Lay out the state: a ring of spike words for each layer, as long as the next layer reaches back."""
    places: list[_Place] = []
    spikes = synapses = membranes = 0
    for i, layer in enumerate(network.layers):
        ring = network.layers[i + 1].past + 1 if i + 1 < len(network.layers) else 1
        words = -(-_neurons(layer) // _WORD)
        places.append(_Place(ring, words, spikes, synapses, membranes))
        spikes += ring * words
        membranes += _neurons(layer)
        synapses += _neurons(layer) if layer.neurons.alpha is not None else 0
    return places


def _row_lengths(network: Network) -> list[int]:
    """Return how many numbers one input can reach at once: the outputs of each layer, and bands."""
    outputs = [layer.weight.shape[0] for layer in network.layers]
    return sorted({*outputs, len(network.manifest.classes), network.manifest.features.n_mels})


def _neurons(layer: Layer) -> int:
    return int(layer.weight.shape[0]) * layer.out_width


def _layer_tables(number: int, layer: Layer) -> str:
    # From (out, in, frames, bands) to rows of output channels: what one spike adds lies together.
    weight = np.ascontiguousarray(layer.weight.transpose(1, 2, 3, 0)).ravel()
    n = layer.neurons
    named = {"weight": weight, "bias": layer.bias, "alpha": n.alpha, "offset": _offset(layer), "beta": n.beta}
    return "".join(
        "static " + c_array("float", f"layer{number}_{name}", values)
        for name, values in named.items()
        if values is not None
    )


def _offset(layer: Layer) -> NDArray[np.float32] | None:
    """Return what is added behind a synapse, zeros where nothing is; None without a synapse."""
    n = layer.neurons
    if n.alpha is None:
        return None
    return n.offset if n.offset is not None else np.zeros_like(n.alpha)


def _layer_list(network: Network) -> str:
    rows = []
    for i, (layer, p) in enumerate(zip(network.layers, _places(network), strict=True)):
        out, channels, frames, bands = layer.weight.shape
        given = {"bias": layer.bias, "alpha": layer.neurons.alpha, "offset": _offset(layer)}
        pointers = [f"layer{i}_weight"]
        pointers += [f"layer{i}_{name}" if values is not None else "0" for name, values in given.items()]
        numbers = (channels, out, layer.out_width, _neurons(layer), frames, layer.dilation, bands)
        places = (layer.stride, layer.padding, p.ring, p.words, p.spikes, p.synapses, p.membranes)
        rows.append(f"    {{{', '.join([*pointers, f'layer{i}_beta', *map(str, numbers), *map(str, places)])}}}")
    return "const snn_layer snn_layers[SNN_CONVS + 1] = {\n" + ",\n".join(rows) + "};\n"


def _class_list(network: Network) -> str:
    rows = []
    for c in network.manifest.classes:
        d = c.decoder
        frames = (d.smoothing_frames, d.min_on_frames, d.min_off_frames, d.refractory_frames)
        rows.append(f"    {{{c_float(d.on_threshold)}, {c_float(d.off_threshold)}, {', '.join(map(str, frames))}}}")
    return "const snn_class snn_classes[SNN_CLASSES] = {\n" + ",\n".join(rows) + "};\n"


def _mel_spans(f: MfccParams) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Return each filter's first bin, its number of bins, and all their weights in a row."""
    bank = mel_filterbank(f)
    support = [np.flatnonzero(row) for row in bank]
    first = np.array([s[0] if s.size else 0 for s in support])
    count = np.array([s[-1] - s[0] + 1 if s.size else 0 for s in support])
    rows = [row[a : a + n] for row, a, n in zip(bank, first, count, strict=True)]
    return first, count, np.concatenate(rows) if count.sum() else np.zeros(1)


def _single(values: Any) -> NDArray[np.float32]:
    return np.asarray(values, np.float32)


_HEADER_TOP: Final = """#ifndef SNN_MODEL_H
#define SNN_MODEL_H

#include <stdint.h>

"""
_HEADER_TYPES: Final = """
typedef struct {
    const float *weight; /* [in_channels][frames][bands][out_channels] */
    const float *bias;   /* part of the sum; this and the next two may be missing */
    const float *alpha;  /* decay of the synapse */
    const float *offset; /* behind the synapse */
    const float *beta;   /* decay of the membrane */
    uint16_t in_channels, out_channels, out_width, neurons;
    uint16_t frames, dilation, bands, stride, padding;
    uint16_t ring, words;                  /* frames of spikes that are kept, words of each */
    uint32_t spikes, synapses, membranes;  /* where they begin */
} snn_layer;

typedef struct {
    float on_threshold, off_threshold;
    int32_t smoothing, min_on, min_off, refractory;
} snn_class;

extern const char *const snn_labels[SNN_CLASSES];
extern const char snn_model_name[], snn_model_sha256[];
extern const float snn_window[SNN_FRAME_LENGTH];
extern const float snn_turns[SNN_N_FFT / 2][2];
extern const uint16_t snn_mel_first[SNN_N_MELS], snn_mel_count[SNN_N_MELS];
extern const float snn_mel_weights[SNN_MEL_TERMS];
extern const float snn_dct[SNN_N_MELS][SNN_N_MFCC];
extern const float snn_thresholds[SNN_THRESHOLDS][SNN_N_MFCC];
extern const float snn_rest[SNN_N_MFCC];
extern const float snn_to_bands[SNN_N_MFCC][SNN_N_MELS];
extern const snn_layer snn_layers[SNN_CONVS + 1];
extern const float snn_readout_weight[], snn_readout_bias[SNN_CLASSES], snn_readout_beta[SNN_CLASSES];
extern const snn_class snn_classes[SNN_CLASSES];

#endif
"""
