"""What is drawn from marked stretches: a street with a blob in it."""

import numpy as np
import pytest
import torch

from trainer.data.annotations import AnnotatedClip, Region
from trainer.data.dis_flow import DisFlow
from trainer.data.footage import Footage
from trainer.errors import TooLittleFootage
from trainer.models.video_ede.learners import split_scene_batch
from trainer.pseudo_anomalies.annotated_samples import ANNOTATED_EVERY, AnnotatedSamples, find_annotated_frames
from trainer.pseudo_anomalies.samples import PseudoAnomalySamples, SceneSource
from trainer.pseudo_anomalies.segments import camera_views, segment_views

HISTORY = (1, 2)
NUMBERS = torch.arange(2 * ANNOTATED_EVERY)


def footage(name, frames):
    return Footage(name, frames[..., None], np.arange(len(frames)), len(frames), ())


def mark(video, *, anomalous, region=None, first=4, last=9):
    return AnnotatedClip(footage("marked", video), first, last, anomalous, region, "marks.csv: line 2")


@pytest.fixture(scope="module")
def crowds(street):
    return segment_views(
        camera_views([footage(str(seed), street(60, 1.0, seed)) for seed in range(4)]), 60, DisFlow(), lambda: None
    )


@pytest.fixture(scope="module")
def video(street):
    return street(12, 2.0, seed=9)


def outline(crowds, video, frame):
    return crowds[0].view.foreground(video[frame]) > 0


def look(crowds, *marks):
    return find_annotated_frames(marks, crowds, HISTORY[-1], 100, DisFlow(), lambda: None)


def samples(crowds, *marks):
    shown = look(crowds, *marks)
    kinds = ([one for one in shown if one.anomalous is kind] for kind in (True, False))
    return AnnotatedSamples(SceneSource(crowds, HISTORY), *kinds)


def said(crowds, one_mark):
    """What the operator's word becomes in many drawn crops: what is anomalous, what is left out, and where the word holds."""
    drawn = samples(crowds, one_mark)
    crops = torch.cat([drawn.draw(NUMBERS + 8 * number).samples[::ANNOTATED_EVERY] for number in range(12)])
    parts = split_scene_batch(crops[:, :-1])
    return torch.stack([parts.anomalous, parts.ignored, crops[:, -1:]])


def test_every_fourth_sample_is_of_what_was_marked_and_follows_from_its_number(crowds, video):
    drawn = samples(crowds, mark(video, anomalous=False))
    crops = drawn.draw(NUMBERS).samples
    assert torch.equal(crops, drawn.draw(NUMBERS).samples)
    assert not torch.equal(crops, drawn.draw(NUMBERS + 1).samples)
    assert (crops[:, -1].flatten(1).amax(dim=1) > 0).tolist() == [place % ANNOTATED_EVERY == 0 for place in range(len(NUMBERS))]
    assert crops[:, :-1].shape == PseudoAnomalySamples(SceneSource(crowds, HISTORY)).draw(NUMBERS).samples.shape


def test_of_an_anomalys_region_what_stands_out_is_anomalous_and_the_rest_is_left_out(crowds, video):
    _, top_to_bottom = np.nonzero(outline(crowds, video, 6))
    (one,) = look(crowds, mark(video, anomalous=True, region=Region(0, 0, 96, 64), first=6, last=6))
    left, top, width, height = one.segment.box
    assert left == top_to_bottom.min()
    assert np.array_equal(one.segment.mask > 0, outline(crowds, video, 6)[top : top + height, left : left + width])
    assert one.segment.velocity[0] == pytest.approx(2.0, abs=0.3)


def test_in_a_marked_frame_only_what_stands_out_in_the_region_counts(crowds, video):
    words = said(crowds, mark(video, anomalous=True, region=Region(0, 0, 96, 64)))
    in_place = words[1].flatten(1).mean(dim=1) > 0.3
    assert 0 < int(in_place.sum()) < len(in_place)  # the others show it elsewhere
    anomalous, ignored, told = words[:, in_place] > 0.5
    assert bool(told.any())
    assert bool((anomalous & ~ignored)[told].all())


def test_an_anomaly_without_a_region_is_perhaps_what_stands_out(crowds, video):
    anomalous, ignored, told = said(crowds, mark(video, anomalous=True)) > 0.5
    assert bool(told.any())
    assert bool((anomalous & ignored)[told].all())


@pytest.mark.parametrize("region", [None, Region(10, 8, 40, 30)])
def test_a_false_alarm_is_normal_in_its_region_or_everywhere(crowds, video, region):
    anomalous, ignored, told = said(crowds, mark(video, anomalous=False, region=region)) > 0.5
    assert bool(told.any())
    assert not bool((anomalous | ignored)[told].any())
    assert (float(ignored.float().mean(dim=(1, 2, 3)).max()) > 0.4) == (region is not None)


def test_what_was_marked_is_shown_in_other_places_of_its_row(crowds, video):
    (one,) = look(crowds, mark(video, anomalous=True, region=Region(0, 0, 96, 64), first=6, last=6))
    actors = [one.cut_object((0, *HISTORY), np.random.default_rng(seed)) for seed in range(20)]
    lefts = [actor.frames[0].x for actor in actors]
    assert np.ptp(lefts) > 50
    assert all(abs(actor.frames[0].y - one.segment.box[1] + 4) <= 6 for actor in actors)
    assert all(actor.frames[0].x - actor.frames[1].x == pytest.approx(2.0, abs=1.0) for actor in actors)
    assert all(actor.annotated and actor.anomalous for actor in actors)


def test_footage_of_another_place_is_judged_before_its_own_background(crowds, video):
    other = np.asarray(255 - video, np.uint8)
    (one,) = look(crowds, mark(other, anomalous=True, region=Region(0, 0, 96, 64), first=6, last=6))
    assert one.known is None
    assert one.segment.mask.any()
    assert samples(crowds, mark(other, anomalous=True)).draw(NUMBERS).samples.isfinite().all()


def test_where_nothing_stands_out_or_moves_the_whole_region_is_meant(crowds, street):
    still = np.repeat(np.median(street(60, 1.0), axis=0).astype(np.uint8)[None], 12, axis=0)
    (one,) = look(crowds, mark(still, anomalous=True, region=Region(8, 8, 20, 10), first=6, last=6))
    assert one.segment.box == (8, 8, 20, 10)
    assert one.segment.mask.all()


def test_a_stretch_without_frames_before_it_is_an_error_that_names_it(crowds, video):
    with pytest.raises(TooLittleFootage, match="line 2: no frame of the stretch has 2 frames before it"):
        look(crowds, mark(video, anomalous=True, first=0, last=1))
