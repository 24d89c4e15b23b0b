"""What the dashboard's API tells: rows of cameras and events. The docstrings go into the OpenAPI document."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from deploy.profile_learning import Channel
from streamer.types import EVENT_ID_PATTERN

EventId = Annotated[str, Field(pattern=EVENT_ID_PATTERN)]
Verdict = Literal["true", "false", "normal"]


class Row(BaseModel):
    """A value that the API tells."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)


class Acknowledgement(Row):
    """Who has taken notice of an event first."""

    user: str
    at_ms: int


class Judgement(Row):
    """What somebody said of an event last."""

    kind: Verdict
    user: str
    at_ms: int


class Comment(Row):
    """What somebody wrote on an event."""

    text: str
    user: str
    at_ms: int


class EventRow(Row):
    """One event, from all its entries and marks. Times are capture times in milliseconds since the Unix epoch."""

    event_id: str
    camera_id: str
    open: bool
    """Whether it goes on."""
    started_at_ms: int
    captured_at_ms: int
    """Of the newest entry."""
    ended_at_ms: int | None = None
    """None while it goes on, and for an event whose end was never told."""
    peak_score: float
    threshold: float
    provisional: bool = False
    """The camera was still being learned."""
    channel: Channel | None = None
    """What raised the score."""
    text: str | None = None
    """The channel in words."""
    zones: str | None = None
    """Names of the zones that it lies in, separated by commas."""
    region: str | None = None
    """``x,y,w,h`` in pixels of the camera's image."""
    budget: float
    """False events a day that were asked for."""
    bound: float | None = None
    """False events a day at most, with 95 % confidence."""
    observed_s: float
    """How long the camera was watched to say so."""
    profile_id: str | None = None
    model_id: str
    engine: str
    scored_at_ms: int
    """When the newest entry was written."""
    acknowledged: Acknowledgement | None = None
    verdict: Judgement | None = None
    comments: tuple[Comment, ...] = ()


class Learning(Row):
    """How far a camera is learned."""

    share: float
    """Of the least time, 0 to 1."""
    left_s: float
    """The rest of the least time; 0 while only more certainty is waited for."""


class ScoreRow(Row):
    """The newest score of a camera."""

    camera_id: str
    captured_at_ms: int
    scored_at_ms: int
    """When the service wrote it."""
    score: float
    highest: float
    """Of the scores since the last row of this camera."""
    threshold: float
    learning: Learning | None = None
    """None if the camera is on watch."""


class HealthProblemRow(Row):
    """What is wrong with a camera."""

    problem: str
    text: str
    since_ms: int
    """Capture time of the frame that showed it, or showed that it is over."""


class HealthChangeRow(HealthProblemRow):
    """The start or the end of a problem with a camera."""

    kind: Literal["start", "end"]


class CameraRow(Row):
    """What is known of a camera now."""

    camera_id: str
    state: Literal["alarm", "problem", "learning", "watching"]
    """The most urgent of what holds. Whether scores still come is told by ``newest.scored_at_ms``."""
    newest: ScoreRow | None = None
    problem: HealthProblemRow | None = None
    alarm: str | None = None
    """The ``event_id`` of the event that goes on."""
    picture_at_ms: int | None = None
    """When the newest picture was taken; None if there is none."""
    recent: tuple[tuple[int, float], ...] = ()
    """Capture time and highest score of each of the last half seconds that had one, of about a minute."""
