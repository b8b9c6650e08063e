"""A bounded run of the fuzz target: it finds nothing in the sources, and finds a planted fault."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from firmware_export.c99.export import export_c
from firmware_export.c99.formats import FLOAT, INT8
from tests.firmware_export.programs import MODEL, need, run

SECONDS = 6


def seeds() -> dict[str, bytes]:
    """Return inputs that reach onsets: two bytes for the division, then a second of near silence and one of a tone.

    The tones are square waves of 211 and 286 Hz, half a second a command.
    """
    quiet = bytes([9, 255, 2, 15]) * 2
    low, high = quiet + bytes([9, 255, 74, 8]) * 2, quiet + bytes([9, 255, 54, 8]) * 2
    return {
        "flush": b"\1\2" + low + b"\0",
        "reset": b"\7\7" + high[:12] + b"\1" + low[8:],
        "init": b"\0\5" + low[:12] + b"\2" + bytes([9, 60, 1, 0]),
        "samples": b"\3\1" + bytes([3, 40]) + bytes(range(80)) + bytes([4, 1, 0, 128]),
    }


@pytest.fixture(scope="module", params=[FLOAT, INT8], ids=lambda number_format: number_format.name)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    need("make", "clang")
    probe = tmp_path_factory.mktemp("probe") / "probe.c"
    probe.write_text("int LLVMFuzzerTestOneInput(const char *d, unsigned long n) { return d && n > 9; }")
    try:
        run("clang", "-w", "-fsanitize=fuzzer", "-o", probe.with_suffix(""), probe)
    except AssertionError:
        need(missing=("libFuzzer",))
    out = tmp_path_factory.mktemp("fuzz") / "household"
    export_c(MODEL, out, request.param)
    return out


def fuzz(folder: Path, *options: str) -> str:
    corpus = folder / "fuzz" / "corpus"
    corpus.mkdir(exist_ok=True)
    for name, data in seeds().items():
        (corpus / name).write_bytes(data)
    return run(folder / "fuzz" / "fuzz_push", "-seed=1", "-max_len=256", *options, corpus, cwd=folder / "fuzz")


def test_nothing_is_found(folder: Path) -> None:
    run("make", "--silent", "-C", folder / "fuzz")
    fuzz(folder, f"-max_total_time={SECONDS}", "-verbosity=0")


def test_a_planted_fault_is_found(folder: Path, tmp_path: Path) -> None:
    """The decoder skips an index once the stream is a second old."""
    copy = tmp_path / "planted"
    shutil.copytree(folder, copy, ignore=shutil.ignore_patterns("fuzz_push", "corpus"))
    decoder = copy / "snn_decoder.c"
    planted = decoder.read_text().replace("s->next_index++;", "s->next_index++ + (uint32_t)(s->frames > 40);")
    assert planted != decoder.read_text()
    decoder.write_text(planted)
    run("make", "--silent", "-C", copy / "fuzz")
    with pytest.raises(AssertionError, match="check failed: e->index == w->next_index"):
        fuzz(copy, "-runs=50")
