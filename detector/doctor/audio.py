"""Checks of sound input: PortAudio, the device, access to it, its users, its mixer, its sound."""

from __future__ import annotations

import grp
import math
import os
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from detector.audio import portaudio
from detector.audio.devices import DEFAULT, Card, Device, check_selector, choose_channels, find_device, rates_of
from detector.audio.levels import FLOOR_DBFS, Level
from detector.audio.live_source import (
    AudioBlock,
    AudioGap,
    AudioSource,
    SourceCondition,
    SourceEvent,
    drain,
)
from detector.audio.portaudio import within
from detector.config.paths import STDIN
from detector.config.sections import Audio
from detector.doctor.result import (
    SETTINGS,
    UNAVAILABLE,
    CheckResult,
    Process,
    SystemPaths,
    counted,
    ok,
    open_files,
    output_of,
    problem,
    process,
    processes,
    skipped,
    text_of,
    user_name,
    warning,
)
from detector.errors import ConfigError, DetectorError
from detector.messages import Samples

SYSTEM: Final = "PortAudio"
DEVICE: Final = "device"
ACCESS: Final = "access"
DEVICE_USERS: Final = "holders"
MIXER: Final = "mixer"
MICROPHONE: Final = "microphone"
STREAM: Final = "stream"
LEVELS: Final = "levels"

SECONDS: Final = 3.0
_ANSWER_S: Final = 10.0
_GROUP: Final = "audio"

_OWNER: Final = re.compile(r"^owner_pid\s*:\s*(\d+)", re.MULTILINE)
_STATUS: Final = re.compile(r"card(\d+)/pcm\d+c/sub\d+/status$")
_PCM: Final = re.compile(r"/dev/snd/pcmC(\d+)D\d+c$")
_SERVERS: Final = frozenset({"pulseaudio", "pipewire", "wireplumber", "pipewire-pulse"})

_OPENING_S: Final = 12.0
"""Time for the device to give its first sound; a sound server may need some."""
_BEYOND_S: Final = 0.2
"""Sound on its way through the resampler when the device has given enough."""
_NO_SOUND: Final = f"no sound has arrived within {_OPENING_S:g} s"

_CONTROL: Final = re.compile(r"^Simple mixer control '(.*)',\d+$")
_CAPTURE: Final = re.compile(r"Capture(?: (-?\d+))?((?: \[[^\]]+\])+)")
_PERCENT: Final = re.compile(r"\[(\d+)%\]")
_SWITCH: Final = re.compile(r"\[(on|off)\]")
_MAIN: Final = "capture"
"""Prefix of the controls that all sound of a card passes."""
_LOW_PERCENT: Final = 10

_PACE_TOLERANCE: Final = 0.2
"""Accepted deviation from the device's rate in a few seconds; the service measures longer and more closely."""
_LOST_S: Final = 0.05
_CLIPPED_SHARE: Final = 1e-3
_DC: Final = 0.02
_QUIET_DBFS: Final = -90.0
_ZEROS_S: Final = 0.05
"""A run of zeros that no sound of a real place contains."""
_SILENT_S: Final = 2.0


def is_pipe(audio: Audio) -> bool:
    """Return whether sound comes from standard input instead of a device."""
    return audio.device == STDIN


def check_system() -> CheckResult:
    """Check that PortAudio is installed and starts."""
    try:
        module = within(_ANSWER_S, portaudio.load, "PortAudio")
        version = module.get_portaudio_version()[1].partition(",")[0]
        inputs = within(_ANSWER_S, portaudio.inputs, "the sound system")
    except DetectorError as error:
        advice = "apt-get install libportaudio2 if it is missing; else restart the sound server"
        return problem(SYSTEM, str(error), advice, UNAVAILABLE)
    return ok(SYSTEM, f"{version}, with {counted(len(inputs), 'input')}")


