"""The sound as the detector hears it, kept in a file: to replay it, and to send it along with a complaint."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Final

import numpy as np
import soundfile

from detector.errors import ConfigError
from detector.messages import AudioChunk

_log = logging.getLogger(__name__)
_LONGEST_GAP_S: Final = 60


class Tee:
    """Writes chunks to a WAV file of floats, which ``snn-detect replay`` hears just as they were heard.

    Sound that was lost is silence in the file, a minute of it at most.
    """

    def __init__(self, path: Path, rate_hz: int) -> None:
        """Begin the file; raises ConfigError where it cannot be written."""
        self._path, self._rate_hz = path, rate_hz
        self._next = 0
        try:
            self._file: soundfile.SoundFile | None = soundfile.SoundFile(
                path, "w", rate_hz, 1, format="WAV", subtype="FLOAT"
            )
        except (OSError, soundfile.LibsndfileError) as error:
            raise ConfigError(f"--tee {path}: cannot be written ({error}); name another file") from error

    def hear(self, chunk: AudioChunk) -> None:
        """Append a chunk; where that fails, say so and write no more."""
        if self._file is None:
            return
        lost = min(max(0, chunk.first_sample - self._next), _LONGEST_GAP_S * self._rate_hz)
        self._next = chunk.first_sample + len(chunk.samples)
        try:
            if lost:
                self._file.write(np.zeros(lost, np.float32))
            self._file.write(chunk.samples)
        except (OSError, soundfile.LibsndfileError) as error:
            _log.warning("--tee %s: cannot be written any more: %s", self._path, error)
            self.close()

    def close(self) -> None:
        """Complete the file."""
        file, self._file = self._file, None
        if file is not None:
            file.close()
