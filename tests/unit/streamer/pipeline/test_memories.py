"""A restart rebuilds each camera's state from its snapshot, exactly, and scores few frames again."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamer.config import LimitSettings, Settings
from streamer.interfaces import Snapshot
from streamer.pipeline import memories
from streamer.pipeline.memories import frames_between
from streamer.pipeline.profile_learner import _unpacked
from streamer.types import FrameMessage, Partition
from tests.harness.history_engine import HISTORY, HistoryEngine
from tests.harness.pipeline import CRASHES, OUTAGES, PLAIN, Rig, message
from tests.harness.video_bundle import SPEC, VIDEO

P0 = Partition("frames", 0)
EVERY = 10
"""Frames between two snapshots in these tests."""
LEVELS = np.random.default_rng(5).uniform(0, 1, 400)
BUNDLE = replace(VIDEO, manifest=VIDEO.manifest.model_copy(update={"spec": HISTORY}))
QUIET = Settings.model_validate(PLAIN)


@pytest.fixture(autouse=True)
def few_frames_between(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memories, "MOST_FRAMES", EVERY)


def rig_of(messages: Sequence[FrameMessage], poll_messages: int = 7, rig_settings: Settings = QUIET) -> Rig:
    return Rig(list(messages), 8, poll_messages, HISTORY, HistoryEngine(), bundle=BUNDLE, settings=rig_settings)


def frames(count: int, *camera_ids: str, gap_after: int = 10_000) -> list[FrameMessage]:
    """Frames of cameras in turns, ten a second of each."""
    names = camera_ids or ("gate", "yard")
    return [
        message(0, offset, names[offset % len(names)], float(LEVELS[offset]), at_ms=100 * offset + 60_000 * (offset > gap_after))
        for offset in range(count)
    ]


def scores(rig: Rig) -> dict[tuple[str, str], str]:
    return {(name, fields["offset"]): fields["score"] for name, fields in rig.store.scores}


def states(rig: Rig) -> dict[str, bytes]:
    """What the consumer remembers of its cameras at last."""
    windows = rig.pipeline.clips._windows
    return {name: b"" if each.memory.state is None else each.memory.state.tobytes() for (_, name), each in windows.items()}


def undisturbed(messages: Sequence[FrameMessage], rig_settings: Settings = QUIET) -> Rig:
    rig = rig_of(messages, rig_settings=rig_settings)
    rig.finish()
    return rig


def reach(rig: Rig, offset: int) -> None:
    while (rig.store.read(P0).next_offset or 0) < offset:
        rig.steps(1)


def restarted(rig: Rig) -> int:
    """Start again and finish; the number of frames that were scored again."""
    rig.start()
    before, left = rig.engine.scored, rig.source.bounds(P0)[1] - (rig.store.read(P0).next_offset or 0)
    rig.finish()
    return int(rig.engine.scored - before - left)


def assert_same(rig: Rig, other: Rig) -> None:
    assert scores(rig) == scores(other)
    assert states(rig) == states(other)


@pytest.mark.parametrize("stop_at", [1, 2, 3, 60, 151])
def test_planned_restart_scores_no_frame_again(stop_at: int) -> None:
    messages = frames(200)
    rig = rig_of(messages, poll_messages=1)
    reach(rig, stop_at)
    rig.pipeline.drain()
    done = rig.store.read(P0).next_offset or 0

    assert restarted(rig) == 0

    assert rig.counted("replayed_frames_total") == min(done, 4)
    assert_same(rig, undisturbed(messages))


def test_crash_costs_no_more_than_the_frames_since_the_last_snapshot() -> None:
    messages, expected = frames(200), undisturbed(frames(200))
    for crash_at in range(100, 125, 3):
        rig = rig_of(messages)
        reach(rig, crash_at)
        again = restarted(rig)
        assert 0 <= again < 2 * EVERY
        assert again + 4 == rig.counted("replayed_frames_total")
        assert_same(rig, expected)


def test_crashes_in_a_row_cost_no_more() -> None:
    messages = frames(300)
    rig = rig_of(messages, poll_messages=3)
    for crash_at in range(90, 290, 12):
        reach(rig, crash_at)
        rig.start()
        reach(rig, (rig.store.read(P0).next_offset or 0) + 1)
        assert rig.counted("replayed_frames_total") <= 2 * (EVERY + 1)
    rig.finish()
    assert_same(rig, undisturbed(messages))


def test_snapshots_of_cameras_do_not_fall_together() -> None:
    names = [f"camera-{number}" for number in range(40)]
    rig = rig_of([message(0, n, names[n % 40], 0.5, at_ms=100 * (n // 40)) for n in range(400)])
    rig.finish()
    offsets = {snapshot.offset for snapshot in rig.store.read(P0).memories.values()}
    assert len({(offset or 0) // 40 for offset in offsets}) > EVERY // 2


@settings(max_examples=40, deadline=None)
@given(
    moves=st.lists(st.sampled_from([100, 100, 100, 20_000]), min_size=30, max_size=60),
    rubbish=st.sets(st.integers(0, 59), max_size=5),
    crashes=CRASHES,
    outages=OUTAGES,
    drained=st.booleans(),
)
def test_restarts_change_no_result(
    moves: list[int], rubbish: set[int], crashes: list[int], outages: list[str], drained: bool
) -> None:
    """However often, with gaps and images that cannot be decoded."""
    times_ms = np.cumsum(moves)
    messages = [
        message(0, n, f"camera-{n % 3 % 2}", b"rubbish" if n in rubbish else float(LEVELS[n]), at_ms=int(at_ms))
        for n, at_ms in enumerate(times_ms)
    ]
    rig = rig_of(messages, poll_messages=3)
    rig.store.failures = list(outages)
    for steps in crashes:
        rig.steps(steps + 1)
        if drained:
            rig.pipeline.drain()
        rig.start()
    rig.finish()
    rig.steps(40)  # also the replay if nothing follows it

    assert_same(rig, undisturbed(messages))


@pytest.mark.parametrize("late", [range(0), range(80, 110)], ids=["over its quota", "and late"])
def test_frames_that_are_not_looked_at_change_nothing(late: range) -> None:
    limited = QUIET.model_copy(update={"limits": LimitSettings(max_fps=5)})
    messages = [replace(each, timestamp_ms=1 if each.offset in late else 0) for each in frames(200, "gate")]
    expected = undisturbed(messages, limited)
    for crash_at in (40, 75, 82, 95, 109, 112, 130):
        for drained in (False, True):
            rig = rig_of(messages, rig_settings=limited)
            reach(rig, crash_at)
            if drained:
                rig.pipeline.drain()
            rig.start()
            rig.finish()
            assert scores(rig) == scores(expected), crash_at


def test_nothing_is_remembered_across_a_gap() -> None:
    messages = frames(160, "gate", gap_after=99)
    rig = rig_of(messages, poll_messages=1)
    reach(rig, 101)
    assert (rig.store.read(P0).memories["gate"].offset or 0) < 100
    rig.start()
    rig.finish()
    assert_same(rig, undisturbed(messages))


def disturbed(rig: Rig, memory: Snapshot | None) -> None:
    """Something else lies where the gate's memory was."""
    progress = rig.store.progress[P0]
    kept = {} if memory is None else {"gate": memory}
    rig.store.progress[P0] = replace(progress, memories=kept)


