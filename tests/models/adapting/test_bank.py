"""The bank of other sounds: its file, what it belongs to, and what may be in it."""

from __future__ import annotations

import shutil
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import numpy_helper

from detector.errors import ConfigError
from detector.network import default_model_path, load_model
from models.adapting.backbone import backbone_sha256
from models.adapting.bank import FRAMES, SUFFIX, Bank, find_bank, kinds_like, read_bank, write_bank
from models.adapting.make_bank import bank_clips, credits_page, make_bank, write_limited
from models.cli.main import cli
from models.data.recordings import allows_derived_data

MODEL = default_model_path()
MANIFEST = load_model(MODEL).manifest
NAMES = ("spikes", "lead_ins", "kind", "group", "clip", "author", "licence", "fold", "begins")

pytestmark = pytest.mark.usefixtures("few_conditions")


def equal(one: Bank, other: Bank) -> bool:
    return one.about == other.about and all(np.array_equal(getattr(one, n), getattr(other, n)) for n in NAMES)


def test_a_bank_is_read_as_it_was_written_and_twice_gives_the_same_bytes(bank: Bank, tmp_path: Path) -> None:
    first, second = tmp_path / "first.bank", tmp_path / "second.bank"
    write_bank(first, bank)
    write_bank(second, read_bank(first))
    assert equal(read_bank(first), bank)
    assert first.read_bytes() == second.read_bytes()
    with np.load(first, allow_pickle=False) as found:
        assert found["spikes"].shape == (len(bank), bank.about.inputs + bank.about.dense, FRAMES // 8)


def test_the_same_recordings_and_seed_give_the_same_bank_whatever_the_processes(bank: Bank, tree: Path) -> None:
    assert equal(make_bank(MODEL, tree, 0, 1)[0], bank)


def test_a_bank_has_no_clip_of_fold_5_and_none_whose_licence_forbids_it(bank: Bank, tree: Path) -> None:
    assert set(bank.fold.tolist()) == {1, 2, 3, 4}
    assert not [name for name in bank.clip if name.startswith("speech_digits")]  # CC BY-SA
    assert {clip.name for clip in bank_clips(tree)} == set(bank.clip.tolist())
    page = credits_page(Path("own.bank"), bank)
    assert all(f"| {licence} | " in page for licence in set(bank.licence.tolist()))


def test_entries_are_read_by_frame_and_follow_each_other_in_streams_of_one_fold(bank: Bank) -> None:
    streams = list(bank.streams())
    assert [i for stream in streams for i in stream] == list(range(len(bank)))
    assert all(len(set(bank.fold[list(stream)].tolist())) == 1 for stream in streams)
    frames = bank.frames()
    neurons = bank.about.inputs + bank.about.dense
    for entry, packed in zip(bank.spikes[:3], frames, strict=False):
        bits = np.unpackbits(packed, axis=1)[:, :neurons]
        assert np.array_equal(np.unpackbits(entry, axis=1).T, bits)


@pytest.mark.parametrize(
    ("licence", "allowed"),
    [
        *(
            (text, True)
            for text in ("CC0-1.0", "CC0 (VSCO2 CE / VCSL)", "CC-BY-3.0", "CC BY 4.0", "MIT (Expat)", "Unlicense")
        ),
        *((text, True) for text in ("Apache-2.0", "BSD-3-Clause", "ODbL-1.0 / DbCL-1.0", "Public Domain Mark")),
        *(
            (text, False)
            for text in ("CC-BY-SA-3.0", "CC BY-NC 3.0", "CC-BY-(version unstated)", "GPL-2+", "", "LGPL-2.1+")
        ),
        *(
            (text, False)
            for text in ("CC-BY (version not stated)", "Free Art License", "GPL-2+ with FreePats exception")
        ),
    ],
)
def test_licences_under_which_derived_data_may_ship(licence: str, allowed: bool) -> None:
    assert allows_derived_data(licence) is allowed


def test_kinds_that_share_a_word_with_the_label_may_be_of_the_new_class() -> None:
    kinds = [
        "cat",
        "big_cat",
        "door",
        "doorbell",
        "glass_break",
        "glass_clink",
        "human_grunt",
        "laughter",
        "person_sneeze",
    ]
    assert kinds_like("cat", kinds) == ["cat", "big_cat"]
    assert kinds_like("doorbell", kinds) == ["doorbell"]
    assert kinds_like("broken-glass", kinds) == ["glass_break", "glass_clink"]
    assert kinds_like("laughing", kinds) == ["laughter"]
    assert kinds_like("sneezes", kinds) == ["person_sneeze"]
    assert kinds_like("human_cough", kinds) == []


def test_a_bank_of_another_backbone_is_refused_in_one_line(bank: Bank, tmp_path: Path) -> None:
    given = tmp_path / "given.bank"
    write_bank(given, replace(bank, about=replace(bank.about, backbone="0" * 64)))
    with pytest.raises(ConfigError, match=r"given\.bank: is the bank of another backbone .*make-bank"):
        find_bank(MODEL, MANIFEST, given)


def test_the_digest_changes_with_any_weight_of_the_backbone_and_with_no_other(tmp_path: Path) -> None:
    dense = MANIFEST.network.layers[-2].neurons
    before = backbone_sha256(MODEL, MANIFEST, dense)
    for name, same in (
        ("conv1_weight", False),
        ("dense_weight", False),
        ("dense_beta", False),
        ("readout_weight", True),
    ):
        model = onnx.load(MODEL)
        (weight,) = [w for w in model.graph.initializer if w.name == name]
        values = numpy_helper.to_array(weight).copy()
        values.flat[0] += np.float32(0.25)
        weight.CopyFrom(numpy_helper.from_array(values, name))
        onnx.save(model, tmp_path / "other.onnx")
        assert (backbone_sha256(tmp_path / "other.onnx", MANIFEST, dense) == before) is same, name
    other_front = replace(MANIFEST, encoder=replace(MANIFEST.encoder, leak=0.5))
    assert backbone_sha256(MODEL, other_front, dense) != before


def test_the_bank_beside_a_model_is_found_and_one_of_another_model_passed_over(bank: Bank, tmp_path: Path) -> None:
    model = Path(shutil.copy(MODEL, tmp_path / "own.onnx"))
    beside = model.with_suffix(SUFFIX)
    write_bank(beside, bank)
    found = find_bank(model, MANIFEST, None)
    assert found is not None
    assert found[1] == beside
    write_bank(beside, replace(bank, about=replace(bank.about, backbone="0" * 64)))
    found = find_bank(model, MANIFEST, None)
    assert found is not None
    assert found[1] == MODEL.with_suffix(SUFFIX)


def test_files_that_are_no_bank_are_refused_in_one_line(bank: Bank, tmp_path: Path) -> None:
    path = tmp_path / "own.bank"
    with pytest.raises(ConfigError, match="cannot be read"):
        read_bank(path)
    path.write_bytes(b"no archive")
    with pytest.raises(ConfigError, match="no bank of a backbone's spikes"):
        read_bank(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("about.npy", b"wrong")
    with pytest.raises(ConfigError, match="no bank of a backbone's spikes"):
        read_bank(path)
    write_bank(path, replace(bank, about=replace(bank.about, version=99)))
    with pytest.raises(ConfigError, match=r"cannot read .version 99"):
        read_bank(path)
    write_bank(path, replace(bank, fold=bank.fold[1:]))
    with pytest.raises(ConfigError, match=r"cannot read .*spikes"):
        read_bank(path)
    write_bank(path, bank)
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(ConfigError, match="no bank of a backbone's spikes"):
        read_bank(path)


def test_a_bank_that_is_too_large_keeps_whole_streams(bank: Bank, tmp_path: Path) -> None:
    path = tmp_path / "own.bank"
    write_bank(path, bank)
    limit = path.stat().st_size * 9 // 10
    kept = write_limited(path, bank, limit)
    assert path.stat().st_size <= limit
    assert 0 < len(kept) < len(bank)
    assert len(kept) in {stream.stop for stream in bank.streams()}
    assert equal(read_bank(path), kept)


def test_the_bank_that_ships_is_of_the_model_that_ships_and_holds_what_is_often_mistaken() -> None:
    found = find_bank(MODEL, MANIFEST, None)
    assert found is not None
    bank, path = found
    assert path == MODEL.with_suffix(SUFFIX)
    assert path.stat().st_size <= 5_000_000
    assert 5 not in bank.fold
    assert {"speech", "human sounds", "dishes", "instruments", "everyday sounds"} <= set(bank.group.tolist())
    assert not [text for text in set(bank.licence.tolist()) if not allows_derived_data(text)]
    assert path.with_name(f"{path.name}.txt").read_text(encoding="utf-8") == credits_page(path, bank)


def test_the_command_says_what_it_wrote_and_replaces_nothing_else(tree: Path, tmp_path: Path) -> None:
    out = tmp_path / "own.bank"
    arguments = ["make-bank", str(MODEL), "--data", str(tree), "--out", str(out)]
    done = CliRunner().invoke(cli, arguments)
    assert done.exit_code == 0, done.output
    assert f"examples in {out.stat().st_size} bytes" in done.stderr
    assert CliRunner().invoke(cli, arguments).exit_code == 2
    out.write_bytes(b"of another kind")
    assert CliRunner().invoke(cli, [*arguments, "--force"]).exit_code == 2
    assert out.read_bytes() == b"of another kind"
