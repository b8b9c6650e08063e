#!/usr/bin/env bash
# Expected: where TLS with a broker fails, paho closes the connection before it waits for its next attempt.
# Happens: paho-mqtt 2.1.0 waits within the handler of the exception, whose frames hold the socket: the connection stays
#   open during the pause, which is up to two minutes by default, and is then left to the collector (ResourceWarning).
# Source: seen by this script; Client.loop_forever ("except OSError: ... self._reconnect_wait()"), _ssl_wrap_socket.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=other -keyout "$work/key.pem" -out "$work/cert.pem" 2>/dev/null
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -qq --disable-pip-version-check paho-mqtt==2.1.0
cd "$work"
"$work/venv/bin/python" - <<'PY'
import contextlib
import os
import socket
import ssl
import threading
import time
from importlib.metadata import version

from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion

context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain("cert.pem", "key.pem")


def serve(server: socket.socket) -> None:
    while True:
        connection, _ = server.accept()
        with contextlib.suppress(OSError):
            context.wrap_socket(connection, server_side=True).close()
        connection.close()


def sockets() -> int:
    count = 0
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            count += os.readlink(f"/proc/self/fd/{name}").startswith("socket:")
    return count


print("paho-mqtt", version("paho-mqtt"))
with socket.create_server(("127.0.0.1", 0)) as server:
    threading.Thread(target=serve, args=(server,), daemon=True).start()
    client = Client(CallbackAPIVersion.VERSION2)
    client.tls_set()
    failed = threading.Event()
    client.on_connect_fail = lambda *_: failed.set()
    client.reconnect_delay_set(60, 60)
    client.connect_async("127.0.0.1", server.getsockname()[1])
    before = sockets()
    client.loop_start()
    failed.wait(30)
    time.sleep(2)
    held = sockets() - before - 2  # without the pair of sockets of paho's thread
    print(f"2 s after TLS has failed, in the pause before the next attempt: {held} connection(s) still open")
if held != 1:
    raise SystemExit("  changed: expected 1")
PY
