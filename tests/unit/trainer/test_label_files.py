import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.data.datasets.ucsd import parse_ranges
from trainer.data.footage import Source
from trainer.data.labels import COLUMNS, AnomalyInterval, find_label_file, parse_intervals, read_labels
from trainer.errors import BadLabels

HEADER = ",".join(COLUMNS)
CLIP_NAMES = st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")), min_size=1, max_size=8)
STRETCHES = st.lists(
    st.tuples(CLIP_NAMES, st.integers(0, 10**6), st.integers(0, 10**4)).map(lambda t: AnomalyInterval(t[0], t[1], t[1] + t[2])),
    max_size=8,
)


def quoted(name):
    return '"' + name.replace('"', '""') + '"'


@given(STRETCHES)
def test_stretches_are_read_as_they_were_written(stretches):
    lines = [HEADER, *(f"{quoted(clip)},{first},{last}" for clip, first, last in stretches)]
    assert parse_intervals(lines) == stretches


@given(st.lists(st.text(max_size=30), max_size=6))
def test_any_text_is_a_table_or_a_clear_error(lines):
    try:
        stretches = parse_intervals([HEADER, *lines])
    except BadLabels:
        return
    assert all(0 <= stretch.first_frame <= stretch.last_frame for stretch in stretches)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "line 1 must be 'clip,first_frame,last_frame'"),
        ("gate,1,2", "line 1 must be"),
        (f"{HEADER}\ngate,1", "row 2 must be a clip and two frame numbers, got 'gate,1'"),
        (f"{HEADER}\ngate,1,2\ngate,-1,2", "row 3 must be"),
        (f"{HEADER}\ngate,1.5,2", "row 2 must be"),
        (f"{HEADER}\ngate,1_0,20", "row 2 must be"),
        (f"{HEADER}\ngate,3,2", "row 2: the last frame must not come before the first"),
        (f'{HEADER}\n"gate,1,2', "no table of commas and lines"),
    ],
)
def test_a_line_that_breaks_the_rule_is_named(text, told):
    with pytest.raises(BadLabels, match=told):
        parse_intervals(text.splitlines())


@pytest.fixture
def gate(tmp_path, street, pictures):
    return Source("gate", pictures(tmp_path / "gate", street(6, 1.0)))


def labelled_by(path, content, source):
    path.write_bytes(content)
    (row,) = read_labels(path, [source])
    return row


def test_a_table_saved_by_a_spreadsheet_is_read(tmp_path, gate):
    row = labelled_by(tmp_path / "frame_labels.csv", f"\ufeff{HEADER}\r\ngate, 1 ,2\r\n\r\n".encode(), gate)
    assert (row.tolist(), row.dtype) == ([0, 1, 1, 0, 0, 0], np.uint8)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (b"yard,0,1", r"frame_labels\.csv: there is no clip 'yard'; the clips are gate"),
        (b"gate,4,6", r"frame_labels\.csv: clip 'gate' has frames 0 to 5, a stretch ends at 6"),
        (b"gate,4,999999999999", r"has frames 0 to 5"),
        (b"gate,0,\xff", r"frame_labels\.csv: .*utf-8"),
        (b"gate,0,\x00", r"frame_labels\.csv: "),
    ],
)
def test_clips_and_frames_that_there_are_not_are_told(tmp_path, gate, line, told):
    with pytest.raises(BadLabels, match=told):
        labelled_by(tmp_path / "frame_labels.csv", HEADER.encode() + b"\n" + line, gate)


def test_the_npz_goes_before_the_csv(tmp_path):
    assert find_label_file(tmp_path) is None
    for name in ("frame_labels.csv", "frame_labels.npz"):
        (tmp_path / name).touch()
        assert find_label_file(tmp_path).name == name


@settings(deadline=None)  # a busy disk is no failure
@given(st.data())
def test_a_damaged_npz_is_a_clear_error(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("npz") / "frame_labels.npz"
    np.savez_compressed(path, gate=np.array([0, 1, 1, 0], np.uint8))
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    try:
        (row,) = read_labels(path, [Source("gate", path)])
    except BadLabels:
        return
    assert set(row.tolist()) <= {0, 1}


def test_nothing_in_an_npz_is_ever_unpickled(tmp_path):
    path = tmp_path / "frame_labels.npz"
    np.savez(path, gate=np.array([{"an": "object"}]))
    with pytest.raises(BadLabels, match=r"frame_labels\.npz: .*allow_pickle"):
        read_labels(path, [Source("gate", path)])


@given(st.lists(st.lists(st.tuples(st.integers(1, 999), st.integers(0, 99)), min_size=1, max_size=3), min_size=1, max_size=5))
def test_ucsds_ranges_are_read_as_they_were_written(clips):
    wanted = [[(first, first + more) for first, more in clip] for clip in clips]
    lines = [f"TestVideoFile{{end+1}}.gt_frame = [{', '.join(f'{a}:{b}' for a, b in clip)}];" for clip in wanted]
    assert parse_ranges("TestVideoFile = {};\n" + "\n".join(lines)) == wanted


@given(st.text("[]:,;0123456789 gt_frame=end+{}.\n", max_size=60))
def test_any_script_is_ranges_or_a_clear_error(text):
    try:
        clips = parse_ranges("gt_frame = [1:2];" + text)
    except BadLabels:
        return
    assert all(1 <= first <= last for clip in clips for first, last in clip)


@pytest.mark.parametrize(
    "text", ["", "TestVideoFile = {};", "gt_frame = [5:3];", "gt_frame = [0:3];", "gt_frame = [a:b];", "gt_frame = [1:2:9];"]
)
def test_scripts_that_label_nothing_are_refused(text):
    with pytest.raises(BadLabels):
        parse_ranges(text)
