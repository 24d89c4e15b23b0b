"""The HTML report: self-contained, escaped, and with an image of every mistake."""

import base64
import re
from html.parser import HTMLParser
from io import StringIO

import cv2
import numpy as np
import pytest
from rich.console import Console

from deploy.engine import Scores
from deploy.errors import ConfigError
from deploy.spec import ClipSpec
from trainer.data.footage import Source
from trainer.data.labels import LabelledClip
from trainer.evaluation import report
from trainer.evaluation.mistakes import Mistake, mistake_images

HOSTILE = '<b>"$x$"&'
VOID_TAGS = {"meta", "img", "br"}


class HotLeftEngine:
    """Its heat map is twice the threshold's height at the left and usual at the right."""

    name = "fake"
    spec = ClipSpec(length=2, height_px=64, width_px=96)
    max_clips = 4

    def __init__(self):
        self.calls = 0
        self.closed = False

    def score(self, clips, state=None):
        self.calls += 1
        return Scores(np.ones(len(clips), np.float32), np.tile(np.array([[[7.0, 1.0]]], np.float32), (len(clips), 1, 1)))

    def describe(self):
        return {"device": "none"}

    def close(self):
        self.closed = True


class LowerHalfMasks:
    def __len__(self):
        return 40

    def __getitem__(self, frame):
        return np.arange(64)[:, None].repeat(96, axis=1) >= 32


class TagChecker(HTMLParser):
    """Checks that tags are closed in order, and collects what images and links point to."""

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
def evaluation(tmp_path_factory, street, pictures, evaluation_of, runs):
    """A clip with a late alarm and a hostile name, and a calm one with a false alarm."""
    root = tmp_path_factory.mktemp("clips")
    truth = np.r_[np.zeros(20), np.ones(20)].astype(np.uint8)
    clips = (
        LabelledClip(Source(HOSTILE, pictures(root / "a", street(40, 1.0))), truth, LowerHalfMasks()),
        LabelledClip(Source("calm", pictures(root / "b", street(40, 1.0))), np.zeros(40, np.uint8), None),
    )
    scores = {HOSTILE: runs((np.nan, 1), (2, 29), (6, 10)), "calm": runs((np.nan, 1), (1.5, 19), (5, 8), (1, 12))}
    return evaluation_of(clips, scores, spec=HotLeftEngine.spec)


@pytest.fixture(scope="module")
def page(evaluation, tmp_path_factory):
    engine, folder = HotLeftEngine(), tmp_path_factory.mktemp("out") / "new" / "report"
    report.prepare_folder(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "load_engine", lambda *_: engine)
        path = report.write_report(evaluation, folder, Console(file=StringIO()))
    assert engine.closed
    return path.read_text(encoding="utf-8")


def test_page_is_self_contained(page):
    tags = TagChecker()
    tags.feed(page)
    assert tags.open == []
    assert tags.links == []
    assert all(source.startswith("data:image/") for source in tags.sources)
    assert "http" not in page
    assert "<script" not in page


def test_page_has_all_images(page):
    encoded = re.findall(r"data:image/(png|jpeg);base64,([^\"]+)", page)
    decoded = [(kind, cv2.imdecode(np.frombuffer(base64.b64decode(text), np.uint8), cv2.IMREAD_COLOR)) for kind, text in encoded]
    assert [kind for kind, _ in decoded] == ["png"] * 3 + ["jpeg"] * 4  # ROC, two timelines; scale and three mistakes
    assert [image.shape for _, image in decoded[4:]] == [(64, 96, 3)] * 3  # the frame's own size


def test_clip_names_are_escaped(page):
    assert HOSTILE not in page
    assert page.count("&lt;b&gt;&#34;$x$&#34;&amp;") >= 4


def test_page_text(page):
    text = " ".join(re.sub(r"<[^>]+>", " ", re.sub(r'src="[^"]*"', "", page)).split())
    assert "frame 20 · score 2, height 0.33 below the threshold at frames 20 to 29" in text
    assert "clip calm , frame 20 · score 5, height 1.33 above the threshold at frames 20 to 27" in text
    assert "frame 1 · score 2, height 0.33 below the threshold , like all normal frames of this clip" in text
    assert "steady_speed is left out: no footage." in text
    assert "6.0 seconds of normal footage (60 frames), which allows up to 68,312 per camera and day" in text
    assert "too few clips for intervals" in text


def test_undefined_metrics_are_dashes(page):
    row = re.search(r"<tr><td>plain</td>(.*?)</tr>", page, re.DOTALL)
    assert len(re.findall(r"<td>", row[1])) == 16
    assert row[1].count("<td>-</td>") == 13  # events, pixels and regions


def test_mistake_images(evaluation, limits):
    mistakes = [Mistake(name, frame, 0, frame, frame, wrong=True) for name, frame in (("calm", 6), (HOSTILE, 3), ("calm", 2))]
    engine = HotLeftEngine()
    images = mistake_images(engine, evaluation.clips, mistakes, limits)
    assert engine.calls == 1 + 2  # of 40 frames a clip, four a call: only as far as needed
    assert [(image[32, 40:60] == (255, 255, 0)).all() for image in images] == [False, True, False]  # the only clip with masks
    for image in images:
        colour = np.ptp(image.astype(int), axis=2)
        assert colour[:28, :20].mean() > 50 > 5 > colour[:28, 80:].mean()


def test_report_folder_that_is_a_file(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"--report must be a folder that can be made, got .*file"):
        report.prepare_folder(tmp_path / "file")
