"""Which events a camera would have raised with another budget of false events: its stored scores, decided again.

Decided as in the service: each score by the thresholds of the profile that it was scored with, with what was withheld left out.
Of the rest of the last day only the highest score of each minute is kept, which an event cannot be decided by: it says in which
minutes events may have begun, and that none did in any other.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from math import isfinite
from statistics import median
from typing import Final, NamedTuple

from deploy.calibration import Calibration
from deploy.decision import DecisionRule, Observation, OpenEvent, decide
from deploy.errors import BundleError, ProfileCorrupt
from streamer.areas import CameraAreas
from streamer.config import CameraSettings, Settings, camera_thresholds, decision_rule, served_bundle
from streamer.minutes import MINUTE_MS
from streamer.redis.areas import RedisAreaStore
from streamer.redis.client import make_redis
from streamer.redis.minutes import MinuteEntry, minutes_between
from streamer.redis.profiles import RedisProfileStore
from streamer.redis.status import read_statuses
from streamer.redis.subscriber import HealthEntry, ScoreEntry, camera_scores, health_changes
from streamer.served import other_bundle
from streamer.types import LATEST_MS

MOST_SCORES: Final = 200_000
"""Scores that are decided again; of more, the newest."""
DAY_MS: Final = 86_400_000
_OF_NO_PICTURE: Final = frozenset({"damaged", "clock"})
"""Problems with a camera that withhold no events."""

Span = tuple[int, int]


class History(NamedTuple):
    """What Redis knows of a camera's past."""

    scores: list[ScoreEntry]
    blind: list[Span]
    """From when to when the camera showed nothing that could be trusted."""
    calibrations: Mapping[str | None, Calibration]
    """profile_id -> what it knows of the camera's scores; None for the bundle's default."""
    current: str | None
    """The profile in force."""
    areas: CameraAreas
    minutes: Sequence[MinuteEntry] = ()
    """Of the day before the newest score."""
    other_bundle: str | None = None
    """That a service serves another network than the bundle of the settings has."""


@dataclass(frozen=True, slots=True)
class FoundEvent:
    """An event that is found by deciding again; capture times in milliseconds since the Unix epoch."""

    started_at_ms: int
    ended_at_ms: int | None
    """None if it goes on at the newest score."""
    peak_score: float


@dataclass(frozen=True, slots=True)
class Earlier:
    """What minutes tell of the part of the last day of which no single scores are kept."""

    from_ms: int
    """Capture time at which the oldest of these minutes begins."""
    until_ms: int
    """And at which the newest ends, or single scores begin."""
    minutes: int
    """How many there are in which an event could begin, apart from those whose profile is not known."""
    reached: int
    """In how many of them a score reached the threshold: events may have begun in these, and in no other."""


@dataclass(frozen=True, slots=True)
class WhatIf:
    """What a camera would have raised."""

    camera_id: str
    budget: float
    """False events a day that are allowed here."""
    budget_in_force: float
    """The setting ``decision.false_events_per_camera_day``, which stays as it is."""
    enter: float | None
    """The threshold with the profile in force; None if no calibration is known of it."""
    bound: float | None
    """False events a day at most with it, with 95 % confidence."""
    from_ms: int | None
    """Capture time of the oldest score that was decided again."""
    until_ms: int | None
    """And of the newest."""
    scores: int
    """How many were."""
    earlier: Earlier | None
    """None if no minutes are kept of before."""
    events: list[FoundEvent]
    notes: list[str]
    """Why the service may have raised others."""


def what_if(settings: Settings, camera_id: str, budget: float | None = None) -> WhatIf:
    """What a camera would have raised at a budget, by default the one in force. Raises RedisUnavailable, ConfigError."""
    return decide_again(settings, camera_id, read_history(settings, camera_id), budget)


def read_history(settings: Settings, camera_id: str) -> History:
    """What Redis knows of a camera's past. Raises RedisUnavailable."""
    with make_redis(settings.redis) as client:
        scores = camera_scores(client, settings.redis, camera_id, MOST_SCORES)
        blind = blind_spans(health_changes(client, settings.redis, camera_id))
        drawn = RedisAreaStore(client, settings.redis).read().get(camera_id, CameraAreas())
        store = RedisProfileStore(client, settings.redis)
        current = store.current().get(camera_id)
        until_ms = max((score.captured_at_ms for score in scores), default=0)
        minutes = minutes_between(client, settings.redis, camera_id, until_ms - DAY_MS, until_ms)
        needed = {current, *(score.profile_id for score in scores), *(minute.profile_id for minute in minutes)}
        other = other_bundle(settings, read_statuses(client, settings.redis).values())
        found = {profile_id: _calibration(settings, store, camera_id, profile_id) for profile_id in needed}
    calibrations = {profile_id: each for profile_id, each in found.items() if each is not None}
    areas = settings.cameras.get(camera_id, CameraSettings()).areas.with_more(drawn)
    return History(scores, blind, calibrations, current, areas, minutes, other)


