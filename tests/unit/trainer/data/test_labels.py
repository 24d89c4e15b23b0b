import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.data.datasets import parse_ranges
from trainer.data.footage import Footage, Source
from trainer.data.labels import (
    COLUMNS,
    AnomalyInterval,
    LabelledClip,
    check_labels,
    find_label_file,
    parse_intervals,
    read_labels,
)
from trainer.errors import BadLabels

HEADER = ",".join(COLUMNS)
CLIP_NAMES = st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")), min_size=1, max_size=8)
INTERVALS = st.lists(
    st.tuples(CLIP_NAMES, st.integers(0, 10**6), st.integers(0, 10**4)).map(lambda t: AnomalyInterval(t[0], t[1], t[1] + t[2])),
    max_size=8,
)


def quoted(name):
    return '"' + name.replace('"', '""') + '"'


@given(INTERVALS)
def test_csv_parses_what_was_written(intervals):
    lines = [HEADER, *(f"{quoted(clip)},{first},{last}" for clip, first, last in intervals)]
    assert parse_intervals(lines) == intervals


@given(st.lists(st.text(max_size=30), max_size=6))
def test_any_text_parses_or_is_rejected(lines):
    try:
        intervals = parse_intervals([HEADER, *lines])
    except BadLabels:
        return
    assert all(0 <= interval.first_frame <= interval.last_frame for interval in intervals)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1 must be 'clip,first_frame,last_frame'"),
        ("gate,1,2", "line 1 must be"),
        (f"{HEADER}\ngate,1", "row 2 must be a clip and two frame numbers, got 'gate,1'"),
        (f"{HEADER}\ngate,1,2\ngate,-1,2", "row 3 must be"),
        (f"{HEADER}\ngate,1.5,2", "row 2 must be"),
        (f"{HEADER}\ngate,1_0,20", "row 2 must be"),
        (f"{HEADER}\ngate,3,2", "row 2: the last frame must not come before the first"),
        (f'{HEADER}\n"gate,1,2', "not valid CSV"),
    ],
)
def test_rejects_invalid_lines(text, message):
    with pytest.raises(BadLabels, match=message):
        parse_intervals(text.splitlines())


@pytest.fixture
def gate(tmp_path, street, pictures):
    return Source("gate", pictures(tmp_path / "gate", street(6, 1.0)))


def labels_from(path, content, source):
    path.write_bytes(content)
    (labels,) = read_labels(path, [source])
    return labels


def test_reads_csv_saved_by_a_spreadsheet(tmp_path, gate):
    labels = labels_from(tmp_path / "frame_labels.csv", f"\ufeff{HEADER}\r\ngate, 1 ,2\r\n\r\n".encode(), gate)
    assert (labels.tolist(), labels.dtype) == ([0, 1, 1, 0, 0, 0], np.uint8)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"yard,0,1", r"frame_labels\.csv: there is no clip 'yard'; the clips are gate"),
        (b"gate,4,6", r"frame_labels\.csv: clip 'gate' has frames 0 to 5, an interval ends at 6"),
        (b"gate,4,999999999999", r"has frames 0 to 5"),
        (b"gate,0,\xff", r"frame_labels\.csv: .*utf-8"),
        (b"gate,0,\x00", r"frame_labels\.csv: "),
    ],
)
def test_rejects_unknown_clips_and_frames(tmp_path, gate, line, message):
    with pytest.raises(BadLabels, match=message):
        labels_from(tmp_path / "frame_labels.csv", HEADER.encode() + b"\n" + line, gate)


def test_npz_is_preferred_to_csv(tmp_path):
    assert find_label_file(tmp_path) is None
    for name in ("frame_labels.csv", "frame_labels.npz"):
        (tmp_path / name).touch()
        assert find_label_file(tmp_path).name == name


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"yard": [0, 1]}, "no labels for clip 'gate'; it has yard"),
        ({"gate": [0, 2, 1]}, "'gate' must be a row of 0 and 1"),
        ({"gate": [{"an": "object"}]}, "allow_pickle"),  # nothing is ever unpickled
    ],
)
def test_rejects_npz_with_wrong_labels(tmp_path, labels, message):
    path = tmp_path / "frame_labels.npz"
    np.savez(path, **{name: np.array(values) for name, values in labels.items()})
    with pytest.raises(BadLabels, match=rf"frame_labels\.npz: .*{message}"):
        read_labels(path, [Source("gate", path)])


@settings(deadline=None)  # a busy disk is no failure
@given(st.data())
def test_damaged_npz_is_read_or_rejected(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("npz") / "frame_labels.npz"
    np.savez_compressed(path, gate=np.array([0, 1, 1, 0], np.uint8))
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    try:
        (labels,) = read_labels(path, [Source("gate", path)])
    except BadLabels:
        return
    assert set(labels.tolist()) <= {0, 1}


def test_requires_one_label_per_frame(tmp_path):
    clip = LabelledClip(Source("01", tmp_path), np.zeros(4, np.uint8))
    with pytest.raises(BadLabels, match=r"'01' has 3 frames and 4 labels"):
        check_labels(clip, Footage("01", np.empty((0, 16, 16, 1), np.uint8), np.empty(0, np.int64), 3, ()))


@given(st.lists(st.lists(st.tuples(st.integers(1, 999), st.integers(0, 99)), min_size=1, max_size=3), min_size=1, max_size=5))
def test_ucsd_script_parses_what_was_written(clips):
    expected = [[(first, first + more) for first, more in clip] for clip in clips]
    lines = [f"TestVideoFile{{end+1}}.gt_frame = [{', '.join(f'{a}:{b}' for a, b in clip)}];" for clip in expected]
    assert parse_ranges("TestVideoFile = {};\n" + "\n".join(lines)) == expected


@given(st.text("[]:,;0123456789 gt_frame=end+{}.\n", max_size=60))
def test_any_ucsd_script_parses_or_is_rejected(text):
    try:
        clips = parse_ranges("gt_frame = [1:2];" + text)
    except BadLabels:
        return
    assert all(1 <= first <= last for clip in clips for first, last in clip)


@pytest.mark.parametrize(
    "text", ["", "TestVideoFile = {};", "gt_frame = [5:3];", "gt_frame = [0:3];", "gt_frame = [a:b];", "gt_frame = [1:2:9];"]
)
def test_rejects_ucsd_scripts_without_labels(text):
    with pytest.raises(BadLabels):
        parse_ranges(text)
