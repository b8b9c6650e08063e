"""The documents: links, commands, configuration, code and figures in them are those of the project."""

from __future__ import annotations

import ast
import importlib
import re
import shlex
import tomllib
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import click
import pytest
import yaml  # type: ignore[import-untyped]
from PIL import Image

import firmware_export.cli
from detector import __version__
from detector.cli.main import cli as snn_detect
from detector.config.settings import Settings
from detector.network import load_model
from models.cli.main import cli as snn_train
from models.evaluation.class_table import updated
from tests.detector.web.picture import MAX_BYTES, SIZE

ROOT = Path(__file__).resolve().parents[1]
PLACES = (
    "*.md",
    ".github/*.md",
    "detector/**/*.md",
    "models/**/*.md",
    "firmware_export/**/*.md",
    "systemd/**/*.md",
    "findings/*.md",
)
DOCUMENTS = sorted(str(path.relative_to(ROOT)) for place in PLACES for path in ROOT.glob(place))
CARDS = ("models/pretrained/household.md", "models/pretrained/esc10.md")
PROGRAMS: dict[str, click.Command] = {
    "snn-detect": snn_detect,
    "snn-train": snn_train,
    "snn-export": firmware_export.cli.cli,
}
_WORDS = r"""((?:'[^']*'|"[^"]*"|[^|;&>)\n'"])*)"""
_CALL = re.compile(
    r"(?:^|\|\s*|&&\s*|;\s*|\bdo\s+|\$\(|\bsudo\s+|^[A-Z_]+=\S+\s+)(?:\S*/bin/)?"
    rf"(snn-(?:detect|train|export))(?:\s+{_WORDS}|$)",
    re.MULTILINE,
)
_INLINE = re.compile(r"`(snn-(?:detect|train|export))(?:\s+([^`]*))?`")


def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def blocks(name: str, language: str) -> list[str]:
    """Return the code blocks of a language, without the indentation of a list around them."""
    found = re.findall(rf"^( *)```{language}\n(.*?)^ *```", text_of(name), re.DOTALL | re.MULTILINE)
    return [re.sub(rf"^{indent}", "", block, flags=re.MULTILINE) for indent, block in found]


def anchors(path: Path) -> set[str]:
    """Return what GitHub calls the headings of a document in links."""
    headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def calls(name: str) -> Iterator[tuple[str, list[str]]]:
    """Yield each call of a program in shell blocks, with its arguments."""
    for block in blocks(name, "sh"):
        joined = re.sub(r"\\\n\s*", " ", block)
        without_comments = re.sub(r"(?:^|[^\S\n])#.*$", "", joined, flags=re.MULTILINE)
        for program, arguments in _CALL.findall(without_comments):
            yield program, shlex.split(re.sub(r"\$[a-z]\b", "1", arguments))  # the counter of a loop


def find_command(program: str, words: list[str]) -> tuple[click.Command, list[str]]:
    """Follow the names of subcommands, check the names of options, and return the command with the rest."""
    command, rest = PROGRAMS[program], list(words)
    while isinstance(command, click.Group) and rest and not rest[0].startswith("-"):
        found = command.get_command(click.Context(command), rest[0])
        assert found is not None, f"{program} {' '.join(words)}: no command {rest[0]!r}"
        command, rest = found, rest[1:]
    visible = [p for p in command.params if not (isinstance(p, click.Option) and p.hidden)]
    known = {name for p in visible for name in (*p.opts, *p.secondary_opts)}
    given = {word.partition("=")[0] for word in rest if word.startswith("--")}
    assert given <= known, f"{program} {' '.join(words)}: unknown or old options {sorted(given - known)}"
    return command, rest


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_lead_to_files_and_headings(name: str) -> None:
    path = ROOT / name
    for link in re.findall(r"\]\(([^)\s]+)\)", text_of(name)):
        if "://" in link:
            continue
        file, _, anchor = link.partition("#")
        target = path.parent / file if file else path
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("name", DOCUMENTS)
def test_nothing_is_left_to_fill_in(name: str) -> None:
    assert not re.search(r"PLACEHOLDER|BENCH_TABLE|TO" + "DO", text_of(name))


