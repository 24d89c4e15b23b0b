"""Events: the list, one with its evidence, the files of the evidence, and marks."""

import time
from contextlib import suppress
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import FileResponse, Response
from pydantic import ConfigDict, Field, StringConstraints, model_validator
from pydantic.config import JsonDict

from deploy.profile_learning import Channel
from streamer.areas import CameraAreas, Quiet, Quieted
from streamer.dashboard.drawn import change_areas
from streamer.dashboard.evidence import MEDIA_TYPES, Evidence
from streamer.dashboard.index import EventFilter, Place
from streamer.dashboard.models import EventId, EventRow, Row, Verdict
from streamer.dashboard.parts import AppParts, Operator, Parts, Viewer
from streamer.dashboard.problems import RequestRefused
from streamer.dashboard.quiet import TAKE_BACK, quiet_of, with_quiet, without_quiet
from streamer.dashboard.sending import send_file
from streamer.interfaces import RedisUnavailable
from streamer.redis.operators import MAX_COMMENT_CHARS, Mark, MarkKind

router = APIRouter(tags=["events"])
_MAX_PAGE = 200
Cursor = Annotated[str, Field(pattern=r"^[0-9]{1,15}-[0-9A-Za-z]{1,64}$")]


class QuietedEvents(Row):
    """Events that were not announced, because an earlier one was called normal."""

    events: int
    began_ms: tuple[int, ...]
    """When the newest of them began, newest first."""


class EventItem(Row):
    """An event with what its evidence shows."""

    event: EventRow
    evidence: Evidence | None
    """None if there is none, (still) or no more."""
    quiet: Quiet | None = None
    """What raises no event any more, because this one was called normal; only where one event is asked for."""
    quieted: QuietedEvents | None = None
    """The later events that were quieted by it; with ``quiet`` alone."""
    kept: bool = False
    """Whether its clip is kept for training; only where one event is asked for."""


class EventPage(Row):
    """A part of the list of events, newest first."""

    events: list[EventItem]
    next: str | None
    """``cursor`` of the next part; None at the end."""
    total: int | None
    """How many events match; only of the first part."""


class EventQuery(Row):
    """Which events are asked for."""

    camera_id: str | None = None
    channel: Channel | None = None
    open: bool | None = None
    verdict: Verdict | Literal["none"] | None = None
    acknowledged: bool | None = None
    from_ms: int | None = None
    to_ms: int | None = None
    cursor: Cursor | None = None
    limit: int = Field(default=50, ge=1, le=_MAX_PAGE)

    @property
    def filter(self) -> EventFilter:
        """What they must be."""
        return EventFilter(self.camera_id, self.channel, self.open, self.verdict, self.acknowledged)

    @property
    def place(self) -> Place | None:
        """Behind which event to go on."""
        if self.cursor is None:
            return None
        started_at_ms, _, event_id = self.cursor.partition("-")
        return int(started_at_ms), event_id


_TEXT_OF_A_COMMENT: JsonDict = {
    "if": {"properties": {"kind": {"const": "comment"}}},
    "then": {"required": ["text"], "properties": {"text": {"type": "string"}}},
    "else": {"properties": {"text": {"type": "null"}}},
}


class NewMark(Row):
    """What somebody says of an event."""

    model_config = ConfigDict(json_schema_extra=_TEXT_OF_A_COMMENT)

    kind: MarkKind
    text: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=MAX_COMMENT_CHARS)] | None = None
    """Only of a comment, and needed there."""

    @model_validator(mode="after")
    def _text_is_of_a_comment(self) -> "NewMark":
        if (self.kind == "comment") != (self.text is not None):
            raise ValueError("a comment needs a text, and nothing else has one")
        return self


@router.get("/events")
async def list_events(_who: Viewer, query: Annotated[EventQuery, Query()], parts: AppParts) -> EventPage:
    """List events, newest first, a part at a time."""
    index = parts.live.board.events
    matching = (row for row in index.newest_first(from_ms=query.from_ms, to_ms=query.to_ms) if query.filter.matches(row))
    total = sum(1 for _ in matching) if query.place is None else None
    rest = index.newest_first(before=query.place, from_ms=query.from_ms, to_ms=query.to_ms)
    rows: list[EventRow] = []
    for row in rest:
        if query.filter.matches(row):
            if len(rows) == query.limit:
                return await _page(parts, rows, f"{rows[-1].started_at_ms}-{rows[-1].event_id}", total)
            rows.append(row)
    return await _page(parts, rows, None, total)


