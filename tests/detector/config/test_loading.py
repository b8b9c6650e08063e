"""Settings: what overrides what, what is wrong in one line, and what is shown of them."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import sqlite3
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from detector.cli.config import config as config_command
from detector.cli.program import Program
from detector.config.loading import RENAMED, known_keys, load_configuration, load_settings
from detector.config.settings import Settings
from detector.errors import ConfigError
from detector.network import default_model_path
from detector.sinks import command

ROOT = Path(__file__).resolve().parents[3]
SYSTEM_FILE = Path("/etc/snn-detect/config.toml")


@click.group(cls=Program)
def cli() -> None: ...


cli.add_command(config_command)


@pytest.fixture(autouse=True)
def _bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Leave nothing in the environment that a setting, or a place, could come from."""
    for variable in os.environ:
        if variable.startswith(("SNN_DETECT_", "XDG_")) or variable.endswith("_DIRECTORY"):
            monkeypatch.delenv(variable)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


def written(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "config.toml"


def mistake(path: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        load_settings(path)
    text = str(caught.value)
    assert "\n" not in text
    return text


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli, ["config", *map(str, arguments)], prog_name="snn-detect")


def test_each_place_overrides_the_one_before(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_settings(written(file, "")) == Settings()
    written(file, "[audio]\ndevice = 'file'\nsource = 'file'\nrate_hz = 48000\nbuffer_s = 1.5\n")
    written(file.with_name("config.d") / "20.toml", "[audio]\ndevice = 'later'\nsource = 'later'\nrate_hz = 44100\n")
    written(file.with_name("config.d") / "10.toml", "[audio]\ndevice = 'earlier'\nrate_hz = 8000\n")
    monkeypatch.setenv("SNN_DETECT_AUDIO__DEVICE", "environment")
    monkeypatch.setenv("SNN_DETECT_AUDIO__SOURCE", "environment")
    audio = load_settings(file, {"audio.device": "command", "audio.channel": None}).audio
    assert (audio.device, audio.source, audio.rate_hz, audio.buffer_s, audio.channel) == (
        "command",
        "environment",
        44100,
        1.5,
        "mean",
    )


def test_tables_are_merged_and_lists_replaced(file: Path) -> None:
    written(file, "[mqtt]\nhost = 'a'\nport = 1\n[listening]\nonly = ['x', 'y']\nthresholds = { x = 0.1, y = 0.2 }\n")
    written(file.with_name("config.d") / "a.toml", "[mqtt]\nport = 2\n[listening]\nonly = ['z']\nthresholds.y = 0.3\n")
    found = load_settings(file, {"listening.thresholds": {"z": 0.4}})
    assert [(m.host, m.port) for m in found.mqtt] == [("a", 2)]
    assert found.listening.only == ("z",)
    assert found.listening.thresholds == {"x": 0.1, "y": 0.3, "z": 0.4}


def test_values_of_the_command_line_stay_as_they_are(file: Path) -> None:
    overrides = {"mqtt": [{"host": "a"}], "mqtt.port": 2}
    for _ in range(2):
        assert [m.port for m in load_settings(written(file, ""), overrides).mqtt] == [2]
    assert overrides == {"mqtt": [{"host": "a"}], "mqtt.port": 2}


def test_one_table_does_not_say_which_of_several_it_means(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(file, "[[mqtt]]\nhost = 'a'\n[[mqtt]]\nhost = 'b'\n")
    assert len(load_settings(file).mqtt) == 2
    monkeypatch.setenv("SNN_DETECT_MQTT__PORT", "2")
    assert mistake(file).startswith("SNN_DETECT_MQTT__PORT: mqtt: there are 2 of these")
    monkeypatch.delenv("SNN_DETECT_MQTT__PORT")
    monkeypatch.setenv("SNN_DETECT_MQTT", '[{"host": "c"}]')
    assert [m.host for m in load_settings(file).mqtt] == ["c"]


@pytest.mark.parametrize(
    ("variable", "value", "key", "expected"),
    [
        ("SNN_DETECT_NODE", "kitchen", "node", "kitchen"),
        ("SNN_DETECT_AUDIO__DEVICE", "2", "audio.device", "2"),
        ("SNN_DETECT_AUDIO__CHANNEL", "2", "audio.channel", 2),
        ("SNN_DETECT_AUDIO__RATE_HZ", "48000", "audio.rate_hz", 48000),
        ("SNN_DETECT_STDOUT__ENABLED", "false", "stdout.enabled", False),
        ("SNN_DETECT_LISTENING__ONLY", "['guitar', 'speech']", "listening.only", ["guitar", "speech"]),
        ("SNN_DETECT_LISTENING__THRESHOLDS", '{"guitar": 0.5}', "listening.thresholds", {"guitar": 0.5}),
        ("SNN_DETECT_LISTENING__THRESHOLDS", "{ guitar = 0.5 }", "listening.thresholds", {"guitar": 0.5}),
        ("SNN_DETECT_LISTENING__THRESHOLDS__GUITAR", "0.5", "listening.thresholds", {"guitar": 0.5}),
        ("SNN_DETECT_MODEL", "/m.onnx", "model.path", "/m.onnx"),
        ("SNN_DETECT_DATABASE", "{}", "database.path", None),
        ("SNN_DETECT_FILE__PATH", '"/a b"', "file.0.path", "/a b"),
    ],
)
def test_environment(  # noqa: PLR0913 - four of them are the table above
    file: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, key: str, expected: object
) -> None:
    monkeypatch.setenv(variable, value)
    found: Any = load_settings(written(file, "")).model_dump(mode="json")
    for part in key.split("."):
        found = found[int(part) if part.isdigit() else part]
    assert found == expected


def test_variables_that_are_no_settings_are_left_alone(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("SNN_DETECT_DEBUG", "SNN_DETECT_DATA", "SNN_DETECT_MODEL"):
        monkeypatch.setenv(variable, "")
    assert load_settings(written(file, "")) == Settings()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[audio]\ndevise = 'x'", "audio.devise: no such key; did you mean audio.device?"),
        ("device = 'x'", "device: no such key; did you mean audio.device?"),
        ("[Audio]\ndevice = 'x'", "Audio: no such key; did you mean audio?"),
        ("[audio]\nthresholds = {}", "audio.thresholds: no such key; did you mean listening.thresholds?"),
        ("[clips]\npath = '/x'", "clips.path: no such key; known here are directory, labels, pre_roll_s"),
        ("[audio]\nzzz = 1", "audio.zzz: no such key; known here are device, source, channel, rate_hz, buffer_s"),
        (
            "[audio]\nchannel = 'rigth'",
            "audio.channel: must be 'mean', 'left' or 'right', not 'rigth'; did you mean ",
        ),
        ("[audio]\nchannel = 0", "audio.channel: must be at least 1, not 0"),
        ("[audio]\nrate_hz = '48k'", "audio.rate_hz: must be a whole number, not '48k'"),
        ("[audio]\nbuffer_s = inf", "audio.buffer_s: must be a finite number, not inf"),
        ("audio = 3", "audio: must be a table, not 3"),
        ("node = 'a b'", "node: must be 1 to 64 letters (a to z), digits, _ and -, not 'a b'"),
        (
            "[stdout]\ntypes = ['onst']",
            "stdout.types: must be 'onset', 'offset', 'gap', 'status', 'health' or 'clip'",
        ),
        ("[stdout]\nenabled = 'perhaps'", "stdout.enabled: must be true or false, not 'perhaps'"),
        ("[listening]\nonly = 'guitar'", "listening.only: must be a list, such as [\"...\"], not 'guitar'"),
        ("[model]\npath = ''", "model.path: must be the path of a file or folder"),
        ("[listening.thresholds]\ndog-bark = 3", "listening.thresholds.dog-bark: must be less than 1, not 3"),
        ("[mqtt]\nport = 1", "mqtt.host: is missing"),
        ("[[mqtt]]\nhost = 'a'\n[[mqtt]]\nhost = 'b'\nport = 0", "mqtt[2 of 2].port: must be at least 1, not 0"),
        ("[mqtt]\nhost = 'a'\nca_file = '/x'", "mqtt: ca_file, certificate_file and key_file need tls = true"),
        (
            "[[mqtt]]\nhost = 'a'\n[[mqtt]]\nhost = 'a'\nprefix = 'x'",
            "mqtt: two sections name the broker a:1883, where each disconnects the other; keep one",
        ),
        ("[[file]]\npath = '/x'\n[[file]]\npath = '/x'", "file: two sections write /x; give each its own path"),
        ("[command]\nargv = []", "command.argv: must not be empty"),
        ("[metrics]\naddress = 'localhost'", "metrics.address: 'localhost' lacks its port: write such as"),
        ("[metrics]\naddress = ':9464'", "metrics.address: ':9464' can be reached from other machines, which needs"),
        ("[web]\naddress = ':8765'", "web.address: ':8765' can be reached from other machines, which needs"),
        ("a = \nb = 1", "not TOML: Invalid value (at line 1, column 5)"),
        ("a = 1\nb\n", "not TOML: Expected '=' after a key in a key/value pair (at line 2, column 2)"),
    ],
)
def test_mistakes_in_the_file(file: Path, text: str, expected: str) -> None:
    assert mistake(written(file, text)).startswith(f"{file}: {expected}")


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        ("AUDIO_DEVICE", "x", "audio_device: no such key; did you mean SNN_DETECT_AUDIO__DEVICE?"),
        ("AUDIO__RATE", "48000", "audio.rate: no such key; did you mean SNN_DETECT_AUDIO__RATE_HZ?"),
        ("AUDIO__BUFFER_S", "", "audio.buffer_s: must be a number, not ''"),
        ("LISTENING__ONLY", "[guitar", 'neither TOML nor JSON; write a list as ["a", "b"], a table as {key = "value"}'),
    ],
)
def test_mistakes_in_the_environment(
    file: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, expected: str
) -> None:
    monkeypatch.setenv(f"SNN_DETECT_{variable}", value)
    assert mistake(written(file, "")) == f"SNN_DETECT_{variable}: {expected}"


