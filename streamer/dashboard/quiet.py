"""What operators call normal: the same kind of thing, at the same place, raises no event there any more."""

from pydantic import ValidationError

from streamer.areas import MAX_AREAS, CameraAreas, Quiet
from streamer.dashboard.evidence import Evidence
from streamer.dashboard.models import EventRow
from streamer.dashboard.problems import RequestRefused
from streamer.redis.areas import RedisAreaStore

_MORE = 0.1
"""How much higher than that of its event a score may be and still be the same, as a share of it."""


def quiet_of(row: EventRow, evidence: Evidence | None, user: str, at_ms: int) -> Quiet | None:
    """What is quiet once an event was called normal; None if no place is known of it."""
    if evidence is None or evidence.region is None or not evidence.width_px or not evidence.height_px:
        return None
    x, y, width, height = evidence.region
    left, top = _share(x, evidence.width_px), _share(y, evidence.height_px)
    right, bottom = _share(x + width, evidence.width_px), _share(y + height, evidence.height_px)
    return Quiet(
        event_id=row.event_id,
        box=(left, top, right - left, bottom - top),
        channel=row.channel,
        up_to=row.peak_score + _MORE * abs(row.peak_score),
        user=user,
        at_ms=at_ms,
    )


def with_quiet(areas: CameraAreas, quiet: Quiet) -> CameraAreas:
    """Areas of which this is one."""
    others = without_quiet(areas, quiet.event_id)
    return others.model_copy(update={"quiet": (*others.quiet, quiet)})


def without_quiet(areas: CameraAreas, event_id: str) -> CameraAreas:
    """Areas of which none came of this event."""
    return areas.model_copy(update={"quiet": tuple(each for each in areas.quiet if each.event_id != event_id)})


def make_quiet(store: RedisAreaStore, camera_id: str, quiet: Quiet) -> None:
    """Store what was called normal at a camera; RequestRefused if there is too much of it already."""
    try:
        store.change(camera_id, lambda areas: with_quiet(areas, quiet))
    except ValidationError as error:
        problem = f"{MAX_AREAS} things were called normal at camera {camera_id!r} already"
        raise RequestRefused(409, problem, "take some of them back on the camera's page, or relearn the camera") from error


def _share(pixels: float, size_px: int) -> float:
    return min(1.0, max(0.0, pixels / size_px))
