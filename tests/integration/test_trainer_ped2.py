"""The real data set: its layout is understood, and the classical baseline is as strong as it is known to be."""

import os
from pathlib import Path

import numpy as np
import pytest

from trainer.baselines.flow_magnitude import FlowMagnitude
from trainer.baselines.motion import baseline_spec
from trainer.baselines.run import watch
from trainer.datasets import labelled_clips, training_sources
from trainer.footage import footage_shape
from trainer.metrics import auc

ROOT = Path(__file__).resolve().parents[2]
PED2 = (ROOT / os.environ.get("ODDSIGHT_DATA", "../shared/data")).resolve() / "ped2"

pytestmark = [
    pytest.mark.data,
    pytest.mark.skipif(not PED2.is_dir(), reason=f"no data set at {PED2}; set ODDSIGHT_DATA to the folder that holds ped2"),
]


def test_all_clips_and_labels_are_found():
    clips = labelled_clips(PED2)
    assert [clip.source.name for clip in clips] == [f"{number:02d}" for number in range(1, 13)]
    assert sum(len(clip.labels) for clip in clips) == 2010
    assert sum(int(clip.labels.sum()) for clip in clips) == 1648
    assert len(training_sources(PED2)) == 16


def test_optical_flow_alone_ranks_the_frames_of_a_clip_with_a_cyclist():
    clip = labelled_clips(PED2)[3]
    heatmaps = [frame[0] for frame in watch([FlowMagnitude()], clip.source, baseline_spec(footage_shape([clip.source])))]
    assert [heatmap is None for heatmap in heatmaps] == [True] + [False] * (len(clip.labels) - 1)
    scores = np.array([heatmap.max() for heatmap in heatmaps[1:]], np.float32)
    assert (auc(scores, clip.labels[1:]) or 0.0) > 0.98
