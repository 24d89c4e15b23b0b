import math
import re
from collections.abc import Iterable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from deploy.decision import DecisionRule, EventChange, Observation, OpenEvent, decide, finish

RULE = DecisionRule(enter=1.0, exit=0.5, min_duration_ms=200, merge_gap_ms=500, update_interval_ms=1000)

scores = st.none() | st.sampled_from([0.0, 0.5, 1.0]) | st.floats(-1, 3)
steps_ms = st.sampled_from([0, 100, 100, 100, 400, 501]) | st.integers(0, 3000)
backward_steps_ms = st.integers(-2000, -1)


@st.composite
def rules(draw: st.DrawFn) -> DecisionRule:
    enter = draw(st.floats(0, 2))
    return DecisionRule(
        enter=enter,
        exit=enter - draw(st.floats(0, 1)),
        min_duration_ms=draw(st.sampled_from([0, 1, 100, 300, 1000])),
        merge_gap_ms=draw(st.sampled_from([0, 100, 500, 2000])),
        update_interval_ms=draw(st.sampled_from([1, 300, 2000])),
    )


def timelines(steps: st.SearchStrategy[int]) -> st.SearchStrategy[list[Observation]]:
    return st.lists(st.tuples(steps, scores), max_size=60).map(timeline)


def timeline(steps_and_scores: Iterable[tuple[int, float | None]]) -> list[Observation]:
    """Frames of one camera, each so many milliseconds after the one before, the first at 1,000,000."""
    now_ms, observations = 1_000_000, []
    for step_ms, score in steps_and_scores:
        now_ms += step_ms
        observations.append(Observation(event_id=f"e{len(observations)}", captured_at_ms=now_ms, score=score))
    return observations


forward = timelines(steps_ms)
any_order = timelines(steps_ms | backward_steps_ms)


def run(
    rule: DecisionRule, observations: Iterable[Observation], event: OpenEvent | None = None
) -> tuple[OpenEvent | None, list[EventChange]]:
    changes: list[EventChange] = []
    for observation in observations:
        event, new = decide(rule, event, observation)
        changes.extend(new)
    return event, changes


def restored(event: OpenEvent | None) -> OpenEvent | None:
    return None if event is None else OpenEvent.model_validate_json(event.model_dump_json())


def life(changes: Iterable[EventChange]) -> str:
    return "".join(change.kind[0] for change in changes)


def test_events_of_a_slow_camera_are_not_ended_by_its_interval() -> None:
    observations = timeline([(700, 2.0)] * 5)
    assert life(run(RULE, observations)[1]) == ""
    assert life(run(RULE.at_interval(700), observations)[1]) == "su"
    assert RULE.at_interval(100) is RULE


@given(rules(), any_order)
def test_each_event_starts_and_ends_once(rule: DecisionRule, observations: list[Observation]) -> None:
    event, changes = run(rule, observations)
    if observations:
        changes += finish(event, observations[-1])
    assert re.fullmatch("(su*e)*", life(changes))
    current = None
    for change in changes:
        current = change.event.event_id if change.kind == "start" else current
        assert change.event.event_id == current
    started = [change.event.event_id for change in changes if change.kind == "start"]
    assert len(started) == len(set(started))


@given(rules(), any_order)
def test_open_event_is_the_announced_one(rule: DecisionRule, observations: list[Observation]) -> None:
    event, changes = run(rule, observations)
    open_ids = [change.event.event_id for change in changes[-1:] if change.kind != "end"]
    announced = event is not None and event.announced_at_ms is not None
    assert open_ids == ([event.event_id] if event is not None and announced else [])


@given(rules(), any_order, st.data())
def test_restart_changes_nothing(rule: DecisionRule, observations: list[Observation], data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, len(observations)))
    whole_event, whole_changes = run(rule, observations)
    event, before = run(rule, observations[:cut])
    event, after = run(rule, observations[cut:], restored(event))
    assert (event, before + after) == (whole_event, whole_changes)


@given(rules(), forward)
def test_start_needs_min_duration(rule: DecisionRule, observations: list[Observation]) -> None:
    for change in run(rule, observations)[1]:
        if change.kind != "start":
            continue
        first = next(i for i, one in enumerate(observations) if one.event_id == change.event.event_id)
        last = observations.index(change.observation)
        assert (observations[first].score or 0) >= rule.enter
        assert change.event.started_at_ms == observations[first].captured_at_ms
        assert observations[last].captured_at_ms - observations[first].captured_at_ms >= rule.min_duration_ms
        assert all(one.score is not None and one.score >= rule.exit for one in observations[first : last + 1])


@given(rules(), forward)
def test_end_needs_merge_gap(rule: DecisionRule, observations: list[Observation]) -> None:
    for change in run(rule, observations)[1]:
        if change.kind != "end":
            assert change.ended_at_ms is None
            continue
        ended_at_ms = change.ended_at_ms
        assert ended_at_ms is not None
        assert ended_at_ms >= change.event.started_at_ms
        assert change.observation.captured_at_ms - ended_at_ms > rule.merge_gap_ms
        between = [one for one in observations if ended_at_ms < one.captured_at_ms < change.observation.captured_at_ms]
        assert not [one for one in between if one.score is not None and one.score >= rule.exit]