@pytest.mark.parametrize(
    ("text", "port"),
    [("", 1883), ("tls = false", 1883), ("tls = true", 8883), ("tls = true\nport = 1883", 1883)],
)
def test_the_usual_port_of_a_broker(file: Path, text: str, port: int) -> None:
    assert load_settings(written(file, f"[mqtt]\nhost = 'a'\n{text}\n")).mqtt[0].port == port


def test_a_mistake_is_reported_with_its_place(file: Path) -> None:
    written(file, "[audio]\nrate_hz = 1\n")
    part = written(file.with_name("config.d") / "a.toml", "[audio]\nrate_hz = 2\n")
    assert mistake(file).startswith(f"{part}: audio.rate_hz: must be at least 4000, not 2")
    written(part, "[[mqtt]]\nhost = 'b'\nport = 0\n")
    assert mistake(written(file, "[mqtt]\nhost = 'a'\nport = 1\n")).startswith(f"{part}: mqtt.port: must be at least 1")
    written(part, "")
    written(file, "")
    with pytest.raises(ConfigError, match=r"^command line: audio\.rate_hz: must be at least 4000, not 3$"):
        load_settings(file, {"audio.rate_hz": 3})


def test_of_several_mistakes_the_first_is_reported_and_the_rest_counted(file: Path) -> None:
    written(file, "[audio]\nbuffer_s = 0\nrate_hz = 1\ndevise = 'x'\n")
    assert mistake(file) == (
        f"{file}: audio.devise: no such key; did you mean audio.device? (and 2 more: snn-detect config check)"
    )
    result = run("check", file)
    assert result.exit_code == 2
    assert len(result.stderr.splitlines()) == 3
    assert all(line.startswith(f"snn-detect: error: {file}: audio.") for line in result.stderr.splitlines())


