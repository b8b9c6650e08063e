"""The exported C detector compiled and run, on this computer and on Cortex-M boards under QEMU.

    python -m firmware_export.c99.build FOLDER

prints a table of instructions, stack and sizes on the boards for several sounds. Instructions are counted, not cycles:
a core takes one cycle for most of them and more for some.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal

import click
import numpy as np
from numpy.typing import NDArray

from detector.audio.sources import read_sound
from detector.errors import ConfigError
from detector.messages import Samples
from models import DEMO_SCENE

Pcm = NDArray[np.int16]
Stage = Literal["features", "encoded", "spikes", "scores"]
BoardName = Literal["mps2-an386", "mps2-an500"]

FULL_SCALE: Final = 32768
CORES: Final[Mapping[BoardName, str]] = {"mps2-an386": "Cortex-M4F", "mps2-an500": "Cortex-M7"}
LIBRARY_STACK: Final = 64
"""Bytes of stack of functions of the C library, which the compiler does not report: read from newlib's code, where
the deepest that is called here (a 64-bit division) takes 56 bytes."""

_EXAMPLE: Final = Path("examples") / "cortex_m"
_PIECE_S: Final = 6
_TIMEOUT_S: Final = 600
"""A program that runs longer is ended."""
_ENTRY_POINTS: Final = re.compile(r"(.*_)?snn_(push|flush)(_.*)?")
"""With the prefix of a model, and what its header is bound to."""


@dataclass(frozen=True, slots=True)
class Host:
    """A compiled ``snn_host`` program."""

    program: Path

    def events(self, pcm: Pcm) -> list[dict[str, Any]]:
        """Return the events of 16-bit samples (n,) at the model's rate; the stream ends after them."""
        return [json.loads(line) for line in self._run([], pcm.tobytes()).splitlines()]

    def stage_output(self, stage: Stage, pcm: Pcm, dtype: Any, width: int) -> NDArray[Any]:
        """Return the output of a stage for each frame, (frames, width)."""
        return np.frombuffer(self._run(["--probe", stage], pcm.tobytes()), dtype).reshape(-1, width)

    def stage_output_of_frames(self, stage: Stage, frames: NDArray[Any], dtype: Any, width: int) -> NDArray[Any]:
        """Return the output of a stage for cepstra (frames, n_mfcc) in the number format's own type."""
        return np.frombuffer(self._run(["--frames", "--probe", stage], frames.tobytes()), dtype).reshape(-1, width)

    def _run(self, arguments: Sequence[str], stdin: bytes) -> bytes:
        done = subprocess.run([self.program, *arguments], input=stdin, capture_output=True, check=False)  # noqa: S603 - compiled here
        if done.returncode:
            words = done.stderr.decode(errors="replace").strip()
            raise ConfigError(f"{self.program}: ended with {done.returncode} ({words}); export and build it again")
        return done.stdout


def build_host(folder: Path, compiler: str = "cc", flags: str | None = "-O2", target: str = "snn_host") -> Host:
    """Compile an exported folder with its own Makefile; ``flags`` of None means the Makefile's own.

    Raises ConfigError where make or the compiler is missing or fails.
    """
    command = ["make", "--silent", "--directory", str(folder), target, f"CC={compiler}"]
    command += [] if flags is None else [f"CFLAGS={flags}"]
    try:
        subprocess.run(command, check=True, capture_output=True)  # noqa: S603 - make, by its name
    except FileNotFoundError as error:
        raise ConfigError(
            "make is not installed; install it and a C compiler to build the exported detector"
        ) from error
    except subprocess.CalledProcessError as error:
        words = error.stderr.decode(errors="replace").strip().splitlines()
        raise ConfigError(
            f"{folder}: {compiler} cannot build it ({words[0] if words else 'no message'}); try --compiler"
        ) from error
    return Host(folder / target)


@dataclass(frozen=True, slots=True)
class Usage:
    """The resources that the detector used for a sound, as measured on the board."""

    instructions_per_10_ms: int
    max_in_10_ms: int
    """The largest count: a block of 10 ms that completes a frame does all the work of that frame."""
    detector_stack: int
    """Bytes, as are the next two."""
    program_stack: int
    detector_bytes: int
    loop_of_1000000: int
    """Instructions counted for a loop of a million: a check of the count."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """Bytes of flash and RAM; the image's RAM includes the stack that its linker script reserves."""

    detector_flash: int
    image_flash: int
    image_ram: int


