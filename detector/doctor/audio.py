"""The sound system and the device that is asked for.

Whether this user may open the sound cards.

Who has the microphones open.

Some seconds of listening, as the service listens.

The capture volumes of the sound cards, as ALSA's mixer has them.

What some seconds of listening tell of the microphone: how it was opened, and how it sounds.
"""

from __future__ import annotations

import grp
import os
import pwd
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from detector.audio import portaudio
from detector.audio.devices import DEFAULT, Card, Device, check_selector, choose_channels, rates_of
from detector.audio.levels import FLOOR_DBFS, Level
from detector.audio.live_source import AudioBlock, AudioGap, LiveSource, SourceCondition, SourceStats
from detector.audio.microphone import find_device
from detector.audio.portaudio import within
from detector.config.sections import Audio
from detector.doctor.result import (
    SETTINGS,
    UNAVAILABLE,
    CheckResult,
    Process,
    SystemPaths,
    answer,
    ok,
    open_files,
    problem,
    process,
    processes,
    skipped,
    warning,
)
from detector.errors import ConfigError, DetectorError
from detector.messages import Samples

SYSTEM: Final = "PortAudio"
DEVICE: Final = "device"
_ANSWER_S: Final = 10.0
_STDIN: Final = "-"


def is_pipe(audio: Audio) -> bool:
    """Tell whether the sound is to come from standard input, and from no device."""
    return audio.device == _STDIN


def check_system() -> CheckResult:
    """Look whether PortAudio is there and starts."""
    try:
        module = within(_ANSWER_S, portaudio.load, "PortAudio")
        version = module.get_portaudio_version()[1].partition(",")[0]
        inputs = within(_ANSWER_S, portaudio.inputs, "the sound system")
    except DetectorError as error:
        advice = "apt-get install libportaudio2, where it is missing; else restart the sound server"
        return problem(SYSTEM, str(error), advice, UNAVAILABLE)
    plural = "" if len(inputs) == 1 else "s"
    return ok(SYSTEM, f"{version}, which knows {len(inputs)} input{plural}")


def check_device(audio: Audio) -> tuple[Device | None, CheckResult]:
    """Return the device that the settings ask for, and what is to be said of it; None: it is not there."""
    try:
        check_selector(audio.device)
        device = within(_ANSWER_S, lambda: find_device(audio.device), "the sound system")
        choose_channels(audio.channel, device)
        rates = within(_ANSWER_S, lambda: rates_of(device, portaudio.takes_rate), "the device")
    except ConfigError as error:
        return None, problem(DEVICE, str(error), "mend audio.device", SETTINGS)
    except DetectorError as error:
        advice = "snn-detect devices lists what there is; take one of them for audio.device, or connect it"
        return None, problem(DEVICE, str(error), advice, UNAVAILABLE)
    found = _described(device, rates)
    if audio.device.isdecimal():
        advice = f'numbers change when cards come and go: set audio.device = "{device.id}"'
        return device, warning(DEVICE, f"{found}; asked for by its number", advice)
    if audio.rate_hz is not None and audio.rate_hz not in rates:
        advice = f"leave audio.rate_hz out, for the device's own {device.rate_hz} Hz"
        return device, warning(DEVICE, f"{found}; not {audio.rate_hz} Hz, which is asked for", advice)
    return device, ok(DEVICE, found)


def card_of(device: Device | None, cards: list[Card]) -> Card | None:
    """Return the card that a device is; None for a sound server's."""
    ids = set() if device is None or not device.is_hardware else set(device.ids)
    names = {id_.partition(",")[0] for id_ in ids}
    return next((card for card in cards if names.intersection(card.ids)), None)


def no_device(name: str) -> CheckResult:
    """Return that something cannot be looked at for want of a device."""
    return skipped(name, "there is no device to listen to")


def _described(device: Device, rates: list[int]) -> str:
    plural = "" if device.channels == 1 else "s"
    if not device.is_hardware:
        return f"{device.id}: a sound server or plug-in, which takes any rate"
    name = "" if device.name == device.id else f" ({device.name})"
    own = f"{device.channels} channel{plural}, {device.rate_hz} Hz of its own"
    return f"{device.id}{name}: {own}, takes {', '.join(map(str, rates))} Hz" if rates else f"{device.id}{name}: {own}"