def check_device(audio: Audio) -> tuple[Device | None, CheckResult]:
    """Return the configured device and the result of the check; None if there is no such device."""
    try:
        check_selector(audio.device)
        device = within(_ANSWER_S, lambda: find_device(audio.device), "the sound system")
        choose_channels(audio.channel, device)
        rates = within(_ANSWER_S, lambda: rates_of(device, portaudio.takes_rate), "the device")
    except ConfigError as error:
        return None, problem(DEVICE, str(error), "correct audio.device", SETTINGS)
    except DetectorError as error:
        advice = "snn-detect devices lists the devices: set audio.device to one of them, or connect it"
        return None, problem(DEVICE, str(error), advice, UNAVAILABLE)
    found = _described(device, rates)
    if audio.device.isdecimal():
        advice = f'numbers change when cards come and go: set audio.device = "{device.id}"'
        return device, warning(DEVICE, f"{found}; selected by its number", advice)
    if audio.rate_hz is not None and audio.rate_hz not in rates:
        advice = f"leave audio.rate_hz out to use the device's own {device.rate_hz} Hz"
        return device, warning(DEVICE, f"{found}; not the configured {audio.rate_hz} Hz", advice)
    return device, ok(DEVICE, found)


def _described(device: Device, rates: list[int]) -> str:
    if not device.is_hardware:
        return f"{device.id}: a sound server or plug-in, which takes any rate"
    name = "" if device.name == device.id else f" ({device.name})"
    taken = f", takes {', '.join(map(str, rates))} Hz" if rates else ""
    return f"{device.id}{name}: {counted(device.channels, 'channel')}, native rate {device.rate_hz} Hz{taken}"


def card_of(device: Device | None, cards: list[Card]) -> Card | None:
    """Return the card of a device; None for one of a sound server."""
    ids = () if device is None or not device.is_hardware else device.ids
    names = {id_.partition(",")[0] for id_ in ids}
    return next((card for card in cards if names.intersection(card.ids)), None)


def check_access(paths: SystemPaths, *, is_needed: bool) -> CheckResult:
    """Check that this user may open the cards' inputs; ``is_needed``: no sound server opens them instead."""
    inputs = sorted(paths.snd.glob("pcmC*D*c"))
    if not inputs:
        return skipped(ACCESS, f"there is no input in {paths.snd}; a sound server may still provide one")
    user = user_name(os.geteuid())
    closed = [path for path in inputs if not os.access(path, os.R_OK | os.W_OK)]
    group = _audio_group()
    if not closed:
        by = f", by the group {_GROUP}" if group and group.gr_gid in os.getgroups() else ""
        return ok(ACCESS, f"{user} may open {', '.join(path.name for path in inputs)}{by}")
    found, advice = f"{user} may not open {', '.join(map(str, closed))}", _group_advice(user, group)
    if not is_needed:
        return warning(ACCESS, f"{found}; a sound server may", advice)
    return problem(ACCESS, found, advice, UNAVAILABLE)


def _audio_group() -> grp.struct_group | None:
    try:
        return grp.getgrnam(_GROUP)
    except KeyError:
        return None


def _group_advice(user: str, group: grp.struct_group | None) -> str:
    if group is None:
        return f"add {user} to the group that owns the devices in /dev/snd, then log in again"
    if group.gr_gid in os.getgroups():
        return f"the group {_GROUP} is not enough here: ls -l /dev/snd shows owners and modes"
    if user in group.gr_mem:
        return f"{user} was added to the group {_GROUP} after this login: log in again"
    return f"sudo usermod -aG {_GROUP} {user}, then log in again; in a container: --group-add {group.gr_gid}"


@dataclass(frozen=True, slots=True)
class DeviceUser:
    """A process that has the input of a card open."""

    card: int
    process: Process


def find_device_users(paths: SystemPaths) -> tuple[DeviceUser, ...]:
    """Return the processes that have a card's input open, without this one, by card and process id.

    The kernel names one process for each open input; the open files of processes name those that
    share it, as far as this user may read them.
    """
    found = {(u.card, u.process.pid): u for u in (*_by_kernel(paths), *_by_files(paths))}
    return tuple(u for _, u in sorted(found.items()) if u.process.pid != os.getpid())


