"""Cameras without a profile are learned while they are watched, and a restart loses nothing of it."""

import base64
import json
import zlib
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load, save

from deploy.dwell import foreground, lights_of, update_dwell
from deploy.engine import CheckedEngine, Inputs, Scores
from deploy.errors import ProfileCorrupt, ProfileIncompatible
from deploy.health import HealthChange, HealthState
from deploy.profile import Profile, header_entry
from deploy.profile_learning import Normal
from deploy.score_maps import dwell_of, picture_of, state_maps
from streamer.config import HealthSettings, LimitSettings, Settings
from streamer.interfaces import RedisUnavailable, Snapshot
from streamer.monitoring import Metrics
from streamer.pipeline.learning import CameraLearning
from streamer.pipeline.profile_learner import ProfileLearner
from streamer.pipeline.profiles import CameraProfiles
from streamer.types import FrameInfo, FrameMessage, Outcome, Partition
from tests.harness.fakes import MemoryProfileStore
from tests.harness.pipeline import BUNDLE, PLAIN, Rig, message
from tests.harness.video_bundle import GRID, SPEC, UNIT, VIDEO, with_dwell

P0 = Partition("frames", 0)
FRAMES = 1100
RNG = np.random.default_rng(7)
BRIGHTNESS = np.clip(RNG.gamma(2.0, 0.08, FRAMES), 0, 1)


class MotionEngine(CheckedEngine):
    """Speed and anomaly of all places are the frame's brightness, averaged along time; dwell is that of the model."""

    name = "motion"

    def __init__(self) -> None:
        super().__init__(SPEC, 32, UNIT)

    def describe(self) -> dict[str, str]:
        return {"backend": self.name}

    def _run(self, inputs: Inputs) -> Scores:
        bright = inputs["clips"].mean(axis=(1, 2, 3, 4)).astype(np.float32)[:, None, None] / 255
        following = inputs["state"].copy()
        rows = [Normal.from_values(values, GRID.shape) for values in inputs["profile"]]
        following[:, 0] = bright * 255
        shown = [foreground(picture[None], row.background)[0] for picture, row in zip(picture_of(following), rows, strict=True)]
        before = zip(dwell_of(following), shown, rows, strict=True)
        dwells = [update_dwell(dwell, now, row.dwell_step) for dwell, now, row in before]
        following = np.stack([with_dwell(*each) for each in zip(following, dwells, strict=True)])
        following[:, 2] = 3 * bright
        following[:, -3] = (following[:, -3] + bright) / 2
        following[:, -2] = np.minimum(following[:, -2] + 1, 5)
        following[:, -1] = 1
        lights = [lights_of(picture[None], row.background)[0] for picture, row in zip(picture_of(following), rows, strict=True)]
        maps = state_maps(following, dwell_of(following), np.array(lights), GRID)
        scores = [normal.scores(type(maps)(*(part[n : n + 1] for part in maps)))[0] for n, normal in enumerate(rows)]
        return Scores(np.array(scores, np.float32), maps.anomaly, following)

    def _release(self) -> None:
        pass


class StayingEngine(MotionEngine):
    """Bright frames are foreground everywhere, and the score is ten times the dwell."""

    def _run(self, inputs: Inputs) -> Scores:
        following = inputs["state"].copy()
        bright = inputs["clips"].mean(axis=(1, 2, 3, 4)) > 127
        shown = np.ones(following.shape[1:], np.float32)[0, ::2, ::2]
        dwells = [update_dwell(dwell, shown * now, 0.01) for dwell, now in zip(dwell_of(following), bright, strict=True)]
        following[:, -1] = 1
        following = np.stack([with_dwell(*each) for each in zip(following, dwells, strict=True)])
        scores = 10 * dwell_of(following).max(axis=(1, 2))
        return Scores(scores, dwell_of(following), following)


def ordinary(camera_id: str = "gate", frames: int = FRAMES) -> list[FrameMessage]:
    return [message(0, number, camera_id, float(BRIGHTNESS[number])) for number in range(frames)]


def learning_settings(**learning: object) -> Settings:
    decision = {"min_duration_s": 0.1, "merge_gap_s": 0.3, "max_gap_s": 5}
    return Settings.model_validate({"decision": decision, "learning": {"enabled": True, "min_minutes": 1, **learning}, **PLAIN})


