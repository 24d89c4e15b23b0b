"""What a camera's profile holds for usual, as maps over its picture."""

from typing import Annotated

from fastapi import APIRouter, Query, Response

from deploy.errors import BundleError, ProfileError
from deploy.profile import Profile
from deploy.profile_learning import Normal
from streamer.areas import CameraAreas
from streamer.cameras import open_store
from streamer.config import CameraId, CameraSettings
from streamer.dashboard.maps import MEANINGS, MapKind, learned_normal, map_png, usual
from streamer.dashboard.models import Row
from streamer.dashboard.parts import AppParts, Parts, Viewer
from streamer.dashboard.problems import RequestRefused

router = APIRouter(tags=["cameras"])

AskedCamera = Annotated[CameraId, Query()]


class LearnedMap(Row):
    """One map, and what it means."""

    kind: MapKind
    title: str
    text: str
    unit: str
    low: float
    high: float
    """The least and the largest value, in this unit."""


class LearnedMaps(Row):
    """The maps of a camera's profile."""

    profile_id: str | None = None
    maps: tuple[LearnedMap, ...] = ()
    missing: str | None = None
    """Why there are none."""


@router.get("/camera/maps")
def maps(_who: Viewer, camera_id: AskedCamera, parts: AppParts) -> LearnedMaps:
    """Tell what a camera's profile holds for usual, and what each map of it means."""
    try:
        profile, normal = _learned(parts, camera_id)
    except (BundleError, ProfileError) as error:
        return LearnedMaps(missing=str(error))
    return LearnedMaps(profile_id=profile.profile_id, maps=tuple(_described(normal, kind) for kind in MEANINGS))


@router.get("/camera/map", response_class=Response, responses={200: {"content": {"image/png": {}}}})
def one_map(_who: Viewer, camera_id: AskedCamera, kind: MapKind, parts: AppParts) -> Response:
    """Send a map to be laid over the camera's picture."""
    try:
        _, normal = _learned(parts, camera_id)
    except (BundleError, ProfileError) as error:
        raise RequestRefused(404, str(error), "see GET /api/v1/camera/maps for why it is missing") from error
    own = parts.settings.cameras.get(camera_id, CameraSettings()).areas
    areas = own.with_more(parts.areas.read().get(camera_id, CameraAreas()))
    return Response(map_png(usual(normal, kind), areas.masks), media_type="image/png")


def _described(normal: Normal, kind: MapKind) -> LearnedMap:
    values, meaning = usual(normal, kind), MEANINGS[kind]
    low, high = float(values.min()), float(values.max())
    return LearnedMap(kind=kind, title=meaning.title, text=meaning.text, unit=meaning.unit, low=low, high=high)


def _learned(parts: Parts, camera_id: str) -> tuple[Profile, Normal]:
    """Raises BundleError, ProfileError, RedisUnavailable."""
    with open_store(parts.settings) as store:
        profile = store.read(camera_id, store.served(camera_id))
    return profile, learned_normal(parts.settings, profile)
