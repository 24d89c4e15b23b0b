import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from deploy.dwell import DWELL_S, empty_background
from deploy.profile_learning import TAIL_RATE, Normal, Range, Ranges, normal_size, normal_tail
from deploy.score_maps import PLACE_CELLS, Grid, place_grid
from deploy.usual_maps import UNDERSTOOD, UsualMaps
from trainer.data.clips import ClipDataset
from trainer.data.footage import Footage, PlaceFootage
from trainer.models.video_ede.model import VideoEde, VideoEdeConfig
from trainer.models.video_ede.places import Dwells, UsualPlaces, learn_places
from trainer.models.video_ede.score_scale import (
    MAX_FRAMES,
    ScoreMaps,
    fit_profile,
    heat_map,
    score_first_frames,
    score_footage,
    unpack_profile,
)

GRID = (32, 40)
BATCH, BATCHES = 4, 30


def random_maps(count: int, seed: int, observed: float = 1.0) -> ScoreMaps:
    """Score maps (N, 32, 40) with exponential tails."""
    rng = torch.Generator().manual_seed(seed)
    speed, anomaly = (torch.empty(count, *GRID).exponential_(rate, generator=rng) for rate in (1.5, 8.0))
    dwell = torch.empty(count, *GRID).exponential_(20.0, generator=rng).clamp(max=1.0)
    return ScoreMaps(speed, anomaly.clamp(max=1.0), torch.full((count, *GRID), observed), dwell, by_day(count))


def by_day(count: int) -> Tensor:
    return torch.zeros(count, 1, 1)


def normal_frames(seed: int, observed: float = 1.0) -> list[ScoreMaps]:
    return [random_maps(BATCH, 1000 * seed + number, observed) for number in range(BATCHES)]


def usual_places(dwells: np.ndarray | None = None) -> UsualPlaces:
    """Places without a background, where the dwells (n, a, b) were seen: the same as those of the score maps, without any."""
    if dwells is None:
        drawn = torch.cat([maps.dwell[:, ::PLACE_CELLS, ::PLACE_CELLS] for maps in normal_frames(1)])
        dwells = np.round(drawn.numpy() * 255).astype(np.uint8)
    usual = UsualMaps(GRID)
    usual.add_dwells(dwells / np.float32(255))
    chunk = Dwells(dwells, np.zeros(len(dwells), int))
    return UsualPlaces(empty_background(place_grid(GRID)), 0.01, usual, (chunk,))


def profile_of(*footage: list[ScoreMaps]) -> Tensor:
    return fit_profile(*footage, usual_places())


Scale = Callable[[ScoreMaps], Tensor]


def scale_of(profile: Tensor) -> Scale:
    return lambda maps: heat_map(maps, unpack_profile(profile[None], GRID))


def fitted(train: list[ScoreMaps], validation: list[ScoreMaps], first: list[ScoreMaps]) -> Scale:
    return scale_of(profile_of(train, validation, first))


@pytest.fixture(scope="module")
def scale() -> Scale:
    return fitted(normal_frames(1), normal_frames(2), normal_frames(3, observed=0.0))


def largest(scale: Scale, frames: list[ScoreMaps]) -> np.ndarray:
    with torch.inference_mode():
        return np.concatenate([scale(maps).amax((1, 2)).numpy() for maps in frames])


def test_first_frames_range_from_0_to_1(scale):
    assert normal_tail(largest(scale, normal_frames(3, observed=0.0)))[:2] == pytest.approx((0.0, 1.0), abs=1e-3)


def test_fitted_frames_range_from_0_to_1(scale):
    assert normal_tail(largest(scale, normal_frames(2)))[:2] == pytest.approx((0.0, 1.0), abs=0.3)


def test_each_light_has_its_own_ranges():
    """By night everything is a tenth as fast: what is hardly more than that is as unusual as by day."""

    def frames(seed: int) -> list[ScoreMaps]:
        night = [maps._replace(steady=maps.steady / 10, light=torch.ones(BATCH, 1, 1)) for maps in normal_frames(seed + 100)]
        return [*normal_frames(seed), *night]

    scale = scale_of(profile_of(frames(1), frames(2), frames(3)))
    for part in (frames(4)[:BATCHES], frames(4)[BATCHES:]):
        assert normal_tail(largest(scale, part))[:2] == pytest.approx((0.0, 1.0), abs=0.5)


