"""The names that Python programs use, as README and the model card give them."""

from __future__ import annotations

import dataclasses
import inspect
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import detector
from detector import Detection, Detector, Event, detect_file, listen
from tests.contracts.live import ROOT, SCENE, THRESHOLD, scene
from tests.contracts.programs import clean_environment
from tests.contracts.snapshots import check

DOCUMENTS = ("README.md", "models/pretrained/household.md")
BLOCKS = [
    block
    for name in DOCUMENTS
    for block in re.findall(r"```python\n(.*?)```", (ROOT / name).read_text(encoding="utf-8"), re.DOTALL)
]
PREAMBLE = f"""
import numpy as np, soundfile, soxr
clip, _ = soundfile.read({str(SCENE)!r}, dtype="float32")
clip = clip[400000:]  # the louder guitar
soundfile.write("recording.wav", clip, 16000)
blocks = np.array_split(soxr.resample(clip, 16000, 48000), 100)
"""


def signature(member: object) -> str:
    """Return the parameters with their defaults."""
    assert callable(member)
    parameters = [
        parameter.replace(annotation=inspect.Parameter.empty)
        for parameter in inspect.signature(member).parameters.values()
        if parameter.name != "self"
    ]
    return str(inspect.Signature(parameters))


def test_names() -> None:
    lines = [f"detector.{name}" for name in sorted(detector.__all__)]
    shown = Detector.load()
    for name in sorted(n for n in dir(shown) if not n.startswith("_")):
        member = inspect.getattr_static(Detector, name, None)
        if isinstance(member, property):
            lines.append(f"Detector.{name}: property")
        elif member is None:
            lines.append(f"Detector.{name}: attribute")
        else:
            kind = " (class method)" if isinstance(member, classmethod) else ""
            lines.append(f"Detector.{name}{signature(getattr(Detector, name))}{kind}")
    for field in dataclasses.fields(Event):
        default = "" if field.default is dataclasses.MISSING else f" = {field.default!r}"
        lines.append(f"Event.{field.name}{default}")
    lines += [f"Event.{name}: property" for name in sorted(vars(Event)) if isinstance(vars(Event)[name], property)]
    lines += [f"Detection.{field.name}" for field in dataclasses.fields(Detection)]
    lines += [f"{function.__name__}{signature(function)}" for function in (detect_file, listen)]
    check("python-api.txt", "\n".join(lines))


@pytest.mark.parametrize("block", BLOCKS, ids=range(len(BLOCKS)))
def test_what_readme_and_the_card_show_runs(block: str, tmp_path: Path) -> None:
    script = tmp_path / "example.py"
    script.write_text(PREAMBLE + block)
    done = subprocess.run(
        [sys.executable, "-W", "error", script],
        cwd=tmp_path,
        env=clean_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    if "print(" in block:
        assert "onset guitar" in done.stdout


def test_readme_shows_the_detector() -> None:
    assert any("Detector.load()" in block for block in BLOCKS)


def test_push_and_flush_give_events_and_process_gives_scores_too() -> None:
    shown = Detector.load(thresholds={"guitar": THRESHOLD})
    assert (shown.sample_rate_hz, shown.labels[0]) == (16000, "guitar")
    samples = scene(10)
    events = shown.push(samples) + shown.flush()
    assert [(e.kind, e.label) for e in events] == [("onset", "guitar"), ("offset", "guitar")]
    onset, offset = events
    assert isinstance(onset, Event)
    assert onset.threshold == THRESHOLD
    assert (onset.offset_sample, onset.peak, onset.mean, onset.reason) == (None, None, None, None)
    assert (offset.index, offset.onset_sample) == (onset.index, onset.onset_sample)
    scores, first = shown.process(samples)
    last, rest = shown.finish()
    assert first + rest == events
    assert np.array_equal(np.concatenate([scores, last]), shown.score(samples))
    shown.push(samples[:80000])
    shown.reset()
    assert shown.push(samples) + shown.flush() == events
    assert shown.fresh().push(samples) == first


def test_the_package_is_typed() -> None:
    assert (Path(detector.__file__).parent / "py.typed").is_file()
