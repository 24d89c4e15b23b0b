"""The result of an evaluation as JSON, tables and words; the metrics themselves are tested where they are computed."""

import re
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from trainer.data.footage import Source
from trainer.data.labels import LabelledClip
from trainer.evaluation.region_metrics import RegionMetrics
from trainer.evaluation.result import as_json, duration, events_line, headlines, rate, tables

RUSH, CALM = "rush [1]", "calm"


def clip(name, labels):
    return LabelledClip(Source(name, Path(name)), np.asarray(labels, np.uint8))


@pytest.fixture(scope="module")
def evaluation(evaluation_of, runs):
    """One clip with an event that is announced 0.5 s late, and a normal one."""
    clips = (clip(RUSH, [0] * 20 + [1] * 20), clip(CALM, [0] * 20))
    return evaluation_of(clips, {RUSH: runs((1, 22), (5, 18)), CALM: runs((1, 20))}, regions=RegionMetrics(0.8, 0.9, 20, 1))


@pytest.fixture(scope="module")
def six_clips(evaluation_of, runs):
    """Like the first clip of ``evaluation``, six times; the last one has a false event, too."""
    clips = [clip(f"{number}", [0] * 20 + [1] * 20) for number in range(6)]
    scores = {one.source.name: runs((1, 22), (5, 18)) for one in clips}
    scores["5"][:8] = 6.0
    return evaluation_of(clips, scores)


def test_json_values(evaluation):
    result = as_json(evaluation)
    assert (result["model_id"], result["engine"], result["frames"], result["clips"]) == ("net-1", "fake", 60, 2)
    assert result["streaming"] == {
        "frame_auc": pytest.approx(0.95),
        "frame_auc_interval": None,
        "mean_clip_auc": pytest.approx(0.95),
        "mean_clip_auc_interval": None,
        "clip_auc": {RUSH: pytest.approx(0.95)},
        "pixel_auc": 0.75,
    }
    assert result["region_metrics"] == {"rbdc": 0.8, "tbdc": 0.9, "regions": 20, "tracks": 1}
    assert result["literature"]["smoothing_frames"] == 17
    assert (result["events"]["found"], result["events"]["median_delay_s"]) == (1, pytest.approx(0.5))
    assert (result["events"]["normal_frames"], result["events"]["normal_s"]) == (40, 4.0)
    assert result["events"]["false_per_camera_day_bound"] == pytest.approx(64_708, abs=1)
    assert result["clip_events"][RUSH] == {"true": 1, "announced": 1, "found": 1, "false": 0, "early": 0}
    assert result["thresholds"]["enter"] == 4.0
    assert result["left_out"] == ["steady_speed is left out: no footage"]


def test_json_intervals(six_clips):
    result = as_json(six_clips)
    for streaming in (result["streaming"], result["baselines"]["plain"]["streaming"]):
        for metric in ("frame_auc", "mean_clip_auc"):
            interval = streaming[f"{metric}_interval"]
            assert set(interval) == {"low", "high", "clips", "resamples", "skipped"}
            assert interval["low"] <= streaming[metric] <= interval["high"]
            assert interval["clips"] == 6


def test_baseline_without_thresholds_has_no_events(evaluation):
    plain = as_json(evaluation)["baselines"]["plain"]
    assert (plain["events"], plain["clip_events"], plain["region_metrics"], plain["thresholds"]) == (None, {}, None, None)
    assert plain["streaming"]["frame_auc"] == pytest.approx(0.05)


def printed(evaluation):
    console = Console(file=StringIO(), width=80)
    for table in tables(evaluation):
        console.print(table)
    return console.file.getvalue()


def test_tables(evaluation):
    lines = [re.split(" {2,}", line.strip()) for line in printed(evaluation).splitlines()]
    rows = [cells for cells in lines if cells[0] in {"net-1", "plain", RUSH, CALM}]
    assert rows == [
        ["net-1", "0.9500", "0.9500", "0.7500", "0.800", "0.900", "1.0000"],
        ["plain", "0.0500", "0.0500", "-", "-", "-", "0.3750"],
        ["net-1", "1.00", "1.00", "1.00", "0.5", "0.5", "0.0", "64,708"],
        ["plain", *["-"] * 7],
        [RUSH, "40", "20", "0.950", "0.050", "1", "1", "0"],
        [CALM, "20", "0", "-", "-", "0", "0", "0"],
    ]


def test_table_shows_intervals(six_clips):
    text = printed(six_clips)
    streaming = six_clips.model.streaming
    for interval in (streaming.frame_auc_interval, streaming.mean_clip_auc_interval):
        assert f"{interval.low:.3f}-{interval.high:.3f}" in text
    assert "below an AUC its 95 % interval" in text


def test_headlines(evaluation, six_clips):
    texts = {headline.figure: headline.meaning for headline in headlines(evaluation)}
    assert texts["1 of 1"].startswith("true events were announced, half of them within 0.5 s of their first frame")
    assert texts["0"] == (
        "false events (announced without a true event, or too early) in 4.0 seconds of normal footage (40 frames), "
        "which allows up to 64,708 per camera and day (95 % bound)."
    )
    assert texts["0.950"].endswith("0.5 is guessing.")
    assert texts["0.750"].startswith("pixel AUC")
    assert texts["+0.900"].endswith("the model is better than it.")
    texts = {headline.figure: headline.meaning for headline in headlines(six_clips)}
    assert texts["1"].startswith("false event (announced")
    assert "95 % interval over 6 resampled clips: " in texts[f"{six_clips.model.streaming.frame_auc:.3f}"]


def test_undefined_headlines_are_left_out(evaluation_of, runs):
    calm = evaluation_of([clip(CALM, [0] * 40)], {CALM: runs((1, 40))}, pixel_auc=None)
    assert [headline.figure for headline in headlines(calm)] == ["0"]


def test_events_line(six_clips):
    assert events_line(six_clips.model.events) == (
        "events: 6 of 6 found, median delay 0.5 s; 1 false in 12.0 seconds of normal footage (120 frames), "
        "which allows up to 34,156 per camera and day (95 % bound)"
    )


@pytest.mark.parametrize(("seconds", "text"), [(8, "8.0 seconds"), (90, "1.5 minutes"), (5400, "1.5 hours")])
def test_duration_unit(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(("value", "text"), [(None, "-"), (7150.4, "7,150"), (0.126, "0.13")])
def test_rate_digits(value, text):
    assert rate(value) == text
