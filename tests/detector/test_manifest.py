"""The names in a manifest, which reach terminals, topics, file names and tables."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from detector.errors import ManifestError
from detector.manifest import ClassResults, Manifest
from detector.pipeline import Detector
from tests.model_files import on_trial, with_points, without_points


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


def test_a_model_without_operating_points_has_the_balanced_one_and_its_text_stays(document: dict[str, Any]) -> None:
    text = without_points(Manifest.from_json(json.dumps(document), "m.onnx")).to_json()
    manifest, plain = Manifest.from_json(text, "m.onnx"), json.loads(text)
    assert manifest.sensitivities == ("balanced",)
    assert json.loads(manifest.to_json()) == plain
    assert not {"operating_points", "low", "high"} & {*plain, *plain["classes"][0]}
    assert [c.at("low") for c in manifest.classes] == list(manifest.classes)


def test_operating_points_come_back_from_the_text() -> None:
    manifest = with_points(Detector.load().manifest)
    back = Manifest.from_json(manifest.to_json(), "m.onnx")
    assert back == manifest
    assert back.sensitivities == ("low", "balanced", "high")
    assert {c.at("low").decoder.on_threshold for c in back.classes} == {0.999}
    assert {c.at("high").decoder.off_threshold for c in back.classes} == {0.01}
    assert [c.at("balanced") for c in back.classes] == list(back.classes)


@pytest.mark.parametrize("key", ["low", "high"])
def test_a_class_without_values_for_an_operating_point_is_refused(key: str) -> None:
    document = json.loads(with_points(Detector.load().manifest).to_json())
    del document["classes"][3][key]
    with pytest.raises(ManifestError, match=r"^m\.onnx: the class 'drums' must have decoder values at low and high"):
        Manifest.from_json(json.dumps(document), "m.onnx")


def test_values_of_operating_points_are_checked_as_strictly_as_others() -> None:
    document = json.loads(with_points(Detector.load().manifest).to_json())
    for changed, text in (
        ({"low": 1.0, "balanced": 1.0}, "lacks the key 'operating_points.high'"),
        (document["operating_points"] | {"of": "mice"}, "'operating_points.of' must be 'class' or 'all classes'"),
        (None, "'operating_points' must be an object, not 'None'"),
    ):
        with pytest.raises(ManifestError, match=text):
            Manifest.from_json(json.dumps(document | {"operating_points": changed}), "m.onnx")


def test_results_of_classes_come_back_from_the_text_and_say_which_are_ready() -> None:
    manifest = on_trial(Detector.load().manifest, "guitar", "rain")
    none_found = dataclasses.replace(manifest.classes[0].results or ClassResults(True, 0, 0, 0, 0), latency_s=None)
    classes = (dataclasses.replace(manifest.classes[0], results=none_found), *manifest.classes[1:])
    manifest = dataclasses.replace(manifest, classes=classes)
    back = Manifest.from_json(manifest.to_json(), "m.onnx")
    assert back == manifest
    assert back.ready_labels == ("guitar", "rain")
    assert Detector.load().manifest.ready_labels == back.labels
