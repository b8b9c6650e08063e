"""Gravis patch files: notes at their pitch, that go round for as long as they are held."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from detector.errors import SourceError
from models.rendering.synthesis import RATE_HZ, read_patch

LOOPED, BACK, UNSIGNED = 4, 8, 2


@dataclass(frozen=True)
class Recorded:
    wave: NDArray[np.float64]
    rate_hz: int
    own_mhz: int
    modes: int = 0
    loop: tuple[int, int] = (0, 0)
    """In samples."""
    width: int = 2

    def packed(self) -> bytes:
        unsigned = self.modes & UNSIGNED
        whole = np.rint(self.wave * (2 ** (8 * self.width - 1) - 1)) + (2 ** (8 * self.width - 1) if unsigned else 0)
        data: bytes = whole.astype(("<u" if unsigned else "<i") + str(self.width)).tobytes()
        first, end = (place * self.width for place in self.loop)
        modes = self.modes | (1 if self.width == 2 else 0)
        head = struct.pack("<7sBIII", b"note", 0, len(data), first, end)
        head += struct.pack("<HIIIhB", self.rate_hz, 8000, 12_000_000, self.own_mhz, 512, 7)
        head += bytes(12) + bytes(6) + struct.pack("<BhH", modes, 60, 1024) + bytes(36)
        return head + data


def patch_file(notes: list[Recorded]) -> bytes:
    samples = b"".join(note.packed() for note in notes)
    head = b"GF1PATCH110\0" + b"ID#000002\0" + bytes(60) + struct.pack("<BBBHHI", 1, 14, 0, len(notes), 127, 0)
    head += bytes(36)
    instrument = struct.pack("<H16sIB", 0, b"test", 0, 1) + bytes(40)
    layer = struct.pack("<BBIB", 0, 0, len(samples), len(notes)) + bytes(40)
    return head + instrument + layer + samples


def written(tmp_path: Path, notes: list[Recorded]) -> Path:
    (tmp_path / "x.pat").write_bytes(patch_file(notes))
    return tmp_path / "x.pat"


def sine(hz: float, seconds: float, rate_hz: int) -> NDArray[np.float64]:
    return 0.5 * np.sin(2 * np.pi * hz * np.arange(round(seconds * rate_hz)) / rate_hz)


def pitch_hz(wave: NDArray[np.float32]) -> float:
    size = 1 << 18
    return float(np.argmax(np.abs(np.fft.rfft(wave * np.hanning(wave.size), size))) * RATE_HZ / size)


@pytest.mark.parametrize(("width", "modes"), [(2, 0), (2, UNSIGNED), (1, 0), (1, UNSIGNED)])
def test_a_note_is_read_in_every_width_and_sign(tmp_path: Path, width: int, modes: int) -> None:
    notes = read_patch(written(tmp_path, [Recorded(sine(440, 1.0, 22_050), 22_050, 440_000, modes, width=width)]))
    assert list(notes) == [69]
    assert notes[69].size == pytest.approx(RATE_HZ, abs=2)
    assert np.abs(notes[69]).max() == pytest.approx(0.5, abs=0.02)
    assert abs(float(notes[69].mean())) < 0.01


def test_what_was_recorded_between_two_pitches_is_brought_to_the_nearer_one(tmp_path: Path) -> None:
    notes = read_patch(written(tmp_path, [Recorded(sine(450, 2.0, 32_000), 32_000, 450_000)]))
    assert list(notes) == [69]
    assert pitch_hz(notes[69]) == pytest.approx(440, abs=0.5)


def test_several_notes_lie_behind_each_other_and_the_first_of_a_pitch_counts(tmp_path: Path) -> None:
    parts = [Recorded(sine(hz, 0.5, 22_050), 22_050, round(hz * 1000)) for hz in (220.0, 880.0)]
    notes = read_patch(written(tmp_path, [*parts, Recorded(np.zeros(100), 22_050, 220_000)]))
    assert list(notes) == [57, 81]
    assert pitch_hz(notes[57]) == pytest.approx(220, abs=1)


def test_a_held_note_goes_round_without_a_seam(tmp_path: Path) -> None:
    wave = sine(441, 0.5, 22_050)  # 50 samples a period
    note = Recorded(wave, 22_050, 441_000, LOOPED, (5_000, 10_000))
    held = read_patch(written(tmp_path, [note]))[69]
    assert held.size == pytest.approx(6 * RATE_HZ * 441 / 440, rel=0.01)
    middle = held[1000:-1000]
    assert pitch_hz(middle) == pytest.approx(440, abs=0.5)
    tone = np.exp(-2j * np.pi * pitch_hz(middle) / RATE_HZ * np.arange(4000))
    levels = [abs(np.mean(middle[i : i + 4000] * tone)) for i in range(0, middle.size - 4000, 4000)]
    assert min(levels) > 0.98 * max(levels)


def test_a_loop_that_goes_back_is_played_in_reverse_and_then_forwards(tmp_path: Path) -> None:
    ramp = np.linspace(0, 0.5, RATE_HZ // 2)
    note = Recorded(ramp, RATE_HZ, 440_000, LOOPED | BACK, (4000, 8000))
    held = read_patch(written(tmp_path, [note]))[69]
    at = [held[i] for i in (8000, 12_000, 16_000)]
    assert at == pytest.approx([0.5, 0.25, 0.5], abs=0.01)


def test_what_is_no_patch_is_reported_in_one_line(tmp_path: Path) -> None:
    whole = patch_file([Recorded(sine(440, 0.2, 22_050), 22_050, 440_000)])
    cases = {
        b"": "not a Gravis patch file",
        b"RIFF" + bytes(400): "not a Gravis patch file",
        whole[:240]: "damaged or cut off",
        whole[:-100]: "damaged or cut off",
        patch_file([]): "no recordings of notes",
    }
    for data, message in cases.items():
        (tmp_path / "x.pat").write_bytes(data)
        with pytest.raises(SourceError, match=message):
            read_patch(tmp_path / "x.pat")
    with pytest.raises(SourceError, match="No such file"):
        read_patch(tmp_path / "missing.pat")


def test_a_rate_of_nothing_is_reported(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="damaged"):
        read_patch(written(tmp_path, [Recorded(np.zeros(10), 0, 440_000)]))


@pytest.mark.parametrize("own_mhz", [0, 1, 4_000_000_000])
def test_a_frequency_of_no_pitch_is_reported(tmp_path: Path, own_mhz: int) -> None:
    with pytest.raises(SourceError, match="frequency"):
        read_patch(written(tmp_path, [Recorded(np.zeros(10), 22_050, own_mhz)]))