@pytest.mark.parametrize("key", ["password", "token", "secret"])
def test_secrets_are_refused_and_not_repeated(file: Path, key: str) -> None:
    written(file, f"[mqtt]\nhost = 'a'\n{key} = 'hunter2'\n[[webhook]]\nurl = 'https://a'\n{key} = 'hunter2'\n")
    text = mistake(file)
    assert "hunter2" not in text
    if key != "secret":
        assert "secrets are not kept in here" in text
        assert "_file" in text


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    assert "no such file; snn-detect config init" in mistake(tmp_path / "none.toml")
    assert "Is a directory" in mistake(tmp_path)
    (tmp_path / "latin.toml").write_bytes(b"# one\nnode = 'caf\xe9'\n")
    assert mistake(tmp_path / "latin.toml").endswith("line 2 is not UTF-8 text")


def test_hidden_files_and_other_names_are_no_settings(file: Path) -> None:
    for name in (".a.toml", "b.toml.bak", "README"):
        written(file.with_name("config.d") / name, "nonsense")
    assert load_configuration(written(file, "")).files == (file,)


def test_where_the_file_is_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if SYSTEM_FILE.exists():
        pytest.skip(f"{SYSTEM_FILE} is there")
    assert load_configuration(None).files == ()
    in_home = written(tmp_path / "home" / ".config" / "snn-detect" / "config.toml", "node = 'home'")
    assert load_configuration(None).files == (in_home,)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))
    assert load_configuration(None).files == ()
    of_user = written(tmp_path / "xdg" / "snn-detect" / "config.toml", "node = 'user'")
    assert load_configuration(None).files == (of_user,)
    monkeypatch.setenv("CONFIGURATION_DIRECTORY", f"{tmp_path / 'first'}:{tmp_path / 'second'}")
    assert load_configuration(None).files == (of_user,)
    of_systemd = written(tmp_path / "first" / "config.toml", "node = 'systemd'")
    assert load_configuration(None).files == (of_systemd,)


