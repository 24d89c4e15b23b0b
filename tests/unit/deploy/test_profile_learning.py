from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from deploy.bundle import Bundle
from deploy.calibration import scored_at_rate
from deploy.decision import DecisionTimes
from deploy.dwell import Background, dwell_step, foreground, lights_of, update_dwell
from deploy.errors import BundleCorrupt, ConfigError, ProfileIncompatible
from deploy.profile_learning import LEAST_OF_LIGHT, Maxima, Normal, Range, Ranges, light_factors, thresholds_in_lights
from deploy.score_maps import Grid, ScoreMaps, dwell_of, log_odds, picture_of, place_grid, state_maps, to_cells
from deploy.usual_maps import UsualMaps
from tests.harness.video_bundle import CONFIG, VIDEO, with_dwell
from trainer.models.registry import build_video_ede
from trainer.models.video_ede import dwell as graph
from trainer.models.video_ede import score_scale
from trainer.models.video_ede.model import VideoEde, VideoEdeConfig

GRID = Grid((16, 20), 3, 0.25, 1e-3)
RNG = np.random.default_rng(0)
STEP = 1 / 16  # of dwells


def random_maps(count: int) -> ScoreMaps:
    steady, anomaly, dwell = (RNG.random((count, *GRID.shape), np.float32) for _ in range(3))
    light = RNG.integers(0, 2, count)
    return ScoreMaps(4 * steady, anomaly, np.ones_like(steady), to_cells(dwell[:, ::2, ::2]), light)


def random_background() -> Background:
    return Background(*(RNG.uniform(10, 200, (2, *place_grid(GRID.shape))).astype(np.float32) for _ in range(2)))


def in_graph(background: Background, count: int) -> graph.Background:
    pictures, differences = (torch.from_numpy(part).expand(count, -1, -1, -1) for part in background)
    return graph.Background(pictures, differences, torch.full((count, 1, 1, 1), STEP))


@torch.inference_mode()
def test_state_shows_the_maps_of_the_network():
    network = VideoEde(VideoEdeConfig(height_px=64, width_px=80, first=4, fine=12, coarse=8, width=12, latent=4))
    state, dwell = torch.zeros(2, *network.config.state_shape), list(np.zeros((2, *place_grid(GRID.shape)), np.float32))
    light = RNG.uniform(100, 130, (2, *place_grid(GRID.shape))).astype(np.float32)
    background = Background(light, np.full_like(light, 2.0))
    for _ in range(3):
        clips = torch.from_numpy(RNG.integers(0, 256, (2, 1, 64, 80, 1), np.uint8))
        clips[1, :, 16:40, 24:56] = 255
        maps, state = network.score_maps(clips, state, in_graph(background, 2))
        pictures = picture_of(state.numpy())
        shown = state_maps(state.numpy(), dwell_of(state.numpy()), lights_of(pictures, background), GRID)
        for actual, expected in zip(shown, maps.numpy(), strict=True):
            np.testing.assert_allclose(actual, expected, atol=1e-6)
        dwell = [update_dwell(*each, STEP) for each in zip(dwell, foreground(pictures, background), strict=True)]
        np.testing.assert_allclose(dwell_of(state.numpy()), dwell, atol=1e-4)
    assert np.max(dwell) > 0


