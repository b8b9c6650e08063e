"""The flow of the recipes in Node-RED itself: ``python -m tests.node_red FOLDER``, where npm has installed Node-RED.

The service detects in the demo scene and publishes to a broker, from which the flow takes each onset; what it
publishes has to be the sentence that the recipes promise.
"""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tests.broker import Broker, Watcher, free_port, program, wait_until
from tests.service import service
from tests.test_recipes import FOLDER
from tests.web_service import scene

SETTINGS: Final = """module.exports = {{
    flowFile: "flows.json", uiHost: "127.0.0.1", uiPort: {port}, httpAdminRoot: false, credentialSecret: false,
    logging: {{console: {{level: "info"}}}},
}};
"""


@contextlib.contextmanager
def node_red(installed: Path, folder: Path, broker: Broker) -> Iterator[None]:
    """Run Node-RED with the flow, on a broker of its own, and wait until the flow has subscribed."""
    nodes = json.loads((FOLDER / "node-red-flow.json").read_text(encoding="utf-8"))
    for node in nodes:
        if node["type"] == "mqtt-broker":
            node |= {"broker": "127.0.0.1", "port": str(broker.port)}
    (folder / "flows.json").write_text(json.dumps(nodes), encoding="utf-8")
    (folder / "settings.js").write_text(SETTINGS.format(port=free_port()), encoding="utf-8")
    script = installed / "node_modules" / "node-red" / "red.js"
    command: list[str | Path] = [program("node"), script, "--userDir", folder, "--settings", folder / "settings.js"]
    log = folder / "node-red.log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
    try:
        wait_until(lambda: "snn-detect/+/+/event" in broker.log, f"the subscription of the flow: {log}")
        yield
    finally:
        process.terminate()
        process.wait(30)


def sentence(installed: Path) -> str:
    """Return the first sentence that the flow publishes while the service plays the scene."""
    with tempfile.TemporaryDirectory(prefix="node-red-") as name:
        folder = Path(name)
        with Broker(folder) as broker, Watcher(broker.port) as watcher, node_red(installed, folder, broker):
            mqtt = f'[mqtt]\nhost = "127.0.0.1"\nport = {broker.port}\ntls = false\n'
            audio = '[audio]\ndevice = "-"\nsource = "studio"\n'
            (folder / "config.toml").write_text(f'node = "home"\n{audio}{mqtt}', encoding="utf-8")
            with service(folder / "config.toml") as child:
                child.play(scene())
                wait_until(lambda: watcher.payloads("home/sounds"), "a sentence of the flow")
            return watcher.payloads("home/sounds")[0]


def main() -> None:
    """Run the flow, and end with an error where its sentence is another one."""
    found = sentence(Path(sys.argv[1]).resolve())
    if not re.fullmatch(r"guitar in studio, score (0\.\d+|1)", found):
        sys.exit(f"the flow publishes another sentence: {found}")
    sys.stdout.write(f"{found}\n")


if __name__ == "__main__":
    main()