def test_unseen_normal_frames_in_range(scale):
    scores = largest(scale, normal_frames(4))
    assert abs(float(np.median(scores))) < 0.3
    assert float((scores > 1.5).mean()) < 0.08


def raised(maps: ScoreMaps, name: str, by: float, cell: tuple[int, int]) -> ScoreMaps:
    more = getattr(maps, name).clone()
    more[:, *cell] += by
    return maps._replace(**{name: more})


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(["steady", "anomaly", "dwell"]),
    st.floats(0, 20),
    st.tuples(st.integers(0, GRID[0] - 1), st.integers(0, GRID[1] - 1)),
    st.booleans(),
)
def test_score_is_monotone(scale, name, by, cell, begun):
    before = random_maps(2, 77, observed=float(begun))
    assert bool((scale(raised(before, name, by, cell)) >= scale(before)).all())


@pytest.mark.parametrize("name", ["steady", "anomaly", "dwell"])
def test_each_map_can_raise_score(scale, name):
    before = random_maps(2, 78)
    assert bool((scale(raised(before, name, 1000.0, (3, 5)))[:, 3, 5] > scale(before)[:, 3, 5] + 1.0).all())


def test_first_frame_uses_anomaly_only(scale):
    still = random_maps(3, 79, observed=0.0)
    other = still._replace(steady=still.steady + 5.0)
    assert torch.equal(scale(still), scale(other))
    assert not torch.equal(scale(still), scale(raised(still, "anomaly", 0.5, (0, 0))))


def walking(count: int, speed: Tensor) -> ScoreMaps:
    """Frames in which everything moves at ``speed``, broadcast to the grid."""
    steady = speed.expand(count, *GRID)
    return ScoreMaps(steady, torch.zeros(count, *GRID), torch.ones(count, *GRID), torch.zeros(count, *GRID), by_day(count))


def usual_speed(*footage: list[ScoreMaps]) -> Tensor:
    return unpack_profile(profile_of(*footage)[None], GRID).speed.flatten()


def test_speed_is_relative_to_row():
    rows = torch.linspace(0.5, 3.0, GRID[0])[:, None]
    frames = [walking(BATCH, rows * factor) for factor in np.linspace(0.8, 1.2, BATCHES)]
    usual = usual_speed(frames, frames, frames)
    assert torch.all(usual[1:] >= usual[:-1])
    fast = fitted(frames, frames, frames)(walking(1, torch.tensor(2.0)))[0]
    assert float(fast[2].max()) > float(fast[-2].max()) + 1.0


def test_still_cells_keep_usual_speed():
    moving = [walking(1, torch.full((1, 1), 2.0))] * 20
    still = [walking(1, torch.zeros(1, 1))] * 80
    assert torch.allclose(usual_speed(moving, moving, moving), usual_speed([*moving, *still], moving, moving))


@given(st.tuples(*[st.floats(-5, 40)] * 3))
def test_joint_score_is_that_of_the_largest_part_and_little_more(parts):
    none = np.zeros(GRID, np.float32)
    normal = Normal(none, none, np.ones((GRID[0], 1), np.float32), empty_background(place_grid(GRID)), 0.01)
    steady, anomaly, dwell = (torch.full((1, *GRID), value) for value in (math.exp(parts[0] / 10), *parts[1:]))
    values = torch.from_numpy(normal._replace(ranges=(Ranges(speed=Range(0.0, 0.1)), Ranges())).values())
    score = float(scale_of(values)(ScoreMaps(steady, anomaly, torch.ones(1, *GRID), dwell, by_day(1))).max())
    assert max(parts) - 1e-3 <= score <= max(parts) + math.log(3) / TAIL_RATE + 1e-3


