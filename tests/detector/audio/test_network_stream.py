"""Network streams from real servers: cameras, Icecast, plain HTTP, RTP; lost, stalled, frozen, and started again."""

from __future__ import annotations

import logging
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytest

from detector.audio import network_stream
from detector.audio.media import Timestamps
from detector.audio.network_stream import Credentials, check_stream
from detector.config.sections import Audio
from detector.errors import ConfigError
from detector.system import install_command
from tests.broker import HOST, free_port, program, wait_until
from tests.certificates import Authority
from tests.streams import (
    AAC,
    RATE,
    VIDEO,
    Camera,
    HttpServer,
    Icecast,
    Process,
    listen,
    paced,
    sound,
    ticks_s,
)

SECRET = "ge:h/e@im"  # noqa: S105 - of a test
Write = Callable[[bytes], object]


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network_stream, "_PAUSE_S", (0.1, 0.4))


def ffmpeg(*arguments: str) -> bytes:
    """Return what ffmpeg writes to its standard output."""
    command = [program("ffmpeg"), "-v", "error", *arguments, "-"]
    return subprocess.run(command, capture_output=True, check=True, stdin=subprocess.DEVNULL).stdout


def tone(seconds: float, *arguments: str, rate_hz: int = 48000, hz: int = 440) -> bytes:
    return ffmpeg("-f", "lavfi", "-i", f"sine=frequency={hz}:sample_rate={rate_hz}:duration={seconds}", *arguments)


def pitch_hz(samples: np.ndarray[Any, np.dtype[np.float32]]) -> float:
    """Return the frequency of a tone."""
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    return float(np.argmax(spectrum)) * RATE / len(samples)


