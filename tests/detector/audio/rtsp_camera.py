"""An RTSP camera made of GStreamer, a program of its own: the system's Python has GStreamer's bindings.

Argument: a JSON object with ``port``, ``launch`` (a pipeline with payloaders pay0, pay1, ...), and ``user`` and
``password`` where they are asked for, with ``digest`` for that method. Each request of a client is a line of JSON.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtsp", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtsp, GstRtspServer  # noqa: E402 - behind the versions

_METHODS = ("options", "describe", "setup", "play", "teardown")


def report(**values: Any) -> None:
    sys.stdout.write(json.dumps(values) + "\n")
    sys.stdout.flush()


def on_client(_server: Any, client: Any) -> None:
    def on_request(_client: Any, context: Any, method: str) -> None:
        report(request=method, uri=context.uri.get_request_uri() if context.uri else "")

    for method in _METHODS:
        client.connect(f"{method}-request", on_request, method)


def require_password(server: Any, factory: Any, options: dict[str, Any]) -> None:
    auth, token = GstRtspServer.RTSPAuth(), GstRtspServer.RTSPToken()
    token.set_string("media.factory.role", "user")
    if options.get("digest"):
        auth.set_supported_methods(GstRtsp.RTSPAuthMethod.DIGEST)
        auth.add_digest(options["user"], options["password"], token)
    else:
        auth.add_basic(GstRtspServer.RTSPAuth.make_basic(options["user"], options["password"]), token)
    server.set_auth(auth)
    permissions = GstRtspServer.RTSPPermissions()
    for permission in ("access", "construct"):
        permissions.add_permission_for_role("user", f"media.factory.{permission}", True)
    factory.set_permissions(permissions)


def main() -> None:
    options = json.loads(sys.argv[1])
    Gst.init(None)
    server, factory = GstRtspServer.RTSPServer(), GstRtspServer.RTSPMediaFactory()
    server.set_address("127.0.0.1")
    server.set_service(str(options["port"]))
    factory.set_launch(options["launch"])
    factory.set_shared(True)
    server.get_mount_points().add_factory("/cam", factory)
    if "user" in options:
        require_password(server, factory, options)
    server.connect("client-connected", on_client)
    if not server.attach(None):
        raise SystemExit("the port is in use")
    report(ready=True)
    GLib.MainLoop().run()


main()
