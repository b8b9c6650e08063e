"""The page and its JSON API as an ASGI application, and the server that runs it.

FastAPI checks requests and describes the API by the dataclasses of ``detector.web.schema``. Its own pages of
documentation are off: they would load scripts from another server.
"""

from __future__ import annotations

import asyncio
import copy
import gzip
import hashlib
import logging
import math
import re
import socket
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from datetime import datetime
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Final
from uuid import UUID

import h11
import uvicorn
from anyio.to_thread import current_default_thread_limiter
from fastapi import FastAPI
from fastapi import Path as PathParameter
from fastapi import Query as QueryParameters
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationInfo, model_validator
from pydantic.json_schema import SkipJsonSchema
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from detector import __version__
from detector.errors import ConfigError, DetectorError
from detector.events_db import Wanted
from detector.system import BoundedListener, client_bound
from detector.web.auth import COOKIE, AuthMiddleware
from detector.web.events import Events, SourceView, as_json
from detector.web.schema import Error, Event, EventList, Health, Model, Picture
from detector.web.stream import Broadcaster, Viewer

_STOP_S: Final = 0.5
_USER_TIMEOUT_MS: Final = 30_000
"""A connection whose client acknowledges nothing for so long is closed."""
_SEND_BYTES: Final = 65_536
_BACKLOG: Final = 256
_MAX_CONNECTIONS: Final = 128
"""Beyond it, the connection is closed that has waited longest for its request."""
_SURPLUS: Final = 32
"""Connections beyond that bound that may be open until they are closed."""
_REQUEST_S: Final = 15.0
"""A connection without a whole request for so long is closed, whether nothing or a little of it comes."""
_MAX_THREADS: Final = 4
"""Requests that are answered at the same time; others wait."""
MAX_EVENTS: Final = 5000
Exposition = Callable[[str], tuple[bytes, str]]
"""Takes what a client accepts and returns the metrics and their content type."""
_DEFAULT_EVENTS: Final = 500
_MAX_LABEL: Final = 64
_STATE_TIMEOUT_S: Final = 1.5
_KEEP_ALIVE_S: Final = 15.0
_MEDIA_TYPES: Final = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_NO_TELEMETRY: Final[Any] = {"auto_configure": False, "tracing": False, "metrics": False, "logs": False}
"""FastAPI would send traces and metrics where an environment variable says so; versions that cannot ignore this."""
_FAILURES: Final = {
    400: "A parameter is unknown or out of range.",
    401: "The token is missing or wrong.",
    404: "There is no such thing.",
    503: "Not available now.",
}
_STREAM: Final = (
    "Events of the kinds `frames` (a Frames object with `rms_dbfs`, `peak_dbfs` and `clipped`, of the source that was "
    "asked for), `record` (a record of any source, as on standard output) and `state` (a Health object, once a second)."
    " Messages that a client is too slow for are dropped, the oldest first."
)


def _word(text: str) -> str:
    if not 0 < len(text) <= _MAX_LABEL:
        raise ValueError(f"label and category have 1 to {_MAX_LABEL} characters")
    return text


def _number(text: str | int) -> str | int:
    if isinstance(text, str) and not (re.fullmatch(r"0*[0-9]{1,9}", text) and 1 <= int(text[-9:]) <= MAX_EVENTS):
        raise ValueError(f"limit is a number from 1 to {MAX_EVENTS}")
    return text  # of some versions of FastAPI also the default


def _moment(text: str | None, info: ValidationInfo) -> datetime | None:
    if text is None:  # as above
        return None
    with suppress(ValueError, OverflowError):
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is not None and "T" in text.upper():
            moment.astimezone()  # fails at the ends of time
            return moment
    raise ValueError(f"{info.field_name} is a time such as 2026-11-23T18:04:05+01:00, with + written as %2B")


_Word = Annotated[str, Field(min_length=1, max_length=_MAX_LABEL), BeforeValidator(_word)]
_Moment = Annotated[datetime | SkipJsonSchema[None], BeforeValidator(_moment)]


