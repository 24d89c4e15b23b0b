from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deploy.dwell import empty_background, learn_background, reduce_frame
from deploy.image import Frame
from deploy.light import LightWatch
from deploy.profile import Profile
from deploy.profile_learning import Normal
from deploy.score_maps import Grid, place_grid
from tests.harness.pipeline import profile_of

GRID = Grid((30, 40), 3, 0.25, 1e-3)
RNG = np.random.default_rng(5)
DAY = np.kron(RNG.uniform(40, 200, (15, 20)), np.ones((8, 8)))
NIGHT = 255 - DAY  # infrared light turns much of a picture round


def frame(values: np.ndarray) -> Frame:
    noisy = values + RNG.normal(0, 2, values.shape)
    return np.clip(np.round(noisy), 0, 255).astype(np.uint8)[..., None]


def learned_in(*lights: np.ndarray) -> Profile:
    pictures = np.stack([reduce_frame(frame(light)) for light in lights for _ in range(30)])
    return profile_with(learn_background(pictures.astype(np.float32), footage_s=3600.0))


def profile_with(background) -> Profile:
    zeros = np.zeros(GRID.shape, np.float32)
    values = Normal(zeros, zeros, np.ones((30, 1), np.float32), background, 0.05).values()
    return replace(profile_of("gate", 1.0, 0.0), values=values)


DAY_PROFILE = learned_in(DAY)


@pytest.mark.parametrize(
    ("lights", "seen", "expected"),
    [
        ((DAY,), NIGHT, True),
        ((NIGHT,), DAY, True),
        ((DAY,), DAY, False),
        ((DAY, NIGHT), DAY, False),
        ((DAY, NIGHT), NIGHT, False),
    ],
)
def test_only_light_that_was_learned_is_known(lights, seen, expected):
    assert LightWatch(GRID).is_unknown(frame(seen), learned_in(*lights)) == expected


@settings(max_examples=30, deadline=None)
@given(gain=st.floats(0.6, 1.25), offset=st.floats(-20, 30))
def test_clouds_and_exposure_make_no_other_light(gain, offset):
    assert not LightWatch(GRID).is_unknown(frame(gain * DAY + offset), DAY_PROFILE)


@pytest.mark.parametrize("columns", [slice(0, 80), slice(80, 160)])
def test_somebody_before_the_lens_makes_no_other_light(columns):
    """He hides half of the picture, but not a good part of three of its quarters."""
    hidden = DAY.copy()
    hidden[30:, columns] = 20
    assert not LightWatch(GRID).is_unknown(frame(hidden), DAY_PROFILE)


def test_light_on_the_border_does_not_flicker(monkeypatch):
    """Between the two limits it is known after known light, and unknown after unknown."""
    shares = iter([0.1, 0.25, 0.4, 0.25, 0.1, 0.25])
    monkeypatch.setattr("deploy.light.changed_all_over", lambda *_: next(shares))
    watch = LightWatch(GRID)
    assert [watch.is_unknown(frame(DAY), DAY_PROFILE) for _ in range(6)] == [False, False, True, True, False, False]


def test_profile_that_follows_is_compared_with():
    watch = LightWatch(GRID)
    assert watch.is_unknown(frame(NIGHT), DAY_PROFILE)
    assert not watch.is_unknown(frame(NIGHT), learned_in(DAY, NIGHT))


def test_profile_without_a_background_knows_no_other_light():
    assert not LightWatch(GRID).is_unknown(frame(NIGHT), profile_with(empty_background(place_grid(GRID.shape))))
