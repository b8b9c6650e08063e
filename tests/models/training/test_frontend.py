"""The compiled encoder sends what the runtime's sends, spike for spike."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detector.encoder import DeltaEncoder
from detector.manifest import EncoderParams
from detector.network import load_model
from models.training.frontend import BulkEncoder

SHIPPED = load_model().manifest.encoder
CLASSIC = EncoderParams("send_on_delta", ((1.0, 2.0), (0.25, 0.5)), 0.0, ())
DIFFERENCE = EncoderParams("frame_difference", ((1.0, 2.0),), 0.0, ())


def walk(seed: int, frames: int, width: int, step: float) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.cumsum(rng.normal(0, step, (frames, width)), 0).astype(np.float32)


@given(st.integers(0, 10**6), st.floats(0.001, 30.0), st.floats(0.0, 0.5))
def test_the_same_spikes_as_the_runtime(seed: int, step: float, leak: float) -> None:
    params = dataclasses.replace(SHIPPED, leak=leak)
    frames = walk(seed, 200, 40, step) + np.array(params.rest, np.float32)
    assert np.array_equal(BulkEncoder(params).encode(frames), DeltaEncoder(params).push(frames))


@pytest.mark.parametrize("params", [CLASSIC, DIFFERENCE])
def test_rules_that_are_not_compiled_are_the_runtimes_own(params: EncoderParams) -> None:
    bulk, frames = BulkEncoder(params), walk(1, 100, 2, 0.7)
    wanted = DeltaEncoder(params).push(frames)
    assert wanted.any()
    assert np.array_equal(bulk.encode(frames), wanted)
    assert np.array_equal(bulk.encode(frames), wanted), "each call begins after a reset"