class NoQuery(BaseModel):
    """No parameters; unknown ones are refused, since a misspelt one would go unnoticed."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown(cls, values: dict[str, object]) -> dict[str, object]:
        for name in values:
            if name not in cls.model_fields:
                raise ValueError(f"unknown parameter {name!r}; there are {', '.join(cls.model_fields) or 'none'}")
        return values


class SourceQuery(NoQuery):
    """Which source is meant."""

    source: _Word | SkipJsonSchema[None] = Field(None, description="Name of a source. Left out: the first one.")


class EventQuery(NoQuery):
    """Which events to list."""

    source: list[_Word] = Field([], description="Only events of these sources; may be repeated.")
    label: list[_Word] = Field([], description="Only events with these labels; may be repeated.")
    category: list[_Word] = Field([], description="Only events of these categories; may be repeated.")
    since: _Moment = Field(None, description="Only events that began then or later.")
    until: _Moment = Field(None, description="Only events that began before.")
    limit: Annotated[int, BeforeValidator(_number)] = Field(
        _DEFAULT_EVENTS, ge=1, le=MAX_EVENTS, description="Largest number of events, the newest first."
    )

    def wanted(self) -> Wanted:
        """Return the query as the database takes it."""
        sources = tuple(self.source)
        return Wanted(tuple(self.label), tuple(self.category), self.since, self.until, self.limit, sources=sources)


_EVENT_LIST: Final = TypeAdapter(EventList)
NoParameters = Annotated[NoQuery, QueryParameters()]
EventId = Annotated[UUID, PathParameter(alias="id")]


class Api:
    """Answers requests from the stream, the events and the pictures."""

    def __init__(self, views: Mapping[str, SourceView], events: Events) -> None:
        """Keep what the answers come from; the first of the ``views`` is that of requests that name no source."""
        self._views, self._events = views, events

    def application(
        self,
        token: str | None,
        hosts: tuple[str, ...],
        frame_ancestors: tuple[str, ...] = (),
        metrics: Exposition | None = None,
    ) -> FastAPI:
        """Return the application; with ``metrics`` it serves those, too, on ``/metrics``."""
        handlers: dict[int | type[Exception], Callable[[Request, Any], Coroutine[Any, Any, Response]]] = {
            HTTPException: _failed,
            RequestValidationError: _invalid,
            ConfigError: _unreadable,
        }
        app = FastAPI(
            title="snn-detect",
            version=__version__,
            description="What is detected, as it is detected.",
            license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
            openapi_url=None,
            docs_url=None,
            redoc_url=None,
            generate_unique_id_function=lambda route: route.name,
            middleware=[Middleware(AuthMiddleware, token=token, hosts=hosts, frame_ancestors=frame_ancestors)],
            exception_handlers=handlers,
            lifespan=self._lifespan,
            telemetry=_NO_TELEMETRY,
        )
        self._add_routes(app)
        for path, serve in _pages().items():
            app.add_route(path, serve)
        if metrics is not None:
            app.add_route("/metrics", _exposition(metrics))
        return app

    def _add_routes(self, app: FastAPI) -> None:
        flac = {200: {"content": {"audio/flac": {"schema": {"type": "string", "format": "binary"}}}}}
        sse = {200: {"description": _STREAM, "content": {"text/event-stream": {"schema": {"type": "string"}}}}}
        _add(app, "/api/health", self.health, 404, 503)
        _add(app, "/api/model", self.model, 404)
        _add(app, "/api/events", self.events, 503, response_model=EventList)
        _add(app, "/api/events/{id}", self.event, 404, 503)
        _add(app, "/api/events/{id}/picture", self.picture, 404, 503, response_model=Picture)
        _add(app, "/api/events/{id}/clip", self.clip, 404, 503, response_class=FileResponse, responses=flac)
        _add(app, "/api/stream", self.stream, 404, 503, response_class=StreamingResponse, responses=sse)
        _add(app, "/api/openapi.json", self.description)

    async def health(self, query: Annotated[SourceQuery, QueryParameters()]) -> Health:
        """Return how the service is, with one of its sources in detail."""
        health = await self._view(query).broadcaster.health(_STATE_TIMEOUT_S)
        if health is None:
            raise HTTPException(503, "the service is still starting")
        return health

    async def model(self, query: Annotated[SourceQuery, QueryParameters()]) -> Model:
        """Return what the model of a source is."""
        return self._view(query).model_info.model

    def events(self, query: Annotated[EventQuery, QueryParameters()]) -> Response:
        """List events, the newest first."""
        found = EventList([self._shown(e) for e in self._events.find(query.wanted())])
        return Response(_EVENT_LIST.dump_json(found), media_type="application/json")

    def event(self, event_id: EventId, _query: NoParameters) -> Event:
        """Return one event."""
        return self._shown(self._known(event_id))

    def picture(self, event_id: EventId, _query: NoParameters, request: Request) -> Response:
        """Return features, spikes and scores around an event: from memory, else computed from its clip."""
        event = self._known(event_id)
        packed = next((found for view in self._views.values() if (found := view.pictures.get(event.id))), None)
        if packed is not None:
            return _compressed(packed, request)
        path = self._events.clip(event)
        if path is None:
            raise HTTPException(404, "the picture of this event is no longer kept, and there is no clip")
        try:
            view = self._views.get(event.source) or next(iter(self._views.values()))
            return _compressed(as_json(view.model_info.picture(path)), request)
        except DetectorError as error:
            raise HTTPException(404, f"the clip of this event cannot be read: {error}") from error

    def clip(self, event_id: EventId, _query: NoParameters) -> Response:
        """Return the sound of an event as a FLAC file; ranges work."""
        path = self._events.clip(self._known(event_id))
        if path is None:
            raise HTTPException(404, "no clip of this event is kept")
        return _Clip(path, media_type="audio/flac", content_disposition_type="inline", filename=path.name)

    async def stream(self, query: Annotated[SourceQuery, QueryParameters()]) -> Response:
        """Send all that happens as server-sent events, with the frames of one source."""
        broadcaster = self._view(query).broadcaster
        viewer = broadcaster.join()
        if viewer is None:
            raise HTTPException(503, "too many viewers are connected")
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return _Stream(broadcaster, viewer, headers=headers, media_type="text/event-stream")

    async def description(self, _query: NoParameters, request: Request) -> dict[str, Any]:
        """Return this description of the API."""
        return await run_in_threadpool(_description, request.app)

    @asynccontextmanager
    async def _lifespan(self, _app: FastAPI) -> AsyncIterator[None]:
        current_default_thread_limiter().total_tokens = _MAX_THREADS
        tasks = [asyncio.create_task(view.broadcaster.run()) for view in self._views.values()]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _view(self, query: SourceQuery) -> SourceView:
        """Return what is shown of a source, by default the first one."""
        view = next(iter(self._views.values())) if query.source is None else self._views.get(query.source)
        if view is None:
            raise HTTPException(404, f"there is no such source; there are {', '.join(self._views)}")
        return view

    def _known(self, event_id: UUID) -> Event:
        event = self._events.get(str(event_id))
        if event is None:
            raise HTTPException(404, "there is no such event")
        return event

    def _shown(self, event: Event) -> Event:
        """Return an event with paths of the API in place of those of files."""
        path = f"/api/events/{event.id}"
        has_clip = self._events.clip(event) is not None
        has_picture = has_clip or any(view.pictures.has(event.id) for view in self._views.values())
        if not has_picture and event.clip is None:
            return event
        return replace(
            event, clip=f"{path}/clip" if has_clip else None, picture=f"{path}/picture" if has_picture else None
        )


class _Clip(FileResponse):
    """A file that may be deleted, to make room for others, between the question and the answer."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        except RuntimeError:
            if Path(self.path).is_file():
                raise
            await JSONResponse({"error": "no clip of this event is kept"}, 404)(scope, receive, send)