def check_device_users(
    users: Sequence[DeviceUser], cards: Sequence[Card], number: int | None, *, is_measured: bool
) -> CheckResult:
    """Report the users of the microphones.

    ``number`` is the configured card, None for any; ``is_measured``: it could be opened nevertheless.
    """
    if not cards and not users:
        return skipped(DEVICE_USERS, "there are no sound cards here")
    if not users:
        return ok(DEVICE_USERS, "no program has a microphone open")
    titles = {card.number: f" ({card.title})" for card in cards if card.title}
    found = "; ".join(f"card {u.card}{titles.get(u.card, '')}: {u.process}" for u in users)
    blocking = [u.process for u in users if number in (None, u.card)]
    if is_measured or not blocking:
        return ok(DEVICE_USERS, found)
    if any(p.is_detector for p in blocking):
        return ok(DEVICE_USERS, f"{found}; so the detector itself is listening")
    return problem(DEVICE_USERS, found, _release_advice(blocking[0]), UNAVAILABLE)


def is_used_by_detector(users: Sequence[DeviceUser], cards: Sequence[Card], selector: str) -> bool:
    """Return whether a running detector has the selected device open, which hides it from other programs."""
    own = {u.card for u in users if u.process.is_detector}
    ids = [id_.lower() for card in cards if card.number in own for id_ in card.ids]
    return bool(own) and (selector == DEFAULT or any(id_.startswith(selector.lower()) for id_ in ids))


def _release_advice(user: Process) -> str:
    if user.name in _SERVERS:
        return (
            f"listen through {user.name}: run snn-detect as a service of the user who runs it, with "
            f'audio.device = "mic"; or end {user.name}'
        )
    return f"end it: kill {user.pid}, or stop the service that started it (systemctl status {user.pid})"


def _by_kernel(paths: SystemPaths) -> Iterator[DeviceUser]:
    for status in sorted(paths.proc.glob("asound/card*/pcm*c/sub*/status")):
        card, owner = _STATUS.search(str(status)), _OWNER.search(text_of(status))
        if card and owner:
            number = int(owner[1])
            yield DeviceUser(int(card[1]), process(paths.proc, number) or Process(number, "unknown", ()))


def _by_files(paths: SystemPaths) -> Iterator[DeviceUser]:
    for candidate in processes(paths.proc):
        for card in {int(m[1]) for name in open_files(paths.proc, candidate.pid) if (m := _PCM.search(name))}:
            yield DeviceUser(card, candidate)


@dataclass(frozen=True, slots=True)
class Control:
    """A mixer control of the capture side; of several channels, the loudest."""

    name: str
    percent: int | None
    """Volume; None without one."""
    is_on: bool | None
    """Switch; None without one."""

    @property
    def is_low(self) -> bool:
        """Whether next to nothing passes."""
        return self.percent is not None and self.percent < _LOW_PERCENT

    def __str__(self) -> str:
        """Return name, volume, and whether it is off."""
        volume = "" if self.percent is None else f" {self.percent} %"
        return f"{self.name}{volume}{' off' if self.is_on is False else ''}"


def check_mixer(paths: SystemPaths, card: Card | None) -> CheckResult:
    """Check the capture controls of a card; None: of the default device, as for a sound server."""
    which = () if card is None else ("-c", str(card.number))
    text = output_of("amixer", *which, "scontents")
    if text is None:
        return skipped(MIXER, "amixer is missing or finds no mixer here (it is in the package alsa-utils)")
    found = list(controls(text))
    if not found:
        return skipped(MIXER, "there is no capture volume")
    keep = f"sudo alsactl store{'' if card is None else f' {card.number}'}"
    described = ", ".join(map(str, found))
    if bad := muted(found) or low(found):
        name = bad.name.replace("'", "'\\''")
        advice = f"{' '.join(('amixer', *which))} sset '{name}' 80% cap, then {keep}: otherwise a restart resets it"
        return warning(MIXER, f"{bad.name} is {'muted' if bad.is_on is False else 'very low'} ({described})", advice)
    is_stored = card is None or paths.mixer_state.exists()
    return ok(MIXER, described, "" if is_stored else f"{keep} keeps it over restarts")


def controls(text: str) -> Iterator[Control]:
    """Yield the capture controls in the output of ``amixer scontents``."""
    name, values = "", ""
    for line in [*text.splitlines(), "Simple mixer control '',0"]:
        begin = _CONTROL.match(line)
        if begin is None:
            values += "".join(m[2] for m in _CAPTURE.finditer(line))
            continue
        if values:
            percents = [int(p) for p in _PERCENT.findall(values)]
            switches = _SWITCH.findall(values)
            yield Control(name, max(percents, default=None), "on" in switches if switches else None)
        name, values = begin[1], ""


