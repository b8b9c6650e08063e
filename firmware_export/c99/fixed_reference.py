"""The reference of the fixed-point C in numpy: each stage to the bit, for many frames at once.

Right shifts round down, as in C on two's complement; ``rounding_shift`` rounds half up. The event decoder has no copy
here: the runtime's own gives the same events from these scores and thresholds as fractions, since a mean of integers
reaches an integer threshold either way or not at all.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detector.manifest import ClassSpec
from firmware_export.c99.fixed_point import (
    AMPLITUDE_BITS,
    CEPSTRUM_BITS,
    FACTOR_BITS,
    LEVEL_WIDTH,
    LOG_BITS,
    LOG_STEPS,
    MEL_BITS,
    SAMPLE_BITS,
    SCORE_BITS,
    SIGMOID_STEP_BITS,
    SIGMOID_STEPS,
    TWIDDLE_BITS,
    FixedPoint,
    Int64,
    LayerTables,
    rounding_shift,
)
from firmware_export.onnx.reference import window_sums

Spikes = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class NetworkOutput:
    """The network's output for encoded spikes."""

    spikes: tuple[Spikes, ...]
    """Spikes of each layer, (frames, channels * width), channel by channel."""
    scores: Int64
    """(frames, classes), with SCORE_BITS fraction bits."""


def cepstra(model: FixedPoint, pcm: NDArray[np.int16]) -> Int64:
    """Return the cepstra (frames, n_mfcc) of a whole stream of 16-bit samples (n,), the padded last frame included."""
    p, t = model.network.manifest.features, model.front_end
    frames = _frames(_emphasised(pcm.astype(np.int64), t.preemphasis), p.frame_length, p.hop_length)
    length = min(p.frame_length, p.n_fft)
    x = np.zeros((len(frames), p.n_fft), np.int64)
    x[:, :length] = rounding_shift(frames[:, :length] * t.window[:length], TWIDDLE_BITS)
    x, growth = _grown(x)
    power = _power_spectrum(_transform(x, t.twiddles), t.twiddles)
    energies = np.zeros((len(frames), p.n_mels), np.int64)
    at = 0
    for band, (first, count) in enumerate(zip(t.mel_first, t.mel_count, strict=True)):
        energies[:, band] = _weighted(power[:, first : first + count], t.mel_weights[at : at + count]).sum(axis=1)
        at += count
    mfcc = rounding_shift(_levels(model, energies, growth) @ t.dct, LOG_BITS + t.dct_bits - CEPSTRUM_BITS)
    if p.append_energy:
        total = _levels(model, power.sum(axis=1, keepdims=True), growth)
        mfcc[:, 0] = rounding_shift(total[:, 0], LOG_BITS - CEPSTRUM_BITS)
    return mfcc


def encoded(model: FixedPoint, mfcc: Int64) -> Spikes:
    """Return the delta spikes (frames, planes, n_mfcc) of cepstra (frames, n_mfcc), from a reset on."""
    p, t = model.network.manifest.encoder, model.encoder
    spikes = np.zeros((len(mfcc), 2 * len(t.thresholds), mfcc.shape[1]), np.uint8)
    baseline = np.zeros(mfcc.shape[1], np.int64)
    for frame, (x, planes) in enumerate(zip(mfcc - t.rest, spikes, strict=True)):
        if frame == 0 and not p.rest:
            baseline = x
            continue
        if p.rule == "frame_difference":
            change, baseline = x - baseline, x
            planes[0::2], planes[1::2] = change >= t.thresholds, change <= -t.thresholds
            continue
        baseline = rounding_shift(baseline * t.keep, FACTOR_BITS)
        change = x - baseline
        for level, d in enumerate(t.thresholds):
            up, down = change > d, -change > d
            sent = d * (up.astype(np.int64) - down)
            planes[2 * level], planes[2 * level + 1] = up, down
            change, baseline = change - sent, baseline + sent
    return spikes


