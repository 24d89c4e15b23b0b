"""What is wrong with a camera is told within seconds and once, and neither light, noise nor passers-by are taken for it."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.health import (
    REFERENCE_MEASURES,
    FaultState,
    HealthProblem,
    HealthState,
    PictureWatch,
    RateWatch,
    Reference,
    advance,
    advance_fault,
    find_problem,
    follow,
    go_offline,
    learn_reference,
    measure,
    parse_reference,
    reference_text,
)
from tests.harness.street import SLOW_PX, street
from trainer.data.footage import Footage
from trainer.panel.faults import FAULTS, Recording, recording_of

FRAMES, FPS = 200, 10.0
EXPECTED: dict[str, HealthProblem] = {
    "cover": "covered",
    "freeze": "frozen",
    "turn_40px": "moved",
    "darken_at_once": "dark",
    "darken_over_4s": "dark",
    "defocus": "defocused",
}
QUIET = [fault.name for fault in FAULTS if fault.name not in EXPECTED]


@pytest.fixture(scope="module")
def frames() -> np.ndarray:
    """A street between dark and bright houses, enlarged to the size of a camera's picture, with a camera's noise."""
    rng = np.random.default_rng(1)
    houses = np.kron(rng.uniform(-50, 50, (8, 12)), np.ones((8, 8)))
    walked = np.clip(street(FRAMES, np.full(FRAMES, SLOW_PX), 3) + houses, 10, 235)
    large = walked.repeat(3, axis=1).repeat(3, axis=2)[..., None]
    return np.clip(np.round(large + rng.normal(0, 1.5, large.shape)), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def reference(frames: np.ndarray) -> Reference:
    return learn_reference([measure(frame) for frame in frames[:REFERENCE_MEASURES]], 0)


@pytest.fixture(scope="module")
def recording(frames: np.ndarray) -> Recording:
    return recording_of(Footage("street", frames, np.arange(FRAMES), FRAMES, ()), 20.0, 5.0, FPS)


def reports(frames: np.ndarray, reference: Reference | None) -> list[tuple[str, str, float]]:
    """Kind, problem and second of what is told about frames that are measured once a second."""
    state, told, changed_s, before = HealthState(), [], 0.0, None
    for number in range(0, len(frames), round(FPS)):
        now_s = number / FPS
        if before is None or (frames[number] != before).any():
            changed_s, before = now_s, frames[number]
        found = find_problem(measure(frames[number]), reference, round(1000 * (now_s - changed_s)))
        state, changes = advance(state, found, round(1000 * now_s))
        told += [(change.kind, change.problem, now_s) for change in changes]
    return told


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_faults_are_told_and_disturbances_are_not(recording: Recording, reference: Reference, fault) -> None:
    changed = fault.apply(recording, np.random.default_rng(0))
    if changed is None:
        pytest.skip("nothing walks in this footage")
    told = reports(changed, reference)
    if fault.name in QUIET:
        assert told == []
        return
    ((kind, problem, at_s),) = told  # it stays
    assert (kind, problem) == ("start", EXPECTED[fault.name])
    assert at_s - recording.first / FPS <= (7.0 if "over" in fault.name else 3.0)


def trusted(frames: np.ndarray, reference: Reference, times_ms: np.ndarray) -> list[bool]:
    """Whether each frame may start events, by pictures and rate together."""
    pictures, rate, state, states = PictureWatch(reference), RateWatch(), HealthState(), []
    for frame, now_ms in zip(frames, times_ms.tolist(), strict=True):
        look, usual = pictures.look(frame, now_ms), rate.is_usual(now_ms, FPS, 5_000)
        if look is not None or not usual:
            state, changes = advance(state, look.problem if look is not None and usual else "rate", now_ms)
            assert not [change for change in changes if change.problem == "exposure"]
        states.append(state.is_trusted)
    return states


@pytest.mark.parametrize("gain", [0.85, 1.15])
def test_step_of_the_exposure_is_no_evidence_for_a_second(frames: np.ndarray, reference: Reference, gain: float) -> None:
    relit = frames[:100].copy()
    relit[60:] = np.clip(relit[60:] * gain, 0, 255)
    states = trusted(relit, reference, 100 * np.arange(100))
    assert all(states[:60])
    assert not any(states[60:69])
    assert all(states[71:])


def test_exposure_that_keeps_changing_is_told(frames: np.ndarray, reference: Reference) -> None:
    pictures, state, told = PictureWatch(reference), HealthState(), []
    for number in range(700):
        gain = 1.0 if number < 20 or number % 6 < 3 else 0.85
        look = pictures.look((frames[number % FRAMES] * gain).astype(np.uint8), 100 * number)
        state, changes = (state, ()) if look is None else advance(state, look.problem, 100 * number)
        told += [(change.kind, change.problem) for change in changes]
    assert told == [("start", "exposure")]


@pytest.mark.parametrize(("interval_ms", "expected"), [(200, False), (50, False), (125, True), (80, True)])
def test_other_rate_is_seen_after_five_frames(interval_ms: int, expected: bool) -> None:
    watch, now_ms, usual = RateWatch(), 0, []
    for number in range(40):
        now_ms += 100 if number < 20 else interval_ms
        usual.append(watch.is_usual(now_ms, 10.0, 5_000))
    assert all(usual[:22])
    assert set(usual[25:]) == {expected}


def test_gaps_and_steps_back_are_no_rate() -> None:
    watch = RateWatch()
    assert all(watch.is_usual(now_ms, 10.0, 5_000) for start in (0, 60_000, 10_000) for now_ms in range(start, start + 1000, 100))


def test_problem_ends_when_the_picture_comes_back(frames: np.ndarray, reference: Reference) -> None:
    covered = frames.copy()
    covered[60:120] = 12
    assert [each[:2] for each in reports(covered, reference)] == [("start", "covered"), ("end", "covered")]


@pytest.mark.parametrize(("level", "expected"), [(12, "covered"), (255, "overexposed")])
def test_camera_that_starts_with_nothing_to_see(level: int, expected: str) -> None:
    rng = np.random.default_rng(0)
    blank = np.clip(level + rng.normal(0, 1, (40, 96, 144, 1)), 0, 255).astype(np.uint8)
    assert [each[:2] for each in reports(blank, None)] == [("start", expected)]


def test_reference_follows_slow_light(frames: np.ndarray, reference: Reference) -> None:
    evening, following = frames.astype(float), reference
    for step in range(600):
        seen = measure((evening[step % FRAMES] * (1 - step / 750)).astype(np.uint8))
        assert find_problem(seen, following, 0) is None
        following = follow(following, seen)
    assert find_problem(seen, reference, 0) == "dark"


def test_offline_replaces_what_was_told() -> None:
    state, changes = go_offline(HealthState(problem="dark", since_ms=5), 9000)
    assert [(change.kind, change.problem) for change in changes] == [("end", "dark"), ("start", "offline")]
    assert (state.problem, state.since_ms, state.is_trusted) == ("offline", 9000, False)


@given(st.lists(st.sampled_from([None, "dark", "covered"]), max_size=60))
def test_starts_and_ends_alternate(found: list[HealthProblem | None]) -> None:
    state, told = HealthState(), []
    for number, each in enumerate(found):
        state, changes = advance(state, each, 1000 * number)
        told += [(change.kind, change.problem) for change in changes]
    assert [kind for kind, _ in told] == [("start", "end")[number % 2] for number in range(len(told))]
    assert all(start[1] == end[1] for start, end in zip(told[::2], told[1::2], strict=False))
    assert (state.problem is not None) == (len(told) % 2 == 1)


def test_reference_survives_storage(frames: np.ndarray, reference: Reference) -> None:
    again = parse_reference(reference_text(reference))
    assert again is not None
    np.testing.assert_allclose(again.picture, reference.picture, atol=0.5)
    assert again[1:] == pytest.approx(reference[1:])


@given(st.text() | st.binary().map(lambda content: content.decode("latin-1")) | st.just('{"shape": [1e9, 2], "picture": ""}'))
def test_damaged_references_are_none(text: str) -> None:
    assert parse_reference(text) is None


@pytest.mark.parametrize("damage", [{"level": 10**400}, {"shape": [2**70, 1]}, {"level": float("nan")}, {"shape": [0, 5]}])
def test_references_with_absurd_numbers_are_none(reference: Reference, damage: dict[str, object]) -> None:
    assert parse_reference(json.dumps({**json.loads(reference_text(reference)), **damage})) is None


def test_reference_of_frames_of_another_size_is_dropped(frames: np.ndarray, reference: Reference) -> None:
    watch = PictureWatch(reference)
    look = watch.look(frames[0][:-8], 0)
    assert look is not None
    assert (look.problem, watch.reference) == (None, None)


def faults_told(faulty: list[bool]) -> list[tuple[str, int]]:
    """What is told, and at which frame."""
    state, told = FaultState(), []
    for number, has_fault in enumerate(faulty):
        state, changes = advance_fault(state, "damaged", number, has_fault=has_fault)
        told += [(change.kind, number) for change in changes]
    return told


def test_many_faulty_frames_are_told_once_and_their_end() -> None:
    assert faults_told([False] * 50 + [True] + [False] * 500) == []
    [(started, at), (ended, after)] = faults_told([False] * 10 + [True, False] * 50 + [False] * 200)
    assert (started, ended) == ("start", "end")
    assert 15 <= at <= 30
    assert 150 <= after <= 310


@given(st.lists(st.booleans(), max_size=300))
def test_faults_start_and_end_in_turn(faulty: list[bool]) -> None:
    kinds = [kind for kind, _ in faults_told(faulty)]
    assert kinds == ["start", "end"] * (len(kinds) // 2) + ["start"] * (len(kinds) % 2)
