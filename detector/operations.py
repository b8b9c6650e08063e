"""Spikes and the synaptic operations that they cause: what silence saves where only spikes are worked off."""

from __future__ import annotations

from collections.abc import Mapping

from detector.manifest import Manifest


def synaptic_operations(manifest: Manifest, rates: Mapping[str, float]) -> tuple[float, float]:
    """Return multiply-adds per second of sound: dense, and effective, which are those whose input spikes.

    ``rates`` holds the share of neurons that spike per frame, by layer and for ``encoder``. The terms
    are NeuroBench's (J. Yik et al., "NeuroBench: a framework for benchmarking neuromorphic computing
    algorithms and systems", 2023). The bands that lead from the encoder to the first convolution are
    sums of spikes, not spikes: that layer is counted as dense.
    """
    per_second = manifest.features.sample_rate_hz / manifest.features.hop_length
    inputs = {"to_bands": rates["encoder"], "conv1": 1.0}
    before, dense, effective = "", 0.0, 0.0
    for layer in manifest.network.layers:
        rate = inputs.get(layer.name, rates.get(before, 1.0))
        dense += layer.macs * per_second
        effective += layer.macs * per_second * rate
        before = layer.name
    return dense, effective