def run_network(model: FixedPoint, spikes: Spikes) -> NetworkOutput:
    """Return every layer's spikes and the scores for encoded spikes (frames, planes, n_mfcc), from a reset on."""
    x = spikes.astype(np.int64) @ model.to_bands
    layers = []
    for layer, tables in zip(model.network.layers, model.layers, strict=True):
        fired = _fire(tables, window_sums(layer, tables.weight.values, x).astype(np.int64), model.level_bits)
        layers.append(fired.reshape(len(fired), -1))
        x = fired.astype(np.int64)
    return NetworkOutput(tuple(layers), _scores(model, layers[-1].astype(np.int64)))


def decoder_classes(model: FixedPoint) -> tuple[ClassSpec, ...]:
    """Return the classes with their thresholds as fixed point rounds them, for an ``EventDecoder``."""
    unit = 2.0**-SCORE_BITS
    return tuple(
        dataclasses.replace(c, decoder=dataclasses.replace(c.decoder, on_threshold=on * unit, off_threshold=off * unit))
        for c, (on, off) in zip(model.network.manifest.classes, model.thresholds, strict=True)
    )


def as_fractions(scores: Int64) -> NDArray[np.float32]:
    """Return scores with SCORE_BITS fraction bits as numbers in [0, 1], exactly."""
    return np.asarray(np.ldexp(scores.astype(np.float32), -SCORE_BITS), np.float32)


def _limited(values: Int64) -> Int64:
    return np.clip(values, -(1 << LEVEL_WIDTH), (1 << LEVEL_WIDTH) - 1)


def _emphasised(pcm: Int64, coefficient: int) -> Int64:
    before = np.concatenate(([0], pcm[:-1])) if pcm.size else pcm
    return np.asarray((pcm << (AMPLITUDE_BITS - SAMPLE_BITS)) - coefficient * before, np.int64)


