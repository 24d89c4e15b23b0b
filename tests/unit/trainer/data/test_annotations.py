import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.spec import ClipSpec
from trainer.data.annotations import (
    COLUMNS,
    REGION_COLUMNS,
    Annotation,
    Region,
    annotations_hash,
    load_annotated_clips,
    parse_annotations,
    read_annotations,
)
from trainer.data.footage import Source, load_footage
from trainer.errors import BadFeedback

HEADER, SHORT = ",".join((*COLUMNS, *REGION_COLUMNS)), ",".join(COLUMNS)
MARKS = Path("sub/marks.csv")
SPEC = ClipSpec(length=1, height_px=32, width_px=48, colour="gray", fps=10.0)
VIDEOS = st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")), min_size=1, max_size=8)
NUMBERS = st.integers(0, 10**6)
REGIONS = st.none() | st.builds(Region, NUMBERS, NUMBERS, NUMBERS.map(lambda n: n + 1), NUMBERS.map(lambda n: n + 1))


def quoted(name):
    return '"' + name.replace('"', '""') + '"'


@given(st.lists(st.tuples(VIDEOS, NUMBERS, NUMBERS, st.booleans(), REGIONS), max_size=8))
def test_parses_what_was_written(rows):
    lines = [
        f"{quoted(video)},{first},{first + more},{'anomaly' if anomalous else 'normal'},{','.join(map(str, region or [''] * 4))}"
        for video, first, more, anomalous, region in rows
    ]
    expected = [
        Annotation(Source(video, Path("sub") / video), first, first + more, anomalous, region, f"sub/marks.csv: line {number}")
        for number, (video, first, more, anomalous, region) in enumerate(rows, 2)
    ]
    assert parse_annotations([HEADER, *lines], MARKS) == expected


@given(st.lists(st.text(max_size=40), max_size=6), st.sampled_from([HEADER, SHORT]))
def test_any_text_parses_or_is_rejected(lines, header):
    try:
        annotations = parse_annotations([header, *lines], MARKS)
    except BadFeedback:
        return
    assert all(0 <= each.first_frame <= each.last_frame for each in annotations)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "",
            "or the same and 'x,y,width,height', then 'camera' if you like, got ''",
        ),
        ("gate,1,2,normal", "line 1 must be"),
        (f"{SHORT},x,y", "line 1 must be"),
        (f"{SHORT}\ngate,1,2", "line 2 must have the 4 values video,first_frame,last_frame,mark, got 'gate,1,2'"),
        (f"{HEADER}\ngate,1,2,normal", "line 2 must have the 8 values"),
        (f"{SHORT}\n\ngate,1,2,false", "line 3: mark must be 'anomaly' or 'normal', got 'false'"),
        (f"{SHORT}\n,1,2,normal", "line 2: video must be a file or a folder of images, got ''"),
        (f"{SHORT}\ng\0te,1,2,normal", "line 2: video must be"),
        (f"{SHORT}\ngate,-1,2,normal", "line 2: first_frame must be a whole number from 0 on, got '-1'"),
        (f"{SHORT}\ngate,1,2_0,normal", "line 2: last_frame must be"),
        (f"{SHORT}\ngate,1,{'9' * 10},normal", "line 2: last_frame must be"),
        (f"{SHORT}\ngate,3,2,normal", "line 2: last_frame 2 must not come before first_frame 3"),
        (f"{HEADER}\ngate,1,2,normal,4,,8,8", "line 2: y must be"),
        (f"{HEADER}\ngate,1,2,normal,4,4,0,8", "line 2: width and height must be 1 pixel or more, got 0 x 8"),
        (f'{SHORT}\n"gate,1,2,normal', "line 2 is not valid CSV"),
    ],
)
def test_rejects_invalid_lines(text, message):
    with pytest.raises(BadFeedback, match=message):
        parse_annotations(text.splitlines(), MARKS)


@pytest.fixture
def gate(tmp_path, street, pictures):
    return pictures(tmp_path / "clips" / "gate", street(6, 1.0))


def write(tmp_path, *lines):
    path = tmp_path / "marks.csv"
    path.write_text("\n".join([HEADER, *lines]), encoding="utf-8")
    return path


def load(path, normal=()):
    return load_annotated_clips(read_annotations(path), normal, SPEC, load_footage)


@pytest.mark.parametrize(
    "content",
    [b"\x00" * 100, b"\xff\xd8\xff\xe0" + bytes(range(256)), b"PK\x03\x04" * 9, b'"' * 200_000, b"\xef\xbb\xbf"],
)
def test_rejects_files_of_other_kinds(tmp_path, content):
    (tmp_path / "marks.csv").write_bytes(content)
    with pytest.raises(BadFeedback, match=r"marks\.csv"):
        read_annotations(tmp_path / "marks.csv")


