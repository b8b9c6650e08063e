"""Network streams as an audio source, by FFmpeg's libraries: RTSP cameras, HTTP (Icecast, HLS, raw samples), UDP, RTP.

Only the sound is asked of an RTSP server. HTTP is read by Python's own client, which also verifies what FFmpeg would
not: the certificates of the servers that an HLS playlist names. Lost sound is counted by the timestamps of the stream;
where those say nothing, by the clock.
"""

from __future__ import annotations

import io
import logging
import re
import ssl
import time
import urllib.error
import urllib.request
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Final
from urllib.parse import quote, urlsplit, urlunsplit

import numpy as np
from numpy.typing import NDArray

from detector.audio.capture import Block, Capture, StreamFormat, now_s
from detector.audio.captured_source import CapturedSource
from detector.audio.live_source import Mixing
from detector.audio.media import (
    AHEAD_S,
    Timestamps,
    TrackError,
    as_floats,
    choose_track,
    load_av,
    track_languages,
    use_track,
)
from detector.config.secrets import credential, read_secret
from detector.config.sections import Audio
from detector.errors import ConfigError, DetectorError, DeviceError

_log = logging.getLogger(__name__)
CREDENTIALS: Final = "stream-credentials"
"""Name of systemd's credential with user and password."""
SCHEMES: Final = ("rtsp", "rtsps", "http", "https", "udp")
_LONG_SECRET: Final = 4
_PROTOCOLS: Final = "rtsp,rtsps,rtp,srtp,udp,tcp,tls,file,crypto,data"
"""What FFmpeg may open by itself; a server must not have it read files, and RTSP has no way to name one."""
_OPEN_S: Final = 8.0
"""Time for a server to answer and send its first sound."""
_PAUSE_S: Final = (0.5, 3.0)
_HUNG_S: Final = 60.0
"""A call that takes so long will not return soon; looking up the name of a host has a limit of its own, below that."""
_SPAN_S: Final = 20.0
"""HLS delivers every few seconds."""
_REFUSED_S: Final = 30.0
"""Time until a server that has refused the password is asked again: many lock out who tries too often."""
_BLOCK_S: Final = 0.1
_HLS_STALLS: Final = 4
"""A stream of segments pauses between them: its stall is so many times as long."""
_ANALYSED_S: Final = 1.0
_FULL: Final = 0.5
_NAP_S: Final = 0.02
_WAITED_S: Final = 0.004
_NAP_SHARE: Final = 0.75
_LONGEST_BLOCK_S: Final = 0.2
_UNAUTHORISED: Final = 401
_HTTP_WORDS: Final = {
    401: "user name or password is wrong or missing (401): see audio.credentials_file",
    403: "it refuses access (403)",
    404: "there is no such stream (404)",
}


_HTTP_CODES: Final = {"HTTPUnauthorizedError": 401, "HTTPForbiddenError": 403, "HTTPNotFoundError": 404}
"""Of the errors of PyAV."""
_WORDS: Final = {
    **dict.fromkeys(("NoneType", "EOFError", "ExitError", "TimeoutError"), ""),
    "InvalidDataError": "what it sends cannot be read as sound; raw samples need audio.sample_format",
}


class _RefusedError(DeviceError):
    """A server refuses user name and password."""


class _ChangedError(Exception):
    """A stream goes on in another way, and has to be opened again for that."""


def check_stream(audio: Audio) -> None:
    """Raise ConfigError for what can be no network stream, whether or not its server is there; never shows a URL."""
    load_av("network streams")
    url = urlsplit(audio.device)
    if sdp_file(audio.device) is None:
        if url.scheme.lower() not in SCHEMES:
            raise ConfigError(
                f"device {audio.name}: a stream begins with {'://, '.join(SCHEMES)}://, or ends with .sdp"
            )
        if "@" in audio.device:
            raise ConfigError(
                f"device {audio.name}: other users can read a password in a URL; write user:password into the first "
                "line of a file, and name it with audio.credentials_file or --credentials-file (an @ elsewhere is %40)"
            )
        if not url.hostname:
            raise ConfigError(f"device {url.scheme}://...: the host is missing")
    elif not Path(sdp_file(audio.device) or "").is_file():
        raise ConfigError(f"device {audio.name}: there is no such SDP file")
    if audio.sample_format is not None and audio.rate_hz is None:
        raise ConfigError("audio.sample_format: raw samples need their rate: set audio.rate_hz, or --sample-rate")
    if audio.sample_format is not None and (Mixing(audio.channel).column or 0) >= audio.channels:
        raise ConfigError(
            f"raw samples: channel {audio.channel} is not there, they have {audio.channels}; check channels"
        )
    Credentials.of(audio)


