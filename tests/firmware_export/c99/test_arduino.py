"""The library for Arduino: its folder by the specification, its code on Cortex-M under QEMU, its sketches there."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest
from click.testing import CliRunner

from detector.errors import ConfigError
from firmware_export.c99.arduino import export_arduino
from firmware_export.c99.build import build_host
from firmware_export.c99.export import export_c
from firmware_export.c99.formats import FLOAT, INT8, NumberFormat
from firmware_export.cli import cli
from tests.firmware_export.programs import MODEL, need, run, scene
from tests.model_files import changed_model

SHIM: Final = Path(__file__).resolve().parents[1] / "arduino"
M4F: Final = "-mcpu=cortex-m4 -mthumb -mfloat-abi=hard -mfpu=fpv4-sp-d16"
M0: Final = "-mcpu=cortex-m0plus -mthumb"
C_FLAGS: Final = "-Os -std=gnu11 -ffunction-sections -fdata-sections"
"""As Arduino's cores for Arm have them."""
CPP_FLAGS: Final = "-Os -std=gnu++14 -ffunction-sections -fdata-sections -fno-rtti -fno-exceptions"
STRICT: Final = "-Wall -Wextra -Werror"
FUSED: Final = re.compile(r"\tvfn?m[as]\.")


@pytest.fixture(scope="module")
def libraries(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Give the shipped model as a library, by number format."""
    folder = tmp_path_factory.mktemp("libraries")
    for number_format in (FLOAT, INT8):
        export_arduino(MODEL, folder / number_format.slug, number_format)
    return {number_format.slug: folder / number_format.slug for number_format in (FLOAT, INT8)}


@pytest.fixture(scope="module")
def integers(libraries: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Give the objects of the integer model for a Cortex-M4F."""
    return compiled(libraries["int8"], tmp_path_factory.mktemp("objects"), M4F)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the same model as a folder of C99, for its start-up code and as a program for this computer."""
    folder = tmp_path_factory.mktemp("plain") / "c"
    export_c(MODEL, folder, INT8)
    return folder


def compiled(library: Path, to: Path, cpu: str) -> list[Path]:
    """Compile the sources of a library as Arduino does, each on its own, and return the objects."""
    need("arm-none-eabi-gcc")
    objects = []
    for source in sorted((library / "src").glob("*.c")):
        objects.append(to / f"{source.stem}.o")
        options = [*cpu.split(), *C_FLAGS.split(), *STRICT.split(), f"-I{library / 'src'}"]
        run("arm-none-eabi-gcc", *options, "-c", source, "-o", objects[-1])
    return objects


def entries(library: Path) -> dict[str, str]:
    lines = (library / "library.properties").read_text(encoding="utf-8").splitlines()
    return dict(line.split("=", 1) for line in lines)


def test_the_folder_is_that_of_the_library_specification(libraries: dict[str, Path]) -> None:
    library = libraries[INT8.slug]
    found = entries(library)
    required = ("name", "version", "author", "maintainer", "sentence", "paragraph", "category", "url", "architectures")
    assert [key for key in required if key not in found] == []
    assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9 _.-]{0,62}", found["name"])
    assert found["category"] == "Signal Input/Output"
    assert (library / "src" / found["includes"]).is_file()
    assert {p.name for p in library.iterdir()} == {
        *("library.properties", "keywords.txt", "README.md", "src", "examples")
    }
    for sketch in (library / "examples").iterdir():
        assert [p.name for p in sketch.iterdir()] == [f"{sketch.name}.ino"]
    assert not (library / "src" / "snn_host.c").exists()  # has a main of its own


def test_keywords_are_names_of_the_headers(libraries: dict[str, Path]) -> None:
    headers = "".join(p.read_text() for p in (libraries[INT8.slug] / "src").glob("*.h"))
    rows = [line.split("\t") for line in (libraries[INT8.slug] / "keywords.txt").read_text().splitlines()]
    assert {kind for _, kind in rows} == {"KEYWORD1", "KEYWORD2", "LITERAL1"}
    assert [name for name, _ in rows if not re.search(rf"\b{name}\b", headers)] == []


def test_the_sources_compile_for_a_core_without_a_floating_point_unit(
    libraries: dict[str, Path], tmp_path: Path
) -> None:
    names = {path.stem for path in compiled(libraries["int8"], tmp_path, M0)}
    assert {"snn_detect", "snn_mfcc", "snn_network", "snn_model", "snn_print"} <= names


def test_no_multiplication_is_fused_with_an_addition(libraries: dict[str, Path], tmp_path: Path) -> None:
    """Arduino's options would fuse them, as the same source without the pragma shows."""
    objects = compiled(libraries["float"], tmp_path, M4F)
    assert not any(FUSED.search(run("arm-none-eabi-objdump", "-d", path)) for path in objects)
    source = libraries["float"] / "src" / "snn_mfcc.c"
    bare = tmp_path / "snn_mfcc.c"
    bare.write_text(re.sub(r"(?s)^.*?#endif\n", "", source.read_text(), count=1))
    run("arm-none-eabi-gcc", *M4F.split(), *C_FLAGS.split(), f"-I{source.parent}", "-c", bare, "-o", tmp_path / "b.o")
    assert FUSED.search(run("arm-none-eabi-objdump", "-d", tmp_path / "b.o"))


def image(sketch: Path, objects: list[Path], plain: Path, to: Path, burst: int = 1) -> Path:
    """Link a sketch with its library and the start-up code of the example board."""
    objects, library, board = list(objects), sketch.parents[1], plain / "examples" / "cortex_m"
    for name in ("startup", "semihosting", "stack"):
        objects.append(to / f"{name}.o")
        run("arm-none-eabi-gcc", *M4F.split(), *C_FLAGS.split(), "-c", board / f"{name}.c", "-o", objects[-1])
    for name, file in (("sketch", sketch / f"{sketch.name}.ino"), ("board", SHIM / "board.cpp")):
        objects.append(to / f"{name}.o")
        options = [*M4F.split(), *CPP_FLAGS.split(), *STRICT.split(), f"-DBURST={burst}", "-include", "Arduino.h"]
        options += [f"-I{SHIM}", f"-I{library / 'src'}", f"-I{board}", "-x", "c++"]
        run("arm-none-eabi-gcc", *options, "-c", file, "-o", objects[-1])
    linking: list[str | Path] = [
        "--specs=nano.specs",
        "-nostartfiles",
        "-Wl,--gc-sections",
        "-T",
        "mps2-an386.ld",
        "-o",
        to / "image.elf",
    ]
    run("arm-none-eabi-gcc", *M4F.split(), *linking, *objects, "-lm", cwd=board)
    return to / "image.elf"


def lines_of(elf: Path, sound: Path) -> list[str]:
    """Run a sketch under QEMU on the first guitar of the demo scene, and return what it writes to its serial port."""
    need("qemu-system-arm")
    sound.write_bytes(scene(4, 14).tobytes())
    command: list[str | Path] = [
        "qemu-system-arm",
        "-machine",
        "mps2-an386",
        "-kernel",
        elf,
        "-display",
        "none",
        "-monitor",
        "none",
    ]
    semihosting = f"enable=on,target=native,arg=sketch,arg={sound}"
    return run(*command, "-serial", "none", "-semihosting-config", semihosting).splitlines()


@pytest.mark.parametrize("sketch", ["SerialPort", "Microphone"])
def test_a_sketch_reports_the_events_of_the_host(
    libraries: dict[str, Path], integers: list[Path], plain: Path, tmp_path: Path, sketch: str
) -> None:
    elf = image(libraries["int8"] / "examples" / sketch, integers, plain, tmp_path)
    expected = build_host(plain, flags="-O2").events(scene(4, 14))
    ended = [event for event in expected if event.get("reason") != "end_of_stream"]
    assert "guitar" in {event["label"] for event in ended}
    assert [json.loads(line) for line in lines_of(elf, tmp_path / "sound.pcm")] == ended


def test_a_sketch_that_is_late_says_so_and_goes_on(
    libraries: dict[str, Path], integers: list[Path], plain: Path, tmp_path: Path
) -> None:
    """Half a second comes between two turns of the loop: more than the ring holds."""
    sketch = libraries["int8"] / "examples" / "Microphone"
    lines = lines_of(image(sketch, integers, plain, tmp_path, burst=32), tmp_path / "sound.pcm")
    assert lines.count("samples were lost: the loop is late") >= 2


def export(*arguments: str | Path) -> Any:
    return CliRunner().invoke(cli, ["c", str(MODEL), "--arduino", *map(str, arguments)])


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_the_folder_is_deterministic_and_replaced_on_request_only(tmp_path: Path) -> None:
    out = tmp_path / "library"
    done = export("--int8", "--out", out)
    assert done.exit_code == 0, done.output
    assert "next: move it to libraries/" in done.output
    before = files(out)
    done = export("--int8", "--out", out)
    assert done.exit_code == 2
    assert "--force" in done.stderr
    (out / "src" / "snn_detect.c").write_text("broken")
    assert export("--int8", "--out", out, "--force").exit_code == 0
    assert files(out) == before


def test_a_library_is_made_in_the_folder_of_all_libraries(tmp_path: Path) -> None:
    libraries = tmp_path / "libraries"
    (libraries / "another").mkdir(parents=True)
    done = export("--out", libraries)
    assert done.exit_code == 2
    assert "libraries: exists and was not made by this command; name another folder, such as one in it" in done.stderr
    done = export("--out", libraries / "detector")
    assert "next: open " in done.output


@pytest.mark.parametrize("is_arduino", [True, False])
def test_neither_form_replaces_the_other(tmp_path: Path, is_arduino: bool) -> None:
    out = tmp_path / "folder"
    exports = (export_arduino, export_c) if is_arduino else (export_c, export_arduino)
    exports[0](MODEL, out, INT8)
    before = files(out)
    with pytest.raises(ConfigError, match="exists and was not made by this command; name another folder"):
        exports[1](MODEL, out, INT8)
    assert files(out) == before


@pytest.mark.parametrize("number_format", [FLOAT, INT8], ids=lambda f: f.slug)
def test_the_name_is_that_of_model_and_number_format(libraries: dict[str, Path], number_format: NumberFormat) -> None:
    found = entries(libraries[number_format.slug])
    assert found["name"] == f"snn_detect_household_{number_format.slug}"
    assert found["name"].endswith(
        re.findall(r"#define SNN_PREFIX household_(\w+)", header(libraries, number_format))[0]
    )


def header(libraries: dict[str, Path], number_format: NumberFormat) -> str:
    return (libraries[number_format.slug] / "src" / "snn_model.h").read_text(encoding="ascii")


def test_a_version_that_arduino_does_not_take_is_refused(tmp_path: Path) -> None:
    model = changed_model(tmp_path / "m.onnx", lambda manifest: replace(manifest, version="winter"))
    with pytest.raises(ConfigError, match="'winter' is none of Arduino's"):
        export_arduino(model, tmp_path / "out", INT8)
    assert not (tmp_path / "out").exists()