def decide_again(settings: Settings, camera_id: str, history: History, budget: float | None = None) -> WhatIf:
    """What a camera would have raised with this history. Raises ConfigError if its thresholds contradict each other."""
    in_force = settings.decision.false_events_per_camera_day
    asked = _with_budget(settings, in_force if budget is None else budget)
    limits = {name: camera_thresholds(asked, camera_id, each) for name, each in history.calibrations.items()}
    rules = {name: decision_rule(asked, each) for name, each in limits.items()}
    decided = [score for score in history.scores if score.profile_id in rules]
    own = limits.get(history.current)
    return WhatIf(
        camera_id=camera_id,
        budget=asked.decision.false_events_per_camera_day,
        budget_in_force=in_force,
        enter=own.enter if own else None,
        bound=own.bound if own and isfinite(own.bound) else None,
        from_ms=decided[0].captured_at_ms if decided else None,
        until_ms=decided[-1].captured_at_ms if decided else None,
        scores=len(decided),
        earlier=_earlier(rules, history),
        events=_found(settings, rules, decided, history.blind),
        notes=list(_notes(settings, camera_id, history, len(history.scores) - len(decided))),
    )


def lines(found: WhatIf) -> Iterator[str]:
    """What was found, to be printed."""
    since = "" if found.from_ms is None else f" since {_moment(found.from_ms)}"
    count = f"{len(found.events)} event{'' if len(found.events) == 1 else 's'}"
    budgets = f"{found.budget:g} false events a day allowed (in force: {found.budget_in_force:g})"
    yield f"{found.camera_id}: {count} with {budgets}, from {found.scores} scores{since}"
    if found.earlier is not None:
        earlier = found.earlier
        yield (
            f"before that, since {_moment(earlier.from_ms)}, only minutes are kept: a score reached the threshold in "
            f"{earlier.reached} of {earlier.minutes}; events may have begun in these, and in no other"
        )
    for event in found.events:
        end = "goes on" if event.ended_at_ms is None else f"{(event.ended_at_ms - event.started_at_ms) / 1000:.1f} s"
        yield f"{_moment(event.started_at_ms)}  {end}  peak {event.peak_score:.4g}"
    for note in found.notes:
        yield f"note: {note}"


def blind_spans(changes: list[HealthEntry]) -> list[Span]:
    """From when to when a camera showed nothing that could be trusted, by the changes of its health in order."""
    spans: list[Span] = []
    since_ms: int | None = 0  # the start of a problem may be older than what Redis keeps
    for change in changes:
        if change.problem in _OF_NO_PICTURE:
            continue
        if change.kind == "start":
            since_ms = change.captured_at_ms
        elif since_ms is not None:
            spans.append((since_ms, change.captured_at_ms))
            since_ms = None
    return [*spans, (since_ms, LATEST_MS)] if since_ms else spans


def _calibration(settings: Settings, store: RedisProfileStore, camera_id: str, profile_id: str | None) -> Calibration | None:
    if profile_id is not None:
        with suppress(ProfileCorrupt):  # also a version that is no longer kept
            return store.read(camera_id, profile_id).info.calibration
        return None
    with suppress(BundleError):
        return served_bundle(settings).calibration
    return None


def _with_budget(settings: Settings, budget: float) -> Settings:
    decision = settings.decision.model_copy(update={"false_events_per_camera_day": budget})
    return settings.model_copy(update={"decision": decision})


def _found(
    settings: Settings, rules: Mapping[str | None, DecisionRule], scores: list[ScoreEntry], blind: list[Span]
) -> list[FoundEvent]:
    found: dict[str, FoundEvent] = {}
    event: OpenEvent | None = None
    steps_ms = [later.captured_at_ms - earlier.captured_at_ms for earlier, later in pairwise(scores)]
    interval_ms = round(median(steps_ms)) if steps_ms else 0
    for number, score in enumerate(scores):
        withheld = score.learning is not None and settings.learning.events == "withhold"
        is_blind = any(first <= score.captured_at_ms < last for first, last in blind)
        observation = Observation(str(number), score.captured_at_ms, None if withheld or is_blind else score.score)
        event, changes = decide(rules[score.profile_id].at_interval(interval_ms), event, observation)
        for change in changes:
            found[change.event.event_id] = FoundEvent(change.event.started_at_ms, change.ended_at_ms, change.event.peak_score)
    if event is not None and event.announced_at_ms is not None:
        found[event.event_id] = FoundEvent(event.started_at_ms, None, event.peak_score)
    return list(found.values())


def _earlier(rules: Mapping[str | None, DecisionRule], history: History) -> Earlier | None:
    first_ms = min((score.captured_at_ms for score in history.scores), default=LATEST_MS)
    before = [each for each in history.minutes if each.minute_at_ms < first_ms and each.profile_id in rules]
    open_ = [each for each in before if each.withheld_frames < each.frames]
    if not before:
        return None
    reached = {each.minute_at_ms for each in open_ if each.highest >= rules[each.profile_id].enter}
    until_ms = min(first_ms, before[-1].minute_at_ms + MINUTE_MS)
    return Earlier(before[0].minute_at_ms, until_ms, len({each.minute_at_ms for each in open_}), len(reached))


def _notes(settings: Settings, camera_id: str, history: History, left_out: int) -> Iterator[str]:
    if settings.cameras.get(camera_id, CameraSettings()).enter is not None:
        yield "the camera's threshold is fixed in the settings, so no budget changes it"
    if any(zone.false_events_per_camera_day is not None for zone in history.areas.zones):
        yield "scores in zones with a budget of their own count as they were raised or lowered at the budget in force"
    if history.areas.quiet:
        yield "what was called normal here was quiet at the budget in force, and may not be at a higher one"
    if history.other_bundle is not None and None in history.calibrations:
        yield history.other_bundle
    if left_out:
        yield f"{left_out} scores are left out: the profile that they belong to is no longer kept, or cannot be read"


def _moment(time_ms: int) -> str:
    return datetime.fromtimestamp(time_ms / 1000, UTC).isoformat(timespec="seconds")
