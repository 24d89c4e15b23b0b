from collections.abc import Callable
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from tests.unit.trainer.pseudo_anomalies.walk import HEIGHT_PX, WIDTH_PX, Frames, footage, one_view, road, segmented, walk
from trainer.pseudo_anomalies import samples as sample_module
from trainer.pseudo_anomalies.objects import PastedObject
from trainer.pseudo_anomalies.samples import FlowExample, FlowSamples, PseudoAnomalySamples, SceneSource, flow_examples
from trainer.pseudo_anomalies.segments import (
    CameraView,
    Cutout,
    DisFlow,
    PlacedCutout,
    SegmentedView,
    camera_views,
    segment_views,
)

HISTORY = (1, 2)
OFFSETS = (0, *HISTORY)
NOISE = 15.0
"""Grey levels that added noise seldom exceeds."""


@pytest.fixture(scope="module")
def view() -> SegmentedView:
    return segmented(walk(50, 1.5), walk(50, 1.5, top=40))


@pytest.fixture(scope="module")
def empty() -> SegmentedView:
    return segmented(np.repeat(road()[None], 20, axis=0).astype(np.uint8))


@pytest.fixture(scope="module")
def examples() -> list[FlowExample]:
    return flow_examples([one_view(walk(50, 1.5), walk(50, 1.5, top=40))], HISTORY, 40, DisFlow(), lambda: None)


def scenes(view: SegmentedView, count: int = 32, first: int = 0) -> np.ndarray:
    """Drawn one by one, float32 (N, 2 * 3 + 4, 64, 96)."""
    drawn = PseudoAnomalySamples(SceneSource([view], HISTORY))
    return np.concatenate([drawn.draw(torch.tensor([first + number])).samples.numpy() for number in range(count)])


def split_sample(sample: np.ndarray) -> tuple[Frames, Frames, Frames, Frames, Frames]:
    """Frames, clean frames, anomalous mask, ignored mask and position of one sample."""
    count = len(OFFSETS)
    return sample[:count], sample[count : 2 * count], sample[-4], sample[-3], sample[-2:]


JPEG_BLOCK_PX = 8  # a compressed sample differs in the whole block


def near(mask: np.ndarray, by_px: int) -> np.ndarray:
    return cv2.dilate((mask > 0).astype(np.uint8), np.ones((2 * by_px + 1,) * 2, np.uint8)) > 0


@pytest.mark.parametrize("kind", ["motion", "scenes"])
def test_samples_depend_on_numbers_only(view, examples, kind):
    drawn = FlowSamples(examples, HISTORY, HEIGHT_PX) if kind == "motion" else PseudoAnomalySamples(SceneSource([view], HISTORY))
    numbers = torch.tensor([3, 999_999, 17])
    one, again, other = drawn.draw(numbers), drawn.draw(numbers), drawn.draw(numbers + 1)
    assert torch.equal(one.samples, again.samples)
    assert not torch.equal(one.samples, other.samples)
    assert one.samples.dtype == torch.float32
    assert one.labels.tolist() == [1.0] * 3
    channels = len(OFFSETS) + 2 if kind == "motion" else 2 * len(OFFSETS) + 4
    assert one.samples.shape == (3, channels, HEIGHT_PX, HEIGHT_PX if kind == "motion" else WIDTH_PX)
    assert len(drawn) > 999_999


def test_channels_are_in_range(view):
    for sample in scenes(view):
        frames, clean, anomalous, ignored, place = split_sample(sample)
        assert 0 <= min(frames.min(), clean.min()) <= max(frames.max(), clean.max()) <= 255
        assert 0 <= min(anomalous.min(), ignored.min()) <= max(anomalous.max(), ignored.max()) <= 1
        assert -1 <= place.min() <= place.max() <= 1
        assert not (np.minimum(anomalous, ignored) > 0.5).any()


def test_pasted_anomalies_are_marked(empty):
    """An empty street has no normal objects, so everything that is pasted is anomalous."""
    anomalous_crops = 0
    for sample in scenes(empty):
        frames, clean, anomalous, ignored, _ = split_sample(sample)
        changed = np.abs(frames[0] - clean[0]) > 1e-3
        assert not ignored.any()
        assert not (changed & ~near(anomalous, 3 + JPEG_BLOCK_PX)).any()
        anomalous_crops += anomalous.any()
        assert changed.any() == anomalous.any()
    assert anomalous_crops > 16


