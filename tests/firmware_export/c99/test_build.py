"""The exported folder builds with every build file that it has, without warnings, and needs what it documents."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from firmware_export.c99.build import Host, build_host, stack_bound
from firmware_export.c99.export import export_c
from firmware_export.c99.formats import FLOAT, INT8, NumberFormat
from tests.firmware_export.programs import MODEL, RATE_HZ, ROOT, SOURCES, STRICT, detector_sources, need, run, scene

LIBRARY = {"memcpy", "memmove", "memset"}
MATHEMATICS = {"log", "logf", "expf"}


@pytest.fixture(scope="module", params=[FLOAT, INT8], ids=lambda number_format: number_format.name)
def number_format(request: pytest.FixtureRequest) -> NumberFormat:
    chosen: NumberFormat = request.param
    return chosen


@pytest.fixture(scope="module")
def exported(number_format: NumberFormat, tmp_path_factory: pytest.TempPathFactory) -> Path:
    need("make", "cc")
    out = tmp_path_factory.mktemp("c") / "household"
    export_c(MODEL, out, number_format)
    return out


@pytest.fixture
def folder(exported: Path, tmp_path: Path) -> Path:
    return shutil.copytree(exported, tmp_path / "household")


@pytest.fixture(scope="module")
def host(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Host:
    """Give the folder built with this computer's compiler."""
    return build_host(shutil.copytree(exported, tmp_path_factory.mktemp("host") / "household"))


@pytest.fixture(scope="module")
def expected(host: Host) -> list[dict[str, Any]]:
    events = host.events(scene())
    assert {"guitar", "speech"} <= {e["label"] for e in events}
    return events


def test_the_folder_holds_the_sources_of_the_package_and_the_model(exported: Path) -> None:
    package = ROOT / "firmware_export" / "c"
    files = {p.relative_to(package) for p in package.rglob("*") if p.is_file()}
    shared = {Path(p.name) for p in (ROOT / "detector" / "engine" / "c").iterdir() if not p.name.startswith("snn_core")}
    shared -= {Path("snn_log.h"), Path("snn_sigmoid.h")}  # firmware has the C library's
    assert {p.relative_to(exported) for p in exported.rglob("*") if p.is_file()} == files | shared | {
        Path("snn_model.c"),
        Path("snn_model.h"),
    }
    assert {Path("README.md"), Path("CMakeLists.txt"), Path("examples/cortex_m/startup.c")} <= files


@pytest.mark.parametrize("compiler", ["gcc", "clang"])
def test_both_compilers_are_silent_and_agree(compiler: str, folder: Path, expected: list[dict[str, Any]]) -> None:
    need(compiler)
    built = build_host(folder, compiler, "-O2 -pedantic -Wvla -Wshadow -Wstrict-prototypes -Werror")
    assert built.events(scene()) == expected


def test_cmake_builds_it(folder: Path, expected: list[dict[str, Any]], tmp_path: Path) -> None:
    need("cmake")
    run("cmake", "-S", folder, "-B", tmp_path / "build", "-DSNN_WERROR=ON")
    run("cmake", "--build", tmp_path / "build", "--parallel", "2")
    assert Host(tmp_path / "build" / "snn_host").events(scene()) == expected


def test_it_is_a_part_of_another_cmake_project(folder: Path) -> None:
    need("cmake")
    tmp_path = folder.parent
    shutil.copy(SOURCES / "chunkings.c", tmp_path)
    (tmp_path / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.16)\nproject(firmware C)\nadd_subdirectory(household)\n"
        "add_executable(firmware chunkings.c)\ntarget_link_libraries(firmware PRIVATE snn_detect::snn_print)\n"
    )
    run("cmake", "-S", tmp_path, "-B", tmp_path / "build")
    run("cmake", "--build", tmp_path / "build", "--parallel", "2")
    assert '"label":"guitar"' in run(tmp_path / "build" / "firmware", stdin=scene(4, 8).tobytes())
    assert not list((tmp_path / "build").rglob("snn_host"))


