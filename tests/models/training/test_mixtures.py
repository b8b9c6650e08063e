"""Mixed clips: the target has the classes of the mixture, in the ratio of their loudness."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models import RECIPES
from models.data.clips import Clip
from models.recipe import MixtureExamples, Recipe, load_recipe
from models.training.examples import MixtureMaker, loudness, mix

PLAIN = MixtureExamples("mixtures", 60, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, (-1.0, -1.0), remembered=False)


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    return load_recipe(RECIPES / "esc10.toml")


def tone(hz: float, seconds: float = 4.0, level: float = 0.5) -> np.ndarray:
    return (level * np.sin(2 * np.pi * hz * np.arange(int(16000 * seconds)) / 16000)).astype(np.float32)


def clip(label: str) -> Clip:
    return Clip(Path(label), label, "esc10", 1)


def test_one_clip_alone_is_its_class(recipe: Recipe) -> None:
    maker = MixtureMaker([clip("rain"), clip("rooster")], [tone(300), tone(900)], recipe, PLAIN)
    for seed in range(5):
        example = maker.draw(np.random.default_rng(seed))
        assert example.spikes.shape == (60, 6, 40)
        assert example.target.shape == (60, 10)
        assert (example.target.sum(1) == 1).all()
        assert set(np.flatnonzero(example.target[0])) <= {recipe.labels.index("rain"), recipe.labels.index("rooster")}


def test_mixed_clips_share_the_target_between_two_classes(recipe: Recipe) -> None:
    params = dataclasses.replace(PLAIN, mixed=1.0, speed=0.1, equalised=1.0, reverberated=0.5, noisy=1.0)
    labels = ("rain", "rooster", "chainsaw")
    maker = MixtureMaker([clip(c) for c in labels], [tone(200 * (i + 1)) for i in range(3)], recipe, params)
    shares = [maker.draw(np.random.default_rng(seed)).target[0] for seed in range(20)]
    assert all((share > 0).sum() == 2 for share in shares)
    np.testing.assert_allclose(np.sum(shares, 1), 1.0, rtol=1e-6)
    assert np.std([share.max() for share in shares]) > 0.05


def test_padding_is_cut_off_and_short_sounds_begin_anywhere(recipe: Recipe) -> None:
    """A class must not be learnt from where its clips begin: they are put elsewhere each time."""
    wave = np.concatenate([tone(500, 0.3), np.zeros(16000 * 4, np.float32)])
    maker = MixtureMaker([clip("dog_bark")], [wave], recipe, PLAIN)
    firsts = {int(np.argmax(maker.draw(np.random.default_rng(s)).spikes.any((1, 2)))) for s in range(12)}
    assert len(firsts) > 4


def test_silence_is_evidence_for_no_class(recipe: Recipe) -> None:
    """ESC pads short sounds with silence: a sound lasts half a second beyond its last loud frame, not to the end."""
    params = dataclasses.replace(PLAIN, frames=160)
    maker = MixtureMaker([clip("dog_bark")], [tone(500, 0.3)], recipe, params)
    lasting = set()
    for seed in range(12):
        target = maker.draw(np.random.default_rng(seed)).target[:, recipe.labels.index("dog_bark")]
        audible = np.flatnonzero(target)
        assert set(target) <= {0.0, 1.0}
        lasting.add(len(audible))
    # 0.3 s of sound are 12 frames of 25 ms, and 20 are held.
    assert min(lasting) in range(12, 36)


def test_a_remembered_sound_counts_to_the_end(recipe: Recipe) -> None:
    params = dataclasses.replace(PLAIN, frames=160, remembered=True)
    maker = MixtureMaker([clip("dog_bark")], [tone(500, 0.3)], recipe, params)
    for seed in range(12):
        target = maker.draw(np.random.default_rng(seed)).target[:, recipe.labels.index("dog_bark")]
        begin = int(np.argmax(target > 0))
        assert (target[:begin] == 0).all()
        assert (target[begin:] == 1).all()


def test_where_one_of_two_is_silent_the_other_is_all_there_is(recipe: Recipe) -> None:
    params = dataclasses.replace(PLAIN, mixed=1.0, frames=160)
    maker = MixtureMaker([clip("rain"), clip("rooster")], [tone(300, 6.0), tone(900, 0.3)], recipe, params)
    target = maker.draw(np.random.default_rng(3)).target
    rain, rooster = (target[:, recipe.labels.index(c)] for c in ("rain", "rooster"))
    np.testing.assert_allclose(rain + rooster, 1.0, rtol=1e-6)
    both = rooster > 0
    assert 0 < both.sum() < 160
    assert (rain[~both] == 1).all()
    assert (rain[both] < 1).all()


def test_a_network_without_spikes_gets_features(recipe: Recipe) -> None:
    twin = dataclasses.replace(recipe, network=dataclasses.replace(recipe.network, kind="cnn"))
    example = MixtureMaker([clip("rain")], [tone(300)], twin, PLAIN).draw(np.random.default_rng(0))
    assert example.spikes.shape == (60, 40)
    assert example.spikes.dtype == np.float32


@given(st.floats(0.05, 0.95), st.floats(0.05, 20.0))
def test_the_ratio_is_that_of_loudness(ratio: float, louder: float) -> None:
    """Tones far apart: each one's part of the mixture is found again by projecting on it."""
    first, second = tone(500), tone(1500) * np.float32(louder)
    mixed = mix(first, second, ratio)
    audible = [loudness(wave) * float(mixed @ wave) / float(wave @ wave) for wave in (first, second)]
    assert audible[0] / sum(audible) == pytest.approx(ratio, abs=0.02)


def test_loudness_is_that_of_the_loudest_segment() -> None:
    wave = np.concatenate([tone(400, 1.0, 0.01), tone(400, 1.0, 0.5)])
    assert loudness(wave) == pytest.approx(0.5 / np.sqrt(2), rel=0.02)
    assert loudness(np.zeros(8000, np.float32)) == 1e-6


def test_rumble_lies_below_the_sound(recipe: Recipe) -> None:
    """Its frames send spikes also where the sound itself has long ended."""
    params = dataclasses.replace(PLAIN, frames=160)
    clips = [clip("dog_bark")], [tone(500, 0.3)]
    plain, windy = (
        MixtureMaker(*clips, recipe, dataclasses.replace(params, rumbling=chance)).draw(np.random.default_rng(5))
        for chance in (0.0, 1.0)
    )
    quiet = ~plain.target.any(1)
    assert quiet.any()
    assert windy.spikes[quiet].sum() > 10 * plain.spikes[quiet].sum()
    np.testing.assert_array_equal(windy.target, plain.target)
