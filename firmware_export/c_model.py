"""The two files of C that hold a model: ``snn_model.h`` with its sizes, ``snn_model.c`` with its tables."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from detector.manifest import ClassSpec
from firmware_export.c_form import Form, LayerNumbers, Numbers
from firmware_export.c_tables import c_array, c_double, c_float, c_text
from firmware_export.model_reading import Layer, Network

_WORD: Final = 32


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a layer's state lies in the arrays of all layers."""

    ring: int
    words: int
    spikes: int
    synapses: int
    membranes: int


def header(network: Network, given: Numbers) -> str:
    """Return ``snn_model.h``: the sizes of everything."""
    m, places = network.manifest, _places(network)
    f, e, layers = m.features, m.encoder, network.layers
    numbers: dict[str, Any] = {
        "INT8": int(given.form.int8),
        "FIXED_FRONT_END": int(given.form.fixed_front_end),
        "SAMPLE_RATE_HZ": f.sample_rate_hz,
        "FRAME_LENGTH": f.frame_length,
        "HOP_LENGTH": f.hop_length,
        "N_FFT": f.n_fft,
        "N_MELS": f.n_mels,
        "N_MFCC": f.n_mfcc,
        "MEL_TERMS": given.front_end["mel_weights"].size,
        "HAS_LOG_FLOOR": int(f.log_floor > 0),
        "APPEND_ENERGY": int(f.append_energy),
        "SEND_ON_DELTA": int(e.rule == "send_on_delta"),
        "THRESHOLDS": len(e.thresholds),
        "PLANES": 2 * len(e.thresholds),
        "HAS_REST": int(bool(e.rest)),
        "CONVS": len(layers) - 1,
        "HIDDEN": layers[-1].weight.shape[0],
        "CLASSES": len(m.classes),
        "BAND_FRAMES": layers[0].past + 1,
        "SPIKE_WORDS": sum(p.ring * p.words for p in places),
        "SYNAPSES": max(1, sum(_neurons(x) for x in layers if x.neurons.alpha is not None)),
        "MEMBRANES": sum(map(_neurons, layers)),
        "MOST_CHANGES": max([_inputs(layer) for layer in layers[1:]] + [layers[-1].weight.shape[0]]),
        "MOST_PLACES": max(layer.out_width for layer in layers),
        "ROW_LENGTHS(row)": " ".join(f"row({n})" for n in _row_lengths(network)),
        "TIME_PERIOD": math.lcm(layers[0].past + 1, *(p.ring for p in places)),
        "MOST_SMOOTHING": max(c.decoder.smoothing_frames for c in m.classes),
    }
    numbers |= {name: _constant(value) for name, value in given.constants.items()}
    defines = "".join(f"#define SNN_{name} {_bracketed(value)}\n" for name, value in numbers.items())
    return f"{_origin(network, given.form)}{_HEADER_TOP}{defines}{_HEADER_TYPES}"


def tables(network: Network, given: Numbers) -> str:
    """Return ``snn_model.c``: every table and weight, to the bit."""
    m, form = network.manifest, given.form
    r, front = given.readout, dict(given.front_end)
    amplitude = "int32_t" if form.fixed_front_end else "snn_real"
    mel_weight = "uint16_t" if form.fixed_front_end else "snn_real"
    own = {name: front.pop(name) for name in ("logs", "silence") if name in front}
    kinds = {"mel_first": "uint16_t", "mel_count": "uint16_t", "mel_weights": mel_weight, "reversed": "uint16_t"}
    parts = [
        _origin(network, form) + '#include "snn_detect.h"\n\n',
        f"const char *const snn_labels[SNN_CLASSES] = {{{', '.join(c_text(c.label) for c in m.classes)}}};\n",
        f"const char snn_model_name[] = {c_text(f'{m.name}-{m.version}')};\n",
        f"const char snn_model_sha256[] = {c_text(network.sha256)};\n\n",
        *(c_array(kinds.get(name, amplitude), f"snn_{name}", values) for name, values in front.items()),
        *(c_array("int32_t", f"snn_{name}", values) for name, values in own.items()),
        *(c_array("snn_cepstrum", f"snn_{name}", values) for name, values in given.encoder.items()),
        c_array("snn_band", "snn_to_bands", given.to_bands),
        *(_layer_tables(i, layer) for i, layer in enumerate(given.layers)),
        _layer_list(network, given),
        c_array("snn_weight", "snn_readout_weight", np.ascontiguousarray(r["weight"].T).ravel()),
        c_array("snn_level", "snn_readout_bias", r["bias"]),
        c_array("snn_factor", "snn_readout_beta", r["beta"]),
        "" if "shift" not in r else c_array("uint8_t", "snn_readout_shift", r["shift"]),
        "" if "sigmoid" not in r else c_array("uint16_t", "snn_sigmoid", r["sigmoid"]),
        _class_list(m.classes, given),
    ]
    return "".join(parts)