def muted(found: Iterable[Control]) -> Control | None:
    """Return the control that mutes the card; of several inputs, one that is on is enough."""
    main, inputs = _main_and_inputs(c for c in found if c.is_on is not None)
    closed = next((c for c in main if not c.is_on), None)
    return closed or (inputs[0] if inputs and not any(c.is_on for c in inputs) else None)


def low(found: Iterable[Control]) -> Control | None:
    """Return the control whose volume is very low; that of an input that is off does not count."""
    main, inputs = _main_and_inputs(c for c in found if c.percent is not None and c.is_on is not False)
    closed = next((c for c in main if c.is_low), None)
    return closed or (inputs[0] if inputs and not main and all(c.is_low for c in inputs) else None)


def _main_and_inputs(found: Iterable[Control]) -> tuple[list[Control], list[Control]]:
    parts: tuple[list[Control], list[Control]] = ([], [])
    for control in found:
        parts[not control.name.lower().startswith(_MAIN)].append(control)
    return parts


class Recording:
    """Some seconds of sound from a live source, and how they arrived."""

    def __init__(self, source: AudioSource, rate_hz: int) -> None:
        """Take an open source and the sample rate of the model."""
        self._source, self.rate_hz = source, rate_hz
        self.stats = source.stats
        """Of the source, at the end."""
        self.levels: list[Level] = []
        """Of each whole second; none of zeros alone."""
        self.chunks: list[Samples] = []
        """At ``rate_hz``, one of each turn with sound."""
        self.wall_s = self.lost_s = 0.0
        """``wall_s``: between the arrivals of the first chunk and of the last."""
        self.trouble: str | None = None
        """Why no sound arrived; None if some did."""
        self._arrived: list[Samples] = []
        self._deadline, self._first_s = time.monotonic() + _OPENING_S, math.inf

    @property
    def seconds(self) -> float:
        """Length of the sound."""
        return sum(map(len, self.chunks)) / self.rate_hz

    @property
    def pace(self) -> float | None:
        """Seconds of sound that arrive in a second; None if there are too few to measure."""
        later = sum(map(len, self.chunks[1:])) / self.rate_hz
        return later / self.wall_s if later > SECONDS / 2 and self.wall_s > 0 else None

    @property
    def longest_zeros_s(self) -> float:
        """Length of the longest run of zeros."""
        samples = np.concatenate([np.zeros(0, np.float32), *self.chunks])
        edges = np.flatnonzero(np.concatenate(([True], samples != 0, [True])))
        return float(np.diff(edges).max() - 1) / self.rate_hz

    def handle(self, event: SourceEvent) -> None:
        """Process an event of the source."""
        match event:
            case AudioBlock():
                self._arrived.append(event.chunk.samples)
            case AudioGap():
                self.lost_s += event.samples / self.rate_hz
            case SourceCondition(name="waiting", active=True):
                self.trouble = event.detail.partition(": ")[2]

    def goes_on(self) -> bool:
        """Add the sound and level of the last turn; return whether more is needed."""
        now_s, s = time.monotonic(), self._source.stats
        self.stats, level = s, Level(s.rms_dbfs, s.peak_dbfs, s.dc)
        if level not in (Level(), *self.levels[-1:]):  # each second's differs from the last unless both are silence
            self.levels.append(level)
        if self._arrived:
            self.chunks.append(np.concatenate(self._arrived))
            self._arrived.clear()
        if self.chunks:
            self._first_s = min(self._first_s, now_s)
            self.wall_s = now_s - self._first_s
        elif now_s > self._deadline:
            self.trouble = _NO_SOUND
        is_late = now_s > self._first_s + 2 * _OPENING_S
        return self.trouble is None and not is_late and self.seconds < SECONDS + _BEYOND_S


def listen(source: AudioSource, rate_hz: int) -> Recording:
    """Record some seconds from an open source; an absent device is not waited for."""
    recording = Recording(source, rate_hz)
    if drain(source, recording.handle, recording.goes_on) and not recording.chunks:
        recording.trouble = recording.trouble or _NO_SOUND
    return recording


