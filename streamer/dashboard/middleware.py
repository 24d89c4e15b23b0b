"""What holds for every request: headers of every answer, a limit of what is sent, and who may ask without users."""

from typing import Final

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from streamer.dashboard.problems import problem_response

MAX_BODY_BYTES: Final = 16_384
LOOPBACK: Final = frozenset({"127.0.0.1", "::1", "localhost"})
_CONTENT: Final = ("default-src 'self'", "object-src 'none'", "base-uri 'none'", "form-action 'self'", "frame-ancestors 'none'")
_SECURITY_HEADERS: Final = {
    "Content-Security-Policy": "; ".join(_CONTENT),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


class SecurityHeaders:
    """Adds to every answer what a browser must not do with it; nothing is cached unless the answer says so itself."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.setdefault("Cache-Control", "no-store")
                headers.update(_SECURITY_HEADERS)
            await send(message)

        await self._app(scope, receive, send_with_headers if scope["type"] == "http" else send)


class BodyLimit:
    """Refuses requests with a large body before it is read."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] in {"GET", "HEAD"}:
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        # A body in parts has no length, and may be of any size; browsers always tell it.
        length = headers.get("content-length", "" if "transfer-encoding" in headers else "0")
        if not length.isdecimal() or int(length) > MAX_BODY_BYTES:
            status, error = (413, "too large") if length.isdecimal() else (411, "without a length")
            refused = problem_response(
                status, f"the body is {error}", f"send at most {MAX_BODY_BYTES} bytes, with Content-Length"
            )
            await refused(scope, receive, send)
            return
        await self._app(scope, receive, send)


class LocalOnly:
    """Without users, answers this machine's own browsers only: no name that leads here, and no reverse proxy."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or _is_local(Headers(scope=scope)):
            await self._app(scope, receive, send)
            return
        error = "there are no users, so this dashboard answers this machine only, under http://127.0.0.1 or http://localhost"
        next_step = "set dashboard.users, and make a user: oddsight-stream users add NAME --role admin"
        await problem_response(403, error, next_step)(scope, receive, send)


def _is_local(headers: Headers) -> bool:
    return _host(headers) in LOOPBACK and not any(name in headers for name in ("forwarded", "x-forwarded-for", "x-real-ip"))


def _host(headers: Headers) -> str:
    """The name in the header Host: a page of another site that has its own name lead here (DNS rebinding) shows that name."""
    host = headers.get("host", "")
    return host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0].lower()
