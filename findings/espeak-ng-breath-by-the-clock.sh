#!/usr/bin/env bash
# Expected: a formant synthesiser renders the same sentence with the same voice as the same samples every time; espeak-ng
#   1.51 does, so that data sets and tests could be rendered again instead of stored.
# Happens: espeak-ng 1.52.0 draws the noise of voices with breath (such as the variant f2) from a generator that is seeded
#   by the time, in seconds, when the library is initialised. Two runs within a second agree, which hides it; later ones
#   do not. Voices without breath do not change. Only espeak_ng_SetRandSeed, or the program's option -D, which 1.51 does
#   not have, gives the same samples.
# Source: seen by this script; `espeak-ng --help` of 1.52 ("Enable deterministic random mode").
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -qq --disable-pip-version-check espeakng-loader==0.2.4
cat >"$work/speak.py" <<'PY'
import ctypes
import hashlib
import sys

import espeakng_loader

TEXT = b"The quick brown fox jumps over the lazy dog, seven times a day."
library = ctypes.CDLL(espeakng_loader.get_library_path())
samples = bytearray()


@ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)
def take(wave, count, events):
    if wave and count > 0:
        samples.extend(ctypes.string_at(wave, 2 * count))
    return 0


voice, seed = sys.argv[1], sys.argv[2]
library.espeak_Initialize(1, 0, espeakng_loader.get_data_path().encode(), 0)  # 1: samples are retrieved
if seed != "none":
    library.espeak_ng_SetRandSeed(ctypes.c_long(int(seed)))
library.espeak_SetSynthCallback(take)
library.espeak_SetVoiceByName(voice.encode())
library.espeak_Synth(TEXT, len(TEXT) + 1, 0, 0, 0, 1, None, None)
library.espeak_Synchronize()
library.espeak_Info.restype = ctypes.c_char_p
print(library.espeak_Info(None).decode(), len(samples) // 2, "samples", hashlib.sha256(samples).hexdigest()[:12])
PY
speak() { "$work/venv/bin/python" "$work/speak.py" "$@"; }
for case in "en+f2 none" "en none" "en+f2 7"; do
    # shellcheck disable=SC2086
    first=$(speak $case) && sleep 2 && second=$(speak $case)
    printf '%-10s %s\n%-10s %s\n' "$case" "$first" "" "$second"
    same=$([ "$first" = "$second" ] && echo same || echo other)
    [ "$case $same" = "en+f2 none other" ] || [ "$case $same" = "en none same" ] || [ "$case $same" = "en+f2 7 same" ]
    case $first in 1.52.0*) ;; *) exit 1 ;; esac
done
