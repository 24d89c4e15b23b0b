"""The real data set: its layout is understood, and the classical baseline is as strong as it is known to be."""

import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from deploy.spec import ClipSpec
from trainer.data.datasets import labelled_clips, training_sources
from trainer.data.footage import footage_info, list_images, load_footage
from trainer.evaluate import score_frames
from trainer.evaluation.baselines import FLOW_MAGNITUDE, baseline_spec
from trainer.evaluation.event_metrics import true_events
from trainer.evaluation.metrics import auc

ROOT = Path(__file__).resolve().parents[2]
PED2 = (ROOT / os.environ.get("ODDSIGHT_DATA", "../shared/data")).resolve() / "ped2"

pytestmark = [
    pytest.mark.data,
    pytest.mark.skipif(not PED2.is_dir(), reason=f"no data set at {PED2}; set ODDSIGHT_DATA to the folder that holds ped2"),
]


def test_finds_clips_and_labels():
    clips = labelled_clips(PED2)
    assert [clip.source.name for clip in clips] == [f"{number:02d}" for number in range(1, 13)]
    assert sum(len(clip.labels) for clip in clips) == 2010
    assert sum(int(clip.labels.sum()) for clip in clips) == 1648
    assert len(training_sources(PED2)) == 16


def test_original_layout(tmp_path):
    ours, ranges = labelled_clips(PED2)[:3], []
    for clip in ours:
        number = f"Test{int(clip.source.name):03d}"
        for place, (frame, mask) in enumerate(zip(list_images(clip.source.path), clip.masks, strict=True), 1):
            still(tmp_path / "Test" / number / f"{place:03d}.tif", cv2.imread(str(frame), cv2.IMREAD_GRAYSCALE))
            still(tmp_path / "Test" / f"{number}_gt" / f"{place:03d}.bmp", mask.astype(np.uint8) * 255)
        ranges += [f"TestVideoFile{{end+1}}.gt_frame = [{first + 1}:{last + 1}];" for first, last in true_events(clip.labels)]
    (tmp_path / "Test" / "UCSDped2.m").write_text("TestVideoFile = {};\n" + "\n".join(ranges))
    spec = ClipSpec(length=1, height_px=240, width_px=360)
    for theirs, clip in zip(labelled_clips(tmp_path), ours, strict=True):
        assert np.array_equal(theirs.labels, clip.labels)
        assert all(np.array_equal(theirs.masks[frame], clip.masks[frame]) for frame in range(0, len(clip.labels), 10))
        assert np.array_equal(load_footage(theirs.source, spec).frames, load_footage(clip.source, spec).frames)


def still(path: Path, picture: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), picture)


def test_optical_flow_ranks_cyclist():
    clip = labelled_clips(PED2)[3]
    spec = baseline_spec(footage_info([clip.source]))
    results = [frame[0] for frame in score_frames([FLOW_MAGNITUDE], clip.source, spec)]
    assert [result is None for result in results] == [True] + [False] * (len(clip.labels) - 1)
    scores = np.array([score for score, _ in results[1:]], np.float32)
    assert (auc(scores, clip.labels[1:]) or 0.0) > 0.98
