"""All events, newest first, each a row made from its entries in the stream and from what people said of it."""

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterator
from typing import Final, NamedTuple

from deploy.profile_learning import Channel
from streamer.dashboard.models import Acknowledgement, Comment, EventRow, Judgement, Verdict
from streamer.redis.operators import Mark
from streamer.types import Event

MAX_ROWS: Final = 50_000
"""Events kept; of more, the oldest are dropped."""
MAX_COMMENTS: Final = 100
"""Comments kept of one event; of more, the newest."""
_MAX_EARLY: Final = 10_000

Place = tuple[int, str]
"""Where an event lies in the order: its start and its id."""


class EventFilter(NamedTuple):
    """Which events are asked for; None for all."""

    camera_id: str | None = None
    channel: Channel | None = None
    is_open: bool | None = None
    verdict: Verdict | str | None = None
    """``none`` for events that nobody judged."""
    acknowledged: bool | None = None

    def matches(self, row: EventRow) -> bool:
        """Whether an event is asked for."""
        return (
            self.camera_id in {None, row.camera_id}
            and self.channel in {None, row.channel}
            and self.is_open in {None, row.open}
            and self.acknowledged in {None, row.acknowledged is not None}
            and self.verdict in {None, "none" if row.verdict is None else row.verdict.kind}
        )


class EventIndex:
    """Rows of events by id and in order."""

    def __init__(self) -> None:
        self._rows: dict[str, EventRow] = {}
        self._order: list[Place] = []
        self._open: dict[str, str] = {}
        """camera_id -> the event that goes on."""
        self._early: dict[str, list[Mark]] = {}
        """Marks of events that are not known (yet)."""

    def __len__(self) -> int:
        return len(self._rows)

    def get(self, event_id: str) -> EventRow | None:
        """The event of this id."""
        return self._rows.get(event_id)

    def open_event(self, camera_id: str) -> EventRow | None:
        """The event of a camera that goes on."""
        event_id = self._open.get(camera_id)
        return None if event_id is None else self._rows.get(event_id)

    def add(self, event: Event) -> list[EventRow]:
        """Take one entry in; returns the rows that it changed."""
        known = self._rows.get(event.event_id)
        changed = [] if known is not None else self._close_lost(event)
        row = _first_row(event) if known is None else _next_row(known, event)
        if known is None:
            insort(self._order, (row.started_at_ms, row.event_id))
            for mark in self._early.pop(row.event_id, ()):
                row = _marked(row, mark)
        self._rows[row.event_id] = row
        if row.open:
            self._open[row.camera_id] = row.event_id
        elif self._open.get(row.camera_id) == row.event_id:
            del self._open[row.camera_id]
        self._drop_oldest()
        return [*changed, row]

    def mark(self, mark: Mark) -> EventRow | None:
        """Take one mark in; returns the row that it changed."""
        row = self._rows.get(mark.event_id)
        if row is None:
            if len(self._early) < _MAX_EARLY:
                self._early.setdefault(mark.event_id, []).append(mark)
            return None
        self._rows[row.event_id] = _marked(row, mark)
        return self._rows[row.event_id]

    def newest_first(
        self, *, before: Place | None = None, from_ms: int | None = None, to_ms: int | None = None
    ) -> Iterator[EventRow]:
        """Events that started in a time, newest first; ``before`` goes on behind an event that was told already."""
        first = 0 if from_ms is None else bisect_left(self._order, (from_ms, ""))
        last = len(self._order) if to_ms is None else bisect_right(self._order, (to_ms, "~"))
        if before is not None:
            last = min(last, bisect_left(self._order, before))
        return (self._rows[event_id] for _, event_id in reversed(self._order[first:last]))

    def _close_lost(self, event: Event) -> list[EventRow]:
        """A camera has one event at a time: the end of an earlier one that is still open was lost."""
        lost = self.open_event(event.camera_id)
        if lost is None or lost.started_at_ms > event.started_at_ms:
            return []
        self._rows[lost.event_id] = lost.model_copy(update={"open": False})
        return [self._rows[lost.event_id]]

    def _drop_oldest(self) -> None:
        while len(self._order) > MAX_ROWS:
            row = self._rows.pop(self._order.pop(0)[1])
            if self._open.get(row.camera_id) == row.event_id:
                del self._open[row.camera_id]


def _first_row(event: Event) -> EventRow:
    return EventRow(
        open=event.kind != "end",
        provisional=event.provisional is not None,
        **event.model_dump(include=_FROM_FIRST),
    )


_FROM_FIRST = EventRow.model_fields.keys() & Event.model_fields.keys() - {"provisional"}
_FROM_NEWEST = {"captured_at_ms", "ended_at_ms", "peak_score", "threshold", "scored_at_ms"}
_FROM_HIGHEST = {"channel", "text", "region", "zones"}


def _next_row(row: EventRow, event: Event) -> EventRow:
    """The row after one more entry; what an event looks like is told by its highest score, of which the picture is kept."""
    update = event.model_dump(include=_FROM_NEWEST)
    if event.channel is not None and (row.channel is None or event.peak_score > row.peak_score):
        update |= event.model_dump(include=_FROM_HIGHEST)
    update["peak_score"] = max(row.peak_score, event.peak_score)
    return row.model_copy(update={**update, "open": row.open and event.kind != "end"})


def _marked(row: EventRow, mark: Mark) -> EventRow:
    match mark.kind:
        case "acknowledge":
            return (
                row
                if row.acknowledged
                else row.model_copy(update={"acknowledged": Acknowledgement(user=mark.user, at_ms=mark.at_ms)})
            )
        case "comment":
            comments = (*row.comments, Comment(text=mark.text or "", user=mark.user, at_ms=mark.at_ms))[-MAX_COMMENTS:]
            return row.model_copy(update={"comments": comments})
        case "unmark":
            return row.model_copy(update={"verdict": None})
        case kind:
            return row.model_copy(update={"verdict": Judgement(kind=kind, user=mark.user, at_ms=mark.at_ms)})
