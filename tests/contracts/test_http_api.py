"""The page and its API: paths, answers, what is asked of a client, the stream, the description."""

from __future__ import annotations

import re
from typing import Any

import httpx

from tests.contracts.live import TOKEN, Live
from tests.contracts.snapshots import check, shape
from tests.service import wait_until

NO_ID = "00000000-0000-4000-8000-000000000000"
VOLATILE = {"content-length", "date", "etag", "server"}


def guitar(client: httpx.Client) -> dict[str, Any]:
    """Return an event that is over and has a clip."""
    events = client.get("/api/events", params={"label": "guitar"}).json()["events"]
    found: dict[str, Any] = next(event for event in events if event["clip"])
    return found


def test_status_codes(running: Live) -> None:
    client, event = running.client, guitar(running.client)
    requests: list[tuple[str, str, dict[str, str]]] = [
        ("GET", "/", {}),
        ("GET", "/api/health", {}),
        ("HEAD", "/api/health", {}),
        ("POST", "/api/health", {}),
        ("GET", "/api/health?unknown=1", {}),
        ("GET", "/api/model", {}),
        ("GET", "/api/events", {}),
        ("GET", "/api/events?label=guitar&category=music&limit=1", {}),
        ("GET", "/api/events?since=2026-01-01T00:00:00%2B01:00&until=2026-01-02T00:00:00Z", {}),
        ("GET", "/api/events?lable=guitar", {}),
        ("GET", "/api/events?limit=0", {}),
        ("GET", "/api/events?limit=5001", {}),
        ("GET", "/api/events?since=yesterday", {}),
        ("GET", "/api/events?label=", {}),
        ("GET", "/api/events/{id}", {}),
        ("GET", f"/api/events/{NO_ID}", {}),
        ("GET", "/api/events/no-id", {}),
        ("GET", "/api/events/{id}/picture", {}),
        ("GET", f"/api/events/{NO_ID}/picture", {}),
        ("GET", "/api/events/{id}/clip", {}),
        ("GET", "/api/events/{id}/clip", {"Range": "bytes=0-99"}),
        ("GET", f"/api/events/{NO_ID}/clip", {}),
        ("GET", "/api/openapi.json", {}),
        ("GET", "/api/nothing", {}),
        ("GET", "/nothing", {}),
        ("GET", "/api/health", {"Host": "rebinding.example"}),
        ("GET", "/api/health", {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "cors"}),
    ]
    lines = []
    for method, path, headers in requests:
        answer = client.request(method, path.replace("{id}", event["id"]), headers=headers)
        kind = answer.headers.get("content-type", "-")
        shown = "".join(f" [{key}: {value}]" for key, value in headers.items())
        lines.append(f"{answer.status_code} {kind:31} {method} {path}{shown}")
        if answer.status_code >= 400 and kind == "application/json" and method != "HEAD":
            assert list(answer.json()) == ["error"], path
    check("http-status-codes.txt", "\n".join(lines))


def test_who_is_let_in(running: Live) -> None:
    base = str(running.client.base_url)
    with httpx.Client(base_url=base, timeout=60) as client:
        refused = client.get("/api/health")
        assert (refused.status_code, refused.headers["www-authenticate"]) == (401, 'Bearer realm="snn-detect"')
        assert client.get("/api/health", headers={"Authorization": "Bearer wrong"}).status_code == 401
        to_log_in = client.get("/")
        assert (to_log_in.status_code, to_log_in.headers["location"]) == (303, "login")
        for path in ("/login", "/style.css", "/login.js", "/icon.svg"):
            assert client.get(path).status_code == 200, path
        wrong = client.post("/login", data={"token": "wrong"})
        assert (wrong.status_code, wrong.headers["location"]) == (303, "login?wrong=1")
        right = client.post("/login", data={"token": TOKEN})
        assert (right.status_code, right.headers["location"]) == (303, "./")
        name, attributes = right.headers["set-cookie"].split("=", 1)
        assert name == "snn_detect"
        assert TOKEN not in attributes
        assert sorted(a.strip().lower() for a in attributes.split(";")[1:]) == [
            "httponly",
            "max-age=31536000",
            "samesite=strict",
        ]
        assert client.get("/api/health").status_code == 200
    with httpx.Client(base_url=base, timeout=60) as client:
        by_address = client.get("/", params={"token": TOKEN})
        assert (by_address.status_code, by_address.headers["location"]) == (303, "./")
        assert client.get("/api/health").status_code == 200


