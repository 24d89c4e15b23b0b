"""What comes from other people's disks: bundles, profiles and records of engines."""

import json
import struct
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from safetensors.numpy import save

from deploy.bundle import (
    CALIBRATION_NAME,
    GOLDEN_NAME,
    MANIFEST_NAME,
    ONNX_NAME,
    PROFILE_NAME,
    SEQUENCES_NAME,
    WEIGHTS_NAME,
    Bundle,
    GoldenClips,
    ModelCard,
    golden_bytes,
    read_bundle,
    read_golden,
    replace_file,
    sha256,
    write_bundle,
)
from deploy.calibration import thresholds
from deploy.decision import DecisionTimes
from deploy.errors import BundleError, BundleUntrusted, ConfigError, ProfileError
from deploy.profile import Profile, parse_profile, profile_bytes, require_profile_of
from deploy.records import AccuracyResult, DefaultEngine, EngineRecord, LoadTestResult, write_default, write_record
from deploy.report import bundle_content
from deploy.score_maps import Grid
from deploy.sequences import GoldenSequences, read_sequences, sequences_bytes
from deploy.signing import require_signature, sign
from tests.fuzz.target import PLAIN_JSON, Layout, Target
from tests.harness.calibration import calibration_of
from tests.harness.pipeline import profile_of
from tests.harness.video_bundle import CONFIG, SPEC, UNIT


def split_tensors(content: bytes) -> tuple[bytes, bytes]:
    """The header of a safetensors file, which is JSON, and the tensors."""
    end = 8 + int.from_bytes(content[:8], "little")
    return content[8:end], content[end:]


def join_tensors(header: bytes, tensors: bytes) -> bytes:
    """A safetensors file whose first eight bytes give the length of its header."""
    return struct.pack("<Q", len(header)) + header + tensors


TENSORS = Layout(split_tensors, join_tensors)


def _write_bundle(path: Path) -> Bundle:
    """A bundle whose network is a few letters: it is read as a whole, but never run."""
    zeros = np.zeros((2, *SPEC.clip_shape), np.uint8)
    state = np.zeros((2, *(SPEC.state_shape or ())), np.float32)
    golden = GoldenClips(zeros, np.ones(2, np.float32), np.ones((2, 4, 6), np.float32), state, np.stack([UNIT, UNIT]), state)
    frames = np.zeros((1, 4, *SPEC.frame_shape), np.uint8)
    sequences = GoldenSequences(frames, np.zeros((1, 4), np.bool_), np.ones((1, 4), np.float32))
    files = {
        WEIGHTS_NAME: b"weights",
        ONNX_NAME: b"graph",
        GOLDEN_NAME: golden_bytes(golden),
        SEQUENCES_NAME: sequences_bytes(sequences),
        PROFILE_NAME: save({"profile": UNIT}),
    }
    card = ModelCard(kind="video-ede", config=dict(CONFIG))
    return write_bundle(
        path, model=card, spec=SPEC, calibration=calibration_of(enter=0.5, exit_=0.4), files=files, metrics={}, versions={}
    )


def _use(path: Path) -> None:
    bundle = read_bundle(path)
    thresholds(bundle.calibration, 1.0, DecisionTimes())
    Grid.find(bundle)
    read_golden(bundle)
    read_sequences(bundle)
    bundle_content(bundle)


def bundle_file(name: str, share: float) -> Target:
    """A damaged file in a bundle whose manifest gives its sum, as in a bundle that was made to do harm."""
    path = Path(tempfile.mkdtemp(prefix="oddsight-fuzz-"))
    manifest = _write_bundle(path).manifest
    valid = (path / name).read_bytes()

    def parse(content: bytes) -> None:
        (path / name).write_bytes(content)
        if name != MANIFEST_NAME:
            files = {**manifest.files, name: sha256(content)}
            (path / MANIFEST_NAME).write_text(manifest.model_copy(update={"files": files}).model_dump_json())
        _use(path)

    layout = PLAIN_JSON if name.endswith(".json") else TENSORS
    return Target(f"bundle-{name.partition('.')[0]}", parse, (BundleError,), [valid], layout=layout, share=share)