def test_rejects_missing_and_empty_files(tmp_path):
    with pytest.raises(BadFeedback, match=r"nowhere\.csv cannot be read: No such file"):
        read_annotations(tmp_path / "nowhere.csv")
    with pytest.raises(BadFeedback, match="has no annotation"):
        read_annotations(write(tmp_path))


@pytest.mark.parametrize("video", ["clips/wall", "clips", "marks.csv", "a" * 300, "../" * 2000])
def test_names_the_line_of_a_missing_video(tmp_path, gate, video):
    with pytest.raises(BadFeedback, match=r"marks\.csv: line 2: "):
        read_annotations(write(tmp_path, f"{video},0,1,normal,,,,"))


def test_scales_regions_to_the_spec(tmp_path, gate):
    clips = load(write(tmp_path, "clips/gate,1,3,anomaly,3,4,10,9", "clips/gate,5,5,normal,,,,"))
    assert [(clip.first, clip.last, clip.anomalous, clip.region) for clip in clips] == [
        (1, 3, True, Region(1, 2, 6, 5)),
        (5, 5, False, None),
    ]
    assert clips[0].footage is clips[1].footage
    assert clips[0].footage.frames.shape == (6, 32, 48, 1)


def test_unreadable_frames_keep_their_number(tmp_path, gate):
    (gate / "1.jpg").write_bytes(b"no picture")
    (clip,) = load(write(tmp_path, "clips/gate,2,3,normal,,,,"))
    assert (clip.first, clip.last) == (1, 2)
    with pytest.raises(BadFeedback, match="line 2: none of frames 1 to 1 of 'clips/gate' can be read"):
        load(write(tmp_path, "clips/gate,1,1,normal,,,,"))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("clips/gate,1,6,normal,,,,", "'clips/gate' has frames 0 to 5, the interval ends at 6"),
        ("clips/gate,1,2,normal,90,0,7,1", "the region 90,0,7,1 reaches to 97,1, outside the image of 96 x 64 pixels"),
        ("clips/gate,1,2,normal,0,60,1,5", "reaches to 1,65, outside"),
    ],
)
def test_rejects_what_lies_outside_the_clip(tmp_path, gate, line, message):
    with pytest.raises(BadFeedback, match=f"line 2: .*{re.escape(message)}"):
        load(write(tmp_path, line))


def test_rejects_anomalies_in_normal_footage(tmp_path, gate):
    normal = [Source("gate", tmp_path / "clips" / ".." / "clips" / "gate")]
    assert load(write(tmp_path, "clips/gate,1,2,normal,,,,"), normal)
    with pytest.raises(BadFeedback, match="take the clip out of --data"):
        load(write(tmp_path, "clips/gate,1,2,anomaly,,,,"), normal)


def test_reads_folders_of_clips(tmp_path, street, pictures, video):
    pictures(tmp_path / "anomaly" / "cyclist", street(4, 1.0))
    video(tmp_path / "normal" / "rain.mkv", street(5, 1.0))
    read = [(each.source.path, each.anomalous) for each in read_annotations(tmp_path)]
    assert read == [(tmp_path / "anomaly" / "cyclist", True), (tmp_path / "normal" / "rain.mkv", False)]
    assert [(clip.first, clip.last, clip.region) for clip in load(tmp_path)] == [(0, 3, None), (0, 4, None)]


def test_hash_depends_on_every_value(tmp_path, gate):
    lines = ["1,2,normal,,,,", "1,3,normal,,,,", "1,2,anomaly,,,,", "1,2,normal,0,0,9,9", "0,2,normal,,,,"]
    assert len({annotations_hash(load(write(tmp_path, f"clips/gate,{line}"))) for line in lines}) == len(lines)
    assert annotations_hash(()) is None


def test_reads_the_folder_that_evidence_fills(tmp_path):
    video = tmp_path / "a.mp4"
    video.write_bytes(b"")
    rows = ["a.mp4,0,1,normal,,,,,gate", "a.mp4,0,1,normal,,,,,"]
    (tmp_path / "marks.csv").write_text("\n".join([f"{HEADER},camera", *rows]))
    assert [each.camera_id for each in read_annotations(tmp_path)] == ["gate", ""]
    (tmp_path / "marks.csv").write_text(f"{HEADER}\na.mp4,0,1,normal,,,,")
    assert [each.camera_id for each in read_annotations(tmp_path)] == [None]
