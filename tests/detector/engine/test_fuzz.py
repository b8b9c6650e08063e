"""Bounded runs of the core under sanitizers: fuzzed models and samples, and threads; planted faults are found."""

from __future__ import annotations

import platform
import random
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from tests.detector.engine.test_core import SOURCES
from tests.firmware_export.programs import need, run

PROGRAMS: Final = Path(__file__).with_name("c")
SECONDS: Final = 8
FLAGS: Final = "-std=c11 -g -Wall -Wextra -Werror -ffp-contract=off -fno-math-errno -DSNN_CORE=1"
X86_64: Final = {"avx2": "-mavx2", "avx512": "-mavx512f -mavx512dq -mavx512bw -mavx512vl"}


@dataclass(frozen=True)
class Target:
    """A program of the folder ``c`` with the core in it, under a sanitizer."""

    program: str
    options: str
    stages: str
    """Further options for the stages."""
    link: str

    def build(self, folder: Path, *, sources: Path = SOURCES, only: str = "", every: bool = False) -> Path:
        """Compile and link it; of objects that are there already, only those whose source is ``only``.

        The stages are compiled for every set of instructions, or the plain ones take the place of all.
        """
        x86_64 = X86_64 if platform.machine() == "x86_64" else {}
        aliases = [] if every else [f"-Wl,--defsym=snn_core_{name}=snn_core_baseline" for name in x86_64]
        common = ["clang", *FLAGS.split(), *self.options.split(), f"-I{sources}", "-c"]
        commands: dict[str, list[str | Path]] = {
            "core": [sources / "snn_core.c"],
            "program": [PROGRAMS / f"{self.program}.c"],
        }
        for name, more in {"baseline": "", "dense": "-DSNN_DENSE=1", **(x86_64 if every else {})}.items():
            own = f"{self.stages} {more} -DSNN_STAGES=snn_core_{name} -DSNN_INSTRUCTIONS={name}"
            commands[f"stages_{name}"] = [*own.split(), sources / "snn_core_stages.c"]
        for name, arguments in commands.items():
            if not only or name.startswith(only):
                run(*common, "-o", folder / f"{name}.o", *arguments)
        objects = [folder / f"{name}.o" for name in commands]
        run("clang", *self.link.split(), *aliases, "-o", folder / self.program, *objects, "-lm", "-lpthread")
        return folder / self.program


FUZZ: Final = Target(
    "fuzz_core",
    "-O2 -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=all",
    # These checks run at every addition of a weight and take most of the time.
    "-fno-sanitize=pointer-overflow,null,alignment",
    "-fsanitize=fuzzer,address,undefined",
)
THREADS: Final = Target("threads", "-O1 -fsanitize=thread", "", "-fsanitize=thread")


def need_sanitizer(folder: Path, option: str, source: str) -> None:
    need("clang")
    (folder / "probe.c").write_text(source)
    try:
        run("clang", "-w", option, "-o", folder / "probe", folder / "probe.c")
    except AssertionError:
        need(missing=(f"the library of {option}",))


@pytest.fixture(scope="module", autouse=True)
def _sanitizers(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("probe")
    need_sanitizer(
        folder, FUZZ.link, "int LLVMFuzzerTestOneInput(const char *d, unsigned long n) { return d && n > 9; }"
    )
    need_sanitizer(folder, THREADS.link, "int main(void) { return 0; }")


def fuzz(program: Path, *options: str) -> str:
    corpus = program.parent / "corpus"
    corpus.mkdir(exist_ok=True)
    for seed in range(12):
        values = random.Random(seed)  # noqa: S311 - no secret
        (corpus / str(seed)).write_bytes(bytes(values.randrange(254) for _ in range(360)))
    return run(program, "-seed=1", "-max_len=512", "-verbosity=0", *options, corpus, cwd=program.parent)


def planted(tmp_path: Path, name: str, old: str, new: str) -> Path:
    """Return a copy of the core's sources with a change."""
    copy = shutil.copytree(SOURCES, tmp_path / "planted")
    text = (copy / name).read_text()
    assert text.count(old) == 1
    (copy / name).write_text(text.replace(old, new))
    return copy


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Give the folders of both programs, with their objects."""
    folders = {target.program: tmp_path_factory.mktemp(target.program) for target in (FUZZ, THREADS)}
    FUZZ.build(folders[FUZZ.program], every=True)
    THREADS.build(folders[THREADS.program])
    return folders


def test_nothing_is_found(built: dict[str, Path]) -> None:
    fuzz(built["fuzz_core"] / "fuzz_core", f"-max_total_time={SECONDS}")


PLANTED: Final = {
    "bands": (
        "core",
        "snn_core.c",
        "+ p->mel_count[i] > (uint64_t)p->n_fft",
        "> (uint64_t)p->n_fft",
        "AddressSanitizer",
    ),
    "memory": ("core", "snn_core.c", "TAKE(a, n->plane_row, slots);", "TAKE(a, n->plane_row, 1);", "use-after-poison"),
    "values": ("core", "snn_core.c", "!isfinite(values[i])", "0", "check failed: !model"),
    "sums": ("stages", "snn_network.c", "s->had_planes = s->plane_count > 0;", "s->had_planes = 0;", "are_equal"),
}


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_fault_is_found(name: str, built: dict[str, Path], tmp_path: Path) -> None:
    part, *change, found = PLANTED[name]
    folder = shutil.copytree(built["fuzz_core"], tmp_path / "build", ignore=shutil.ignore_patterns("corpus"))
    program = FUZZ.build(folder, sources=planted(tmp_path, *change), only=part)
    with pytest.raises(AssertionError, match=found):
        fuzz(program, "-runs=4000")


def test_threads_do_not_race(built: dict[str, Path]) -> None:
    assert run(built["threads"] / "threads") == "same bits in all threads\n"


def test_a_planted_race_is_found(built: dict[str, Path], tmp_path: Path) -> None:
    """The cepstra of all streams are in one place."""
    old = "    float mfcc[stream->mfcc.model->n_mfcc];\n    place at"
    sources = planted(tmp_path, "snn_core_stages.c", old, "    static float mfcc[4096];\n    place at")
    folder = shutil.copytree(built["threads"], tmp_path / "build")
    with pytest.raises(AssertionError, match="data race"):
        run(THREADS.build(folder, sources=sources, only="stages"))
