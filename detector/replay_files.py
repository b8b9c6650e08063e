"""What replay writes about a file besides its records: scores, labels for other tools, a picture."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from detector.cli_program import tell
from detector.errors import ConfigError
from detector.messages import Samples, Scores
from detector.pipeline import Detector
from detector.sinks.label_files import audacity_rows, check_place, write_rows
from detector.sinks.scores_file import ScoresFile
from detector.sinks.sink import Record


class FileNotes:
    """Everything that is written about one file: at its end, or not at all."""

    def __init__(self, detector: Detector, scores: Path | None, picture: Path | None, audacity: Path | None) -> None:
        """Prepare to write to these places; raises ConfigError where that cannot be."""
        self._detector, self._audacity = detector, audacity
        self._wants_records = bool(picture or audacity)
        self.records: list[Record] = []
        self._sheet = None
        if audacity is not None:
            check_place(audacity, "--audacity")
        if picture is not None:
            from detector.picture import Sheet

            check_place(picture, "--picture")
            self._sheet = Sheet(picture, detector)
        self._scores = None if scores is None else ScoresFile(scores, detector.labels)

    @contextmanager
    def taken(self) -> Iterator[FileNotes]:
        """Look into the detector meanwhile, and give up at the end what has not been saved."""
        self._detector.observer = self._sheet
        try:
            with closing(self):
                yield self
        finally:
            self._detector.observer = None

    def hear(self, samples: Samples) -> None:
        """Take samples before the detector does."""
        if self._sheet is not None:
            self._sheet.hear(samples)

    def judge(self, scores: Scores) -> None:
        """Take the scores that they brought about."""
        if self._scores is not None:
            self._scores.push(scores)

    def note(self, record: Record) -> None:
        """Take the record of an event."""
        if self._wants_records:
            self.records.append(record)

    def save(self, name: str) -> None:
        """Write all; raises ConfigError where a file cannot be written."""
        try:
            self._save(name)
        except OSError as error:
            where = f"{error.filename}: " if error.filename else ""
            raise ConfigError(f"{where}cannot be written ({error.strerror})") from error

    def close(self) -> None:
        """Drop what has not been saved."""
        if self._scores is not None:
            self._scores.close()

    def _save(self, name: str) -> None:
        if self._scores is not None:
            features = self._detector.manifest.features
            self._scores.save(features.sample_rate_hz, features.hop_length, features.frame_length)
        if self._audacity is not None:
            write_rows(self._audacity, audacity_rows(self.records))
        if self._sheet is not None:
            from detector.picture import LONGEST_S

            self._sheet.save(Path(name).name, self.records)
            if self._sheet.is_cut:
                tell(f"{name}: the picture shows the first {LONGEST_S / 60:.0f} minutes")


def places(option: str, target: Path | None, names: Sequence[str], suffixes: Sequence[str]) -> list[Path | None]:
    """Return where each of several files has its own: ``target``, or with its name before the suffix.

    Raises ConfigError for another suffix than one of these (none: any), and where two would go to one place.
    """
    if target is not None and suffixes and target.suffix.lower() not in suffixes:
        raise ConfigError(f"{option} {target}: the name must end in {' or '.join(suffixes)}")
    if target is None or len(names) == 1:
        return [target] * len(names)
    stems = ["stdin" if name == "-" else Path(name).stem for name in names]
    if twice := {stem for stem in stems if stems.count(stem) > 1}:
        raise ConfigError(f"{option}: several files are called {min(twice)!r}; replay them one at a time")
    return [target.with_name(f"{target.stem}-{stem}{target.suffix}") for stem in stems]
