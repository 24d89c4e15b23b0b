"""Deciding stored scores again: what the service raised at the budget in force, and more or fewer events at another."""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import pytest

from deploy.calibration import Calibration
from deploy.decision import DecisionTimes
from deploy.errors import ConfigError
from deploy.health import HealthState
from deploy.profile import Profile
from streamer.areas import CameraAreas, Quiet, Zone
from streamer.config import Settings
from streamer.interfaces import CameraState
from streamer.minutes import MINUTE_MS, ScoredFrame, sum_up
from streamer.pipeline.decide import Decider
from streamer.redis.minutes import MinuteEntry, minute_entries
from streamer.redis.subscriber import HealthEntry, ScoreEntry
from streamer.types import FrameInfo, LearningProgress, Outcome, Partition
from streamer.what_if import Earlier, History, blind_spans, decide_again, lines
from tests.harness.fakes import FakeClock
from tests.harness.pipeline import BUNDLE, profile_of

SETTINGS = Settings.model_validate({"decision": {"merge_gap_s": 1.0}})
FRAMES = 6_000


def calibration(highest: float) -> Calibration:
    """Of a day with 60 events at the lowest threshold."""
    peaks = tuple(highest - 0.01 * number for number in range(60))
    return Calibration(median=0.1, peaks=peaks, observed_s=86_400, times=DecisionTimes(min_duration_ms=300, merge_gap_ms=1000))


def profile(highest: float) -> Profile:
    known = profile_of("gate", 1, 0)
    return replace(known, info=known.info.model_copy(update={"calibration": calibration(highest)}))


FIRST, SECOND = profile(0.9), profile(0.8)
BLIND = range(3_000, 3_500)
LEARNING = range(500)


def outcomes() -> Iterator[Outcome]:
    """Scores that wander; some are above any threshold. The profile changes in the middle; a frame completes no clip."""
    chance, score = random.Random(7), 0.3
    for number in range(FRAMES):
        score = min(1.2, max(0.0, score + chance.gauss(0.0, 0.08) - 0.02 * (score - 0.3)))
        info = FrameInfo(Partition("frames", 0), number, "gate", number * 100, 64, 48)
        served = None if number in LEARNING else FIRST if number < FRAMES // 2 else SECOND
        yield Outcome(info, None, served, None if number == 700 else score)


def raised(settings: Settings) -> tuple[list[ScoreEntry], int]:
    """The scores that a service stores, and how many events it announces."""
    decider = Decider(settings, replace(BUNDLE, calibration=calibration(0.5)), "test", FakeClock(0))
    state, stored, starts = CameraState(), [], 0
    for outcome in outcomes():
        number = outcome.info.offset
        health = HealthState(problem="covered" if number in BLIND else None)
        learning = LearningProgress(0.5, 60.0) if number in LEARNING else None
        decision = decider.decide(state.model_copy(update={"health": health}), outcome, learning)
        state = decision.state
        starts += sum(event.kind == "start" for event in decision.events)
        if decision.score is not None:
            stored.append(entry(decision.score))
    return stored, starts


def entry(fields: Mapping[str, str]) -> ScoreEntry:
    times = int(fields["captured_at_ms"]), float(fields["score"]), float(fields["threshold"]), 0
    learning = float(fields["learning"]) if "learning" in fields else None
    return ScoreEntry("gate", *times, fields.get("profile_id"), learning)


def history(scores: Sequence[ScoreEntry], areas: CameraAreas | None = None) -> History:
    changes = [
        HealthEntry("gate", "start", "covered", "", BLIND[0] * 100),
        HealthEntry("gate", "start", "clock", "", BLIND[0] * 100 + 1),
        HealthEntry("gate", "end", "covered", "", BLIND[-1] * 100 + 100),
    ]
    known = {None: calibration(0.5), FIRST.profile_id: FIRST.info.calibration, SECOND.profile_id: SECOND.info.calibration}
    return History(list(scores), blind_spans(changes), known, SECOND.profile_id, areas or CameraAreas())


@pytest.mark.parametrize("events", ["withhold", "provisional"])
@pytest.mark.parametrize("budget", [0.5, 10.0, 40.0])
def test_the_budget_in_force_gives_the_events_that_the_service_raised(events: str, budget: float) -> None:
    decision = SETTINGS.decision.model_copy(update={"false_events_per_camera_day": budget})
    learning = SETTINGS.learning.model_copy(update={"events": events})
    settings = SETTINGS.model_copy(update={"decision": decision, "learning": learning})
    stored, starts = raised(settings)
    found = decide_again(settings, "gate", history(stored))
    assert starts > 1
    assert len(found.events) == starts
    assert (found.budget, found.budget_in_force, found.scores, found.from_ms) == (budget, budget, FRAMES - 1, 0)
    assert found.enter == pytest.approx(stored[-1].threshold)


def test_another_budget_gives_what_a_service_with_it_would_have_raised() -> None:
    stored, in_force = raised(SETTINGS)
    decision = SETTINGS.decision.model_copy(update={"false_events_per_camera_day": 30.0})
    _, wanted = raised(SETTINGS.model_copy(update={"decision": decision}))
    found = decide_again(SETTINGS, "gate", history(stored), 30.0)
    assert len(found.events) == wanted != in_force
    assert (found.budget, found.budget_in_force) == (30.0, 1.0)


