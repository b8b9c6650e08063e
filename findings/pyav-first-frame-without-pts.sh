#!/usr/bin/env bash
# Expected: sound that is encoded from frames without a timestamp (pts of None, as AudioFrame.from_ndarray makes them) is
#   the same file as with timestamps from 0 on: the first one begins at 0, and the encoder knows its own delay.
# Happens: with FFmpeg's AAC encoder and MP4, all sound is 1024 samples later (64 ms at 16 kHz) where the frame has no
#   pts. The encoder gives its first packet the time -1024 only if it knows the time of the first frame; without it the
#   packets begin at 0, MP4 gets no edit list, and a decoder takes the encoder's delay for sound. There is no warning.
#   In Matroska, which states the delay by itself, the sound is in its place both ways.
# Source: seen by this script; "encoder delay" of FFmpeg's AVCodecContext.initial_padding.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -qq --disable-pip-version-check av==18.1.0 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - <<'PY'
from fractions import Fraction

import av
import numpy as np

RATE = 16000


def late(container_format: str, pts: int | None) -> int:
    """Return by how many samples a click comes later out of a file than it went in."""
    sound = np.zeros((1, 2 * RATE), np.float32)
    sound[0, RATE : RATE + 8] = 0.9
    path = f"click.{container_format}"
    with av.open(path, "w", format=container_format) as container:
        stream = container.add_stream("aac", rate=RATE, layout="mono")
        frame = av.AudioFrame.from_ndarray(sound, "fltp", "mono")
        frame.sample_rate, frame.time_base, frame.pts = RATE, Fraction(1, RATE), pts
        for packet in (*stream.encode(frame), *stream.encode(None)):
            container.mux(packet)
    with av.open(path) as container:
        decoded = np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)])
    return int(np.argmax(np.abs(decoded))) - RATE


print("PyAV", av.__version__, "libavcodec", ".".join(map(str, av.library_versions["libavcodec"])))
found = {}
for name in ("mp4", "matroska"):
    for pts in (0, None):
        found[name, pts] = late(name, pts)
        print(f"{name}, pts of the first frame {pts}: {found[name, pts]} samples late")
assert abs(found["mp4", 0]) < 16, "the click is in its place"
assert found["mp4", None] - found["mp4", 0] == 1024, "a whole frame later"
assert abs(found["matroska", None] - found["matroska", 0]) < 16
PY
