"""The HTML report: self-contained, escaped, and with a picture of every mistake."""

import base64
import re
from html.parser import HTMLParser
from io import StringIO
from pathlib import Path

import cv2
import numpy as np
import pytest
from rich.console import Console

from deploy.bundle import Bundle, Calibration, Manifest, ModelCard
from deploy.engine import Scores
from deploy.errors import ConfigError
from deploy.spec import ClipSpec
from trainer.data.footage import Source
from trainer.data.labels import LabelledClip
from trainer.evaluation import report
from trainer.evaluation.mistakes import Mistake, outlined, scale_picture, shots
from trainer.evaluation.result import Evaluation, detector, labels_of
from trainer.evaluation.runner import Outcome
from trainer.evaluation.summary import duration, headlines

CALIBRATION = Calibration(median=1.0, q99=2.0, q999=3.0, enter=4.0, exit=3.0, frames=100)
FPS = 10.0
HOSTILE = '<b>"$x$"&'
VOID_TAGS = {"meta", "img", "br"}


class LeftIsHot:
    """An engine whose heat map is twice the threshold's height at the left and usual at the right."""

    name = "fake"
    spec = ClipSpec(length=2, height_px=64, width_px=96)
    max_clips = 4
    closed = False

    def score(self, clips, state=None):
        return Scores(np.ones(len(clips), np.float32), np.tile(np.array([[[7.0, 1.0]]], np.float32), (len(clips), 1, 1)))

    def describe(self):
        return {"device": "none"}

    def close(self):
        self.closed = True


class LowerHalf:
    def __init__(self, frames):
        self.frames = frames

    def __len__(self):
        return self.frames

    def __getitem__(self, frame):
        mask = np.zeros((64, 96), bool)
        mask[32:] = True
        return mask


class Tags(HTMLParser):
    """Checks that tags are closed in order, and gathers what pictures and links point to."""

    def __init__(self):
        super().__init__()
        self.open, self.sources, self.links = [], [], []

    def handle_starttag(self, tag, attrs):
        self.sources += [value for name, value in attrs if name == "src"]
        self.links += [value for name, value in attrs if name in {"href", "srcset", "action"}]
        if tag not in VOID_TAGS:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory, street, pictures):
    """A clip with a late alarm and a hostile name, and a calm one with a false alarm."""
    root = tmp_path_factory.mktemp("clips")
    truth = np.r_[np.zeros(20), np.ones(20)].astype(np.uint8)
    clips = (
        LabelledClip(Source(HOSTILE, pictures(root / "a", street(40, 1.0))), truth, LowerHalf(40)),
        LabelledClip(Source("calm", pictures(root / "b", street(40, 1.0))), np.zeros(40, np.uint8), None),
    )
    late, false = np.r_[np.nan, np.full(29, 2.0), np.full(10, 6.0)], np.r_[np.nan, np.full(19, 1.5), np.full(8, 5.0), np.ones(12)]
    scores = {HOSTILE: late.astype(np.float32), "calm": false.astype(np.float32)}
    labels = labels_of(clips)
    model = detector("net-1", Outcome(scores, 1.0, 0.75), CALIBRATION, labels, FPS)
    plain = detector("plain", Outcome({name: -row for name, row in scores.items()}, 0.0, None), None, labels, FPS)
    manifest = Manifest(
        format=1, model_id="net-1", model=ModelCard(kind="net", config={}), spec=LeftIsHot.spec, metrics={}, versions={}, files={}
    )
    bundle = Bundle(path=Path("bundle"), manifest=manifest, calibration=CALIBRATION)
    return Evaluation(bundle, "fake", {"device": "none"}, clips, model, (plain,), ("steady_speed is left out: no footage",))


@pytest.fixture(scope="module")
def page(evaluation, tmp_path_factory):
    engine, folder = LeftIsHot(), tmp_path_factory.mktemp("out") / "new" / "report"
    report.prepare_folder(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "load_engine", lambda *_: engine)
        path = report.write_report(evaluation, folder, Console(file=StringIO()))
    assert engine.closed
    return path.read_text(encoding="utf-8")


def test_the_page_is_whole_and_needs_nothing_from_elsewhere(page):
    tags = Tags()
    tags.feed(page)
    assert tags.open == []
    assert tags.links == []
    assert all(source.startswith("data:image/") for source in tags.sources)
    assert "http" not in page
    assert "<script" not in page


def test_it_holds_a_curve_a_timeline_a_clip_the_scale_and_a_picture_a_mistake(page):
    encoded = re.findall(r"data:image/(png|jpeg);base64,([^\"]+)", page)
    decoded = [(kind, cv2.imdecode(np.frombuffer(base64.b64decode(text), np.uint8), cv2.IMREAD_COLOR)) for kind, text in encoded]
    assert [kind for kind, _ in decoded] == ["png"] * 3 + ["jpeg"] * 4
    assert [picture.shape for _, picture in decoded[4:]] == [(64, 96, 3)] * 3  # the frame's own size