def test_normal_objects_are_unmarked(view, monkeypatch):
    monkeypatch.setattr(sample_module, "anomalous_object", lambda *_: None)
    drawn = [split_sample(sample) for sample in scenes(view)]
    assert not any(anomalous.any() or ignored.any() for _, _, anomalous, ignored, _ in drawn)
    assert sum(bool((np.abs(frames - clean) > NOISE).any()) for frames, clean, *_ in drawn) > 8


def gliding(*, abnormal_looks: bool) -> Callable[..., PastedObject]:
    """Makes an anomalous object in the middle that moves five pixels per frame."""
    white = Cutout(np.full((20, 20), 250, np.float32), np.ones((20, 20), np.float32))
    frames = tuple(PlacedCutout(white, 40.0 - 5 * earlier, 20.0) for earlier in OFFSETS)
    return lambda *_: PastedObject(frames, anomalous=True, abnormal_looks=abnormal_looks)


@pytest.mark.parametrize("abnormal_looks", [False, True])
def test_still_scene_ignores_motion_anomalies(view, monkeypatch, abnormal_looks):
    monkeypatch.setattr(sample_module, "normal_object", lambda *_: None)
    monkeypatch.setattr(sample_module, "anomalous_object", gliding(abnormal_looks=abnormal_looks))
    still, moving = set(), set()
    for sample in scenes(view, 100):
        frames, clean, anomalous, ignored, _ = split_sample(sample)
        if np.array_equal(frames, clean):
            continue
        which = still if np.abs(frames[0] - frames[1]).max() < NOISE else moving
        which.add((bool(anomalous.max() == 1), bool(ignored.max() == 1)))
    assert moving == {(True, False)}
    assert still == {(True, False) if abnormal_looks else (False, True)}


def test_flow_of_a_shaken_frame_leads_back_to_where_things_were(examples):
    drawn = FlowSamples(examples, HISTORY, HEIGHT_PX).draw(torch.arange(60)).samples.numpy()
    better = []
    for frames, flow in ((sample[:3], sample[3:]) for sample in drawn):
        right, down = np.round(np.median(flow, axis=(1, 2))).astype(int)
        if (right, down) != (0, 0):
            before = np.roll(frames[1], (-down, -right), axis=(0, 1))
            differences = [np.abs(frames[0] - other)[8:-8, 8:-8].mean() for other in (before, frames[1])]
            better.append(differences[0] < differences[1])
    assert 3 <= len(better) <= 20
    assert np.mean(better) > 0.8


def test_position_channels_match_crop(monkeypatch):
    """The street gets brighter to the right and darker downwards, so that brightness gives the position."""
    y, x = np.mgrid[-1:1:128j, -1:1:192j]
    street = np.repeat((128 + 40 * x - 30 * y)[None], 6, axis=0).astype(np.uint8)
    view = segmented(street)
    monkeypatch.setattr(sample_module, "anomalous_object", lambda *_: None)
    drawn = PseudoAnomalySamples(SceneSource([view], HISTORY, 64, 96)).draw(torch.arange(24)).samples.numpy()
    corners = set()
    for sample in drawn:
        *_, (across, down) = split_sample(sample)
        assert across[0, -1] - across[0, 0] == pytest.approx(2 * 95 / 191, abs=1e-3)
        assert down[-1, 0] - down[0, 0] == pytest.approx(2 * 63 / 127, abs=1e-3)
        rows = sample[0].mean(axis=1)
        assert np.corrcoef(rows, down[:, 0])[0, 1] < -0.9  # mirrored, a crop is still as far down as it was
        corners.add((float(across[0, 0]), float(down[0, 0])))
    assert len(corners) > 10


def test_views_are_weighted_by_length():
    views = [segmented(walk(60, 0.8)), segmented(walk(20, 1.5, street=road(8)))]
    source, rng = SceneSource(views, HISTORY), np.random.default_rng(0)
    share = np.mean([source.random_view(rng) is views[0] for _ in range(400)])
    assert share == pytest.approx(0.75, abs=0.08)