class _Stream(StreamingResponse):
    """The stream of a viewer, who is removed from the broadcaster however it ends."""

    def __init__(self, broadcaster: Broadcaster, viewer: Viewer, **options: Any) -> None:
        super().__init__(self._messages(viewer), **options)
        self._broadcaster, self._viewer = broadcaster, viewer

    async def __call__(self, *arguments: Any) -> None:
        try:
            await super().__call__(*arguments)
        finally:
            self._broadcaster.leave(self._viewer)

    @staticmethod
    async def _messages(viewer: Viewer) -> AsyncIterator[bytes]:
        yield b"retry: 2000\n\n"
        while True:
            try:
                yield await asyncio.wait_for(viewer.take(), _KEEP_ALIVE_S)
            except TimeoutError:
                yield b": keep-alive\n\n"  # a dead connection is noticed by writing to it


def _add(app: FastAPI, path: str, endpoint: Callable[..., Any], *failures: int, **options: Any) -> None:
    """Add a route for GET and HEAD that may also answer with these codes."""
    responses: dict[int | str, dict[str, Any]] = {
        code: {"model": Error, "description": _FAILURES[code]} for code in (400, 401, *failures)
    }
    responses |= options.pop("responses", {})
    app.add_api_route(path, endpoint, methods=["GET", "HEAD"], responses=responses, **options)


