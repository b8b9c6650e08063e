"""Authentication of the page and its API: by the Host header, the origin of the request, and the token."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import ipaddress
import socket
from collections.abc import Mapping, Sequence
from http.cookies import CookieError, SimpleCookie
from typing import Final
from urllib.parse import parse_qs, urlencode

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from detector.sinks.metrics_server import TokenCheck

COOKIE: Final = "snn_detect"
LOGIN: Final = "/login"
OPEN_PATHS: Final = frozenset({LOGIN, "/style.css", "/login.js", "/icon.svg"})
"""Paths that are served without the token: those of the page that asks for it."""
_COOKIE_S: Final = 365 * 24 * 3600
_MAX_BODY: Final = 4096
_HERE: Final = "./"
"""The page, from its own address and from that of the form."""
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


def security_headers(frame_ancestors: Sequence[str] = ()) -> Mapping[str, str]:
    """Return the headers of every answer; pages of ``frame_ancestors`` (origins) may hold this one in a frame."""
    if not frame_ancestors:
        return HEADERS
    policy = HEADERS["Content-Security-Policy"]
    allowed = policy.replace("frame-ancestors 'none'", f"frame-ancestors {' '.join(frame_ancestors)}")
    kept = {name: value for name, value in HEADERS.items() if name != "X-Frame-Options"}  # it knows no origins
    return kept | {"Content-Security-Policy": allowed}


class AuthMiddleware:
    """Refuses requests that are not authenticated, and adds the security headers to every answer."""

    def __init__(
        self, app: ASGIApp, token: str | None, hosts: Sequence[str], frame_ancestors: Sequence[str] = ()
    ) -> None:
        """Protect an application; no token is required where it is None, ``hosts`` are names besides the machine's."""
        self._app = app
        self._token = None if token is None else TokenCheck(token)
        self._headers = security_headers(frame_ancestors)
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
        await (refusal or self._app)(scope, receive, _with_headers(send, self._headers))

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
            return await self._log_in_with(request, request.query_params["token"])
        if request.url.path in OPEN_PATHS or self._has_cookie(request):
            return None
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            is_right = await self._try(request, given.strip().encode("latin-1", "replace"))
            if is_right is None:
                return _TOO_MANY
            if is_right:
                return None
        if is_page:
            return RedirectResponse(LOGIN[1:], 303)  # relative: the page may be below a path of a proxy
        return _refusal(401, "the token is missing or wrong", {"WWW-Authenticate": 'Bearer realm="snn-detect"'})

    async def _try(self, request: Request, given: bytes) -> bool | None:
        """Return whether a token is right; None, without a look at it, where too many wrong ones came from there."""
        address = _address(request)
        wait_s = 0.0 if self._token is None else self._token.wait_s(address)
        if self._token is None or wait_s is None:
            return None
        if wait_s:
            await asyncio.sleep(wait_s)
        return self._token.matches(given, address)

    def _is_own_host(self, host: str) -> bool:
        """Return whether a Host header names this machine; another name would be a DNS rebinding attack."""
        name = host.rpartition(":")[0] if not host.endswith("]") and ":" in host else host
        try:
            ipaddress.ip_address(name.strip("[]"))
        except ValueError:
            return name.lower().rstrip(".") in self._hosts
        return True

    def _has_cookie(self, request: Request) -> bool:
        try:
            cookie = SimpleCookie(request.headers.get("cookie", "")).get(COOKIE)
        except CookieError:
            return False
        return cookie is not None and hmac.compare_digest(cookie.value.encode(), self._cookie.encode())

    async def _log_in(self, request: Request) -> Response:
        body = b""
        async for part in request.stream():
            body += part
            if len(body) > _MAX_BODY:
                return _refusal(413, "the request is too long for a token")
        return await self._log_in_with(request, parse_qs(body.decode("latin-1")).get("token", [""])[0].strip())

    async def _log_in_with(self, request: Request, given: str) -> Response:
        """Set the cookie for the right token, and redirect to the page without the token in its address."""
        if self._token is None:
            return RedirectResponse(_HERE, 303)
        is_right = await self._try(request, given.encode("utf-8", "surrogateescape"))
        if is_right is None:
            return _TOO_MANY
        if not is_right:
            return RedirectResponse(f"{LOGIN[1:]}?{urlencode({'wrong': 1})}", 303)
        answer = RedirectResponse(_HERE, 303)
        # Without a path it is that of the page, which may be below one of a proxy.
        options = {"max_age": _COOKIE_S, "httponly": True, "samesite": "strict", "path": None}
        answer.set_cookie(COOKIE, self._cookie, secure=_is_encrypted(request), **options)  # type: ignore[arg-type]
        return answer


def _is_encrypted(request: Request) -> bool:
    """Return whether a proxy says that the client has come by HTTPS."""
    forwarded = request.headers.get("forwarded", "").lower().partition(",")[0]
    by_proxy = request.headers.get("x-forwarded-proto", "").lower().partition(",")[0].strip() == "https"
    return by_proxy or any(part.strip().replace('"', "") == "proto=https" for part in forwarded.split(";"))


def _address(request: Request) -> str:
    """Return where a request comes from: a client's address, or what a proxy on this machine says of it."""
    address = request.client.host if request.client else ""
    forwarded = request.headers.get("x-forwarded-for", "").rpartition(",")[2].strip()
    return forwarded[:64] if forwarded and _is_loopback(address) else address


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


def _refusal(code: int, reason: str, headers: dict[str, str] | None = None) -> Response:
    return JSONResponse({"error": reason}, code, headers)


def _with_headers(send: Send, added: Mapping[str, str]) -> Send:
    async def send_all(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in added.items():
                headers[name] = value
            headers.setdefault("Cache-Control", "no-store")
        await send(message)

    return send_all


_TOO_MANY: Final = _refusal(429, "too many wrong tokens came from there", {"Retry-After": "60"})
