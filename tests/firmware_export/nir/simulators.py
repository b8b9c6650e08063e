"""``make check-simulators``: run the forms of ``snn-export nir --for`` in the simulators, and print a table.

    python tests/firmware_export/nir/simulators.py FOLDER [RECORDING ...]

FOLDER gets an environment for each simulator with its pinned packages, the exported files and the references; what is
there from before is used again. The demo scene and, where given, the first 10 s of the recordings joined are
compared frame by
frame with the runtime. Exits with 1 where a simulator that should spike as the runtime does not.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from detector.audio.sources import read_sound
from detector.network import default_model_path, load_model, trace
from firmware_export.nir.forms import REFUSED, TARGETS
from firmware_export.onnx.parity import encoded
from models import DEMO_SCENE

RUNNER: Final = Path(__file__).with_name("simulator_run.py")
SECONDS: Final = 10
OLD_NIR: Final = "1.0.4"


@dataclass(frozen=True)
class Simulator:
    """A release to try."""

    name: str
    packages: str
    nir_version: str = ""
    spikes_as_the_runtime: bool = True

    @property
    def folder(self) -> str:
        return self.packages.split()[0].replace("==", "-")


SIMULATORS: Final = (
    *(Simulator(name, form.packages, "", name != "norse") for name, form in TARGETS.items()),
    Simulator("sinabs", TARGETS["sinabs"].packages_with_old_nir, OLD_NIR),
    Simulator("rockpool", "rockpool==3.1.0 nir==1.0.8 nirtorch==2.6 torch==2.13.0"),
    Simulator("spyx", "spyx==1.0.0 nir==1.0.8"),
    Simulator("spikingjelly", "spikingjelly==2.0.0 nir==1.0.8 nirtorch==2.6 torch==2.13.0"),
)


def environment(folder: Path, simulator: Simulator) -> Path:
    """Return the Python of a simulator's environment, which is made where it is not there."""
    place = folder / simulator.folder
    done = place / "packages.txt"
    if not done.exists() or done.read_text(encoding="utf-8") != simulator.packages:
        sys.stderr.write(f"installing {simulator.packages} into {place}\n")
        subprocess.run([sys.executable, "-m", "venv", "--clear", place], check=True)
        pip: list[str | Path] = [place / "bin" / "python", "-m", "pip", "install", "-qq", "--disable-pip-version-check"]
        # torch first and alone, so that no search for versions of the rest reaches for another one.
        packages = sorted(simulator.packages.split(), key=lambda package: not package.startswith("torch=="))
        for some in filter(None, (packages[:1], packages)):
            subprocess.run([*pip, *some], check=True)
        done.write_text(simulator.packages, encoding="utf-8")
    return place / "bin" / "python"


def reference(out: Path, sounds: list[Path]) -> None:
    """Store what the runtime computes of the first seconds of sounds joined: spikes in and of layers, scores."""
    model = load_model()
    rate_hz = model.manifest.features.sample_rate_hz
    joined = np.concatenate([read_sound(sound, rate_hz) for sound in sounds])
    samples = joined[: SECONDS * rate_hz]
    if len(samples) < SECONDS * rate_hz:
        sys.exit(f"{sounds[0]}: shorter than {SECONDS} s; name more recordings")
    spikes = encoded(model.manifest, samples)
    rows = list(trace(model, spikes))
    found: dict[str, Any] = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    np.savez_compressed(out, spikes=spikes, **found)


def export(folder: Path, simulator: Simulator) -> Path:
    """Return the exported file of a simulator's form."""
    out = folder / "forms" / f"{simulator.folder}.nir"
    if not out.exists():
        words: list[str | Path] = [
            sys.executable,
            "-m",
            "firmware_export.cli",
            "nir",
            default_model_path(),
            "--out",
            out,
        ]
        words += ["--for", simulator.name] if simulator.name in TARGETS else []
        words += ["--nir-version", simulator.nir_version] if simulator.nir_version else []
        subprocess.run(words, check=True, stdout=sys.stderr)
    return out


def ask(python: Path, *words: str | Path) -> Any:
    """Return what the runner answers in a simulator's environment."""
    done = subprocess.run([python, RUNNER, *words], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{python}: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def result(found: dict[str, Any]) -> str:
    """Return a cell of the table."""
    if not found["differ"]:
        return f"the same {found['sent']:,} spikes"
    share = 100 * found["differ"] / found["sent"]
    return f"{found['differ']:,} of {found['sent']:,} differ ({share:.1f} %), from frame {found['first']} on"


def main() -> None:
    """Try all simulators and print the table."""
    folder, *recordings = (Path(word).resolve() for word in sys.argv[1:])
    (folder / "forms").mkdir(parents=True, exist_ok=True)
    sounds = {"scene": [DEMO_SCENE]}
    if recordings:
        sounds = {"recording": recordings, **sounds}
    for name, paths in sounds.items():
        if not (folder / f"{name}.npz").exists():
            reference(folder / f"{name}.npz", paths)
    head = ["simulator", "form", "its own import of the plain file", *sounds, "scores differ by"]
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    plain = export(folder, Simulator("", "plain"))
    has_failed = False
    for simulator in SIMULATORS:
        python = environment(folder, simulator)
        refusal = ask(python, "import", simulator.name, plain) or "taken"
        cells = [simulator.packages.split()[0].replace("==", " "), "none", f"`{refusal}`".replace("|", "\\|")]
        if simulator.name in TARGETS:
            old = f" --nir-version {simulator.nir_version}" if simulator.nir_version else ""
            cells[1] = f"`--for {simulator.name}{old}`"
            module = export(folder, simulator).with_suffix(".py")
            found = [ask(python, "run", module, folder / f"{name}.npz") for name in sounds]
            cells += [*map(result, found), f"{max(f['score'] for f in found):.1e}"]
            has_failed |= simulator.spikes_as_the_runtime and any(f["differ"] for f in found)
        else:
            cells += [f"refused: {REFUSED[simulator.name]}", *[""] * len(sounds)]
        lines.append(f"| {' | '.join(cells)} |")
        sys.stderr.write(lines[-1] + "\n")
    sys.stdout.write("\n".join(lines) + "\n")
    sys.exit(1 if has_failed else 0)


if __name__ == "__main__":
    main()
