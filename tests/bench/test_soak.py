"""A short soak: twelve minutes of sound as fast as they go, with the limits of the long one."""

from __future__ import annotations

import json
import os
import subprocess
import sys

from tests.broker import program


def test_nothing_grows_and_nothing_drifts() -> None:
    program("mosquitto")
    model = ["--model", os.environ["SNN_DETECT_MODEL"]] if os.environ.get("SNN_DETECT_MODEL") else []
    command = [sys.executable, "-W", "error", "-m", "tests.bench.soak", "--hours", "0.2", "--json", *model]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert found["hours"] == 0.2
    assert found["good"] == dict.fromkeys(("memory", "descriptors", "threads", "scores", "sinks"), True)
    assert found["compared_frames"] >= 500  # of 1200
    assert found["events"] > 20
    assert found["sinks"]["database"]["written"] >= 2 * found["events"]
