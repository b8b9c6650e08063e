"""Kept results and the page RESULTS.md: one JSON file per question, with its plots, and a table for each.

A kept file names the command that made it and has one entry per run: recipe, seed and left-out fold, the code's
version, and the metrics. Weights stay in the run folders.
"""

from __future__ import annotations

import json
import re
import shutil
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from detector.errors import ConfigError
from detector.statistics import Rate
from detector.system import JSON, PNG, FileKind, Output, check_outputs, replace_file, write_text
from models import RESULTS

Results = dict[str, Any]
PUBLISHED = (
    ("people", 95.7, "listening test, K. J. Piczak, ESC: Dataset for Environmental Sound Classification, 2015"),
    ("EnvNet", 87.2, "CNN on the wave, 10 crops; repository mil-tokyo/bc_learning_sound"),
    ("Piczak's CNN", 80.25, "K. J. Piczak, Environmental sound classification with CNNs, 2015"),
    ("random forest", 72.7, "K. J. Piczak, ESC: Dataset for Environmental Sound Classification, 2015"),
    ("spiking network", 69.0, "the best spiking result on ESC-10 that we found in print (Larroza et al.)"),
)
"""Published accuracies in percent on ESC-10's five folds, with their sources."""
PAGE = FileKind("a page of results", re.compile(rb"# Results\n"))
OPENING = """# Results

Written by `snn-train report` from the figures in [`results/`](results); change those, not this page. Intervals are
95 % (Wilson's). Every accuracy is of the last epoch's weights on recordings or images not used in training; nothing
was chosen on them unless stated. Operations are synaptic operations as NeuroBench counts them: *dense* is every
multiply-add, *effective* only those whose input spikes. On a CPU silence is no cheaper: the dense count applies.
"""
ABOUT_ESC10 = """Official folds; each model is evaluated on the one that its training left out, by `Detector.score`: the
class with the highest mean score over the clip. The twin is the CNN of the same topology on the same features, trained
with the same examples and schedule. The five models that ship are those of seed 0.
"""
ABOUT_THEMES = """The task of the project report (60 % there, 72 % with augmentation), on the 420 recordings of
[`recipes/themes.csv`](recipes/themes.csv), five folds, one seed. The report's network sees a clip as one image of 20
cepstra for 50 steps and counts spikes; ours processes it frame by frame. "Ours", augmented, was trained before its
recipe had rumble and targets that extend a sound to the end of an example, "ours, not augmented" after: the two rows
differ in more than augmentation.
"""
ABOUT_CONVERSION = """Weights of the trained CNN, balanced by the statistics of its activations, in integrate-and-fire
neurons.
"""
ABOUT_LOSSES = """Cross entropy on the spike counts of the output, or on the mean membrane of an output that does not
spike; each with a penalty on squared rates, of increasing weight: the accuracy it costs and the operations it saves."""
ABOUT_DEAD = """Without batch norm: at a threshold of 1 many neurons never fire, at 8 none does and nothing is learnt.
Two remedies: `start_rate` scales each layer's currents on the first batch until that share of neurons fires in a step,
and `rate_term` penalises rates away from a target. The penalty revives neurons close enough to firing for a surrogate
gradient, and accuracy follows; scaling revives a network that is entirely silent, but it learns slowly from there.
Batch norm, as in the tables above, does both: hardly a neuron of those networks is dead."""
ESC10_COMMANDS = (
    "snn-train folds models/recipes/esc10.toml --runs runs/esc10 --seeds 0,1",
    "for f in 1 2 3 4 5; do",
    "  snn-export onnx runs/esc10/fold$f-seed0 --out models/pretrained/esc10-fold$f.onnx",
    "  snn-export onnx runs/esc10/fold$f-seed1 --out runs/esc10/esc10-fold$f-seed1.onnx",
    "done",
    "snn-train cross-evaluate models/pretrained/esc10-fold*.onnx runs/esc10/*.onnx --json models/results/esc10.json",
    "snn-train folds models/recipes/esc10-twin.toml --runs runs/twin --seeds 0",
    "snn-train cross-evaluate runs/twin/* --recipe models/recipes/esc10-twin.toml \\",
    "  --json models/results/esc10-twin.json",
)
THEMES_COMMANDS = (
    "for f in 1 2 3 4 5; do                                              # and themes-report-augmented",
    "  snn-train fit models/recipes/themes-report.toml --leave-out $f --run runs/themes-report/fold$f",
    "done",
    "snn-train keep themes-report runs/themes-report/fold* --no-pictures --command 'snn-train fit ... as above'",
    "snn-train folds models/recipes/themes.toml --runs runs/themes --seeds 0            # and themes-plain",
    "for f in 1 2 3 4 5; do snn-export onnx runs/themes/fold$f-seed0 --out runs/themes/fold$f.onnx; done",
    "snn-train cross-evaluate runs/themes/*.onnx --recipe models/recipes/themes.toml --runs runs/themes",
)
COMPARED = (
    ("surrogates", "Surrogate gradients", "One recipe, one seed, three derivatives in the step's place."),
    ("losses", "Losses and sparsity", ABOUT_LOSSES),
    ("dead", "Dead neurons", ABOUT_DEAD),
)