def _description(app: FastAPI) -> dict[str, Any]:
    """Return the OpenAPI description: HEAD is left out, and invalid parameters are answered as all failures are."""
    if app.openapi_schema is not None:
        return app.openapi_schema
    routes = [copy.copy(route) for route in app.routes if isinstance(route, APIRoute)]
    for route in routes:
        route.methods = {"GET"}
    document = get_openapi(
        title=app.title,
        version=app.version,
        description=app.description,
        license_info=app.license_info,
        routes=routes,
    )
    for operations in document["paths"].values():
        operations["get"]["responses"].pop("422", None)
    for name in ("HTTPValidationError", "ValidationError"):
        document["components"]["schemas"].pop(name, None)
    document["components"]["securitySchemes"] = {
        "token": {"type": "http", "scheme": "bearer"},
        "cookie": {"type": "apiKey", "in": "cookie", "name": COOKIE},
    }
    document["security"] = [{}, {"token": []}, {"cookie": []}]
    app.openapi_schema = document
    return document


def _compressed(content: bytes, request: Request) -> Response:
    """Return JSON, compressed where the client accepts it: spikes are sparse, so that little is left of a picture."""
    headers = {"Vary": "Accept-Encoding"}
    if "gzip" in request.headers.get("accept-encoding", ""):
        content, headers["Content-Encoding"] = gzip.compress(content, compresslevel=6), "gzip"
    return Response(content, media_type="application/json", headers=headers)


def _pages() -> dict[str, Callable[[Request], Response]]:
    """Return what serves each file of the page, read once: no request can name another file."""
    pages = {}
    for file in resources.files("detector.web").joinpath("static").iterdir():
        suffix = "." + file.name.rpartition(".")[2]
        if suffix in _MEDIA_TYPES:
            names = {"index.html": "/", "login.html": "/login"}
            pages[names.get(file.name, f"/{file.name}")] = _page(file.read_bytes(), _MEDIA_TYPES[suffix])
    return pages


def _page(content: bytes, media_type: str) -> Callable[[Request], Response]:
    tag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'

    def serve(request: Request) -> Response:
        headers = {"ETag": tag, "Cache-Control": "no-cache"}
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers=headers)
        return Response(content, media_type=media_type, headers=headers)

    return serve


def _exposition(metrics: Exposition) -> Callable[[Request], Response]:
    def serve(request: Request) -> Response:
        content, media_type = metrics(request.headers.get("accept", ""))
        return Response(content, headers={"Content-Type": media_type})

    return serve


async def _failed(_request: Request, error: HTTPException) -> Response:
    return JSONResponse({"error": error.detail}, error.status_code, error.headers)


async def _invalid(_request: Request, error: RequestValidationError) -> Response:
    """Answer a request whose parameters are wrong; an id that is none is that of no event."""
    errors = error.errors()
    if any(e["loc"][0] == "path" for e in errors):
        return JSONResponse({"error": "there is no such event"}, 404)
    reasons = (str(e.get("ctx", {}).get("error") or e["msg"]) for e in errors)
    return JSONResponse({"error": "; ".join(dict.fromkeys(reasons))}, 400)


async def _unreadable(_request: Request, error: ConfigError) -> Response:
    return JSONResponse({"error": str(error)}, 503)


