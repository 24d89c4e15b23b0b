"""Requests that are refused, and how every error is answered: as JSON that says what to do next."""

from collections.abc import Awaitable, Callable
from html import escape
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from deploy.errors import OddsightError, ProfileError
from streamer.interfaces import RedisUnavailable, StoreUnavailable, StreamError


class Problem(BaseModel):
    """Why a request was not answered."""

    error: str
    """What is wrong."""
    next: str
    """What to do next."""


class RequestRefused(StreamError):
    """A request that is not answered; ``next_step`` says what to do instead."""

    def __init__(self, status: int, error: str, next_step: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(f"{error}; {next_step}")
        self.status, self.error, self.next_step, self.headers = status, error, next_step, headers


class SignInRefused(RequestRefused):
    """Somebody who is not signed in with OpenID Connect; told on a page, because a browser asks for it."""

    def __init__(self, status: int, error: str, next_step: str, *, who: str = "?") -> None:
        super().__init__(status, error, next_step)
        self.who = who


_PAGE = """<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><title>Not signed in · Oddsight</title><link rel="stylesheet" href="/static/base.css"></head>
<body><main><section class="login"><h1>You are not signed in</h1><p class="form-problem" role="alert">{error}.</p>
<p>What to do: {next_step}.</p><a class="button primary sign-in" href="/">Back to Oddsight</a></section></main></body>
</html>
"""
_NEXT = {404: "see /api/v1/openapi.json for what there is", 405: "see /api/v1/openapi.json for the methods of this address"}
_RESPONSES = (400, 401, 403, 404, 409, 413, 422, 429, 503)
RESPONSES: dict[int | str, dict[str, Any]] = {status: {"model": Problem} for status in _RESPONSES}
"""For the OpenAPI document."""


def problem_response(status: int, error: str, next_step: str, headers: dict[str, str] | None = None) -> JSONResponse:
    """An error as JSON."""
    return JSONResponse({"error": error, "next": next_step}, status, headers)


def add_error_handlers(app: FastAPI) -> None:
    """Answer every error as a :class:`Problem`."""
    handlers: dict[type[Exception], Callable[[Request, Any], Awaitable[Response]]] = {
        SignInRefused: _not_signed_in,
        RequestRefused: _refused,
        RedisUnavailable: _redis_unavailable,
        StoreUnavailable: _store_unavailable,
        ProfileError: _profile_error,
        OddsightError: _other,
        RequestValidationError: _not_valid,
        HTTPException: _http,
    }
    for kind, handler in handlers.items():
        app.add_exception_handler(kind, handler)


async def _refused(_request: Request, error: RequestRefused) -> JSONResponse:
    return problem_response(error.status, error.error, error.next_step, error.headers)


async def _not_signed_in(_request: Request, error: SignInRefused) -> HTMLResponse:
    page = _PAGE.format(error=escape(error.error), next_step=escape(error.next_step))
    return HTMLResponse(page, error.status, error.headers)


async def _redis_unavailable(_request: Request, error: RedisUnavailable) -> JSONResponse:
    return problem_response(503, str(error), "try again once Redis answers", {"Retry-After": "2"})


async def _store_unavailable(_request: Request, error: StoreUnavailable) -> JSONResponse:
    return problem_response(503, str(error), "try again once the store of evidence answers", {"Retry-After": "5"})


async def _profile_error(_request: Request, error: ProfileError) -> JSONResponse:
    return problem_response(409, str(error), "look at the camera's versions, and choose another action")


async def _other(_request: Request, error: OddsightError) -> JSONResponse:
    return problem_response(500, str(error), "mend this, then try again")


async def _not_valid(_request: Request, error: RequestValidationError) -> JSONResponse:
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    return problem_response(422, f"{where}: {first['msg']}", "see /api/v1/openapi.json for the form of the request")


async def _http(request: Request, error: HTTPException) -> JSONResponse:
    next_step = _NEXT.get(error.status_code, "see /api/v1/openapi.json")
    headers = dict(error.headers or {})
    if error.status_code == 405 and (methods := request.app.openapi()["paths"].get(request.url.path)):
        headers["Allow"] = ", ".join(sorted(methods)).upper()  # the router names those of one handler only
    return problem_response(error.status_code, str(error.detail), next_step, headers)
