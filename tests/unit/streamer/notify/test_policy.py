"""What is told, counted and left out: cooldown, quiet hours, channels, what comes twice."""

from datetime import UTC, datetime, time, timedelta
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer.notify.messages import summary_message
from streamer.notify.notices import concerns, problem_of
from streamer.notify.policy import ReceiverState, Verdict, judge, quiet_until_ms
from streamer.receivers import NotifySettings, WebhookSettings, parse_hours
from streamer.types import Event
from tests.harness.notices import NOON_S, event, health_entry

NOON = datetime.fromtimestamp(NOON_S, UTC)
NIGHT = NOON.replace(hour=23)


def receiver(**settings: Any) -> WebhookSettings:
    return WebhookSettings.model_validate({"kind": "webhook", "url": "http://host/", **settings})


def judged(settings: WebhookSettings, *events: Event, now: datetime = NOON) -> tuple[list[Verdict], ReceiverState]:
    """The verdicts of those that concern the receiver, one after the other, and the state at last."""
    state, verdicts = ReceiverState(), []
    for each in events:
        if concerns(settings, each):
            verdicts.append(judge(settings, state, each, now))
            state = verdicts[-1].state
    return verdicts, ReceiverState.model_validate_json(state.model_dump_json())


def told(settings: WebhookSettings, *events: Event) -> list[tuple[str, str, int]]:
    """Event, kind and number of counted events of what is told."""
    concerning = [each for each in events if concerns(settings, each)]
    verdicts, _ = judged(settings, *events)
    return [
        (each.event_id, each.kind, verdict.more) for each, verdict in zip(concerning, verdicts, strict=True) if verdict.is_told
    ]


def life(event_id: str, at_s: float, **more: Any) -> list[Event]:
    """All entries of an event, of which the end tells no channel."""
    offset = round(at_s - NOON_S) * 10
    kinds = enumerate(("start", "update", "update", "end"))
    return [
        event(event_id, kind, at_s + number, offset=offset + number, **(more if kind != "end" else {})) for number, kind in kinds
    ]


def test_only_the_kinds_that_are_asked_for_are_told() -> None:
    assert told(receiver(), *life("a", NOON_S)) == [("a", "start", 0)]
    assert told(receiver(kinds=["start", "end"]), *life("a", NOON_S)) == [("a", "start", 0), ("a", "end", 0)]
    assert len(told(receiver(kinds=["start", "update", "end"]), *life("a", NOON_S))) == 4


@pytest.mark.parametrize(
    ("cameras", "is_told"), [(["gate"], True), (["g*"], True), (["[a-g]ate", "x"], True), (["yard*"], False), (["GATE"], False)]
)
def test_only_the_cameras_that_are_asked_for_are_told(cameras: list[str], *, is_told: bool) -> None:
    assert bool(told(receiver(cameras=cameras), event())) is is_told


def test_an_event_of_another_channel_is_left_out_to_its_end() -> None:
    settings = receiver(kinds=["start", "update", "end"], channels=["dwell"])
    assert told(settings, *life("a", NOON_S, channel="speed")) == []
    assert len(told(settings, *life("a", NOON_S, channel="dwell"))) == 4
    assert len(told(settings, *life("a", NOON_S))) == 4  # not known
    assert told(receiver(kinds=["end"], channels=["dwell"]), *life("a", NOON_S, channel="speed")) == []
    assert told(receiver(kinds=["end"], channels=["dwell"]), *life("a", NOON_S, channel="dwell")) == [("a", "end", 0)]


def test_an_event_whose_channel_changes_is_told_from_then_on() -> None:
    settings = receiver(kinds=["start", "update", "end"], channels=["dwell"])
    start, first, second, end = life("a", NOON_S, channel="speed")
    second = second.model_copy(update={"channel": "dwell"})
    assert told(settings, start, first, second, end) == [("a", "update", 0), ("a", "end", 0)]


def test_within_the_cooldown_events_are_counted_and_told_with_the_next() -> None:
    settings = receiver(cooldown_s=60, kinds=["start", "end"])
    events = [each for number in range(5) for each in life(f"e{number}", NOON_S + number * 20)]
    assert told(settings, *events) == [("e0", "start", 0), ("e0", "end", 0), ("e3", "start", 2), ("e3", "end", 0)]


