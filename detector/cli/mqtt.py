"""The commands ``snn-detect mqtt``: test the brokers, delete what this machine left there."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import click

from detector.cli.program import print_json

if TYPE_CHECKING:
    from detector.config.settings import Settings
    from detector.sinks.mqtt_check import Stage

_UNAVAILABLE = 69
_config_option = click.option(
    "--config", type=click.Path(path_type=Path), help="Configuration file; default: the one that the service reads."
)


@click.group()
def mqtt() -> None:
    """Test the MQTT brokers of the configuration."""


@mqtt.command()
@_config_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def test(config: Path | None, *, as_json: bool) -> None:
    """Try each broker: name, TCP, TLS, log-in, publishing; exit code 69 where one fails. The service may run."""
    from detector.sinks.mqtt import broker_password
    from detector.sinks.mqtt_check import test_connection

    settings = _load(config)
    found = [(b, test_connection(b, settings.node, broker_password(b))) for b in settings.mqtt]
    if as_json:
        print_json([{"host": b.host, "port": b.port, "stages": [_as_json(s) for s in stages]} for b, stages in found])
    else:
        for broker, stages in found:
            click.echo(f"{broker.host}:{broker.port}")
            for stage in stages:
                click.echo(f"  {stage.name:<8} {'ok' if stage.ok else 'failed':<7} {stage.text}")
    if not all(stage.ok for _, stages in found for stage in stages):
        raise click.exceptions.Exit(_UNAVAILABLE)


@mqtt.command()
@_config_option
def purge(config: Path | None) -> None:
    """Remove this machine from each broker and from Home Assistant; stop the service first."""
    from detector.sinks.mqtt import broker_password
    from detector.sinks.mqtt_check import purge as purge_broker

    settings = _load(config)
    for broker in settings.mqtt:
        done = purge_broker(broker, settings.node, broker_password(broker))
        click.echo(f"{broker.host}:{broker.port}: {len(done.topics)} retained messages deleted")
        if done.was_online:
            click.echo(f"{broker.host}:{broker.port}: the service was online, and will publish them again", err=True)


def _load(config: Path | None) -> Settings:
    """Return the settings; raises ConfigError where they name no broker."""
    from detector.config.loading import load_settings
    from detector.errors import ConfigError

    settings = load_settings(config)
    if not settings.mqtt:
        raise ConfigError("the configuration has no [mqtt] section")
    return settings


def _as_json(stage: Stage) -> dict[str, object]:
    return dataclasses.asdict(stage)
