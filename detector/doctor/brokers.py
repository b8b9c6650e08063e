"""The MQTT brokers: each one tried from its name to a message that comes back."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from detector.addresses import token_required
from detector.credentials import broker_password
from detector.doctor.finding import SETTINGS, UNAVAILABLE, Finding, ok, problem, skipped, warning
from detector.doctor.roots import Roots
from detector.errors import ConfigError
from detector.settings import Mqtt, Settings
from detector.sinks.mqtt_check import test_connection

BROKER: Final = "broker"
_OF_UNIT: Final = "snn-detect/mqtt.password"
_BROKER_ADVICE: Final = {
    "DNS": "mend mqtt.host, or the machine's name server; an address works without one",
    "TCP": "is the broker running, is mqtt.port right, and does no firewall stand between",
    "TLS": "mend mqtt.tls, mqtt.ca_file or the certificates; the machine's clock counts too",
    "auth": "mend mqtt.username and the password; the broker's log says more",
    "publish": "allow this user to read and write the topics below mqtt.prefix",
}


def check_brokers(settings: Settings, roots: Roots) -> list[Finding]:
    """Try each broker; the service may run meanwhile."""
    found = [_try(broker, settings.node, roots) for broker in settings.mqtt]
    return found or [skipped(BROKER, "the settings name none")]


def _try(broker: Mqtt, node: str, roots: Roots) -> Finding:
    name = f"{BROKER} {broker.host}:{broker.port}"
    try:
        password = broker_password(broker, Path(roots.etc, _OF_UNIT))
        stages = test_connection(broker, node, password)
    except ConfigError as error:
        return problem(name, str(error), "mend the section [[mqtt]]", SETTINGS)
    last = stages[-1]
    if not last.ok:
        advice = _BROKER_ADVICE.get(last.name, "snn-detect mqtt test tries again")
        if last.name == "auth" and broker.username and password is None:
            advice = f"no password was found here; the service gets it from /etc/{_OF_UNIT}, which root may read"
        return problem(name, f"{last.name}: {last.text}", advice, UNAVAILABLE)
    found = "; ".join(f"{stage.name}: {stage.text}" for stage in stages)
    if broker.username and not broker.tls and token_required(f"{_host(broker)}:{broker.port}"):
        return warning(name, found, "set mqtt.tls = true, with the port that the broker has for it (8883)")
    return ok(name, found)


def _host(broker: Mqtt) -> str:
    return f"[{broker.host}]" if ":" in broker.host else broker.host