ACCESS: Final = "access"
_GROUP: Final = "audio"


def check_access(paths: SystemPaths, *, is_needed: bool) -> CheckResult:
    """Look whether this user may open the cards' inputs; ``is_needed``: no sound server does it in their place."""
    inputs = sorted(paths.snd.glob("pcmC*D*c"))
    if not inputs:
        return skipped(ACCESS, f"there is no input in {paths.snd}; sound can come from a sound server all the same")
    user = _user()
    closed = [path for path in inputs if not os.access(path, os.R_OK | os.W_OK)]
    if not closed:
        return ok(ACCESS, f"{user} may open {', '.join(path.name for path in inputs)}{_by_group()}")
    found = f"{user} may not open {', '.join(str(path) for path in closed)}"
    if not is_needed:
        return warning(ACCESS, f"{found}; a sound server does", _group_advice(user))
    return problem(ACCESS, found, _group_advice(user), UNAVAILABLE)


def _group_advice(user: str) -> str:
    try:
        group = grp.getgrnam(_GROUP)
    except KeyError:
        return f"add {user} to the group that owns the devices in /dev/snd, then log in anew"
    if group.gr_gid in os.getgroups():
        return f"the group {_GROUP} does not suffice here: look at the owners and modes with ls -l /dev/snd"
    if user in group.gr_mem:
        return f"{user} is in the group {_GROUP}, but was not yet at this login: log in anew"
    return f"sudo usermod -aG {_GROUP} {user}, then log in anew; in a container: --group-add {group.gr_gid}"


def _by_group() -> str:
    """Say by what; root, and whoever sits at the machine, may without the group."""
    try:
        return f", by the group {_GROUP}" if grp.getgrnam(_GROUP).gr_gid in os.getgroups() else ""
    except KeyError:
        return ""


def _user() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return f"user {os.geteuid()}"


HOLDERS: Final = "holders"
_OWNER: Final = re.compile(r"^owner_pid\s*:\s*(\d+)", re.MULTILINE)
_STATUS: Final = re.compile(r"card(\d+)/pcm\d+c/sub\d+/status$")
_DEVICE: Final = re.compile(r"/dev/snd/pcmC(\d+)D\d+c$")
_SERVERS: Final = frozenset({"pulseaudio", "pipewire", "wireplumber", "pipewire-pulse"})


@dataclass(frozen=True, slots=True)
class DeviceUser:
    """A process that has the input of a card open."""

    card: int
    process: Process


def find_holders(paths: SystemPaths) -> tuple[DeviceUser, ...]:
    """Return who has which card's input open, this process left out.

    The kernel names one process for each open input; what processes have open names the others,
    such as those that share it, as far as this user may look.
    """
    found = {(h.card, h.process.pid): h for h in (*_by_kernel(paths), *_by_files(paths))}
    return tuple(h for _, h in sorted(found.items()) if h.process.pid != os.getpid())


def check_holders(
    device_users: Sequence[DeviceUser], cards: Sequence[Card], number: int | None, *, is_measured: bool
) -> CheckResult:
    """Say who holds the microphones; ``number`` is the wanted card's, ``is_heard``: it could be opened all the same."""
    if not cards and not device_users:
        return skipped(HOLDERS, "there are no sound cards here that anybody could hold")
    if not device_users:
        return ok(HOLDERS, "no program has a microphone open")
    titles = {card.number: card.title for card in cards}
    found = "; ".join(f"card {h.card}{_titled(titles.get(h.card))}: {h.process}" for h in device_users)
    in_the_way = [h for h in device_users if number is None or h.card == number]
    if is_measured or not in_the_way:
        return ok(HOLDERS, found)
    if any(h.process.is_ours for h in in_the_way):
        return ok(HOLDERS, f"{found}; so the detector itself is listening")
    return problem(HOLDERS, found, _release_advice(in_the_way[0].process), UNAVAILABLE)


