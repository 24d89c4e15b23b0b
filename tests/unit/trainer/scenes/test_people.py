import numpy as np
import pytest

from trainer.scenes.geometry import Pinhole, follow, make_track, turned_back, waiting
from trainer.scenes.people import Limb, Pose, limbs, random_looks

VIEW = Pinhole(width_px=480, height_px=270, focal_px=400.0, height_m=5.0, tilt=0.4)
LOOKS = random_looks(np.random.default_rng(0))
AT = np.array([1.0, 10.0])


def heights(body: list[Limb]) -> np.ndarray:
    return np.concatenate([limb.centres[:, 2] for limb in body])


def test_view_projects_ground_back():
    place = VIEW.ground(100.0, 200.0)
    pixel, _ = VIEW.project(np.array([*place, 0.0]))
    assert pixel == pytest.approx([100.0, 200.0])
    assert VIEW.project(np.array([0.0, VIEW.nearest_m, 0.0]))[0][1] == pytest.approx(270.0)


@pytest.mark.parametrize("swing", [0.0, 0.38, 0.8])
def test_one_foot_is_always_on_the_ground(swing):
    for phase in np.linspace(0, 2 * np.pi, 9):
        up = heights(limbs(LOOKS, Pose(AT, 0.3, float(phase), swing)))
        assert -0.1 < up.min() < 0.1  # toes may be below the ankle
        assert up.max() == pytest.approx(0.96 * LOOKS.height_m, rel=0.2)


def test_who_fell_lies():
    assert heights(limbs(LOOKS, Pose(AT, 0.3, 0.0, 0.0, fallen=1.0))).max() < 0.5 * LOOKS.height_m


def test_legs_swing_along_the_heading():
    across, along = (
        np.ptp(np.concatenate([limb.centres[:, 0] for limb in limbs(LOOKS, Pose(AT, heading, 0.0, 0.5))]))
        for heading in (np.pi / 2, 0.0)
    )
    assert along > 1.4 * across


class TestTracks:
    route = np.array([[0.0, 5.0], [6.0, 6.0], [13.0, 5.0]])

    def test_pace_is_natural(self):
        track = make_track(2.0, follow(self.route, 1.3, 0.0, np.random.default_rng(0)))
        speeds = [track.speed(time_s) for time_s in np.linspace(3.0, track.end_s - 1.0, 30)]
        assert np.mean(speeds) == pytest.approx(1.3, rel=0.1)
        assert 0.01 < np.std(speeds) < 0.3
        assert (track.start_s, track.heading(3.0)) == (2.0, pytest.approx(0.2, abs=0.2))

    def test_who_waits_stands(self):
        track = make_track(
            0.0, waiting(follow(self.route, 1.3, 0.0, np.random.default_rng(0)), 0.5, 6.0, np.random.default_rng(1))
        )
        assert track.speed(track.end_s / 2) < 0.3
        assert track.position(track.end_s) == pytest.approx([13.0, 5.0], abs=0.4)

    def test_who_turns_back_ends_where_they_came_from(self):
        points = turned_back(follow(self.route, 1.3, 0.0, np.random.default_rng(0)), 0.5)
        assert points[-1] == pytest.approx(points[0])