@pytest.mark.skipif(os.geteuid() != 0 or SYSTEM_FILE.exists(), reason="needs root, and no settings of the system")
def test_a_file_that_is_not_for_this_user_is_passed_over(tmp_path: Path) -> None:
    file = written(tmp_path / "config.toml", "node = 'secret'")
    file.chmod(0o600)
    program = (
        "import os\nfrom detector.config.loading import load_configuration\n"
        "os.setgroups([]); os.setuid(65534)\nprint(load_configuration(None).files)"
    )
    environment = os.environ | {"CONFIGURATION_DIRECTORY": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, stdout=subprocess.PIPE, text=True, check=True
    )
    assert done.stdout == "()\n"


def test_a_tilde_is_the_users_home(file: Path, tmp_path: Path) -> None:
    written(file, "[model]\npath = '~/m.onnx'\n")
    assert load_settings(file).model.path == tmp_path / "home" / "m.onnx"


FORMER = (
    "[listening]\npath = '/m.onnx'\n[mqtt]\nhost = 'a'\nlevel_s = 7\n[[webhook]]\nurl = 'https://a'\ntries = 2\n"
    "[clips]\nlongest_s = 3\nmost_bytes = 4\nmost_files = 5\nmost_days = 6\nleast_free_bytes = 8\n"
)


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]


