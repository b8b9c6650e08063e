"""Authentication of the page and its API: by the Host header, the origin of the request, and the token."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import ipaddress
import socket
from collections.abc import Sequence
from http.cookies import CookieError, SimpleCookie
from typing import Final
from urllib.parse import parse_qs, urlencode

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

COOKIE: Final = "snn_detect"
LOGIN: Final = "/login"
OPEN_PATHS: Final = frozenset({LOGIN, "/style.css", "/login.js", "/icon.svg"})
"""Paths that are served without the token: those of the page that asks for it."""
_COOKIE_S: Final = 365 * 24 * 3600
_WRONG_TOKEN_S: Final = 0.3
"""Delay of the answer to a wrong token."""
_MAX_BODY: Final = 4096
HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; media-src 'self'; "
        "connect-src 'self'; manifest-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


class AuthMiddleware:
    """Refuses requests that are not authenticated, and adds the security headers to every answer."""

    def __init__(self, app: ASGIApp, token: str | None, hosts: Sequence[str]) -> None:
        """Protect an application; no token is required where it is None, ``hosts`` are names besides the machine's."""
        self._app, self._token = app, token
        own = socket.gethostname().lower()
        self._hosts = {"localhost", own, f"{own}.local", *(h.lower().rstrip(".") for h in hosts)}
        # The cookie is derived from the token, which cannot be found from it.
        self._cookie = hmac.new((token or "").encode(), b"snn-detect web 1", hashlib.sha256).hexdigest()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse a request, or pass it to the application."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = Request(scope, receive)
        refusal = await self._check(request)
        await (refusal or self._app)(scope, receive, _with_headers(send))

    async def _check(self, request: Request) -> Response | None:
        """Return the answer to a request that the application does not get; None for those that it gets."""
        if not self._is_own_host(request.headers.get("host", "")):
            return _refusal(421, "this host name is not one of this machine's; add it to web.hosts")
        if (
            request.headers.get("sec-fetch-site") == "cross-site"
            and request.headers.get("sec-fetch-mode") != "navigate"
        ):
            return _refusal(403, "requests from pages of other sites are refused")
        if request.url.path == LOGIN and request.method == "POST":
            return await self._log_in(request)
        return None if self._token is None else await self._authenticate(request)

    async def _authenticate(self, request: Request) -> Response | None:
        """Return the answer to a request without the token or its cookie; None for one with it."""
        is_page = request.url.path == "/" and request.method in {"GET", "HEAD"}
        if is_page and "token" in request.query_params:
            return await self._log_in_with(request.query_params["token"])
        if request.url.path in OPEN_PATHS or self._is_authenticated(request):
            return None
        if is_page:
            return RedirectResponse(LOGIN, 303)
        return _refusal(401, "the token is missing or wrong", {"WWW-Authenticate": 'Bearer realm="snn-detect"'})

    def _is_own_host(self, host: str) -> bool:
        """Return whether a Host header names this machine; another name would be a DNS rebinding attack."""
        name = host.rpartition(":")[0] if not host.endswith("]") and ":" in host else host
        try:
            ipaddress.ip_address(name.strip("[]"))
        except ValueError:
            return name.lower().rstrip(".") in self._hosts
        return True

    def _is_authenticated(self, request: Request) -> bool:
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and self._is_token(given.strip()):
            return True
        try:
            cookie = SimpleCookie(request.headers.get("cookie", "")).get(COOKIE)
        except CookieError:
            return False
        return cookie is not None and hmac.compare_digest(cookie.value.encode(), self._cookie.encode())

    def _is_token(self, given: str) -> bool:
        return hmac.compare_digest(given.encode("utf-8", "surrogateescape"), (self._token or "").encode())

    async def _log_in(self, request: Request) -> Response:
        body = b""
        async for part in request.stream():
            body += part
            if len(body) > _MAX_BODY:
                return _refusal(413, "the request is too long for a token")
        return await self._log_in_with(parse_qs(body.decode("latin-1")).get("token", [""])[0].strip())

    async def _log_in_with(self, given: str) -> Response:
        """Set the cookie for the right token, and redirect to the page without the token in its address."""
        if self._token is None:
            return RedirectResponse("/", 303)
        if not self._is_token(given):
            await asyncio.sleep(_WRONG_TOKEN_S)
            return RedirectResponse(f"{LOGIN}?{urlencode({'wrong': 1})}", 303)
        answer = RedirectResponse("/", 303)
        answer.set_cookie(COOKIE, self._cookie, max_age=_COOKIE_S, httponly=True, samesite="strict")
        return answer


def _refusal(code: int, reason: str, headers: dict[str, str] | None = None) -> Response:
    return JSONResponse({"error": reason}, code, headers)


def _with_headers(send: Send) -> Send:
    async def send_all(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in HEADERS.items():
                headers[name] = value
            headers.setdefault("Cache-Control", "no-store")
        await send(message)

    return send_all