def sdp_file(device: str) -> str | None:
    """Return the SDP file that a device names, as a path or as udp:///path; None for another device."""
    if not device.lower().endswith(".sdp"):
        return None
    return urlsplit(device).path if device.lower().startswith("udp:///") else None if "://" in device else device


class Credentials:
    """User name and password of a stream; where there are none, both are empty."""

    def __init__(self, user: str = "", password: str = "") -> None:
        """Take both."""
        self.user, self.password = user, password

    @classmethod
    def of(cls, audio: Audio) -> Credentials:
        """Read those of the settings; raises ConfigError where they cannot be read, or a URL needs them."""
        source = audio.credentials_file or (CREDENTIALS if credential(CREDENTIALS) else None)
        if source is None:
            if "{user}" in audio.device or "{password}" in audio.device:
                raise ConfigError(f"device {audio.name}: its {{user}} and {{password}} need audio.credentials_file")
            return cls()
        user, colon, password = read_secret(source).partition(":")
        if not colon:
            raise ConfigError(f"{source}: the first line must be user:password")
        return cls(user, password)

    def fill(self, url: str) -> str:
        """Return a URL with the values for ``{user}`` and ``{password}``."""
        return url.replace("{user}", quote(self.user, safe="")).replace("{password}", quote(self.password, safe=""))

    def within(self, url: str) -> str:
        """Return a URL that holds them, for FFmpeg alone."""
        parts = urlsplit(url)
        if not self.user and not self.password:
            return url
        netloc = f"{quote(self.user, safe='')}:{quote(self.password, safe='')}@{parts.netloc}"
        return urlunsplit(parts._replace(netloc=netloc))

    def redacted(self, text: str) -> str:
        """Return a text of a library without them, and without URLs."""
        for secret in (self.password, quote(self.password, safe=""), self.user, quote(self.user, safe="")):
            # A short one only as a word: of one letter, it would hide each such letter.
            around = ("", "") if len(secret) >= _LONG_SECRET else (r"(?<!\w)", r"(?!\w)")
            text = re.sub(re.escape(secret).join(around), "...", text) if secret else text
        return re.sub(r"[A-Za-z][A-Za-z0-9+.-]*://\S+", "...", text)


class HttpClient:
    """Opens the addresses of a stream by HTTP: TLS is verified, and the password given to the host of the URL alone."""

    def __init__(self, audio: Audio, url: str, credentials: Credentials, timeout_s: float) -> None:
        """Take the settings; raises ConfigError for certificates that cannot be read."""
        try:
            context = ssl.create_default_context(cafile=None if audio.ca_file is None else str(audio.ca_file))
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(f"{audio.ca_file}: these certificates cannot be read ({error.args[-1]})") from None
        passwords = urllib.request.HTTPPasswordMgrWithDefaultRealm()
        if credentials.user or credentials.password:
            parts = urlsplit(url)
            origin = f"{parts.scheme}://{parts.netloc}/"
            passwords.add_password(None, origin, credentials.user, credentials.password)
        self._opener = urllib.request.build_opener(
            urllib.request.HTTPSHandler(context=context),
            urllib.request.HTTPBasicAuthHandler(passwords),
            urllib.request.HTTPDigestAuthHandler(passwords),
        )
        self._opener.addheaders = [("User-Agent", "snn-detect")]
        self._timeout_s = timeout_s
        self._bodies: weakref.WeakSet[_Body] = weakref.WeakSet()
        self.fault: Exception | None = None
        """Why the last address could not be opened or read; None: it could be."""

    def open(self, url: str, _flags: int = 0, _options: object = None) -> Any:
        """Open an address as FFmpeg asks for it; an empty file where that fails, since FFmpeg takes no exception."""
        self.fault = None
        if not url.lower().startswith(("http://", "https://")):
            self.fault = DeviceError("it names addresses other than http:// and https://, as encrypted HLS does")
            return io.BytesIO()
        try:
            body = _Body(self, self._opener.open(url, timeout=self._timeout_s))
        except Exception as error:  # noqa: BLE001 - a library's callback; raised again by ``MediaStream``
            self.fault = error
            if isinstance(error, urllib.error.HTTPError):
                error.close()
            return io.BytesIO()
        self._bodies.add(body)
        return body

    def close(self) -> None:
        """Close what FFmpeg has left open."""
        for body in list(self._bodies):
            body.close()


