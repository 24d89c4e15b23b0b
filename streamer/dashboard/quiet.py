"""What operators call normal: the same kind of thing, at the same place, raises no event there any more."""

from typing import Final

from streamer.areas import CameraAreas, Quiet
from streamer.dashboard.drawn import Change
from streamer.dashboard.evidence import Evidence
from streamer.dashboard.models import EventRow

TAKE_BACK: Final = "take some of what was called normal back on the camera's page, or relearn the camera"
_MORE: Final = 0.1
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


def with_quiet(quiet: Quiet) -> Change:
    """Adds what was called normal, in place of what came of the same event before."""
    return lambda areas: areas.model_copy(update={"quiet": (*_of_others(areas, quiet.event_id), quiet)})


def without_quiet(event_id: str) -> Change:
    """Removes what came of an event, if there is any."""
    return lambda areas: areas.model_copy(update={"quiet": _of_others(areas, event_id)})


def _of_others(areas: CameraAreas, event_id: str) -> tuple[Quiet, ...]:
    return tuple(each for each in areas.quiet if each.event_id != event_id)


def _share(pixels: float, size_px: int) -> float:
    return min(1.0, max(0.0, pixels / size_px))
