"""The commands ``snn-detect doctor`` and ``snn-detect mqtt``: diagnose the installation; brokers and their nodes."""

from __future__ import annotations

import dataclasses
import logging
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from detector import __version__
from detector.cli.program import (
    CommandGroup,
    config_option,
    json_option,
    model_option,
    print_error,
    print_json,
    print_status,
    print_text,
    stream_options,
    stream_overrides,
)
from detector.cli.program import (
    options as add_options,
)
from detector.errors import BrokerError, ConfigError
from detector.system import printable

if TYPE_CHECKING:
    from rich.console import Console

    from detector.config.settings import Settings
    from detector.doctor.result import CheckResult
    from detector.sinks.mqtt import Mqtt
    from detector.sinks.mqtt_visits import Node, Nodes

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


_NODE: Final = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_file = click.Path(path_type=Path, dir_okay=False)
_broker_options = add_options(
    click.option(
        "--config", type=click.Path(path_type=Path), help="Configuration file; default: the one that the service reads."
    ),
    click.option("--host", help="Broker, in place of those of the configuration, which is not read then."),
    click.option("--port", type=click.IntRange(1, 65535), help="Its port.  [default: 1883, with TLS 8883]"),
    click.option("--username", help="User name."),
    click.option("--password-file", type=_file, help="File whose first line is the password."),
    click.option("--tls", is_flag=True, default=None, help="Use TLS."),
    click.option("--ca-file", type=_file, help="Certificates to trust, where they are not the system's."),
    click.option("--certificate-file", type=_file, help="Certificate of this machine, with --key-file."),
    click.option("--key-file", type=_file, help="Private key of that certificate."),
    click.option("--prefix", help="First part of all topics.  [default: snn-detect]"),
)


@click.group(cls=CommandGroup)
def mqtt() -> None:
    """Test MQTT brokers, list the nodes on them, and delete what a node has left.

    The brokers are those of the configuration, or the one that options name. A node is a machine's service with all
    its sources.
    """


@mqtt.command()
@_broker_options
@json_option
def test(*, as_json: bool, **given: Any) -> None:
    """Test the connection to each broker.

    The stages are DNS, TCP, TLS, authentication and publishing; exit code 69 if one fails. The service
    may run meanwhile.
    """
    from detector.sinks.mqtt import broker_password
    from detector.sinks.mqtt_visits import test_connection

    settings = _load(given)
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
        raise click.exceptions.Exit(BrokerError.exit_code)


@mqtt.command("list")
@_broker_options
@json_option
@click.pass_context
def list_command(ctx: click.Context, /, *, as_json: bool, **given: Any) -> None:
    """List the nodes on each broker: state, versions, sources, and when they were last seen.

    Each that the broker says to be online is asked to answer; one that does not within 3 s is shown so: it ended
    without its last will, or this user may not publish on its topics. At most 1000 are listed; exit code 69 where a
    broker cannot be reached.
    """
    from detector.sinks.mqtt import broker_password
    from detector.sinks.mqtt_visits import list_nodes

    found: list[tuple[Mqtt, Nodes]] = []
    brokers = _load(given).mqtt
    for broker in brokers:
        try:
            found.append((broker, list_nodes(broker, broker_password(broker))))
        except BrokerError as error:
            print_error(error)
    if as_json:
        print_json([_as_json(broker, nodes) for broker, nodes in found])
    else:
        for broker, nodes in found:
            print_text("\n".join(_table(broker, nodes.found)))
    for broker, nodes in found:
        if not nodes.is_complete:
            print_status(f"{broker.host}:{broker.port}: holds more than can be listed; these are not all")
    ctx.exit(0 if len(found) == len(brokers) else BrokerError.exit_code)


def _as_json(broker: Mqtt, nodes: Nodes) -> dict[str, Any]:
    head = {"v": 1, "host": broker.host, "port": broker.port, "prefix": broker.prefix, "complete": nodes.is_complete}
    # What a node has not said is null.
    return head | {
        "nodes": [{k: None if v == "" else v for k, v in dataclasses.asdict(n).items()} for n in nodes.found]
    }


def _table(broker: Mqtt, nodes: Sequence[Node]) -> list[str]:
    """Return the lines of a table, whose columns are as wide as they have to be."""
    head = f"{broker.host}:{broker.port}"
    if not nodes:
        return [f"{head}: no nodes below {broker.prefix}"]
    rows = [("node", "state", "version", "last seen", "model", "sources")]
    for n in nodes:
        sources = ", ".join(name if state == "online" else f"{name} ({state})" for name, state in n.sources.items())
        rows.append((n.node, n.state, n.version or "-", n.last_seen or "-", n.model or "-", sources or "-"))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    cells = [[cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in rows]
    return [head, *(f"  {'  '.join(row)}".rstrip() for row in cells)]


def _check_node(_ctx: click.Context, _param: click.Parameter, name: str | None) -> str | None:
    if name is not None and not _NODE.fullmatch(name):
        raise click.BadParameter(f"{name!r} is no name of a node: letters, digits, _ and -, at most 64")
    return name


@mqtt.command()
@click.argument("node", required=False, callback=_check_node)
@_broker_options
@click.option("--discovery-prefix", help="First part of the topics of discovery.  [default: homeassistant]")
def purge(*, node: str | None, **given: Any) -> None:
    """Delete the retained messages of a node that is gone; default: this machine's.

    This also removes its device from Home Assistant. Stop its service first. `mqtt list` names the nodes.
    """
    from detector.sinks.mqtt import broker_password
    from detector.sinks.mqtt_visits import purge as delete_retained

    settings = _load(given)
    count = 0
    for broker in settings.mqtt:
        where = f"{broker.host}:{broker.port}"
        done = delete_retained(broker, node or settings.node, broker_password(broker))
        count += len(done.topics)
        click.echo(f"{where}: {len(done.topics)} retained messages deleted")
        if done.was_online:
            click.echo(f"{where}: the service was online, and will publish them again", err=True)
        if not done.is_complete:
            print_status(f"{where}: there is more than is deleted at once; run it again")
    if node is not None and not count:
        raise ConfigError(f"no broker holds anything of a node {node!r}; snn-detect mqtt list shows the nodes")


def _load(given: dict[str, Any]) -> Settings:
    """Return the settings, with one broker from the options where they name it.

    The password of the configuration is for its brokers alone. Raises ConfigError where no broker is named.
    """
    from detector.config.loading import load_settings, settings_of

    config = given.pop("config")
    overrides = {f"mqtt.{name}": str(v) if isinstance(v, Path) else v for name, v in given.items()}
    if given["host"] is not None:
        if config is not None:
            raise click.UsageError("--host names another broker than --config: give one of them.")
        return settings_of(overrides)
    settings = load_settings(config)
    if not settings.mqtt:
        raise ConfigError("the configuration has no [mqtt] section; --host names a broker without one")
    return load_settings(config, overrides) if any(v is not None for v in overrides.values()) else settings