class _Body:
    """The body of an answer, as FFmpeg reads it: what has arrived, not only what fills its buffer."""

    def __init__(self, client: HttpClient, response: Any) -> None:
        self._client, self._response = client, response

    def read(self, size: int) -> bytes:
        try:
            data: bytes = self._response.read1(size)
        except Exception as error:  # noqa: BLE001 - as above
            self._client.fault = self._client.fault or error
            return b""
        return data

    def close(self) -> None:
        self._response.close()


class MediaStream:
    """An open stream, as blocks of frames; DeviceError is raised where it is lost, _ChangedError where it changes."""

    def __init__(self, audio: Audio, credentials: Credentials, *, in_segments: bool = False) -> None:
        """Open; ``in_segments``: as HLS, which pauses longer. Raises DeviceError where that fails."""
        self._audio, self._credentials, self._av = audio, credentials, load_av("network streams")
        self._stall_s = audio.stall_s * (_HLS_STALLS if in_segments else 1)
        self._column = Mixing(audio.channel).column
        self._http: HttpClient | None = None
        self._began_s = self._fed_s = time.monotonic()
        self._container = self._open()
        self.is_segmented = self._container.format.name in {"hls", "dash"}
        try:
            self._track = self._choose()
        except DeviceError:
            self.close()
            raise
        self._packets: Iterator[Any] = self._container.demux(self._track)
        self._tick_s = float(self._track.time_base)
        self._timestamps, self._has_jumped = Timestamps(AHEAD_S), False
        self._parts: list[NDArray[np.float32]] = []
        self._frames = 0
        self._lost_s: float | None = 0.0
        self._fault: Exception | None = None
        self._delivered_s, self._first_s = 0.0, 0.0
        self.format = StreamFormat(audio.name, self._track.codec_context.sample_rate or 1, 1, None)

    @property
    def ahead_s(self) -> float:
        """Seconds of sound that have come beyond what the clock allows: a burst at the start, or a file."""
        return self._delivered_s - (time.monotonic() - self._first_s) if self._delivered_s else 0.0

    def read(self) -> list[Block]:
        """Wait for a tenth of a second of sound or a little more, and return it; in several blocks where it changes."""
        blocks: list[Block] = []
        if self._fault is not None:
            raise self._fault
        try:
            while self._frames < _BLOCK_S * self.format.rate_hz and not blocks:
                for frame in self._next_frames():
                    blocks += self._add(frame)
        except (DeviceError, _ChangedError) as error:
            self._fault = error  # behind the sound so far
        blocks += self._block()
        if self._fault is not None and not blocks:
            raise self._fault
        return blocks

    def wait(self, seconds: float) -> None:
        """Wait, without taking that for a stall."""
        time.sleep(seconds)
        self._fed_s = time.monotonic()

    def close(self) -> None:
        """Close; never raises. An RTSP server is notified."""
        try:
            self._container.close()
        except Exception as error:  # noqa: BLE001 - whatever it is, nothing more can be done
            _log.debug("closing a stream has failed: %s", type(error).__name__)
        if self._http is not None:
            self._http.close()

    def _open(self) -> Any:
        audio = self._audio
        sdp = sdp_file(audio.device)
        url = sdp or self._credentials.fill(audio.device)
        scheme = "sdp" if sdp else urlsplit(url).scheme.lower()
        arguments: dict[str, Any] = {"timeout": (_OPEN_S, self._stall_s)}
        options = {"analyzeduration": str(round(1e6 * _ANALYSED_S)), "protocol_whitelist": _PROTOCOLS}
        if audio.sample_format is not None:
            arguments["format"] = audio.sample_format
            options |= {"sample_rate": str(audio.rate_hz), "ch_layout": f"{audio.channels}c"}
        if scheme in {"http", "https"}:
            self._http = HttpClient(audio, url, self._credentials, min(_OPEN_S, self._stall_s))
            arguments["io_open"] = self._http.open
            options |= {"protocol_whitelist": "http,https,tcp,tls,data", "http_persistent": "0"}
        elif scheme in {"rtsp", "rtsps"}:
            url = self._credentials.within(url)
            options |= {"rtsp_transport": audio.transport, "allowed_media_types": "audio", "tls_verify": "1"}
            options["ca_file"] = str(audio.ca_file or ssl.get_default_verify_paths().cafile or "")
        elif scheme == "udp":
            options["overrun_nonfatal"] = "1"
        else:
            arguments["format"] = "sdp"
            options["allowed_media_types"] = "audio"
        try:
            return self._av.open(url, options=options, **arguments)
        except Exception as error:  # noqa: BLE001 - texts of libraries hold the URL, with its password
            if self._http is not None:
                self._http.close()
            raise self._error(error, _OPEN_S) from None

    def _choose(self) -> Any:
        """Return the sound track of the settings; raises DeviceError without it."""
        languages = track_languages(self._container)
        try:
            return use_track(self._container, choose_track(languages, self._audio.track, "audio.track ="))
        except TrackError as error:
            raise DeviceError(f"{self._audio.name}: {error}") from None

    def _next_frames(self) -> list[Any]:
        """Wait for a packet of the track and return its frames; none where it is damaged."""
        try:
            packet = next(self._packets, None)
        except self._av.error.PatchWelcomeError:  # such as a link of an Ogg chain that has other channels
            raise _ChangedError from None
        except Exception as error:  # noqa: BLE001 - as above
            raise self._error(error, self._stall_s) from None
        if packet is None:
            raise self._error(None, self._stall_s)
        try:
            frames: list[Any] = packet.decode()
        except self._av.error.InvalidDataError:
            frames = []  # the timestamps of the next one say how much is lost
        except (self._av.FFmpegError, ValueError):  # from PyAV 19 on the latter, where FFmpeg knows no such codec
            raise _ChangedError from None
        now = time.monotonic()
        if frames:
            self._fed_s, self._first_s = now, self._first_s or now
        elif now - self._fed_s > self._stall_s:
            raise self._error(None, self._stall_s)
        return frames

    def _add(self, frame: Any) -> list[Block]:
        """Keep the samples of a frame; return those before it where they do not belong together."""
        samples = as_floats(frame)
        rate_hz, channels = frame.sample_rate, samples.shape[0]
        stamp_s = None if frame.pts is None else frame.pts * self._tick_s
        lost_s = self._timestamps.lost_s(stamp_s, samples.shape[1] / rate_hz, time.monotonic())
        if lost_s is None:
            if self._container.format.name == "ogg":
                raise _ChangedError  # another link of a chain, whose time base may be wrong
            if not self._has_jumped:  # some streams do it all the time
                _log.info("%s: the timestamps have jumped; the clock says how much is lost", self._audio.name)
            self._has_jumped = True
        changed = (rate_hz, channels) != (self.format.rate_hz, self.format.channels)
        blocks = self._block() if changed or lost_s != 0.0 else []
        if lost_s != 0.0:
            self._lost_s = lost_s
        if changed:
            self.format = self._new_format(rate_hz, channels)
        self._parts.append(samples)
        self._frames += samples.shape[1]
        self._delivered_s += samples.shape[1] / rate_hz
        return blocks

    def _new_format(self, rate_hz: int, channels: int) -> StreamFormat:
        if self._column is not None and self._column >= channels:
            plural = "" if channels == 1 else "s"
            raise DeviceError(
                f"{self._audio.name} has {channels} channel{plural}; channel = {self._audio.channel} is not there"
            )
        return StreamFormat(self._audio.name, rate_hz, channels, self._column)

    def _block(self) -> list[Block]:
        """Return the samples that are kept, as one block."""
        if not self._parts:
            return []
        samples = np.ascontiguousarray(np.concatenate(self._parts, axis=1).T)
        block = Block(samples.data, self._frames, self.format, now_s())
        if self._lost_s != 0.0:
            block.cause = "network"
            block.lost = None if self._lost_s is None else round(self._lost_s * self.format.rate_hz)
        self._parts, self._frames, self._lost_s = [], 0, 0.0
        return [block]

    def _error(self, error: Exception | None, limit_s: float) -> DeviceError:
        """Return why the stream is lost, in words that hold no URL."""
        fault = self._http.fault if self._http is not None else None
        words, code = _words(fault or error)
        name = self._audio.name
        if code == _UNAUTHORISED:
            return _RefusedError(f"{name}: {words}")
        waited_s = time.monotonic() - self._fed_s
        if isinstance(fault, TimeoutError) or (not words and waited_s >= limit_s - _FULL) or waited_s >= limit_s:
            return DeviceError(f"{name}: no sound has arrived for {max(waited_s, min(limit_s, self._stall_s)):.0f} s")
        return DeviceError(f"{name}: {self._credentials.redacted(words) or 'the server has ended the stream'}")