def is_with_us(device_users: Sequence[DeviceUser], cards: Sequence[Card], selector: str) -> bool:
    """Tell whether a detector that runs has the device open that is asked for: others then do not even see it."""
    ours = {h.card for h in device_users if h.process.is_ours}
    ids = [id_.lower() for card in cards if card.number in ours for id_ in card.ids]
    return bool(ours) and (selector == DEFAULT or any(id_.startswith(selector.lower()) for id_ in ids))


def _release_advice(holder: Process) -> str:
    if holder.name in _SERVERS:
        return (
            f"listen through {holder.name}: run snn-detect as a service of the user who runs it, with "
            f'audio.device = "mic"; or end {holder.name}'
        )
    return f"end it: kill {holder.pid}, or stop the service that started it (systemctl status {holder.pid})"


def _by_kernel(paths: SystemPaths) -> Iterator[DeviceUser]:
    for status in sorted(paths.proc.glob("asound/card*/pcm*c/sub*/status")):
        card = _STATUS.search(str(status))
        try:
            owner = _OWNER.search(status.read_text(encoding="ascii", errors="replace"))
        except OSError:
            continue
        if card and owner:
            number = int(owner[1])
            yield DeviceUser(int(card[1]), process(paths.proc, number) or Process(number, "unknown", ()))


def _by_files(paths: SystemPaths) -> Iterator[DeviceUser]:
    for candidate in processes(paths.proc):
        for card in {int(m[1]) for name in open_files(paths.proc, candidate.pid) if (m := _DEVICE.search(name))}:
            yield DeviceUser(card, candidate)


def _titled(title: str | None) -> str:
    return f" ({title})" if title else ""


SECONDS: Final = 3.0
_OPENING_S: Final = 12.0
"""Time for the device to give its first sound; a sound server may need some."""
_BEYOND_S: Final = 0.2
"""Sound on its way through the resampler when the device has given enough."""
_TURN_S: Final = 0.2
_WAITING: Final = "waiting for the microphone: "


@dataclass(slots=True)
class Heard:
    """What was heard, and how."""

    stats: SourceStats
    """At the end."""
    levels: list[Level] = field(default_factory=list)
    """Of each whole second; none of zeros alone."""
    chunks: list[Samples] = field(default_factory=list)
    """At the model's rate."""
    rate_hz: int = 0
    """The model's."""
    wall_s: float = 0.0
    """Between the arrivals of the first chunk and of the last."""
    lost_s: float = 0.0
    trouble: str | None = None
    """Why nothing is heard; None: something is."""

    @property
    def seconds(self) -> float:
        """Length of the sound."""
        return sum(map(len, self.chunks)) / self.rate_hz

    @property
    def pace(self) -> float | None:
        """Sound that came in a second; None where that cannot be told."""
        later = sum(map(len, self.chunks[1:])) / self.rate_hz
        return later / self.wall_s if later > SECONDS / 2 and self.wall_s > 0 else None

    @property
    def longest_zeros_s(self) -> float:
        """The longest stretch of nothing but zeros."""
        samples = np.concatenate([np.zeros(0, np.float32), *self.chunks])
        edges = np.flatnonzero(np.concatenate(([True], samples != 0, [True])))
        return float(np.diff(edges).max() - 1) / self.rate_hz


def listen(source: LiveSource, rate_hz: int) -> Heard:
    """Listen for some seconds to an open source, and return what came; a device that is away is not waited for."""
    heard = Heard(source.stats, rate_hz=rate_hz)
    deadline, first_s = time.monotonic() + _OPENING_S, None
    while heard.trouble is None and heard.seconds < SECONDS + _BEYOND_S:
        source_events = source.take(_TURN_S)
        now_s = time.monotonic()
        _note(heard, source_events or [])
        heard.stats = source.stats
        _note_level(heard)
        if heard.chunks:
            first_s = first_s or now_s
            heard.wall_s = now_s - first_s
        elif source_events is None or now_s > deadline:
            heard.trouble = f"no sound has come within {_OPENING_S:g} s"
        if first_s is not None and now_s > first_s + 2 * _OPENING_S:
            break
    return heard


