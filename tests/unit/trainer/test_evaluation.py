"""Walking over test footage, and the result's views; what the figures mean is tested where they are made."""

from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from deploy.bundle import Bundle, Calibration, Manifest, ModelCard
from deploy.spec import ClipSpec
from trainer.data.footage import Source
from trainer.data.labels import LabelledClip
from trainer.evaluation.result import Evaluation, as_json, detector
from trainer.evaluation.runner import Outcome, every_frame, walk
from trainer.evaluation.summary import tables

NAN = np.nan
CALIBRATION = Calibration(median=1.0, q99=2.0, q999=3.0, enter=4.0, exit=3.0, frames=100)
FPS = 10.0


class Corner:
    """Masks of 4 x 4 pixels in which the left upper one is anomalous where the label is 1."""

    def __init__(self, labels):
        self.labels = labels

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, frame):
        mask = np.zeros((4, 4), bool)
        mask[0, 0] = self.labels[frame]
        return mask


def clip(name, labels, *, masks=False):
    row = np.asarray(labels, np.uint8)
    return LabelledClip(Source(name, Path(name)), row, Corner(row) if masks else None)


def heat(value):
    heatmap = np.zeros((4, 4), np.float32)
    heatmap[0, 0] = value
    return heatmap


def says(*scores):
    """What a detector with these scores says of a clip: all of it about the left upper pixel."""
    return lambda _: iter([(None if np.isnan(score) else (score, heat(score)),) for score in scores])


def test_frames_that_a_detector_leaves_out_are_none():
    scored = [(2, 0.5, heat(0.5)), (4, 0.7, heat(0.7))]
    seen = [one for (one,) in every_frame(scored, 6)]
    assert [None if one is None else one[0] for one in seen] == [None, None, 0.5, None, 0.7, None]


def test_a_walk_keeps_scores_by_clip_and_counts_pixels_and_frames():
    steps = []
    (outcome,) = walk([clip("a", [0, 1, 1], masks=True)], says(NAN, 5.0, 6.0), [1.0], steps.append)
    assert outcome.scores["a"].tolist() == pytest.approx([NAN, 5.0, 6.0], nan_ok=True)
    assert (outcome.fill_value, outcome.pixel_auc, sum(steps)) == (1.0, 1.0, 3)


def test_detectors_go_side_by_side():
    both = walk(
        [clip("a", [0, 1], masks=True)], lambda _: iter([((1.0, heat(1)), None), ((2.0, heat(2)), (9.0, -heat(9)))]), [0, 0], id
    )
    assert [outcome.scores["a"].tolist() for outcome in both] == [[1.0, 2.0], pytest.approx([NAN, 9.0], nan_ok=True)]
    assert both[0].pixel_auc == 1.0
    assert both[1].pixel_auc == pytest.approx(16 / 31)  # above the 16 pixels of the frame without a map, below 15 of its own


def test_pixels_are_measured_only_where_every_anomalous_clip_has_masks(tmp_path, street, pictures):
    calm = LabelledClip(Source("calm", pictures(tmp_path / "calm", street(2, 1.0))), np.zeros(2, np.uint8))
    with_masks, without = clip("a", [0, 1], masks=True), clip("a", [0, 1])
    (outcome,) = walk([with_masks, calm], says(0.5, 2.0), [0.0], id)
    assert outcome.pixel_auc is not None
    (outcome,) = walk([without, calm], says(0.5, 2.0), [0.0], id)
    assert outcome.pixel_auc is None


@pytest.fixture
def evaluation(tmp_path):
    clips = (clip("rush [1]", [0] * 20 + [1] * 20), clip("calm", [0] * 20))
    labels = {one.source.name: one.labels for one in clips}
    rush, calm = np.r_[np.ones(22), np.full(18, 5.0)].astype(np.float32), np.ones(20, np.float32)
    found = detector("net-1", Outcome({"rush [1]": rush, "calm": calm}, 1.0, 0.75), CALIBRATION, labels, FPS)
    plain = detector("plain", Outcome({"rush [1]": -rush, "calm": calm}, 0.0, None), None, labels, FPS)
    manifest = Manifest(
        format=1,
        model_id="net-1",
        model=ModelCard(kind="net", config={}),
        spec=ClipSpec(length=1, height_px=16, width_px=16),
        metrics={},
        versions={},
        files={},
    )
    bundle = Bundle(path=tmp_path, manifest=manifest, calibration=CALIBRATION)
    return Evaluation(bundle, "onnx", {"device": "cpu"}, clips, found, (plain,), ("steady_speed is left out: no footage",))


def test_json_has_everything_under_its_name(evaluation):
    found = as_json(evaluation)
    assert (found["model_id"], found["engine"], found["frames"], found["clips"]) == ("net-1", "onnx", 60, 2)
    assert found["streaming"]["frame_auc"] == pytest.approx(0.95)
    assert found["streaming"]["clip_auc"] == {"rush [1]": pytest.approx(0.95)}
    assert found["streaming"]["pixel_auc"] == 0.75
    assert found["literature"]["smoothing_frames"] == 17
    assert (found["events"]["found"], found["events"]["median_delay_s"]) == (1, pytest.approx(0.5))
    assert found["clip_events"]["rush [1]"] == {"true": 1, "announced": 1, "found": 1, "false": 0}
    assert found["calibration"]["enter"] == 4.0
    assert found["left_out"] == ["steady_speed is left out: no footage"]


def test_a_baseline_without_a_calibration_has_no_events(evaluation):
    plain = as_json(evaluation)["baselines"]["plain"]
    assert (plain["events"], plain["clip_events"], plain["calibration"]) == (None, {}, None)
    assert plain["streaming"]["frame_auc"] == pytest.approx(0.025)


def test_the_screen_shows_a_row_a_detector_and_a_row_a_clip(evaluation):
    console = Console(file=StringIO(), width=200)
    for table in tables(evaluation):
        console.print(table)
    rows = {line.split("│")[1].strip(): line for line in console.file.getvalue().splitlines() if "│" in line}
    assert set(rows) == {"net-1", "plain", "rush [1]", "calm"}
    assert [cell.strip() for cell in rows["net-1"].split("│")[2:6]] == ["0.9500", "0.9500", "0.7500", "1.0000"]
    assert [cell.strip() for cell in rows["plain"].split("│")[6:9]] == ["-", "-", "-"]
    assert [cell.strip() for cell in rows["rush [1]"].split("│")[2:-1]] == ["40", "20", "0.950", "0.050", "1", "1", "0"]