def _words(error: Exception | None) -> tuple[str, int]:
    """Return an error in words, empty for an end, and the status of HTTP or 0."""
    if isinstance(error, urllib.error.URLError) and isinstance(error.reason, Exception):
        error = error.reason
    kind = type(error).__name__
    code = error.code if isinstance(error, urllib.error.HTTPError) else _HTTP_CODES.get(kind, 0)
    if code:
        return _HTTP_WORDS.get(code, f"it answers {code}"), code
    if isinstance(error, DetectorError):
        words = str(error)
    elif isinstance(error, ssl.SSLCertVerificationError):
        words = f"its certificate is not valid here ({error.verify_message}); audio.ca_file names others to trust"
    else:
        words = _WORDS.get(kind, str(getattr(error, "strerror", None) or kind))
    return words, 0


class StreamOpener:
    """Opens the stream of the settings, with what the file of the password holds at that time."""

    def __init__(self, audio: Audio) -> None:
        """Take the settings; raises ConfigError as ``check_stream``."""
        check_stream(audio)
        self._audio = audio
        self._in_segments = urlsplit(audio.device).path.lower().endswith((".m3u8", ".mpd"))
        self._refusal: _RefusedError | None = None
        self._refused_s = 0.0

    def __call__(self) -> MediaStream:
        """Open it; raises DeviceError where the server is absent, refuses, or sends no sound."""
        if self._refusal is not None and time.monotonic() < self._refused_s + _REFUSED_S:
            raise self._refusal
        self._refusal = None
        try:
            stream = MediaStream(self._audio, Credentials.of(self._audio), in_segments=self._in_segments)
        except _RefusedError as refusal:
            self._refusal, self._refused_s = refusal, time.monotonic()
            raise
        if stream.is_segmented and not self._in_segments:
            stream.close()
            self._in_segments = True
            return self()
        return stream


