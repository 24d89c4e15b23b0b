from collections.abc import Callable

import cv2
import numpy as np
import pytest
import torch

from tests.unit.trainer.pseudo_anomalies.walk import HEIGHT_PX, WIDTH_PX, Frames, footage, one_crowd, one_place, road, walk
from trainer.data.dis_flow import DisFlow
from trainer.pseudo_anomalies import samples as made
from trainer.pseudo_anomalies.compositing import Cutout, PlacedCutout
from trainer.pseudo_anomalies.objects import PastedObject
from trainer.pseudo_anomalies.samples import FlowExample, FlowSamples, PseudoAnomalySamples, SceneSource, flow_examples
from trainer.pseudo_anomalies.segments import SegmentedView, camera_views

HISTORY = (1, 2)
OFFSETS = (0, *HISTORY)
NOISE = 15.0
"""Grey levels that a camera's noise seldom passes."""


@pytest.fixture(scope="module")
def crowd() -> SegmentedView:
    return one_crowd(walk(50, 1.5), walk(50, 1.5, top=40))


@pytest.fixture(scope="module")
def empty() -> SegmentedView:
    return one_crowd(np.repeat(road()[None], 20, axis=0).astype(np.uint8))


@pytest.fixture(scope="module")
def walked() -> list[FlowExample]:
    return flow_examples([one_place(walk(50, 1.5), walk(50, 1.5, top=40))], HISTORY, 40, DisFlow(), lambda: None)


def scenes(crowd: SegmentedView, count: int = 32, first: int = 0) -> np.ndarray:
    """Drawn one by one, float32 (N, 2 * 3 + 4, 64, 96)."""
    drawn = PseudoAnomalySamples(SceneSource([crowd], HISTORY))
    return np.concatenate([drawn.draw(torch.tensor([first + number])).samples.numpy() for number in range(count)])


def apart(sample: np.ndarray) -> tuple[Frames, Frames, Frames, Frames, Frames]:
    """Frames, clean frames, what is anomalous, what is to be left out, and the place, of one sample."""
    count = len(OFFSETS)
    return sample[:count], sample[count : 2 * count], sample[-4], sample[-3], sample[-2:]


def near(mask: np.ndarray, by_px: int) -> np.ndarray:
    return cv2.dilate((mask > 0).astype(np.uint8), np.ones((2 * by_px + 1,) * 2, np.uint8)) > 0


@pytest.mark.parametrize("kind", ["motion", "scenes"])
def test_samples_follow_from_their_numbers(crowd, walked, kind):
    drawn = FlowSamples(walked, HISTORY, HEIGHT_PX) if kind == "motion" else PseudoAnomalySamples(SceneSource([crowd], HISTORY))
    numbers = torch.tensor([3, 999_999, 17])
    one, again, other = drawn.draw(numbers), drawn.draw(numbers), drawn.draw(numbers + 1)
    assert torch.equal(one.samples, again.samples)
    assert not torch.equal(one.samples, other.samples)
    assert one.samples.dtype == torch.float32
    assert one.labels.tolist() == [1.0] * 3
    channels = len(OFFSETS) + 2 if kind == "motion" else 2 * len(OFFSETS) + 4
    assert one.samples.shape == (3, channels, HEIGHT_PX, HEIGHT_PX if kind == "motion" else WIDTH_PX)
    assert len(drawn) > 999_999


def test_frames_are_grey_levels_marks_are_shares_and_places_lie_in_the_frame(crowd):
    for sample in scenes(crowd):
        frames, clean, anomalous, ignored, place = apart(sample)
        assert 0 <= min(frames.min(), clean.min()) <= max(frames.max(), clean.max()) <= 255
        assert 0 <= min(anomalous.min(), ignored.min()) <= max(anomalous.max(), ignored.max()) <= 1
        assert -1 <= place.min() <= place.max() <= 1
        assert not (np.minimum(anomalous, ignored) > 0.5).any()