def rig_of(messages: list[FrameMessage], poll_messages: int = 20, **learning: object) -> Rig:
    settings = learning_settings(**learning)
    return Rig(messages, 8, poll_messages, SPEC, MotionEngine(), bundle=VIDEO, settings=settings)


@pytest.fixture(scope="module")
def undisturbed() -> Rig:
    rig = rig_of(ordinary())
    rig.finish()
    return rig


def test_camera_is_learned_and_then_watched(undisturbed):
    _, profile = undisturbed.profiles.profiles["gate"]
    scores = [fields for _, fields in undisturbed.store.scores]
    learned = next(number for number, fields in enumerate(scores) if "profile_id" in fields)
    assert scores[learned]["profile_id"] == profile.profile_id
    assert all("learning" in fields for fields in scores[:learned])
    assert not any("learning" in fields for fields in scores[learned:])
    assert 600 <= learned < FRAMES
    assert undisturbed.counted("learned_profiles_total") == 1
    assert not undisturbed.store.read(P0).learners


def test_profile_tells_what_it_was_learned_from(undisturbed):
    info = undisturbed.profiles.profiles["gate"][1].info
    assert (info.footage, info.height_px, info.width_px) == (("live",), 16, 16)
    assert info.fps == pytest.approx(10, rel=0.01)
    assert info.calibration.observed_s > 10


def test_scores_are_normal_after_learning(undisturbed):
    scores = np.array([float(fields["score"]) for _, fields in undisturbed.store.scores if "profile_id" in fields])
    assert abs(np.median(scores)) < 0.2
    assert np.quantile(scores, 0.99) == pytest.approx(1.0, abs=0.5)


def test_events_of_a_learned_camera_say_what_raised_them():
    messages = [*ordinary(), *(message(0, FRAMES + number, "gate", 1.0) for number in range(10))]
    rig = rig_of(messages)
    rig.finish()
    told = [(channel, text) for channel, text in rig.events("channel", "text") if channel]
    assert told
    assert {channel for channel, _ in told} <= {"speed", "appearance"}
    assert all(text for _, text in told)


@settings(max_examples=4, deadline=None)
@given(
    crashes=st.lists(st.integers(1, 60), min_size=1, max_size=4),
    outages=st.lists(st.sampled_from(["", "lost", "unanswered"]), max_size=20),
)
def test_restarts_do_not_change_the_profile(undisturbed, crashes, outages):
    rig = rig_of(ordinary())
    rig.survive(crashes, outages)
    expected, actual = (each.profiles.profiles["gate"][1] for each in (undisturbed, rig))
    np.testing.assert_allclose(actual.values, expected.values, rtol=1e-4, atol=1e-5)
    assert actual.info.frames == expected.info.frames
    assert actual.info.calibration.peaks == pytest.approx(expected.info.calibration.peaks, rel=1e-3)


def test_snapshots_hold_the_clock_before_the_first_frame_to_replay():
    rig = rig_of(ordinary(frames=250))
    rig.finish()
    snapshot = rig.store.read(P0).learners["gate"]
    assert snapshot.clip_from > 0
    assert snapshot.clip_clock.believed_ms == 100 * (snapshot.clip_from - 1)


def test_profile_that_cannot_be_stored_in_a_replay_is_waited_for(monkeypatch):
    """Such as one that is complete with less time, after the settings were changed."""
    rig = rig_of(ordinary(frames=300))
    rig.finish()
    rig.topic.partitions[P0] += ordinary(frames=320)[300:]
    rig.start()
    learn, refused = rig.pipeline.learning.add, []

    def refuse(learners, outcome):
        if len(refused) == 2:
            return learn(learners, outcome)
        refused.append(outcome.info.offset)
        raise RedisUnavailable("nothing listens there")

    monkeypatch.setattr(rig.pipeline.learning, "add", refuse)
    while not refused:
        rig.steps(1)
    assert rig.health.ready() == "nothing listens there"
    rig.finish()

    assert max(refused) < 300
    assert rig.health.ready() is None
    assert rig.scored_offsets() == list(range(320))