class StreamCapture(Capture):
    """Reads a stream into a queue until stopped; one that is lost is opened again, with exponential backoff."""

    noun: ClassVar[str] = "the stream"
    system: ClassVar[str] = "the network"
    span_s: ClassVar[float | None] = _SPAN_S

    @classmethod
    def pause_s(cls) -> tuple[float, float]:
        """Return the shortest and the longest pause before a stream is opened again."""
        return _PAUSE_S

    @classmethod
    def hung_s(cls) -> float:
        """Return how long a call takes that will not return soon."""
        return _HUNG_S

    def _read(self, stream: MediaStream) -> None:
        self._cause = "network" if self.had_sound else None
        while not self._stopped.is_set():
            before_s = time.monotonic()
            try:
                blocks = self._call(stream.read)
            except _ChangedError:
                return
            for block in blocks:
                if self._cause is not None:
                    block.cause, block.lost = self._cause, None
                self._deliver(block)
            # One that had to wait is up to date: it sleeps while packets arrive, and then reads several at once, since
            # to wake up for each of them costs more than to decode it.
            if time.monotonic() - before_s > _WAITED_S:
                time.sleep(_NAP_SHARE * min(_LONGEST_BLOCK_S, sum(block.seconds for block in blocks)))
            # What comes ahead of the clock, a burst or a file, waits for the detector and pushes nothing out.
            while stream.ahead_s > 0 and self._queue.depth > _FULL and not self._stopped.is_set():
                stream.wait(_NAP_S)


class NetworkStream(CapturedSource):
    """An audio source that receives the stream of the settings, and waits for it where it is absent."""

    def __init__(self, audio: Audio, model_rate_hz: int) -> None:
        """Start receiving in a thread; raises ConfigError as ``check_stream``."""
        super().__init__(audio.name, audio, model_rate_hz, StreamOpener(audio), StreamCapture)
