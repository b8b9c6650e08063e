"""MFCC: equal to python_speech_features, whatever the parameters, and to itself, whatever the chunks."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from detector.features import MfccExtractor, mfcc_params
from detector.manifest import MfccParams
from detector.messages import Frames, Samples
from tests.strategies import chunk_lengths, cut

psf = pytest.importorskip("python_speech_features")

WINDOWS: tuple[Callable[[int], Any], ...] = (np.ones, np.hanning, np.hamming, np.blackman, lambda n: np.kaiser(n, 5))

arguments = st.fixed_dictionaries(
    {
        "samplerate": st.sampled_from([8000, 11025, 16000, 22050, 44100]),
        "winlen": st.floats(0.004, 0.06),
        "winstep": st.floats(0.002, 0.09),
        "numcep": st.integers(1, 60),
        "nfilt": st.integers(4, 50),
        "nfft": st.sampled_from([257, 512, 1024, 2048]),
        "lowfreq": st.sampled_from([0, 20, 300]),
        "highfreq": st.sampled_from([None, 2000, 3999]),
        "preemph": st.sampled_from([0.0, 0.9, 0.97]),
        "ceplifter": st.sampled_from([0, 10, 22]),
        "appendEnergy": st.booleans(),
        "winfunc": st.sampled_from(WINDOWS),
    }
)


def noise(samples: int, seed: int) -> Samples:
    return np.random.default_rng(seed).normal(0, 0.1, samples).astype(np.float32)


def whole(extractor: MfccExtractor, signal: Samples) -> Frames:
    return np.concatenate([extractor.push(signal), extractor.flush()])


def reference(signal: Samples, **kwargs: Any) -> NDArray[np.float64]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return np.asarray(psf.mfcc(signal.astype(np.float64), **kwargs))


@given(arguments, st.integers(1, 9000), st.integers(0, 2**32 - 1))
def test_equals_python_speech_features(kwargs: dict[str, Any], samples: int, seed: int) -> None:
    signal = noise(samples, seed)
    found = whole(MfccExtractor(mfcc_params(**kwargs)), signal)
    wanted = reference(signal, **kwargs)
    assert found.shape == wanted.shape
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)


def test_defaults_are_those_of_python_speech_features() -> None:
    signal = noise(16000, 1)
    np.testing.assert_allclose(whole(MfccExtractor(mfcc_params()), signal), reference(signal), rtol=1e-4, atol=1e-5)


def test_digital_silence_equals_python_speech_features() -> None:
    signal = np.zeros(3000, np.float32)
    np.testing.assert_allclose(whole(MfccExtractor(mfcc_params()), signal), reference(signal), rtol=1e-6, atol=1e-9)


@given(arguments, st.integers(1, 6000), chunk_lengths(), st.integers(0, 2**32 - 1))
def test_chunking_cannot_show(kwargs: dict[str, Any], samples: int, lengths: list[int], seed: int) -> None:
    extractor, signal = MfccExtractor(mfcc_params(**kwargs)), noise(samples, seed)
    at_once = whole(extractor, signal)
    in_chunks = [extractor.push(chunk) for chunk in cut(signal, lengths)]
    assert np.array_equal(np.concatenate([*in_chunks, extractor.flush()]), at_once)


def test_one_sample_at_a_time(model_params: MfccParams) -> None:
    extractor, signal = MfccExtractor(model_params), noise(4000, 2)
    at_once = whole(extractor, signal)
    single = [extractor.push(signal[i : i + 1]) for i in range(signal.size)]
    assert np.array_equal(np.concatenate([*single, extractor.flush()]), at_once)


def test_more_frames_than_a_block(model_params: MfccParams) -> None:
    extractor, signal = MfccExtractor(model_params), noise(16000 * 9, 3)
    at_once = whole(extractor, signal)
    assert len(at_once) > 300
    halves = [extractor.push(half) for half in np.array_split(signal, 2)]
    assert np.array_equal(np.concatenate([*halves, extractor.flush()]), at_once)


def test_reset_is_like_new(model_params: MfccParams) -> None:
    extractor, signal = MfccExtractor(model_params), noise(5000, 4)
    extractor.push(noise(1234, 5))
    extractor.reset()
    assert np.array_equal(whole(extractor, signal), whole(MfccExtractor(model_params), signal))


def test_floor_hides_what_is_below_it(model_params: MfccParams) -> None:
    extractor = MfccExtractor(model_params)
    silence, hiss = np.zeros(8000, np.float32), noise(8000, 6) * np.float32(1e-6)
    assert np.array_equal(whole(extractor, silence), whole(extractor, hiss))


def test_not_a_number_leaves_with_its_frames(model_params: MfccParams) -> None:
    signal = noise(16000, 7)
    signal[4000] = np.nan
    frames = whole(MfccExtractor(model_params), signal)
    bad = ~np.isfinite(frames).all(axis=1)
    assert 1 <= bad.sum() <= -(-model_params.frame_length // model_params.hop_length) + 1


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"hop_length": 0}, "hop_length"),
        ({"n_mfcc": 41}, "n_mfcc"),
        ({"f_max_hz": 9000.0}, "f_max_hz"),
        ({"window": "flat"}, "rectangular"),
        ({"window": (1.0, 2.0)}, "frame_length values"),
        ({"log_floor": -1.0}, "log_floor"),
    ],
)
def test_refuses_what_cannot_be(model_params: MfccParams, change: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        MfccExtractor(dataclasses.replace(model_params, **change))


def test_refuses_channels(model_params: MfccParams) -> None:
    with pytest.raises(ValueError, match="mix the channels"):
        MfccExtractor(model_params).push(np.zeros((100, 2), np.float32))
