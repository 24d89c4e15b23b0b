"""A camera's scores over a time, in so many points as can be seen: single ones, minutes, or parts of several minutes."""

from collections.abc import Sequence
from itertools import groupby
from typing import Final, NamedTuple

from streamer.dashboard.models import Row
from streamer.minutes import MINUTE_MS
from streamer.redis.minutes import MinuteEntry

MAX_POINTS: Final = 2_000
FINE_MS: Final = 7_200_000
"""Of a longer time, single scores are told only as far as no minute holds them yet."""
_MAX_PARTS: Final = 1_500
_PART_MINUTES: Final = (1, 2, 5, 10, 15, 30, 60, 120, 240)

Point = tuple[int, float, float]
"""Capture time, score, threshold."""


class Part(NamedTuple):
    """A minute of scores, or several together."""

    at_ms: int
    mean: float
    highest: float
    highest_at_ms: int
    threshold: float
    frames: int
    event_frames: int
    withheld_frames: int


class Timeline(Row):
    """A camera's scores over a time, oldest first: parts, and single scores of the newest stretch."""

    part_ms: int
    """Length of a part: a minute, or more if the time is long."""
    parts: list[Part]
    """Of each: when it begins, mean score, highest score and when that was, threshold, number of scores, how many of them came
    while an event was open, how many could start no event. Where there were no scores, there is no part."""
    points: list[Point]
    """Capture time, score, threshold; of many, the highest and the lowest of each part of the time."""
    minutes_since_ms: int | None
    """When the oldest minute begins that Redis has of the camera; None if it has none."""


def singles_from_ms(minutes: Sequence[MinuteEntry], from_ms: int) -> int:
    """From when on single scores are told of a time that begins at ``from_ms`` and has these minutes."""
    if not minutes:
        return from_ms
    end_ms = minutes[-1].minute_at_ms + MINUTE_MS
    return end_ms if end_ms - max(from_ms, minutes[0].minute_at_ms) > FINE_MS else from_ms


def make_timeline(minutes: Sequence[MinuteEntry], scores: Sequence[Point], since_ms: int | None) -> Timeline:
    """The timeline of minutes and scores of one time, oldest first; ``since_ms``: see :class:`Timeline`."""
    if scores:
        minutes = [minute for minute in minutes if minute.minute_at_ms + MINUTE_MS <= scores[0][0]]
    part_ms = _part_ms(minutes[-1].minute_at_ms - minutes[0].minute_at_ms if minutes else 0)
    grouped = groupby(minutes, lambda minute: minute.minute_at_ms // part_ms * part_ms)
    parts = [_together(at_ms, list(own)) for at_ms, own in grouped]
    return Timeline(part_ms=part_ms, parts=parts, points=thinned(scores), minutes_since_ms=since_ms)


def thinned(scores: Sequence[Point]) -> list[Point]:
    """At most :data:`MAX_POINTS` of them: of many, the highest and the lowest of each part."""
    points = [(captured_at_ms, round(score, 4), round(threshold, 4)) for captured_at_ms, score, threshold in scores]
    size = -(-2 * len(points) // MAX_POINTS)
    if size <= 1:
        return points
    parts = (points[first : first + size] for first in range(0, len(points), size))
    return [point for part in parts for point in sorted({min(part, key=_score), max(part, key=_score)})]


def _part_ms(span_ms: int) -> int:
    """The shortest part of which a time has few enough; of any longer time the last."""
    fitting = (minutes for minutes in _PART_MINUTES if span_ms <= minutes * MINUTE_MS * _MAX_PARTS)
    return next(fitting, _PART_MINUTES[-1]) * MINUTE_MS


def _together(at_ms: int, minutes: Sequence[MinuteEntry]) -> Part:
    frames, highest = sum(minute.frames for minute in minutes), max(minutes, key=lambda minute: minute.highest)
    return Part(
        at_ms=at_ms,
        mean=round(sum(minute.mean * minute.frames for minute in minutes) / frames, 4),
        highest=round(highest.highest, 4),
        highest_at_ms=highest.highest_at_ms,
        threshold=round(minutes[-1].threshold, 4),
        frames=frames,
        event_frames=sum(minute.event_frames for minute in minutes),
        withheld_frames=sum(minute.withheld_frames for minute in minutes),
    )


def _score(point: Point) -> float:
    return point[1]