class WebServer:
    """Runs an ASGI application with uvicorn, in a thread with its own event loop, until ``stop``."""

    def __init__(self, application: Any, host: str, port: int) -> None:
        """Listen and start the thread; raises OSError where the address cannot be had."""
        # Clients' mistakes are not logged; errors of ours are logged by the worker of the sink.
        logging.getLogger("uvicorn").setLevel(logging.CRITICAL)
        bound = client_bound(_MAX_CONNECTIONS)
        self._socket = _listen(host, port, bound + _SURPLUS)
        self.address: Final[tuple[str, int]] = self._socket.getsockname()[:2]
        config = uvicorn.Config(
            application,
            log_config=None,
            access_log=False,
            server_header=False,
            date_header=False,
            proxy_headers=False,
            ws="none",
            http=partial(_Connection, bound),  # type: ignore[arg-type]  # a class is made of it, too
            loop="asyncio",
            lifespan="on",
            backlog=_BACKLOG,
            timeout_keep_alive=round(_REQUEST_S),
            timeout_graceful_shutdown=0,
        )
        self._server = uvicorn.Server(config)
        # uvicorn's own loop wakes up ten times a second to see whether it is to end.
        self._server.main_loop = self._wait  # type: ignore[method-assign]
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopped = asyncio.Event()
        self.failure: BaseException | None = None
        """What has ended the thread before ``stop``."""
        self._thread = threading.Thread(target=self._run, name="web", daemon=True)
        try:
            self._thread.start()
        except RuntimeError:
            self._socket.close()
            raise

    @property
    def is_running(self) -> bool:
        """Whether the thread has not ended."""
        return self._thread.is_alive()

    def stop(self) -> None:
        """Close all connections, and wait for the thread for at most half a second."""
        self._server.should_exit = True
        if self._loop is not None:
            with suppress(RuntimeError):  # it has ended already
                self._loop.call_soon_threadsafe(self._stopped.set)
        self._thread.join(_STOP_S)
        with suppress(OSError):
            self._socket.close()

    def _run(self) -> None:
        try:
            asyncio.run(self._server.serve([self._socket]))
        except BaseException as error:  # noqa: BLE001 - the sink reports it, and starts another server
            self.failure = error

    async def _wait(self) -> None:
        """Sleep until ``stop``."""
        self._loop = asyncio.get_running_loop()
        if not self._server.should_exit:
            await self._stopped.wait()


class _Connection(H11Protocol):
    """A connection that is closed where its request does not come in time.

    Beyond ``bound`` of them, the one is closed that has waited longest for its request.
    """

    def __init__(self, bound: int, **options: Any) -> None:
        super().__init__(**options)
        self._bound = bound
        self.request_due: asyncio.TimerHandle | None = None
        """What closes the connection; None while a whole request is being answered."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._expect_request()
        if len(self.connections) > self._bound:
            waiting = [c for c in self.connections if isinstance(c, _Connection) and c.request_due is not None]
            min(waiting, key=_due).transport.abort()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._check_request()

    def on_response_complete(self) -> None:
        self._expect_request()
        super().on_response_complete()  # another request may have come already
        self._check_request()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._forget_request()

    def _expect_request(self) -> None:
        self._forget_request()
        self.request_due = self.loop.call_later(_REQUEST_S, self.transport.abort)

    def _check_request(self) -> None:
        """Let the time end with the last part of a request only."""
        if self.conn.their_state not in {h11.IDLE, h11.SEND_BODY}:
            self._forget_request()

    def _forget_request(self) -> None:
        if self.request_due is not None:
            self.request_due.cancel()
            self.request_due = None


def _due(connection: _Connection) -> float:
    return connection.request_due.when() if connection.request_due else math.inf


def _listen(host: str, port: int, bound: int) -> socket.socket:
    """Return a socket that listens, for so many connections; an empty host is every address of this machine."""
    found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    # Of all addresses, that of IPv6 accepts connections over IPv4, too.
    chosen = found[0] if host else min(found, key=lambda f: f[0] != socket.AF_INET6)
    family, kind, protocol, _, address = chosen
    sock = BoundedListener(family, kind, protocol, bound=bound)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Connections inherit both: what waits for a browser is bounded in the system, too.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _USER_TIMEOUT_MS)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BYTES)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.bind(address)
        sock.listen(_BACKLOG)
        sock.setblocking(False)
    except OSError:
        sock.close()
        raise
    return sock