def write_report(results: Results, path: Path) -> None:
    """Write the page; a section without results names the missing ones."""
    sections = [OPENING, *(section(results) for section in SECTIONS)]
    write_text(path, "\n".join(s.rstrip() + "\n" for s in sections))


def esc10(results: Results) -> str:
    """Return the section on ESC-10: this network, the twin, published results, and operations."""
    parts = [
        "## ESC-10, five folds\n",
        ABOUT_ESC10,
    ]
    if missing := _missing(results, "esc10"):
        return "\n".join([*parts, missing])
    ours, twin = results["esc10"], results.get("esc10-twin")
    rows = [
        ["**this spiking network, streaming**", _mean(ours), f"seeds: {len(ours['by_seed'])}, clips: {ours['clips']}"]
    ]
    if twin:
        rows.append(["its CNN twin", _mean(twin), f"seeds: {len(twin['by_seed'])}"])
    rows += [[name, f"{value:g} %", source] for name, value, source in PUBLISHED]
    parts += [_table(["", "accuracy", ""], rows), "\n" + _folds("this network", ours)]
    if twin:
        parts.append(_folds("the twin", twin))
    elapsed = [[name, *(_percent(r["elapsed"][s]) for s in ours["elapsed"])] for name, r in _both(ours, twin)]
    head = ["after", *(f"{s} s" for s in ours["elapsed"])]
    parts += ["Accuracy by the duration of sound so far:\n", _table(head, elapsed), "", _activity(ours["activity"])]
    parts += ["![confusion matrix](results/esc10-confusion.png)\n", _commands(ESC10_COMMANDS)]
    return "\n".join(parts)


def themes(results: Results) -> str:
    """Return the section on animals, music and things."""
    parts = [
        "## Animals, music and things\n",
        ABOUT_THEMES,
    ]
    rows = []
    for name, title in (
        ("themes-report", "the report's network"),
        ("themes-report-augmented", "the report's network, augmented"),
        ("themes-plain", "ours, not augmented"),
        ("themes", "ours"),
    ):
        if name in results:
            rows.append([title, *_theme_row(results[name])])
    if not rows:
        return "\n".join([*parts, _missing(results, "themes")])
    head = ["", "accuracy", "folds 1 to 5", "training, per fold", "operations per second of sound, dense / effective"]
    parts += [_table(head, rows), ""]
    if "themes" in results:
        parts.append("![confusion matrix](results/themes-confusion.png)\n")
    return "\n".join([*parts, _commands(THEMES_COMMANDS)])


