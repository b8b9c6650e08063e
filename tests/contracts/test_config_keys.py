"""The configuration: every key with type, bounds and default; where values come from; the example."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from tests.contracts.programs import detect, json_output, output
from tests.contracts.snapshots import check

_BOUNDS: Final = {
    "exclusiveMinimum": "> {}",
    "minimum": ">= {}",
    "exclusiveMaximum": "< {}",
    "maximum": "<= {}",
    "pattern": "like {}",
    "minLength": "length >= {}",
    "maxLength": "length <= {}",
    "minItems": "items >= {}",
    "maxItems": "items <= {}",
}


class Schema:
    """The JSON Schema that ``config schema`` prints, as lines of keys."""

    def __init__(self, document: dict[str, Any]) -> None:
        self.document = document

    def lines(self) -> Iterator[str]:
        """Yield each key with what it may be."""
        yield from self._keys(self.document, "")

    def _keys(self, section: dict[str, Any], prefix: str) -> Iterator[str]:
        assert section["additionalProperties"] is False, f"{prefix} takes keys that it does not know"
        for name, value in section["properties"].items():
            named = next(iter(value.get("patternProperties", {}).values()), None)
            inner = self._section(named or value)
            several = "[]" if value.get("type") == "array" and inner else ".NAME" if named and inner else ""
            path = f"{prefix}{name}{several}"
            required = ", required" if name in section.get("required", ()) else ""
            if inner is None:
                yield f"{path}: {self._type(value)}{_default(value)}{required}"
            else:
                is_absent = bool(several) or value.get("default") is None
                on = "absent by default" if is_absent else "present by default"
                yield f"{path}: section, {on}{required}"
                yield from self._keys(inner, f"{path}.")

    def _section(self, value: dict[str, Any]) -> dict[str, Any] | None:
        """Return the section that a value is, or may be, or is a list of."""
        if "$ref" in value:
            target: dict[str, Any] = self.document["$defs"][value["$ref"].rpartition("/")[2]]
            return target if "properties" in target else None
        choices = [*value.get("anyOf", ()), *value.get("allOf", ()), *([value["items"]] if "items" in value else [])]
        return next((found for choice in choices if (found := self._section(choice))), None)

    def _type(self, value: dict[str, Any]) -> str:
        if "anyOf" in value:
            return " or ".join(self._type(choice) for choice in value["anyOf"])
        if "enum" in value:
            return "|".join(map(str, value["enum"]))
        kind: str = value.get("format") or value["type"]
        if "items" in value:
            kind = f"list of {self._type(value['items'])}"
        if isinstance(value.get("additionalProperties"), dict):
            kind = f"table of {self._type(value['additionalProperties'])}"
        return " ".join([kind, *(text.format(value[k]) for k, text in _BOUNDS.items() if k in value)])


def _default(value: dict[str, Any]) -> str:
    return f", default {json.dumps(value['default'])}" if value.get("default") is not None else ""


@pytest.fixture(scope="module")
def schema() -> Schema:
    return Schema(json_output("config", "schema"))


def test_keys_types_bounds_and_defaults(schema: Schema) -> None:
    check("config-keys.txt", "\n".join(sorted(schema.lines())))


def test_what_show_says(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text('node = "here"\n')
    found = json_output("config", "show", "--json", path)
    assert list(found) == ["files", "settings", "places"]
    assert found["files"] == [str(path)]
    places = {place: [k for k, v in found["places"].items() if v == place] for place in set(found["places"].values())}
    assert places.keys() == {str(path), "default"}
    assert places[str(path)] == ["node"]
    assert found["settings"]["audio"]["device"] == "mic"
    assert tomllib.loads(output("config", "show", path)).keys() >= {"node", "audio", "stdout"}


def test_the_example_is_a_configuration_that_names_each_key(schema: Schema, tmp_path: Path) -> None:
    text = output("config", "init", "-")
    path = tmp_path / "config.toml"
    assert output("config", "init", path).strip() == str(path)
    assert path.read_text() == text
    assert str(path) in output("config", "check", path)
    assert tomllib.loads(text).keys() >= {"audio"}
    keys, section = set(), ""
    for line in text.splitlines():
        if found := re.match(r"#?\[+(\w+)(\.\w+)?\]+$", line):
            section = f"{found[1]}.NAME." if found[2] else f"{found[1]}."
        elif found := re.match(r"#?(\w+) = ", line):
            keys.add(f"{section}{found[1]}")
    known = (line.partition(":") for line in schema.lines())
    wanted = {key.replace("[]", "") for key, _, what in known if not what.startswith(" section")}
    # Of a source, what it may have in place of another section is explained there.
    elsewhere = {key for key in wanted if key.startswith("sources.")} - {"sources.NAME.device", "sources.NAME.model"}
    assert keys == wanted - elsewhere
    assert detect("config", "init", path).returncode == 2, "a file that is there stays as it is"


def test_the_environment_and_the_folder_beside_override_the_file(tmp_path: Path) -> None:
    path, beside = tmp_path / "config.toml", tmp_path / "config.d"
    beside.mkdir()
    path.write_text('node = "a"\n[audio]\nsource = "a"\ndevice = "a"\n')
    (beside / "50-b.toml").write_text('[audio]\nsource = "b"\ndevice = "b"\n')
    given = {
        "SNN_DETECT_AUDIO__DEVICE": "c",
        "SNN_DETECT_HEALTH__INTERVAL_S": "7",
        "SNN_DETECT_STDOUT__TYPES": '["onset"]',
        "SNN_DETECT_MODEL": "/of/the/variable.onnx",
    }
    found = json_output("config", "show", "--json", path, **given)
    settings = found["settings"]
    assert (settings["node"], settings["audio"]["source"], settings["audio"]["device"]) == ("a", "b", "c")
    assert (settings["health"]["interval_s"], settings["stdout"]["types"]) == (7.0, ["onset"])
    assert set(found["places"].values()) == {"default", str(path), str(beside / "50-b.toml"), *given}
    assert "/of/the/variable.onnx" in json.dumps(settings)
    assert found["files"] == [str(path), str(beside / "50-b.toml")]


def test_an_unknown_key_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text('[audio]\ndevise = "mic"\n[stdout]\nenabled = true\n')
    done = detect("config", "check", path)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert all(part in line for part in ("snn-detect: error: ", str(path), "audio.devise", "audio.device?"))
    assert detect("config", "check", SNN_DETECT_AUDIO__DEVISE="mic").returncode == 2


def test_secrets_come_from_files_alone(schema: Schema, tmp_path: Path) -> None:
    secrets = [line.partition(":")[0] for line in schema.lines() if re.search(r"password|token|secret", line)]
    assert secrets
    assert all(key.endswith("_file") for key in secrets)
    secret, path = tmp_path / "secret", tmp_path / "config.toml"
    path.write_text(f'[[mqtt]]\nhost = "h"\nusername = "u"\npassword_file = "{secret}"\n')
    assert detect("config", "check", path).returncode == 2
    secret.write_text("open sesame\n")
    secret.chmod(0o600)
    assert detect("config", "check", path).returncode == 0
    assert "open sesame" not in output("config", "show", path)