def test_names_from_disk_are_escaped(page):
    assert HOSTILE not in page
    assert page.count("&lt;b&gt;&#34;$x$&#34;&amp;") >= 4


def test_mistakes_are_told_with_clip_frame_score_and_stretch(page):
    text = " ".join(re.sub(r"<[^>]+>", " ", re.sub(r'src="[^"]*"', "", page)).split())
    assert "frame 20 · score 2, height 0.33 below the threshold at frames 20 to 29" in text
    assert "clip calm , frame 20 · score 5, height 1.33 above the threshold at frames 20 to 27" in text
    assert "frame 1 · score 2, height 0.33 below the threshold , like all normal frames of this clip" in text
    assert "steady_speed is left out: no footage." in text


def test_a_detector_without_a_calibration_has_dashes_where_events_would_be(page):
    row = re.search(r"<tr><td>plain</td>(.*?)</tr>", page, re.DOTALL)
    assert row is not None
    assert len(re.findall(r"<td>", row[1])) == 13
    assert row[1].count("<td>-</td>") == 10  # and pixels


def test_a_picture_is_tinted_where_the_map_is_hot_and_outlined_where_the_mask_is(evaluation):
    mistake = Mistake(HOSTILE, 25, 2.0, 20, 29, wrong=True)
    (shot,) = shots(LeftIsHot(), evaluation.clips, [mistake], CALIBRATION)
    colour = np.ptp(shot.picture.astype(int), axis=2)
    assert colour[:28, :20].mean() > 50 > 5 > colour[:28, 80:].mean()
    assert (shot.picture[32, 40:60] == (255, 255, 0)).all()


def test_pictures_come_in_the_order_of_the_mistakes_and_only_as_far_as_needed(evaluation, monkeypatch):
    engine, calls = LeftIsHot(), []
    real = engine.score
    monkeypatch.setattr(engine, "score", lambda *given: calls.append(1) or real(*given))
    mistakes = [
        Mistake("calm", 6, 0, 6, 6, wrong=True),
        Mistake(HOSTILE, 3, 0, 3, 3, wrong=True),
        Mistake("calm", 2, 0, 2, 2, wrong=True),
    ]
    assert [shot.mistake for shot in shots(engine, evaluation.clips, mistakes, CALIBRATION)] == mistakes
    assert len(calls) == 1 + 2  # of 40 frames a clip, four a call


def test_an_outline_leaves_the_inside_as_it_was():
    mask = np.zeros((8, 8), bool)
    mask[2:6, 2:6] = True
    picture = outlined(np.zeros((16, 16, 3), np.uint8), mask)
    assert (picture[4, 4:12] == (255, 255, 0)).all()
    assert picture[5:11, 5:11].max() == picture[:4].max() == 0


def test_the_scale_goes_from_grey_to_the_strongest_colour():
    scale = scale_picture(CALIBRATION)
    colour = np.ptp(scale.astype(int), axis=2)
    assert colour[:, 0].max() == 0
    assert colour[:, -1].min() > 60


def test_a_report_folder_that_is_a_file_is_refused_before_the_work(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"--report must be a folder that can be made, got .*file"):
        report.prepare_folder(tmp_path / "file")


def test_headlines_say_what_was_found_how_late_and_how_it_compares(evaluation):
    said = {headline.figure: headline.meaning for headline in headlines(evaluation)}
    assert said["1 of 1"].startswith("true events were announced, half of them within 1.3 s of their first frame")
    assert said["1"].startswith("announced event was false, of 2. That is 450.0 a camera and hour, measured on 8.0 seconds")
    assert said["0.750"].startswith("pixel AUC")
    (gain,) = [figure for figure in said if figure.startswith("+")]
    ours, theirs = (found.streaming.frame_auc for found in evaluation.detectors)
    assert float(gain) == pytest.approx(ours - theirs, abs=1e-3)
    assert said[gain].endswith("the model is better than it.")


def test_headlines_leave_out_what_is_not_defined(evaluation):
    calm = tuple(clip for clip in evaluation.clips if not clip.labels.any())
    labels = labels_of(calm)
    model = detector("net-1", Outcome({"calm": np.ones(40, np.float32)}, 1.0, None), CALIBRATION, labels, FPS)
    only = Evaluation(evaluation.bundle, "fake", {}, calm, model, (), ())
    assert [headline.figure for headline in headlines(only)] == ["0"]


@pytest.mark.parametrize(("seconds", "text"), [(8, "8.0 seconds"), (90, "1.5 minutes"), (5400, "1.5 hours")])
def test_durations_are_told_in_a_fitting_unit(seconds, text):
    assert duration(seconds) == text
