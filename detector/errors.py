"""The ways in which input can be wrong, each with the exit code of the command line."""

from __future__ import annotations


class DetectorError(Exception):
    """A condition that the user can correct; its text is one line that says how."""

    exit_code = 70


class ConfigError(DetectorError):
    """An option or a setting asks for what cannot be: an unknown label, a threshold out of range."""

    exit_code = 2


class ManifestError(DetectorError):
    """A model file is missing, unreadable, or disagrees with its own manifest."""

    exit_code = 2


class DeviceError(DetectorError):
    """There is no such microphone, or it cannot be opened, and the options say not to wait for it."""

    exit_code = 69


class BrokerError(DetectorError):
    """An MQTT broker cannot be reached, or does not do what it is asked."""

    exit_code = 69


class SourceError(DetectorError):
    """A sound source is missing, unreadable, or holds what is not sound."""

    exit_code = 66
