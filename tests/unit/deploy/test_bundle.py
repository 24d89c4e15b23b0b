import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from onnx.external_data_helper import set_external_data
from safetensors.numpy import save

from deploy.bundle import (
    CALIBRATION_NAME,
    GOLDEN_NAME,
    MANIFEST_NAME,
    ONNX_NAME,
    WEIGHTS_NAME,
    Bundle,
    GoldenClips,
    ModelCard,
    golden_bytes,
    read_bundle,
    read_golden,
    replace_calibration,
    sha256,
    write_bundle,
)
from deploy.calibration import Calibration
from deploy.decision import DecisionTimes
from deploy.errors import BundleCorrupt, BundleIncompatible
from deploy.spec import ClipSpec

SPEC = ClipSpec(length=2, height_px=16, width_px=16)
CALIBRATION = Calibration(median=0.1, peaks=(0.3, 0.2), observed_s=100.0, times=DecisionTimes())
FILES = {WEIGHTS_NAME: b"weights", ONNX_NAME: b"graph"}


@pytest.fixture
def golden() -> GoldenClips:
    return random_golden()


def random_golden() -> GoldenClips:
    rng = np.random.default_rng(1)
    clips = rng.integers(0, 256, (3, *SPEC.clip_shape), dtype=np.uint8)
    return GoldenClips(clips=clips, score=rng.random(3, np.float32), heatmap=rng.random((3, 4, 4), np.float32))


@pytest.fixture
def written(tmp_path: Path, golden: GoldenClips) -> Bundle:
    return write(tmp_path / "bundle", {**FILES, GOLDEN_NAME: golden_bytes(golden)})


def write(path: Path, files: dict[str, bytes], spec: ClipSpec = SPEC) -> Bundle:
    return write_bundle(
        path,
        model=ModelCard(kind="tiny", config={"width": 8}),
        spec=spec,
        calibration=CALIBRATION,
        files=files,
        metrics={"auc": 0.9},
        versions={"oddsight": "0.1.0"},
    )


def edit_manifest(bundle: Bundle, edit: Callable[[dict[str, Any]], object]) -> None:
    path = bundle.path / MANIFEST_NAME
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


def test_round_trip(written: Bundle, golden: GoldenClips) -> None:
    bundle = read_bundle(written.path)
    assert bundle == written
    assert (bundle.spec, bundle.calibration) == (SPEC, CALIBRATION)
    assert bundle.manifest.metrics == {"auc": 0.9}
    assert bundle.manifest.model == ModelCard(kind="tiny", config={"width": 8})
    assert bundle.file(ONNX_NAME).read_bytes() == b"graph"
    found = read_golden(bundle)
    for name in ("clips", "score", "heatmap"):
        expected: NDArray[Any] = getattr(golden, name)
        np.testing.assert_array_equal(getattr(found, name), expected, strict=True)


def test_golden_states_round_trip(tmp_path: Path, golden: GoldenClips) -> None:
    state = np.arange(3 * 2 * 4 * 4, dtype=np.float32).reshape(3, 2, 4, 4)
    content = golden_bytes(replace(golden, state=state, next_state=state + 1))
    bundle = write(tmp_path / "bundle", {**FILES, GOLDEN_NAME: content}, SPEC.model_copy(update={"state_shape": (2, 4, 4)}))
    found = read_golden(bundle)
    np.testing.assert_array_equal(found.state, state, strict=True)
    np.testing.assert_array_equal(found.next_state, state + 1, strict=True)


def test_damaged_golden_clips_are_refused(tmp_path: Path, golden: GoldenClips) -> None:
    whole = {"clips": golden.clips, "score": golden.score, "heatmap": golden.heatmap}
    damaged = {
        "golden.safetensors: Error while deserializing": b"no tensors",
        "clips must be uint8": save({**whole, "clips": golden.clips.astype(np.float32)}),
        "heatmap must be float32": save({**whole, "heatmap": golden.heatmap[:, 0]}),
        "score must be float32 .*, got nothing": save({"clips": golden.clips, "heatmap": golden.heatmap}),
        "a row for each clip, got \\[2, 3\\] rows": save({**whole, "score": golden.score[:2]}),
        "got \\[0\\] rows": save({name: array[:0] for name, array in whole.items()}),
    }
    for reason, content in damaged.items():
        bundle = write(tmp_path / "bundle", {**FILES, GOLDEN_NAME: content})
        with pytest.raises(BundleCorrupt, match=reason):
            read_golden(bundle)


def test_golden_without_states(written: Bundle) -> None:
    found = read_golden(written)
    assert (found.state, found.next_state) == (None, None)


def test_reads_manifest_without_states(written: Bundle) -> None:
    def forget_states(manifest: dict[str, Any]) -> None:
        del manifest["spec"]["state_shape"], manifest["spec"]["state_warmup_frames"]

    edit_manifest(written, forget_states)
    assert read_bundle(written.path).spec == SPEC


def test_can_be_moved(written: Bundle, tmp_path: Path) -> None:
    moved = shutil.move(written.path, tmp_path / "elsewhere")
    assert read_bundle(Path(moved)).model_id == written.model_id