def _note(heard: Heard, source_events: Sequence[AudioBlock | AudioGap | SourceCondition]) -> None:
    arrived = [item.chunk.samples for item in source_events if isinstance(item, AudioBlock)]
    if arrived:
        heard.chunks.append(np.concatenate(arrived))
    heard.lost_s += sum(item.samples for item in source_events if isinstance(item, AudioGap)) / heard.rate_hz
    for condition in (item for item in source_events if isinstance(item, SourceCondition)):
        if condition.name == "waiting" and condition.active:
            heard.trouble = condition.detail.removeprefix(_WAITING)


def _note_level(heard: Heard) -> None:
    """Keep the level of a second that is over: it differs from the one before unless both are silence."""
    f = heard.stats
    level = Level(f.rms_dbfs, f.peak_dbfs, f.dc)
    if level not in (Level(), *heard.levels[-1:]):
        heard.levels.append(level)


MIXER: Final = "mixer"
_LOW_PERCENT: Final = 10
_CONTROL: Final = re.compile(r"^Simple mixer control '(.*)',\d+$")
_CAPTURE: Final = re.compile(r"Capture(?: (-?\d+))?((?: \[[^\]]+\])+)")
_PERCENT: Final = re.compile(r"\[(\d+)%\]")
_SWITCH: Final = re.compile(r"\[(on|off)\]")
_MAIN: Final = "capture"
"""How controls begin that all sound of a card goes through."""


@dataclass(frozen=True, slots=True)
class Control:
    """A control of the capture side; of several channels, the loudest."""

    name: str
    percent: int | None
    """Its volume; None: it has none."""
    is_on: bool | None
    """Its switch; None: it has none."""

    def __str__(self) -> str:
        """Say how it stands."""
        volume = "" if self.percent is None else f" {self.percent} %"
        return f"{self.name}{volume}{' off' if self.is_on is False else ''}"


def check_mixer(paths: SystemPaths, card: Card | None) -> CheckResult:
    """Look at the capture controls of a card; None: at those of the default device, as for a sound server."""
    which = () if card is None else ("-c", str(card.number))
    text = answer("amixer", *which, "scontents")
    if text is None:
        return skipped(MIXER, "amixer is missing or finds no mixer here (it is in the package alsa-utils)")
    found = list(controls(text))
    if not found:
        return skipped(MIXER, "there is no capture volume to be set")
    where = "" if card is None else f" {' '.join(which)}"
    keep = f"sudo alsactl store{'' if card is None else f' {card.number}'}"
    described = ", ".join(map(str, found))
    bad = muted(found) or low(found)
    if bad is not None:
        name = bad.name.replace("'", "'\\''")
        advice = f"amixer{where} sset '{name}' 80% cap, then {keep}: otherwise it is lost when the machine restarts"
        what = "muted" if bad.is_on is False else "very low"
        return warning(MIXER, f"{bad.name} is {what} ({described})", advice)
    unstored = card is not None and not paths.mixer_state.exists()
    return ok(MIXER, described, f"{keep} keeps it over restarts" if unstored else "")


def controls(text: str) -> Iterator[Control]:
    """Yield the capture controls in what ``amixer scontents`` prints."""
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
    """Return the control that lets nothing through; of several inputs, one that is on is enough."""
    switches = [c for c in found if c.is_on is not None]
    main = [c for c in switches if c.name.lower().startswith(_MAIN)]
    inputs = [c for c in switches if c not in main]
    closed = next((c for c in main if not c.is_on), None)
    return closed or (inputs[0] if inputs and not any(c.is_on for c in inputs) else None)


def low(found: Iterable[Control]) -> Control | None:
    """Return the control that lets next to nothing through; one of an input that is off does not matter."""
    volumes = [c for c in found if c.percent is not None and c.is_on is not False]
    main = [c for c in volumes if c.name.lower().startswith(_MAIN)]
    inputs = [c for c in volumes if c not in main]
    closed = next((c for c in main if _is_low(c)), None)
    return closed or (inputs[0] if inputs and not main and all(_is_low(c) for c in inputs) else None)