def test_sanitizers_find_nothing_whatever_the_chunks(
    folder: Path, host: Host, expected: list[dict[str, Any]], tmp_path: Path
) -> None:
    sanitized = "-O1 -g -fsanitize=address,undefined -fno-sanitize-recover=all"
    assert build_host(folder, "cc", sanitized).events(scene()) == expected
    program, part = tmp_path / "chunkings", scene(3, 19)  # the guitar, and the speech begins
    built = [SOURCES / "chunkings.c", folder / "snn_print.o", folder / "libsnn_detect.a"]
    run("cc", *STRICT.split(), *sanitized.split(), f"-I{folder}", "-o", program, *built, "-lm")
    events = host.events(part)
    assert {"guitar", "speech"} <= {e["label"] for e in events}
    for seed in ("1", "2"):
        assert [json.loads(x) for x in run(program, seed, stdin=part.tobytes()).splitlines()] == events


def test_no_heap_no_variables_no_recursion(folder: Path, number_format: NumberFormat) -> None:
    """The symbols and the call graph of the objects: no variables, every stack fixed, no recursion."""
    need("gcc", "nm")
    # Without position independence, tables of pointers are constants and not data that is relocated.
    flags = "-O2 -Wvla -fno-pie -fcallgraph-info=su"
    run("gcc", *STRICT.split(), *flags.split(), "-c", *detector_sources(folder), cwd=folder)
    objects = [folder / f"{p.stem}.o" for p in detector_sources(folder)]
    symbols = [line.split()[-2:] for line in run("nm", *objects).splitlines() if re.search(r" [A-Za-z] \w", line)]
    assert [kind for kind, name in symbols if "_snn_push_" in name] == ["T"]
    assert [name for kind, name in symbols if kind in "bBdDcCgGsS"] == []
    own = {name for kind, name in symbols if kind in "TRt"}
    assert {name for kind, name in symbols if kind == "U"} - own <= (
        LIBRARY if number_format.int8 else LIBRARY | MATHEMATICS
    )
    assert stack_bound("\n".join(p.read_text() for p in folder.glob("*.ci"))) < 4096


def test_scores_are_printed_as_printf_prints_them(folder: Path, tmp_path: Path) -> None:
    sources = [SOURCES / "print_check.c", folder / "snn_print.c", folder / "snn_model.c"]
    run("cc", *STRICT.split(), "-O2", f"-I{folder}", "-o", tmp_path / "check", *sources)
    assert run(tmp_path / "check") == ""


def has_alsa(folder: Path) -> bool:
    return "are not installed" not in run("make", "--silent", "-C", folder / "examples" / "alsa")


def test_alsa_builds(folder: Path) -> None:
    if not has_alsa(folder):
        need(missing=("ALSA's headers",))
    program = folder / "examples" / "alsa" / "snn_alsa"
    done = subprocess.run([program, "nonesuch"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "snn_alsa: nonesuch: " in done.stderr


def test_alsa_is_left_out_where_its_headers_are_missing(folder: Path) -> None:
    printed = run("make", "--silent", "-C", folder / "examples" / "alsa", "CC=cc -nostdinc")
    assert printed == "ALSA's headers are not installed (Debian: libasound2-dev): snn_alsa is left out\n"


def test_an_overrun_closes_open_sounds_and_detection_goes_on(folder: Path, tmp_path: Path) -> None:
    """With a replacement of ALSA's library: the microphone overruns in the middle of the guitar."""
    if not has_alsa(folder):
        need(missing=("ALSA's headers",))
    built, pcm = build_host(folder, flags=None), scene(4, 11)
    gap = int(built.events(pcm)[0]["emitted_sample"]) + RATE_HZ // 8
    program = tmp_path / "snn_alsa"
    sources = [folder / "examples" / "alsa" / "snn_alsa.c", SOURCES / "alsa_stub.c", folder / "snn_print.o"]
    run("cc", *STRICT.split(), "-O2", f"-I{folder}", "-o", program, *sources, folder / "libsnn_detect.a", "-lm")
    printed = run(program, stdin=pcm.tobytes(), env=os.environ | {"OVERRUN": str(gap)})
    before, after = built.events(pcm[:gap]), built.events(pcm[gap:])
    assert before[-1]["reason"] == "end_of_stream"
    assert [json.loads(x) for x in printed.splitlines()] == [*before, {"type": "gap", "samples_before": gap}, *after]