@given(arrays(np.float32, place_grid(GRID.shape), elements=st.floats(0, 1, width=32)))
def test_a_state_holds_its_dwell_exactly(dwell):
    state = RNG.random((8, *GRID.shape), np.float32)
    changed = with_dwell(state, dwell)
    assert np.array_equal(dwell_of(changed[None])[0], dwell)
    assert np.array_equal(np.delete(changed, 1, axis=0), np.delete(state, 1, axis=0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_dwell_grows_at_high_frame_rates_in_half_precision(dtype):
    """A minute at 30 frames a second: added to one number in bfloat16, a frame would be lost from 15 s on."""
    shown, step = torch.ones(1, 1, 2, 2, dtype=dtype), torch.full((1, 1, 1, 1), dwell_step(30), dtype=dtype)
    dwell = graph.Dwell.from_cells(torch.zeros(1, 1, 4, 4, dtype=dtype))
    reached = []
    for number in range(1, 1801):
        dwell = graph.Dwell.from_cells(graph.update_dwell(dwell, shown, step).cells())
        if number % 450 == 0:
            reached.append(float(dwell.total().max()))
    assert reached == pytest.approx([0.25, 0.5, 0.75, 1.0], rel=0.05)


def test_scores_are_those_of_the_graph():
    usual = random_maps(1)
    day = Ranges(Range(0.5, 0.2), Range(0.3, 0.1), Range(0.2, 0.4), Range(2.0, 3.0))
    night = Ranges(Range(0.1, 0.4), Range(0.7, 0.2), Range(0.1, 0.1), Range(1.0, 5.0))
    normal = Normal(usual.anomaly[0] / 4, usual.dwell[0], usual.steady[0, :, :1] + 0.5, random_background(), STEP, (day, night))
    maps = random_maps(8)
    assert set(maps.light) == {0, 1}
    profile = torch.from_numpy(normal.values())[None].expand(8, -1)
    *parts, light = map(torch.from_numpy, maps)
    heat = score_scale.heat_map(
        score_scale.ScoreMaps(*parts, light[:, None, None]), score_scale.unpack_profile(profile, GRID.shape)
    )
    np.testing.assert_allclose(normal.scores(maps), heat.amax((1, 2)).numpy(), rtol=1e-5)
    np.testing.assert_array_equal(Normal.from_values(normal.values(), GRID.shape).values(), normal.values())


@pytest.mark.parametrize(("raised", "channel"), [("steady", "speed"), ("anomaly", "appearance"), ("dwell", "dwell")])
def test_leading_channel_is_the_part_that_is_largest(raised, channel):
    usual = random_maps(1)
    normal = Normal(usual.anomaly[0], usual.dwell[0], usual.steady[0, :, :1] + 0.5, random_background(), STEP)
    maps = random_maps(1)
    part = getattr(maps, raised).copy()
    part[0, 3, 4] = 1e6
    assert normal.leading_channel(maps._replace(**{raised: part})) == channel


@pytest.mark.parametrize(("busy_rows", "spread"), [(0, 6 / 60), (1, 0.9)])
def test_dwell_says_less_where_things_stay_at_other_places(busy_rows, spread):
    usual = random_maps(1)
    dwell = np.zeros(GRID.shape, np.float32)
    dwell[:busy_rows] = 0.9
    normal = Normal(usual.anomaly[0], dwell, usual.steady[0, :, :1] + 0.5, random_background(), STEP)
    nothing = Maxima(np.zeros((3, 100), np.float32), np.zeros(100, int))
    assert normal.with_ranges(nothing, nothing._replace(values=nothing.values[:1])).ranges[0].dwell.spread == pytest.approx(
        spread
    )


def test_each_part_counts_in_units_of_its_own_threshold_but_never_more_than_by_its_range():
    """A part whose normal moments reach far does not hide what shows in one whose normal moments hardly reach its range."""
    maps, usual = random_maps(4), random_maps(1)
    normal = Normal(usual.anomaly[0], usual.dwell[0], usual.steady[0, :, :1] + 0.5, random_background(), STEP)
    before = normal.scaled_maxima(maps)
    needed = np.array([[4.0, 0.5, 1.0], [1.0, 2.0, 0.0]], np.float32)
    after = normal.with_part_thresholds(needed)
    np.testing.assert_allclose(after.scaled_maxima(maps).values, before.values / np.maximum(1, needed)[maps.light].T, rtol=1e-5)
    assert [own[3:] for own in after.ranges] == [own[3:] for own in normal.ranges]


def nights_and_days(days: int, nights: int) -> Maxima:
    """By day things are ten times as fast as by night."""
    lights = np.repeat([0, 1], [days, nights])
    return Maxima((RNG.exponential(1.0, (1, days + nights)) * np.where(lights, 0.5, 5.0)).astype(np.float32), lights)


def at_ten_a_second(values):
    return [scored_at_rate(values, 10.0)]


def test_each_light_has_the_threshold_that_it_needs():
    """Otherwise what is unusual by night would be hidden by what is usual by day."""
    watched, times = nights_and_days(4000, 4000), DecisionTimes()
    needed = thresholds_in_lights(watched, at_ten_a_second, times)
    assert needed.shape == (2, 1)
    assert needed[0, 0] > 4 * needed[1, 0]
    factors = light_factors(needed[:, 0])
    assert needed[0, 0] / factors[0] == pytest.approx(needed[1, 0] / factors[1])
    assert factors.min() == 1.0
    maps, normal = random_maps(8), Normal.without_ranges(UsualMaps(GRID.shape), random_background(), STEP)
    np.testing.assert_allclose(
        normal.with_joint_widened(factors).scores(maps), normal.scores(maps) / factors[maps.light], rtol=1e-5
    )


def test_a_light_that_is_hardly_seen_has_the_ranges_and_thresholds_of_all():
    watched, times = nights_and_days(4000, LEAST_OF_LIGHT - 1), DecisionTimes()
    day, night = thresholds_in_lights(watched, at_ten_a_second, times)[:, 0]
    assert night == pytest.approx(day, rel=0.05)
    assert watched.in_light(1).shape == (1, 4000 + LEAST_OF_LIGHT - 1)
    assert watched.in_light(0).shape == (1, 4000)
    assert (light_factors(np.array([0.2, -1.0], np.float32)) == 1.0).all()


@pytest.mark.parametrize("anomaly", [0.001, 0.39, 0.6, 0.83, 0.999])
def test_usual_anomaly_is_the_median_beyond_the_log_odds_of_0_4(anomaly):
    usual, median = UsualMaps(GRID.shape), np.log(anomaly / (1 - anomaly))
    for noise in RNG.normal(0, 0.2, 200):
        level = np.full((1, *GRID.shape), median + noise, np.float32)
        usual.add(ScoreMaps(level, level, level, level, np.zeros(1, int)))
    np.testing.assert_allclose(usual.anomaly(), max(0.0, median - np.log(0.4 / 0.6)), atol=0.05)


def test_an_anomaly_may_raise_the_score_far_beyond_what_is_normal():
    """Probabilities end at 1: where 0.9 is the 99 % quantile, they could not rise far beyond it. Their log-odds can."""
    probabilities = np.array([[[0.5, 0.9, 0.99, 0.999, 1.0, 0.0]]], np.float32)
    odds = log_odds(probabilities, GRID.least_anomaly)[0, 0]
    np.testing.assert_allclose(odds, [0, 2.197, 4.595, 6.907, 6.907, -6.907], atol=1e-3)
    assert (odds[4] - odds[0]) / (odds[1] - odds[0]) > 3


def test_usual_maps_go_on_from_their_counts():
    parts = [random_maps(40), random_maps(40)]
    whole, begun = UsualMaps(GRID.shape), UsualMaps(GRID.shape)

    def add(usual, maps):
        usual.add(maps)
        usual.add_dwells(maps.dwell[:, ::2, ::2])

    for part in parts:
        add(whole, part)
    add(begun, parts[0])
    resumed = UsualMaps(GRID.shape, **{name: counts.copy() for name, counts in begun.arrays().items()})
    add(resumed, parts[1])
    background = random_background()
    first, second = (Normal.without_ranges(usual, background, STEP).values() for usual in (resumed, whole))
    assert np.array_equal(first, second)


@pytest.mark.parametrize(("share", "usual"), [(0.02, 0.0), (0.10, 0.5)])
def test_usual_dwell_is_what_one_frame_in_twenty_exceeds(share, usual):
    counted = UsualMaps(GRID.shape)
    dwells = np.zeros((1000, *place_grid(GRID.shape)), np.float32)
    dwells[: round(1000 * share), 3, 4] = 0.5
    counted.add_dwells(dwells)
    assert counted.dwell()[6, 8] == pytest.approx(usual, abs=0.02)
    assert counted.dwell()[4, 6] == counted.dwell()[6, 8]  # the place beside it
    assert counted.dwell()[0, 0] == 0.0


@pytest.mark.parametrize(
    "damage",
    [{"window": None}, {"window": 0}, {"window": 99}, {"steady_spreads": "a"}, {"least_anomaly": 0.0}, {"least_anomaly": True}],
)
def test_grid_of_a_damaged_bundle_is_refused(damage: dict[str, object]) -> None:
    with pytest.raises(BundleCorrupt, match=r"model\.config must give window"):
        Grid.of(with_config({**CONFIG, **damage}))


def test_a_bundle_of_an_earlier_version_shows_no_maps() -> None:
    """Its profiles have no ranges for two lights; it goes on scoring as it did."""
    earlier = with_config({name: value for name, value in CONFIG.items() if name != "lights"})
    assert Grid.find(earlier) is None
    with pytest.raises(ProfileIncompatible, match="train it again"):
        Grid.of(earlier)
    with pytest.raises(ConfigError, match="train it again"):
        build_video_ede(earlier.manifest.model.config)


def with_config(config: dict[str, object]) -> Bundle:
    model = VIDEO.manifest.model.model_copy(update={"config": config})
    return replace(VIDEO, manifest=VIDEO.manifest.model_copy(update={"model": model}))


def test_what_is_made_usual_scores_no_more_than_it_may_and_nothing_else_changes():
    frames, background = random_maps(3)._replace(light=np.ones(3, int)), random_background()
    ranges = Ranges(Range(0.3, 0.4), Range(0.2, 0.1), Range(0.1, 0.3), Range(0.5, 1.5))
    normal = Normal.without_ranges(UsualMaps(GRID.shape), background, STEP)._replace(ranges=(Ranges(), ranges))
    shown = np.zeros((3, *GRID.shape), bool)
    shown[1, 6:9, 4:8] = True
    most = 1.0
    changed = normal.with_usual(frames, shown, most)
    before, after = (each.heat_maps(frames) for each in (normal, changed))
    assert before[shown].max() > most
    assert after[shown].max() <= most + 1e-5
    assert (after <= before + 1e-5).all()
    far = np.ones(GRID.shape, bool)
    far[4:11, 2:10] = False
    for name in ("anomaly", "dwell"):
        assert np.array_equal(getattr(changed, name)[far], getattr(normal, name)[far])
    assert np.array_equal(np.delete(changed.speed, np.s_[4:11]), np.delete(normal.speed, np.s_[4:11]))
    assert changed[3:] == normal[3:]
    assert all(map(np.array_equal, normal.with_usual(frames, shown & False, most), normal))
