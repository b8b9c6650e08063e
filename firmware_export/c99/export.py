"""A model file as a folder of C99: the whole detector, from 16-bit samples to events.

The C sources are copied as they are: those of the stages (``detector/engine/c``), which the runtime's own engine is
made of as well, and those of microcontrollers (``firmware_export/c``). Two files are generated: ``snn_model.h`` with
the sizes of the model and ``snn_model.c`` with its arrays, floats to the bit.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from detector.decoder import evidence_integers
from detector.engine.graph import Layer
from detector.errors import ConfigError, ManifestError
from detector.manifest import ClassSpec
from firmware_export.c99.formats import FLOAT, MIN_N_FFT, LayerArrays, ModelArrays, NumberFormat, model_arrays
from firmware_export.files import atomic_output
from firmware_export.onnx.read import Network, read_network

_MARK: Final = "snn_model.h"
"""A folder with this file was made by this export and may be replaced."""
_STAGES: Final = (
    *("snn_stages.h", "snn_numbers.h", "snn_mfcc.c", "snn_cepstra.h", "snn_cepstra_float.c"),
    *("snn_encoder.c", "snn_network.c", "snn_decoder.c", "snn_evidence.h"),
)
"""Sources that firmware and the runtime's engine share."""
_ENTRY_POINTS: Final = ("snn_init", "snn_watch", "snn_push", "snn_flush", "snn_reset")
"""What programs call with a state of their own, whose size the header says."""
_SYMBOLS: Final = (
    *("snn_fired", "snn_put_event", "snn_put_integer", "snn_put_text"),
    *("snn_mfcc_push", "snn_mfcc_flush", "snn_mfcc_reset", "snn_cepstra", "snn_encode", "snn_encoder_reset"),
    *("snn_step", "snn_layer_spikes", "snn_network_reset", "snn_decode", "snn_decoder_close", "snn_decoder_reset"),
    *("snn_model_name", "snn_model_sha256", "snn_labels", "snn_classes", "snn_layers", "snn_to_bands"),
    *("snn_window", "snn_twiddles", "snn_pass_twiddles", "snn_split_twiddles", "snn_bit_reversal", "snn_dct"),
    *("snn_mel_first", "snn_mel_count", "snn_mel_weights", "snn_logs", "snn_silence", "snn_thresholds", "snn_rest"),
    *("snn_readout_weight", "snn_readout_bias", "snn_readout_beta", "snn_readout_shift", "snn_sigmoid"),
)
"""All other symbols that the linker sees."""
_LONGEST_PREFIX: Final = 63
_PREFIX: Final = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,62}")
_MARK_DIGITS: Final = 16
"""Of the model file's SHA-256, in the names of the entry points."""
_MAX_ROWS: Final = 65535
"""Rows of weights and entries of lists are counted in 16 bits."""
_WORD_BITS: Final = 32
"""Spikes in a word of the state."""
_LINE_WIDTH: Final = 112
_HEADER_TOP: Final = """#ifndef SNN_MODEL_H
#define SNN_MODEL_H

#include <stdint.h>

"""
_HEADER_TYPES: Final = """
#include "snn_numbers.h"

typedef struct {
    const snn_weight *weight; /* [in_channels][frames][bands][out_channels] */
    const uint8_t *shift;     /* from sums to levels; only with int8 */
    const snn_level *bias;    /* of the sum; this and the next two may be NULL */
    const snn_factor *alpha;  /* decay of the synapse */
    const snn_level *offset;  /* added after the synapse */
    const snn_factor *beta;   /* decay of the membrane */
    uint16_t in_channels, out_channels, out_width, neurons;
    uint16_t frames, dilation, bands, stride, padding;
    uint16_t ring, words;                 /* frames of spikes that are kept, words of each */
    uint32_t spikes, synapses, membranes; /* where they start */
} snn_layer;

typedef struct {
    snn_score on_threshold, off_threshold;
    int32_t smoothing, min_on, min_off, refractory;
#if SNN_EVIDENCE
    int32_t leak, weight, bias; /* of evidence; weight is 0 where there is an average */
#endif
} snn_class;

NAMES
extern const char *const snn_labels[SNN_CLASSES];
extern const char snn_model_name[], snn_model_sha256[];
#if SNN_FIXED_FRONT_END
extern const int32_t snn_window[SNN_FRAME_LENGTH], snn_twiddles[SNN_N_FFT / 2][2], snn_dct[SNN_N_MELS][SNN_N_MFCC];
extern const uint16_t snn_mel_weights[SNN_MEL_TERMS];
extern const int32_t snn_logs[], snn_silence[SNN_N_MFCC];
#else
extern const uint16_t snn_bit_reversal[SNN_N_FFT / 8];
extern const snn_real snn_pass_twiddles[], snn_split_twiddles[2 * (SNN_N_FFT / 4)];
extern const snn_real snn_window[SNN_FRAME_LENGTH], snn_dct[SNN_N_MELS * SNN_N_MFCC], snn_mel_weights[SNN_MEL_TERMS];
#endif
extern const uint16_t snn_mel_first[SNN_N_MELS], snn_mel_count[SNN_N_MELS];
extern const snn_cepstrum snn_thresholds[SNN_THRESHOLDS * SNN_N_MFCC], snn_rest[SNN_N_MFCC];
extern const snn_band snn_to_bands[SNN_N_MFCC * SNN_N_MELS];
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


@dataclass(frozen=True, slots=True)
class _StateOffsets:
    """Where a layer's state starts in the arrays of all layers, and the size of its ring of spikes."""

    ring: int
    """Frames of spikes that are kept."""
    words: int
    """32-bit words of spikes per frame."""
    spikes: int
    """First word of spikes."""
    synapses: int
    membranes: int


