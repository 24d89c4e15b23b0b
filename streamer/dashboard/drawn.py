"""Masks and zones: what is in force at a camera, and what operators draw or remove."""

import hashlib
from collections.abc import Callable
from typing import Annotated, Final

from pydantic import AfterValidator, Field, TypeAdapter, ValidationError

from streamer.areas import MAX_AREAS, CameraAreas, Polygon, Quiet, Zone
from streamer.dashboard.models import Row
from streamer.dashboard.problems import RequestRefused
from streamer.redis.areas import RedisAreaStore

_LEAST_SHARE: Final = 0.0005
"""Of the picture: less is a line, or a click that was not meant."""
_REMOVE: Final = "remove one that is no longer needed"
_POLYGON: Final = TypeAdapter(Polygon)

Change = Callable[[CameraAreas], CameraAreas]


def _enclosing(polygon: Polygon) -> Polygon:
    """The polygon, if it encloses a part of the picture; ValueError otherwise."""
    following = (*polygon[1:], polygon[0])
    doubled = sum(x * next_y - next_x * y for (x, y), (next_x, next_y) in zip(polygon, following, strict=True))
    if abs(doubled) / 2 < _LEAST_SHARE:
        raise ValueError(f"the corners must enclose at least {_LEAST_SHARE:.2%} of the picture")
    return polygon


_EXAMPLE: Final = ((0.25, 0.25), (0.75, 0.25), (0.5, 0.75))
DrawnPolygon = Annotated[Polygon, AfterValidator(_enclosing), Field(examples=[_EXAMPLE])]


class MaskInForce(Row):
    """A part of the picture that nobody may see."""

    mask_id: str
    """Hash of the corners."""
    polygon: Polygon
    in_settings: bool
    """Whether it is one of the settings, which nobody removes here."""


class ZoneInForce(Row):
    """A named part of the picture."""

    name: str
    polygon: Polygon
    false_events_per_camera_day: float | None
    """The budget there; None for that of the settings."""
    in_settings: bool
    """Whether it is one of the settings, which nobody removes here; one that is drawn under its name holds instead."""


class Areas(Row):
    """What is in force at a camera."""

    masks: list[MaskInForce] = Field(default_factory=list)
    zones: list[ZoneInForce] = Field(default_factory=list)
    quiet: tuple[Quiet, ...] = ()
    """What was called normal."""


def areas_in_force(own: CameraAreas, drawn: CameraAreas) -> Areas:
    """The areas of the settings and those that were drawn, together."""
    both, names = own.with_more(drawn), {zone.name for zone in drawn.zones}
    masks = [
        MaskInForce(mask_id=mask_id(polygon), polygon=polygon, in_settings=number < len(own.masks))
        for number, polygon in enumerate(both.masks)
    ]
    zones = [ZoneInForce(**zone.model_dump(), in_settings=zone.name not in names) for zone in both.zones]
    return Areas(masks=masks, zones=zones, quiet=both.quiet)


def mask_id(polygon: Polygon) -> str:
    """What a mask is called by: masks have no names."""
    return hashlib.sha256(_POLYGON.dump_json(polygon)).hexdigest()[:12]


def change_areas(store: RedisAreaStore, camera_id: str, change: Change, next_step: str = _REMOVE) -> CameraAreas:
    """Change what operators drew or said at a camera; RequestRefused, with what to do then, if it is more than may be."""
    try:
        return store.change(camera_id, change)
    except ValidationError as error:
        problem = f"camera {camera_id!r} has {MAX_AREAS} of them already"
        raise RequestRefused(409, problem, next_step) from error


def with_mask(polygon: Polygon) -> Change:
    """Adds a mask, once."""
    return lambda areas: areas.model_copy(update={"masks": tuple(dict.fromkeys((*areas.masks, polygon)))})


def with_zone(zone: Zone) -> Change:
    """Adds a zone, in place of a drawn one of its name."""
    return lambda areas: areas.model_copy(update={"zones": (*_other_zones(areas, zone.name), zone)})


def without_mask(wanted: str) -> Change:
    """Removes a drawn mask; RequestRefused if there is none of this id."""

    def change(areas: CameraAreas) -> CameraAreas:
        rest = tuple(mask for mask in areas.masks if mask_id(mask) != wanted)
        _require_fewer(rest, areas.masks, "mask")
        return areas.model_copy(update={"masks": rest})

    return change


def without_zone(name: str) -> Change:
    """Removes a drawn zone; RequestRefused if there is none of this name."""

    def change(areas: CameraAreas) -> CameraAreas:
        rest = _other_zones(areas, name)
        _require_fewer(rest, areas.zones, "zone")
        return areas.model_copy(update={"zones": rest})

    return change


def _other_zones(areas: CameraAreas, name: str) -> tuple[Zone, ...]:
    return tuple(zone for zone in areas.zones if zone.name != name)


def _require_fewer(rest: tuple[object, ...], before: tuple[object, ...], what: str) -> None:
    if len(rest) == len(before):
        next_step = "look at the camera's areas again; those of the settings are removed from the file of the settings"
        raise RequestRefused(404, f"nobody drew this {what}, or it was removed already", next_step)
