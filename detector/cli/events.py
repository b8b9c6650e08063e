"""The commands ``snn-detect events``: query and export stored events."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import re
import select
import sys
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import click

from detector.cli.program import CommandGroup, TimeType, config_option, print_status, print_text
from detector.cli.program import options as add_options
from detector.errors import DetectorError, suggestion
from detector.system import csv_cell

if TYPE_CHECKING:
    from detector.events_db import EventReader, StoredEvent, Wanted

_Printer: TypeAlias = Callable[[Mapping[str, Any]], None]
_SERVICE_DATABASE: Final = Path("/var/lib/snn-detect/events.db")
_POLL_S: Final = 1.0
_MAX_ROWS: Final = 2**63 - 1
"""SQLite counts no further."""
_SPAN: Final = re.compile(r"(\d+(?:\.\d+)?)\s*(s|m|min|h|d|w)")
_UNITS: Final = {"s": "seconds", "m": "minutes", "min": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_ENDS: Final = {None: "going on", "interrupted": "interrupted"}
_EXAMPLE: Final = "2h, a date such as 2026-11-23, or a time such as 2026-11-23T18:04:05+01:00"
_DATE: Final = re.compile(r"\d{4}-\d{2}-\d{2}")


class _When(TimeType):
    """A time span before now, a date, or a time; without an offset from UTC it is local, as the times shown are."""

    name = "WHEN"

    def __init__(self, *, end_of_day: bool = False) -> None:
        self._days = int(end_of_day)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        """Return the time, with its offset from UTC."""
        if isinstance(value, datetime):
            return value
        try:
            if span := _SPAN.fullmatch(value.strip()):
                return datetime.now().astimezone() - timedelta(**{_UNITS[span[2]]: float(span[1])})
            moment = datetime.fromisoformat(value)
            if _DATE.fullmatch(value):
                moment += timedelta(days=self._days)
            return moment.astimezone()
        except (ValueError, OverflowError):
            self.fail(f"{value!r} is none of these: a span such as {_EXAMPLE}", param, ctx)


_json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON lines on a terminal too.")
_selection_options = add_options(
    click.option(
        "--database",
        type=click.Path(path_type=Path, readable=False),
        help="Database file; default: that of the configuration.",
    ),
    config_option,
    click.option("--label", "labels", multiple=True, help="Only this sound; may be repeated."),
    click.option("--category", "categories", multiple=True, help="Only sounds of this category; may be repeated."),
    click.option("--source", "sources", multiple=True, help="Only events of this source; may be repeated."),
)
_time_options = add_options(
    click.option("--since", type=_When(), help="Only events that began then or later: 2h, a date, or a time."),
    click.option("--until", type=_When(end_of_day=True), help="Only events that began before it; a date: its end."),
    click.option("--limit", type=click.IntRange(1, _MAX_ROWS), help="At most so many, the newest."),
)


@click.group(cls=CommandGroup)
def events() -> None:
    """Query the events that the service stored; the service may run meanwhile.

    On a terminal the events are readable lines; elsewhere, and with --json, JSON lines. Times are
    local, with their offset from UTC. The service stores an event after some seconds at most
    (database.commit_s in its configuration).
    """


@events.command()
@_selection_options
@click.option("--limit", "-n", type=click.IntRange(0, _MAX_ROWS), default=10, show_default=True, help="How many.")
@click.option("--follow", "-f", is_flag=True, help="Continue with new events, until Ctrl-C.")
@_json_option
def tail(*, limit: int, follow: bool, as_json: bool, database: Path | None, path: Path | None, **options: Any) -> None:
    """Show the last events.

    With --follow, also each new one, and again when it has ended.
    """
    from detector.events_db import EventReader, Follower, Wanted

    file, wanted, show = _database(database, path), Wanted(**options, newest=limit), _printer(as_json=as_json)
    follower = Follower(wanted)
    with EventReader(file) as reader:
        if not _print(follower.begin(reader), show) and limit:
            _report_none(reader, wanted, path)
    while follow:
        _wait_for_events()
        with EventReader(file) as reader:
            _print(follower.source_events(reader), show)


@events.command()
@_selection_options
@_time_options
@_json_option
def query(*, as_json: bool, **options: Any) -> None:
    """Show the events of a time range, oldest first."""
    _print_all(_printer(as_json=as_json), **options)


@events.command()
@_selection_options
@_time_options
@click.option(
    "--format", "kind", type=click.Choice(["csv", "json"]), default="csv", show_default=True, help="json: JSON lines."
)
def export(*, kind: str, **options: Any) -> None:
    """Write the events of a time range as CSV or JSON."""
    _print_all(_csv_printer() if kind == "csv" else _print_json, **options)


def _print_all(show: _Printer, database: Path | None, path: Path | None, limit: int | None, **options: Any) -> None:
    """Print the events that the options select, or on standard error that there are none."""
    from detector.events_db import EventReader, Wanted

    wanted = Wanted(**options, newest=limit)
    if wanted.since and wanted.until and wanted.since >= wanted.until:
        raise click.UsageError(f"--since {wanted.since} is not before --until {wanted.until}.")
    with EventReader(_database(database, path)) as reader:
        if not _print(reader.events(wanted), show):
            _report_none(reader, wanted, path)


def _print(events: Iterable[StoredEvent], show: _Printer) -> int:
    """Print events and return how many."""
    count = 0
    for event in events:
        show(event.values)
        count += 1
    sys.stdout.flush()
    return count


def _printer(*, as_json: bool) -> _Printer:
    return _print_json if as_json or not sys.stdout.isatty() else _print_text


def _print_json(event: Mapping[str, Any]) -> None:
    sys.stdout.write(json.dumps(event, separators=(",", ":")) + "\n")


def _print_text(event: Mapping[str, Any]) -> None:
    length = "" if event["duration_s"] is None else f"{event['duration_s']:.2f} s"
    words = [f"{event['onset_time'] or '':<29}  {event['label']:<14}  {length:>9}"]
    words += [f"{name} {event[name]:.2f}" for name in ("score", "peak") if event[name] is not None]
    words += [_ENDS[event["reason"]]] if event["reason"] in _ENDS else []
    words += ["clock not set"] if event["clock_synced"] is False else []
    words += [event["clip"]] if event["clip"] else []
    print_text("  ".join(words))


def _csv_printer() -> _Printer:
    """Print the heading of the CSV, and return a function that prints a row."""
    from detector.events_db import FIELDS

    writer = csv.DictWriter(sys.stdout, FIELDS, lineterminator="\n")
    writer.writeheader()
    words = {True: "true", False: "false"}

    def show(event: Mapping[str, Any]) -> None:
        writer.writerow({k: words[v] if isinstance(v, bool) else csv_cell(v) for k, v in event.items()})

    return show


def _report_none(reader: EventReader, wanted: Wanted, config: Path | None) -> None:
    """Report that no event was found, and what the database holds."""
    labels = reader.values("label")
    if not labels:
        print_status(f"{reader.path}: holds no events yet")
        return
    asked = [label for label in wanted.labels if label not in labels]
    known = [*labels, *_model_labels(config)] if asked else labels
    near = [suggestion(label, known) for label in asked if label not in known]
    there = [labels] if wanted.labels else []
    there += [reader.values("category")] if wanted.categories else []
    there += [reader.values("source")] if wanted.sources else []
    hints = [f"there are events of {', '.join(names)}" for names in there if names]
    hints += [f"did you mean {found!r}?" for found in near if found]
    print_status("; ".join([f"{reader.path}: no such events", *hints]))


def _model_labels(config: Path | None) -> tuple[str, ...]:
    """Return the labels of the configured model, of which there may be no events yet; none where it cannot be read."""
    from detector.config.loading import load_settings
    from detector.network import load_model

    with contextlib.suppress(DetectorError):  # the events can be read without it
        return load_model(load_settings(config).model.path).manifest.labels
    return ()


def _database(given: Path | None, config: Path | None) -> Path:
    """Return the given file, else that of the configuration, else the default of this user or of the service."""
    if given is not None:
        return given
    from detector.config.loading import load_settings
    from detector.config.paths import database_file

    settings = load_settings(config)
    if settings.database is not None and settings.database.path is not None:
        return settings.database.path
    own = database_file()
    return _SERVICE_DATABASE if not own.is_file() and os.access(_SERVICE_DATABASE, os.R_OK) else own


def _wait_for_events() -> None:
    """Wait until the next query; raises BrokenPipeError if the reader of standard output has closed it."""
    poll = select.poll()
    with contextlib.suppress(io.UnsupportedOperation):
        poll.register(sys.stdout.fileno(), 0)
    if poll.poll(1000 * _POLL_S):
        raise BrokenPipeError