@dataclass(frozen=True, slots=True)
class Board:
    """An image for a board, built from an exported folder."""

    name: BoardName
    image: Path

    def run(self, pcm: Pcm, rate_hz: int) -> tuple[list[dict[str, Any]], Usage]:
        """Return the events of 16-bit samples (n,) at the model's rate, and the resources used."""
        command = f"qemu-system-arm -machine {self.name} -icount shift=0 -display none -monitor none -serial none"
        semihosting = ["-semihosting-config", "enable=on,target=native,arg=detector"]
        lines = _run([*command.split(), *semihosting, "-kernel", str(self.image)], pcm.tobytes())
        return [json.loads(line) for line in lines.stdout.splitlines()], _usage(json.loads(lines.stderr), rate_hz)

    def sizes(self) -> Sizes:
        """Return the sizes by arm-none-eabi-size."""
        objects = sorted(p for p in self._objects.glob("snn_*.o") if p.name != "snn_print.o")
        flash = sum(text + data for text, data, _ in _size(objects))
        ((text, data, bss),) = _size([self.image])
        return Sizes(flash, text + data, data + bss)

    def stack_bound(self) -> int:
        """Return the most bytes of stack of a push or flush, without what the caller does in ``on_event``.

        Raises ConfigError where there is no bound: recursion, or a function whose stack has no fixed size.
        """
        return stack_bound("\n".join(p.read_text() for p in sorted(self._objects.glob("snn_*.ci"))))

    @property
    def _objects(self) -> Path:
        return self.image.parent / f"build-{self.name}"


def build_firmware(folder: Path, name: BoardName) -> Board:
    """Build the example of an exported folder for a board.

    Raises ConfigError where a program is missing or fails.
    """
    image = folder / _EXAMPLE / f"{name}.elf"
    _run(["make", "--silent", "--directory", str(image.parent), image.name])
    return Board(name, image)


def stack_bound(graphs: str) -> int:
    """Return the bytes of the deepest path through call graphs as gcc writes them, from the public functions.

    Raises ConfigError as ``Board.stack_bound``.
    """
    sizes = dict.fromkeys(re.findall(r'node: { title: "([^"]+)"', graphs), LIBRARY_STACK)
    reported = re.findall(r'node: { title: "([^"]+)" label: "[^"]*\\n(\d+) bytes \((\w+)\)', graphs)
    sizes |= {name: int(size) for name, size, _ in reported} | {"__indirect_call": 0}
    if unbounded := [name for name, _, kind in reported if kind != "static"]:
        raise ConfigError(f"the stack of {unbounded[0]} has no fixed size; build it with gcc")
    calls: dict[str, set[str]] = {name: set() for name in sizes}
    for caller, called in re.findall(r'edge: { sourcename: "([^"]+)" targetname: "([^"]+)"', graphs):
        calls[caller].add(called)

    def depth(name: str, path: tuple[str, ...]) -> int:
        if name in path:
            raise ConfigError(f"{name} calls itself: its stack has no bound; export the model again")
        return sizes[name] + max((depth(called, (*path, name)) for called in calls[name]), default=0)

    return max(depth(name, ()) for name in sizes if _ENTRY_POINTS.fullmatch(name))


def to_pcm(samples: Samples) -> Pcm:
    """Return samples in [-1, 1) as 16-bit integers, rounded and clipped."""
    scaled = np.round(np.asarray(samples, np.float64) * FULL_SCALE)
    return np.clip(scaled, -FULL_SCALE, FULL_SCALE - 1).astype(np.int16)


def from_pcm(pcm: Pcm) -> NDArray[np.float32]:
    """Return 16-bit samples as floats in [-1, 1)."""
    return pcm.astype(np.float32) / np.float32(FULL_SCALE)


def sounds(rate_hz: int) -> dict[str, Pcm]:
    """Return sounds of low and high cost, 16-bit samples by name."""
    scene = read_sound(DEMO_SCENE, rate_hz)
    noise = np.random.default_rng(0).standard_normal(_PIECE_S * rate_hz).astype(np.float32)
    guitar = scene[4 * rate_hz : (4 + _PIECE_S) * rate_hz]
    return {
        "digital silence": to_pcm(np.zeros_like(noise)),
        "quiet: noise, -66 dB": to_pcm(noise * np.float32(0.0005)),
        "typical: the demo scene": to_pcm(scene),
        "loud: guitar, 0 dB peak": to_pcm(guitar / np.abs(guitar).max()),
        "loud: noise, -10 dB": to_pcm(noise * np.float32(0.316)),
    }


