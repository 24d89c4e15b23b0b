"""Live changes as server-sent events."""

import time
from collections.abc import AsyncIterator
from typing import Final

from fastapi import APIRouter, Request
from fastapi.concurrency import run_in_threadpool
from sse_starlette import EventSourceResponse, ServerSentEvent

from streamer.dashboard.access import COOKIE
from streamer.dashboard.hub import message
from streamer.dashboard.parts import AppParts, Parts, Viewer
from streamer.interfaces import RedisUnavailable

router = APIRouter(tags=["stream"])
_CHECK_SESSION_EVERY_S: Final = 15.0
_SEND_TIMEOUT_S: Final = 15.0


@router.get("/stream", response_class=EventSourceResponse)
async def stream(_who: Viewer, request: Request, parts: AppParts) -> EventSourceResponse:
    """Send changes as they come.

    The first event is ``snapshot``: all cameras and the events that go on; it comes again after an outage. Then ``scores``: of
    each camera with new ones, twice a second; ``cameras``: those of which something else changed; ``event``: one that began, went
    on, ended or was marked; ``link``: whether Redis can be read; ``tick``: a sign of life every two seconds; ``bye``: the session
    or the server ends. Who does not keep up is disconnected, and begins with another snapshot.
    """
    return EventSourceResponse(_messages(parts, request.cookies.get(COOKIE)), send_timeout=_SEND_TIMEOUT_S, ping=3600)


async def _messages(parts: Parts, token: str | None) -> AsyncIterator[ServerSentEvent]:
    hub = parts.live.hub
    page = hub.open_page(parts.live.snapshot())
    check_at_s = time.monotonic() + _CHECK_SESSION_EVERY_S
    try:
        async for each in page.messages():
            yield each
            if time.monotonic() >= check_at_s:
                check_at_s = time.monotonic() + _CHECK_SESSION_EVERY_S
                if not await run_in_threadpool(_is_logged_in, parts, token):
                    yield message("bye", None)
                    return
    finally:
        hub.close_page(page)


def _is_logged_in(parts: Parts, token: str | None) -> bool:
    """Whether the page may go on; while Redis is away there is nothing new to see anyway."""
    try:
        return parts.access.find(token) is not None
    except RedisUnavailable:
        return True