def ticks(seconds: float, rate_hz: int = 16000, channels: int = 1) -> bytes:
    """Return raw samples with a burst at the start of each second."""
    samples = np.zeros((round(seconds * rate_hz), channels), "<i2")
    for at in range(0, len(samples), rate_hz):
        samples[at : at + rate_hz // 100] = 16000 * (-1) ** np.arange(rate_hz // 100)[:, None]
    return samples.tobytes()


@pytest.mark.parametrize("transport", ["tcp", "udp"])
@pytest.mark.parametrize(("rate_hz", "channels"), [(48000, 2), (16000, 1)])
def test_only_the_sound_is_asked_of_a_camera(transport: str, rate_hz: int, channels: int) -> None:
    with Camera(f"{sound(rate_hz, channels)} ! {AAC}", VIDEO) as camera:
        with listen(camera.url, transport=transport) as listener:
            listener.receive(3)
            assert (listener.source.stats.device_rate_hz, listener.source.stats.device_channels) == (rate_hz, channels)
        wait_until(lambda: camera.uris("teardown"), "TEARDOWN")
    assert camera.uris("setup") == [f"{camera.url}/stream=0"]
    assert listener.gaps == []
    assert listener.source.stats.lost_s == 0
    times = ticks_s(listener.samples()[0])
    assert len(times) >= 2
    np.testing.assert_allclose(np.diff(times), 1, atol=0.002)


@pytest.mark.parametrize("track", ["2", "de"])
def test_a_track_is_chosen_by_its_number_or_its_language(track: str) -> None:
    tracks = [
        f"{sound(8000, what=f'audiotestsrc is-live=true freq={hz}')} ! mulawenc ! rtppcmupay ! "
        f'capssetter caps="application/x-rtp,a-lang=(string){language}"'
        for hz, language in ((400, "en"), (1000, "de"))
    ]
    with Camera(*tracks) as camera, listen(camera.url, track=track) as listener:
        listener.receive(1.5)
    assert pitch_hz(listener.samples()[0][RATE // 4 :]) == pytest.approx(1000, abs=5)


def test_a_track_that_is_not_there_is_reported_with_those_that_are() -> None:
    with Camera(f"{sound(16000)} ! {AAC}") as camera, listen(camera.url, track="3") as listener:
        waiting = listener.wait_for("waiting", active=True)
    assert waiting.detail.endswith("it has the sound tracks 1; audio.track = 3 is not there")


def test_a_camera_that_is_absent_and_killed_and_comes_back_is_waited_for() -> None:
    camera = Camera(f"{sound(16000)} ! {AAC}")
    with listen(camera.url) as listener:
        waiting = listener.wait_for("waiting", active=True)
        assert "Connection refused" in waiting.detail
        with camera:
            listener.wait_for("waiting", active=False)
            listener.receive(1)
            camera.kill()
            waiting = listener.wait_for("waiting", active=True)
            assert (
                waiting.detail
                == f"waiting for the stream: rtsp://{HOST}:{camera.port}/...: the server has ended the stream"
            )
            camera.start()
            listener.wait_for("waiting", active=False)
            listener.receive(1)
    assert [gap.cause for gap in listener.gaps] == ["network"]
    assert listener.source.stats.reopens == 1
    gap = listener.gaps[0]
    assert gap.samples > 0.1 * RATE
    behind = next(b for b in listener.blocks if b.chunk.first_sample >= gap.first_sample)
    assert behind.chunk.first_sample == gap.first_sample + gap.samples


@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_a_camera_that_freezes_without_closing_its_socket_is_lost(transport: str) -> None:
    with Camera(f"{sound(16000)} ! {AAC}") as camera, listen(camera.url, stall_s=1, transport=transport) as listener:
        listener.receive(1)
        camera.freeze()
        assert "no sound has arrived for 1 s" in listener.wait_for("waiting", active=True).detail
        camera.thaw()
        listener.wait_for("waiting", active=False)
        listener.receive(1)
        assert listener.gaps[0].samples > 0.8 * RATE


@pytest.mark.parametrize("options", [{}, {"digest": True}], ids=["basic", "digest"])
def test_a_password_opens_a_camera_and_appears_nowhere(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str], options: dict[str, Any]
) -> None:
    caplog.set_level(logging.DEBUG)
    secret = tmp_path / "credentials"
    secret.write_text(f"user:{SECRET}\n")
    secret.chmod(0o600)
    with Camera(f"{sound(16000)} ! {AAC}", user="user", password=SECRET, **options) as camera:
        with listen(camera.url, credentials_file=secret) as listener:
            listener.receive(0.5)
            camera.kill()
            listener.wait_for("waiting", active=True)
        camera.start()
        secret.write_text("user:wrong-one\n")
        with listen(camera.url, credentials_file=secret) as refused:
            waiting = refused.wait_for("waiting", active=True)
            shown = f"{listener.events} {refused.events} {refused.source.stats} {waiting}"
    assert waiting.detail.endswith("user name or password is wrong or missing (401): see audio.credentials_file")
    command = Path("/proc/self/cmdline").read_text()
    for text in (shown, caplog.text, command, *capfd.readouterr()):
        assert not re.search(r"ge.{1,3}h.{1,3}e.{1,3}im|wrong-one", text)


@pytest.mark.parametrize(
    ("device", "settings", "words"),
    [
        (f"rtsp://user:{SECRET}@camera/1", {}, "other users can read a password in a URL"),
        ("ftp://camera/1", {}, "a stream begins with rtsp://"),
        ("rtsp:///1", {}, "the host is missing"),
        ("http://camera/{password}", {}, "need audio.credentials_file"),
        ("missing.sdp", {}, "there is no such SDP file"),
        ("http://camera/", {"sample_format": "s16le"}, "set audio.rate_hz"),
    ],
)
def test_what_can_be_no_stream_is_one_line_without_a_secret(device: str, settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_stream(Audio(device=device, **settings))
    assert words in str(caught.value)
    assert not re.search("ge:|im@|\n", str(caught.value))


def test_without_pyav_the_command_that_installs_it_is_named() -> None:
    program = (
        "import sys; sys.modules['av'] = None; from detector.audio.media import load_av; load_av('network streams')"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    last = done.stderr.splitlines()[-1]
    assert last.endswith(f"network streams need PyAV: {install_command('streams')}")


def test_icecast_is_received_killed_and_received_again() -> None:
    icecast = Icecast()
    arguments = ("-f", "lavfi", "-i", "sine=frequency=1000", "-c:a", "libmp3lame", "-f", "mp3")
    with icecast, icecast.feed("live.mp3", *arguments), listen(icecast.url("live.mp3")) as listener:
        listener.receive(3)
        seen = len(listener.conditions)
        icecast.kill()
        wait_until(lambda: len(listener.conditions) > seen, "the loss")
        icecast.start()
        wait_until(lambda: len(listener.conditions) > seen + 1, "the return")
        listener.receive(1)
    assert {gap.cause for gap in listener.gaps} == {"network"}
    found = listener.samples()[0]
    assert pitch_hz(found[-RATE // 2 :]) == pytest.approx(1000, abs=5)


def test_a_missing_mount_is_reported_by_its_status() -> None:
    with Icecast() as icecast, listen(icecast.url("none.ogg")) as listener:
        assert listener.wait_for("waiting", active=True).detail.endswith("there is no such stream (404)")


def test_an_ogg_chain_that_changes_its_rate_goes_on() -> None:
    links = [
        tone(1.5, "-c:a", "libvorbis", "-f", "ogg", rate_hz=rate, hz=hz) for rate, hz in ((44100, 500), (32000, 900))
    ]
    turn = iter(range(100))

    def send(_path: str, write: Write) -> None:
        # Who opens it again gets the link that is sent by then, as from Icecast.
        for link in links[min(next(turn), 1) :]:
            paced(link, len(link), write)

    with HttpServer(send) as server, listen(server.url) as listener:
        listener.receive(2.4)
        wait_until(lambda: listener.source.stats.device_rate_hz == 32000, "the second rate")
    found = listener.samples()[0]
    assert pitch_hz(found[RATE // 2 : RATE]) == pytest.approx(500, abs=5)
    assert pitch_hz(found[-RATE // 2 :]) == pytest.approx(900, abs=5)


def test_an_ogg_chain_that_changes_its_channels_goes_on_without_being_taken_for_lost() -> None:
    links = [
        tone(1.5, "-ac", str(channels), "-c:a", "libopus", "-f", "ogg", hz=hz) for channels, hz in ((1, 500), (2, 900))
    ]
    turn = iter(range(100))

    def send(_path: str, write: Write) -> None:
        for link in links[min(next(turn), 1) :]:
            paced(link, round(len(link) / 1.5), write)
        threading.Event().wait(20)

    with HttpServer(send) as server, listen(server.url) as listener:
        listener.receive(2.4)
        assert listener.source.stats.device_channels == 2
    assert listener.conditions == []
    assert pitch_hz(listener.samples()[0][-RATE // 2 :]) == pytest.approx(900, abs=5)


def test_a_stream_that_changes_its_rate_without_an_end_goes_on() -> None:
    pieces = [tone(1.5, "-c:a", "aac", "-f", "adts", rate_hz=rate, hz=hz) for rate, hz in ((44100, 500), (16000, 900))]

    def send(_path: str, write: Write) -> None:
        for piece in pieces:
            paced(piece, len(piece), write)
        threading.Event().wait(20)

    with HttpServer(send) as server, listen(server.url) as listener:
        listener.receive(2.6)
        assert listener.source.stats.device_rate_hz == 16000
        assert listener.source.stats.reopens == 0
    found = listener.samples()[0]
    assert pitch_hz(found[RATE // 2 : RATE]) == pytest.approx(500, abs=5)
    assert pitch_hz(found[-RATE // 2 :]) == pytest.approx(900, abs=5)


def test_raw_samples_over_http_arrive_as_they_are_and_a_stall_is_a_loss() -> None:
    samples = ticks(8, 22050, 2)

    def send(_path: str, write: Write) -> None:
        paced(samples[: 4 * 22050 * 2], 4 * 22050, write)
        threading.Event().wait(2.5)
        paced(samples, 4 * 22050, write)

    settings = {"sample_format": "s16le", "rate_hz": 22050, "channels": 2, "stall_s": 1}
    with HttpServer(send) as server, listen(f"{server.url}/raw", **settings) as listener:
        listener.receive(1.9)
        assert "no sound has arrived for 1 s" in listener.wait_for("waiting", active=True).detail
        listener.wait_for("waiting", active=False)
        listener.receive(1)
    times = ticks_s(listener.samples()[0])
    assert times[:2] == pytest.approx([0, 1], abs=0.01)
    assert listener.gaps[0].samples >= 0.9 * RATE


def test_a_file_at_a_url_is_not_cut_short_where_it_comes_faster_than_it_plays() -> None:
    data = tone(60, "-c:a", "flac", "-f", "flac", rate_hz=16000)
    with HttpServer(lambda _path, write: write(data)) as server, listen(server.url, buffer_s=2) as listener:
        listener.wait_for("waiting", active=True)
    assert listener.seconds == pytest.approx(60, abs=0.01)
    assert listener.gaps == []


@pytest.mark.parametrize("jump_s", [3.0, 40000.0, -30.0])
def test_timestamps_that_jump_are_a_gap_and_never_an_absurd_one(jump_s: float) -> None:
    begin_s = 100.0
    pieces = [
        tone(1, "-c:a", "aac", "-f", "mpegts", "-output_ts_offset", str(offset_s))
        for offset_s in (begin_s, begin_s + 1 + jump_s)
    ]

    def send(_path: str, write: Write) -> None:
        for piece in pieces:
            paced(piece, len(piece), write)
        threading.Event().wait(20)

    began_s = time.monotonic()
    with HttpServer(send) as server, listen(server.url) as listener:
        listener.receive(1.6)
        elapsed_s = time.monotonic() - began_s
    assert [gap.cause for gap in listener.gaps] == ["network"]
    lost_s = listener.gaps[0].samples / RATE
    if jump_s == 3.0:
        assert lost_s == pytest.approx(3.0, abs=0.3)
    else:
        # Timestamps say nothing then: it is how late the next packet was, beyond the sound that has come.
        assert 0 <= lost_s <= max(0.0, elapsed_s - 1.6) + 0.3


def test_timestamps_that_jump_back_and_forth_lose_no_more_than_a_minute_beyond_the_clock(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    pieces = [
        tone(0.25, "-c:a", "aac", "-f", "mpegts", "-output_ts_offset", str(100 + 0.25 * number + 25 * (number % 2)))
        for number in range(12)
    ]

    def send(_path: str, write: Write) -> None:
        for piece in pieces:
            paced(piece, 4 * len(piece), write)
        threading.Event().wait(20)

    began_s = time.monotonic()
    with HttpServer(send) as server, listen(server.url) as listener:
        listener.receive(2.5)
        elapsed_s = time.monotonic() - began_s
    assert len(listener.gaps) >= 6
    assert 40 < sum(gap.samples for gap in listener.gaps) / RATE < 60 + elapsed_s
    assert caplog.text.count("the timestamps have jumped") == 1


def test_lost_rtp_packets_are_gaps_of_their_length_by_the_timestamps(tmp_path: Path) -> None:
    port, relay_port = 2 * (free_port() // 2), 2 * (free_port() // 2)
    sdp = tmp_path / "intercom.sdp"
    sdp.write_text(
        f"v=0\no=- 0 0 IN IP4 {HOST}\ns=-\nc=IN IP4 {HOST}\nt=0 0\nm=audio {port} RTP/AVP 0\na=rtpmap:0 PCMU/8000\n"
    )
    source = ("-f", "lavfi", "-i", "sine=frequency=440:sample_rate=8000", "-c:a", "pcm_mulaw")
    target = ("-f", "rtp", f"rtp://{HOST}:{relay_port}?pkt_size=172")
    sender = Process([program("ffmpeg"), "-v", "quiet", "-re", *source, *target])
    with Relay(relay_port, port) as relay, sender, listen(str(sdp)) as listener:
        listener.receive(2)
        relay.to_lose = 30
        listener.receive(2)
    assert [(gap.cause, gap.samples) for gap in listener.gaps] == [("network", relay.lost * RATE // 8000)]
    assert listener.source.stats.lost_s == pytest.approx(relay.lost / 8000)
    assert listener.source.stats.reopens == 0


class Relay:
    """Passes datagrams on, but for the next ``to_lose`` ones, whose samples of one byte it counts in ``lost``."""

    def __init__(self, from_port: int, to_port: int) -> None:
        self._in = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._in.bind((HOST, from_port))
        self._to = (HOST, to_port)
        self.to_lose = self.lost = 0
        self._thread = threading.Thread(target=self._pass, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._in.sendto(b"", self._in.getsockname())
        self._thread.join(5)
        self._in.close()

    def _pass(self) -> None:
        while data := self._in.recv(65536):
            if self.to_lose:
                self.to_lose -= 1
                self.lost += len(data) - 12  # the header of RTP
            else:
                self._in.sendto(data, self._to)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


def test_the_certificate_of_a_server_is_verified(authority: Authority) -> None:
    data, pair = tone(3, "-c:a", "libmp3lame", "-f", "mp3"), authority.issue("radio", "DNS:localhost")
    with HttpServer(lambda _path, write: write(data), pair.certificate, pair.key) as server:
        with listen(server.url) as refused:
            assert "its certificate is not valid here" in refused.wait_for("waiting", active=True).detail
        other_name = server.url.replace("localhost", HOST)
        with listen(other_name, ca_file=authority.certificate) as refused:
            assert "its certificate is not valid here" in refused.wait_for("waiting", active=True).detail
        with listen(server.url, ca_file=authority.certificate) as listener:
            listener.receive(2)


def test_the_certificates_of_the_servers_that_a_playlist_names_are_verified(
    authority: Authority, tmp_path: Path
) -> None:
    folder = tmp_path / "hls"
    folder.mkdir()
    playlist = folder / "live.m3u8"
    source = ("-f", "lavfi", "-i", "sine=duration=6", "-c:a", "aac")
    hls = ("-f", "hls", "-hls_time", "2", "-hls_list_size", "0", str(playlist))
    subprocess.run([program("ffmpeg"), "-v", "error", *source, *hls], check=True)
    pair = authority.issue("segments", "DNS:localhost")

    def send(path: str, write: Write) -> None:
        write((folder / path.strip("/")).read_bytes())

    with HttpServer(send, pair.certificate, pair.key) as segments:
        text = re.sub(r"^(live\d+\.ts)", rf"{segments.url}/\1", playlist.read_text(), flags=re.MULTILINE)
        with HttpServer(lambda _path, write: write(text.encode())) as server:
            url = f"{server.url}/live.m3u8"
            with listen(url, ca_file=authority.certificate) as listener:
                listener.receive(5)
            asked = len(segments.requests)
            with listen(url, stall_s=1) as refused:
                assert "its certificate is not valid here" in refused.wait_for("waiting", active=True).detail
            assert len(segments.requests) == asked


def test_a_password_goes_to_the_host_of_the_url_alone(tmp_path: Path) -> None:
    data = tone(3, "-c:a", "libmp3lame", "-f", "mp3")
    secret = tmp_path / "credentials"
    secret.write_text(f"user:{SECRET}\n")
    secret.chmod(0o600)
    with HttpServer(lambda _path, write: write(data)) as elsewhere:
        playlist = f"#EXTM3U\n#EXT-X-TARGETDURATION:3\n#EXTINF:3,\n{elsewhere.url}/live.mp3\n#EXT-X-ENDLIST\n"
        moved = HttpServer(lambda _path, write: write(playlist.encode()))
        moved.needs_password = True
        with moved, HttpServer(lambda _path, write: write(data)) as direct:
            direct.needs_password = True
            with listen(direct.url, credentials_file=secret) as listener:
                listener.receive(2)
            with listen(f"{moved.url}/live.m3u8", credentials_file=secret):
                wait_until(lambda: elsewhere.requests, "the request")
    assert not any("Authorization" in headers for _path, headers in elsewhere.requests)


def test_a_camera_whose_tls_is_not_trusted_is_refused(authority: Authority) -> None:
    pair = authority.issue("camera", "DNS:localhost")
    with Camera(f"{sound(16000)} ! {AAC}") as camera, TlsProxy(camera.port, pair.certificate, pair.key) as port:
        url = f"rtsps://localhost:{port}/cam"
        with listen(url) as refused:
            refused.wait_for("waiting", active=True)
        assert camera.requests == []
        with listen(url, ca_file=authority.certificate) as listener:
            listener.receive(1)


class TlsProxy:
    """Ends TLS before a server that has none."""

    def __init__(self, to_port: int, certificate: Path, key: Path) -> None:
        import ssl

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        self._context, self._to_port = context, to_port
        self._listening = socket.create_server((HOST, 0))

    def __enter__(self) -> int:
        threading.Thread(target=self._accept, daemon=True).start()
        return int(self._listening.getsockname()[1])

    def __exit__(self, *_: object) -> None:
        self._listening.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listening.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        import select

        try:
            with (
                self._context.wrap_socket(client, server_side=True) as near,
                socket.create_connection((HOST, self._to_port)) as far,
            ):
                while True:
                    ready = [near] if near.pending() else select.select([near, far], [], [])[0]
                    for end, other in ((near, far), (far, near)):
                        if end in ready:
                            data = end.recv(65536)
                            if not data:
                                return
                            other.sendall(data)
        except OSError:
            return


def stamps(lengths: int, length_s: float, jitter_s: float = 0.0, pace: float = 1.0) -> Iterator[float]:
    noise = np.random.default_rng(7).uniform(-jitter_s, jitter_s, lengths)
    for number in range(lengths):
        yield number * length_s * pace + float(noise[number])


@pytest.mark.parametrize(
    ("length_s", "jitter_s", "pace"),
    [(0.064, 0.0, 1.0), (0.064, 0.02, 1.0), (0.02, 0.0005, 1.0), (0.02, 0.0, 1 + 200e-6), (0.02, 0.03, 1.0)],
)
def test_timestamps_that_are_rounded_jitter_or_drift_lose_nothing(
    length_s: float, jitter_s: float, pace: float
) -> None:
    marks = Timestamps()
    found = [marks.lost_s(at, length_s, at) for at in stamps(20000, length_s, jitter_s, pace)]
    assert sum(1 for lost_s in found if lost_s != 0) <= (0 if jitter_s < length_s / 2 else 3)


@pytest.mark.parametrize("length_s", [0.005, 0.02, 0.064])
def test_each_lost_packet_is_counted_by_its_timestamp(length_s: float) -> None:
    marks = Timestamps()
    kept = [at for number, at in enumerate(stamps(3000, length_s)) if number % 100 != 50]
    found = [marks.lost_s(at, length_s, at) or 0.0 for at in kept]
    assert sum(lost_s > 0 for lost_s in found) == 30
    assert sum(found) == pytest.approx(30 * length_s)


def test_jumps_beyond_the_clock_are_bounded_together_and_lost_packets_of_a_burst_are_none() -> None:
    marks = Timestamps(60.0)
    found = [marks.lost_s(at + 7.0 * (number // 50), 0.02, at) for number, at in enumerate(stamps(1000, 0.02))]
    assert [lost_s for lost_s in found if lost_s != 0] == [pytest.approx(7.0, abs=0.1)] * 8 + [None] * 11
    # Every fifth packet is lost, and the four others come together, for an hour.
    marks = Timestamps(60.0)
    kept = [(0.02 * number, 0.1 * (number // 5)) for number in range(180_000) if number % 5 != 2]
    lost = [marks.lost_s(at, 0.02, arrived_s) for at, arrived_s in kept]
    assert None not in lost
    assert sum(filter(None, lost)) == pytest.approx(0.02 * len(kept) / 4, rel=0.01)


def test_a_timestamp_that_is_missing_or_of_another_scale_counts_nothing() -> None:
    marks = Timestamps()
    assert marks.lost_s(None, 0.02, 0.0) == 0
    assert marks.lost_s(10.0, 0.02, 0.02) == 0
    assert marks.lost_s(None, 0.02, 0.04) == 0
    assert marks.lost_s(10.04, 0.02, 0.06) == 0
    assert marks.lost_s(95443.7, 0.02, 0.08) is None
    assert marks.lost_s(0.0, 0.02, 0.10) is None
    assert marks.lost_s(0.02, 0.02, 0.12) == 0


@pytest.mark.parametrize(
    ("user", "password", "shown"),
    [
        ("u", "p", "Input/output error of ... with ..."),
        ("error", "put/out", "In...put ... of u with p"),
    ],
)
def test_a_short_secret_hides_no_other_words(user: str, password: str, shown: str) -> None:
    assert Credentials(user, password).redacted("Input/output error of u with p") == shown