def test_frames_differ_from_the_clean_ones_only_where_something_is_marked_if_nobody_normal_came(empty):
    """Nobody normal was ever seen there, so all that is pasted is strange."""
    marked = 0
    for sample in scenes(empty):
        frames, clean, anomalous, ignored, _ = apart(sample)
        changed = np.abs(frames[0] - clean[0]) > 1e-3
        assert not ignored.any()
        assert not (changed & ~near(anomalous, 3)).any()
        marked += anomalous.any()
        assert changed.any() == anomalous.any()
    assert marked > 16


def test_people_pasted_at_their_own_pace_are_marked_as_nothing(crowd, monkeypatch):
    monkeypatch.setattr(made, "anomalous_object", lambda *_: None)
    drawn = [apart(sample) for sample in scenes(crowd)]
    assert not any(anomalous.any() or ignored.any() for _, _, anomalous, ignored, _ in drawn)
    assert sum(bool((np.abs(frames - clean) > NOISE).any()) for frames, clean, *_ in drawn) > 8


def gliding(*, abnormal_looks: bool) -> Callable[..., PastedObject]:
    """Makes an anomalous actor that stands in the middle and goes on at five pixels a frame."""
    white = Cutout(np.full((20, 20), 250, np.float32), np.ones((20, 20), np.float32))
    frames = tuple(PlacedCutout(white, 40.0 - 5 * earlier, 20.0) for earlier in OFFSETS)
    return lambda *_: PastedObject(frames, anomalous=True, abnormal_looks=abnormal_looks)


@pytest.mark.parametrize("abnormal_looks", [False, True])
def test_in_a_still_picture_only_strange_looks_are_marked_and_the_rest_left_out(crowd, monkeypatch, abnormal_looks):
    monkeypatch.setattr(made, "normal_object", lambda *_: None)
    monkeypatch.setattr(made, "anomalous_object", gliding(abnormal_looks=abnormal_looks))
    still, moving = set(), set()
    for sample in scenes(crowd, 100):
        frames, clean, anomalous, ignored, _ = apart(sample)
        if np.array_equal(frames, clean):
            continue
        which = still if np.abs(frames[0] - frames[1]).max() < NOISE else moving
        which.add((bool(anomalous.max() == 1), bool(ignored.max() == 1)))
    assert moving == {(True, False)}
    assert still == {(True, False) if abnormal_looks else (False, True)}


def test_a_crop_knows_its_place_in_the_frame(monkeypatch):
    """The street gets brighter to the right and darker downwards, so that brightness tells the place."""
    y, x = np.mgrid[-1:1:128j, -1:1:192j]
    street = np.repeat((128 + 40 * x - 30 * y)[None], 6, axis=0).astype(np.uint8)
    crowd = one_crowd(street)
    monkeypatch.setattr(made, "anomalous_object", lambda *_: None)
    drawn = PseudoAnomalySamples(SceneSource([crowd], HISTORY, 64, 96)).draw(torch.arange(24)).samples.numpy()
    corners = set()
    for sample in drawn:
        *_, (across, down) = apart(sample)
        assert across[0, -1] - across[0, 0] == pytest.approx(2 * 95 / 191, abs=1e-3)
        assert down[-1, 0] - down[0, 0] == pytest.approx(2 * 63 / 127, abs=1e-3)
        rows = sample[0].mean(axis=1)
        assert np.corrcoef(rows, down[:, 0])[0, 1] < -0.9  # mirrored, a crop is still as far down as it was
        corners.add((float(across[0, 0]), float(down[0, 0])))
    assert len(corners) > 10


def test_places_are_chosen_by_the_length_of_their_videos():
    crowds = [one_crowd(walk(60, 0.8)), one_crowd(walk(20, 1.5, street=road(8)))]
    plan, rng = SceneSource(crowds, HISTORY), np.random.default_rng(0)
    share = np.mean([plan.random_view(rng) is crowds[0] for _ in range(400)])
    assert share == pytest.approx(0.75, abs=0.08)