def test_model_id_hashes_weights(written: Bundle, tmp_path: Path) -> None:
    golden = written.file(GOLDEN_NAME).read_bytes()
    same = write(tmp_path / "same", {**FILES, GOLDEN_NAME: golden, ONNX_NAME: b"another graph"})
    other = write(tmp_path / "other", {**FILES, GOLDEN_NAME: golden, WEIGHTS_NAME: b"other weights"})
    assert written.model_id.startswith("tiny-")
    assert same.model_id == written.model_id != other.model_id


@pytest.mark.parametrize("name", [WEIGHTS_NAME, ONNX_NAME, GOLDEN_NAME, CALIBRATION_NAME])
class TestEveryFile:
    def test_changed_bit(self, written: Bundle, name: str) -> None:
        path = written.path / name
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
        with pytest.raises(BundleCorrupt, match=rf"{name}: sha256 is [0-9a-f]{{64}}, bundle\.json says [0-9a-f]{{64}}"):
            read_bundle(written.path)

    def test_truncated(self, written: Bundle, name: str) -> None:
        path = written.path / name
        path.write_bytes(path.read_bytes()[:-1])
        with pytest.raises(BundleCorrupt, match=name):
            read_bundle(written.path)

    def test_missing(self, written: Bundle, name: str) -> None:
        (written.path / name).unlink()
        with pytest.raises(BundleCorrupt, match=f"{name}: No such file"):
            read_bundle(written.path)

    def test_not_in_manifest(self, written: Bundle, name: str) -> None:
        edit_manifest(written, lambda content: content["files"].pop(name))
        with pytest.raises(BundleCorrupt, match=f"lists no {name}"):
            read_bundle(written.path)

    def test_folder_in_its_place(self, written: Bundle, name: str) -> None:
        (written.path / name).unlink()
        (written.path / name).mkdir()
        with pytest.raises(BundleCorrupt, match=name):
            read_bundle(written.path)

    def test_link_out_of_the_folder(self, written: Bundle, name: str, tmp_path: Path) -> None:
        (tmp_path / "secret").write_bytes(b"secret")
        (written.path / name).unlink()
        (written.path / name).symlink_to(tmp_path / "secret")
        with pytest.raises(BundleCorrupt, match=rf"{name}: leads out of the folder") as raised:
            read_bundle(written.path)
        assert sha256(b"secret") not in str(raised.value)

    def test_link_within_the_folder(self, written: Bundle, name: str) -> None:
        (written.path / name).rename(written.path / "other")
        (written.path / name).symlink_to("other")
        assert read_bundle(written.path) == written

    def test_fifo(self, written: Bundle, name: str) -> None:
        (written.path / name).unlink()
        os.mkfifo(written.path / name)
        with pytest.raises(BundleCorrupt, match=rf"{name}: is no regular file"):
            read_bundle(written.path)


@pytest.mark.parametrize("link", [False, True], ids=["fifo", "link"])
def test_manifest_must_be_a_regular_file_of_the_folder(written: Bundle, tmp_path: Path, link: bool) -> None:
    (written.path / MANIFEST_NAME).rename(tmp_path / "elsewhere.json")
    if link:
        (written.path / MANIFEST_NAME).symlink_to(tmp_path / "elsewhere.json")
    else:
        os.mkfifo(written.path / MANIFEST_NAME)
    with pytest.raises(BundleCorrupt, match=r"bundle\.json: (leads out of the folder|is no regular file)"):
        read_bundle(written.path)


def test_a_graph_with_files_beside_it_is_refused(tmp_path: Path, golden: GoldenClips) -> None:
    tensor = numpy_helper.from_array(np.zeros(64, np.float32), "weights")
    set_external_data(tensor, location="model.onnx.data")
    tensor.ClearField("raw_data")
    graph = helper.make_graph([], "graph", [], [], initializer=[tensor])
    with pytest.raises(BundleCorrupt, match=r"model\.onnx: names files with external data"):
        write(
            tmp_path / "bundle",
            {**FILES, ONNX_NAME: helper.make_model(graph).SerializeToString(), GOLDEN_NAME: golden_bytes(golden)},
        )


@pytest.mark.parametrize(
    "edit",
    [{"median": -1e308}, {"peaks": [1e308]}, {"observed_s": 1e300}, {"times": {"merge_gap_ms": 10**400}}],
    ids=lambda edit: next(iter(edit)),
)
def test_numbers_that_would_make_a_threshold_nan_are_refused(written: Bundle, edit: dict[str, Any]) -> None:
    content = json.dumps({**json.loads(CALIBRATION.model_dump_json()), **edit}).encode()
    (written.path / CALIBRATION_NAME).write_bytes(content)
    edit_manifest(written, lambda manifest: manifest["files"].update({CALIBRATION_NAME: sha256(content)}))
    with pytest.raises(BundleCorrupt, match=r"calibration\.json: "):
        read_bundle(written.path)


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "engines/../../secret", "engines/plan", "."])
def test_rejects_path_outside_folder(written: Bundle, name: str) -> None:
    edit_manifest(written, lambda content: content["files"].update({name: "0" * 64}))
    with pytest.raises(BundleCorrupt, match=f"names {re.escape(repr(name))}; a bundle's files must be in its own folder"):
        read_bundle(written.path)