def test_former_names_of_keys_are_accepted_with_a_warning_each(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    found = load_settings(written(file, FORMER))
    assert found.model.path == Path("/m.onnx")
    assert (found.mqtt[0].level_interval_s, found.webhook[0].max_attempts) == (7, 2)
    clips = found.clips
    assert clips is not None
    assert (clips.max_s, clips.max_bytes, clips.max_files, clips.max_days, clips.min_free_bytes) == (3, 4, 5, 6, 8)
    lines = warnings(caplog)
    assert len(lines) == len(RENAMED) == 8
    end = "; the next release no longer accepts the former name"
    assert lines[0] == f"{file}: listening.path is now called model.path{end}"
    assert f"{file}: clips.most_days is now called clips.max_days{end}" in lines


def test_former_names_are_accepted_wherever_a_value_comes_from(
    file: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    part = written(file.with_name("config.d") / "a.toml", "[[webhook]]\nurl = 'https://a'\ntries = 2\n" * 2)
    monkeypatch.setenv("SNN_DETECT_CLIPS__MOST_DAYS", "3")
    monkeypatch.setenv("SNN_DETECT_MQTT", '[{"host": "a", "level_s": 4}]')
    found = load_settings(written(file, "[clips]\nmax_days = 9\n"), {"listening.path": "/m.onnx"})
    assert found.clips is not None
    assert (found.clips.max_days, found.mqtt[0].level_interval_s, found.model.path) == (3, 4, Path("/m.onnx"))
    assert [webhook.max_attempts for webhook in found.webhook] == [2, 2]
    assert [line.partition(";")[0] for line in warnings(caplog)] == [
        f"{part}: webhook.tries is now called webhook.max_attempts",
        "SNN_DETECT_CLIPS__MOST_DAYS is now called SNN_DETECT_CLIPS__MAX_DAYS",
        "SNN_DETECT_MQTT: SNN_DETECT_MQTT__LEVEL_S is now called SNN_DETECT_MQTT__LEVEL_INTERVAL_S",
        "command line: listening.path is now called model.path",
    ]


@pytest.mark.parametrize("former", sorted(RENAMED))
def test_a_key_by_both_its_names_is_a_mistake(file: Path, former: str) -> None:
    section, _, old = former.partition(".")
    new_section, _, new = RENAMED[former].partition(".")
    text = f"[{section}]\n{old} = 1\n{new} = 1" if section == new_section else f"{former} = 1\n{RENAMED[former]} = 1"
    assert mistake(written(file, text)) == (
        f"{file}: {former} is the former name of {RENAMED[former]}, which is given too; remove one of them"
    )


def test_former_names_are_no_part_of_the_schema_or_of_what_is_shown(file: Path) -> None:
    assert not RENAMED.keys() & set(known_keys())
    assert not [name for name in ("most_days", "level_s", "tries") if name in run("schema").stdout]
    shown = run("show", "--config", written(file, FORMER))
    assert "max_days = 6.0" in shown.stdout
    assert "most_days" not in shown.stdout


def test_a_former_name_with_a_wrong_value_is_reported_by_the_present_name(file: Path) -> None:
    assert mistake(written(file, "[clips]\nmost_files = 0\n")) == f"{file}: clips.max_files: must be more than 0, not 0"
    assert mistake(written(file, "model = 3\n[listening]\npath = '/m'\n")).startswith(
        f"{file}: listening.path: no such"
    )


def test_settings_import_no_library_that_only_some_sinks_need() -> None:
    libraries = {
        "asyncio",
        "http.server",
        "numpy",
        "paho",
        "prometheus_client",
        "soundfile",
        "sqlite3",
        "ssl",
        "starlette",
        "urllib.request",
    }
    program = (
        "import sys; from detector.config.loading import load_settings; load_settings(None, {'mqtt.host': 'a'})\n"
        f"print({libraries} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, check=True, cwd=ROOT)
    assert done.stdout == "set()\n"


def test_clips_may_be_kept_for_ever(file: Path) -> None:
    found = load_settings(written(file, "[clips]\nmax_days = 0\n")).clips
    assert found is not None
    assert found.max_days is None


def test_metrics_beyond_this_machine_need_a_token_file(file: Path) -> None:
    written(file, "[metrics]\naddress = '0.0.0.0:9464'\ntoken_file = '/x'\n")
    assert load_settings(file).metrics is not None


def test_what_is_shown_is_a_configuration_with_the_same_meaning(file: Path, tmp_path: Path) -> None:
    written(
        file,
        "[audio]\ndevice = 'Ünusual \"name\"'\nrate_hz = 48000\n[listening]\nthresholds = { 'a b' = 0.5 }\n"
        "[database]\n[[file]]\npath = '/a'\n[[file]]\npath = '/b'\n[clips]\nmax_days = 0\n[metrics]\n",
    )
    shown = run("show", "--config", file)
    assert shown.exit_code == 0
    again = written(tmp_path / "again.toml", shown.stdout.replace("# max_days is left out", "max_days = 0"))
    assert load_settings(again) == load_settings(file)


def test_each_setting_is_shown_with_its_place(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(
        file, "[audio]\nrate_hz = 48000\n[[mqtt]]\nhost = 'a'\n[[mqtt]]\nhost = 'b'\n[listening.thresholds]\na = 0.1\n"
    )
    part = written(file.with_name("config.d") / "a.toml", "[listening.thresholds]\nb = 0.2\n")
    monkeypatch.setenv("SNN_DETECT_AUDIO__DEVICE", "x")
    found = json.loads(run("show", "--config", file, "--json").stdout)
    assert found["files"] == [str(file), str(part)]
    assert found["settings"] == load_settings(file).model_dump(mode="json")
    places = found["places"]
    assert places["audio.rate_hz"] == places["mqtt.1.host"] == str(file)
    assert places["audio.device"] == "SNN_DETECT_AUDIO__DEVICE"
    assert places["mqtt.1.port"] == places["audio.channel"] == "default"
    assert places["listening.thresholds"] == f"{file}, {part}"
    lines = run("show", "--config", file).stdout.splitlines()
    assert any(re.fullmatch(r'device = "x" +# SNN_DETECT_AUDIO__DEVICE', line) for line in lines)


def test_secrets_are_not_shown(file: Path) -> None:
    written(
        file,
        "[[webhook]]\nurl = 'https://user:SECRET@example.org:8443/SECRET?SECRET'\n[[webhook]]\nurl = 'http://h/'\n"
        "[[command]]\nargv = ['curl', '--token', 'SECRET', '--auth=SECRET', '-H', 'Authorization: Bearer SECRET', "
        "'https://h/SECRET', '--data', '@-', '-P', 'SECRET', '-pSECRET', 'me:SECRET', 'SECRET']\n",
    )
    for arguments in (("show", "--config", file), ("show", "--config", file, "--json")):
        text = run(*arguments).stdout
        assert "SECRET" not in text
        assert "https://example.org:8443/..." in text
        assert "--data" in text


def test_check_knows_the_models_labels_and_the_secrets_files(file: Path, tmp_path: Path) -> None:
    written(
        file,
        f"[listening]\nonly = ['guitr', 'speech']\nthresholds = {{ dog = 0.5 }}\n[clips]\nlabels = ['zzz']\n"
        f"[mqtt]\nhost = 'a'\nusername = 'u'\npassword_file = '{tmp_path / 'none'}'\n",
    )
    result = run("check", file)
    assert result.exit_code == 2
    lines = result.stderr.splitlines()
    assert len(lines) == 4
    assert "listening.only: the model knows no 'guitr'; did you mean 'guitar'?" in lines[0]
    assert "listening.thresholds: the model knows no 'dog'" in lines[1]
    assert "clips.labels: the model knows no 'zzz'; it knows guitar" in lines[2]
    assert "mqtt.password_file: " in lines[3]
    assert "No such file" in lines[3]


SECRET = "S" + "ECRET"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("[webhook]\nurl = 'https://me:SECRET@example.org/x'", "webhook url: must be http(s)://HOST/PATH"),
        ("[webhook]\nurl = 'https://example.org:99999/x'", "webhook url: "),
        ("[webhook]\nurl = 'https://example.org:0/x'", "webhook url: there is no port 0"),
        ("[[file]]\npath = '{0}/a'\n[clips]\ndirectory = '{0}/b/../a'", "is the file of file.path; name a folder"),
        ("[audio]\nrate_hz = " + 5000 * "9", "value has 5000 digits"),
        ("[webhook]\nurl = 'https://example.org/'\nca_file = '/none.pem'", "webhook: /none.pem: cannot be read"),
        ("[mqtt]\nhost = 'h'\ntls = true\nca_file = '/none.pem'", "mqtt: ca_file /none.pem: "),
        ("[mqtt]\nhost = 'h'\nprefix = 'a/#'", "mqtt.prefix: "),
        ("[mqtt]\nhost = 'h'\ndiscovery_prefix = 'a/+'", "mqtt discovery_prefix 'a/+' must hold no +"),
        ("[mqtt]\nhost = 'mqtt://me:SECRET@h'", "mqtt.host: must be the name or address of the broker alone"),
        ("[mqtt]\nhost = 'h:1883'", "mqtt.host: must be the name or address alone"),
        ("[mqtt]\nhost = '[::1]'", "mqtt.host: must be the name or address alone"),
        ("[mqtt]\nhost = 'h'\nport = 99999", "mqtt.port: must be at most 65535, not 99999"),
        ("[web]\naddress = '127.0.0.1:99999'", "there is no such port; the highest is 65535"),
        ("[[file]]\npath = '{0}/a'\n[[file]]\npath = '{0}/../{1}/a'", "is the file of file.path, too"),
        ("[[file]]\npath = '{0}/a'\n[database]\npath = '{0}/a'", "{0}/a is the file of file.path, too"),
        ("[[file]]\npath = '{0}/sound.wav'", "{0}/sound.wav exists and is not a file of JSON lines"),
        ("[database]\npath = '{0}/other.db'", "{0}/other.db is a database of another program; name another file"),
        ("[database]\npath = '{0}/sound.wav'", "{0}/sound.wav exists and is not an SQLite database"),
        ("[[file]]\npath = '{0}/token'\n[web]\ntoken_file = '{0}/token'", "is the file of web.token_file, too"),
        ("[clips]\nlabels = ['zzz']", "clips.labels: the model knows no 'zzz'"),
        ("[listening.thresholds]\nzzz = 0.5", " 'zzz'; "),
        ("[audio]\ndevice = '{0}/sound.wav'", "is a file, not a device"),
        ("[audio]\ndevice = 'usb-id:1'", "expected usb-id:vid:pid"),
        ("[mqtt]\nhost = 'a b'", "mqtt.host: must be the name or address of the broker alone"),
        ("[[mqtt]]\nhost = 'h'\n[[mqtt]]\nhost = 'H'", "two sections name the broker h:1883"),
        ("[[file]]\npath = '{0}'", "{0} is a directory; name a file"),
        ("[database]\npath = '{0}'", "{0} is a directory; name a file"),
        ("[clips]\ndirectory = '{0}/sound.wav'", "{0}/sound.wav is a file; name a folder"),
        ("[model]\npath = '{0}'", "{0}: the model cannot be read"),
        ("[audio]\ndevice = '-'\nchannel = 2", "raw samples: channel 2 is not there"),
    ],
)
def test_check_and_run_refuse_the_same(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, line: str
) -> None:
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path / "state"))
    (tmp_path / "sound.wav").write_bytes(b"RIFF1234WAVEfmt ")
    (tmp_path / "token").write_text("long enough to be a token")
    (tmp_path / "token").chmod(0o600)
    with contextlib.closing(sqlite3.connect(tmp_path / "other.db")) as connection:
        connection.execute("CREATE TABLE events (id INTEGER, what TEXT)")
    written(file, text.format(tmp_path, tmp_path.name).replace("SECRET", SECRET) + "\n")
    checked = run("check", file)
    command = [sys.executable, "-m", "detector", "run", "--config", str(file)]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (checked.exit_code, ran.returncode) == (2, 2), (checked.output, ran.stderr)
    assert line.format(tmp_path) in checked.stderr
    assert len(checked.stderr.splitlines()) == 1
    words = line.format(tmp_path).removeprefix("clips.labels: ")
    assert words in ran.stderr
    assert SECRET not in checked.output + ran.stderr
    assert (tmp_path / "sound.wav").read_bytes() == b"RIFF1234WAVEfmt "


