"""Every fault begins at its frame, is the same for the same seed, and shows what its name says."""

import numpy as np
import pytest

from tests.harness.street import SLOW_PX, street
from trainer.data.footage import Footage
from trainer.panel.faults import FAULTS, Recording, recording_of

FAULT = {fault.name: fault for fault in FAULTS}
FRAMES = 120


@pytest.fixture(scope="module")
def recording() -> Recording:
    frames = street(FRAMES, np.full(FRAMES, SLOW_PX), 3)[..., None]
    return recording_of(Footage("calm", frames, np.arange(FRAMES), FRAMES, ()), 12.0, 3.0, 10.0)


def changed(recording: Recording, name: str) -> np.ndarray:
    frames = FAULT[name].apply(recording, np.random.default_rng(5))
    assert frames is not None
    return frames


def difference(recording: Recording, name: str) -> float:
    """Mean difference from the footage from the fault on, in grey levels."""
    ordinary = recording.frames[recording.first :].astype(float)
    return float(np.abs(changed(recording, name)[recording.first :] - ordinary).mean())


@pytest.mark.parametrize("name", FAULT)
def test_faults_begin_at_their_frame(recording: Recording, name: str) -> None:
    frames, again = changed(recording, name), changed(recording, name)
    np.testing.assert_array_equal(frames, again)
    np.testing.assert_array_equal(frames[: recording.first], recording.frames[: recording.first])
    assert (frames.dtype, frames.shape[1:]) == (np.uint8, recording.frames.shape[1:])
    length = min(len(frames), len(recording.frames))
    is_changed = (frames[recording.first : length] != recording.frames[recording.first : length]).any()
    assert is_changed == (name != "undisturbed")


def test_recording_is_the_last_part_of_the_footage(recording: Recording) -> None:
    assert (len(recording.frames), recording.first) == (FRAMES, 30)
    assert recording.view is not None


def test_faults_show_what_they_say(recording: Recording) -> None:
    rest, covered = FRAMES - recording.first, changed(recording, "cover")[recording.first :]
    assert covered.std() < 3
    assert (changed(recording, "freeze")[recording.first :] == recording.frames[recording.first]).all()
    dark = [changed(recording, f"darken_{how}")[[recording.first, -1]].mean() for how in ("at_once", "over_4s")]
    assert dark[0] < dark[1]
    lengths = {name: len(changed(recording, name)) - recording.first for name in ("halve_rate", "triple_speed", "double_rate")}
    assert lengths == {"halve_rate": rest // 2, "triple_speed": rest // 3, "double_rate": 2 * rest - 1}
    np.testing.assert_array_equal(changed(recording, "reversed_tracks")[-1], recording.frames[recording.first])


def test_disturbances_grow_with_their_names(recording: Recording) -> None:
    assert difference(recording, "shake_1px") < difference(recording, "shake_3px") < difference(recording, "turn_40px")
    assert difference(recording, "quality_20") < difference(recording, "exposure_15_percent")


def test_things_that_stay_need_footage_in_which_something_moves() -> None:
    still = np.repeat(street(1, np.zeros(1), 3)[..., None], 60, axis=0)
    recording = recording_of(Footage("empty", still, np.arange(60), 60, ()), 6.0, 2.0, 10.0)
    assert [FAULT[name].apply(recording, np.random.default_rng(0)) for name in ("left_object", "standing_person")] == [None, None]


@pytest.mark.parametrize("name", ["left_object", "standing_person"])
def test_things_stay_for_a_minute(recording: Recording, name: str) -> None:
    frames, first = changed(recording, name), recording.first
    assert len(frames) - first == 600
    thing = frames[first] != recording.frames[first]
    there, back = frames[first + 40], frames[first + 2 * (FRAMES - 1 - first) - 40]  # the same moment, played backward
    np.testing.assert_array_equal(there, back)
    assert np.abs(there[thing].astype(int) - frames[-1][thing]).mean() < 5  # but for its soft edge
