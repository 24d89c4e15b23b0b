"""When something is told, when it is only counted, and when it is left out. Pure: a state and an entry in, a decision out."""

from datetime import datetime, timedelta
from typing import Any, Final, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict

from streamer.notify.notices import Notice, Problem, ReceiverSettings, at_ms, wants
from streamer.receivers import parse_hours
from streamer.types import Event

_MOST_CAMERAS: Final = 10_000
"""What is remembered of more, is forgotten of those that were silent longest."""
_ORDER: Final = {"start": 0, "update": 1, "end": 2}


class _State(BaseModel):
    # Field names are part of the format in Redis. Those of a newer version are ignored, so going back works.
    model_config = ConfigDict(frozen=True)


class CameraState(_State):
    """What a receiver was told of a camera."""

    event_id: str = ""
    """The newest event."""
    fate: Literal["told", "counted", "refused"] = "refused"
    """What became of it; ``refused``: another channel raised it than those that the receiver wants."""
    told_at_ms: int | None = None
    """When an event was told last."""
    more: int = 0
    """How many were counted since."""
    place: tuple[int, int] = (-1, -1)
    """Offset and kind of what was told last: Redis may get an entry twice, if its replica takes over."""


class CameraSummary(_State):
    """What was not told of a camera in quiet hours."""

    events: int = 0
    event_id: str = ""
    """The newest of them."""
    problems: dict[str, Literal["start", "end"]] = {}
    """What was told of each last."""


class QuietSummary(_State):
    """What was not told in quiet hours."""

    since_ms: int
    cameras: dict[str, CameraSummary] = {}


class ReceiverState(_State):
    """What is remembered of what a receiver was told, from one entry to the next."""

    cameras: dict[str, CameraState] = {}
    quiet: QuietSummary | None = None


class Verdict(NamedTuple):
    """What becomes of an entry, and the state after that."""

    is_told: bool
    state: ReceiverState
    more: int = 0
    """How many events of its camera were counted since the last one that was told."""


def is_quiet(receiver: ReceiverSettings, now: datetime) -> bool:
    """Whether nothing is to be told now."""
    return receiver.quiet_hours is not None and parse_hours(receiver.quiet_hours).holds(now.time())


def quiet_until_ms(receiver: ReceiverSettings, now: datetime) -> int:
    """When the last quiet hours ended, now that they are over."""
    if receiver.quiet_hours is None:  # they were set until the last start
        return round(now.timestamp() * 1000)
    end = datetime.combine(now.date(), parse_hours(receiver.quiet_hours).end, now.tzinfo)
    return round((end if end <= now else end - timedelta(days=1)).timestamp() * 1000)


def judge(receiver: ReceiverSettings, state: ReceiverState, notice: Notice, now: datetime) -> Verdict:
    """Whether a receiver is told of an entry that concerns it, now that this is due."""
    if isinstance(notice, Event):
        return _judge_event(receiver, state, notice, now)
    if is_quiet(receiver, now):
        return Verdict(is_told=False, state=_put_off(state, notice))
    return Verdict(is_told=True, state=state)


def _judge_event(receiver: ReceiverSettings, state: ReceiverState, event: Event, now: datetime) -> Verdict:
    camera = state.cameras.get(event.camera_id, CameraState())
    left_out = Verdict(is_told=False, state=state)
    is_same = camera.event_id == event.event_id
    if not wants(receiver, event):
        return left_out if is_same else Verdict(is_told=False, state=_changed(state, event, camera, fate="refused"))
    if event.kind not in receiver.kinds or (is_same and _is_settled(camera, event)):
        return left_out
    if is_quiet(receiver, now):
        return left_out if is_same and camera.fate == "told" else Verdict(is_told=False, state=_put_off(state, event))
    place = _place(event)
    if is_same and camera.fate == "told":
        return Verdict(is_told=True, state=_changed(state, event, camera, place=place))
    if camera.told_at_ms is not None and abs(at_ms(event) - camera.told_at_ms) < receiver.cooldown_s * 1000:
        return Verdict(is_told=False, state=_changed(state, event, camera, fate="counted", more=camera.more + 1))
    told = _changed(state, event, camera, fate="told", told_at_ms=at_ms(event), more=0, place=place)
    return Verdict(is_told=True, state=told, more=camera.more)


def _is_settled(camera: CameraState, event: Event) -> bool:
    """Whether an entry of the camera's newest event follows what became of that: it is left out too, or was told before."""
    match camera.fate:
        case "counted":
            return True
        case "refused":
            return event.channel is None
        case "told":
            return _place(event) <= camera.place


def _place(event: Event) -> tuple[int, int]:
    return event.offset, _ORDER[event.kind]


def _changed(state: ReceiverState, event: Event, camera: CameraState, **update: Any) -> ReceiverState:
    changed = camera.model_copy(update={"event_id": event.event_id, **update})
    others = {camera_id: each for camera_id, each in state.cameras.items() if camera_id != event.camera_id}
    cameras = dict([*others.items(), (event.camera_id, changed)][-_MOST_CAMERAS:])
    return state.model_copy(update={"cameras": cameras})


def _put_off(state: ReceiverState, notice: Notice) -> ReceiverState:
    quiet = state.quiet or QuietSummary(since_ms=at_ms(notice))
    camera = quiet.cameras.get(notice.camera_id, CameraSummary())
    if isinstance(notice, Problem):
        update: dict[str, Any] = {"problems": {**camera.problems, notice.problem: notice.kind}}
    else:
        is_another = camera.event_id != notice.event_id
        update = {"events": camera.events + is_another, "event_id": notice.event_id}
    cameras = {**quiet.cameras, notice.camera_id: camera.model_copy(update=update)}
    return state.model_copy(update={"quiet": quiet.model_copy(update={"cameras": cameras})})
