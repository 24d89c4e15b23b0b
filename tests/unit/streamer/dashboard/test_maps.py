"""The maps of what a camera's profile holds for usual."""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from deploy.errors import BundleError, ProfileIncompatible
from deploy.profile import read_profile
from streamer.config import Settings
from streamer.dashboard.maps import MEANINGS, learned_normal, map_png, usual
from streamer.demo.run import DEMO_PROFILES


def pixels(png: bytes) -> NDArray[np.uint8]:
    return np.asarray(cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_UNCHANGED), np.uint8)


def test_the_more_the_brighter_and_nothing_under_masks() -> None:
    values = np.zeros((10, 20), np.float32)
    values[:, 10:] = 2.0
    values[5:, 10:] = 4.0
    shown = pixels(map_png(values, [((0.75, 0.0), (1.0, 0.0), (1.0, 1.0), (0.75, 1.0))]))
    assert shown.shape == (10, 20, 4)
    assert (shown[:, :10, 3] == 0).all()
    assert (shown[:, 15:, 3] == 0).all()
    assert 0 < shown[2, 12, 3] < shown[7, 12, 3]
    assert shown[2, 12, :3].sum() < shown[7, 12, :3].sum()
    assert (pixels(map_png(np.zeros((4, 4), np.float32), []))[..., 3] == 0).all()


def test_a_profile_of_the_demo_has_all_maps() -> None:
    normal = learned_normal(Settings(), read_profile(DEMO_PROFILES[0]))
    maps = {kind: usual(normal, kind) for kind in MEANINGS}
    assert {values.shape for values in maps.values()} == {(60, 90)}
    assert np.allclose(maps["speed"], normal.speed)
    assert 0 < maps["dwell"].max() <= 60
    assert maps["anomaly"].max() <= 60


def test_why_there_are_none_is_told(tmp_path: Path) -> None:
    profile = read_profile(DEMO_PROFILES[0])
    other = replace(profile, info=profile.info.model_copy(update={"model_id": "other"}))
    with pytest.raises(ProfileIncompatible, match="belongs to the model other"):
        learned_normal(Settings(), other)
    with pytest.raises(BundleError):
        learned_normal(Settings.model_validate({"engine": {"bundle": tmp_path / "none"}}), profile)