def export_c(model: Path, out: Path, number_format: NumberFormat = FLOAT, prefix: str | None = None) -> None:
    """Write a model as a folder of C sources; files of a folder that this function made before are replaced.

    All names that the linker sees begin with ``prefix``, by default the model's name and the number format. Raises
    ManifestError for a file that is no model or a model that the C cannot run, ConfigError for a prefix that is no name
    in C, and for a folder that cannot be written or holds something else. The folder is complete or not there.
    """
    if out.exists() and not (out.is_dir() and ((out / _MARK).is_file() or not any(out.iterdir()))):
        raise ConfigError(f"{out}: exists and was not made by this command; name another folder")
    if prefix is not None and not _PREFIX.fullmatch(prefix):
        raise ConfigError(
            f"the prefix {prefix!r} is no name in C; give a letter, then letters, digits or _, "
            f"{_LONGEST_PREFIX} at most"
        )
    network = read_network(model)
    _check(model, network)
    arrays = model_arrays(network, number_format)
    names = _renamed(prefix or default_prefix(network.manifest.name, number_format), network.sha256, number_format)
    texts = {"snn_model.h": header(network, arrays, names), "snn_model.c": tables(network, arrays)}
    with atomic_output(out) as folder:
        copy_folder(resources.files("firmware_export").joinpath("c"), folder)
        for name in _STAGES:
            source = resources.files("detector").joinpath("engine", "c", name)
            (folder / name).write_bytes(source.read_bytes())
        for name, text in texts.items():
            (folder / name).write_text(text, encoding="ascii")


def default_prefix(name: str, number_format: NumberFormat) -> str:
    """Return the prefix of a model's names in C: letters, digits and underscores of its name, and the format."""
    plain = re.sub(r"[^A-Za-z0-9]+", "_", name).strip("_")
    named = plain if plain[:1].isalpha() else f"model_{plain}"
    return f"{named[: _LONGEST_PREFIX - 1 - len(number_format.slug)]}_{number_format.slug}"


def _renamed(prefix: str, sha256: str, number_format: NumberFormat) -> str:
    """Return the definitions that give all symbols the model's prefix.

    Entry points carry what the size of their state depends on, too: a header of another model, number format or front
    end names functions that the library does not have.
    """
    mark = f"{sha256[:_MARK_DIGITS]}_{number_format.slug}"
    entries = {
        end: "".join(f"#define {name} {prefix}_{name}_{mark}{end}\n" for name in _ENTRY_POINTS)
        for end in ("", "_single")
    }
    plain = "".join(f"#define {name} {prefix}_{name}\n" for name in _SYMBOLS)
    single = f"#if !SNN_FIXED_FRONT_END && SNN_SINGLE_FRONT_END\n{entries['_single']}#else\n{entries['']}#endif\n"
    return (
        "/* Names for the linker: those of another model are others, and a header that is not this library's does not\n"
        f" * link. */\n#define SNN_PREFIX {prefix}\n{plain}{single}"
    )


