"""Parts of a camera's picture that are treated in their own way: masks, zones, and what an operator called normal there."""

from collections.abc import Mapping
from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from deploy.decision import DecisionRule, Observation, OpenEvent, decide
from deploy.profile_learning import Channel

Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Polygon = Annotated[tuple[tuple[Share, Share], ...], Field(min_length=3, max_length=100)]
"""Corners as shares of the picture's width and height, from its left upper corner."""

ZoneName = Annotated[str, StringConstraints(pattern=r"^[^,\x00-\x1f]{1,64}$")]
MAX_AREAS = 50
"""Of each kind and camera."""
_NEWEST: Final = 5


class Zone(BaseModel):
    """A named part of a camera's picture; the names of the zones that an event lies in are told with it."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, hide_input_in_errors=True)

    name: ZoneName
    polygon: Polygon
    false_events_per_camera_day: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """The budget there, instead of ``decision.false_events_per_camera_day``: a higher one finds more."""


class Quiet(BaseModel):
    """What an operator called normal: the same kind of thing raises no event there any more, up to a score."""

    model_config = ConfigDict(frozen=True)

    event_id: str
    """Which event was called normal."""
    box: tuple[Share, Share, Share, Share]
    """``x, y, width, height`` as shares of the picture."""
    channel: Channel | None
    """What had raised it; None if that was not known, and then whatever does."""
    up_to: float = Field(allow_inf_nan=False)
    """Scores above it raise an event all the same."""
    user: str
    at_ms: int


class CameraAreas(BaseModel):
    """All areas of one camera. Its field names are part of the format in Redis."""

    model_config = ConfigDict(frozen=True)

    masks: tuple[Polygon, ...] = Field(default=(), max_length=MAX_AREAS)
    """Parts that nobody may see, and of which nothing is scored."""
    zones: tuple[Zone, ...] = Field(default=(), max_length=MAX_AREAS)
    quiet: tuple[Quiet, ...] = Field(default=(), max_length=MAX_AREAS)

    def with_more(self, others: "CameraAreas") -> "CameraAreas":
        """These and others together. What is masked once stays masked; of two zones of a name, the other one holds."""
        names = {zone.name for zone in others.zones}
        zones = (*(zone for zone in self.zones if zone.name not in names), *others.zones)
        # Not validated again: together they may be more than one may add at once.
        return self.model_copy(
            update={"masks": (*self.masks, *others.masks), "zones": zones, "quiet": (*self.quiet, *others.quiet)}
        )


class Quieted(BaseModel):
    """What stayed quiet because an event was called normal. Its field names are part of the format in Redis."""

    model_config = ConfigDict(frozen=True)

    events: int = Field(default=0, ge=0)
    """How many would have been announced."""
    began_ms: tuple[int, ...] = ()
    """When the newest of them began, newest first."""
    open: OpenEvent | None = None
    """The one that would go on now, or would begin."""

    def after(self, rule: DecisionRule, hidden: Observation) -> "Quieted":
        """After the camera's next frame, with the score that was hidden in it, None if none was."""
        event, changes = decide(rule, self.open, hidden)
        began = tuple(change.event.started_at_ms for change in changes if change.kind == "start")
        newest = (*began, *self.began_ms)[:_NEWEST]
        return Quieted(events=self.events + len(began), began_ms=newest, open=event)


def count_quieted(
    before: Mapping[str, Quieted], hidden: Mapping[str, float], rule: DecisionRule, event_id: str, captured_at_ms: int
) -> Mapping[str, Quieted]:
    """What was quieted at a camera after its next frame, by which event was called normal.

    ``hidden``: the scores that were hidden in it; ``event_id``: of an event that would begin with it. Of more than
    ``MAX_AREAS`` the latest are kept.
    """
    names = hidden.keys() | {name for name, each in before.items() if each.open is not None}
    if not names:
        return before
    after = dict(before)
    for name in sorted(names):
        own = after.pop(name, Quieted()).after(rule, Observation(event_id, captured_at_ms, hidden.get(name)))
        if own.events or own.open is not None:
            after[name] = own
    return dict(list(after.items())[-MAX_AREAS:])
