"""The page and its JSON API as an ASGI application."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from datetime import datetime
from importlib import resources
from typing import Any, Final

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from detector.errors import ConfigError, DetectorError
from detector.events_db import Wanted
from detector.web.auth import AuthMiddleware
from detector.web.events import Event, Events, Pictures
from detector.web.schema import DESCRIPTION, ModelInfo
from detector.web.stream import Broadcaster, Viewer

MOST_EVENTS: Final = 5000
_USUAL_EVENTS: Final = 500
_LONGEST_LABEL: Final = 64
_STATE_S: Final = 1.5
_BEAT_S: Final = 15.0
_TYPES: Final = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}


class Api:
    """Answers requests from what the hub, the events and the pictures know."""

    def __init__(self, broadcaster: Broadcaster, events: Events, pictures: Pictures, looks: ModelInfo) -> None:
        self._broadcaster, self._events, self._pictures, self._model_info = broadcaster, events, pictures, looks

    def application(self, token: str | None, hosts: tuple[str, ...]) -> Starlette:
        """Return the application."""
        routes = [
            Route("/api/health", self.health),
            Route("/api/model", self.model),
            Route("/api/events", self.events),
            Route("/api/events/{id}", self.event),
            Route("/api/events/{id}/picture", self.picture),
            Route("/api/events/{id}/clip", self.clip),
            Route("/api/stream", self.stream),
            Route("/api/openapi.json", self.description),
            *(Route(path, serve) for path, serve in _pages().items()),
        ]
        guard = Middleware(AuthMiddleware, token=token, hosts=hosts)
        handlers: dict[Any, Callable[..., Response]] = {HTTPException: _error, ConfigError: _unreadable}
        return Starlette(routes=routes, middleware=[guard], exception_handlers=handlers, lifespan=self._living)

    async def health(self, request: Request) -> Response:
        """Tell how the service is."""
        _only(request)
        if await self._broadcaster.fresh_state(_STATE_S) is None:
            raise HTTPException(503, "the service is still starting")
        return JSONResponse(self._broadcaster.described())

    async def model(self, request: Request) -> Response:
        """Tell what the model is."""
        _only(request)
        return JSONResponse(self._model_info.card)

    async def events(self, request: Request) -> Response:
        """List events, the newest first."""
        wanted = _wanted(request)
        found = await run_in_threadpool(self._events.find, wanted)
        return JSONResponse({"events": [self._shown(e) for e in found]})

    async def event(self, request: Request) -> Response:
        """Give one event."""
        _only(request)
        return JSONResponse(self._shown(await self._known(request)))

    async def picture(self, request: Request) -> Response:
        """Give what was going on around an event: from memory, else heard again from its clip."""
        _only(request)
        event = await self._known(request)
        packed = await run_in_threadpool(self._pictures.get, event["id"])
        if packed is not None:
            return await run_in_threadpool(_compressed, packed, request)
        path = self._events.clip(event)
        if path is None:
            raise HTTPException(404, "there is no picture of this event any more, and no clip")
        try:
            again = await run_in_threadpool(self._model_info.again, path)
        except DetectorError as error:
            raise HTTPException(404, f"the clip of this event cannot be heard: {error}") from error
        return await run_in_threadpool(_compressed, JSONResponse(again).body, request)

    async def clip(self, request: Request) -> Response:
        """Give the sound of an event."""
        _only(request)
        path = self._events.clip(await self._known(request))
        if path is None:
            raise HTTPException(404, "no clip of this event is kept")
        return FileResponse(path, media_type="audio/flac", content_disposition_type="inline", filename=path.name)

    async def stream(self, request: Request) -> Response:
        """Send all that happens as it happens, as server-sent events."""
        _only(request)
        viewer = self._broadcaster.join()
        if viewer is None:
            raise HTTPException(503, "too many are looking already")
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return _Stream(self._broadcaster, viewer, headers=headers, media_type="text/event-stream")

    async def description(self, request: Request) -> Response:
        """Describe this API."""
        _only(request)
        return JSONResponse(DESCRIPTION)

    @asynccontextmanager
    async def _living(self, _app: Starlette) -> AsyncIterator[None]:
        task = asyncio.create_task(self._broadcaster.run())
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def _known(self, request: Request) -> Event:
        event_id = request.path_params["id"]
        with suppress(ValueError):
            if str(uuid.UUID(event_id)) == event_id:
                event = await run_in_threadpool(self._events.get, event_id)
                if event is not None:
                    return event
        raise HTTPException(404, "there is no such event")

    def _shown(self, event: Event) -> dict[str, Any]:
        where = f"/api/events/{event['id']}"
        has_clip = self._events.clip(event) is not None
        has_picture = has_clip or self._pictures.has(event["id"])
        return {
            **event,
            "clip": f"{where}/clip" if has_clip else None,
            "picture": f"{where}/picture" if has_picture else None,
        }


class _Stream(StreamingResponse):
    """A viewer's stream; however it ends, the hub forgets the viewer."""

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
                yield await asyncio.wait_for(viewer.take(), _BEAT_S)
            except TimeoutError:
                yield b": still there\n\n"  # a connection that is dead is noticed by writing to it


