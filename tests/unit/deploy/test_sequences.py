"""Golden sequences keep content and scores; calibration frames: which pictures are taken, and errors of unusable folders."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load, save

from deploy.bundle import SEQUENCES_NAME, Bundle, read_bundle, read_golden, write_bundle
from deploy.engine import EngineRequest
from deploy.errors import BundleCorrupt, BundleIncompatible, ConfigError
from deploy.image import encode_png
from deploy.registry import load_engine
from deploy.sequences import (
    HALF_FRAMES,
    MOST_STRETCHES,
    STRETCH_PICTURES,
    GoldenSequences,
    read_calibration_frames,
    read_sequences,
    score_sequences,
    sequences_bytes,
)

FRAMES_OF_STRETCH = [*range(HALF_FRAMES), *range(HALF_FRAMES, 4 * HALF_FRAMES, 3)]


def with_sequences(bundle: Bundle, sequences: GoldenSequences) -> Bundle:
    return with_content(bundle, sequences_bytes(sequences))


def with_content(bundle: Bundle, content: bytes) -> Bundle:
    files = {name: bundle.file(name).read_bytes() for name in bundle.manifest.files if name != "calibration.json"}
    return write_bundle(
        bundle.path,
        model=bundle.manifest.model,
        spec=bundle.spec,
        calibration=bundle.calibration,
        files={**files, SEQUENCES_NAME: content},
        metrics={},
        versions={},
    )


def noise(bundle: Bundle, frames: int = 9) -> GoldenSequences:
    rng = np.random.default_rng(0)
    strength = rng.uniform(0.1, 1.0, (2, frames, 1, 1, 1))  # so that all scores differ
    images = (rng.integers(0, 256, (2, frames, *bundle.spec.frame_shape)) * strength).astype(np.uint8)
    score = rng.normal(size=(2, frames)).astype(np.float32)
    score[:, : bundle.spec.length - 1] = np.nan
    return GoldenSequences(images, np.broadcast_to(np.arange(frames) > 4, (2, frames)), score)


def test_round_trip(bundle: Bundle) -> None:
    written = noise(bundle)
    found = read_sequences(with_sequences(bundle, written))
    for name in ("frames", "sped_up", "score"):
        np.testing.assert_array_equal(getattr(found, name), getattr(written, name))


def test_damaged_sequences_are_refused(bundle: Bundle) -> None:
    whole = load(sequences_bytes(noise(bundle)))
    pictures, sizes = whole["pictures"], whole["sizes_bytes"]
    damaged = {
        "Error while deserializing": b"no tensors",
        "score must be float32 .*, got nothing": save({name: array for name, array in whole.items() if name != "score"}),
        "a size, a mark and a score for each frame": save({**whole, "score": whole["score"][:, :3].copy()}),
        "do not add up": save({**whole, "sizes_bytes": sizes + 2**62}),
        "valid header do not decode": save({**whole, "pictures": np.where(np.arange(len(pictures)) < 60, pictures, 0)}),
    }
    for reason, content in damaged.items():
        with_content(bundle, content)
        with pytest.raises(BundleCorrupt, match=rf"sequences\.safetensors: .*{reason}"):
            read_sequences(read_bundle(bundle.path))


def test_bundle_without_sequences(bundle: Bundle) -> None:
    with pytest.raises(BundleIncompatible, match=r"no golden sequences.*make the bundle again with oddsight-train"):
        read_sequences(read_bundle(bundle.path))


@pytest.mark.parametrize("kind", ["bundle", "recurrent_bundle"])
def test_scores_equal_single_clips(request: pytest.FixtureRequest, kind: str) -> None:
    bundle = request.getfixturevalue(kind)
    engine, frames, length = load_engine(bundle, EngineRequest("onnx")), noise(bundle).frames, bundle.spec.length
    found = score_sequences(engine, frames)
    assert np.isnan(found[:, : length - 1]).all()
    for row, scores in zip(frames, found, strict=True):
        state = None
        for end in range(length, len(row) + 1):
            alone = engine.score(row[np.newaxis, end - length : end], state)
            state = alone.state
            assert scores[end - 1] == pytest.approx(alone.score[0], rel=1e-5)
    assert len(read_golden(bundle).clips)


def pictures(bundle: Bundle, number: int, seed: int = 0) -> NDArray[np.uint8]:
    """uint8 (number, H, W, C); the first pixel of each is its number, so that it can be message from others."""
    frames_read = np.random.default_rng(seed).integers(0, 256, (number, *bundle.spec.frame_shape), np.uint8)
    frames_read[:, 0, 0, 0] = np.arange(number) % 256
    return frames_read


def written(folder: Path, frames: NDArray[np.uint8], name: str = "{}.png") -> Path:
    folder.mkdir(parents=True)
    for number, frame in enumerate(frames):
        (folder / name.format(number)).write_bytes(encode_png(frame))
    return folder


@pytest.fixture
def with_golden(bundle: Bundle) -> Bundle:
    """With golden sequences."""
    return with_sequences(bundle, noise(bundle, 40))


def test_stretch_order_and_pace(with_golden: Bundle, tmp_path: Path) -> None:
    frames = pictures(with_golden, STRETCH_PICTURES)
    frames_read = read_calibration_frames([written(tmp_path / "gate", frames)], with_golden)
    np.testing.assert_array_equal(frames_read.frames, frames[np.newaxis, FRAMES_OF_STRETCH])
    assert frames_read.sped_up.tolist() == [[False] * HALF_FRAMES + [True] * HALF_FRAMES]
    assert (frames_read.info.stretches, frames_read.info.frames) == (1, 2 * HALF_FRAMES)


def test_stretches_are_far_apart(with_golden: Bundle, tmp_path: Path) -> None:
    many = 2 * MOST_STRETCHES
    frames = pictures(with_golden, many * STRETCH_PICTURES + 5)
    frames_read = read_calibration_frames([written(tmp_path / "gate", frames)], with_golden)
    begin = {row[0].tobytes() for row in frames_read.frames}
    at = [place for place, frame in enumerate(frames[::STRETCH_PICTURES]) if frame.tobytes() in begin]
    assert len(frames_read.frames) == len(at) == MOST_STRETCHES
    assert (at[0], at[-1]) == (0, many - 1)
    assert min(np.diff(at)) >= 2


@pytest.mark.parametrize("inside", [True, False], ids=["in one folder", "one by one"])
def test_folders_are_cameras(with_golden: Bundle, tmp_path: Path, inside: bool) -> None:
    cameras = [pictures(with_golden, STRETCH_PICTURES + 50, seed) for seed in range(2)]
    folders = [written(tmp_path / "all" / f"camera {number}", frames) for number, frames in enumerate(cameras)]
    (tmp_path / "all" / "notes.txt").touch()
    (tmp_path / "all" / "empty").mkdir()
    frames_read = read_calibration_frames([tmp_path / "all"] if inside else folders, with_golden)
    np.testing.assert_array_equal(frames_read.frames, [frames[FRAMES_OF_STRETCH] for frames in cameras])


def test_checksum_identifies_footage(with_golden: Bundle, tmp_path: Path) -> None:
    first, second = (
        read_calibration_frames([written(tmp_path / str(seed), pictures(with_golden, STRETCH_PICTURES, seed))], with_golden)
        for seed in range(2)
    )
    again = read_calibration_frames([tmp_path / "0"], with_golden)
    assert first.info == again.info
    assert first.info.sha256 != second.info.sha256


@pytest.mark.parametrize("off_by", [0, 10], ids=["the same", "encoded in another way"])
def test_leaves_out_golden_frames(with_golden: Bundle, tmp_path: Path, off_by: int) -> None:
    judging = read_sequences(with_golden).frames[1, 3]
    frames = pictures(with_golden, 2 * STRETCH_PICTURES)
    frames[40] = np.clip(judging.astype(int) + off_by, 0, 255)
    frames_read = read_calibration_frames([written(tmp_path / "gate", frames)], with_golden)
    np.testing.assert_array_equal(frames_read.frames, frames[np.newaxis, STRETCH_PICTURES:][:, FRAMES_OF_STRETCH])
    with pytest.raises(ConfigError, match="every stretch shows frames of the bundle's golden sequences"):
        read_calibration_frames([written(tmp_path / "path", frames[:STRETCH_PICTURES])], with_golden)


def test_needs_golden_sequences(bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(BundleIncompatible, match="has no golden sequences"):
        read_calibration_frames([tmp_path / "nothing"], bundle)


def nothing_there(folder: Path, bundle: Bundle) -> None:
    pass


def a_file(folder: Path, bundle: Bundle) -> None:
    folder.touch()


def empty(folder: Path, bundle: Bundle) -> None:
    folder.mkdir()


def other_files(folder: Path, bundle: Bundle) -> None:
    written(folder, pictures(bundle, 3), "{}.tif")


def too_few(folder: Path, bundle: Bundle) -> None:
    written(folder, pictures(bundle, STRETCH_PICTURES - 1))


def damaged(folder: Path, bundle: Bundle) -> None:
    written(folder, pictures(bundle, STRETCH_PICTURES))
    (folder / "7.png").write_bytes((folder / "7.png").read_bytes()[:90])


def no_picture(folder: Path, bundle: Bundle) -> None:
    written(folder, pictures(bundle, STRETCH_PICTURES))
    (folder / "7.png").write_text("text")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (nothing_there, r"footage: No such file or directory; give a folder of pictures"),
        (a_file, r"footage: Not a directory; give a folder of pictures"),
        (empty, r"footage: no \.jpg, \.jpeg or \.png file in this folder or in those in it"),
        (other_files, r"footage: no \.jpg, \.jpeg or \.png file in this folder or in those in it"),
        (too_few, rf"at least {STRETCH_PICTURES} pictures.*the longest of 1 has {STRETCH_PICTURES - 1}"),
        (damaged, r"footage/7\.png: .*truncated or damaged; delete it, or give other footage"),
        (no_picture, r"footage/7\.png: neither JPEG nor PNG"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_rejects_unusable_folder(with_golden: Bundle, tmp_path: Path, make: Callable[[Path, Bundle], None], message: str) -> None:
    make(tmp_path / "footage", with_golden)
    with pytest.raises(ConfigError, match=f"^--calibration-data.*{message}"):
        read_calibration_frames([tmp_path / "footage"], with_golden)