def test_moments_come_from_all_over_the_footage_at_several_steps_and_each_is_told():
    told, videos = [], [walk(50, 1.0), walk(25, 1.5, street=road(8))]
    found = flow_examples(camera_views([footage(video) for video in videos]), HISTORY, 60, DisFlow(), lambda: told.append(1))
    assert len(found) == len(told) == 60
    assert {moment.step for moment in found} > {1, 2}
    for moment in found:
        assert (moment.frames.shape, moment.frames.dtype) == ((3, HEIGHT_PX, WIDTH_PX), np.uint8)
        assert moment.flow.shape == (HEIGHT_PX // 4, WIDTH_PX // 4, 2)
        video = videos[0] if np.abs(moment.frames[0] - road().round()).mean() < 20 else videos[1]
        (newest,) = np.flatnonzero((video == moment.frames[0]).all(axis=(1, 2)))[:1]
        assert np.array_equal(moment.frames, video[[newest - moment.step * back for back in OFFSETS]])


def test_of_videos_shorter_than_its_history_there_is_no_moment():
    assert flow_examples([one_place(walk(2, 1.0))], HISTORY, 10, DisFlow(), lambda: None) == []


def carried_back(frames: Frames, flow: Frames) -> Frames:
    """The frame before, as it would be now if everything moved as ``flow``, pixels to where it was, says."""
    y, x = np.mgrid[: frames.shape[1], : frames.shape[2]].astype(np.float32)
    return cv2.remap(frames[1], x + flow[0], y + flow[1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def test_the_motion_of_a_pasted_shape_is_exactly_its_own():
    """On a street where nothing moves all motion is that of shapes; mirrored and turned crops included."""
    street = np.repeat(road()[None], 3, axis=0).astype(np.uint8)
    still = FlowExample(street, np.zeros((HEIGHT_PX // 4, WIDTH_PX // 4, 2), np.float16), 1)
    errors, fastest, factors = [], [], (0.0, 0.8, 1.0, 1.25)
    for number in range(200):
        sample = FlowSamples([still], HISTORY, HEIGHT_PX).draw(torch.tensor([number])).samples[0].numpy()
        frames, flow = sample[:3], sample[3:]
        speed = np.hypot(*flow)
        inner = cv2.erode((speed > 0.98 * speed.max()).astype(np.uint8), np.ones((13, 13), np.uint8)) > 0
        if speed.max() < 1 or inner.sum() < 50:
            continue
        errors.append([np.abs(frames[0] - carried_back(frames, factor * flow))[inner].mean() for factor in factors])
        fastest.append(speed.max())
    assert len(errors) > 8
    assert max(fastest) > 2
    stayed, slower, to_float32, faster = np.mean(errors, axis=0)
    assert to_float32 < 5 < stayed
    assert to_float32 < 0.8 * min(slower, faster)


def test_motion_stays_true_however_a_crop_is_turned(walked):
    """Where the teacher saw the square move, the frame before is found along the flow."""
    carried, stayed = [], []
    for number in range(60):
        sample = FlowSamples(walked, HISTORY, HEIGHT_PX).draw(torch.tensor([number])).samples[0].numpy()
        moving = np.hypot(*sample[3:]) > 1
        carried.append(np.abs(sample[0] - carried_back(sample[:3], sample[3:]))[moving].sum())
        stayed.append(np.abs(sample[0] - sample[1])[moving].sum())
    assert sum(carried) < 0.6 * sum(stayed)


def test_most_crops_of_motion_hold_something_that_moves():
    """In a wide frame with one small square."""
    wide = np.pad(walk(30, 1.5), ((0, 0), (64, 64), (96, 96)), "edge")
    found = flow_examples([one_place(wide)], HISTORY, 20, DisFlow(), lambda: None)
    drawn = FlowSamples(found, HISTORY, 64).draw(torch.arange(60)).samples.numpy()
    assert np.mean([np.hypot(*sample[3:]).max() > 0.7 for sample in drawn]) > 0.6