def check_microphone(recording: Recording, device: Device) -> CheckResult:
    """Check how the device was opened, and how its sound arrived."""
    if recording.trouble is not None:
        advice = "check who uses it and whether this user may open it; then unplug it and plug it in again"
        return problem(MICROPHONE, recording.trouble, advice, UNAVAILABLE)
    s = recording.stats
    native = ", its native rate" if device.is_hardware and s.device_rate_hz == device.rate_hz else ""
    found = (
        f"opened at {s.device_rate_hz} Hz{native}, {counted(s.device_channels, 'channel')}; "
        f"{recording.seconds:.1f} s received"
    )
    if recording.lost_s > _LOST_S or s.overruns:
        advice = "the machine is too busy, or the USB port or its power is weak: try another port, without a hub"
        return warning(MICROPHONE, f"{found}, {recording.lost_s:.2f} s lost ({s.overruns} overruns)", advice)
    pace = recording.pace
    if pace is not None and abs(pace - 1) > _PACE_TOLERANCE:
        advice = "set audio.rate_hz to a rate that snn-detect devices lists, or use another device"
        return warning(MICROPHONE, f"{found}; {pace:.2f} s of sound arrive per second", advice)
    return ok(MICROPHONE, found)


def check_stream(recording: Recording) -> CheckResult:
    """Check how the stream was opened, and how its sound arrived."""
    if recording.trouble is not None:
        advice = "check that its server runs, audio.device, and audio.credentials_file"
        return problem(STREAM, recording.trouble, advice, UNAVAILABLE)
    s = recording.stats
    found = f"{s.device}: {s.device_rate_hz} Hz, {counted(s.device_channels, 'channel')}; {recording.seconds:.1f} s"
    if recording.lost_s > _LOST_S:
        advice = 'the network loses packets: try audio.transport = "tcp", or a better connection'
        return warning(STREAM, f"{found}, {recording.lost_s:.2f} s lost", advice)
    return ok(STREAM, found)


def check_levels(recording: Recording) -> CheckResult:
    """Check the sound: silence, clipping, DC offset, runs of zeros."""
    rms_dbfs = max((level.rms_dbfs for level in recording.levels), default=FLOOR_DBFS)
    peak_dbfs = max((level.peak_dbfs for level in recording.levels), default=FLOOR_DBFS)
    is_silent = "silent" in recording.stats.conditions or recording.longest_zeros_s > _SILENT_S
    if not recording.levels or is_silent:
        advice = (
            "unmute it and raise its volume (alsamixer -V capture), then sudo alsactl store; "
            "only sources that can be silent, such as a null sink or a loopback, may do so"
        )
        return problem(LEVELS, "only zeros arrive: the microphone is muted, or not connected", advice, UNAVAILABLE)
    found = f"rms {rms_dbfs:.0f} dBFS, peak {peak_dbfs:.0f} dBFS"
    defects = list(_defects(recording, rms_dbfs))
    if not defects:
        return ok(LEVELS, f"{found}, no clipping, no DC offset, no dropouts")
    return warning(LEVELS, "; ".join((found, *(what for what, _ in defects))), "; ".join(do for _, do in defects))


def _defects(recording: Recording, rms_dbfs: float) -> Iterator[tuple[str, str]]:
    """Yield each defect of the sound with what to do."""
    frames = recording.seconds * recording.stats.device_rate_hz
    share = recording.stats.clipped_samples / frames if frames else 0.0
    if share > _CLIPPED_SHARE:
        yield f"{share:.1%} of the samples are clipped", "lower its volume: alsamixer -V capture, then alsactl store"
    dc = max((level.dc for level in recording.levels), key=abs)
    if abs(dc) > _DC:
        yield f"the mean is {dc:+.3f} of full scale", "the microphone or its power supply is faulty: try another one"
    if rms_dbfs < _QUIET_DBFS:
        yield "quieter than any real place", "raise its volume: alsamixer -V capture, then alsactl store"
    if (zeros_s := recording.longest_zeros_s) > _ZEROS_S:
        advice = "a noise gate in the microphone, or a weak USB port: switch it off, try another port"
        yield f"zeros for {zeros_s:.2f} s", advice
