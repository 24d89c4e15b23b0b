"""Cameras: what is known of them, their pictures and scores, their profiles, and what operators change there.

A camera's id may hold any printable character, also ``/`` and ``..``; so it is a parameter and no part of a path.
"""

from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request, Response

from streamer.cameras import CameraStatus, ProfileVersion, list_cameras, list_versions, open_store
from streamer.config import CameraId
from streamer.dashboard.drawn import change_areas
from streamer.dashboard.models import CameraRow, EventId, HealthChangeRow, Row
from streamer.dashboard.parts import AppParts, Operator, Viewer
from streamer.dashboard.problems import RequestRefused
from streamer.dashboard.quiet import without_quiet
from streamer.dashboard.timeline import Timeline, make_timeline, singles_from_ms, thinned
from streamer.served import other_bundle
from streamer.types import LATEST_MS

router = APIRouter(tags=["cameras"])

AskedCamera = Annotated[CameraId, Query()]
TimeMs = Annotated[int, Query(ge=0, le=LATEST_MS)]


class Profile(Row):
    """What a camera is served with, and what it may be served with."""

    status: CameraStatus | None
    """None for a camera that has neither a profile nor scores."""
    versions: list[ProfileVersion]
    other_bundle: str | None = None
    """That a service serves another network than the bundle of the dashboard's settings has."""


class Scores(Row):
    """A camera's scores, oldest first; of many, the highest and the lowest of each part of the time."""

    points: list[tuple[int, float, float]]
    """Capture time, score, threshold."""


class CameraAction(Row):
    """What is to be done with a camera's profile."""

    camera_id: CameraId
    action: Literal["relearn", "rollback", "freeze", "unfreeze", "unquiet"]
    profile_id: str | None = None
    """Which version to go back to; by default the one before."""
    event_id: EventId | None = None
    """Of ``unquiet``: what came of which event raises events again."""


@router.get("/cameras")
async def cameras(_who: Viewer, parts: AppParts) -> list[CameraRow]:
    """List all cameras by name."""
    return parts.live.board.cameras()


@router.get("/camera")
async def camera(_who: Viewer, camera_id: AskedCamera, parts: AppParts) -> CameraRow:
    """Tell what is known of one camera."""
    _require(parts.live.board.camera_ids, camera_id)
    return parts.live.board.camera(camera_id)


@router.get("/camera/picture", response_class=Response, responses={200: {"content": {"image/jpeg": {}}}})
def picture(_who: Viewer, camera_id: AskedCamera, parts: AppParts) -> Response:
    """Send a camera's newest picture."""
    found = parts.status.picture(camera_id)
    if found is None:
        raise RequestRefused(404, "there is no picture of this camera", "check that oddsight-stream evidence runs")
    headers = {"Cache-Control": "private, max-age=60", "X-Captured-At-Ms": str(found.captured_at_ms)}
    return Response(found.jpeg, media_type="image/jpeg", headers=headers)


@router.get("/camera/scores")
def scores(_who: Viewer, camera_id: AskedCamera, parts: AppParts, from_ms: int = 0, to_ms: int = LATEST_MS) -> Scores:
    """Tell a camera's scores of a time, of those that Redis still has."""
    return Scores(points=thinned(parts.status.scores(camera_id, from_ms, to_ms)))


@router.get("/camera/timeline")
def timeline(_who: Viewer, camera_id: AskedCamera, parts: AppParts, from_ms: TimeMs = 0, to_ms: TimeMs = LATEST_MS) -> Timeline:
    """Tell a camera's scores of a time: by the minute, as far as Redis has minutes, and single ones of the newest stretch.

    Of up to two hours, single scores are told as far as Redis has them; of a longer time only those that are in no minute yet.
    """
    minutes = parts.status.minutes(camera_id, from_ms, to_ms)
    scores = parts.status.scores(camera_id, singles_from_ms(minutes, from_ms), to_ms)
    return make_timeline(minutes, scores, parts.status.minutes_since_ms(camera_id))


@router.get("/camera/health")
async def health(_who: Viewer, camera_id: AskedCamera, parts: AppParts) -> list[HealthChangeRow]:
    """Tell the last changes of a camera's health, newest first."""
    return parts.live.board.health(camera_id)


@router.get("/camera/profile")
def profile(_who: Viewer, camera_id: AskedCamera, parts: AppParts) -> Profile:
    """Tell a camera's profile and its versions, the one imported last first."""
    status = list_cameras(parts.settings, [camera_id])
    other = other_bundle(parts.settings, parts.status.services().values())
    return Profile(status=status[0] if status else None, versions=list_versions(parts.settings, camera_id), other_bundle=other)


@router.post("/camera/actions")
def act(who: Operator, asked: CameraAction, request: Request, parts: AppParts) -> Profile:
    """Change what a camera is served with. A running service takes it up within about a second."""
    parts.access.audit(request, who, asked.action, asked.camera_id, "ok")
    with open_store(parts.settings) as store:
        match asked.action:
            case "relearn":
                store.remove(asked.camera_id)
            case "rollback":
                store.roll_back(asked.camera_id, asked.profile_id)
            case "unquiet":
                change_areas(parts.areas, asked.camera_id, without_quiet(asked.event_id or ""))
            case action:
                store.freeze(asked.camera_id, frozen=action == "freeze")
    return profile(who, asked.camera_id, parts)


def _require(camera_ids: list[str], camera_id: str) -> None:
    if camera_id not in camera_ids:
        raise RequestRefused(404, "there is no such camera", "see GET /api/v1/cameras")
