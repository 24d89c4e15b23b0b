"""What people give the trainer: labels, masks, annotations, footage, and tables and results of benchmarks."""

import io
import tempfile
from pathlib import Path

import cv2
import numpy as np

from deploy.errors import BadFrame
from deploy.spec import ClipSpec
from tests.fuzz.target import PLAIN_JSON, Target
from tests.fuzz.targets.kafka import image_samples
from trainer.data.annotations import load_annotated_clips, read_annotations
from trainer.data.datasets import parse_ranges
from trainer.data.footage import Source, dataset_image_size, decode_dataset_image, load_footage, read_mask
from trainer.data.labels import ArrayMasks, read_labels, read_npy
from trainer.errors import BadDataset, BadFeedback, BadLabels, BadRunFile

_SPEC = ClipSpec(length=2, height_px=24, width_px=32)
_CSV_TOKENS = [
    b",",
    b"\n",
    b'"',
    b"\r",
    b"\0",
    b"9" * 12,
    b"9" * 400,
    b"1_0",
    "٣".encode(),
    b"../",
    b"a" * 140_000,
    b"\xff",
    b";",
]


def _folder() -> Path:
    return Path(tempfile.mkdtemp(prefix="oddsight-fuzz-"))


def _write_clip(folder: Path, frames: int = 4) -> Source:
    clip = folder / "gate"
    clip.mkdir()
    for number in range(frames):
        cv2.imwrite(str(clip / f"{number}.png"), np.full((24, 32), number, np.uint8))
    return Source("gate", clip)


def dataset_images() -> Target:
    """Images and masks of data sets, which may also be TIFF and BMP."""
    path = _folder() / "mask.png"

    def parse(content: bytes) -> None:
        assert decode_dataset_image(content, _SPEC).shape == _SPEC.frame_shape
        dataset_image_size(content)
        path.write_bytes(content)
        read_mask(path)

    picture = np.tile(np.arange(64, dtype=np.uint8), (48, 1))
    coded = [cv2.imencode(suffix, picture)[1].tobytes() for suffix in (".bmp", ".tiff")]
    tokens = [b"II*\0", b"MM\0*", b"BM", *(size.to_bytes(width, "little") for size in (0, 1, 30_000, 65_535) for width in (2, 4))]
    return Target("dataset-images", parse, (BadFrame,), [*coded, *coded, *image_samples()[::4]], tokens, share=3)


def label_files() -> Target:
    """Labels of frames as CSV."""
    folder = _folder()
    source, path = _write_clip(folder), folder / "frame_labels.csv"

    def parse(content: bytes) -> None:
        path.write_bytes(content)
        (labels,) = read_labels(path, [source])
        assert set(labels.tolist()) <= {0, 1}

    valid = [
        b"clip,first_frame,last_frame\ngate,0,1\n gate , 3 , 3 \n",
        b"\xef\xbb\xbfclip,first_frame,last_frame\r\ngate,2,3\r\n",
    ]
    return Target("labels", parse, (BadLabels,), valid, _CSV_TOKENS, share=0.5)


def label_arrays() -> Target:
    """Labels of frames as .npz."""
    path = _folder() / "frame_labels.npz"

    def parse(content: bytes) -> None:
        path.write_bytes(content)
        (labels,) = read_labels(path, [Source("gate", path)])
        assert set(labels.tolist()) <= {0, 1}

    valid = []
    for save in (np.savez, np.savez_compressed):
        content = io.BytesIO()
        save(content, gate=np.array([0, 1, 1, 0], np.uint8), yard=np.zeros(40, np.bool_))
        valid.append(content.getvalue())
    return Target("label-arrays", parse, (BadLabels,), valid, share=0.2)


def mask_arrays() -> Target:
    """Masks of frames as .npy."""
    path = _folder() / "masks.npy"

    def parse(content: bytes) -> None:
        path.write_bytes(content)
        masks = ArrayMasks(read_npy(path, 3))
        if len(masks):
            assert masks[0].dtype == np.bool_

    content = io.BytesIO()
    np.save(content, np.ones((3, 8, 8), np.uint8))
    return Target("mask-arrays", parse, (BadLabels,), [content.getvalue()], share=0.3)