def _compressed(content: bytes | memoryview, request: Request) -> Response:
    """Return JSON, compressed for who takes that: spikes are few, and a picture shrinks to a fraction."""
    headers = {"Vary": "Accept-Encoding"}
    if "gzip" in request.headers.get("accept-encoding", ""):
        content, headers["Content-Encoding"] = gzip.compress(content, compresslevel=6), "gzip"
    return Response(content, media_type="application/json", headers=headers)


def _pages() -> dict[str, Callable[[Request], Response]]:
    """Return what serves each file of the page, read once: no request can name another file."""
    pages = {}
    for file in resources.files("detector.web").joinpath("static").iterdir():
        suffix = "." + file.name.rpartition(".")[2]
        if suffix in _TYPES:
            names = {"index.html": "/", "login.html": "/login"}
            pages[names.get(file.name, f"/{file.name}")] = _page(file.read_bytes(), _TYPES[suffix])
    return pages


def _page(content: bytes, media_type: str) -> Callable[[Request], Response]:
    tag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'

    def serve(request: Request) -> Response:
        headers = {"ETag": tag, "Cache-Control": "no-cache"}
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers=headers)
        return Response(content, media_type=media_type, headers=headers)

    return serve


def _wanted(request: Request) -> Wanted:
    """Return which events a request asks for; raises HTTPException 400 for what cannot be."""
    _only(request, "label", "category", "since", "until", "limit")
    query = request.query_params
    labels, categories = query.getlist("label"), query.getlist("category")
    if not all(0 < len(word) <= _LONGEST_LABEL for word in (*labels, *categories)):
        raise HTTPException(400, f"label and category have 1 to {_LONGEST_LABEL} characters")
    limit = query.get("limit", str(_USUAL_EVENTS))
    if not (limit.isascii() and limit.isdigit() and 1 <= int(limit) <= MOST_EVENTS):
        raise HTTPException(400, f"limit is a number from 1 to {MOST_EVENTS}")
    since, until = (_moment(query.get(name), name) for name in ("since", "until"))
    return Wanted(tuple(labels), tuple(categories), since, until, int(limit))


def _moment(text: str | None, name: str) -> datetime | None:
    if text is None:
        return None
    with suppress(ValueError, OverflowError):
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is not None and "T" in text.upper():
            moment.astimezone()  # fails at the ends of time
            return moment
    raise HTTPException(400, f"{name} is a time such as 2026-11-23T18:04:05+01:00, with + written as %2B")


def _only(request: Request, *names: str) -> None:
    """Refuse parameters that mean nothing: whoever misspells one would not notice."""
    for name in request.query_params:
        if name not in names:
            raise HTTPException(400, f"unknown parameter {name!r}; there are {', '.join(names) or 'none'}")


def _error(_request: Request, error: HTTPException) -> Response:
    return JSONResponse({"error": error.detail}, error.status_code, error.headers)


def _unreadable(_request: Request, error: ConfigError) -> Response:
    return JSONResponse({"error": str(error)}, 503)