def learned_shares(messages: list[FrameMessage], steps: int) -> list[tuple[str, ...]]:
    """Offset, score and share that is learned of each scored frame, restarted after so many turns, if any."""
    limited = learning_settings().model_copy(update={"limits": LimitSettings(max_fps=5)})
    rig = Rig(messages, 8, 7, SPEC, MotionEngine(), bundle=VIDEO, settings=limited)
    if steps:
        rig.steps(steps)
        rig.start()
    rig.finish()
    return [(fields["offset"], fields["score"], fields["learning"]) for _, fields in rig.store.scores]


@pytest.mark.parametrize("late", [range(0), range(80, 110)], ids=["over its quota", "and late"])
def test_frames_that_are_not_looked_at_are_not_learned_after_a_restart(late):
    times_s = [1 if number in late else 0 for number in range(160)]  # of an age that nobody knows, or 11 days
    messages = [replace(each, timestamp_ms=at_s) for each, at_s in zip(ordinary(frames=160), times_s, strict=True)]
    undisturbed = learned_shares(messages, steps=0)
    assert len(undisturbed) == pytest.approx((160 - len(late)) / 2 + 5, abs=8)
    for steps in range(3, 20, 2):
        assert learned_shares(messages, steps) == undisturbed, steps


@pytest.mark.parametrize(("events", "kinds"), [("withhold", set()), ("provisional", {"true"})])
def test_events_while_learning(events, kinds):
    messages = ordinary(frames=200)
    messages[100:110] = [message(0, number, "gate", 1.0) for number in range(100, 110)]
    rig = rig_of(messages, events=events)
    rig.finish()
    assert {kind for (kind,) in rig.events("provisional")} == kinds


def test_nothing_is_learned_from_a_covered_camera():
    """The pictures of these tests show nothing, see ``PLAIN``."""
    watchful = learning_settings().model_copy(update={"health": HealthSettings()})
    rig = Rig(ordinary(frames=300), 8, 20, SPEC, MotionEngine(), bundle=VIDEO, settings=watchful)
    rig.finish()
    assert {fields["learning"] for _, fields in rig.store.scores} == {"0.000"}
    assert {entry["problem"] for entry in rig.store.health} == {"covered"}


def test_cameras_with_a_profile_are_not_learned(undisturbed):
    rig = rig_of(ordinary(frames=50))
    rig.profiles.put(undisturbed.profiles.profiles["gate"][1])
    rig.start()
    rig.finish()
    assert not any("learning" in fields for _, fields in rig.store.scores)


def test_a_few_anomalies_hardly_change_a_profile(undisturbed):
    messages = ordinary()
    for first in range(100, FRAMES, 300):
        messages[first : first + 5] = [message(0, first + number, "gate", 1.0) for number in range(5)]
    rig = rig_of(messages)
    rig.finish()
    expected, actual = (Normal.from_values(each.profiles.profiles["gate"][1].values, GRID.shape) for each in (undisturbed, rig))
    for usual, disturbed in zip(expected.ranges[0], actual.ranges[0], strict=True):
        assert disturbed.median == pytest.approx(usual.median, abs=0.1)
        assert disturbed.spread < 2 * usual.spread


@pytest.mark.parametrize("turns", [0, 5])
def test_learner_of_an_idle_camera_is_shelved_and_goes_on(turns):
    """As if it had stayed in memory, also if there is a crash so many turns of the loop later."""
    before = ordinary(frames=100)
    after = [message(0, number, "gate", float(BRIGHTNESS[number]), at_ms=20 * number + 3_600_000) for number in range(100, 220)]
    kept, shelved = rig_of([*before, *after]), rig_of(before)
    kept.finish()
    shelved.finish()
    shelved.clock.now_s += 601
    shelved.steps(2)
    assert isinstance(learners_of(shelved)["gate"], Snapshot)
    assert shelved.store.read(P0).learners["gate"].clip_from is None

    shelved.topic.partitions[P0] += after
    if turns:
        shelved.steps(turns)
        shelved.start()
    shelved.finish()
    assert learned(shelved) == learned(kept)


def learners_of(rig: Rig):
    return rig.pipeline._partitions.active[P0].learners