@given(rules(), forward)
def test_peak_is_the_highest_score(rule: DecisionRule, observations: list[Observation]) -> None:
    for change in run(rule, observations)[1]:
        first = next(i for i, one in enumerate(observations) if one.event_id == change.event.event_id)
        seen = observations[first : observations.index(change.observation) + 1]
        active = [one.score for one in seen if one.captured_at_ms <= change.event.last_active_ms and one.score is not None]
        assert change.event.peak_score == max(active)


@given(rules(), forward)
def test_update_interval(rule: DecisionRule, observations: list[Observation]) -> None:
    changes = run(rule, observations)[1]
    for before, update in pairwise(changes):
        if update.kind == "update":
            assert update.observation.captured_at_ms - before.observation.captured_at_ms >= rule.update_interval_ms


@given(rules(), st.lists(st.tuples(steps_ms, st.none() | st.floats(-5, -1.1)), max_size=30))
def test_low_scores_begin_nothing(rule: DecisionRule, quiet: list[tuple[int, float | None]]) -> None:
    assert run(rule, timeline(quiet)) == (None, [])


@pytest.mark.parametrize(
    ("what", "steps_and_scores", "expected"),
    [
        ("never high enough", [(100, 0.9)] * 10, ""),
        ("exactly enter, exactly the least duration", [(0, 1.0), (100, 0.5), (100, 0.5)], "s"),
        ("one frame short of the least duration", [(0, 1.0), (100, 1.0), (99, 1.0)], ""),
        ("a dip drops a candidate", [(0, 1.0), (100, 0.4), (100, 1.0), (100, 1.0)], ""),
        ("a frame without a score drops a candidate", [(0, 1.0), (100, None), (100, 1.0), (100, 1.0)], ""),
        ("a dip as long as the merge gap", [(0, 1.0), (200, 1.0), (250, 0.0), (250, 1.0)], "s"),
        ("a dip longer than the merge gap", [(0, 1.0), (200, 1.0), (250, 0.0), (251, 0.0)], "se"),
        ("no frames for longer than the merge gap", [(0, 1.0), (200, 1.0), (501, 1.0), (200, 1.0)], "ses"),
        ("between exit and enter an event goes on", [(0, 1.0), (200, 1.0)] + [(400, 0.6)] * 2, "s"),
        ("between exit and enter no event begins", [(100, 0.9)] * 10, ""),
        ("an update is due", [(0, 1.0), (200, 1.0), (500, 1.0), (500, 1.0)], "su"),
        ("no update while inactive", [(0, 1.0), (200, 1.0), (500, 1.0), (499, 1.0), (400, 0.4)], "s"),
        ("a jump back of the clock", [(0, 1.0), (200, 1.0), (-600, 1.0)], "se"),
        ("frames a little out of order", [(0, 1.0), (200, 1.0), (-100, 1.0), (200, 1.0)], "s"),
        ("a late frame does not shorten the merge gap", [(0, 1.0), (200, 1.0), (-300, 1.0), (750, 0.0)], "s"),
    ],
    ids=lambda value: value.replace(" ", "-") if isinstance(value, str) and " " in value else "",
)
def test_examples(what: str, steps_and_scores: list[tuple[int, float | None]], expected: str) -> None:
    assert life(run(RULE, timeline(steps_and_scores))[1]) == expected


def test_zero_min_duration() -> None:
    rule = RULE.model_copy(update={"min_duration_ms": 0})
    observations = timeline([(0, 1.0), (501, 2.0)])
    event, changes = run(rule, observations)
    assert [(change.kind, change.event.event_id) for change in changes] == [("start", "e0"), ("end", "e0"), ("start", "e1")]
    assert event is not None
    assert event.peak_score == 2.0


def test_finish() -> None:
    announced, candidate = timeline([(0, 1.0), (200, 1.2)]), timeline([(0, 1.0)])
    (end,) = finish(run(RULE, announced)[0], announced[-1])
    assert (end.kind, end.event.event_id, end.ended_at_ms, end.event.peak_score) == ("end", "e0", 1_000_200, 1.2)
    assert finish(run(RULE, candidate)[0], candidate[-1]) == ()
    assert finish(None, candidate[-1]) == ()


@pytest.mark.parametrize(
    "wrong", [{"exit": 1.1}, {"min_duration_ms": -1}, {"merge_gap_ms": -1}, {"update_interval_ms": 0}, {"entre": 1.0}]
)
def test_rejects_bad_rule(wrong: dict[str, float]) -> None:
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        DecisionRule(**{**RULE.model_dump(), **wrong})


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_thresholds_are_finite(value: float) -> None:
    with pytest.raises(ValidationError, match="finite"):
        DecisionRule(enter=value, exit=0.0)
