"""The ways in which input can be wrong, each with the exit code of the command line."""

from __future__ import annotations

from collections.abc import Iterable


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


def nearest(word: str, known: Iterable[str]) -> str | None:
    """Return the known word that is most like a word; None where none is."""
    import difflib

    return next(iter(difflib.get_close_matches(word.lower(), list(known), n=1)), None)


def suggestion(label: str, known: Iterable[str]) -> str | None:
    """Return the known label that a label may stand for: the most similar one, else one of which it is a part."""
    known, part = list(known), label.strip().lower()
    return nearest(part, known) or next((k for k in known if part and part in k.lower().split("_")), None)


def unknown_label(label: str, known: Iterable[str], owner: str = "the model") -> str:
    """Return what to print for a label that its owner does not know: the one that may be meant, else all."""
    known = list(known)
    near = suggestion(label, known)
    return f"{owner} knows no {label!r}; " + (f"did you mean {near!r}?" if near else f"it knows {', '.join(known)}")
