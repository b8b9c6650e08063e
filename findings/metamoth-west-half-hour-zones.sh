#!/usr/bin/env bash
# Expected: metamoth reads the time zone that an AudioMoth writes into its WAV files: "UTC-3:30", Newfoundland's, is
#   three and a half hours behind.
# Happens: minutes are always added: UTC-3:30 becomes -2:30 and UTC-9:30 (Marquesas) -8:30, an hour off in each time
#   of recording. Zones east of Greenwich, and those of whole hours, are right.
# Source: seen by this script; the comment's format is that of AudioMoth-Firmware-Basic ("Recorded at ... (UTC-3:30) by
#   AudioMoth ..."), minutes are part of the zone since firmware 1.4.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -qq --disable-pip-version-check metamoth==1.2.2
cd "$work"
"$work/venv/bin/python" - <<'PY'
import struct
from datetime import timedelta
from importlib.metadata import version
from pathlib import Path

from metamoth import parse_metadata


def recording(zone: str) -> Path:
    """Write a WAV file with an AudioMoth's comment; return its path."""
    comment = (
        f"Recorded at 12:00:00 01/06/2024 ({zone}) by AudioMoth 0123456789ABCDEF at medium gain while battery was 4.2V "
        "and temperature was 20.0C."
    ).encode().ljust(384, b"\0")
    info = b"INFOICMT" + struct.pack("<I", 384) + comment + b"IART" + struct.pack("<I", 32)
    info += b"AudioMoth 0123456789ABCDEF".ljust(32, b"\0")
    sound = bytes(2 * 16000)
    body = b"WAVEfmt " + struct.pack("<IHHIIHH", 16, 1, 1, 16000, 32000, 2, 16)
    body += b"LIST" + struct.pack("<I", len(info)) + info + b"data" + struct.pack("<I", len(sound)) + sound
    path = Path("recording.wav")
    path.write_bytes(b"RIFF" + struct.pack("<I", len(body)) + body)
    return path


print("metamoth", version("metamoth"))
zones = (("UTC+5:45", 345, 345), ("UTC-3", -180, -180), ("UTC-3:30", -210, -150), ("UTC-9:30", -570, -510))
for zone, minutes, found in zones:
    offset = parse_metadata(recording(zone)).timezone.utcoffset(None)
    print(f"{zone}: {minutes} minutes, read as {offset / timedelta(minutes=1):.0f}")
    assert offset == timedelta(minutes=found), zone
PY
