#!/usr/bin/env bash
# Expected: of a file made of two MP4 files, one behind the other, FFmpeg reads both, as it does of two Matroska files;
#   or it says that there is more behind the first one.
# Happens: FFmpeg 8.1.2 (in PyAV 18.1.0) reads the first one and ends as at the end of the file. There is no error, and
#   the length that it states is that of the first one. Its log has one line, a warning, which PyAV drops by default.
# Source: seen by this script; mov.c ("Found duplicated MOOV Atom. Skipped it").
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -qq --disable-pip-version-check av==18.1.0 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - <<'PY'
import av
import numpy as np

RATE = 16000


def make(path: str, codec: str) -> bytes:
    with av.open(path, "w") as container:
        stream = container.add_stream(codec, rate=RATE, layout="mono")
        samples = np.random.default_rng(0).integers(-9999, 9999, (1, RATE), np.int16)
        frame = av.AudioFrame.from_ndarray(samples, "s16p" if codec == "alac" else "s16", "mono")
        frame.sample_rate = RATE
        for packet in (*stream.encode(frame), *stream.encode(None)):
            container.mux(packet)
    with open(path, "rb") as file:
        return file.read()


def seconds(path: str) -> float:
    with av.open(path) as container:
        return sum(frame.samples for frame in container.decode(audio=0)) / RATE


print("PyAV", av.__version__, "libavformat", ".".join(map(str, av.library_versions["libavformat"])))
found = {}
for name, codec in (("a.mp4", "alac"), ("a.mka", "pcm_s16le")):
    one = make(name, codec)
    with open(f"joined-{name}", "wb") as file:
        file.write(one + one)
    found[name] = seconds(f"joined-{name}")
    print(f"two files {name} of one second, joined: {found[name]:g} s are read, no error")
if found != {"a.mp4": 1.0, "a.mka": 2.0}:
    raise SystemExit("  changed: expected 1 s of the MP4 files and 2 s of the Matroska files")
PY
