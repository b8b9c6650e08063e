"""The exported detector on Cortex-M under QEMU: the host's events, plausible measurements, no heap."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Final

import numpy as np
import pytest

from detector.errors import ConfigError
from firmware_export.c99 import build as host
from firmware_export.c99.build import Board, BoardName, build_firmware, model_rate_hz, sounds, stack_bound, table
from firmware_export.c99.export import export_c
from firmware_export.c99.formats import FLOAT, INT8, NumberFormat
from tests.firmware_export.programs import MODEL, RATE_HZ, need, scene

CASES: Final[list[tuple[BoardName, NumberFormat]]] = [
    ("mps2-an386", FLOAT),
    ("mps2-an386", INT8),
    ("mps2-an500", FLOAT),
    ("mps2-an500", INT8),
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    need("make", "cc", "arm-none-eabi-gcc", "qemu-system-arm")
    folder = tmp_path_factory.mktemp("cortex")
    for number_format in (FLOAT, INT8):
        export_c(MODEL, folder / number_format.name, number_format)
    return {number_format.name: folder / number_format.name for number_format in (FLOAT, INT8)}


@pytest.fixture(scope="module", params=CASES, ids=lambda case: f"{case[0]}, {case[1].name}")
def board(folders: dict[str, Path], request: pytest.FixtureRequest) -> Board:
    name, number_format = request.param
    return build_firmware(folders[number_format.name], name)


def folder_of(board: Board) -> Path:
    return board.image.parents[2]


def test_a_board_reports_the_events_of_the_host(board: Board) -> None:
    """In floating point, the host computes its cepstra in single precision as microcontrollers do."""
    pcm = scene(4, 17)
    expected = host.build_host(folder_of(board), flags="-O2 -DSNN_SINGLE_FRONT_END=1").events(pcm)
    assert expected[0]["label"] == "guitar"
    assert len(expected) >= 4
    assert board.run(pcm, RATE_HZ)[0] == expected


def test_measurements(board: Board) -> None:
    """A loop of known length is counted to within a tick, which is 40 instructions; the stack stays below its bound."""
    usage = board.run(scene(4, 10), RATE_HZ)[1]
    assert usage.loop_of_1000000 == pytest.approx(1_000_000, abs=80)
    assert 0 < usage.instructions_per_10_ms < usage.max_in_10_ms
    assert 0 < usage.detector_stack <= board.stack_bound() < 4096
    assert usage.detector_stack < usage.program_stack < 8192
    sizes = board.sizes()
    assert sizes.detector_flash < sizes.image_flash
    if INT8.name in board.image.parts:
        assert sizes.image_flash <= 320 * 1024
    assert usage.detector_bytes < sizes.image_ram <= 96 * 1024


def test_real_time_within_100_mhz_and_silence_costs_less(board: Board) -> None:
    pieces = sounds(RATE_HZ)
    silence, typical, loud = (
        board.run(
            next(pcm for name, pcm in pieces.items() if name.startswith(word))[3 * RATE_HZ : 6 * RATE_HZ], RATE_HZ
        )[1]
        for word in ("digital silence", "typical", "loud")
    )
    assert max(typical.instructions_per_10_ms, loud.instructions_per_10_ms) < 1_000_000
    assert silence.instructions_per_10_ms < 0.6 * loud.instructions_per_10_ms


def test_no_samples_and_a_few_samples_give_no_events(board: Board) -> None:
    assert board.run(np.zeros(0, np.int16), RATE_HZ)[0] == []
    assert board.run(np.zeros(7, np.int16), RATE_HZ)[0] == []


def test_samples_come_from_a_file_that_the_command_line_names(board: Board, tmp_path: Path) -> None:
    pcm = scene(4, 8)
    sound = tmp_path / "a sound.pcm"
    sound.write_bytes(pcm.tobytes())
    done = subprocess.run(
        ["make", "--silent", "-C", board.image.parent, "run", f"BOARD={board.name}", f"PCM={sound}"],
        capture_output=True,
        text=True,
        check=True,
    )
    events = board.run(pcm, RATE_HZ)[0]
    assert len(done.stdout.splitlines()) == len(events) > 0


def test_a_stack_overflow_is_a_fault(folders: dict[str, Path], tmp_path: Path) -> None:
    copy = shutil.copytree(folders[INT8.name], tmp_path / "copy", ignore=shutil.ignore_patterns("build-*", "*.elf"))
    script = copy / "examples" / "cortex_m" / "sections.ld"
    script.write_text(script.read_text().replace(": 8K;", ": 1K;"))
    with pytest.raises(ConfigError, match="qemu-system-arm: ended with"):
        build_firmware(copy, "mps2-an386").run(scene(4, 6), RATE_HZ)


def test_stack_bound_is_the_sum_over_the_deepest_path() -> None:
    node = 'node: {{ title: "{0}" label: "{0}\\nfile.c:1:1\\n{1} bytes ({2})" }}\n'
    edge = 'edge: {{ sourcename: "{}" targetname: "{}" label: "file.c:2:2" }}\n'
    names = {"snn_push": 8, "snn_flush": 16, "a": 100, "b": 40}
    nodes = "".join(node.format(n, size, "static") for n, size in names.items())
    nodes += 'node: { title: "memcpy" label: "__builtin_memcpy\\n<built-in>" shape : ellipse }\n'
    edges = "".join(edge.format(*e) for e in [("snn_push", "a"), ("snn_push", "b"), ("b", "memcpy")])
    assert stack_bound(nodes + edges) == 8 + 40 + 64
    with pytest.raises(ConfigError, match="calls itself"):
        stack_bound(nodes + edges + edge.format("a", "snn_push"))
    with pytest.raises(ConfigError, match="stack of c has no fixed size"):
        stack_bound(nodes + node.format("c", 8, "dynamic"))


def test_the_table_has_every_measurement() -> None:
    usage = {"instructions_per_10_ms": 351_000, "max_in_10_ms": 1_000_000, "detector_stack": 850}
    measured = {
        "board": "mps2-an386",
        "core": "Cortex-M4F",
        "detector_flash": 300_000,
        "image_flash": 310_000,
        "image_ram": 33_000,
        "stack_bound": 904,
        "sounds": {"rain": usage | {"program_stack": 1500, "detector_bytes": 21_768}},
    }
    assert "| rain | 351,000 | 1,000,000 | 35.1 |" in table([measured])


def test_a_folder_that_is_no_export_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="was not made by snn-export c"):
        model_rate_hz(tmp_path)
