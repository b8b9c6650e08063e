"""The commands ``snn-detect doctor`` and ``snn-detect mqtt``: diagnose the installation, test the brokers."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from detector import __version__
from detector.cli.program import (
    CommandGroup,
    config_option,
    json_option,
    model_option,
    print_json,
    print_text,
    stream_options,
    stream_overrides,
)
from detector.system import printable

if TYPE_CHECKING:
    from rich.console import Console

    from detector.config.settings import Settings
    from detector.doctor.result import CheckResult

_COLOURS: Final = {"ok": "green", "warning": "yellow", "problem": "bold red", "skipped": "dim"}
_STATE_WIDTH: Final = 8
_NAME_WIDTH: Final = 13


@click.command()
@config_option
@click.option("--device", help="A device as snn-detect devices lists it, or a URL, in place of the configuration's.")
@stream_options
@model_option
@json_option
@click.option("--selftest", is_flag=True, help="Also play the demo scene through the whole detector.")
@click.pass_context
def doctor(ctx: click.Context, /, path: Path | None, **options: Any) -> None:
    """Diagnose the installation: report what prevents detection, and what to do about it.

    Checks the configuration, model, microphone, levels, mixer, speed, temperature, power, clock, disks,
    brokers and the service, and records 3 s of sound. Exit code 0: no problem, though there may be
    warnings. Otherwise that of the first problem: 2 configuration or model, 69 microphone, disk or
    broker, 70 failed self-test.
    """
    from detector.doctor.checks import CheckRunner
    from detector.doctor.result import exit_code

    logging.getLogger("detector").addHandler(logging.NullHandler())  # the results contain what it would log
    overrides = {"audio.device": options["device"], "model.path": options["model"], **stream_overrides(options)}
    results = CheckRunner(path, overrides, selftest=options["selftest"]).results()
    if options["as_json"]:
        done = list(results)
        findings = [{"name": r.name, "state": r.state, "found": r.found, "advice": r.advice} for r in done]
        print_json({"v": 1, "version": __version__, "exit_code": exit_code(done), "findings": findings})
    else:
        from rich.console import Console

        done = _shown(results, Console(highlight=False))
    ctx.exit(exit_code(done))


def _shown(results: Iterable[CheckResult], console: Console) -> list[CheckResult]:
    """Print each result as it is found, then how many of them need attention, and return them."""
    from rich.table import Table
    from rich.text import Text

    from detector.doctor.result import counted

    done = []
    for r in results:
        done.append(r)
        line = Table.grid(padding=(0, 1))
        line.add_column(width=_STATE_WIDTH)
        line.add_column(width=_NAME_WIDTH)
        line.add_column(ratio=1, overflow="fold")
        line.add_row(Text(r.state, _COLOURS[r.state]), Text(r.name), Text(printable(r.found)))
        if r.advice:
            line.add_row("", "", Text(printable(f"-> {r.advice}"), "cyan"))
        console.print(line)
    counts = {state: sum(r.state == state for r in done) for state in ("problem", "warning")}
    summary = ", ".join(counted(n, state) for state, n in counts.items() if n) or "all is well"
    console.print(Text(summary, "bold"))
    return done


_UNAVAILABLE = 69
_config_option = click.option(
    "--config", type=click.Path(path_type=Path), help="Configuration file; default: the one that the service reads."
)


@click.group(cls=CommandGroup)
def mqtt() -> None:
    """Test the MQTT brokers of the configuration."""


@mqtt.command()
@_config_option
@json_option
def test(config: Path | None, *, as_json: bool) -> None:
    """Test the connection to each broker.

    The stages are DNS, TCP, TLS, authentication and publishing; exit code 69 if one fails. The service
    may run meanwhile.
    """
    from detector.sinks.mqtt import broker_password
    from detector.sinks.mqtt_visits import test_connection

    settings = _load(config)
    found = [(b, test_connection(b, settings.node, broker_password(b))) for b in settings.mqtt]
    if as_json:
        print_json(
            [{"host": b.host, "port": b.port, "stages": [*map(dataclasses.asdict, stages)]} for b, stages in found]
        )
    else:
        for broker, stages in found:
            click.echo(f"{broker.host}:{broker.port}")
            for stage in stages:
                print_text(f"  {stage.name:<8} {'ok' if stage.ok else 'failed':<7} {stage.text}")
    if not all(stage.ok for _, stages in found for stage in stages):
        raise click.exceptions.Exit(_UNAVAILABLE)


@mqtt.command()
@_config_option
def purge(config: Path | None) -> None:
    """Delete this machine's retained messages.

    This also removes its device from Home Assistant. Stop the service first.
    """
    from detector.sinks.mqtt import broker_password
    from detector.sinks.mqtt_visits import purge as delete_retained

    settings = _load(config)
    for broker in settings.mqtt:
        done = delete_retained(broker, settings.node, broker_password(broker))
        click.echo(f"{broker.host}:{broker.port}: {len(done.topics)} retained messages deleted")
        if done.was_online:
            click.echo(f"{broker.host}:{broker.port}: the service was online, and will publish them again", err=True)


def _load(config: Path | None) -> Settings:
    """Return the settings; raises ConfigError if they name no broker."""
    from detector.config.loading import load_settings
    from detector.errors import ConfigError

    settings = load_settings(config)
    if not settings.mqtt:
        raise ConfigError("the configuration has no [mqtt] section")
    return settings