def test_a_user_who_may_not_look_at_the_outputs_can_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder of the service's state is closed to others."""
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    state, file = tmp_path / "state", tmp_path / "config.toml"
    state.mkdir(mode=0o700)
    (state / "events.jsonl").write_text("no JSON, but nothing that another user can see")
    written(file, f"[[file]]\npath = '{state}/events.jsonl'\n[database]\npath = '{state}/e.db'\n[clips]\n")
    for path in (file, *(p for p in file.parents if "pytest" in str(p))):
        path.chmod(0o755)
    (model := tmp_path / "model.onnx").write_bytes(default_model_path().read_bytes())
    monkeypatch.setenv("STATE_DIRECTORY", str(state))
    monkeypatch.setenv("SNN_DETECT_MODEL", str(model))
    assert "exists and is not a file of JSON lines" in run("check", file).stderr  # root sees it, and imports all
    os.seteuid(65534)
    try:
        done = run("check", file)
    finally:
        os.seteuid(0)
    assert (done.exit_code, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("[webhook]\nurl = 'htp://me:SECRET@example.org/SECRET'", "webhook.url: "),
        ("[command]\nargv = 'curl -u me:SECRET@h'", "command.argv: must be a list"),
        ("[health]\ninterval_s = 1" + 5000 * "0", "not TOML: "),
        ("[clips]\nmax_files = -1" + 400 * "0", "clips.max_files: must be more than 0, not a number of so many digits"),
        ("[clips]\nmax_days = 1e300", "clips.max_days: must be at most 36500"),
        ("[web]\naddress = '127.0.0.1:" + 5000 * "9" + "'", "there is no such port"),
        ("[command]\nargv = ['a']\ncommand = 'b'", "command.command: no such key; known here are argv"),
        ("[clips]\nclips = 1", "clips.clips: no such key; known here are directory"),
        ("[audio]\nthresholds = 1", "audio.thresholds: no such key; did you mean listening.thresholds?"),
        ("a = " + 2000 * "[", "not TOML: "),
    ],
)
def test_wrong_values_are_one_line_without_secrets(file: Path, text: str, line: str) -> None:
    result = run("check", written(file, text.replace("SECRET", SECRET) + "\n"))
    assert result.exit_code == 2
    (found,) = result.stderr.splitlines()
    assert line in found
    assert len(found) < 400
    assert SECRET not in found


