import numpy as np
import pytest

from deploy.bundle import SEQUENCES_NAME, Bundle, read_bundle, read_golden, write_bundle
from deploy.engine import EngineRequest
from deploy.engines.registry import load_engine
from deploy.errors import BundleIncompatible
from deploy.golden import GoldenSequences, read_sequences, score_sequences, sequences_bytes


def with_sequences(bundle: Bundle, sequences: GoldenSequences) -> Bundle:
    files = {name: bundle.file(name).read_bytes() for name in bundle.manifest.files if name != "calibration.json"}
    return write_bundle(
        bundle.path,
        model=bundle.manifest.model,
        spec=bundle.spec,
        calibration=bundle.calibration,
        files={**files, SEQUENCES_NAME: sequences_bytes(sequences)},
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