def mnist(results: Results) -> str:
    """Return the section on MNIST."""
    parts = ["## MNIST\n", "The 10,000 test images, evaluated once.\n"]
    found = {n: r for n, r in results.items() if n.startswith("mnist-") and "n" in r["runs"][0]["metrics"]}
    if not found:
        return "\n".join([*parts, _missing(results, "mnist-direct")])
    rows = []
    for name, result in found.items():
        m = result["runs"][0]["metrics"]
        dead = ", ".join(_percent(share) for share in m["dead"].values()) or "no spikes"
        operations = f"{_count(m['dense_operations'])} / {_count(m['effective_operations'])}"
        rate = _rate(m["accuracy"], m["interval"], digits=2)
        rows.append([name.removeprefix("mnist-"), rate, operations, dead, _seconds(m["training_seconds"])])
    head = ["input", "accuracy", "operations per image, dense / effective", "never fire, by layer", "training"]
    parts += [_table(head, rows), ""]
    parts += [f"![{what}](results/mnist-direct-{what}.png)\n" for what in ("curves", "confusion", "raster")]
    return "\n".join([*parts, _commands(r["command"] for r in found.values())])


def conversion(results: Results) -> str:
    """Return the section on shadow training (ANN-to-SNN conversion)."""
    parts = [
        "## Shadow training: the CNN converted\n",
        ABOUT_CONVERSION,
    ]
    if missing := _missing(results, "conversion"):
        return "\n".join([*parts, missing])
    m = results["conversion"]["runs"][0]["metrics"]
    curves = {name: value["by_steps"] for name, value in m.items() if isinstance(value, dict) and "by_steps" in value}
    steps = list(next(iter(curves.values())))
    rows = [[name, *(f"{100 * by[s]['accuracy']:.2f} %" for s in steps)] for name, by in curves.items()]
    parts += [f"The CNN itself: {100 * m['twin']:.2f} % of {m['n']:,}.\n", _table(["steps", *steps], rows), ""]
    parts += ["![accuracy against steps](results/conversion-accuracy-vs-steps.png)\n"]
    return "\n".join([*parts, _commands([results["conversion"]["command"]])])


def comparisons(results: Results) -> str:
    """Return the sections on variations of one recipe each."""
    return "\n".join(_comparison(results, name, title, text) for name, title, text in COMPARED)