@router.get("/events/{event_id}")
async def one_event(_who: Viewer, event_id: EventId, parts: AppParts) -> EventItem:
    """Tell one event with its evidence, and the scores around it if they were kept."""
    row = _row(parts, event_id)
    return await run_in_threadpool(_item, parts, row)


@router.get(
    "/events/{event_id}/evidence/{name}",
    response_class=FileResponse,
    responses={200: {"content": {kind: {} for kind in sorted(set(MEDIA_TYPES.values()))}}, 206: {"description": "A part"}},
)
def evidence_file(
    _who: Viewer,
    event_id: EventId,
    name: Literal["picture.jpg", "heatmap.png", "usual.jpg", "clip.mp4"],
    request: Request,
    parts: AppParts,
) -> Response:
    """Send one file of an event's evidence; parts of it if the header Range asks for them."""
    answer = send_file(parts.evidence, _row(parts, event_id), name, request.headers)
    if answer is None:
        raise RequestRefused(
            404, f"event {event_id} has no {name}", "look at its evidence: it may be written later, or be deleted"
        )
    return answer


@router.post("/events/{event_id}/marks", status_code=201)
async def mark_event(who: Operator, event_id: EventId, new: NewMark, request: Request, parts: AppParts) -> EventRow:
    """Acknowledge an event, comment on it, or judge it; returns the event as it is then.

    ``normal`` makes the same kind of thing quiet at that place, if the place is known; the next judgement takes that back.
    """
    row, at_ms = _row(parts, event_id), round(time.time() * 1000)
    mark = Mark(event_id=event_id, camera_id=row.camera_id, kind=new.kind, text=new.text, user=who.user, at_ms=at_ms)

    def write() -> None:
        parts.access.audit(request, who, new.kind, event_id, "ok")
        _change_quiet(parts, row, mark)
        parts.operators.add_mark(mark)
        parts.live.read_marks()

    await run_in_threadpool(write)
    return _row(parts, event_id)


async def _page(parts: Parts, rows: list[EventRow], cursor: str | None, total: int | None) -> EventPage:
    def with_evidence() -> list[EventItem]:
        return [EventItem(event=row, evidence=each) for row, each in zip(rows, parts.evidence.read_all(rows), strict=True)]

    return EventPage(events=await run_in_threadpool(with_evidence), next=cursor, total=total)


def _item(parts: Parts, row: EventRow) -> EventItem:
    quiet = quieted = None
    with suppress(RedisUnavailable):  # the event itself is known
        areas = parts.areas.read().get(row.camera_id, CameraAreas())
        quiet = next((each for each in areas.quiet if each.event_id == row.event_id), None)
        quieted = None if quiet is None else _quieted(parts, row)
    kept = row.verdict is not None and parts.evidence.keeps(row)
    return EventItem(event=row, evidence=parts.evidence.read(row, scores=True), quiet=quiet, quieted=quieted, kept=kept)


def _quieted(parts: Parts, row: EventRow) -> QuietedEvents:
    found = parts.progress.quieted(parts.settings.kafka.topic, row.camera_id).get(row.event_id, Quieted())
    return QuietedEvents(events=found.events, began_ms=found.began_ms)


def _change_quiet(parts: Parts, row: EventRow, mark: Mark) -> None:
    """What was called normal is quiet until it is judged otherwise."""
    if mark.kind == "normal":
        quiet = quiet_of(row, parts.evidence.find(row), mark.user, mark.at_ms)
        if quiet is not None:
            change_areas(parts.areas, row.camera_id, with_quiet(quiet), TAKE_BACK)
    elif mark.kind in {"true", "false", "unmark"} and row.verdict is not None and row.verdict.kind == "normal":
        change_areas(parts.areas, row.camera_id, without_quiet(row.event_id))


def _row(parts: Parts, event_id: str) -> EventRow:
    row = parts.live.board.events.get(event_id)
    if row is None:
        raise RequestRefused(
            404, f"there is no event {event_id}", "it may be older than what Redis keeps; see GET /api/v1/events"
        )
    return row
