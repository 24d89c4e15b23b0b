from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from deploy.errors import ConfigError
from deploy.spec import ClipSpec
from deploy.video import VideoInfo
from trainer.data.clips import (
    EXCERPT_FRAMES,
    Camera,
    balanced,
    common_info,
    excerpts,
    find_cameras,
    group_by_camera,
    split_cameras,
)
from trainer.data.footage import Footage, load_footage
from trainer.errors import NoFootage, TooLittleFootage


def clip(frames_n: int, camera: str = "", name: str = "clip") -> Footage:
    return Footage(name, np.zeros((frames_n, 16, 16, 1), np.uint8), np.arange(frames_n), frames_n, (), camera)


def camera(width_px: int, height_px: int, fps: float) -> Camera:
    return Camera("gate", (), VideoInfo(width_px, height_px, fps), sets_last_tenth_aside=True)


@pytest.fixture
def two(tmp_path: Path, street: Callable, pictures: Callable) -> list[Path]:
    """Two cameras with a clip of the same name."""
    return [pictures(tmp_path / name / "monday", street(4, 1.0)).parent for name in ("gate", "yard")]


class TestFindCameras:
    def test_only_camera_has_no_name(self, two):
        (found,) = find_cameras(two[:1])
        assert (found.name, [source.name for source in found.sources]) == ("", ["monday"])

    def test_clips_are_named_by_camera(self, two):
        found = find_cameras(two)
        assert [source.name for each in found for source in each.sources] == ["gate/monday", "yard/monday"]
        (loaded,) = found[1].load(ClipSpec(length=1, height_px=64, width_px=96), lambda _: None, load_footage)
        assert (loaded.camera, loaded.name) == ("yard", "yard/monday")

    def test_equal_names_give_whole_paths(self, two, pictures, street):
        other = pictures(two[0] / "gate" / "monday", street(4, 1.0)).parent
        assert [found.name for found in find_cameras([two[0] / "monday", two[1] / "monday"])] == [
            str(two[0] / "monday"),
            str(two[1] / "monday"),
        ]
        assert len({found.name for found in find_cameras([two[1], other])}) == 2

    def test_rejects_same_footage_twice(self, two):
        with pytest.raises(ConfigError, match="gate twice"):
            find_cameras([*two, two[0] / "monday" / ".."])

    def test_every_camera_needs_footage(self, two, tmp_path):
        with pytest.raises(NoFootage, match="garden"):
            find_cameras([*two, tmp_path / "garden"])


class TestCommonInfo:
    def test_is_own_of_only_camera(self):
        assert common_info([camera(641, 361, 24.0)]) == VideoInfo(641, 361, 24.0)

    def test_is_that_of_most(self):
        cameras = [camera(640, 360, 25.0), camera(480, 640, 5.0), camera(640, 360, 12.0)]
        assert common_info(cameras) == VideoInfo(640, 360, 12.0)

    def test_lies_between_two(self):
        """The aspects 2 and 0.5, the areas 20,000 and 80,000; a rate that one of them has."""
        assert common_info([camera(200, 100, 25.0), camera(200, 400, 10.0)]) == VideoInfo(200, 200, 10.0)


def test_each_camera_is_split_by_itself():
    cameras = [camera(16, 16, 10.0), Camera("yard", (), VideoInfo(16, 16, 10.0), sets_last_tenth_aside=False)]
    split = split_cameras(cameras, [[clip(100, "gate")], [clip(30, "yard"), clip(10, "yard")]], 1)
    sizes = [[(part.camera, len(part.frames)) for part in parts] for parts in (split.train, split.validation, split.holdout)]
    assert sizes == [[("gate", 72), ("yard", 30)], [("gate", 18), ("yard", 10)], [("gate", 10)]]


def test_rejects_camera_that_is_too_short():
    with pytest.raises(TooLittleFootage):
        split_cameras([camera(16, 16, 10.0)] * 2, [[clip(100, "gate")], [clip(1, "yard")]], 1)


def test_balanced_to_median_camera():
    footage = [clip(40 * EXCERPT_FRAMES, "long"), clip(4 * EXCERPT_FRAMES, "middle"), clip(EXCERPT_FRAMES, "short")]
    frames = [sum(len(part.frames) for part in group) for group in group_by_camera(balanced(footage))]
    assert frames == [4 * EXCERPT_FRAMES, 4 * EXCERPT_FRAMES, EXCERPT_FRAMES]
    assert balanced(footage[:1]) == tuple(footage[:1])


def test_excerpts_span_the_footage():
    footage = [clip(10 * EXCERPT_FRAMES, name="a"), clip(EXCERPT_FRAMES + 9, name="b")]
    found = excerpts(footage, 3 * EXCERPT_FRAMES)
    assert [(part.name, int(part.index[0]), len(part.frames)) for part in found] == [
        ("a", 0, EXCERPT_FRAMES),
        ("a", 5 * EXCERPT_FRAMES, EXCERPT_FRAMES),
        ("b", EXCERPT_FRAMES, 9),
    ]
