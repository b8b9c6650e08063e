"""Real capture through a real sound server: what is recorded is what was played, whatever faults occur."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
from numpy.typing import NDArray

from tests.detector.audio.recorder import DEADLINE_S, RATE, Listen, Listening, Recording
from tests.sound_server import SoundServer


def chirps(rate_hz: int, seconds: float = 2.0, seed: int = 0) -> NDArray[np.float32]:
    """Return noise up to 1.5 kHz that correlates with no other, faded in and out."""
    wave = np.random.default_rng(seed).normal(0, 0.1, round(seconds * 8000))
    spectrum = np.fft.rfft(wave)
    spectrum[round(seconds * 1500) :] = 0
    soft = soxr.resample(np.fft.irfft(spectrum, wave.size), 8000, rate_hz)
    fade = np.minimum(1, np.minimum(np.arange(soft.size), np.arange(soft.size)[::-1]) / (0.02 * rate_hz))
    return np.asarray(soft * fade, np.float32)


def write(path: Path, wave: NDArray[np.float32], rate_hz: int) -> Path:
    soundfile.write(path, wave, rate_hz, subtype="PCM_16")
    return path


def similarity(recorded: NDArray[np.float32], played: NDArray[np.float32]) -> tuple[float, float]:
    """Return the highest correlation of a recording with what was played at 48 kHz, and its relative level there."""
    wide = np.asarray(soxr.resample(recorded, RATE, 48000), np.float32)
    size = 1 << (wide.size + played.size).bit_length()
    product = np.fft.irfft(np.fft.rfft(wide, size) * np.conj(np.fft.rfft(played, size)), size)[: wide.size]
    at = int(np.argmax(product))
    part = wide[at : at + played.size]
    norms = np.linalg.norm(part), np.linalg.norm(played[: part.size])
    return float(part @ played[: part.size] / (norms[0] * norms[1] + 1e-9)), float(norms[0] / norms[1])


def play(server: SoundServer, listening: Listening, path: Path) -> None:
    """Play a file as soon as sound arrives, and wait until all of it has been recorded."""
    if not listening.all_of("sound"):
        listening.until("sound")
    server.play(path, wait=True)
    time.sleep(1.0)


@pytest.mark.parametrize("rate_hz", [None, 8000, 16000, 44100, 48000])
def test_what_is_recorded_is_what_was_played(
    sound_server: SoundServer, listen: Listen, tmp_path: Path, rate_hz: int | None
) -> None:
    wave = chirps(48000)
    listening = listen(audio={"rate_hz": rate_hz})
    play(sound_server, listening, write(tmp_path / "a.wav", wave, 48000))
    stats = listening.ask("stats")
    recorded = listening.end()
    assert similarity(recorded["samples"], wave)[0] > 0.99
    assert stats["device_rate_hz"] == (rate_hz or 48000)
    assert (stats["device"], stats["device_channels"], stats["is_open"]) == ("default", 2, True)
    assert listening.all_of("lost") == []
    assert recorded["first"].tolist() == [0, *np.cumsum(recorded["length"])[:-1].tolist()]


@pytest.mark.parametrize(
    ("channel", "shares"),
    [("left", (1, 0)), ("right", (0, 1)), ("mean", (0.5, 0.5)), (1, (1, 0)), (2, (0, 1))],
)
def test_the_selected_channel_is_recorded(
    sound_server: SoundServer, listen: Listen, tmp_path: Path, channel: str | int, shares: tuple[float, float]
) -> None:
    waves = [chirps(48000, seed=1), chirps(48000, seed=2)]
    listening = listen(audio={"channel": channel})
    play(sound_server, listening, write(tmp_path / "a.wav", np.stack(waves, axis=1), 48000))
    value, loudness = similarity(listening.end()["samples"], shares[0] * waves[0] + shares[1] * waves[1])
    assert value > 0.99
    assert loudness == pytest.approx(1, abs=0.02)


def test_recording_continues_after_the_server_was_killed(
    sound_server: SoundServer, listen: Listen, tmp_path: Path
) -> None:
    first, second = chirps(48000, seed=3), chirps(48000, seed=4)
    listening = listen()
    play(sound_server, listening, write(tmp_path / "a.wav", first, 48000))
    sound_server.kill()
    away = listening.until("condition", name="waiting", active=True)
    assert "lost" in away["detail"]
    assert not listening.ask("stats")["is_open"]
    time.sleep(2)
    sound_server.restart()
    listening.until("condition", name="waiting", active=False)
    listening.until("sound", gap=True)
    play(sound_server, listening, write(tmp_path / "b.wav", second, 48000))
    assert listening.ask("stats")["reopens"] == 1
    recorded = listening.end()
    conditions = [(c["name"], c["active"]) for c in listening.all_of("condition") if c["name"] == "waiting"]
    assert conditions == [("waiting", True), ("waiting", False)]
    (lost,) = listening.all_of("lost")
    assert lost["cause"] == "device"
    assert lost["samples"] > 2 * RATE
    check_positions(recorded)
    for wave in (first, second):
        assert similarity(recorded["samples"], wave)[0] > 0.99
    assert listening.process.stderr is not None
    assert listening.process.stderr.read() == ""  # PortAudio would print several lines for each loss


def check_positions(recorded: Recording) -> None:
    """Positions stay positions in time, over gaps too."""
    began_s = recorded["received_at_s"] - (recorded["first"] + recorded["length"]) / RATE
    assert np.ptp(began_s[20:]) < 0.25


def test_a_device_that_is_absent_at_first_is_opened_later(
    sound_server: SoundServer, listen: Listen, tmp_path: Path
) -> None:
    sound_server.kill()
    listening = listen()
    away = listening.until("condition", name="waiting", active=True)
    assert "start the sound server" in away["detail"]
    assert listening.ask("stats")["conditions"] == ["waiting"]
    sound_server.restart()
    listening.until("condition", name="waiting", active=False)
    wave = chirps(48000)
    play(sound_server, listening, write(tmp_path / "a.wav", wave, 48000))
    recorded = listening.end()
    assert listening.all_of("lost") == []
    assert recorded["first"][0] == 0
    assert similarity(recorded["samples"], wave)[0] > 0.99


def test_a_device_is_found_again_under_another_number(sound_server: SoundServer, listen: Listen) -> None:
    """The list of inputs has changed while the server was away; the name still means the same."""
    before = "pcm.!default { type pulse }\npcm.mic_b { type pulse }\n"
    sound_server.write_alsa_config(before)
    listening = listen(audio={"device": "mic_b"})
    listening.until("sound")
    sound_server.kill()
    listening.until("condition", name="waiting", active=True)
    sound_server.write_alsa_config("pcm.mic_a { type pulse }\npcm.another { type pulse }\n" + before)
    sound_server.restart()
    listening.until("condition", name="waiting", active=False)
    assert listening.ask("stats")["device"] == "mic_b"
    listening.end()


def test_a_consumer_that_stalls_gets_a_gap(listen: Listen) -> None:
    listening = listen(audio={"buffer_s": 2.0})
    listening.until("sound")
    listening.ask("stall 5")
    lost = listening.until("lost", cause="queue")
    assert lost["samples"] > 2 * RATE
    listening.until("sound", gap=True)
    assert listening.ask("stats")["overruns"] == 1
    time.sleep(1)
    check_positions(listening.end())


def test_a_process_that_is_stopped_reports_a_suspension(listen: Listen) -> None:
    listening = listen()
    listening.until("sound")
    time.sleep(2)
    listening.process.send_signal(signal.SIGSTOP)
    time.sleep(10)
    listening.process.send_signal(signal.SIGCONT)
    lost = listening.until("lost")
    listening.until("sound", gap=True)
    time.sleep(1)
    recorded = listening.end()
    assert lost["cause"] == "suspended"
    assert lost["samples"] > 9 * RATE
    assert [c for c in listening.all_of("condition") if c["name"] == "waiting"] == []
    check_positions(recorded)


def test_recording_continues_after_the_server_was_frozen(sound_server: SoundServer, listen: Listen) -> None:
    """Calls into it do not return; the device is waited for, and opened again when the server continues."""
    listening = listen(short_waits=True)
    listening.until("sound")
    threads = listening.ask("resources")["python_threads"]
    sound_server.freeze()
    try:
        listening.until("condition", name="waiting", active=True)
        time.sleep(5)
        assert not listening.ask("stats")["is_open"]  # the consumer is not blocked
        assert listening.ask("resources")["python_threads"] > threads
    finally:
        sound_server.thaw()
    listening.until("condition", name="waiting", active=False)
    listening.until("sound", gap=True)
    deadline = time.monotonic() + DEADLINE_S
    while listening.ask("resources")["python_threads"] > threads:
        assert time.monotonic() < deadline
        time.sleep(0.5)
    listening.end()


def test_a_server_that_is_frozen_at_first_does_not_block_the_consumer(
    sound_server: SoundServer, listen: Listen
) -> None:
    sound_server.freeze()
    try:
        listening = listen(short_waits=True)
        away = listening.until("condition", name="waiting", active=True)
        assert "has not answered" in away["detail"]
        assert listening.ask("stats")["is_stuck"]
    finally:
        sound_server.thaw()
    listening.until("condition", name="waiting", active=False)
    listening.until("sound")
    listening.end()


def test_opening_and_closing_leaves_nothing_behind(listen: Listen) -> None:
    listening = listen()
    listening.until("sound")
    listening.ask("cycle 2")
    before = listening.ask("resources")
    listening.ask("cycle 20")
    after = listening.ask("resources")
    assert {k: after[k] for k in ("fds", "threads", "python_threads")} == {
        k: before[k] for k in ("fds", "threads", "python_threads")
    }
    listening.end()


def test_no_encoder_of_ffmpeg_is_loaded_to_list_the_inputs(listen: Listen) -> None:
    """ALSA's plug-in for A52 loads a hundred libraries; it belongs to the package that has the one for PulseAudio."""
    listening = listen()
    listening.until("sound")
    listening.ask("cycle 2")
    mapped = Path(f"/proc/{listening.process.pid}/maps").read_text()
    assert "libasound_module_pcm_pulse.so" in mapped
    assert "libavcodec" not in mapped
    listening.end()


def test_no_memory_is_made_executable(listen: Listen) -> None:
    """With MemoryDenyWriteExecute= of a hardened service in force, sound arrives nevertheless."""
    listening = listen(no_write_execute=True)
    if listening.all_of("unsupported"):
        pytest.skip("this kernel has no PR_SET_MDWE (Linux 6.3)")
    listening.until("sound")
    listening.end()
