"""Masks and zones of a camera: what is in force, and what operators draw and remove."""

from typing import Annotated

from fastapi import APIRouter, Query, Request
from pydantic import Field, StringConstraints

from streamer.areas import CameraAreas, Zone, ZoneName
from streamer.config import CameraId, CameraSettings
from streamer.dashboard.access import Identity
from streamer.dashboard.drawn import (
    Areas,
    Change,
    DrawnPolygon,
    areas_in_force,
    change_areas,
    with_mask,
    with_zone,
    without_mask,
    without_zone,
)
from streamer.dashboard.models import Row
from streamer.dashboard.parts import Admin, AppParts, Operator, Parts, Viewer
from streamer.dashboard.problems import RequestRefused

router = APIRouter(tags=["areas"])

AskedCamera = Annotated[CameraId, Query()]
MaskId = Annotated[str, Query(pattern="^[0-9a-f]{12}$")]


class NewMask(Row):
    """A mask that was drawn."""

    camera_id: CameraId
    polygon: DrawnPolygon


class NewZone(Zone):
    """A zone that was drawn; it replaces one of the same name."""

    camera_id: CameraId
    name: Annotated[ZoneName, StringConstraints(strip_whitespace=True)]
    polygon: DrawnPolygon
    false_events_per_camera_day: float | None = Field(default=None, gt=0, le=1e6)


@router.get("/camera/areas")
def areas(_who: Viewer, camera_id: AskedCamera, parts: AppParts) -> Areas:
    """Tell a camera's masks and zones, of the settings and drawn by operators, and what was called normal there."""
    return _in_force(parts, camera_id, parts.areas.read().get(camera_id, CameraAreas()))


@router.put("/camera/mask")
def draw_mask(who: Operator, asked: NewMask, request: Request, parts: AppParts) -> Areas:
    """Hide a part of a camera's picture from now on; returns what is in force then. Services apply it within a second."""
    _require_known(parts, asked.camera_id)
    parts.access.audit(request, who, "draw mask", asked.camera_id, "ok")
    in_force = _changed(parts, asked.camera_id, with_mask(asked.polygon))
    parts.status.forget_picture(asked.camera_id)
    return in_force


@router.delete("/camera/mask")
def remove_mask(who: Admin, camera_id: AskedCamera, mask_id: MaskId, request: Request, parts: AppParts) -> Areas:
    """Show again what a mask that somebody drew hides; returns what is in force then."""
    parts.access.audit(request, who, "remove mask", camera_id, "ok")
    return _changed(parts, camera_id, without_mask(mask_id))


@router.put("/camera/zone")
def draw_zone(who: Operator, asked: NewZone, request: Request, parts: AppParts) -> Areas:
    """Name a part of a camera's picture, with a budget of its own or without; returns what is in force then."""
    _require_known(parts, asked.camera_id)
    _audit_zone(parts, request, who, "draw zone", asked.camera_id, asked.name)
    return _changed(parts, asked.camera_id, with_zone(Zone(**asked.model_dump(exclude={"camera_id"}))))


@router.delete("/camera/zone")
def remove_zone(
    who: Operator, camera_id: AskedCamera, name: Annotated[ZoneName, Query()], request: Request, parts: AppParts
) -> Areas:
    """Remove a zone that somebody drew; returns what is in force then, perhaps a zone of this name in the settings."""
    _audit_zone(parts, request, who, "remove zone", camera_id, name)
    return _changed(parts, camera_id, without_zone(name))


def _audit_zone(parts: Parts, request: Request, who: Identity, action: str, camera_id: str, name: str) -> None:
    parts.access.audit(request, who, action, f"{camera_id}: {name}", "ok")


def _changed(parts: Parts, camera_id: str, change: Change) -> Areas:
    return _in_force(parts, camera_id, change_areas(parts.areas, camera_id, change))


def _in_force(parts: Parts, camera_id: str, drawn: CameraAreas) -> Areas:
    return areas_in_force(parts.settings.cameras.get(camera_id, CameraSettings()).areas, drawn)


def _require_known(parts: Parts, camera_id: str) -> None:
    """Nobody fills Redis with areas of cameras that do not exist."""
    if camera_id not in parts.live.board.camera_ids and camera_id not in parts.settings.cameras:
        raise RequestRefused(404, "there is no such camera", "see GET /api/v1/cameras")