def _frames(samples: Int64, length: int, hop: int) -> Int64:
    """Return samples cut into frames (n, length); the last one is padded, as the runtime's is."""
    if not samples.size:
        return np.zeros((0, length), np.int64)
    count = 1 + -(-max(0, samples.size - length) // hop)
    padded = np.zeros((count - 1) * hop + length, np.int64)
    kept = min(samples.size, padded.size)
    padded[:kept] = samples[:kept]
    return np.stack([padded[i * hop : i * hop + length] for i in range(count)])


def _top_bit(values: Int64) -> Int64:
    """Return the index of the highest set bit of non-negative integers; -1 for zero."""
    top = np.full(values.shape, -1, np.int64)
    for bit in range(63):
        top[values >> bit > 0] = bit
    return top


def _grown(x: Int64) -> tuple[Int64, Int64]:
    """Return each row shifted left until its largest value uses AMPLITUDE_BITS, and the shifts (rows,)."""
    any_bit = np.bitwise_or.reduce(np.abs(x), axis=1)
    growth = np.where(any_bit > 0, AMPLITUDE_BITS - 1 - _top_bit(any_bit), 0)
    return (x << np.maximum(growth, 0)[:, None]) >> np.maximum(-growth, 0)[:, None], growth


def _transform(x: Int64, twiddles: Int64) -> Int64:
    """Return the Fourier transform of pairs of samples, (frames, n_fft // 2, 2), divided by its length."""
    half = x.shape[1] // 2
    bits = half.bit_length() - 1
    order = [int(f"{i:0{bits}b}"[::-1], 2) if bits else 0 for i in range(half)]
    z = x.reshape(len(x), half, 2)[:, order]
    span = 1
    while span < half:
        pairs = z.reshape(len(x), half // (2 * span), 2, span, 2)
        a, (br, bi) = pairs[:, :, 0], np.moveaxis(pairs[:, :, 1], -1, 0)
        wr, wi = twiddles[:: half // span][:span].T
        t = np.stack(
            [rounding_shift(br * wr - bi * wi, TWIDDLE_BITS), rounding_shift(br * wi + bi * wr, TWIDDLE_BITS)], axis=-1
        )
        z = np.stack([(a + t) >> 1, (a - t) >> 1], axis=2).reshape(len(x), half, 2)
        span *= 2
    return z


def _power_spectrum(z: Int64, twiddles: Int64) -> Int64:
    """Return powers (frames, n_fft // 2 + 1) of the transform of the half-length pairs."""
    half = z.shape[1]
    k = np.arange(1, half // 2 + 1)
    (ar, ai), (br, bi) = np.moveaxis(z[:, k], -1, 0), np.moveaxis(z[:, half - k], -1, 0)
    er, ei, qr, qi = (ar + br) >> 1, (ai - bi) >> 1, (ai + bi) >> 1, (br - ar) >> 1
    wr, wi = twiddles[k].T
    tr, ti = rounding_shift(qr * wr - qi * wi, TWIDDLE_BITS), rounding_shift(qr * wi + qi * wr, TWIDDLE_BITS)
    power = np.empty((len(z), half + 1), np.int64)
    power[:, k] = (er + tr) ** 2 + (ei + ti) ** 2
    power[:, half - k] = (er - tr) ** 2 + (ei - ti) ** 2
    power[:, 0], power[:, half] = (z[:, 0, 0] + z[:, 0, 1]) ** 2, (z[:, 0, 0] - z[:, 0, 1]) ** 2
    return power


def _weighted(power: Int64, weight: Int64) -> Int64:
    return np.asarray((power >> MEL_BITS) * weight + ((power & ((1 << MEL_BITS) - 1)) * weight >> MEL_BITS), np.int64)


def _levels(model: FixedPoint, energies: Int64, growth: Int64) -> Int64:
    """Return the logarithms of energies (frames, n), with LOG_BITS fraction bits."""
    t = model.front_end
    top = _top_bit(np.maximum(energies, 1))
    mantissa = np.where(top >= 31, energies >> np.maximum(top - 31, 0), energies << np.maximum(31 - top, 0))  # noqa: PLR2004 - 32 bits
    step, part = mantissa >> 23 & (LOG_STEPS - 1), mantissa >> 7 & 0xFFFF
    slope = t.logs[step + 1] - t.logs[step]
    level = top * t.ln_2 + t.logs[step] + (slope * part >> 16) + t.log_unit - 2 * growth[:, None] * t.ln_2
    if model.network.manifest.features.log_floor > 0:
        level = np.maximum(level, t.log_of_nothing)
    return np.where(energies > 0, level, t.log_of_nothing)


def _fire(t: LayerTables, sums: Int64, level_bits: int) -> Spikes:
    """Return the spikes (frames, channels, width) for sums of that shape, from a reset on."""
    spikes = np.empty(sums.shape, np.uint8)
    synapse, mem = np.zeros(sums.shape[1:], np.int64), np.zeros(sums.shape[1:], np.int64)
    beta, threshold = t.beta[:, None], 1 << level_bits
    for current, fired in zip((sums << t.shift[:, None]) + t.bias[:, None], spikes, strict=True):
        value = current
        if t.alpha is not None and t.offset is not None:
            synapse = _limited(rounding_shift(synapse * t.alpha[:, None], FACTOR_BITS) + current)
            value = _limited(synapse + t.offset[:, None])
        u = _limited(rounding_shift(mem * beta, FACTOR_BITS) + value)
        fired[:] = u > threshold
        mem = u - threshold * fired.astype(np.int64)
    return spikes


def _scores(model: FixedPoint, spikes: Int64) -> Int64:
    r = model.readout
    sums = spikes @ r.weight.values.astype(np.int64).T
    scores, level = np.empty(sums.shape, np.int64), np.zeros(sums.shape[1], np.int64)
    for current, row in zip((sums << r.shift) + r.bias, scores, strict=True):
        level = _limited(rounding_shift(level * r.beta, FACTOR_BITS) + current)
        row[:] = _sigmoid(r.sigmoid, level, model.level_bits)
    return scores


def _sigmoid(table: Int64, level: Int64, level_bits: int) -> Int64:
    shift = level_bits - SIGMOID_STEP_BITS
    size = np.minimum(np.abs(level), (SIGMOID_STEPS << shift) - 1)
    at, part = size >> shift, size & ((1 << shift) - 1)
    score = table[at] + rounding_shift((table[at + 1] - table[at]) * part, shift)
    return np.asarray(np.where(level < 0, (1 << SCORE_BITS) - score, score), np.int64)
