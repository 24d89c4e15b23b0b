"""The application: API, files of the page, and what holds for all requests."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.responses import FileResponse, Response
from fastapi.staticfiles import StaticFiles

from streamer.dashboard.api import areas, cameras, events, maps, session, sign_in, stream, system, what_if
from streamer.dashboard.middleware import BodyLimit, LocalOnly, SecurityHeaders
from streamer.dashboard.parts import Parts
from streamer.dashboard.problems import RESPONSES, add_error_handlers

_STATIC = Path(__file__).parent / "static"
_API = "/api/v1"


def make_app(parts: Parts) -> FastAPI:
    """The application that answers with these parts."""
    app = FastAPI(
        title="Oddsight dashboard",
        version="1",
        description="Cameras, events with their evidence, and what people say of them.",
        openapi_url=f"{_API}/openapi.json",
        docs_url=None,  # it loads its scripts from another site
        redoc_url=None,
        responses=RESPONSES,
        lifespan=_follow,
    )
    app.state.parts = parts
    add_error_handlers(app)
    for module in (session, cameras, areas, what_if, maps, events, stream, system):
        app.include_router(module.router, prefix=_API)
    app.include_router(sign_in.router)
    app.mount("/static", _Static(directory=_STATIC), name="static")
    app.add_api_route("/", _page, methods=["GET", "HEAD"], include_in_schema=False)
    app.add_middleware(BodyLimit)
    if not parts.access.has_users:
        app.add_middleware(LocalOnly)
    app.add_middleware(SecurityHeaders)
    return app


@asynccontextmanager
async def _follow(app: FastAPI) -> AsyncIterator[None]:
    """Follow Redis while the application runs."""
    parts: Parts = app.state.parts
    following = asyncio.create_task(parts.live.run())
    yield
    following.cancel()
    with suppress(asyncio.CancelledError):
        await following


class _Static(StaticFiles):
    """Files of the page, which browsers ask for again each time whether they changed."""

    def file_response(self, *args: object, **kwargs: object) -> Response:
        response = super().file_response(*args, **kwargs)  # type: ignore[arg-type]  # handed on as they come
        response.headers["Cache-Control"] = "no-cache"
        return response


async def _page(_request: Request) -> FileResponse:
    return FileResponse(_STATIC / "index.html", headers={"Cache-Control": "no-cache"})