def test_answers(running: Live) -> None:
    client = running.client
    wait_until(lambda: client.get("/api/health").json()["operations"], "operations of the layers")
    event = guitar(client)
    picture = client.get(event["picture"]).json()
    found = {
        "/api/health": shape(client.get("/api/health").json(), "temperature_c", "under_voltage", "sinks"),
        "/api/model": shape(client.get("/api/model").json()),
        "/api/events": shape(client.get("/api/events", params={"limit": 1}).json(), "clip", "picture"),
        "/api/events/{id}": shape(event),
        "/api/events/{id}/picture": shape(picture),
    }
    check("http-answers.json", found)
    assert event["clip"] == f"/api/events/{event['id']}/clip"
    assert event["picture"] == f"/api/events/{event['id']}/picture"


def test_the_stream(running: Live) -> None:
    first = running.stream.first
    assert first["content-type"] == "text/event-stream; charset=utf-8"
    assert first.keys() >= {"frames", "state", *(f"record {kind}" for kind in ("onset", "offset", "health", "clip"))}
    check("http-stream-frames.json", shape(first["frames"]))
    assert first["state"].keys() == running.client.get("/api/health").json().keys()
    written = running.lines()
    assert [name for name, record in first.items() if name.startswith("record ") and record not in written] == []


def test_the_page(running: Live) -> None:
    page = running.client.get("/")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    parts = sorted(set(re.findall(r'(?:src|href)="(/?[\w./-]+)"', page.text)))
    assert len(parts) >= 3
    assert [p for p in parts if running.client.get("/" + p.lstrip("/")).status_code != 200] == []
    headers = {k: v for k, v in sorted(page.headers.items()) if k not in VOLATILE}
    check("http-headers-of-the-page.json", headers)
    assert running.client.get("/", headers={"If-None-Match": page.headers["etag"]}).status_code == 304


class Description:
    """The OpenAPI document without prose: every schema in its place."""

    def __init__(self, document: dict[str, Any]) -> None:
        self.document = document

    def operations(self) -> dict[str, Any]:
        """Return what each path takes and answers."""
        return {
            f"{method.upper()} {path}": {
                "parameters": {p["name"]: self._parameter(p) for p in operation.get("parameters", ())},
                "answers": {code: self._answer(a) for code, a in sorted(operation["responses"].items())},
            }
            for path, methods in sorted(self.document["paths"].items())
            for method, operation in methods.items()
        }

    def _parameter(self, parameter: dict[str, Any]) -> str:
        required = ", required" if parameter.get("required") else ""
        return f"in {parameter['in']}: {self._schema(parameter['schema'])}{required}"

    def _answer(self, answer: dict[str, Any]) -> Any:
        content = answer.get("content", {}).items()
        return {kind: self._schema(body.get("schema", {})) for kind, body in content}

    def _schema(self, schema: dict[str, Any]) -> Any:
        if "$ref" in schema:
            return self._schema(self.document["components"]["schemas"][schema["$ref"].rpartition("/")[2]])
        if "anyOf" in schema:
            return self._either([self._schema(choice) for choice in schema["anyOf"]])
        return self._table(schema) or self._plain(schema)

    def _table(self, schema: dict[str, Any]) -> Any:
        """Return an object or a list; None where it is neither."""
        if "properties" in schema:
            assert set(schema.get("required", ())) == set(schema["properties"]), "all keys are always there"
            return {name: self._schema(value) for name, value in sorted(schema["properties"].items())}
        if "items" in schema:
            return [self._schema(schema["items"])]
        if isinstance(schema.get("additionalProperties"), dict):
            return {"<name>": self._schema(schema["additionalProperties"])}
        return None

    def _plain(self, schema: dict[str, Any]) -> Any:
        if "enum" in schema:
            return f"one of {'|'.join(map(str, schema['enum']))}"
        kinds = schema.get("type", "any")
        return kinds if isinstance(kinds, str) else self._either(kinds)

    @staticmethod
    def _either(choices: list[Any]) -> Any:
        plain = [choice for choice in choices if isinstance(choice, str)]
        if len(plain) == len(choices):
            return " or ".join(sorted(plain, key=lambda kind: (kind == "null", kind)))
        return {"either": choices}


def test_the_description(running: Live) -> None:
    document = running.client.get("/api/openapi.json").json()
    assert document["openapi"].startswith("3.1")
    check("http-openapi.json", Description(document).operations())
    schemes = document["components"]["securitySchemes"].values()
    assert sorted(scheme["type"] for scheme in schemes) == ["apiKey", "http"]