def stopped(messages: Sequence[FrameMessage], stop_at: int = 120) -> Rig:
    rig = rig_of(messages)
    reach(rig, stop_at)
    rig.pipeline.drain()
    return rig


@pytest.mark.parametrize("update", [{"content": "damaged"}, {"content": ""}, {"content": "A" * 10**6}])
def test_damaged_memory_is_named_and_costs_a_longer_replay(update: dict[str, object]) -> None:
    messages = frames(200, "gate")
    rig = stopped(messages)
    memory = rig.store.read(P0).memories["gate"].model_copy(update=update)
    disturbed(rig, memory)

    again = restarted(rig)

    assert rig.counted("damaged_states_total") == 1
    assert again == SPEC.state_warmup_frames
    assert scores(rig).keys() == scores(undisturbed(messages)).keys()


@pytest.mark.parametrize("update", [{"model_id": "another"}, {"model_id": None}, {"offset": None}, {"clip_from": None}])
def test_memory_of_another_model_is_of_no_use(update: dict[str, object]) -> None:
    rig = stopped(frames(200, "gate"))
    disturbed(rig, rig.store.read(P0).memories["gate"].model_copy(update=update))

    again = restarted(rig)

    assert rig.counted("damaged_states_total") == 0
    assert again == SPEC.state_warmup_frames


def test_without_its_memory_a_camera_is_replayed_as_far_as_ever() -> None:
    """Also soon after a restart that replayed only two frames: an earlier version knows no memories."""
    rig = stopped(frames(200, "gate"))
    expected = rig.store.read(P0).cameras["gate"].clip_from
    rig.topic.partitions[P0] = frames(130, "gate")
    rig.start()
    rig.finish()
    assert rig.store.read(P0).cameras["gate"].clip_from == expected
    disturbed(rig, None)
    rig.topic.partitions[P0] = frames(200, "gate")

    again = restarted(rig)

    assert again == 130 - (expected or 0)
    assert rig.store.read(P0).cameras["gate"].clip_from == 200 - SPEC.state_warmup_frames


def test_engine_that_keeps_states_elsewhere_has_no_memories() -> None:
    rig = rig_of(frames(40))
    rig.pipeline.scorer._grid = None
    rig.finish()
    rig.pipeline.drain()
    assert not rig.store.read(P0).memories


def test_memory_of_an_idle_camera_is_deleted() -> None:
    rig = stopped(frames(40), stop_at=40)
    assert rig.store.read(P0).memories.keys() == {"gate", "yard"}
    rig.start()
    rig.steps(5)
    rig.clock.now_s += rig.pipeline.registry.idle_after_s + 1
    rig.steps(2)
    assert not rig.store.read(P0).memories


def test_camera_that_is_learned_is_not_replayed_farther() -> None:
    """What its learner and its memory hold is stored together."""
    learning = Settings.model_validate({"learning": {"enabled": True, "min_minutes": 1}, **PLAIN})
    messages = frames(400, "gate")
    expected = undisturbed(messages, learning)
    expected.pipeline.drain()
    for drained in (False, True):
        rig = rig_of(messages, rig_settings=learning)
        reach(rig, 300)
        if drained:
            rig.pipeline.drain()
        progress = rig.store.read(P0)
        assert progress.memories["gate"].offset == progress.learners["gate"].offset
        again = restarted(rig)
        assert again == 0 if drained else again < 60  # a learner is stored every 5 s
        assert_same(rig, expected)
        rig.pipeline.drain()
        learned, also = (_unpacked(each.store.read(P0).learners["gate"]) for each in (rig, expected))
        assert learned[1] == also[1]
        assert all(np.array_equal(learned[0][name], values) for name, values in also[0].items())


def test_how_often() -> None:
    assert [frames_between(cameras) for cameras in (0, 1, 100, 200, 1000)] == [EVERY, EVERY, 8, 4, 4]
