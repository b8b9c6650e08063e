"""What is printed for a label that the model does not know."""

from __future__ import annotations

import pytest

from detector.errors import suggestion, unknown_label
from detector.network import load_model


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("sneeze", "person_sneeze"),
        ("dog", "dog_bark"),
        ("fire", "fire_crackling"),
        ("Guitar", "guitar"),
        ("helicoptre", "helicopter"),
        ("waves", "sea_waves"),
        ("unicorn", None),
        ("", None),
    ],
)
def test_the_label_that_may_be_meant(written: str, meant: str | None) -> None:
    labels = load_model().manifest.labels
    assert suggestion(written, labels) == meant
    line = unknown_label(written, labels)
    assert line.endswith(f"did you mean {meant!r}?" if meant else ", ".join(labels))
    assert repr(written) in line
