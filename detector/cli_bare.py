"""What the bare command is asked for, as settings and wishes of a run."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from detector.cli_program import tell
from detector.sound_names import is_sound_name

if TYPE_CHECKING:
    from detector.live.parts import Wishes
    from detector.settings import Settings

STDIN: Final = "-"
_DEVICES: Final = ("hw:", "plughw:", "usb-id:", "usb-path:", "CARD=")


@dataclasses.dataclass(frozen=True, slots=True)
class Bare:
    """What the user asked the bare command for."""

    device: str
    model: Path | None
    channel: str | None
    only: tuple[str, ...]
    """Labels to report; none is all."""
    thresholds: dict[str, float]
    as_json: bool
    no_wait: bool
    quiet: bool
    rate: int | None
    sample_format: str
    channels: int
    """Rate in Hz, format and channels of raw samples."""
    tee: Path | None
    web: str | None
    web_token_file: Path | None
    loop: bool


def overrides(options: Mapping[str, Any]) -> dict[str, object]:
    """Return what options wish for by the keys of the settings; None is no wish."""
    return {
        "audio.device": options["device"],
        "audio.channel": options["channel"],
        "listening.path": options["model"],
        "listening.only": list(options["only"]) or None,
        "listening.thresholds": options["thresholds"] or None,
        "stdout.format": "json" if options["as_json"] else None,
        "web.address": options["web"],
        "web.token_file": None if options["web_token_file"] is None else str(options["web_token_file"]),
    }


def settings_of(asked: Bare) -> Settings:
    """Return the settings of the bare command: standard output and nothing else; raises ConfigError."""
    from pydantic import ValidationError

    from detector.config import COMMAND_LINE, SettingsError
    from detector.config_errors import problems
    from detector.config_layers import Layers
    from detector.settings import Settings

    layers = Layers()
    wanted = overrides(dataclasses.asdict(asked))
    wanted["audio.source"] = "stdin" if asked.device == STDIN else "file" if is_file(asked.device) else None
    if asked.web is not None and asked.web_token_file is None:
        wanted["web.token_file"] = _own_token(asked.web)
    if sys.stdout.isatty() and not asked.as_json:
        wanted["stdout.types"] = ["onset", "offset"]  # the rest is told on standard error, to the same eyes
    for key, wish in wanted.items():
        if wish is not None:
            layers.put(tuple(key.split(".")), wish, COMMAND_LINE)
    try:
        return Settings.model_validate(layers.values)
    except ValidationError as error:
        raise SettingsError(problems(error, layers)) from None


def wishes_of(asked: Bare) -> Wishes:
    """Return what the bare command is asked for beyond settings."""
    from detector.live.parts import Wishes
    from detector.live.pcm import RawFormat

    raw = RawFormat(16000 if asked.rate is None else asked.rate, asked.sample_format, asked.channels)
    plays_file = is_file(asked.device)
    return Wishes(
        raw=raw, wait=not asked.no_wait, tee=asked.tee, plays_file=plays_file, loop=asked.loop, is_filter=True
    )


def _own_token(address: str) -> str | None:
    """Return the file of a token for an address that needs one, made at the first time; None where none is needed."""
    from detector.addresses import token_required
    from detector.credentials import make_secret
    from detector.directories import state_directory

    if not token_required(address):
        return None
    path = state_directory() / "web.token"
    make_secret(path)
    tell(f"other machines are let in by the token in {path}")
    return str(path)


def is_file(device: str) -> bool:
    """Tell whether a device is a sound file: it is there, or its name can be nothing else."""
    if device in {"mic", STDIN} or device.isdigit() or device.startswith(_DEVICES):
        return False
    path = Path(device)
    return is_sound_name(path) or path.is_file() or device.startswith(("/", "./", "../", "~/"))
