#!/usr/bin/env bash
# Expected: tonic's ToFrame with n_time_bins divides a recording's time into bins: each event is in one of them, and an
#   event at 0.4 s of a recording of 1 s is in the fourth tenth. To frames of a fixed length (time_window), the first is
#   that of the recording's first moments.
# Happens: time begins at the first event and ends at the last one, and the last event is in no frame. An encoder's
#   silence before a sound is gone, so a spike's latency with it: two recordings of one spike train, one of them half a
#   second later, give the same frames. With n_time_bins the last event is always lost; with time_window it is where it
#   lies behind the last whole window (include_incomplete=True keeps it) or exactly at its end (nothing does).
# Source: seen by this script; tonic.slicers.slice_events_at_indices and SliceByTimeBins (searchsorted on the left for
#   the end of the last bin, which is the time of the last event).
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -qq --disable-pip-version-check tonic==1.7.0 numpy==2.4.6
"$work/venv/bin/python" - <<'PY'
from importlib.metadata import version

import numpy as np
from tonic.transforms import ToFrame

MS = 1000  # timestamps are microseconds


def frames(times_ms: list[int], **slicing: int) -> list[int]:
    """Return how many of one neuron's spikes are in each frame."""
    events = np.zeros(len(times_ms), [("x", int), ("y", int), ("t", int), ("p", int)])
    events["t"] = np.array(times_ms) * MS
    return [int(n) for n in ToFrame(sensor_size=(1, 1, 1), **slicing)(events).sum((1, 2, 3))]


print("tonic", version("tonic"))
late, early = [500, 600, 700, 800, 1000], [0, 100, 200, 300, 500]
for slicing in ({"n_time_bins": 10}, {"time_window": 100 * MS}):
    for name, times in (("from 500 ms on", late), ("from 0 ms on", early)):
        print(f"spikes at {times} ms, {slicing}: {frames(times, **slicing)}")
    assert frames(late, **slicing) == frames(early, **slicing), "half a second of silence makes no difference"
    assert sum(frames(late, **slicing)) == len(late) - 1, "one spike is in no frame"
for last, kept in ((1000, 4), (1050, 5)):
    found = frames([*late[:-1], last], time_window=100 * MS, include_incomplete=True)
    print(f"with include_incomplete, the last of 5 spikes at {last} ms: {found}")
    assert sum(found) == kept
PY