def model_rate_hz(folder: Path) -> int:
    """Return the sample rate in Hz of an exported folder's detector.

    Raises ConfigError where the folder is not an export.
    """
    try:
        found = re.search(r"#define SNN_SAMPLE_RATE_HZ (\d+)", (folder / "snn_model.h").read_text(encoding="ascii"))
    except OSError as error:
        raise ConfigError(
            f"{folder}: was not made by snn-export c ({error.strerror}); name a folder that was"
        ) from error
    if found is None:
        raise ConfigError(f"{folder / 'snn_model.h'}: has no sample rate; export the model again")
    return int(found[1])


def measure(folder: Path) -> list[dict[str, Any]]:
    """Return the measurements of an exported folder, a record for each board."""
    rate_hz = model_rate_hz(folder)
    boards = [build_firmware(folder, name) for name in CORES]
    return [
        {
            "board": board.name,
            "core": CORES[board.name],
            **asdict(board.sizes()),
            "stack_bound": board.stack_bound(),
            "sounds": {name: asdict(board.run(pcm, rate_hz)[1]) for name, pcm in sounds(rate_hz).items()},
        }
        for board in boards
    ]


def table(boards: list[dict[str, Any]]) -> str:
    """Return the measurements as Markdown."""
    lines = []
    for board in boards:
        usages = board["sounds"].values()
        state = max(u["detector_bytes"] for u in usages)
        stack = max(u["detector_stack"] for u in usages)
        lines += [
            f"{board['core']} ({board['board']})",
            "",
            "| sound | instructions per 10 ms | max in 10 ms | MIPS |",
        ]
        lines += ["|---|---|---|---|"]
        lines += [
            f"| {name} | {u['instructions_per_10_ms']:,} | {u['max_in_10_ms']:,} "
            f"| {u['instructions_per_10_ms'] / 1e4:.1f} |"
            for name, u in board["sounds"].items()
        ]
        lines += [
            "",
            f"detector: flash {board['detector_flash']:,} bytes, state {state:,}",
            f"stack of the detector: {stack:,} bytes, bound {board['stack_bound']:,}",
            f"whole image: flash {board['image_flash']:,} bytes, RAM {board['image_ram']:,} with its stack",
            "",
        ]
    return "\n".join(lines)


def _usage(measured: Mapping[str, int], rate_hz: int) -> Usage:
    unit = measured["instructions_per_tick"]
    tens = max(measured["samples"] / (rate_hz / 100), 1)
    return Usage(
        instructions_per_10_ms=round(measured["ticks"] * unit / tens),
        max_in_10_ms=measured["most_ticks"] * unit,
        detector_stack=measured["detector_stack"],
        program_stack=measured["program_stack"],
        detector_bytes=measured["detector_bytes"],
        loop_of_1000000=measured["loop_of_1000000"],
    )


def _size(files: list[Path]) -> list[tuple[int, int, int]]:
    rows = _run(["arm-none-eabi-size", *map(str, files)]).stdout.decode().splitlines()[1:]
    return [(int(text), int(data), int(bss)) for text, data, bss, *_ in map(str.split, rows)]


def _run(command: list[str], stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    try:
        done = subprocess.run(command, input=stdin, capture_output=True, check=False, timeout=_TIMEOUT_S)  # noqa: S603 - named here
    except FileNotFoundError as error:
        raise ConfigError(f"{command[0]} is not installed; install it to build for a board") from error
    except subprocess.TimeoutExpired as error:
        raise ConfigError(f"{command[0]}: ran longer than {_TIMEOUT_S} s and was ended; build it again") from error
    if done.returncode:
        words = done.stderr.decode(errors="replace").strip().splitlines()
        raise ConfigError(f"{command[0]}: ended with {done.returncode} ({words[0] if words else 'no message'})")
    return done


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--json", "is_json", is_flag=True, help="Print JSON instead of a table.")
def main(folder: Path, is_json: bool) -> None:
    """Measure an exported FOLDER on Cortex-M boards under QEMU."""
    boards = measure(folder)
    click.echo(json.dumps(boards, indent=2) if is_json else table(boards))


if __name__ == "__main__":
    main()
