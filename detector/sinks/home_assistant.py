"""Discovery for Home Assistant: one device with all its entities."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any, Final

from detector.errors import ConfigError
from detector.manifest import Sensitivity
from detector.sinks.base import NodeInfo
from detector.sinks.mqtt_topics import PROBLEM, Message, Topics, class_ids

BIRTH_TOPIC: Final = "homeassistant/status"
BIRTH_PAYLOAD: Final = "online"
_EXPIRY_S: Final = 180
_MAX_MISSED: Final = 3
"""Levels that may be missing before the level is unknown."""


@dataclass(frozen=True, slots=True)
class Discovery:
    """The announcement of one node with its sources."""

    prefix: str
    node_infos: tuple[NodeInfo, ...]
    topics: Topics
    """Those of the first source."""
    level_interval_s: float
    switch: bool
    """Whether listening can be turned off."""
    sensitivities: tuple[Sensitivity, ...] = ()
    """Operating points of the model to choose from; empty where none can be chosen."""
    area: str | None = None
    """The area that is suggested for the device."""
    page_url: str | None = None
    """Address of the page."""

    @property
    def topic(self) -> str:
        """The topic of the announcement."""
        return config_topic(self.prefix, self.topics.node)

    @property
    def birth_topics(self) -> tuple[str, ...]:
        """The topics on which Home Assistant reports that it has started."""
        return tuple(dict.fromkeys((BIRTH_TOPIC, f"{self.prefix}/status")))

    def messages(self, before: bytes = b"") -> list[Message]:
        """Return the announcement, and before it one that removes entities that only an earlier one had.

        ``before`` is that earlier announcement. Home Assistant removes an entity that is announced with nothing but
        its platform; one that is merely left out stays, as unavailable.
        """
        config = self._config()
        removed = _removed(before, config["cmps"])
        message = self._message(config)
        if not removed:
            return [message]
        ghosts = {name: {"p": component["p"]} for name, component in removed.items()}
        step = self._message(config | {"cmps": config["cmps"] | ghosts})
        return [step, message, *self._emptied(removed)]

    def leaves_ghosts(self, before: bytes) -> bool:
        """Return whether an earlier announcement had entities that this one lacks."""
        return bool(_removed(before, self._components()))

    def _message(self, config: dict[str, Any]) -> Message:
        return Message(self.topic, json.dumps(config, separators=(",", ":")), retain=True)

    def _emptied(self, removed: dict[str, dict[str, Any]]) -> list[Message]:
        """Delete the retained topics of removed entities, as far as they are this node's."""
        topics = (c.get(key) for c in removed.values() for key in ("state_topic", "json_attributes_topic"))
        return [Message(t, "", retain=True) for t in topics if isinstance(t, str) and self._is_own(t)]

    def _is_own(self, topic: str) -> bool:
        wild = "+" in topic or "#" in topic
        return topic.startswith(f"{self.topics.base}/") and not wild and topic != self.topics.status

    def _config(self) -> dict[str, Any]:
        node, version = self.topics.node, self.node_infos[0].version
        more = {"sa": self.area, "cu": self.page_url}
        return {
            "dev": {
                "ids": [_device(node)],
                "name": f"SNN detect {node}",
                "mf": "snn-detect",
                "mdl": "conv-SNN",
                "sw": version,
                **{key: value for key, value in more.items() if value is not None},
            },
            "o": {"name": "snn-detect", "sw": version},
            "availability": self._availability(self.topics)[: 1 if self._has_several else 2],
            "availability_mode": "all",
            "qos": 1,
            "cmps": self._components(),
        }

    @property
    def _has_several(self) -> bool:
        return len(self.node_infos) > 1

    def _availability(self, topics: Topics) -> list[dict[str, str]]:
        """Return what has to be online for a source's entities to be available."""
        return [{"topic": topics.status}, {"topic": topics.source_status}]

    def _components(self) -> dict[str, dict[str, Any]]:
        rest: dict[str, dict[str, Any]] = {}
        for info in self.node_infos:
            own = self._of_source(info, replace(self.topics, source=info.source))
            if twice := own.keys() & rest.keys():
                raise ConfigError(
                    f"the source {info.source} would share entities with another one: rename it ({min(twice)})"
                )
            rest |= own
        rest |= {"status": self._status()} | ({"listening": self._listening()} if self.switch else {})
        return rest | ({"sensitivity": self._sensitivity()} if self.sensitivities else {})

    def _of_source(self, info: NodeInfo, topics: Topics) -> dict[str, dict[str, Any]]:
        """Return the entities of a source; with several, each of them is available with its own source."""
        own = {}
        if self._has_several:
            own = {"availability": self._availability(topics), "availability_mode": "all"}
        sounds = {
            f"{info.source}_{class_id}": self._sound(info, topics, label, class_id) | own
            for label, class_id in class_ids(label for label, _ in info.classes).items()
        }
        rest = {f"{info.source}_event": self._event(info, topics) | own}
        rest |= {f"{info.source}_level": self._level(info, topics) | own}
        return sounds | rest | {f"{info.source}_{PROBLEM}": self._problem(info, topics)}

    def _of(self, info: NodeInfo, platform: str, key: str, name: str) -> dict[str, Any]:
        """Return what an entity of a source begins with; with several, its name begins with that of the source."""
        if self._has_several:
            name = f"{_name(info.source)} {name[:1].lower()}{name[1:]}"
        return self._entity(platform, f"{info.source}_{key}", name)

    def _sound(self, info: NodeInfo, topics: Topics, label: str, class_id: str) -> dict[str, Any]:
        return self._of(info, "binary_sensor", class_id, _name(label)) | {
            "device_class": "sound",
            "state_topic": topics.state(class_id),
            "json_attributes_topic": topics.attributes(class_id),
        }

    def _event(self, info: NodeInfo, topics: Topics) -> dict[str, Any]:
        return self._of(info, "event", "event", "Sound event") | {
            "state_topic": topics.event,
            "event_types": [label for label, _ in info.classes],
            "icon": "mdi:ear-hearing",
        }

    def _level(self, info: NodeInfo, topics: Topics) -> dict[str, Any]:
        return self._of(info, "sensor", "level", "Level") | {
            "unit_of_measurement": "dB",
            "state_class": "measurement",
            "entity_category": "diagnostic",
            "expire_after": max(_EXPIRY_S, round(_MAX_MISSED * self.level_interval_s)),
            "state_topic": topics.level,
            "value_template": "{{ value_json.rms_dbfs }}",
        }

    def _problem(self, info: NodeInfo, topics: Topics) -> dict[str, Any]:
        """Return the entity that is on while the source is absent, silent or distorted; it is available without one."""
        return self._of(info, "binary_sensor", PROBLEM, "Problem") | {
            "device_class": "problem",
            "entity_category": "diagnostic",
            "state_topic": topics.state(PROBLEM),
            "json_attributes_topic": topics.attributes(PROBLEM),
            "availability": [{"topic": topics.status}],
        }

    def _status(self) -> dict[str, Any]:
        """Return the entity for whether the service runs, which has to be available when it does not."""
        return self._entity("binary_sensor", "status", "Status") | {
            "device_class": "connectivity",
            "entity_category": "diagnostic",
            "state_topic": self.topics.status,
            "payload_on": "online",
            "payload_off": "offline",
            "availability": [],
        }

    def _listening(self) -> dict[str, Any]:
        return self._entity("switch", "listening", "Listening") | {
            "icon": "mdi:microphone",
            "state_topic": self.topics.listening_state,
            "command_topic": self.topics.listening_set,
            "availability": [{"topic": self.topics.status}],
        }

    def _sensitivity(self) -> dict[str, Any]:
        return self._entity("select", "sensitivity", "Sensitivity") | {
            "icon": "mdi:tune-vertical",
            "entity_category": "config",
            "options": list(self.sensitivities),
            "state_topic": self.topics.sensitivity_state,
            "command_topic": self.topics.sensitivity_set,
            "availability": [{"topic": self.topics.status}],
        }

    def _entity(self, platform: str, key: str, name: str) -> dict[str, Any]:
        return {
            "p": platform,
            "unique_id": f"{_device(self.topics.node)}_{key}",
            "default_entity_id": f"{platform}.{self.topics.node}_{key}".lower().replace("-", "_"),
            "name": name,
        }


def config_topic(prefix: str, node: str) -> str:
    """Return the topic of a machine's announcement."""
    return f"{prefix}/device/{_device(node)}/config"


def _device(node: str) -> str:
    return f"snn_detect_{node}"


def _name(label: str) -> str:
    words = label.replace("_", " ").strip()
    return words[:1].upper() + words[1:]


def _removed(before: bytes, components: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the components of an earlier announcement that are no longer present; none where it is invalid."""
    try:
        earlier = json.loads(before)["cmps"].items()
    except (ValueError, TypeError, KeyError, AttributeError):
        return {}
    return {name: c for name, c in earlier if name not in components and isinstance(c, dict) and "p" in c}