def _origin(network: Network, form: Form) -> str:
    m = network.manifest
    return (
        f"/* {m.name} {m.version} ({form.name}), model file sha256\n"
        f" * {network.sha256}:\n * made by snn-export c, not to be edited. */\n"
    )


def _constant(value: Any) -> Any:
    """Print float64 as such, other floats as single precision."""
    if isinstance(value, np.float64):
        return c_double(value)
    return c_float(value) if isinstance(value, float) else value


def _bracketed(value: Any) -> str:
    return f"({value})" if isinstance(value, int) and value < 0 else str(value)


def _places(network: Network) -> list[_Place]:
    """Lay out the state: a ring of spike words for each layer, as long as the next layer reaches back, and a frame."""
    places: list[_Place] = []
    spikes = synapses = membranes = 0
    for i, layer in enumerate(network.layers):
        ring = network.layers[i + 1].past + 2 if i + 1 < len(network.layers) else 1
        words = layer.out_width * -(-layer.weight.shape[0] // _WORD)
        places.append(_Place(ring, words, spikes, synapses, membranes))
        spikes += ring * words
        membranes += _neurons(layer)
        synapses += _neurons(layer) if layer.neurons.alpha is not None else 0
    return places


def _inputs(layer: Layer) -> int:
    """Return how many spikes a layer can hear at once, of all frames that it reads."""
    _, channels, frames, _ = layer.weight.shape
    return int(channels * frames * layer.in_width)


def _row_lengths(network: Network) -> list[int]:
    """Return how many numbers one input can reach at once: the outputs of each layer, and classes."""
    outputs = [layer.weight.shape[0] for layer in network.layers]
    return sorted({*outputs, len(network.manifest.classes)})


def _neurons(layer: Layer) -> int:
    return int(layer.weight.shape[0]) * layer.out_width


def _layer_tables(number: int, layer: LayerNumbers) -> str:
    # From (out, in, frames, bands) to rows of output channels: what one spike adds lies together.
    weight = np.ascontiguousarray(layer.weight.transpose(1, 2, 3, 0)).ravel()
    named: dict[str, tuple[str, NDArray[Any] | None]] = {
        "weight": ("snn_weight", weight),
        "shift": ("uint8_t", layer.shift),
        "bias": ("snn_level", layer.bias),
        "alpha": ("snn_factor", layer.alpha),
        "offset": ("snn_level", layer.offset),
        "beta": ("snn_factor", layer.beta),
    }
    return "".join(
        "static " + c_array(kind, f"layer{number}_{name}", values)
        for name, (kind, values) in named.items()
        if values is not None
    )


def _layer_list(network: Network, given: Numbers) -> str:
    rows = []
    for i, (layer, own, p) in enumerate(zip(network.layers, given.layers, _places(network), strict=True)):
        out, channels, frames, bands = layer.weight.shape
        named = {"weight": own.weight, "bias": own.bias, "alpha": own.alpha, "offset": own.offset, "beta": own.beta}
        pointers = [f"layer{i}_{name}" if values is not None else "0" for name, values in named.items()]
        pointers.insert(1, f"layer{i}_shift" if own.shift is not None else "0")
        numbers = (channels, out, layer.out_width, _neurons(layer), frames, layer.dilation, bands)
        places = (layer.stride, layer.padding, p.ring, p.words, p.spikes, p.synapses, p.membranes)
        rows.append(f"    {{{', '.join([*pointers, *map(str, numbers), *map(str, places)])}}}")
    return "const snn_layer snn_layers[SNN_CONVS + 1] = {\n" + ",\n".join(rows) + "};\n"


def _class_list(classes: tuple[ClassSpec, ...], given: Numbers) -> str:
    rows = []
    for c, thresholds in zip(classes, given.thresholds, strict=True):
        d = c.decoder
        frames = (d.smoothing_frames, d.min_on_frames, d.min_off_frames, d.refractory_frames)
        printed = (c_float(t) if isinstance(t, float) else str(t) for t in thresholds)
        rows.append(f"    {{{', '.join([*printed, *map(str, frames)])}}}")
    return "const snn_class snn_classes[SNN_CLASSES] = {\n" + ",\n".join(rows) + "};\n"


_HEADER_TOP: Final = """#ifndef SNN_MODEL_H
#define SNN_MODEL_H

#include <stdint.h>

"""
_HEADER_TYPES: Final = """
#include "snn_numbers.h"

typedef struct {
    const snn_weight *weight; /* [in_channels][frames][bands][out_channels] */
    const uint8_t *shift;     /* from sums to levels; with int8 alone */
    const snn_level *bias;    /* of the sum; this and the next two may be missing */
    const snn_factor *alpha;  /* decay of the synapse */
    const snn_level *offset;  /* behind the synapse */
    const snn_factor *beta;   /* decay of the membrane */
    uint16_t in_channels, out_channels, out_width, neurons;
    uint16_t frames, dilation, bands, stride, padding;
    uint16_t ring, words;                 /* frames of spikes that are kept, words of each */
    uint32_t spikes, synapses, membranes; /* where they begin */
} snn_layer;

typedef struct {
    snn_score on_threshold, off_threshold;
    int32_t smoothing, min_on, min_off, refractory;
} snn_class;

extern const char *const snn_labels[SNN_CLASSES];
extern const char snn_model_name[], snn_model_sha256[];
#if SNN_FIXED_FRONT_END
extern const int32_t snn_window[SNN_FRAME_LENGTH], snn_turns[SNN_N_FFT / 2][2], snn_dct[SNN_N_MELS][SNN_N_MFCC];
extern const uint16_t snn_mel_weights[SNN_MEL_TERMS];
extern const int32_t snn_logs[], snn_silence[SNN_N_MFCC];
#else
extern const uint16_t snn_reversed[SNN_N_FFT / 8];
extern const snn_real snn_pass_turns[], snn_split_turns[2][SNN_N_FFT / 4];
extern const snn_real snn_window[SNN_FRAME_LENGTH], snn_dct[SNN_N_MELS][SNN_N_MFCC], snn_mel_weights[SNN_MEL_TERMS];
#endif
extern const uint16_t snn_mel_first[SNN_N_MELS], snn_mel_count[SNN_N_MELS];
extern const snn_cepstrum snn_thresholds[SNN_THRESHOLDS][SNN_N_MFCC], snn_rest[SNN_N_MFCC];
extern const snn_band snn_to_bands[SNN_N_MFCC][SNN_N_MELS];
extern const snn_layer snn_layers[SNN_CONVS + 1];
extern const snn_weight snn_readout_weight[];
extern const snn_level snn_readout_bias[SNN_CLASSES];
extern const snn_factor snn_readout_beta[SNN_CLASSES];
#if SNN_INT8
extern const uint8_t snn_readout_shift[SNN_CLASSES];
extern const uint16_t snn_sigmoid[];
#endif
extern const snn_class snn_classes[SNN_CLASSES];

#endif
"""