def test_profile_has_its_size(scale):
    frames = normal_frames(1)
    assert profile_of(frames, frames, frames).shape == (normal_size(GRID),)


def test_each_clip_has_its_own_profile():
    one, other = (profile_of(normal_frames(seed), normal_frames(seed + 1), normal_frames(3)) for seed in (1, 5))
    maps = random_maps(2, 80)
    together = heat_map(maps, unpack_profile(torch.stack([one, 2 * other]), GRID))
    assert torch.equal(together[0], scale_of(one)(maps)[0])
    assert torch.equal(together[1], scale_of(2 * other)(maps)[1])


def test_early_frames_shrink_high_scores(scale):
    late, early = (raised(random_maps(2, 79, observed), "anomaly", 9.0, (3, 5)) for observed in (1.0, 0.25))
    with torch.inference_mode():
        whole, begun = scale(late), scale(early)
    assert bool((whole > 0).any() and (whole < 0).any())
    assert torch.allclose(begun, torch.where(whole > 0, whole / 2, whole), atol=1e-5)


def test_a_corner_never_understood_hides_nothing():
    """Of its usual anomaly 0.4 are left, less than the largest of a normal frame."""

    def frames(seed: int, corner: float, observed: float = 1.0) -> list[ScoreMaps]:
        quiet = [maps._replace(anomaly=maps.anomaly * 0.6) for maps in normal_frames(seed, observed)]
        return [raised(maps, "anomaly", corner, (31, 39)) for maps in quiet] if corner else quiet

    with_corner, without = (fitted(frames(1, corner), frames(2, corner), frames(3, corner, 0.0)) for corner in (0.3, 0.0))
    for seed, observed in ((4, 1.0), (5, 0.0)):
        expected = largest(without, frames(seed, 0.0, observed))
        assert np.corrcoef(largest(with_corner, frames(seed, 0.3, observed)), expected)[0, 1] > 0.7
        assert (largest(with_corner, frames(seed, 1.5, observed)) > expected + 1.0).all()


def test_what_is_understood_is_not_subtracted():
    frames = [maps._replace(anomaly=maps.anomaly.clamp(max=UNDERSTOOD - 0.01)) for maps in normal_frames(1)]
    assert not unpack_profile(profile_of(frames, frames, frames)[None], GRID).anomaly.any()


def test_still_footage_gives_finite_scores():
    still = [walking(BATCH, torch.zeros(1, 1))] * 5
    profile = fit_profile(still, still, still, usual_places(np.zeros((20, *place_grid(GRID)), np.uint8)))
    scale = scale_of(profile)
    assert torch.isfinite(profile).all()
    assert float(scale(still[0]).abs().max()) < 1.0
    assert torch.isfinite(scale(random_maps(3, 6))).all()


def clips_of(*videos: np.ndarray) -> ClipDataset:
    """Footage (n, H, W) as single-frame clips."""
    found = [Footage(str(number), video[..., None], np.arange(len(video)), len(video), ()) for number, video in enumerate(videos)]
    return ClipDataset(tuple(found), 1)


def brightness_maps(clips: Tensor, state: Tensor) -> tuple[ScoreMaps, Tensor]:
    """Score maps of the frame's brightness and the sum of the frames before; the state is that sum."""
    brightness = clips[:, 0, :1, :1, 0].float()
    maps = ScoreMaps(brightness, state[:, 0], (state[:, 0] > 0).float(), torch.zeros_like(brightness), by_day(len(clips)))
    return maps, state + brightness[:, None]


def numbered(count: int, first: int) -> np.ndarray:
    return np.arange(first, first + count, dtype=np.uint8)[:, None, None] * np.ones((1, 8, 8), np.uint8)


def test_frames_before_footage_build_up_its_state():
    whole = numbered(80, 1)
    (video,) = clips_of(whole[70:]).footage
    cut = ClipDataset((replace(video, before=whole[:70, ..., None]),), 1)
    maps = list(score_footage(brightness_maps, cut, (1, 1, 1)))
    assert [part.steady.item() for part in maps] == list(range(71, 81))
    assert maps[0].anomaly.item() == sum(range(7, 71))  # the last 64 frames before


