"""Profiles as files: what is written is read back, and everything else is refused in one line."""

from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save

from deploy.bundle import Bundle
from deploy.calibration import Calibration
from deploy.decision import DecisionTimes
from deploy.errors import ProfileCorrupt, ProfileError, ProfileIncompatible
from deploy.profile import (
    MAX_FILE_BYTES,
    Profile,
    ProfileInfo,
    parse_profile,
    profile_bytes,
    read_profile,
    require_replaceable,
    with_profile,
    write_profile,
)

CALIBRATION = Calibration(median=0.1, peaks=(0.3, 0.2), observed_s=100.0, times=DecisionTimes())
INFO = ProfileInfo(
    camera_id="gate",
    model_id="video-ede-0123456789ab",
    created_at=datetime(2026, 11, 28, 12, 0, tzinfo=UTC),
    footage=("monday", "tuesday"),
    frames=6000,
    fps=10.0,
    height_px=576,
    width_px=720,
    calibration=CALIBRATION,
)
PROFILE = Profile(INFO, np.arange(5, dtype=np.float32))


def test_file_round_trip(tmp_path: Path) -> None:
    write_profile(tmp_path / "new" / "gate.safetensors", PROFILE)
    found = read_profile(tmp_path / "new" / "gate.safetensors")
    assert found.info == INFO
    assert found.profile_id == PROFILE.profile_id
    np.testing.assert_array_equal(found.values, PROFILE.values)


def test_id_names_camera_and_content() -> None:
    assert PROFILE.profile_id.startswith("gate-")
    others = [replace(PROFILE, values=PROFILE.values + 1), replace(PROFILE, info=INFO.model_copy(update={"frames": 6001}))]
    assert len({profile.profile_id for profile in (PROFILE, *others)}) == 3


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "not a profile"),
        (b"\xff" * 100, "not a profile"),
        (profile_bytes(PROFILE)[:-1], "not a profile"),
        (save({"profile": PROFILE.values}), "not a profile"),
        (save({"other": PROFILE.values}, {"info": INFO.model_dump_json()}), "not a profile"),
        (save({"profile": PROFILE.values}, {"info": "{}"}), "camera_id: Field required"),
        (save({"profile": PROFILE.values.astype(np.float64)}, {"info": INFO.model_dump_json()}), "finite float32, got float64"),
        (save({"profile": np.full(5, np.nan, np.float32)}, {"info": INFO.model_dump_json()}), "finite float32"),
        (save({"profile": np.ones((2, 5), np.float32)}, {"info": INFO.model_dump_json()}), r"got float32 \(2, 5\)"),
        (b"\0" * (MAX_FILE_BYTES + 1), f"at most {MAX_FILE_BYTES} bytes"),
    ],
)
def test_rejects_bad_content(content: bytes, says: str) -> None:
    with pytest.raises(ProfileCorrupt, match=says) as caught:
        parse_profile(content, "gate.safetensors")
    assert str(caught.value).startswith("gate.safetensors: ")
    assert "\n" not in str(caught.value)


@given(st.data())
def test_any_damage_is_a_clean_error(data: st.DataObject) -> None:
    content = bytearray(profile_bytes(PROFILE))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    with suppress(ProfileCorrupt):
        parse_profile(bytes(content), "damaged")


def test_missing_file_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(ProfileCorrupt, match="no such file; make one: oddsight-train enrol"):
        read_profile(tmp_path / "gate.safetensors")


def test_bundle_takes_profile_of_its_network_only(recurrent_bundle: Bundle, bundle_folder: Path) -> None:
    values = np.array([2.0, 0.5], np.float32)
    fitting = Profile(INFO.model_copy(update={"model_id": recurrent_bundle.model_id}), values)
    changed = with_profile(recurrent_bundle, fitting)
    assert changed.calibration == CALIBRATION
    np.testing.assert_array_equal(changed.default_profile, values)
    with pytest.raises(ProfileIncompatible, match=r"belongs to the model video-ede-0123456789ab.* learn it again"):
        with_profile(recurrent_bundle, Profile(INFO, values))
    with pytest.raises(ProfileIncompatible, match=r"learned with another version of .* 3 values instead of 2; learn it again"):
        with_profile(recurrent_bundle, replace(fitting, values=np.ones(3, np.float32)))


def test_refuses_paths_that_cannot_take_a_profile(tmp_path: Path) -> None:
    require_replaceable(tmp_path / "new" / "gate.safetensors", "gate")
    write_profile(tmp_path / "gate.safetensors", PROFILE)
    require_replaceable(tmp_path / "gate.safetensors", "gate")
    with pytest.raises(ProfileError, match="holds the profile of camera 'gate', not of 'lawn'"):
        require_replaceable(tmp_path / "gate.safetensors", "lawn")
    with pytest.raises(ProfileError, match="is a folder"):
        require_replaceable(tmp_path, "gate")
    with pytest.raises(ProfileError, match="cannot be written"):
        require_replaceable(tmp_path / "gate.safetensors" / "lawn", "lawn")
    (tmp_path / "notes.txt").write_text("no profile")
    with pytest.raises(ProfileCorrupt, match="not a profile"):
        require_replaceable(tmp_path / "notes.txt", "gate")
