"""Rendered material and the demonstration scene: the notes, the levels, the files."""

from __future__ import annotations

import csv
import os
import shutil
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import soundfile

from detector.errors import SourceError
from detector.messages import Samples
from models import DEMO_SCENE, demo_scene
from models.demo_scene import LENGTH_S, write_scene
from models.rendering import material, speech
from models.rendering import synthesis as plucked
from models.rendering import synthesis as sampler
from models.rendering.instruments import compose_guitar
from models.rendering.material import Batch, batches, render_material
from models.rendering.midi import (
    DRUM_CHANNEL,
    EXPRESSION,
    TICKS_PER_S,
    Control,
    Note,
    Phrase,
    build_midi,
    one_key_at_a_time,
    slot_starts,
)
from models.rendering.synthesis import (
    FURTHER_SOUNDFONTS,
    NOISES,
    OTHER_SOUNDFONT,
    PACKAGES,
    RATE_HZ,
    SOUNDFONT,
    RenderError,
    compose_noise,
    cut,
    play,
    set_peak,
    speak,
)

Annotation = list[tuple[float, float, str]]
_SHIPPED_TABLE = DEMO_SCENE.with_suffix(".tsv")
_BATCHES = list({(b.label, b.program): b for b in batches()}.values())
"""Those of one sound font: the notes are composed in the same way for all of them."""
_A_FEW = {("guitar", 25), ("bowed", 40), ("drums", 0)}