@given(st.lists(st.integers(1, 12), min_size=1, max_size=20))
def test_scores_frames_in_order(lengths):
    videos = [numbered(count, 1 + number) for number, count in enumerate(lengths)]
    seen = [
        (frame.item(), before.item())
        for maps in score_footage(brightness_maps, clips_of(*videos), (1, 1, 1))
        for frame, before in zip(maps.steady.flatten(), maps.anomaly.flatten(), strict=True)
    ]
    expected = [
        (1 + number + place, sum(range(1 + number, 1 + number + place)))
        for number, count in enumerate(lengths)
        for place in range(1, count)
    ]
    assert sorted(seen) == sorted(expected)


def test_long_footage_is_sampled_evenly():
    video = np.repeat(np.arange(1, 256, dtype=np.uint8), 80)[:, None, None] * np.ones((1, 1, 1), np.uint8)
    seen = torch.cat([maps.steady.flatten() for maps in score_footage(brightness_maps, clips_of(video), (1, 1, 1))])
    assert MAX_FRAMES * 0.9 < len(seen) <= MAX_FRAMES
    assert (float(seen.min()), float(seen.max())) == (1.0, 255.0)


def test_how_long_things_stay_is_learned_in_seconds():
    """A place is covered for ten seconds in a hundred, once at 5 and once at 25 frames a second."""
    rng, found = np.random.default_rng(0), []
    for fps in (5, 25):
        stretch = rng.normal(120, 1, (100 * fps, 16, 20)).round().astype(np.uint8)
        stretch[20 * fps : 30 * fps, 6:9, 6:9] = 220
        places = learn_places(PlaceFootage([stretch], fps), Grid(GRID, 1, 0.25, 1e-3))
        found.append((places.maps.dwell()[14, 14] * DWELL_S, float(places.unusual_dwells().values.max()) * DWELL_S))
    assert found[0] == pytest.approx(found[1], abs=1.0)
    assert found[0][0] == pytest.approx(5.0, abs=1.5)  # one frame in twenty exceeds it
    assert found[0][1] == pytest.approx(5.0, abs=1.5)


@pytest.mark.parametrize("frames", [299, 300])
def test_a_light_of_less_than_five_minutes_has_no_picture_of_its_own(frames):
    rng = np.random.default_rng(0)
    day = rng.uniform(40, 200, (16, 20))
    stretches = [(light + rng.normal(0, 2, (count, 16, 20))).round() for light, count in ((day, 600), (255 - day, frames))]
    clipped = [np.clip(stretch, 0, 255).astype(np.uint8) for stretch in stretches]
    places = learn_places(PlaceFootage(clipped, 1.0), Grid(GRID, 1, 0.25, 1e-3))
    assert np.array_equal(*places.background.pictures) == (frames == 299)
    assert set(places.unusual_dwells().lights) == ({0, 1} if frames == 300 else {0})


def test_first_frames_have_empty_state():
    (maps,) = score_first_frames(brightness_maps, clips_of(numbered(5, 1)), (1, 1, 1))
    assert float(maps.observed.max()) == 0.0
    assert maps.steady.flatten().tolist() == [1.0, 2.0, 3.0, 4.0, 5.0]


def test_fits_network_to_still_footage(street):
    torch.manual_seed(0)
    config = VideoEdeConfig(height_px=64, width_px=96, first=4, fine=16, coarse=12, width=12, latent=4)
    for videos in ([street(30, 1.0, 1), street(30, 1.0, 2)], [np.full((30, 64, 96), 90, np.uint8)] * 2):
        network = VideoEde(config).eval()
        profile = network.fit_scale(clips_of(videos[0]), clips_of(videos[1]), 10.0)
        with torch.inference_mode():
            clips = torch.from_numpy(np.concatenate(videos)[::6, None, ..., None])
            score, heatmap, _ = network(clips, torch.zeros(len(clips), *config.state_shape), profile.expand(len(clips), -1))
        assert torch.isfinite(score).all()
        assert torch.isfinite(heatmap).all()