@pytest.mark.parametrize("name", ["..", "", "a\x00b", "a" * 300])
def test_rejects_impossible_name(written: Bundle, name: str) -> None:
    edit_manifest(written, lambda content: content["files"].update({name: "0" * 64}))
    with pytest.raises(BundleCorrupt, match="copy the bundle again"):
        read_bundle(written.path)


@pytest.mark.parametrize("number", [0, 1, 3, "2", 1.5, None])
def test_rejects_other_format(written: Bundle, number: object) -> None:
    edit_manifest(written, lambda content: content.update(format=number))
    with pytest.raises(BundleIncompatible, match=f"format must be 2, got {number!r}"):
        read_bundle(written.path)


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (lambda content: content.update(colour="red"), "colour: Extra inputs are not permitted, got 'red'"),
        (lambda content: content["spec"].update(stride=2), "spec.stride: Extra inputs are not permitted, got 2"),
        (lambda content: content["spec"].update(length=0), "spec.length: .* greater than or equal to 1, got 0"),
        (lambda content: content["spec"].update(height_px=10**6), "spec.height_px: .* less than or equal to 2048"),
        (lambda content: content["spec"].update(colour="rgb"), "spec.colour: .*, got 'rgb'"),
        (lambda content: content.pop("model_id"), "model_id: Field required"),
        (lambda content: content.update(files=[]), "files: Input should be a valid dictionary"),
    ],
)
def test_rejects_invalid_manifest(written: Bundle, edit: Callable[[dict[str, Any]], object], says: str) -> None:
    edit_manifest(written, edit)
    with pytest.raises(BundleCorrupt, match=rf"bundle\.json: {says}"):
        read_bundle(written.path)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff\xfe", b'"bundle"', b"[" * 100_000])
def test_rejects_manifest_without_object(written: Bundle, content: bytes) -> None:
    (written.path / MANIFEST_NAME).write_bytes(content)
    with pytest.raises((BundleCorrupt, BundleIncompatible), match=r"bundle\.json"):
        read_bundle(written.path)


@pytest.mark.parametrize("make", [Path.mkdir, Path.touch, Path.absolute], ids=["empty-folder", "file", "nothing"])
def test_other_folder_is_not_a_bundle(tmp_path: Path, make: Callable[[Path], object]) -> None:
    path = tmp_path / "bundle"
    make(path)
    with pytest.raises(BundleCorrupt, match=r"not a bundle .* oddsight-train fit"):
        read_bundle(path)


def test_file_must_be_listed(written: Bundle) -> None:
    (written.path / "engine.plan").write_bytes(b"put here by somebody")
    with pytest.raises(BundleCorrupt, match=r"lists no engine\.plan"):
        read_bundle(written.path).file("engine.plan")


def test_interrupted_rewrite(written: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    golden = written.file(GOLDEN_NAME).read_bytes()
    replace = Path.replace

    def full_disk(path: Path, target: Path) -> Path:
        if target.name == ONNX_NAME:
            raise OSError(28, "No space left on device")
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", full_disk)
    with pytest.raises(OSError, match="No space left"):
        write(written.path, {WEIGHTS_NAME: b"new weights", ONNX_NAME: b"new graph", GOLDEN_NAME: golden})
    with pytest.raises(BundleCorrupt, match=f"{WEIGHTS_NAME}: sha256"):
        read_bundle(written.path)


def test_interrupted_first_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deploy.bundle.Manifest", lambda **_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "bundle", {**FILES, GOLDEN_NAME: b""})
    with pytest.raises(BundleCorrupt, match="not a bundle"):
        read_bundle(tmp_path / "bundle")


def test_leaves_no_temporary_files(written: Bundle) -> None:
    assert {path.name for path in written.path.iterdir()} == {MANIFEST_NAME, *written.manifest.files}


def test_replace_calibration(written: Bundle) -> None:
    stricter = CALIBRATION.model_copy(update={"peaks": (0.5,)})
    changed = replace_calibration(written, stricter)
    assert changed.calibration == stricter == read_bundle(written.path).calibration
    assert changed.calibration.calibration_id != CALIBRATION.calibration_id
    assert changed.model_id == written.model_id
    before, after = dict(written.manifest.files), dict(changed.manifest.files)
    assert before.pop(CALIBRATION_NAME) != after.pop(CALIBRATION_NAME)
    assert before == after


def test_is_reproducible(written: Bundle, tmp_path: Path) -> None:
    again = write(tmp_path / "again", {**FILES, GOLDEN_NAME: written.file(GOLDEN_NAME).read_bytes()})
    assert (again.path / MANIFEST_NAME).read_bytes() == (written.path / MANIFEST_NAME).read_bytes()