def comparison_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the metrics of variations of a recipe, each with its ``name``, as a Markdown table."""
    head = ["variation", "accuracy (95 %)", "operations, dense", "effective", "never fire, by layer", "training"]
    lines = []
    for m in rows:
        low, high = (100 * v for v in m["interval"])
        dead = ", ".join(f"{name} {100 * share:.1f} %" for name, share in m["dead"].items())
        accuracy = f"{100 * m['accuracy']:.2f} % ({low:.2f} to {high:.2f} %)"
        operations = [f"{m['dense_operations']:,}", f"{m['effective_operations']:,}"]
        lines.append([m["name"], accuracy, *operations, dead, f"{m['training_seconds']:.0f} s"])
    return _table(head, lines)


def keep(  # noqa: PLR0913 - one option each
    name: str,
    command: str,
    runs: Sequence[Path],
    results: Path = RESULTS,
    *,
    pictures: bool = True,
    force: bool = False,
) -> Path:
    """Write the metrics of runs to ``name``.json and optionally copy the first one's plots as ``name``-*.png.

    ``runs`` are folders with a metrics.json: of ``fit``, ``compare`` or ``convert``. Raises
    ConfigError where one has none, and where the files exist, without ``force``.
    """
    path = results / f"{name}.json"
    copies = {p: results / f"{name}-{p.name}" for p in (sorted(runs[0].glob("*.png")) if pictures else ())}
    outputs = [Output("NAME", path, JSON), *(Output("--pictures", copy, PNG) for copy in copies.values())]
    inputs = [*(run / "metrics.json" for run in runs), *copies]
    check_outputs(outputs, inputs, force=force, makes_folders=True)
    rows = [_read_run(run) for run in runs]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps({"command": command, "runs": rows}, indent=1) + "\n")
    for picture, copy in copies.items():
        with replace_file(copy) as part:
            shutil.copyfile(picture, part)
    return path


def load(results: Path = RESULTS) -> dict[str, Any]:
    """Return every kept file by its name without the suffix."""
    return {path.stem: _read(path) for path in sorted(results.glob("*.json"))}


def _theme_row(result: Any) -> list[str]:
    if "runs" not in result:
        cost = result["activity"]
        folds = ", ".join(_percent(v) for v in result["by_fold"].values())
        operations = f"{_count(cost['dense_ops_per_s'])} / {_count(cost['effective_ops_per_s'])}"
        return [_mean(result), folds, _seconds(result.get("training_seconds")), operations]
    runs = [run["metrics"] for run in sorted(result["runs"], key=lambda run: run["leave_out"])]
    total = sum(m["n"] for m in runs)
    rate = Rate(round(sum(m["accuracy"] * m["n"] for m in runs)), total)
    dense, effective = (statistics.mean(m[f"{k}_operations_per_second"] for m in runs) for k in ("dense", "effective"))
    seconds = statistics.mean(m["training_seconds"] for m in runs)
    folds = ", ".join(_percent(m["accuracy"]) for m in runs)
    return [_rate(rate.value, rate.interval), folds, _seconds(seconds), f"{_count(dense)} / {_count(effective)}"]


def _comparison(results: Results, name: str, title: str, text: str) -> str:
    parts = [f"## {title}\n", f"{text}\nEvaluated on digits held out of the training set, not on the test set.\n"]
    if missing := _missing(results, name):
        return "\n".join([*parts, missing])
    rows = results[name]["runs"][0]["metrics"]
    parts += [comparison_table(rows), ""]
    parts += [f"![{name}](results/{name}-comparison.png)\n", _commands([results[name]["command"]])]
    return "\n".join(parts)


def _both(ours: Any, twin: Any) -> list[tuple[str, Any]]:
    return [("this network", ours), *([("the twin", twin)] if twin else [])]


def _folds(name: str, result: Any) -> str:
    folds = list(result["by_fold"])
    rows = []
    for seed, mean in result["by_seed"].items():
        own = {str(r["fold"]): r for r in result["rows"] if str(r["seed"]) == seed}
        rows.append(
            [f"{name}, seed {seed}", *(_percent(own[f]["hits"] / own[f]["clips"]) for f in folds), _percent(mean)]
        )
    return _table(["", *(f"fold {f}" for f in folds), "mean"], rows) + "\n"


def _activity(activity: Any) -> str:
    spikes = activity["spikes_per_neuron_s"]
    head = [*spikes, "dense operations", "effective operations"]
    cells = [*(f"{v:.1f}" for v in spikes.values())]
    cells += [_count(activity["dense_ops_per_s"]), _count(activity["effective_ops_per_s"])]
    return (
        "Spikes per neuron and second by layer, and operations per second of sound:\n\n" + _table(head, [cells]) + "\n"
    )


def _missing(results: Results, name: str) -> str:
    return "" if name in results else f"*No results kept yet: `results/{name}.json` is missing.*\n"


def _mean(result: Any) -> str:
    return _rate(result["accuracy"], result["interval"])


def _rate(value: float, interval: Sequence[float], digits: int = 1) -> str:
    return f"{100 * value:.{digits}f} % ({100 * interval[0]:.{digits}f} to {100 * interval[1]:.{digits}f} %)"


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def _count(value: float) -> str:
    return f"{value / 1e6:.2f} M"


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.0f} s"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def _commands(commands: Iterable[str]) -> str:
    return "\n".join(["```sh", *commands, "```\n"])


def _read_run(run: Path) -> dict[str, Any]:
    row: dict[str, Any] = {"metrics": _read(run / "metrics.json")}
    if (run / "plan.json").is_file():
        plan = _read(run / "plan.json")
        row |= {"recipe": plan["recipe"]["name"], "seed": plan["seed"], "leave_out": plan["leave_out"]}
    if (run / "origin.json").is_file():
        row["origin"] = _read(run / "origin.json")
    return row


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: no metrics there ({error}); finish the run first") from error


SECTIONS: tuple[Callable[[Results], str], ...] = (esc10, themes, mnist, conversion, comparisons)