def learned(rig: Rig):
    """All that the learner of the camera holds."""
    learner = learners_of(rig)["gate"]
    arrays = load(zlib.decompress(base64.b64decode(learner.snapshot().content)))
    return learner.counts, {name: array.tolist() for name, array in arrays.items()}


def learner() -> ProfileLearner:
    rig_settings = learning_settings()
    profiles = CameraProfiles(MemoryProfileStore(), VIDEO, rig_settings, Metrics())
    return CameraLearning(VIDEO, rig_settings, profiles, Metrics()).new_learner("gate")


UNKNOWN = HealthState(problem="unknown_light", since_ms=1)


def by_day(undisturbed: Rig, **changes: object) -> tuple[CameraLearning, Profile, MemoryProfileStore]:
    """Who learns a camera that was learned live in one light."""
    store, profile = MemoryProfileStore(), undisturbed.profiles.profiles["gate"][1]
    profile = replace(profile, info=profile.info.model_copy(update=changes))
    store.put(profile)
    profiles = CameraProfiles(store, VIDEO, learning_settings(), Metrics())
    profiles.load()
    return CameraLearning(VIDEO, learning_settings(), profiles, Metrics()), profile, store


def frame_of(profile: Profile | None, number: int = 1) -> Outcome:
    state, picture = np.zeros(SPEC.state_shape, np.float32), np.zeros((2, 3), np.uint8)
    return Outcome(FrameInfo(P0, number, "gate", 1000 * number, 16, 16), 0, profile, 0.1, state=state, picture=picture)


@pytest.mark.parametrize(
    ("health", "is_learned"),
    [
        (UNKNOWN, True),
        (HealthState(), False),
        (HealthState(problem="covered", since_ms=1), False),
        (UNKNOWN.model_copy(update={"suspected_ms": 5}), False),  # the light that is known may be back
    ],
)
def test_a_second_light_is_learned_while_it_is_unknown(undisturbed, health, is_learned):
    learning, profile, _ = by_day(undisturbed)
    learners: dict = {}
    assert learning.needs_state("gate", health) == is_learned
    assert (learning.advance(learners, frame_of(profile), health) is not None) == is_learned
    assert ("gate" in learners) == is_learned


def test_a_profile_of_an_operator_learns_no_second_light(undisturbed):
    enrolled, profile, _ = by_day(undisturbed, footage=("monday",))
    assert not enrolled.needs_state("gate", UNKNOWN)
    live, _, store = by_day(undisturbed)
    assert live.needs_state("gate", UNKNOWN)
    store.frozen_cameras.add("gate")
    store.put(profile)
    live._profiles.load()
    assert not live.needs_state("gate", UNKNOWN)


def test_a_learner_of_the_first_light_does_not_go_on_in_the_second(undisturbed):
    learning, profile, _ = by_day(undisturbed)
    learners = {"gate": learner()}
    learners["gate"].add(frame_of(None))
    learning.advance(learners, frame_of(profile, 2), UNKNOWN)
    assert learners["gate"].counts.is_second_light
    assert learners["gate"].counts.offset == 2
    learning.end_light(learners, "gate", [HealthChange("end", "unknown_light", 1)])
    assert learners["gate"].counts.clip_from is None  # a restart by day reads no frame of the night


@pytest.mark.parametrize("content", ["", "AAAA", "eNoDAAAAAAE=", "é"])
def test_damaged_snapshots_are_refused(content):
    with pytest.raises(ProfileCorrupt, match="not a snapshot"):
        learner().restore(Snapshot(clip_from=0, content=content))


def damaged(snapshot: Snapshot, counts: dict[str, object], arrays: dict[str, np.ndarray]) -> Snapshot:
    content = zlib.decompress(base64.b64decode(snapshot.content))
    own = json.loads(header_entry(content, "counts"))
    header = {"counts": json.dumps({**own, **counts}), "model_id": header_entry(content, "model_id")}
    packed = zlib.compress(save({**load(content), **arrays}, header))
    return snapshot.model_copy(update={"content": base64.b64encode(packed).decode()})


