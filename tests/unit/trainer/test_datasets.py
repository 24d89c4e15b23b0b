import numpy as np
import pytest

from trainer.data.datasets.registry import labelled_clips
from trainer.data.footage import Footage, Source
from trainer.data.labels import LabelledClip, check_labels
from trainer.errors import BadLabels, NoFootage


def labelled(tmp_path, street, pictures, **labels):
    pictures(tmp_path / "testing" / "frames" / "01", street(3, 1.0))
    np.savez(tmp_path / "frame_labels.npz", **labels)
    return tmp_path


def test_labels_are_found_by_clip_name(tmp_path, street, pictures):
    data = labelled(tmp_path, street, pictures, **{"01": np.array([0, 1, 1], np.uint8)})
    assert [(clip.source.name, clip.labels.tolist()) for clip in labelled_clips(data)] == [("01", [0, 1, 1])]


def test_a_clip_without_labels_is_named(tmp_path, street, pictures):
    with pytest.raises(BadLabels, match=r"no labels for clip '01'; it has 07"):
        labelled_clips(labelled(tmp_path, street, pictures, **{"07": np.array([0, 1, 1], np.uint8)}))


def test_labels_other_than_0_and_1_are_refused(tmp_path, street, pictures):
    with pytest.raises(BadLabels, match=r"'01' must be a row of 0 and 1"):
        labelled_clips(labelled(tmp_path, street, pictures, **{"01": np.array([0, 2, 1])}))


def test_missing_labels_say_what_to_give(tmp_path, street, pictures):
    pictures(tmp_path / "testing" / "frames" / "01", street(3, 1.0))
    with pytest.raises(BadLabels, match=r"frame_labels\.npz is missing: give one uint8 array .* or frame_labels\.csv"):
        labelled_clips(tmp_path)


def test_data_without_a_testing_folder_is_refused(tmp_path):
    with pytest.raises(NoFootage, match=r"no testing/ folder and no labels; evaluate needs testing/frames/CLIP"):
        labelled_clips(tmp_path)


def test_as_many_labels_as_frames_are_asked_for(tmp_path):
    clip = LabelledClip(Source("01", tmp_path), np.zeros(4, np.uint8))
    with pytest.raises(BadLabels, match=r"'01' has 3 frames and 4 labels"):
        check_labels(clip, Footage("01", np.empty((0, 16, 16, 1), np.uint8), np.empty(0, np.int64), 3, ()))