def _is_low(control: Control) -> bool:
    return control.percent is not None and control.percent < _LOW_PERCENT


MICROPHONE: Final = "microphone"
LEVELS: Final = "levels"
_OFF_PACE: Final = 0.2
"""How far from the device's rate sound may seem to come in a few seconds; the service looks closer, for longer."""
_LOST_S: Final = 0.05
_CLIPPED_SHARE: Final = 1e-3
_DC: Final = 0.02
_QUIET_DBFS: Final = -90.0
_ZEROS_S: Final = 0.05
"""A stretch of zeros that no sound of a room has."""
_SILENT_S: Final = 2.0
_Trouble = tuple[str, str]
"""What is the matter, and what to do."""


def check_microphone(heard: Heard, device: Device) -> CheckResult:
    """Say how the device was opened, and how its sound came."""
    if heard.trouble is not None:
        advice = "see who holds it, and whether this user may open it; then unplug it and plug it in again"
        return problem(MICROPHONE, heard.trouble, advice, UNAVAILABLE)
    f = heard.stats
    plural = "" if f.device_channels == 1 else "s"
    own = ", its own rate" if device.is_hardware and f.device_rate_hz == device.rate_hz else ""
    found = f"opened at {f.device_rate_hz} Hz{own}, {f.device_channels} channel{plural}; {heard.seconds:.1f} s heard"
    if heard.lost_s > _LOST_S or f.overruns:
        advice = "the machine is too busy, or the USB port or its power is weak: try another port, without a hub"
        return warning(MICROPHONE, f"{found}, and {heard.lost_s:.2f} s lost ({f.overruns} overruns)", advice)
    pace = heard.pace
    if pace is not None and abs(pace - 1) > _OFF_PACE:
        advice = "set audio.rate_hz to a rate that snn-detect devices lists, or use another device"
        return warning(MICROPHONE, f"{found}; {pace:.2f} s of sound come in a second", advice)
    return ok(MICROPHONE, found)


def check_levels(heard: Heard) -> CheckResult:
    """Say how the sound is: silent, clipped, off centre, with holes, or good."""
    rms_dbfs = max((level.rms_dbfs for level in heard.levels), default=FLOOR_DBFS)
    peak_dbfs = max((level.peak_dbfs for level in heard.levels), default=FLOOR_DBFS)
    if not heard.levels or "silent" in heard.stats.conditions or heard.longest_zeros_s > _SILENT_S:
        advice = (
            "unmute it and raise its volume (alsamixer -V capture), then sudo alsactl store; "
            "only a source that can fall silent, such as a null sink or a loopback, may be so"
        )
        return problem(LEVELS, "only zeros come: the microphone is muted, or not connected", advice, UNAVAILABLE)
    found = f"rms {rms_dbfs:.0f} dBFS, peak {peak_dbfs:.0f} dBFS"
    troubles = list(_troubles(heard, rms_dbfs))
    if not troubles:
        return ok(LEVELS, f"{found}, no clipping, no offset, no holes")
    return warning(LEVELS, f"{found}; {'; '.join(what for what, _ in troubles)}", "; ".join(do for _, do in troubles))


def _troubles(heard: Heard, rms_dbfs: float) -> Iterator[_Trouble]:
    frames = heard.seconds * heard.stats.device_rate_hz
    share = heard.stats.clipped_samples / frames if frames else 0.0
    if share > _CLIPPED_SHARE:
        yield f"{share:.1%} of the samples are clipped", "lower its volume: alsamixer -V capture, then alsactl store"
    dc = max((level.dc for level in heard.levels), key=abs)
    if abs(dc) > _DC:
        yield f"the mean is {dc:+.3f} of full scale", "the microphone or its power supply is at fault: try another one"
    if rms_dbfs < _QUIET_DBFS:
        yield "that is less than any room has", "raise its volume: alsamixer -V capture, then alsactl store"
    if heard.longest_zeros_s > _ZEROS_S:
        what = f"zeros for {heard.longest_zeros_s:.2f} s"
        yield what, "a noise gate in the microphone, or a weak USB port: switch it off, try another port"
