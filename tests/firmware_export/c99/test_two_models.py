"""Several exported models in one program: all names are the model's, and a header links only with its own library."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any, Final

import pytest
from click.testing import CliRunner

from detector.errors import ConfigError
from firmware_export.c99.build import build_host
from firmware_export.c99.export import default_prefix, export_c
from firmware_export.c99.formats import FLOAT, INT8, INT8_FLOAT_FRONT_END, NumberFormat
from firmware_export.cli import cli
from tests.firmware_export.programs import MODEL, ROOT, SOURCES, STRICT, need, run, scene

OTHER: Final = ROOT / "models" / "pretrained" / "esc10-fold1.onnx"
EXPORTS: Final[dict[str, tuple[Path, NumberFormat]]] = {
    "household_float": (MODEL, FLOAT),
    "household_int8": (MODEL, INT8),
    "household_int8_float_mfcc": (MODEL, INT8_FLOAT_FRONT_END),
    "esc10_float": (OTHER, FLOAT),
}
PAIRS: Final = [("household_float", "esc10_float"), ("household_float", "household_int8")]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Give exports with their libraries."""
    need("make", "cc", "nm")
    root, made = tmp_path_factory.mktemp("models"), {}
    for name, (model, number_format) in EXPORTS.items():
        made[name] = root / name
        export_c(model, made[name], number_format)
        build_host(made[name])
    return made


def defined(folder: Path) -> set[str]:
    """Return the names that the linker sees in a library and what prints its events."""
    lines = run("nm", "--extern-only", "--defined-only", *sorted(folder.glob("snn_*.o"))).splitlines()
    return {line.split()[-1] for line in lines if " " in line}


@pytest.mark.parametrize("name", EXPORTS)
def test_all_names_begin_with_the_models(name: str, folders: dict[str, Path]) -> None:
    names = defined(folders[name])
    assert len(names) > 30
    assert [n for n in sorted(names) if not n.startswith(f"{name}_snn_")] == []


def link(program: Path, folders: list[Path], *, headers: list[Path] | None = None) -> None:
    """Compile the program of two models, with the headers of its own folders or of others."""
    objects = []
    for name, folder in zip(("first", "second"), headers or folders, strict=True):
        objects.append(program.with_name(f"{name}.o"))
        run("cc", *STRICT.split(), f"-DMODEL={name}", f"-I{folder}", "-c", "-o", objects[-1], SOURCES / "two_models.c")
    libraries = [part for f in folders for part in (f / "snn_print.o", f / "libsnn_detect.a")]
    run("cc", *STRICT.split(), "-o", program, SOURCES / "two_models.c", *objects, *libraries, "-lm")


def events(text: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


@pytest.mark.parametrize("pair", PAIRS, ids=" and ".join)
def test_a_program_has_the_events_of_both(pair: tuple[str, str], folders: dict[str, Path], tmp_path: Path) -> None:
    chosen, pcm = [folders[name] for name in pair], scene()
    link(tmp_path / "program", chosen)
    done = subprocess.run([tmp_path / "program"], input=pcm.tobytes(), capture_output=True, check=True)
    alone = [build_host(folder).events(pcm) for folder in chosen]
    assert [events(done.stdout), events(done.stderr)] == alone
    assert alone[0] != alone[1]
    assert all(alone)


@pytest.mark.parametrize(
    ("header", "library"),
    [
        *(("household_int8", "household_float"), ("esc10_float", "household_float")),
        *(("household_int8_float_mfcc", "household_int8"),),
    ],
)
def test_a_header_of_another_library_does_not_link(
    header: str, library: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    """With the same prefix, too: a model trained again, or in another format, has another state."""
    for name in (header, library):
        model, number_format = EXPORTS[name]
        export_c(model, tmp_path / name, number_format, "detector")
    build_host(tmp_path / library)
    other = folders["esc10_float"]
    link(tmp_path / "program", [tmp_path / library, other])
    with pytest.raises(AssertionError, match=r"undefined reference to `detector_snn_init_[0-9a-f]{16}_\w+'"):
        link(tmp_path / "program", [tmp_path / library, other], headers=[tmp_path / header, other])


def test_a_header_of_another_precision_does_not_link(folders: dict[str, Path], tmp_path: Path) -> None:
    single, other = shutil.copytree(folders["household_float"], tmp_path / "single"), folders["esc10_float"]
    run("make", "--silent", "-C", single, "clean")
    build_host(single, flags="-O2 -DSNN_SINGLE_FRONT_END=1")
    with pytest.raises(AssertionError, match=r"undefined reference to `household_float_snn_push_[0-9a-f]{16}_float'"):
        link(tmp_path / "program", [single, other])


def test_both_are_parts_of_a_cmake_project(folders: dict[str, Path], tmp_path: Path) -> None:
    need("cmake")
    names = {"first": "household_float", "second": "esc10_float"}
    lines = ["cmake_minimum_required(VERSION 3.16)", "project(firmware C)"]
    for function, name in names.items():
        run("make", "--silent", "-C", shutil.copytree(folders[name], tmp_path / name), "clean")
        lines += [f"add_subdirectory({name})", f"add_library({function} STATIC {SOURCES / 'two_models.c'})"]
        lines += [f"target_compile_definitions({function} PRIVATE MODEL={function})"]
        lines += [f"target_link_libraries({function} PRIVATE {name}::snn_print)"]
    lines += [f"add_executable(firmware {SOURCES / 'two_models.c'})", "target_link_libraries(firmware first second)"]
    (tmp_path / "CMakeLists.txt").write_text("\n".join(lines))
    run("cmake", "-S", tmp_path, "-B", tmp_path / "build")
    run("cmake", "--build", tmp_path / "build", "--parallel", "2")
    program, pcm = tmp_path / "build" / "firmware", scene(4, 12)
    done = subprocess.run([program], input=pcm.tobytes(), capture_output=True, check=True)
    assert [events(done.stdout), events(done.stderr)] == [
        build_host(folders[name]).events(pcm) for name in names.values()
    ]


@pytest.mark.parametrize("prefix", ["", "9lives", "_hidden", "a-b", "a b", "ä", "x" * 64, "a\n"])
def test_a_prefix_that_is_no_name_is_refused(prefix: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(cli, ["c", str(MODEL), "--out", str(tmp_path / "c"), "--prefix", prefix])
    assert result.exit_code == ConfigError.exit_code
    assert re.fullmatch(
        r"snn-export: error: the prefix '.*' is no name in C; give a letter, then .*, 63 at most\n", result.stderr
    )
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize(
    ("name", "prefix"),
    [
        *(("household", "household_float"), ("esc10-fold1", "esc10_fold1_float"), ("42", "model_42_float")),
        *(("Küche & Bad", "K_che_Bad_float"), ("...", "model__float"), ("x" * 99, "x" * 57 + "_float")),
    ],
)
def test_default_prefixes_are_names(name: str, prefix: str) -> None:
    assert default_prefix(name, FLOAT) == prefix
    assert len(prefix) <= 63