def annotations() -> Target:
    """Operators' feedback as CSV, fitted to its clip."""
    folder = _folder()
    _write_clip(folder)
    path = folder / "feedback.csv"

    def parse(content: bytes) -> None:
        path.write_bytes(content)
        load_annotated_clips(read_annotations(path), [], _SPEC, load_footage)

    valid = [
        b"video,first_frame,last_frame,mark\ngate,0,1,anomaly\ngate,2,3,normal\n",
        b"video,first_frame,last_frame,mark,x,y,width,height\ngate,0,1,anomaly,1,2,8,9\ngate,2,2,normal,,,,\n",
    ]
    return Target("annotations", parse, (BadFeedback,), valid, [*_CSV_TOKENS, b"anomaly", b"normal"], share=0.3)


def label_scripts() -> Target:
    """The script that labels the clips of UCSD's data sets."""
    valid = [b"TestVideoFile = {};\nTestVideoFile{end+1}.gt_frame = [61:180];\nTestVideoFile{end+1}.gt_frame = [95:180, 7];\n"]
    tokens = [b"[", b"]", b":", b",", b"gt_frame", b"=", b"9" * 5000, b"{end+1}", "٣".encode(), b"\0"]
    return Target("label-scripts", lambda content: parse_ranges(content.decode("latin-1")), (BadLabels,), valid, tokens, share=4)


def run_files() -> Target:
    """Finished runs of a benchmark, a line of JSON each."""
    from trainer.benchmark.results import ResultsFile, RunResult

    path = _folder() / "runs.jsonl"
    run = RunResult(
        run={"seed": 1}, auc={"score": 0.5}, normals=9, anomalies=1, test_normals=5, test_anomalies=5, wall_s=1, cpu_s=1
    )

    def parse(content: bytes) -> None:
        path.write_bytes(content)
        with ResultsFile(path) as results:
            for result in results.read():
                result.model_dump_json()

    return Target("run-files", parse, (BadRunFile,), [(run.model_dump_json() + "\n").encode()], layout=PLAIN_JSON)


def image_tables() -> Target:
    """The images of MNIST as .npz."""
    from trainer.benchmark.data import read_images  # imports PyTorch, which the other targets need not wait for

    folder = _folder()
    content = io.BytesIO()
    arrays = {f"x_{part}": np.zeros((10, 28, 28), np.uint8) for part in ("train", "test")}
    np.savez_compressed(content, **arrays, **{f"y_{part}": np.arange(10, dtype=np.uint8) for part in ("train", "test")})

    def parse(content: bytes) -> None:
        (folder / "mnist.npz").write_bytes(content)
        read_images(folder, "mnist")

    return Target("image-tables", parse, (BadDataset,), [content.getvalue()], share=0.1)


def videos() -> Target:
    """Videos of cameras and of data sets: what can be decoded of one is, the rest is named."""
    import av

    folder = _folder()

    def parse(content: bytes) -> None:
        path = folder / "clip.mp4"
        path.write_bytes(content)
        footage = load_footage(Source("clip", path), _SPEC)
        assert len(footage.frames) or footage.problems
        if not len(footage.frames):
            raise BadLabels

    valid = []
    for suffix, codec in ((".mp4", "mpeg4"), (".mkv", "mjpeg"), (".avi", "mpeg4")):
        path = folder / f"valid{suffix}"
        with av.open(str(path), "w") as container:
            stream = container.add_stream(
                codec, rate=10, width=64, height=48, pix_fmt="yuvj420p" if codec == "mjpeg" else "yuv420p"
            )
            for number in range(4):
                frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 40 * number, np.uint8), format="bgr24")
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        valid.append(path.read_bytes())
    return Target(
        "videos", parse, (BadLabels,), valid, [b"moov", b"mdat", b"stco", b"stsz", b"RIFF", b"\x1aE\xdf\xa3"], share=0.05
    )
