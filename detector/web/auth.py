"""Who may ask: by the name that they call this machine, by where their page comes from, and by the token."""

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
"""What those see who have not shown the token: the page that asks for it."""
_COOKIE_S: Final = 365 * 24 * 3600
_WRONG_S: Final = 0.3
"""How long an answer to a wrong token takes."""
_MOST_BODY: Final = 4096
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
    """Lets those through who may, and puts the headers for security on every answer."""

    def __init__(self, app: ASGIApp, token: str | None, hosts: Sequence[str]) -> None:
        """Guard an application; ``token`` None: none is asked for; ``hosts``: names besides the machine's own."""
        self._app, self._token = app, token
        own = socket.gethostname().lower()
        self._hosts = {"localhost", own, f"{own}.local", *(h.lower().rstrip(".") for h in hosts)}
        # The cookie holds what follows from the token, not the token: whoever finds it can look, and no more.
        self._mark = hmac.new((token or "").encode(), b"snn-detect web 1", hashlib.sha256).hexdigest()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or have it answered."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = Request(scope, receive)
        answer = await self._answer(request)
        await (answer or self._app)(scope, receive, _with_headers(send))

    async def _answer(self, request: Request) -> Response | None:
        """Return the answer to whoever may not go on; None for those who may."""
        if not self._is_ours(request.headers.get("host", "")):
            return _refusal(421, "this name is not one of this machine's; add it to web.hosts")
        if (
            request.headers.get("sec-fetch-site") == "cross-site"
            and request.headers.get("sec-fetch-mode") != "navigate"
        ):
            return _refusal(403, "pages of other sites may not ask")
        if request.url.path == LOGIN and request.method == "POST":
            return await self._log_in(request)
        return None if self._token is None else await self._ask(request)

    async def _ask(self, request: Request) -> Response | None:
        """Return the answer to whoever has not shown the token."""
        is_page = request.url.path == "/" and request.method in {"GET", "HEAD"}
        if is_page and "token" in request.query_params:
            return await self._admit(request.query_params["token"])
        if request.url.path in OPEN_PATHS or self._is_known(request):
            return None
        if is_page:
            return RedirectResponse(LOGIN, 303)
        return _refusal(401, "the token is missing or wrong", {"WWW-Authenticate": 'Bearer realm="snn-detect"'})

    def _is_ours(self, host: str) -> bool:
        """Tell whether a Host header can be meant: another site's name that leads here would be one of its tricks."""
        name = host.rpartition(":")[0] if not host.endswith("]") and ":" in host else host
        try:
            ipaddress.ip_address(name.strip("[]"))
        except ValueError:
            return name.lower().rstrip(".") in self._hosts
        return True

    def _is_known(self, request: Request) -> bool:
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and self._is_token(given.strip()):
            return True
        try:
            cookie = SimpleCookie(request.headers.get("cookie", "")).get(COOKIE)
        except CookieError:
            return False
        return cookie is not None and hmac.compare_digest(cookie.value.encode(), self._mark.encode())

    def _is_token(self, given: str) -> bool:
        return hmac.compare_digest(given.encode("utf-8", "surrogateescape"), (self._token or "").encode())

    async def _log_in(self, request: Request) -> Response:
        body = b""
        async for part in request.stream():
            body += part
            if len(body) > _MOST_BODY:
                return _refusal(413, "too long for a token")
        return await self._admit(parse_qs(body.decode("latin-1")).get("token", [""])[0].strip())

    async def _admit(self, given: str) -> Response:
        """Give the cookie to whoever knows the token, and lead them to the page without the token in its address."""
        if self._token is None:
            return RedirectResponse("/", 303)
        if not self._is_token(given):
            await asyncio.sleep(_WRONG_S)
            return RedirectResponse(f"{LOGIN}?{urlencode({'wrong': 1})}", 303)
        answer = RedirectResponse("/", 303)
        answer.set_cookie(COOKIE, self._mark, max_age=_COOKIE_S, httponly=True, samesite="strict")
        return answer


def _refusal(code: int, why: str, headers: dict[str, str] | None = None) -> Response:
    return JSONResponse({"error": why}, code, headers)


def _with_headers(send: Send) -> Send:
    async def send_all(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in HEADERS.items():
                headers[name] = value
            headers.setdefault("Cache-Control", "no-store")
        await send(message)

    return send_all
