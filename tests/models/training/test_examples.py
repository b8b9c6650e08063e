"""Training examples: targets, weights and background frames follow the sounds."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detector.manifest import EncoderParams, MfccParams
from detector.messages import Samples
from models import RECIPES
from models.data.clips import Clip
from models.data.segments import frame_rms, held
from models.recipe import SceneExamples, load_recipe
from models.training.augment import AcousticConditions, band_limit, clip_hard, drone, hum, noise, rumble
from models.training.examples import ExampleMaker, PlacedSound

FRAMES = 80
RECIPE = RECIPES / "household-base.toml"
LABELS = load_recipe(RECIPE).labels

pytestmark = pytest.mark.usefixtures("few_conditions")


@pytest.fixture
def encoder(model_params: MfccParams) -> EncoderParams:
    n = model_params.n_mfcc
    return EncoderParams("send_on_delta", ((3.0,) * n, (1.0,) * n), 0.02, (-116.5, *(0.0,) * (n - 1)))


def maker(  # noqa: PLR0913 - what an example is made from
    clips: list[Clip],
    waves: list[np.ndarray],
    features: MfccParams,
    encoder: EncoderParams,
    frames: int = FRAMES,
    hard_negatives: Sequence[int] = (),
) -> ExampleMaker:
    shipped = load_recipe(RECIPE)
    network = dataclasses.replace(shipped.network, planes=2 * len(encoder.thresholds))
    recipe = dataclasses.replace(shipped, features=features, encoder=encoder, network=network)
    none = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
    params = SceneExamples("scenes", frames, {}, {"none": 1.0}, *none, 1, (-40.0, -1.0), hard_negatives=0.6)
    return ExampleMaker(clips, waves, recipe, params, hard_negatives)


def clip(label: str | None, tmp: str = "x") -> Clip:
    return Clip(Path(tmp), label, "instruments", 1)


def test_a_steady_tone_is_its_class_throughout(model_params: MfccParams, encoder: EncoderParams) -> None:
    tone = (0.3 * np.sin(2 * np.pi * 440 * np.arange(16000 * 6) / 16000)).astype(np.float32)
    m = maker([clip("guitar")], [tone], model_params, encoder)
    example = m.draw(np.random.default_rng(0))
    assert example.spikes.shape == (FRAMES, 4, model_params.n_mfcc)
    assert example.spikes.any()
    assert example.target[:, LABELS.index("guitar")].all()
    assert example.target.sum() == FRAMES


def test_a_source_of_few_clips_is_drawn_less_often_in_proportion(
    model_params: MfccParams, encoder: EncoderParams
) -> None:
    few = [Clip(Path("x"), "rain", "gathered", 0)] * 4
    many = [Clip(Path("y"), "rain", "esc10", 1)] * 16
    m = maker([*few, *many], [np.ones(2000, np.float32)] * 20, model_params, encoder, frames=4)
    rng = np.random.default_rng(0)
    drawn = [m._pick(rng)[1] < 4 for _ in range(2000)]
    assert np.mean(drawn) == pytest.approx(0.2, abs=0.03)  # 4 of 16 against 16 of 16


def test_sound_of_no_class_has_no_target(model_params: MfccParams, encoder: EncoderParams) -> None:
    wave = np.random.default_rng(1).normal(0, 0.1, 16000 * 6).astype(np.float32)
    example = maker([clip(None)], [wave], model_params, encoder).draw(np.random.default_rng(0))
    assert not example.target.any()
    assert example.weight.all()


def test_silence_after_a_sound_is_ignore_masked_then_empty(model_params: MfccParams, encoder: EncoderParams) -> None:
    """A dog that barks once: active, then ignore-masked, then over; silence never belongs to the class."""
    wave = np.zeros(16000 * 12, np.float32)
    wave[:4000] = np.random.default_rng(2).normal(0, 0.2, 4000)
    m = maker([clip("dog_bark")], [wave], model_params, encoder, 240)
    column = LABELS.index("dog_bark")
    found = False
    for seed in range(40):
        e = m.draw(np.random.default_rng(seed))
        audible, counted = e.target[:, column].astype(bool), e.weight[:, column].astype(bool)
        if audible.any() and (~audible & counted).any() and not e.target[-1, column]:
            found = True
            last = int(np.flatnonzero(audible)[-1])
            assert not counted[last + 1]
            assert counted[-1]
            break
    assert found


def test_a_sound_that_is_cut_off_is_over_soon_after(model_params: MfccParams, encoder: EncoderParams) -> None:
    noise_wave = np.random.default_rng(3).normal(0, 0.2, 16000 * 12).astype(np.float32)
    m = maker([clip("rain")], [noise_wave], model_params, encoder, 240)
    m._params = dataclasses.replace(m._params, truncated=1.0, early_weight=2)
    column = LABELS.index("rain")
    for seed in range(5):
        e = m.draw(np.random.default_rng(seed))
        last = int(np.flatnonzero(e.target[:, column])[-1])
        assert last < 0.85 * 240
        hold = round(0.5 * 16000 / model_params.hop_length)
        assert not e.weight[last + 1 : last + hold - 1, column].any()  # ignore-masked for half a second
        assert (e.weight[last + 1 + hold :, column] == 1).all()
        assert (e.weight[:8] == 2).all()  # the first frames of a sound count twice


def test_clips_of_one_recording_are_drawn_by_the_square_root_of_their_number(
    model_params: MfccParams, encoder: EncoderParams
) -> None:
    same = [Clip(Path("x"), "rain", "recordings", 1, "one")] * 16
    others = [Clip(Path("y"), "rain", "recordings", 1, f"other {i}") for i in range(4)]
    m = maker([*same, *others], [np.ones(2000, np.float32)] * 20, model_params, encoder, frames=4)
    rng = np.random.default_rng(0)
    drawn = [m._clip_of(LABELS.index("rain"), rng) for _ in range(2000)]
    assert np.mean([number < 16 for number in drawn]) == pytest.approx(0.5, abs=0.04)
    assert set(drawn) == set(range(20))


def test_hard_negatives_are_so_many_of_the_out_of_class_sounds(
    model_params: MfccParams, encoder: EncoderParams
) -> None:
    clips = [*[clip(None)] * 19, clip("rain")]
    m = maker(clips, [np.ones(2000, np.float32)] * 20, model_params, encoder, frames=4, hard_negatives=[3, 7])
    rng = np.random.default_rng(0)
    drawn = [m._clip_of(len(LABELS), rng) for _ in range(2000)]
    assert np.mean([number in {3, 7} for number in drawn]) == pytest.approx(0.6 + 0.4 * 2 / 19, abs=0.04)
    assert set(drawn) == set(range(19))
    assert {m._clip_of(LABELS.index("rain"), rng) for _ in range(100)} == {19}


@pytest.mark.parametrize("background_only", [0.0, 1.0])
@pytest.mark.parametrize(("label", "slope"), [("guitar", 0.0), ("guitar", 0.9), ("rain", 0.0)])
def test_bright_noise_is_no_evidence_against_classes_that_resemble_it(  # noqa: PLR0913 - cases and fixtures
    label: str,
    slope: float,
    background_only: float,
    model_params: MfccParams,
    encoder: EncoderParams,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tone, column = np.sin(np.arange(16000 * 6) / 5).astype(np.float32), LABELS.index("rain")
    m = maker([clip(label)], [tone], model_params, encoder)
    m._params, m._noise_like = dataclasses.replace(m._params, background_only=background_only), [column]
    m.conditions = AcousticConditions(m._samples, 16000, np.random.default_rng(0), rooms=2, noises=4)
    monkeypatch.setattr(m.conditions, "_noises", [(wave, slope) for wave, _ in m.conditions._noises])
    examples = [m.draw(np.random.default_rng(seed)) for seed in range(12)]
    weights = np.array([example.weight[:, column] for example in examples])
    present = np.array([example.target[:, column] for example in examples]) > 0
    bright_and_absent = slope == 0 and (label != "rain" or background_only)
    assert (weights[~present] == 0).any() == bool(bright_and_absent)
    assert all(np.delete(example.weight, column, axis=1).any() for example in examples)
    if label == "rain" and not background_only:
        assert weights[present].any()


def test_draws_depend_on_the_seed_alone(model_params: MfccParams, encoder: EncoderParams) -> None:
    waves = [np.random.default_rng(i).normal(0, 0.1, 16000).astype(np.float32) for i in range(3)]
    clips = [clip("guitar"), clip("rain"), clip(None)]
    first, second = (maker(clips, waves, model_params, encoder).draw(np.random.default_rng(5)) for _ in range(2))
    assert np.array_equal(first.spikes, second.spikes)
    assert np.array_equal(first.target, second.target)


def test_the_level_is_the_recipes_and_rumble_changes_the_capture(
    model_params: MfccParams, encoder: EncoderParams
) -> None:
    tone = (0.3 * np.sin(2 * np.pi * 440 * np.arange(16000 * 6) / 16000)).astype(np.float32)
    m = maker([clip("guitar")], [tone], model_params, encoder)
    low = []
    for level_db, rumbling in ((-6.0, 0.0), (-50.0, 0.0), (-6.0, 1.0)):
        m._params = SceneExamples(
            "scenes", FRAMES, {}, {}, rumbling, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1, (level_db, level_db)
        )
        waves = [m._capture(tone[: m._samples], np.random.default_rng(seed), m._samples)[0] for seed in range(10)]
        assert [20 * np.log10(np.abs(wave).max()) for wave in waves] == pytest.approx([level_db] * 10, abs=3)  # + noise
        power = np.mean([np.abs(np.fft.rfft(wave)) ** 2 for wave in waves], axis=0)
        low.append(power[: round(300 * m._samples / 16000)].sum() / power.sum())
    assert low[2] > 3 * low[0]


def test_a_background_only_example_has_no_class_from_loud_to_the_last_bits(
    model_params: MfccParams, encoder: EncoderParams
) -> None:
    tone = np.sin(np.arange(16000 * 6) / 5).astype(np.float32)
    m = maker([clip("guitar")], [tone], model_params, encoder)
    m._params = dataclasses.replace(m._params, background_only=1.0)
    given: list[Samples] = []
    encode = m._front.encode

    def recording(wave: Samples) -> Any:
        given.append(wave)
        return encode(wave)

    m._front.encode = recording  # type: ignore[method-assign]
    for seed in range(30):
        example = m.draw(np.random.default_rng(seed))
        assert not example.target.any()
        assert example.weight.all()
    levels_db = [20 * np.log10(np.sqrt(np.mean(wave**2)) + 1e-9) for wave in given]
    assert max(levels_db) > -45
    assert min(levels_db) < -85
    assert all(np.array_equal(wave * 2**15, np.rint(wave * 2**15)) for wave in given)
    given.clear()
    for narrow_share in (0.0, 1.0):
        m._params = dataclasses.replace(m._params, band_limited=narrow_share)
        m.draw(np.random.default_rng(int(np.argmax(levels_db))))
    wide, low = (np.abs(np.fft.rfft(wave)) ** 2 for wave in given)
    above = wide.size * 6 // 8
    assert low[above:].sum() / low.sum() < 0.01 * wide[above:].sum() / wide.sum()


def test_what_a_band_limited_microphone_loses_is_ignore_masked(
    model_params: MfccParams, encoder: EncoderParams
) -> None:
    knock = 0.3 * np.hanning(4000)  # softly, since a click has all frequencies; with silence between it and the next
    for hz, audible in ((440, True), (6000, False)):
        tone = (knock * np.sin(2 * np.pi * hz * np.arange(knock.size) / 16000)).astype(np.float32)
        m = maker([clip("guitar")], [tone], model_params, encoder)
        m._params = dataclasses.replace(m._params, band_limited=1.0)
        for seed in range(5):
            example, column = m.draw(np.random.default_rng(seed)), LABELS.index("guitar")
            target, weight = example.target[:-4, column], example.weight[:-4, column]  # the example's end is a click
            assert target.any() == audible
            assert weight[target == 1].any() == audible
            assert audible or (weight == 0).any()
            assert np.delete(example.weight, column, axis=1).all()


def test_what_a_band_limited_microphone_captures_has_the_recipes_level(
    model_params: MfccParams, encoder: EncoderParams
) -> None:
    m = maker([clip("guitar")], [np.ones(16000, np.float32)], model_params, encoder)
    m._params = dataclasses.replace(m._params, level_db=(-20.0, -20.0))
    high = np.sin(2 * np.pi * 6000 * np.arange(m._samples) / 16000)
    low = 0.1 * np.sin(2 * np.pi * 440 * np.arange(m._samples) / 16000)
    mixture = np.asarray(high + low, np.float32)
    for seed in range(10):
        wave, _, _ = m._capture(mixture, np.random.default_rng(seed), m._samples, None, 4000.0)
        assert 20 * np.log10(np.abs(wave).max()) == pytest.approx(-20, abs=0.1)


def test_only_out_of_class_sounds_are_time_reversed(model_params: MfccParams, encoder: EncoderParams) -> None:
    fading = np.exp(-np.arange(16000 * 40) / 40000).astype(np.float32) * np.sin(np.arange(16000 * 40) / 5)
    for label, begins_loud in (("guitar", True), (None, False)):
        m = maker([clip(label)], [np.asarray(fading, np.float32)], model_params, encoder, frames=400)
        m._params = dataclasses.replace(m._params, time_reversed=1.0)
        for seed in range(5):
            # It begins anywhere in the clip; whichever stretch that is, it fades or grows.
            placed = m._placed_sound(np.random.default_rng(seed), m._samples, brief=False).wave
            first, second = np.split(placed[: placed.size // 2 * 2], 2)
            assert (np.square(first).sum() > np.square(second).sum()) == begins_loud


def test_the_backdrop_of_a_background_only_example_is_ignore_masked_and_nothing_else(
    model_params: MfccParams, encoder: EncoderParams
) -> None:
    tone = np.sin(np.arange(16000 * 6) / 5).astype(np.float32)
    m = maker([clip("guitar")], [tone], model_params, encoder)
    m._params = dataclasses.replace(m._params, background_only=1.0, backgrounds=1.0)
    for seed in range(5):
        example, column = m.draw(np.random.default_rng(seed)), LABELS.index("guitar")
        assert not example.target.any()
        assert not example.weight[:, column].any()
        assert np.delete(example.weight, column, axis=1).all()
        assert not example.background_frames.any()


def test_a_loud_background_is_clipped_at_full_scale(
    model_params: MfccParams, encoder: EncoderParams, monkeypatch: pytest.MonkeyPatch
) -> None:
    m = maker([clip("guitar")], [np.ones(16000, np.float32)], model_params, encoder)
    m._params = dataclasses.replace(m._params, background_only=1.0)
    monkeypatch.setattr("models.training.examples._BACKGROUND_ONLY_DB", (-1.0, -1.0))
    given: list[Samples] = []
    monkeypatch.setattr(m._front, "encode", given.append)
    for seed in range(5):
        m.draw(np.random.default_rng(seed))
    assert min(wave.min() for wave in given) == -1
    assert max(wave.max() for wave in given) == 1 - 2.0**-15


def test_a_sound_masked_by_noise_is_ignore_masked_and_held_between_its_knocks(
    model_params: MfccParams, encoder: EncoderParams
) -> None:
    m = maker([clip("guitar")], [np.ones(16000, np.float32)], model_params, encoder)
    active = np.ones(FRAMES, bool)
    knocks = (np.arange(m._samples) % (10 * m._hop) < m._length).astype(np.float32)
    sound = PlacedSound(knocks, 0, active, ~active)
    quiet, loud = np.full(FRAMES, 3.0), np.full(FRAMES, 5.0)
    target, weight = m._targets([sound], quiet)
    assert target[:, 0].all()
    assert weight[:, 0].all()
    target, weight = m._targets([sound], loud)
    assert not weight[:, 0].any()
    assert weight[:, 1:].all()


def test_brief_sounds_begin_at_once_and_last_no_longer_than_they_should(
    model_params: MfccParams, encoder: EncoderParams
) -> None:
    tone = np.sin(np.arange(16000 * 8) / 5).astype(np.float32)
    m = maker([clip("guitar")], [tone], model_params, encoder, frames=400)
    m._params = dataclasses.replace(m._params, brief=1.0)
    begins, lengths = set(), []
    for seed in range(20):
        sound = m._placed_sound(np.random.default_rng(seed), m._samples, brief=True)
        begins.add(int(np.flatnonzero(sound.active)[0]))
        lengths.append(sound.active.sum() * m._hop / m._rate)
    assert len(begins) > 10
    assert min(lengths) > 0.3
    assert max(lengths) < 2.5 + 0.3
    numbers = [np.diff(m.draw(np.random.default_rng(seed)).target[:, 0].astype(int)).clip(0).sum() for seed in range(9)]
    assert max(numbers) >= 2


def test_classes_of_the_backdrop_are_ignore_masked_and_others_of_its_category_are_not(
    model_params: MfccParams, encoder: EncoderParams
) -> None:
    rng = np.random.default_rng(0)
    labels = ("guitar", "drums", "winds")
    waves = [rng.standard_normal(16000 * seconds).astype(np.float32) for seconds in (8, 1, 2)]
    m = maker([clip(label) for label in labels], waves, model_params, encoder)
    m._params = dataclasses.replace(m._params, backgrounds=1.0)
    columns = {LABELS.index(label) for label in labels}
    seen = set()
    for seed in range(30):
        wave, inside = m._background(np.random.default_rng(seed))
        assert wave.size == m._samples
        assert np.sqrt(np.mean(wave**2)) == pytest.approx(1.0, rel=1e-3)
        assert set(inside) <= columns
        seen.add(frozenset(inside))
        example = m.draw(np.random.default_rng(seed))
        ignored = set(np.flatnonzero((example.weight == 0).all(axis=0)).tolist())
        assert ignored
        assert ignored <= columns
    assert len(seen) > 4


def test_in_a_polyphonic_example_all_are_targets(model_params: MfccParams, encoder: EncoderParams) -> None:
    rng = np.random.default_rng(0)
    labels = ("guitar", "speech")
    waves = [rng.standard_normal(16000 * 8).astype(np.float32) for _ in labels]
    m = maker([clip(label) for label in labels], waves, model_params, encoder)
    m._params = dataclasses.replace(m._params, polyphonic=1.0)
    audible = [m.draw(np.random.default_rng(seed)).target.any(axis=0).sum() for seed in range(20)]
    assert max(audible) == 2


def test_frame_rms_by_hand() -> None:
    assert frame_rms(np.array([3, 4, 0, 0, 5], np.float32), 2, 2).tolist() == pytest.approx([np.sqrt(12.5), 0.0])
    assert frame_rms(np.zeros(1, np.float32), 2, 2).size == 0


def test_held_marks_loud_frames_and_what_follows() -> None:
    loud = np.array([0, 1, 0, 0, 0, 1], bool)
    assert held(loud, 2).tolist() == [False, True, True, True, False, True]


def test_a_band_limited_wave_has_nothing_high_and_all_that_is_low() -> None:
    rng = np.random.default_rng(0)
    hz = np.fft.rfftfreq(64000, 1 / 16000)
    for size in (64000, 64037):
        wave = rng.standard_normal(size).astype(np.float32)
        before, after = (np.abs(np.fft.rfft(w, size)[: hz.size]) for w in (wave, band_limit(wave, 4000.0, 16000)))
        assert after[hz > 4100].max() < 1e-2 * before.mean()
        assert np.abs(after - before)[hz < 3900].max() < 0.05 * before.mean()


def test_a_drone_is_a_steady_row_of_harmonics() -> None:
    rng = np.random.default_rng(0)
    for _ in range(8):
        wave = drone(64000, rng, 16000)
        power = np.abs(np.fft.rfft(wave * np.hanning(wave.size))) ** 2
        assert np.sort(power)[-600:].sum() > 0.99 * power.sum()  # of 32001: lines, and no noise between them
        seconds = np.sqrt(np.mean(wave.reshape(4, -1) ** 2, axis=1))
        assert seconds.max() < 1.3 * seconds.min()


def test_rumble_is_low() -> None:
    rng = np.random.default_rng(0)
    for _ in range(8):
        power = np.abs(np.fft.rfft(rumble(64000, rng, 16000))) ** 2
        hz = np.fft.rfftfreq(64000, 1 / 16000)
        assert power[hz < 600].sum() > 0.95 * power.sum()
        assert power[hz < 5].sum() < 0.01 * power.sum()


def test_noises_have_unit_rms_and_clipping_clips() -> None:
    rng = np.random.default_rng(0)
    for wave in (noise(16000, rng), hum(16000, rng, 16000), rumble(16000, rng, 16000)):
        assert np.sqrt(np.mean(np.square(wave))) == pytest.approx(1.0, rel=1e-3)
    wave = rng.normal(size=10000).astype(np.float32)
    for _ in range(20):
        assert 0 < np.mean(clip_hard(wave, rng) != wave) < 0.101


def test_rooms_keep_the_length_and_the_sound() -> None:
    rng = np.random.default_rng(0)
    wave = rng.normal(0, 0.1, 8000).astype(np.float32)
    wet = AcousticConditions(8000, 16000, rng, rooms=2, noises=1).filter_and_reverberate(wave, rng, reverberation=1.0)
    assert wet.shape == wave.shape
    assert np.isfinite(wet).all()
    assert np.sqrt(np.mean(wet**2)) > 0.01
