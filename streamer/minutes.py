"""A camera's scores by the minute: what a timeline of days is drawn from, long after the single scores are gone.

A minute is summed up frame by frame in the camera's state, and told once when the next one begins. It is told in parts if
threshold or profile change within it, or if the camera is silent and goes on: parts of the same minute add up.
"""

from typing import Annotated, Final, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat

from deploy.profile_learning import Channel

MINUTE_MS: Final = 60_000

Count = Annotated[int, Field(ge=0, le=1_000_000_000)]


class ScoredFrame(NamedTuple):
    """What a minute takes in of a frame."""

    captured_at_ms: int
    score: float
    threshold: float
    """The enter threshold in force."""
    profile_id: str | None
    channel: Channel | None
    in_event: bool
    """Whether an announced event was open."""
    withheld: bool
    """Whether its score could start no event, because the camera is being learned or shows nothing to be trusted."""


class ScoreMinute(BaseModel):
    """A minute's scores so far. Its field names are part of the format in Redis; others are ignored."""

    model_config = ConfigDict(frozen=True)

    minute_at_ms: int
    """Capture time at which it begins."""
    frames: Annotated[Count, Field(ge=1)]
    """How many were scored."""
    total: FiniteFloat
    """Sum of their scores."""
    highest: FiniteFloat
    highest_at_ms: int
    """Capture time of the first frame with the highest score."""
    channel: Channel | None = None
    """What raised the highest score, where that is known."""
    threshold: FiniteFloat
    profile_id: str | None = None
    """None for the bundle's default."""
    event_frames: Count = 0
    """How many of the frames came while an announced event was open."""
    withheld_frames: Count = 0
    """How many could start no event."""

    def takes(self, frame: ScoredFrame) -> bool:
        """Whether a frame belongs to it."""
        own = (self.minute_at_ms, self.threshold, self.profile_id)
        return own == (_minute_at_ms(frame), frame.threshold, frame.profile_id)

    def fields(self) -> dict[str, str]:
        """Its entry in Redis."""
        fields = {
            "schema": "1",
            "minute_at_ms": str(self.minute_at_ms),
            "frames": str(self.frames),
            "mean": f"{self.total / self.frames:.6g}",
            "highest": f"{self.highest:.6g}",
            "highest_at_ms": str(self.highest_at_ms),
            "threshold": f"{self.threshold:.6g}",
            "event_frames": str(self.event_frames),
            "withheld_frames": str(self.withheld_frames),
        }
        told = {"channel": self.channel, "profile_id": self.profile_id}
        return fields | {name: text for name, text in told.items() if text is not None}


class Summed(NamedTuple):
    """A camera's minute after a frame, and the one that ended with it."""

    minute: ScoreMinute
    ended: ScoreMinute | None


def sum_up(minute: ScoreMinute | None, frame: ScoredFrame) -> Summed:
    """Add a camera's next frame to its minute."""
    if minute is None or not minute.takes(frame):
        return Summed(_first(frame), minute)
    update: dict[str, object] = {
        "frames": minute.frames + 1,
        "total": minute.total + frame.score,
        "event_frames": minute.event_frames + frame.in_event,
        "withheld_frames": minute.withheld_frames + frame.withheld,
    }
    if frame.score > minute.highest:
        update |= {"highest": frame.score, "highest_at_ms": frame.captured_at_ms, "channel": frame.channel}
    return Summed(minute.model_copy(update=update), None)


def _first(frame: ScoredFrame) -> ScoreMinute:
    return ScoreMinute(
        minute_at_ms=_minute_at_ms(frame),
        frames=1,
        total=frame.score,
        highest=frame.score,
        highest_at_ms=frame.captured_at_ms,
        channel=frame.channel,
        threshold=frame.threshold,
        profile_id=frame.profile_id,
        event_frames=int(frame.in_event),
        withheld_frames=int(frame.withheld),
    )


def _minute_at_ms(frame: ScoredFrame) -> int:
    return frame.captured_at_ms // MINUTE_MS * MINUTE_MS
