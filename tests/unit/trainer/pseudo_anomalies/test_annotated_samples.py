"""Samples from annotated clips of a street on which a square moves."""

import numpy as np
import pytest
import torch

from tests.unit.trainer.pseudo_anomalies.walk import footage
from trainer.data.annotations import AnnotatedClip, Region
from trainer.errors import TooLittleFootage
from trainer.models.video_ede.learners import split_scene_batch
from trainer.pseudo_anomalies.annotated_samples import ANNOTATED_EVERY, AnnotatedSamples, find_annotated_frames
from trainer.pseudo_anomalies.samples import PseudoAnomalySamples, SceneSource
from trainer.pseudo_anomalies.segments import DisFlow, camera_views, segment_views

HISTORY = (1, 2)
NUMBERS = torch.arange(2 * ANNOTATED_EVERY)


def annotated(video, *, anomalous, region=None, first=4, last=9):
    return AnnotatedClip(footage(video), first, last, anomalous, region, "marks.csv: line 2")


@pytest.fixture(scope="module")
def views(street):
    return segment_views(camera_views([footage(street(60, 1.0, seed)) for seed in range(4)]), 60, DisFlow(), lambda: None)


@pytest.fixture(scope="module")
def video(street):
    return street(12, 2.0, seed=9)


def outline(views, video, frame):
    return views[0].view.foreground(video[frame]) > 0


def frames_of(views, *clips):
    return find_annotated_frames(clips, views, HISTORY[-1], 100, DisFlow(), lambda: None)


def samples(views, *clips):
    frames = frames_of(views, *clips)
    kinds = ([one for one in frames if one.anomalous is kind] for kind in (True, False))
    return AnnotatedSamples(SceneSource(views, HISTORY), *kinds)


def masks_of(views, clip):
    """The masks of many crops: anomalous, ignored and annotated."""
    drawn = samples(views, clip)
    crops = torch.cat([drawn.draw(NUMBERS + 8 * number).samples[::ANNOTATED_EVERY] for number in range(12)])
    parts = split_scene_batch(crops[:, :-1])
    return torch.stack([parts.anomalous, parts.ignored, crops[:, -1:]])


def test_every_fourth_sample_is_annotated(views, video):
    drawn = samples(views, annotated(video, anomalous=False))
    crops = drawn.draw(NUMBERS).samples
    assert torch.equal(crops, drawn.draw(NUMBERS).samples)
    assert not torch.equal(crops, drawn.draw(NUMBERS + 1).samples)
    assert (crops[:, -1].flatten(1).amax(dim=1) > 0).tolist() == [place % ANNOTATED_EVERY == 0 for place in range(len(NUMBERS))]
    assert crops[:, :-1].shape == PseudoAnomalySamples(SceneSource(views, HISTORY)).draw(NUMBERS).samples.shape


def test_segment_is_foreground_of_region(views, video):
    _, top_to_bottom = np.nonzero(outline(views, video, 6))
    (one,) = frames_of(views, annotated(video, anomalous=True, region=Region(0, 0, 96, 64), first=6, last=6))
    left, top, width, height = one.segment.box
    assert left == top_to_bottom.min()
    assert np.array_equal(one.segment.mask > 0, outline(views, video, 6)[top : top + height, left : left + width])
    assert one.segment.velocity[0] == pytest.approx(2.0, abs=0.3)


def test_only_foreground_of_region_counts(views, video):
    masks = masks_of(views, annotated(video, anomalous=True, region=Region(0, 0, 96, 64)))
    in_place = masks[1].flatten(1).mean(dim=1) > 0.3
    assert 0 < int(in_place.sum()) < len(in_place)  # in the others the object is pasted elsewhere
    anomalous, ignored, labelled = masks[:, in_place] > 0.5
    assert bool(labelled.any())
    assert bool((anomalous & ~ignored)[labelled].all())


def test_foreground_without_region_is_possible(views, video):
    anomalous, ignored, labelled = masks_of(views, annotated(video, anomalous=True)) > 0.5
    assert bool(labelled.any())
    assert bool((anomalous & ignored)[labelled].all())


@pytest.mark.parametrize("region", [None, Region(10, 8, 40, 30)])
def test_false_alarm_is_normal(views, video, region):
    anomalous, ignored, labelled = masks_of(views, annotated(video, anomalous=False, region=region)) > 0.5
    assert bool(labelled.any())
    assert not bool((anomalous | ignored)[labelled].any())
    assert (float(ignored.float().mean(dim=(1, 2, 3)).max()) > 0.4) == (region is not None)


def test_objects_are_pasted_along_their_row(views, video):
    (one,) = frames_of(views, annotated(video, anomalous=True, region=Region(0, 0, 96, 64), first=6, last=6))
    objects = [one.cut_object((0, *HISTORY), np.random.default_rng(seed)) for seed in range(20)]
    lefts = [pasted.frames[0].x for pasted in objects]
    assert np.ptp(lefts) > 50
    assert all(abs(pasted.frames[0].y - one.segment.box[1] + 4) <= 6 for pasted in objects)
    assert all(pasted.frames[0].x - pasted.frames[1].x == pytest.approx(2.0, abs=1.0) for pasted in objects)
    assert all(pasted.annotated and pasted.anomalous for pasted in objects)


def test_unknown_view_has_own_background(views, video):
    other = np.asarray(255 - video, np.uint8)
    (one,) = frames_of(views, annotated(other, anomalous=True, region=Region(0, 0, 96, 64), first=6, last=6))
    assert one.known is None
    assert one.segment.mask.any()
    assert samples(views, annotated(other, anomalous=True)).draw(NUMBERS).samples.isfinite().all()


def test_falls_back_to_whole_region(views, street):
    still = np.repeat(np.median(street(60, 1.0), axis=0).astype(np.uint8)[None], 12, axis=0)
    (one,) = frames_of(views, annotated(still, anomalous=True, region=Region(8, 8, 20, 10), first=6, last=6))
    assert one.segment.box == (8, 8, 20, 10)
    assert one.segment.mask.all()


def test_rejects_clip_without_history(views, video):
    with pytest.raises(TooLittleFootage, match="line 2: no frame of the stretch has 2 frames before it"):
        frames_of(views, annotated(video, anomalous=True, first=0, last=1))
