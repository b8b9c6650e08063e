"""Where the system shows itself."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Roots:
    """A file system that can be another than this machine's."""

    top: Path = Path("/")

    @property
    def proc(self) -> Path:
        """Processes, and the kernel's view of the sound cards."""
        return self.top / "proc"

    @property
    def sound(self) -> Path:
        """The sound cards by the kernel's list of devices."""
        return self.top / "sys/class/sound"

    @property
    def thermal(self) -> Path:
        """Thermometers."""
        return self.top / "sys/class/thermal"

    @property
    def hwmon(self) -> Path:
        """Other sensors."""
        return self.top / "sys/class/hwmon"

    @property
    def snd(self) -> Path:
        """The devices of the sound cards."""
        return self.top / "dev/snd"

    @property
    def run(self) -> Path:
        """What lasts as long as the machine runs."""
        return self.top / "run"

    @property
    def etc(self) -> Path:
        """The system's settings."""
        return self.top / "etc"

    @property
    def mixer_state(self) -> Path:
        """What ``alsactl store`` writes."""
        return self.top / "var/lib/alsa/asound.state"