@pytest.mark.parametrize("name", DOCUMENTS)
def test_commands_exist_and_take_the_arguments_that_are_shown(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SNN_DETECT_DATA", "DATA")  # as models/README.md has users set it once
    for program, words in calls(name):
        command, rest = find_command(program, words)
        try:
            command.make_context(program, rest, **PROGRAMS[program].context_settings)
        except (click.ClickException, click.exceptions.Exit) as error:
            detail = error.format_message() if isinstance(error, click.ClickException) else error
            pytest.fail(f"{name}: {program} {shlex.join(words)}: {detail}")


@pytest.mark.parametrize("name", DOCUMENTS)
def test_commands_in_sentences_exist_with_their_options(name: str) -> None:
    for program, arguments in _INLINE.findall(text_of(name)):
        find_command(program, shlex.split(arguments))


@pytest.mark.parametrize("name", DOCUMENTS)
def test_modules_and_make_targets_that_are_run_exist(name: str) -> None:
    targets = set(re.findall(r"^([a-z-]+):", text_of("Makefile"), re.MULTILINE))
    for block in blocks(name, "sh"):
        for module in re.findall(r"python[\d.]* -m ([\w.]+)", block):
            assert find_spec(module) is not None, module
        for target in re.findall(r"(?:^|sudo |&& )make ([a-z]+)", block, re.MULTILINE):
            assert target in targets, target


@pytest.mark.parametrize("name", ["systemd/README.md", "detector/web/README.md"])
def test_configuration_that_is_shown_is_valid(name: str) -> None:
    shown = blocks(name, "toml")
    assert shown
    for block in shown:
        Settings.model_validate(tomllib.loads(block))


def test_configuration_that_adapting_writes_is_valid() -> None:
    (line,) = re.findall(r"^printf '(.*?)' \| sudo tee", text_of("models/README.md"), re.MULTILINE)
    settings = Settings.model_validate(tomllib.loads(line.replace("\\n", "\n")))
    assert str(settings.model_dump()["model"]["path"]) == "/usr/share/snn-detect/models/doorbell.onnx"


@pytest.mark.parametrize("name", DOCUMENTS)
def test_code_that_is_shown_is_python_and_its_imports_exist(name: str) -> None:
    for block in blocks(name, "python"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and node.module is not None:
                module = importlib.import_module(node.module)
                assert [a.name for a in node.names if not hasattr(module, a.name)] == [], node.module


def test_readme_has_at_most_150_lines_and_links_the_other_documents() -> None:
    readme = text_of("README.md")
    assert len(readme.splitlines()) <= 150
    assert [name for name in DOCUMENTS if name != "README.md" and f"]({name})" not in readme] == []


def test_readme_has_the_figures_of_card_and_manifest() -> None:
    readme = text_of("README.md")
    assert readme == updated(readme, load_model().manifest, text_of(CARDS[0])), "run: make readme-table"


def test_readme_begins_with_a_picture_of_the_page_and_says_what_the_program_is_not() -> None:
    title, picture, rest = text_of("README.md").split("\n\n", 2)
    assert title == "# snn-detect"
    (place,) = re.findall(r"^!\[[^]]+\]\((\S+)\)$", picture)
    assert (ROOT / place).stat().st_size < MAX_BYTES
    with Image.open(ROOT / place) as image:
        assert (image.format, image.size) == ("WEBP", SIZE)
    assert rest.index("**It is no alarm.**") < rest.index("\n## ")


@pytest.mark.parametrize("name", CARDS)
def test_cards_have_the_usual_sections(name: str) -> None:
    _, front_matter, body = text_of(name).split("---\n", 2)
    head = yaml.safe_load(front_matter)
    assert {"license", "tags", "datasets", "metrics"} <= head.keys()
    models = sorted((ROOT / name).parent.glob(f"{Path(name).stem}*.onnx"))
    assert {load_model(path).manifest.licence.lower() for path in models} == {head["license"]}
    assert re.findall(r"^## (.+)$", body, re.MULTILINE) == [
        "Model summary",
        "Intended use and out-of-scope use",
        "How to use",
        "Evaluation",
        "Limitations",
        "Training procedure",
        "Training data",
        "Licence",
    ]


def test_the_card_gives_the_manifests_figures() -> None:
    manifest = load_model().manifest
    card = text_of(CARDS[0])
    assert f"# {manifest.name} {manifest.version}" in card
    assert f"= {100 * manifest.metrics['esc10_accuracy']:.1f} %" in card
    for label in manifest.labels:
        recall, false = (100 * manifest.metrics[f"{label}_{kind}"] for kind in ("recall", "false_rate"))
        (row,) = re.findall(rf"^\| {label} \|.*$", card, re.MULTILINE)
        assert [float(x) for x in re.findall(r"= ([\d.]+) %", row)] == pytest.approx([recall, false], abs=0.06)


def test_the_changelog_has_an_entry_for_the_program_and_for_each_model() -> None:
    changelog, manifest = text_of("CHANGELOG.md"), load_model().manifest
    program, _, models = changelog.partition("\n## Models\n")
    assert re.search(rf"^## \[(?:Unreleased\]: )?{re.escape(__version__)}", program, re.MULTILINE)
    assert re.findall(r"^### household ([\d.]+) ", models, re.MULTILINE)[0] == manifest.version


def test_the_citation_is_that_of_this_release() -> None:
    citation = yaml.safe_load(text_of("CITATION.cff"))
    project = tomllib.loads(text_of("pyproject.toml"))["project"]
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    assert citation["authors"]
    assert (citation["title"], citation["version"]) == (project["name"], __version__)
    assert (citation["license"], citation["keywords"]) == (project["license"], project["keywords"])


def test_no_document_and_no_message_names_an_index_that_does_not_have_the_project() -> None:
    """``pip install snn-detect`` finds no distribution; a file, a clone or the packages of an extra are found."""
    sources = [p for folder in ("detector", "models", "firmware_export") for p in sorted((ROOT / folder).rglob("*.py"))]
    for path in [*(ROOT / name for name in DOCUMENTS), *sources]:
        assert not re.search(r"pip install (?:-\S+ )*['\"]?snn-detect\b", path.read_text(encoding="utf-8")), path


def test_the_shipped_model_is_small_and_was_kept_from_the_test_fold() -> None:
    model = load_model()
    assert model.path.stat().st_size < 3 * 2**20
    assert 5 in model.manifest.training.folds_left_out