@pytest.mark.parametrize(
    ("counts", "arrays"),
    [
        ({"phase": 6}, {}),
        ({"phase": "first"}, {}),
        ({"offset": None}, {}),
        ({"pictured_ms": float("nan")}, {}),
        ({"last_ms": 10**30}, {}),
        ({"observed_ms": -1}, {}),
        ({"of a newer version": [[[]]]}, {"rows": np.zeros(())}),
        ({"phase": 2, "phase_frames": 3}, {}),
        ({"phase": 2, "phase_frames": 3}, {"rows": np.zeros((3, 2))}),
        ({"phase": 3, "phase_frames": 1}, {"rows": np.zeros((1, 3))}),
        ({"phase": 4, "phase_frames": 1}, {"rows": np.full((1, 2), np.nan)}),
        ({"is_second_light": True}, {}),
        ({"phase_frames": 3}, {}),
        ({}, {"pictures": np.zeros((1, 2, 3))}),
        ({}, {"dwell": np.zeros((2, 3))}),
        ({}, {"dwell": np.full((2, 3), np.inf, np.float32)}),
    ],
)
def test_snapshots_that_contradict_themselves_are_refused(counts, arrays):
    with pytest.raises(ProfileCorrupt, match="not a snapshot"):
        learner().restore(damaged(learner().snapshot(), counts, arrays))


def test_snapshot_of_another_network_is_refused():
    other = ProfileLearner("video-ede-other", GRID, 60, 5000, learning_settings().decision)
    with pytest.raises(ProfileCorrupt, match="another network"):
        learner().restore(other.snapshot())


def test_models_without_profiles_learn_only_if_told_to():
    quiet = Settings()
    profiles = CameraProfiles(MemoryProfileStore(), BUNDLE, quiet, Metrics())
    assert not CameraLearning(BUNDLE, quiet, profiles, Metrics()).learns("gate")
    with pytest.raises(ProfileIncompatible, match="kind brightness"):
        CameraLearning(BUNDLE, learning_settings(), profiles, Metrics())


@pytest.mark.parametrize("crashes", [(6,), (8, 4), (12, 5, 7, 3)])
def test_restarts_do_not_shorten_how_long_something_stays(crashes):
    """It stays for 90 frames, is away for one and stays again; a restart replays 24 frames."""
    times_ms = [100 * number + 60_000 * (number >= 140) for number in range(180)]  # a gap ends all that stayed
    messages = [message(0, n, "gate", 0.0 if n == 95 else 1.0, at_ms=at_ms) for n, at_ms in enumerate(times_ms)]

    def scores(rig: Rig) -> list[str]:
        return [fields["score"] for _, fields in rig.store.scores]

    undisturbed = Rig(messages, 8, 20, SPEC, StayingEngine(), bundle=VIDEO, settings=Settings.model_validate(PLAIN))
    undisturbed.finish()
    rig = Rig(messages, 8, 20, SPEC, StayingEngine(), bundle=VIDEO, settings=Settings.model_validate(PLAIN))
    for steps in crashes:
        for _ in range(steps):
            rig.pipeline.step()
        rig.start()
    rig.finish()
    assert scores(rig) == scores(undisturbed)
    assert float(scores(rig)[94]) == pytest.approx(9.5, abs=1e-3)


@pytest.mark.parametrize("steps", [0, 5, 6, 7, 8, 12])
def test_nothing_has_stayed_where_a_camera_begins_anew_behind_late_frames(steps):
    """However it is restarted; what was stored of its dwell before them is not put back."""
    bright = [message(0, number, "gate", 1.0) for number in range(180)]
    messages = [replace(each, timestamp_ms=1 if 100 <= each.offset < 130 else 0) for each in bright]
    rig = Rig(messages[:130], 8, 10, SPEC, StayingEngine(), bundle=VIDEO, settings=Settings.model_validate(PLAIN))
    if steps:
        rig.steps(steps)
        rig.start()
    rig.finish()
    state = rig.store.read(P0).cameras["gate"]
    assert (state.clip_from, state.clip_clock) == (None, None)
    rig.topic.partitions[P0] += messages[130:]
    rig.finish()
    scores = {int(fields["offset"]): float(fields["score"]) for _, fields in rig.store.scores}
    assert list(scores) == [*range(100), *range(130, 180)]
    assert scores[99] == pytest.approx(10.0, abs=1e-3)
    assert scores[130] == pytest.approx(0.1, abs=1e-3)