def two_cameras(lengths: tuple[int, int] = (60, 20)) -> list[CameraView]:
    footages = [replace(footage(walk(n, 1.0)), camera=name) for n, name in zip(lengths, ("gate", "yard"), strict=True)]
    return camera_views(footages)


def test_cameras_weigh_the_same():
    views = two_cameras()
    assert [(view.camera, view.frames) for view in views] == [("gate", 60), ("yard", 20)]
    segmented_views = segment_views(views, 30, DisFlow(), lambda: None)
    assert [len({segment.frame for segment in view.segments}) for view in segmented_views] == pytest.approx([15, 15], abs=4)
    source, rng = SceneSource(segmented_views, HISTORY), np.random.default_rng(0)
    assert np.mean([source.random_view(rng).view is views[0] for _ in range(400)]) == pytest.approx(0.5, abs=0.08)
    examples = flow_examples(views, HISTORY, 40, DisFlow(), lambda: None)
    of_gate = sum(any((example.frames[0] == frame).all() for frame in views[0].videos[0][20:]) for example in examples)
    assert (len(examples), of_gate) == (40, pytest.approx(14, abs=3))


def test_examples_cover_footage_and_steps():
    calls, videos = [], [walk(50, 1.0), walk(25, 1.5, street=road(8))]
    found = flow_examples(camera_views([footage(video) for video in videos]), HISTORY, 60, DisFlow(), lambda: calls.append(1))
    assert len(found) == len(calls) == 60
    assert {example.step for example in found} > {1, 2}
    for example in found:
        assert (example.frames.shape, example.frames.dtype) == ((3, HEIGHT_PX, WIDTH_PX), np.uint8)
        assert example.flow.shape == (HEIGHT_PX // 4, WIDTH_PX // 4, 2)
        video = videos[0] if np.abs(example.frames[0] - road().round()).mean() < 20 else videos[1]
        (newest,) = np.flatnonzero((video == example.frames[0]).all(axis=(1, 2)))[:1]
        assert np.array_equal(example.frames, video[[newest - example.step * back for back in OFFSETS]])


def test_short_videos_give_no_examples():
    assert flow_examples([one_view(walk(2, 1.0))], HISTORY, 10, DisFlow(), lambda: None) == []


def carried_back(frames: Frames, flow: Frames) -> Frames:
    """The frame before, warped by ``flow`` (pixels to where things were) to the newest frame."""
    y, x = np.mgrid[: frames.shape[1], : frames.shape[2]].astype(np.float32)
    return cv2.remap(frames[1], x + flow[0], y + flow[1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def test_flow_of_shapes_is_exact():
    """On a still street all motion is that of pasted shapes, also in mirrored and transposed crops."""
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
    stayed, slower, exact, faster = np.mean(errors, axis=0)
    assert exact < 5 < stayed
    assert exact < 0.8 * min(slower, faster)


def test_flow_is_flipped_with_frames(examples):
    """Where the square moves, the frame before is found along the flow."""
    carried, stayed = [], []
    for number in range(60):
        sample = FlowSamples(examples, HISTORY, HEIGHT_PX).draw(torch.tensor([number])).samples[0].numpy()
        moving = np.hypot(*sample[3:]) > 1
        carried.append(np.abs(sample[0] - carried_back(sample[:3], sample[3:]))[moving].sum())
        stayed.append(np.abs(sample[0] - sample[1])[moving].sum())
    assert sum(carried) < 0.6 * sum(stayed)


def test_crops_contain_motion():
    """In a wide frame with one small square."""
    wide = np.pad(walk(30, 1.5), ((0, 0), (64, 64), (96, 96)), "edge")
    found = flow_examples([one_view(wide)], HISTORY, 20, DisFlow(), lambda: None)
    drawn = FlowSamples(found, HISTORY, 64).draw(torch.arange(60)).samples.numpy()
    assert np.mean([np.hypot(*sample[3:]).max() > 0.7 for sample in drawn]) > 0.6