@pytest.fixture(scope="module")
def synthesisers() -> None:
    """Skip where a synthesiser is missing; on the build server, which installs them, fail."""
    missing = [name for name in ("fluidsynth", "espeak-ng") if shutil.which(name) is None]
    missing += [PACKAGES[font.name] for font in (SOUNDFONT, *FURTHER_SOUNDFONTS) if not font.is_file()]
    if missing:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(f"not installed: {', '.join(missing)}")


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Render the demonstration scene now."""
    out = tmp_path_factory.mktemp("demo") / "scene.flac"
    write_scene(out)
    return out


def _phrases(batch: Batch, seed: int, count: int = 8) -> list[Phrase]:
    rng = np.random.default_rng(seed)
    return [batch.compose(rng) for _ in range(count)]


def _midi_bytes(batch: Batch, seed: int) -> bytes:
    data = BytesIO()
    build_midi(_phrases(batch, seed, 4), batch.program).save(file=data)
    return data.getvalue()


def _read(path: Path) -> Samples:
    wave, rate = soundfile.read(path, dtype="float32")
    assert rate == RATE_HZ
    return np.asarray(wave, np.float32)


def _annotation(path: Path) -> Annotation:
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert list(rows[0]) == ["filename", "onset", "offset", "event_label"]
    assert {row["filename"] for row in rows} == {"scene.flac"}
    return [(float(row["onset"]), float(row["offset"]), row["event_label"]) for row in rows]


def _level_db(wave: Samples) -> float:
    return float(10 * np.log10(np.mean(np.square(wave, dtype=np.float64))))


@pytest.mark.parametrize("batch", _BATCHES, ids=lambda b: f"{b.label}-{b.program}")
def test_a_seed_decides_every_note(batch: Batch) -> None:
    assert _midi_bytes(batch, 0) == _midi_bytes(batch, 0)
    assert _midi_bytes(batch, 0) != _midi_bytes(batch, 1)


@pytest.mark.parametrize("batch", _BATCHES, ids=lambda b: f"{b.label}-{b.program}")
def test_phrases_begin_at_once_and_stay_in_midi_range(batch: Batch) -> None:
    for phrase in _phrases(batch, 2):
        assert 4 <= phrase.length_s <= 6
        assert 0 <= min(note.start_s for note in phrase.notes) <= 0.3
        assert all(0 <= n.pitch <= 127 and 1 <= n.velocity <= 127 and n.length_s > 0 for n in phrase.notes)
        assert all(control.time_s >= 0 for control in phrase.controls)


def test_further_sound_fonts_play_what_is_composed_for_the_first() -> None:
    all_of_them = batches()
    composed = {(b.label, b.program): b.compose for b in all_of_them if b.soundfont == SOUNDFONT}
    further = [b for b in all_of_them if b.soundfont != SOUNDFONT]
    assert len(_BATCHES) == len(composed) < len(further)
    assert all(b.compose is composed[b.label, b.program] for b in further)


def test_no_near_guitars_among_the_negatives() -> None:
    programs = {batch.program for batch in batches() if batch.label == "other"}
    assert not programs & {*range(24, 40), 104, 105, 106}


def test_phrases_do_not_overlap_in_the_midi_file() -> None:
    late = Control(3.5, EXPRESSION, 40)
    phrases = [
        Phrase(1.0, (Note(0.25, 3.0, 60, 80), Note(1.2, 0.1, 61, 80)), (late,)),
        Phrase(2.0, (Note(0.5, 0.1, 62, 80),)),
    ]
    midi = build_midi(phrases, 0, drums=True)
    now, times = 0, []
    for message in midi.tracks[0]:
        now += message.time
        if message.type in {"note_on", "note_off"}:
            times.append((message.type, message.note, now / TICKS_PER_S))
        assert not message.is_cc(EXPRESSION)
        assert message.is_meta or message.channel == DRUM_CHANNEL
    starts = slot_starts(phrases)
    assert starts[1] > starts[0] + phrases[0].length_s
    presses = [("note_on", 60, starts[0] + 0.25), ("note_on", 62, starts[1] + 0.5)]
    assert [item for item in times if item[0] == "note_on"] == presses
    # Released within the pause, though written to last three seconds.
    assert times[1][:2] == ("note_off", 60)
    assert phrases[0].length_s < times[1][2] < starts[1]


def test_a_key_pressed_again_ends_its_earlier_note() -> None:
    first, second, other = Note(0.0, 2.0, 60, 80), Note(0.5, 1.0, 60, 70), Note(0.2, 3.0, 64, 80)
    assert one_key_at_a_time([second, other, first]) == [Note(0.0, 0.5, 60, 80), other, second]


def test_cut_has_the_named_length_and_ends_in_silence() -> None:
    wave = np.ones(2 * RATE_HZ, np.float32)
    piece = cut(wave, 0.5, 1.0)
    assert piece.size == RATE_HZ
    assert piece[0] == 1
    assert piece[-1] == 0
    padded = cut(wave, 1.5, 1.0)
    assert padded.size == RATE_HZ
    assert not padded[RATE_HZ // 2 :].any()


def test_set_peak_sets_the_level_and_leaves_silence() -> None:
    wave = np.array([0.1, -0.4, 0.2], np.float32)
    assert float(np.abs(set_peak(wave, -6.0)).max()) == pytest.approx(10 ** (-6 / 20))
    assert not set_peak(np.zeros(4, np.float32), -6.0).any()


@pytest.mark.parametrize("kind", NOISES)
def test_noises_are_reproducible_and_finite(kind: str) -> None:
    wave, again = (compose_noise(np.random.default_rng(3), kind) for _ in range(2))
    assert np.array_equal(wave, again)
    assert wave.dtype == np.float32
    assert 4 * RATE_HZ <= wave.size <= 6 * RATE_HZ
    assert np.isfinite(wave).all()
    assert wave.any()


def test_a_missing_command_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RenderError, match=r"install the Debian package fluidsynth$"):
        play([Phrase(1.0, ())], 24)
    with pytest.raises(RenderError, match=r"install the Debian package espeak-ng$"):
        speak("one", "en", 150, 50)


@pytest.mark.parametrize(
    ("soundfont", "remedy"),
    [
        (SOUNDFONT.name, "install the Debian package fluid-soundfont-gm"),
        (OTHER_SOUNDFONT.name, "install the Debian package timgm6mb-soundfont"),
        ("mine.sf2", "name another sound font"),
    ],
)
def test_a_missing_soundfont_is_named_with_its_package(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, soundfont: str, remedy: str
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    with pytest.raises(RenderError, match=f"is missing; {remedy}$"):
        play([Phrase(1.0, ())], 24, soundfont=tmp_path / soundfont)


@pytest.mark.usefixtures("synthesisers")
def test_an_unknown_voice_is_an_error() -> None:
    with pytest.raises(RenderError, match="espeak-ng ended with status"):
        speak("one", "qqq", 150, 50)


@pytest.mark.usefixtures("synthesisers")
def test_played_phrases_sound_where_their_notes_are() -> None:
    phrases = [Phrase(1.5, (Note(0.2, 1.0, 57, 100),)), Phrase(1.0, (Note(0.1, 0.5, 64, 100),))]
    waves = play(phrases, 24)
    assert [wave.size for wave in waves] == [round(1.5 * RATE_HZ), RATE_HZ]
    for wave, phrase in zip(waves, phrases, strict=True):
        first = np.flatnonzero(np.abs(wave) > 0.1 * np.abs(wave).max())[0] / RATE_HZ
        assert first == pytest.approx(phrase.notes[0].start_s, abs=0.02)
    assert all(np.array_equal(a, b) for a, b in zip(waves, play(phrases, 24), strict=True))


@pytest.mark.usefixtures("synthesisers")
def test_material_is_listed_levelled_and_reproducible(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    few = [replace(b, count=2) for b in batches() if (b.label, b.program) in _A_FEW]
    assert {b.soundfont for b in few} == {SOUNDFONT, *FURTHER_SOUNDFONTS}
    monkeypatch.setattr(material, "batches", lambda: few)
    monkeypatch.setattr(material, "_SPEECH_CLIPS", 2)
    monkeypatch.setattr(material, "_PLUCKED_CLIPS", 2)
    for out in (tmp_path / "a", tmp_path / "b"):
        render_material(out, seed=5)
    with (tmp_path / "a" / "index.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["class"] for row in rows} == {"guitar", "bowed", "drums", "speech", "noise"}
    for row in rows:
        wave = _read(tmp_path / "a" / row["path"])
        assert 4 * RATE_HZ <= wave.size <= 6 * RATE_HZ
        assert 10 ** (-8.1 / 20) <= np.abs(wave).max() <= 10 ** (-3.9 / 20)
        assert (tmp_path / "a" / row["path"]).read_bytes() == (tmp_path / "b" / row["path"]).read_bytes()


def test_the_shipped_scene_is_small_and_annotated() -> None:
    wave = _read(DEMO_SCENE)
    assert wave.shape == (round(LENGTH_S * RATE_HZ),)
    assert DEMO_SCENE.stat().st_size < 700_000
    labels = [label for _, _, label in _annotation(_SHIPPED_TABLE)]
    assert labels == ["guitar", "speech", "winds", "guitar"]


def test_the_annotated_parts_stand_out_of_the_room() -> None:
    wave = _read(DEMO_SCENE)
    room_db = _level_db(wave[: 3 * RATE_HZ])
    assert room_db == pytest.approx(demo_scene.NOISE_DB, abs=1.0)
    after_s = 0.0
    for onset, offset, _ in _annotation(_SHIPPED_TABLE):
        assert _level_db(wave[round(onset * RATE_HZ) : round(offset * RATE_HZ)]) > room_db + 15
        assert _level_db(wave[round(after_s * RATE_HZ) : round((onset - 0.1) * RATE_HZ)]) < room_db + 6
        after_s = offset + 0.3


def test_the_shipped_scene_is_what_the_code_renders(scene: Path) -> None:
    now, shipped = _read(scene), _read(DEMO_SCENE)
    assert now.shape == shipped.shape
    assert np.corrcoef(now, shipped)[0, 1] > 0.99
    for new, old in zip(_annotation(scene.with_suffix(".tsv")), _annotation(_SHIPPED_TABLE), strict=True):
        assert new[:2] == pytest.approx(old[:2], abs=0.1)
        assert new[2] == old[2]


def test_the_scene_says_nothing_from_the_training_sentences() -> None:
    assert all(demo_scene.SENTENCE not in sentences for sentences in speech.SENTENCES.values())


@pytest.mark.parametrize("pitch", [40, 55, 69, 86])
def test_a_plucked_string_is_in_tune_and_dies_away(pitch: int) -> None:
    rng = np.random.default_rng(0)
    made = plucked.Instrument(decay_s=3.0, dullness=0.3, pluck_at=0.2, body=(), drive=0.0)
    rate_hz, hz = 2 * RATE_HZ, 440 * 2 ** ((pitch - 69) / 12)
    wave = plucked._string(rng, made, Note(0.0, 3.0, pitch, 90), 4 * rate_hz)
    spectrum = np.abs(np.fft.rfft(wave * np.hanning(wave.size), 8 * wave.size))
    bins = np.arange(spectrum.size) * rate_hz / (8 * wave.size)
    near = (bins > 0.9 * hz) & (bins < 1.1 * hz)
    assert abs(1200 * np.log2(bins[near][spectrum[near].argmax()] / hz)) < 3  # cents
    early, late = (np.abs(wave[at : at + rate_hz // 2]).max() for at in (0, 2 * rate_hz))
    assert late < early / 2


def test_plucked_phrases_differ_by_their_instrument_and_repeat_by_their_seed() -> None:
    def played(seed: int) -> Samples:
        phrase = compose_guitar(np.random.default_rng(7), 25)
        return plucked.play_plucked(np.random.default_rng(seed), phrase)

    first, again, other = played(1), played(1), played(2)
    assert np.array_equal(first, again)
    assert first.size == other.size
    assert np.isfinite(first).all()
    assert abs(np.corrcoef(first, other)[0, 1]) < 0.5


def test_a_sampler_plays_the_nearest_note_at_the_pitch_that_is_written(tmp_path: Path) -> None:
    t = np.arange(2 * RATE_HZ) / RATE_HZ
    for name, hz in (("A3", 220.0), ("A4", 440.0)):
        soundfile.write(tmp_path / f"{name}.wav", np.pad(np.sin(2 * np.pi * hz * t), (3000, 0)), RATE_HZ)
    notes = sampler.read_notes(tmp_path)
    assert sorted(notes) == [57, 69]
    player = sampler.Sampler(notes)
    # C4 is a semitone-shifted A3; what lies octaves above is played in the range.
    for pitch, hz in ((57, 220.0), (60, 261.63), (69, 440.0), (93, 440.0)):
        wave = player.play(Phrase(1.5, (Note(0.25, 1.0, pitch, 100),)))
        assert wave.size == 1.5 * RATE_HZ
        assert not wave[: RATE_HZ // 4].any()
        spectrum = np.abs(np.fft.rfft(wave[RATE_HZ // 4 : RATE_HZ] * np.hanning(RATE_HZ * 3 // 4), 8 * RATE_HZ))
        assert spectrum.argmax() / 8 == pytest.approx(hz, rel=0.003)
        assert np.abs(wave[-RATE_HZ // 20 :]).max() < 0.05 * np.abs(wave).max()  # it was let go


def test_notes_are_named_by_pitch(tmp_path: Path) -> None:
    names = {"C4.mp3": 60, "As3.wav": 58, "A4.flac": 69, "F2 v2.mp3": None, "readme.md": None}
    assert {name: sampler.pitch_of(Path(name)) for name in names} == names
    with pytest.raises(SourceError, match="no recordings of notes"):
        sampler.read_notes(tmp_path)