def test_the_cooldown_is_each_cameras_own() -> None:
    settings = receiver(cooldown_s=60)
    assert told(settings, event("a"), event("b", at_s=NOON_S + 1, camera_id="yard")) == [("a", "start", 0), ("b", "start", 0)]


def test_what_comes_twice_is_told_once() -> None:
    settings = receiver(kinds=["start", "update", "end"])
    entries = life("a", NOON_S)
    assert len(told(settings, *entries, *entries)) == 4
    assert len(told(settings, *entries[:2], *entries)) == 4


starts = st.lists(st.tuples(st.sampled_from(["gate", "yard"]), st.integers(0, 500)), max_size=40)


@given(starts, st.integers(0, 200))
def test_no_event_is_lost_in_a_cooldown_and_none_is_told_too_soon(at: list[tuple[str, int]], cooldown_s: int) -> None:
    at.sort(key=lambda each: each[1])
    events = [event(f"{n}", at_s=NOON_S + s, camera_id=camera, offset=n) for n, (camera, s) in enumerate(at)]
    verdicts, state = judged(receiver(cooldown_s=cooldown_s), *events)
    assert sum(verdict.is_told + verdict.more for verdict in verdicts) + sum(
        camera.more for camera in state.cameras.values()
    ) == len(events)
    for camera in ("gate", "yard"):
        times = [s for (name, s), verdict in zip(at, verdicts, strict=True) if name == camera and verdict.is_told]
        assert all(later - earlier >= cooldown_s for earlier, later in pairwise(times))


times_of_day = st.times().map(lambda each: each.replace(second=0, microsecond=0))


@given(times_of_day, times_of_day, st.datetimes(datetime(2024, 1, 2), datetime(2030, 1, 1)))
def test_quiet_hours_are_a_part_of_each_day(begin: time, end: time, now: datetime) -> None:
    if begin == end:
        return
    settings = receiver(quiet_hours=f"{begin:%H:%M}-{end:%H:%M}")
    hours = parse_hours(f"{begin:%H:%M}-{end:%H:%M}")
    assert hours.holds(begin)
    assert not hours.holds(end)
    opposite = parse_hours(f"{end:%H:%M}-{begin:%H:%M}")
    assert hours.holds(now.time()) != opposite.holds(now.time())
    if not hours.holds(now.time()):
        until = datetime.fromtimestamp(quiet_until_ms(settings, now.replace(tzinfo=UTC)) / 1000, UTC)
        assert until.time() == end
        assert timedelta(0) <= now.replace(tzinfo=UTC) - until < timedelta(days=1)


def test_in_quiet_hours_all_is_summed_up() -> None:
    settings = receiver(quiet_hours="22:00-06:00", health=True, kinds=["start", "update", "end"])
    night = [*life("a", NOON_S), *life("b", NOON_S + 60), event("c", camera_id="yard")]
    verdicts, state = judged(settings, *night, now=NIGHT)
    for kind in ("start", "end"):
        problem = problem_of(health_entry(kind, camera_id="hall"))
        assert problem is not None
        state = judge(settings, state, problem, NIGHT).state
    assert not any(verdict.is_told for verdict in verdicts)
    assert state.quiet is not None
    message = summary_message(state.quiet, NotifySettings(timezone="UTC"))
    assert message.text == "quiet hours, since 2023-11-15 12:00:00+00:00: gate: 2 events; yard: 1 event; hall: dark, over"
    assert message.content["events"] == {"gate": 2, "yard": 1}
    assert message.content["problems"] == {"hall": {"dark": "end"}}


def test_the_end_of_an_event_that_was_told_before_is_no_event_of_the_quiet_hours() -> None:
    settings = receiver(quiet_hours="22:00-06:00", kinds=["start", "end"])
    start, _, _, end = life("a", NOON_S)
    state = judge(settings, ReceiverState(), start, NOON).state
    assert judge(settings, state, end, NIGHT) == Verdict(is_told=False, state=state)


DAMAGED = [
    {},
    {"kind": "start"},
    health_entry(captured_at_ms="soon"),
    health_entry(kind="middle"),
    health_entry(written_at_ms=-1),
]


@pytest.mark.parametrize("fields", DAMAGED)
def test_an_entry_of_health_that_is_none_is_left_out(fields: dict[str, str]) -> None:
    assert problem_of(fields) is None