def test_numbers_of_thousands_of_digits_in_the_environment(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(file, "")
    for value in ("[" + 5000 * "9" + "]", 5000 * "9"):
        monkeypatch.setenv("SNN_DETECT_HEALTH__INTERVAL_S", value)
        result = run("check", file)
        assert result.exit_code == 2
        (found,) = result.stderr.splitlines()
        assert "SNN_DETECT_HEALTH__INTERVAL_S" in found
        assert len(found) < 300


def test_check_of_a_good_file(file: Path) -> None:
    part = written(file.with_name("config.d") / "a.toml", "[clips]\n")
    result = run("check", written(file, "[listening]\nonly = ['guitar']\n"))
    assert (result.exit_code, result.stdout) == (0, f"{file}\n{part}\nthe configuration is good\n")


def test_schema_is_that_of_the_settings() -> None:
    schema = json.loads(run("schema").stdout)
    assert set(schema["properties"]) == set(Settings.model_fields)
    assert schema["additionalProperties"] is False
    assert schema["$defs"]["Audio"]["properties"]["device"]["default"] == "mic"


def test_init_writes_the_example_and_touches_nothing_that_is_there(tmp_path: Path) -> None:
    target = tmp_path / "new" / "config.toml"
    result = run("init", target)
    assert (result.exit_code, result.stdout) == (0, f"{target}\n")
    assert target.read_text(encoding="utf-8") == run("init", "-").stdout
    assert run("check", target).exit_code == 0
    target.write_text("mine", encoding="utf-8")
    again = run("init", target.parent)
    assert again.exit_code == 2
    assert "is there already and stays as it is" in again.stderr
    assert target.read_text(encoding="utf-8") == "mine"
    assert run("init", tmp_path / "new" / "config.toml" / "x").exit_code == 2


def test_the_packages_file_is_the_example() -> None:
    """The Makefile installs this copy, since it needs no Python that has the dependencies."""
    found = (ROOT / "systemd" / "config.toml").read_text(encoding="utf-8")
    assert found == run("init", "-").stdout, "run: snn-detect config init - > systemd/config.toml"


def test_every_key_has_a_description_and_what_has_no_default_an_example() -> None:
    lines = run("init", "-").stdout.splitlines()
    for before, line in itertools.pairwise(lines):
        if re.match(r"#?\w+ = |#?\[", line):
            assert before.startswith("# "), line
    assert '""' not in [line.partition(" = ")[2] for line in lines if not line.startswith("#rule = ")]
    assert max(map(len, lines)) <= 120


def test_the_example_explains_every_key(file: Path) -> None:
    """A key stands in it with its default; one without a default stands there with an example."""
    text = run("init", "-").stdout
    assert load_settings(written(file, text)) == Settings(database={})
    every_key = re.sub(r"^#(?! |$)", "", text, flags=re.MULTILINE).replace("tls = false", "tls = true")
    written(file, every_key.replace('source = "mic"\n', ""))  # the name of the only source, where there is no other
    shown = load_configuration(file)
    for key in known_keys():
        section, _, name = key.partition(".")
        value = tomllib.loads(file.read_text(encoding="utf-8"))[section]
        table = value[0] if isinstance(value, list) else value
        assert not name or name in table or key == "audio.source", key
    defaults = Settings(database={}, metrics={}, web={}, clips={}).model_dump(mode="json")
    found = shown.settings.model_dump(mode="json")
    for section in ("audio", "model", "listening", "health", "stdout", "database", "metrics", "web", "clips"):
        for name, default in defaults[section].items():
            assert default in (None, {}) or found[section][name] == default, f"{section}.{name}"
    for section, fixed in (
        ("file", {"path": "/a"}),
        ("mqtt", {"host": "a", "tls": True, "port": 1883}),  # the file has the port without TLS
        ("webhook", {"url": "https://a"}),
        ("command", {"argv": ["a"]}),
    ):
        default_of = Settings.model_validate({section: fixed}).model_dump(mode="json")[section][0]
        for name, default in default_of.items():
            assert name in fixed or default is None or found[section][0][name] == default, f"{section}.{name}"


@pytest.mark.parametrize("command", ["check", "show"])
def test_the_file_can_be_named_in_both_ways(file: Path, command: str) -> None:
    written(file, "node = 'a'")
    assert run(command, file).output == run(command, "--config", file).output
    both = run(command, file, "--config", file)
    assert "name one file" in both.stderr


def test_a_former_name_is_one_warning_line_of_every_command(tmp_path: Path) -> None:
    path = tmp_path / "old.toml"
    path.write_text("[[webhook]]\nurl = 'http://127.0.0.1:1/'\ntries = 3\n", encoding="utf-8")
    command = [sys.executable, "-W", "error", "-m", "detector", "config", "check", "--config", str(path)]
    done = subprocess.run(command, cwd=Path(__file__).parents[3], capture_output=True, text=True, check=False)
    assert done.stderr.splitlines()[0] == (
        f"snn-detect: warning: {path}: webhook.tries is now called webhook.max_attempts; "
        "the next release no longer accepts the former name"
    )


def test_the_programs_own_variables_are_no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """A service starts where the engine is named, and so does what a [[command]] calls at an event."""
    sources = [p for name in ("detector", "models", "firmware_export") for p in (ROOT / name).rglob("*.py")]
    text = "\n".join(path.read_text(encoding="utf-8") for path in sources)
    own = set(re.findall(r'"(SNN_DETECT_[A-Z]+)"', text))
    assert {"SNN_DETECT_ENGINE", "SNN_DETECT_MODEL", "SNN_DETECT_DEBUG"} <= own
    for variable in own:
        monkeypatch.setenv(variable, str(default_model_path()))
    monkeypatch.setenv(f"{command.PREFIX}LABEL", "guitar")
    load_settings(None)
