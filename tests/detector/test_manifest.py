"""The names in a manifest, which reach terminals, topics, file names and tables."""

from __future__ import annotations

import json
from typing import Any

import pytest

from detector.errors import ManifestError
from detector.manifest import Manifest
from detector.pipeline import Detector


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    """Give the manifest of the model that ships."""
    found: dict[str, Any] = json.loads(Detector.load().manifest.to_json())
    return found


@pytest.mark.parametrize("text", ["", "x" * 65, "a\x1b[2Jb", "a\nb", "a\x00", "\u202ea"])
@pytest.mark.parametrize("key", ["label", "category", "name", "version"])
def test_a_name_that_cannot_be_shown_is_refused(document: dict[str, Any], key: str, text: str) -> None:
    changed = json.loads(json.dumps(document))
    (changed if key in {"name", "version"} else changed["classes"][0])[key] = text
    with pytest.raises(
        ManifestError, match=r"^m\.onnx: the manifest has the name .*1 to 64 printable characters"
    ) as error:
        Manifest.from_json(json.dumps(changed), "m.onnx")
    assert str(error.value).isprintable()


def test_too_many_classes_are_refused(document: dict[str, Any]) -> None:
    classes = [document["classes"][0] | {"label": str(number)} for number in range(10_001)]
    with pytest.raises(ManifestError, match="10001 classes"):
        Manifest.from_json(json.dumps(document | {"classes": classes}), "m.onnx")


@pytest.mark.parametrize("text", ["flûte à bec", "犬の鳴き声", "x" * 64])
def test_names_of_any_language_are_taken(document: dict[str, Any], text: str) -> None:
    changed = json.loads(json.dumps(document))
    changed["classes"][0]["label"] = text
    assert Manifest.from_json(json.dumps(changed), "m.onnx").labels[0] == text
