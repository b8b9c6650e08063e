#!/usr/bin/env bash
# Expected: stereo sound that is mixed down to mono is as loud whatever sample format is asked for; a format is a matter
#   of precision. With the same sound left and right, mono is that sound.
# Happens: FFmpeg's resampler gives 1.41 times the sound (3 dB more) for float formats and the sound itself for integer
#   ones: both add left and right with a weight of 0.707, and the weights are scaled down to what cannot overflow for
#   integers alone. Sound at full scale comes out at 1.41 as float, which a later conversion to integers clips. Nothing
#   in the frame says which it was.
# Source: seen by this script; "rematrix_maxval" in FFmpeg's documentation of the resampler: 1.0 for integer formats,
#   no limit otherwise.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -qq --disable-pip-version-check av==18.1.0 numpy==2.4.6
"$work/venv/bin/python" - <<'PY'
import av
import numpy as np

RATE, PEAK = 16000, 0.5


def mono_peak(given: str, wanted: str) -> float:
    """Return the peak of mono in a format, of a tone with a peak of 0.5 on the left and on the right."""
    tone = PEAK * np.sin(2 * np.pi * 440 * np.arange(RATE) / RATE)
    scale = {"s16": 32768, "s32": 2**31, "flt": 1, "dbl": 1}
    kind = {"s16": np.int16, "s32": np.int32, "flt": np.float32, "dbl": np.float64}
    samples = np.repeat(np.round(tone * scale[given]) if scale[given] > 1 else tone, 2).astype(kind[given])
    frame = av.AudioFrame.from_ndarray(samples[None], given, "stereo")
    frame.sample_rate = RATE
    resampler = av.AudioResampler(wanted, "mono", RATE)
    made = [f.to_ndarray().ravel() for f in (*resampler.resample(frame), *resampler.resample(None))]
    return float(np.abs(np.concatenate(made).astype(np.float64)).max() / scale[wanted])


print("PyAV", av.__version__, "libswresample", ".".join(map(str, av.library_versions["libswresample"])))
for given in ("s16", "flt"):
    for wanted in ("s16", "s32", "flt", "dbl"):
        found = mono_peak(given, wanted)
        print(f"stereo {given} with a peak of {PEAK} to mono {wanted}: {found:.3f}")
        expected = PEAK * (2**0.5 if wanted in {"flt", "dbl"} else 1)
        assert abs(found - expected) < 0.001, (given, wanted, found)
PY