def test_nothing_is_found_where_nothing_is_kept() -> None:
    found = decide_again(SETTINGS, "gate", History([], [], {}, None, CameraAreas()))
    assert (found.events, found.from_ms, found.enter, found.scores) == ([], None, None, 0)
    assert list(lines(found)) == ["gate: 0 events with 1 false events a day allowed (in force: 1), from 0 scores"]


def test_an_event_that_goes_on_has_no_end() -> None:
    scores = [ScoreEntry("gate", number * 100, 2.0, 0.8, 0, SECOND.profile_id) for number in range(20)]
    (event,) = decide_again(SETTINGS, "gate", history(scores)).events
    assert (event.started_at_ms, event.ended_at_ms, event.peak_score) == (0, None, 2.0)


def test_what_cannot_be_decided_as_it_was_is_told() -> None:
    stored, _ = raised(SETTINGS)
    triangle = ((0.0, 0.0), (1.0, 0.0), (1.0, 1.0))
    zone = Zone(name="till", polygon=triangle, false_events_per_camera_day=3)
    quiet = Quiet(event_id="e", box=(0, 0, 1, 1), channel=None, up_to=1, user="ada", at_ms=1)
    known = history(stored, CameraAreas(zones=(zone,), quiet=(quiet,)))
    del known.calibrations[FIRST.profile_id]  # type: ignore[attr-defined]  # it is a dict
    fixed = Settings.model_validate({"cameras": {"gate": {"enter": 0.9}}})
    found = decide_again(fixed, "gate", known, 50.0)
    assert found.enter == 0.9
    assert [note.split(" ")[0] for note in found.notes] == ["the", "scores", "what", "2499"]
    assert found.scores == FRAMES - 2_500
    assert any(line.startswith("note: 2499 scores are left out") for line in lines(found))


@pytest.mark.parametrize("budget", [0.5, 10.0, 30.0])
def test_every_event_before_the_single_scores_began_in_a_minute_that_is_counted(budget: float) -> None:
    stored, _ = raised(SETTINGS)
    whole = decide_again(SETTINGS, "gate", history(stored), budget)
    late = [score for score in stored if score.captured_at_ms >= 450_000]
    found = decide_again(SETTINGS, "gate", history(late)._replace(minutes=minutes_of(stored)), budget)
    begun = {event.started_at_ms // MINUTE_MS for event in whole.events if event.started_at_ms < 450_000}
    assert found.earlier is not None
    assert (found.earlier.from_ms, found.earlier.until_ms, found.earlier.minutes) == (0, 450_000, 8)
    assert 0 < len(begun) <= found.earlier.reached


def test_minutes_count_by_their_own_threshold_and_unless_no_event_could_begin() -> None:
    scores = [ScoreEntry("gate", 600_000, 0.1, 0.8, 0, SECOND.profile_id)]
    highest = {0: (0.85, FIRST, 0), 1: (0.85, SECOND, 0), 2: (0.85, SECOND, 600), 3: (0.85, None, 0), 4: (0.1, SECOND, 0)}
    minutes = [
        MinuteEntry(number * MINUTE_MS, 600, 0.1, high, 0, 0.8, served.profile_id if served else "gone", 0, withheld)
        for number, (high, served, withheld) in highest.items()
    ]
    found = decide_again(SETTINGS, "gate", history(scores)._replace(minutes=minutes))
    assert found.earlier == Earlier(from_ms=0, until_ms=300_000, minutes=3, reached=1)
    assert list(lines(found))[1] == (
        "before that, since 1970-01-01T00:00:00+00:00, only minutes are kept: a score reached the threshold in 1 of 3; "
        "events may have begun in these, and in no other"
    )
    assert decide_again(SETTINGS, "gate", history(scores)).earlier is None


def minutes_of(stored: Sequence[ScoreEntry]) -> list[MinuteEntry]:
    """What a service sums up of these scores; none could start an event while the camera was learned or covered."""
    minute, told = None, []
    for score in stored:
        number = score.captured_at_ms // 100
        withheld = number in LEARNING or number in BLIND
        frame = ScoredFrame(score.captured_at_ms, score.score, score.threshold, score.profile_id, None, False, withheld)  # noqa: FBT003  in order
        minute, ended = sum_up(minute, frame)
        told += [ended] if ended is not None else []
    return [entry for each in told for entry in minute_entries(each.fields())]


def test_thresholds_that_contradict_each_other_are_refused() -> None:
    settings = Settings.model_validate({"cameras": {"gate": {"exit": 0.88}}})
    with pytest.raises(ConfigError, match=r"cameras\.gate\.exit"):
        decide_again(settings, "gate", history([]), 50.0)


def test_a_problem_whose_start_is_no_longer_kept_began_before() -> None:
    ended = HealthEntry("gate", "end", "dark", "", 70)
    assert blind_spans([ended]) == [(0, 70)]
    assert blind_spans([]) == []
    assert blind_spans([replace_kind(ended, "start")])[0][0] == 70


def replace_kind(entry: HealthEntry, kind: str) -> HealthEntry:
    return entry._replace(kind=kind)
