"""A bank of a backbone's spikes over sounds of no new class, which ships beside the model.

A file of numpy arrays in a zip archive (LZMA), which ``numpy.load`` reads:

    spikes      (entries, neurons, frames / 8) uint8: over time packed into bits, since spikes are similar over time
    lead_ins    (lead-ins, frames, n_mfcc) float16: features of sounds that may precede another one
    kind, group, clip, author, licence   (entries,) text: what is in it and whose it is
    fold        (entries,) uint8
    begins      (entries,) bool: whether the entry begins a stream; else it continues the entry before
    about       JSON: version, digest of the backbone, its sizes, and how the file was made

Entries begin behind another sound, with the states of encoder and network carried on.
"""

from __future__ import annotations

import itertools
import json
import lzma
import re
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from detector.errors import ConfigError
from detector.manifest import Manifest
from detector.network import default_model_path
from detector.system import FileKind, replace_file
from models.adapting.backbone import backbone_sha256

SUFFIX: Final = ".bank"
BANK: Final = FileKind("a bank", re.compile(rb"PK\x03\x04.{26}about\.npy", re.DOTALL))
FRAMES: Final = 120
"""Frames of an entry, 3 s: also those of an example of a new class."""
VERSION: Final = 1
TEXTS: Final = ("kind", "group", "clip", "author", "licence")
_ARRAYS: Final = ("spikes", "lead_ins", "fold", "begins", *TEXTS)
_DATE: Final = (1980, 1, 1, 0, 0, 0)
_LARGEST: Final = 64 << 20
"""Bytes of a bank's arrays at most, unpacked: a file that says otherwise is damaged."""
_GENERAL: Final = frozenset({"human", "person", "other", "background", "sound", "sounds", "noise", "noises", "my"})
"""Words that say little about what a sound is."""
_ENDINGS: Final = re.compile(r"(?<=\w{3})(ing|ter|es|s|e)$")


@dataclass(frozen=True, slots=True)
class BankOrigin:
    """What a bank belongs to and how it was made."""

    version: int
    backbone: str
    """SHA-256, see ``models.adapting.backbone``."""
    inputs: int
    """Spikes of the last convolution."""
    dense: int
    """Spikes of the dense layer."""
    model: str
    command: str


@dataclass(frozen=True, slots=True)
class Bank:
    """The entries of a bank."""

    about: BankOrigin
    spikes: NDArray[np.uint8]
    lead_ins: NDArray[np.float16]
    kind: NDArray[np.str_]
    """The class of a sound, or what an everyday sound is."""
    group: NDArray[np.str_]
    """Sounds that are counted together, such as speech or dishes."""
    clip: NDArray[np.str_]
    author: NDArray[np.str_]
    licence: NDArray[np.str_]
    fold: NDArray[np.uint8]
    begins: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.fold)

    def frames(self) -> NDArray[np.uint8]:
        """Return the spikes (entries, frames, bytes), packed over neurons as ``BackboneStream`` gives them."""
        packed = [np.packbits(np.unpackbits(entry, axis=1).T, axis=1) for entry in self.spikes]
        return np.stack(packed)

    def streams(self) -> Iterator[range]:
        """Yield the entries of each stream."""
        first = [*np.flatnonzero(self.begins).tolist(), len(self)]
        for begin, end in itertools.pairwise(first):
            yield range(begin, end)


def pack(frames: NDArray[np.uint8], neurons: int) -> NDArray[np.uint8]:
    """Return (neurons, frames / 8) of one entry's spikes (frames, bytes)."""
    return np.packbits(np.unpackbits(frames, axis=1, count=neurons).T, axis=1)


def write_bank(path: Path, bank: Bank) -> None:
    """Write a bank atomically; the same bank gives the same bytes."""
    about = np.frombuffer(json.dumps(asdict(bank.about)).encode(), np.uint8)
    arrays = {"about": about, **{name: getattr(bank, name) for name in _ARRAYS}}
    with replace_file(path) as part, zipfile.ZipFile(part, "w") as archive:
        for name, values in arrays.items():
            entry = zipfile.ZipInfo(f"{name}.npy", _DATE)
            entry.compress_type = zipfile.ZIP_LZMA
            with archive.open(entry, "w") as file:
                np.lib.format.write_array(file, np.ascontiguousarray(values), allow_pickle=False)


def read_bank(path: Path) -> Bank:
    """Read a bank; raises ConfigError where the file is none."""
    again = "make it with snn-train make-bank"
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > _LARGEST:
                raise ConfigError(f"{path}: larger than any bank; {again}")
        with np.load(path, allow_pickle=False) as found:
            about = BankOrigin(**json.loads(found["about"].tobytes()))
            bank = Bank(about, **{name: found[name] for name in _ARRAYS})
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror or error}); {again}") from error
    except (AttributeError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, lzma.LZMAError) as error:
        raise ConfigError(f"{path}: no bank of a backbone's spikes; {again}") from error
    _check(bank, path, again)
    return bank


def find_bank(model: Path, manifest: Manifest, given: Path | None) -> tuple[Bank, Path] | None:
    """Return the bank for a model, and where it is: the given one, or that beside the model or the shipped model.

    None where there is none for its backbone. Raises ConfigError where the given one is of another backbone, or a bank
    is damaged.
    """
    if given is not None:
        bank = read_bank(given)
        if not _fits(bank, model, manifest):
            raise ConfigError(
                f"{given}: is the bank of another backbone ({bank.about.model}), not that of {model}; make one for it "
                "with snn-train make-bank, or leave it out with --no-bank"
            )
        return bank, given
    for path in dict.fromkeys((model.with_suffix(SUFFIX), default_model_path().with_suffix(SUFFIX))):
        if path.is_file() and _fits(bank := read_bank(path), model, manifest):
            return bank, path
    return None


def kinds_like(label: str, kinds: Sequence[str]) -> list[str]:
    """Return the kinds that share a word with a label: recordings of them may be of the new class."""
    wanted = _words(label)
    return [kind for kind in kinds if wanted & _words(kind)]


def _words(name: str) -> set[str]:
    return {_ENDINGS.sub("", word) for word in re.split(r"[_-]", name)} - _GENERAL


def _fits(bank: Bank, model: Path, manifest: Manifest) -> bool:
    return bank.about.backbone == backbone_sha256(model, manifest, bank.about.dense)


def _check(bank: Bank, path: Path, again: str) -> None:
    entries, about = len(bank.fold), bank.about
    shapes: dict[str, tuple[Any, ...]] = dict.fromkeys((*TEXTS, "fold", "begins"), (entries,))
    shapes |= {"spikes": (entries, about.inputs + about.dense, FRAMES // 8)}
    wrong = [name for name, shape in shapes.items() if getattr(bank, name).shape != shape]
    if about.version != VERSION or wrong or not entries or not bank.begins[0] or bank.lead_ins.ndim != 3:  # noqa: PLR2004
        what = f"version {about.version}" if about.version != VERSION else f"{', '.join(wrong) or 'entries'}"
        raise ConfigError(f"{path}: a bank that this release cannot read ({what}); {again}")