def header(network: Network, arrays: ModelArrays, names: str) -> str:
    """Return ``snn_model.h``: the sizes of the model, its symbols' names and the types of its arrays."""
    m, offsets = network.manifest, _state_offsets(network)
    f, e, layers = m.features, m.encoder, network.layers
    sizes: dict[str, Any] = {
        "INT8": int(arrays.number_format.int8),
        "FIXED_FRONT_END": int(arrays.number_format.fixed_front_end),
        "SAMPLE_RATE_HZ": f.sample_rate_hz,
        **{n.upper(): getattr(f, n) for n in ("frame_length", "hop_length", "n_fft", "n_mels", "n_mfcc")},
        "OVERLAP": max(0, f.frame_length - f.hop_length),
        "SKIP": max(0, f.hop_length - f.frame_length),
        "WORK": max(f.n_fft + 2, f.n_fft // 2 + 1 + f.n_mels),
        "LOG_MEL": f.n_fft // 2 + 1,
        "MEL_TERMS": arrays.front_end["mel_weights"].size,
        "HAS_LOG_FLOOR": int(f.log_floor > 0),
        "APPEND_ENERGY": int(f.append_energy),
        "SEND_ON_DELTA": int(e.rule == "send_on_delta"),
        "THRESHOLDS": len(e.thresholds),
        "PLANES": 2 * len(e.thresholds),
        "HAS_REST": int(bool(e.rest)),
        "CONVS": len(layers) - 1,
        "HIDDEN": layers[-1].weight.shape[0],
        "CLASSES": len(m.classes),
        "READOUT_ROW": len(m.classes),
        "BAND_FRAMES": layers[0].past + 1,
        "SPIKE_WORDS": sum(p.ring * p.words for p in offsets),
        "SYNAPSES": max(1, sum(_neurons(x) for x in layers if x.neurons.alpha is not None)),
        "MEMBRANES": sum(map(_neurons, layers)),
        "MOST_CHANGES": max([_inputs(layer) for layer in layers[1:]] + [layers[-1].weight.shape[0]]),
        "MOST_PLACES": max(layer.out_width for layer in layers),
        "ROW_LENGTHS(row)": " ".join(f"row({n})" for n in _row_lengths(network)),
        "TIME_PERIOD": math.lcm(layers[0].past + 1, *(p.ring for p in offsets)),
        "EVIDENCE": int(_has_evidence(m.classes)),
        "MOST_SMOOTHING": max(c.decoder.smoothing_frames for c in m.classes),
    }
    sizes |= {name: _constant(value) for name, value in arrays.constants.items()}
    return (
        _origin(network, arrays.number_format) + _HEADER_TOP + _defines(sizes) + _HEADER_TYPES.replace("NAMES", names)
    )


def _defines(sizes: dict[str, Any]) -> str:
    return "".join(f"#define SNN_{name} {_bracketed(value)}\n" for name, value in sizes.items())


def tables(network: Network, arrays: ModelArrays) -> str:
    """Return ``snn_model.c``: all arrays of the model."""
    m, number_format = network.manifest, arrays.number_format
    r, front = arrays.readout, dict(arrays.front_end)
    amplitude = "int32_t" if number_format.fixed_front_end else "snn_real"
    mel_weight = "uint16_t" if number_format.fixed_front_end else "snn_real"
    own = {name: front.pop(name) for name in ("logs", "silence") if name in front}
    kinds = {"mel_first": "uint16_t", "mel_count": "uint16_t", "mel_weights": mel_weight, "bit_reversal": "uint16_t"}
    parts = [
        _origin(network, number_format) + '#include "snn_detect.h"\n\n',
        f"const char *const snn_labels[SNN_CLASSES] = {{{', '.join(c_text(c.label) for c in m.classes)}}};\n",
        f"const char snn_model_name[] = {c_text(f'{m.name}-{m.version}')};\n",
        f"const char snn_model_sha256[] = {c_text(network.sha256)};\n\n",
        *(c_array(kinds.get(name, amplitude), f"snn_{name}", _flat(values)) for name, values in front.items()),
        *(c_array("int32_t", f"snn_{name}", values) for name, values in own.items()),
        *(c_array("snn_cepstrum", f"snn_{name}", values.ravel()) for name, values in arrays.encoder.items()),
        c_array("snn_band", "snn_to_bands", arrays.to_bands.ravel()),
        *(_layer_tables(i, layer) for i, layer in enumerate(arrays.layers)),
        _layer_list(network, arrays),
        c_array("snn_weight", "snn_readout_weight", np.ascontiguousarray(r["weight"].T).ravel()),
        c_array("snn_level", "snn_readout_bias", r["bias"]),
        c_array("snn_factor", "snn_readout_beta", r["beta"]),
        "" if "shift" not in r else c_array("uint8_t", "snn_readout_shift", r["shift"]),
        "" if "sigmoid" not in r else c_array("uint16_t", "snn_sigmoid", r["sigmoid"]),
        _class_list(m.classes, arrays),
    ]
    return "".join(parts)


def _flat(values: NDArray[Any]) -> NDArray[Any]:
    """Return an array of the front end as the C has it: those in floating point have one axis."""
    return values.ravel() if values.dtype == np.float64 else values


def c_float(value: float) -> str:
    """Return a float32 as a hexadecimal constant, which every C99 compiler reads to the same bit.

    Raises ValueError for an infinity or NaN.
    """
    single = float(np.float32(value))
    if not np.isfinite(single):
        raise ValueError(f"{value} is not finite")
    mantissa, _, exponent = single.hex().partition("p")
    mantissa = mantissa.rstrip("0").rstrip(".") if "." in mantissa else mantissa
    return f"{mantissa}p{exponent}f"


def c_double(value: float) -> str:
    """Return a float64 as a hexadecimal constant, which a front end in single precision rounds at compile time.

    Raises ValueError for an infinity or NaN.
    """
    if not np.isfinite(value):
        raise ValueError(f"{value} is not finite")
    return f"SNN_REAL({float(value).hex()})"


def c_text(text: str) -> str:
    """Return a C string literal in ASCII."""
    plain = text.encode("ascii", "backslashreplace").decode()
    return '"' + plain.replace("\\", "\\\\").replace('"', '\\"') + '"'


def c_array(kind: str, name: str, values: NDArray[Any], *, shape: str | None = None) -> str:
    """Return the definition of a constant array, with nested braces for more than one axis."""
    sizes = shape if shape is not None else "".join(f"[{n}]" for n in values.shape)
    return f"const {kind} {name}{sizes} = {_braced(values)};\n"


def _braced(values: NDArray[Any]) -> str:
    if values.ndim > 1:
        return "{\n" + ",\n".join(_braced(row) for row in values) + "}"
    printer = {np.dtype(np.float32): c_float, np.dtype(np.float64): c_double}.get(values.dtype, str)
    texts = map(printer, values.tolist() if printer is str else values)
    return "{" + "\n".join(_lines(texts)).lstrip() + "}"


def _lines(texts: Iterable[str]) -> Iterator[str]:
    """Yield lines of comma-separated texts, of ``_LINE_WIDTH`` at most."""
    line = ""
    parts = list(texts)
    for i, text in enumerate(parts):
        piece = text + ("," if i + 1 < len(parts) else "")
        if line and len(line) + len(piece) + 1 > _LINE_WIDTH:
            yield line
            line = ""
        line = f"{line} {piece}" if line else f"    {piece}"
    yield line


def _origin(network: Network, number_format: NumberFormat) -> str:
    m = network.manifest
    return (
        f"/* {m.name} {m.version} ({number_format.name}), model file sha256\n"
        f" * {network.sha256}:\n * generated by snn-export c; do not edit. */\n"
    )


def _constant(value: Any) -> Any:
    """Return a scalar as C: float64 as double precision, other floats as single precision."""
    if isinstance(value, np.float64):
        return c_double(value)
    return c_float(value) if isinstance(value, float) else value


def _bracketed(value: Any) -> str:
    return f"({value})" if isinstance(value, int) and value < 0 else str(value)


def _state_offsets(network: Network) -> list[_StateOffsets]:
    """Return the layout of the state: each layer's ring of spikes is one frame longer than the next layer reads."""
    offsets: list[_StateOffsets] = []
    spikes = synapses = membranes = 0
    for i, layer in enumerate(network.layers):
        ring = network.layers[i + 1].past + 2 if i + 1 < len(network.layers) else 1
        words = layer.out_width * -(-layer.weight.shape[0] // _WORD_BITS)
        offsets.append(_StateOffsets(ring, words, spikes, synapses, membranes))
        spikes += ring * words
        membranes += _neurons(layer)
        synapses += _neurons(layer) if layer.neurons.alpha is not None else 0
    return offsets


def _inputs(layer: Layer) -> int:
    """Return the number of inputs of a layer over all frames that it reads."""
    _, channels, frames, _ = layer.weight.shape
    return int(channels * frames * layer.in_width)


def _row_lengths(network: Network) -> list[int]:
    """Return the lengths of rows of weights: the output channels of each layer, and the classes."""
    outputs = [layer.weight.shape[0] for layer in network.layers]
    return sorted({*outputs, len(network.manifest.classes)})


def _neurons(layer: Layer) -> int:
    return int(layer.weight.shape[0]) * layer.out_width


def _layer_tables(number: int, layer: LayerArrays) -> str:
    # From (out, in, frames, bands) to rows of output channels: the weights of one spike are contiguous.
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


def _layer_list(network: Network, arrays: ModelArrays) -> str:
    rows = []
    for i, (layer, own, p) in enumerate(zip(network.layers, arrays.layers, _state_offsets(network), strict=True)):
        out, channels, frames, bands = layer.weight.shape
        named = {"weight": own.weight, "bias": own.bias, "alpha": own.alpha, "offset": own.offset, "beta": own.beta}
        pointers = [f"layer{i}_{name}" if values is not None else "0" for name, values in named.items()]
        pointers.insert(1, f"layer{i}_shift" if own.shift is not None else "0")
        sizes = (channels, out, layer.out_width, _neurons(layer), frames, layer.dilation, bands)
        offsets = (layer.stride, layer.padding, p.ring, p.words, p.spikes, p.synapses, p.membranes)
        rows.append(f"    {{{', '.join([*pointers, *map(str, sizes), *map(str, offsets)])}}}")
    return "const snn_layer snn_layers[SNN_CONVS + 1] = {\n" + ",\n".join(rows) + "};\n"


def _class_list(classes: tuple[ClassSpec, ...], arrays: ModelArrays) -> str:
    rows = []
    for c, thresholds in zip(classes, arrays.thresholds, strict=True):
        d = c.decoder
        integers = [d.smoothing_frames, d.min_on_frames, d.min_off_frames, d.refractory_frames]
        if _has_evidence(classes):
            integers += evidence_integers(d.evidence) if d.evidence is not None else (0, 0, 0)
        printed = (c_float(t) if isinstance(t, float) else str(t) for t in thresholds)
        rows.append(f"    {{{', '.join([*printed, *map(str, integers)])}}}")
    return "const snn_class snn_classes[SNN_CLASSES] = {\n" + ",\n".join(rows) + "};\n"


def _has_evidence(classes: tuple[ClassSpec, ...]) -> bool:
    return any(c.decoder.evidence is not None for c in classes)


def copy_folder(source: Traversable, to: Path) -> None:
    """Copy a folder of the package with all that it holds."""
    to.mkdir()
    for entry in source.iterdir():
        if entry.is_dir():
            copy_folder(entry, to / entry.name)
        else:
            (to / entry.name).write_bytes(entry.read_bytes())


def _check(path: Path, network: Network) -> None:
    """Raise ManifestError for a model that the C cannot run."""
    features, encoder = network.manifest.features, network.manifest.encoder
    if features.n_fft < MIN_N_FFT or features.n_fft & (features.n_fft - 1):
        raise ManifestError(
            f"{path}: features.n_fft is {features.n_fft}; C needs a power of two >= {MIN_N_FFT}, retrain with one"
        )
    for name, layer in network.named_layers():
        _, channels, frames, bands = layer.weight.shape
        if channels * frames * max(bands, layer.in_width) + layer.in_width > _MAX_ROWS:
            raise ManifestError(f"{path}: {name} has more than {_MAX_ROWS} inputs, the limit in C; use a smaller layer")
    if encoder.rule == "frame_difference" and encoder.rest:
        raise ManifestError(f"{path}: encoder.rest is not used with frame_difference; remove it from the recipe")
