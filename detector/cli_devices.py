"""The commands about microphones: which there are, and what one hears."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from detector.cli_program import StopOnSignal, Stopped, model_option, print_json, tell

if TYPE_CHECKING:
    from detector.microphone.devices import Device


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def devices(*, as_json: bool) -> None:
    """List the microphones, with ids that stay the same whatever number a card gets.

    The first id of each is what --device and audio.device should name. A device that another program
    holds may be missing.
    """
    from detector.microphone import portaudio
    from detector.microphone.devices import NO_INPUT_ADVICE, rates_of
    from detector.microphone.open_device import list_devices

    with portaudio.quiet():
        found = [(device, rates_of(device, portaudio.takes_rate)) for device in list_devices()]
    if as_json:
        print_json([_facts(device, rates) for device, rates in found])
        return
    if not found:
        tell(f"no input can be opened: {NO_INPUT_ADVICE}")
    for device, rates in found:
        click.echo(f"{device.id}{' (the default)' if device.is_default else ''}")
        if device.is_hardware:
            plural = "" if device.channels == 1 else "s"
            click.echo(f"    {device.name}, {device.channels} channel{plural}, {', '.join(map(str, rates))} Hz")
        else:
            click.echo("    a sound server or plug-in: any rate, any number of channels")
        click.echo(f"    also: {', '.join([*device.ids[1:], str(device.number)])}")


@click.command()
@click.option("--device", default="mic", show_default=True, help="A device as snn-detect devices lists it.")
@model_option
@click.option("--seconds", type=click.FloatRange(min=0, min_open=True), help="How long; left out: until Ctrl-C.")
@click.pass_context
def meter(ctx: click.Context, /, device: str, model: Path | None, seconds: float | None) -> None:
    """Show what a microphone hears: level, clipping, and the highest scores.

    On a terminal the picture moves; elsewhere a line is printed every second.
    """
    with StopOnSignal() as stop:
        from contextlib import closing, suppress

        from rich.console import Console

        from detector.meter import Meter, watch
        from detector.microphone.source import Microphone
        from detector.pipeline import Detector
        from detector.settings import Audio

        detector = Detector.load(model)
        source = Microphone(Audio(device=device), detector.sample_rate_hz)
        with closing(source), suppress(Stopped):  # a signal is the usual end
            watch(Meter(source, detector), Console(), stop, seconds)
        ctx.exit(stop.exit_code)


def _facts(device: Device, rates: list[int]) -> dict[str, Any]:
    return {
        "id": device.id,
        "ids": list(device.ids),
        "number": device.number,
        "name": device.name,
        "channels": device.channels,
        "rate_hz": device.rate_hz,
        "rates_hz": rates,
        "default": device.is_default,
        "hardware": device.is_hardware,
    }
