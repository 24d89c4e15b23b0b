import cv2
import numpy as np
import pytest

from deploy.calibration import Thresholds
from trainer.evaluation.region_metrics import RegionCounter, TrackLinker, area_under_curve

# Thresholds are 64 ... 2, then 1, 15/16 ... -1: the heights themselves.
LIMITS = Thresholds(median=0.0, enter=1.0, exit=0.8, bound=1.0)


def image(*boxes, shape=(20, 30), dtype=bool):
    """Boxes of (top, left, height, width) or (top, left, height, width, value)."""
    pixels = np.full(shape, -9, np.float32) if dtype is np.float32 else np.zeros(shape, bool)
    for top, left, height, width, *value in boxes:
        pixels[top : top + height, left : left + width] = value[0] if value else True
    return pixels


def heat(*boxes):
    return image(*boxes, dtype=np.float32)


def region_metrics(*frames):
    """``frames``: (heat map or None, mask) of one clip."""
    linker, counter = TrackLinker(), RegionCounter(LIMITS, len(frames))
    for heatmap, mask in frames:
        counter.add(heatmap, linker.next_frame(mask))
    return counter.metrics()


def tracks(*masks):
    linker = TrackLinker()
    return [linker.next_frame(mask).tracks for mask in masks]


BOX = (5, 5, 10, 10)
ELSEWHERE = (0, 20, 5, 5)


def test_exact_hit_is_perfect():
    metrics = region_metrics((heat((*BOX, 5.0)), image(BOX)), (heat((*BOX, 5.0)), image(BOX)))
    assert (metrics.rbdc, metrics.tbdc, metrics.regions, metrics.tracks) == (1.0, 1.0, 2, 1)


@pytest.mark.parametrize(("width", "rbdc"), [(10, 1.0), (9, 0.0)], ids=["IoU 0.1", "IoU 0.09"])
def test_hit_needs_an_iou_of_beta(width, rbdc):
    assert region_metrics((heat((5, 5, 1, width, 5.0)), image(BOX))).rbdc == rbdc


def test_too_large_a_region_is_no_hit():
    metrics = region_metrics((heat((0, 0, 20, 30, 5.0)), image((0, 0, 5, 5))))  # IoU 25 / 600
    assert (metrics.rbdc, metrics.tbdc) == (0.0, 0.0)


def test_one_region_may_hit_two():
    metrics = region_metrics((heat((0, 0, 10, 21, 5.0)), image((0, 0, 10, 10), (0, 11, 10, 10))))
    assert (metrics.rbdc, metrics.regions, metrics.tracks) == (1.0, 2, 2)


def test_track_needs_a_share_of_alpha():
    hit, miss = (heat((*BOX, 5.0)), image(BOX)), (None, image(BOX))
    metrics = region_metrics(hit, *[miss] * 9)
    assert (metrics.rbdc, metrics.tbdc, metrics.regions, metrics.tracks) == (pytest.approx(0.1), 1.0, 10, 1)
    assert region_metrics(hit, *[miss] * 10).tbdc == 0.0


def test_false_regions_before_hits_cost_area():
    both, hit = (heat((*BOX, 2.0), (*ELSEWHERE, 5.0)), image(BOX)), (heat((*BOX, 2.0)), image(BOX))
    assert region_metrics(both, both).rbdc == 0.0  # one false region per frame before the first hit
    assert region_metrics(both, hit).rbdc == 0.5  # half of one
    assert region_metrics(hit, hit, hit, both).rbdc == 0.75
    early = (heat((*BOX, 9.0), (*ELSEWHERE, 5.0)), image(BOX))
    assert region_metrics(early, hit).rbdc == 0.5 * 0.5 + 0.5 * 1.0


def test_heat_map_is_resized_to_the_mask():
    small = np.full((2, 3), -9, np.float32)
    small[0, 0] = 5.0
    resized = cv2.resize(small, (30, 20), interpolation=cv2.INTER_LINEAR)
    assert region_metrics((small, image((0, 0, 8, 8)))) == region_metrics((resized, image((0, 0, 8, 8)))) != 0


def test_without_true_regions_none():
    assert region_metrics((heat((*BOX, 5.0)), image())) is None


def test_missing_heat_map_detects_nothing():
    assert region_metrics((None, image(BOX))).rbdc == 0.0


def test_tracks_follow_overlap():
    assert tracks(image((0, 0, 5, 5)), image((0, 3, 5, 5)), image((0, 10, 5, 5))) == [(0,), (0,), (1,)]
    assert tracks(image((0, 0, 5, 5)), image(), image((0, 0, 5, 5))) == [(0,), (), (1,)]


def test_tracks_merge_and_split():
    one, two, joined = (0, 0, 5, 8), (0, 10, 5, 5), (0, 0, 5, 15)
    assert tracks(image(one, two), image(joined), image(one, two)) == [(0, 1), (0,), (0, 2)]


def test_tracks_end_with_the_clip():
    linker = TrackLinker()
    assert linker.next_frame(image(BOX)).tracks == (0,)
    linker.start_clip()
    assert linker.next_frame(image(BOX)).tracks == (1,)


@pytest.mark.parametrize(
    ("rates", "detections", "area"),
    [
        ([0.0, 0.5, 2.0], [0.2, 0.6, 1.0], 0.2 * 0.5 + 0.5 * 0.4 / 2 + 0.6 * 0.5),
        ([0.5, 0.25], [0.4, 0.8], 0.25 * 0.8 / 2 + 0.75 * 0.8),
        ([2.0], [1.0], 0.0),
    ],
    ids=["cut at 1", "best threshold so far", "only beyond 1"],
)
def test_area_under_curve(rates, detections, area):
    assert area_under_curve(np.array(rates), np.array(detections)) == pytest.approx(area)