BUNDLE_FILES: dict[str, Callable[[], Target]] = {
    f"bundle-{name.partition('.')[0]}": partial(bundle_file, name, share)
    for name, share in {
        MANIFEST_NAME: 0.3,
        CALIBRATION_NAME: 0.2,
        GOLDEN_NAME: 0.1,
        SEQUENCES_NAME: 0.1,
        PROFILE_NAME: 0.1,
    }.items()
}


def signatures() -> Target:
    """The signature of a manifest, or the keys that are trusted."""
    folder = Path(tempfile.mkdtemp(prefix="oddsight-fuzz-"))
    keys, private, manifest = folder / "keys.pem", folder / "private.pem", b"{}"
    key = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
    whole = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    signature = sign(manifest, private)

    def parse(content: bytes) -> None:
        is_keys = content.startswith(b"-")
        keys.write_bytes(content if is_keys else whole)
        require_signature(manifest, signature if is_keys else content, keys, folder)

    return Target("signatures", parse, (BundleUntrusted, ConfigError), [signature, whole, whole + whole], share=0.5)


def engine_records() -> Target:
    """``engine.json`` and ``default.json``, and everything that a bundle is said to hold."""
    path = Path(tempfile.mkdtemp(prefix="oddsight-fuzz-"))
    bundle = _write_bundle(path)
    accuracy = AccuracyResult(frames=1, max_error=0.0, median_error=0.0, spearman=1.0, auc_difference=0.0, failures=())
    record = EngineRecord(engine="onnx", precision="f32", model_sha256="a", fingerprint={"library": "1"}, accuracy=accuracy)
    measured = LoadTestResult(due=1, scored=1, clips_per_s=1.0, cpu_s_per_clip=1.0, latency_ms={"p50": 1.0}, busy_share=0.5)
    default = DefaultEngine(
        engine="onnx",
        precision="f32",
        performance_hint="latency",
        model_sha256="a",
        fingerprint={},
        cameras=1,
        frame_rate=1.0,
        keeps_up=True,
        measured=measured,
        chosen_at=datetime(2026, 1, 1, tzinfo=UTC),
    )
    write_record(bundle, record)
    write_default(bundle, default)
    files = [path / "engines" / name for name in ("onnx-f32/engine.json", "default.json")]
    valid = [file.read_bytes() for file in files]

    def parse(content: bytes) -> None:
        for file, whole in zip(files, valid, strict=True):
            is_of_kind = b"cameras" in content if file.name == "default.json" else b"cameras" not in content
            replace_file(file, content if is_of_kind else whole)
        bundle_content(bundle)

    return Target("engine-records", parse, (BundleError,), valid, layout=PLAIN_JSON, share=0.2)


def profile_samples(model_id: str = "video-ede-0") -> list[bytes]:
    """Profiles of two cameras."""
    infos = [profile_of(camera_id, 1.0, 0.0, model_id).info for camera_id in ("gate", "Süd-Tor 3")]
    return [profile_bytes(Profile(info, UNIT)) for info in infos]


def profiles() -> Target:
    """A profile's file, with the thresholds that follow from it."""
    path = Path(tempfile.mkdtemp(prefix="oddsight-fuzz-"))
    bundle = _write_bundle(path)

    def parse(content: bytes) -> None:
        profile = parse_profile(content, "fuzz")
        limits = thresholds(profile.info.calibration, 1.0, DecisionTimes())
        assert limits.enter >= limits.exit
        json.dumps(profile.profile_id)
        require_profile_of(bundle, profile)

    return Target("profiles", parse, (ProfileError,), profile_samples(bundle.model_id), layout=TENSORS, share=3)
