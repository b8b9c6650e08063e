"""The commands ``snn-detect mqtt``: test the brokers, delete retained messages."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import click

from detector.cli.program import json_option, print_json, print_text

if TYPE_CHECKING:
    from detector.config.settings import Settings

_UNAVAILABLE = 69
_config_option = click.option(
    "--config", type=click.Path(path_type=Path), help="Configuration file; default: the one that the service reads."
)


@click.group()
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
    from detector.sinks.mqtt_client import test_connection

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
    from detector.sinks.mqtt_client import purge as delete_retained

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
