from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from deploy.bundle import Bundle, GoldenClips, read_bundle, read_golden
from deploy.engine import Engine, EngineRequest
from deploy.errors import DecoderRefused, EngineFailed
from deploy.image import CpuDecoder, ImageDecoder
from deploy.registry import load_decoder, load_engine
from deploy.sequences import GoldenSequences
from deploy.validation.accuracy import (
    ACCURACY_LIMITS,
    DECODER_TOLERANCE,
    F32_TOLERANCE,
    MIN_FRAMES,
    check_decoder,
    check_parity,
    compare_scores,
    measure_parity,
)
from tests.harness import fake_nvimgcodec
from tests.unit.deploy.test_sequences import noise, with_sequences


@pytest.fixture(scope="module")
def engine(bundle_folder, plugin_paths) -> Engine:
    return load_engine(read_bundle(bundle_folder), EngineRequest("onnx", max_clips=3))


def altered_score(golden: GoldenClips, factor: float) -> GoldenClips:
    score = golden.score.copy()
    score[3] *= factor
    return replace(golden, score=score)


def test_errors_are_relative(engine: Engine, bundle: Bundle) -> None:
    golden = read_golden(bundle)
    altered = altered_score(golden, 0.5)
    parity = measure_parity(engine, altered)
    largest = max(np.abs(altered.score).max(), np.abs(golden.heatmap).max())
    assert parity.max_score_error == pytest.approx(golden.score[3] / 2 / largest, rel=1e-3)
    assert parity.median_score_error < 1e-5
    assert parity.max_heatmap_error < 1e-5


def test_small_scores_do_not_inflate_error(engine: Engine, bundle: Bundle) -> None:
    golden = read_golden(bundle)
    next_to_zero = replace(golden, score=golden.score * np.float32(1e-9))
    expected = np.abs(golden.score).max() / np.abs(golden.heatmap).max()
    assert measure_parity(engine, next_to_zero).max_score_error == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("factor", [1 + 10 * F32_TOLERANCE, 2, float("nan")])
def test_refuses_wrong_score(engine: Engine, bundle: Bundle, factor: float) -> None:
    with pytest.raises(EngineFailed, match=r"onnx: scores differ from the reference's by up to .*; at most 0.0001"):
        check_parity(engine, altered_score(read_golden(bundle), factor))


def test_refuses_wrong_heatmap(engine: Engine, bundle: Bundle) -> None:
    golden = read_golden(bundle)
    with pytest.raises(EngineFailed, match="heat maps by up to"):
        check_parity(engine, replace(golden, heatmap=golden.heatmap[:, ::-1]))


def test_refuses_wrong_heatmap_shape(engine: Engine, bundle: Bundle) -> None:
    golden = read_golden(bundle)
    with pytest.raises(EngineFailed, match=r"heat maps \(8, 6, 10\), the reference's are \(8, 5, 10\)"):
        check_parity(engine, replace(golden, heatmap=golden.heatmap[:, 1:]))


class TestStates:
    @pytest.fixture
    def engine(self, recurrent_bundle: Bundle) -> Engine:
        return load_engine(recurrent_bundle, EngineRequest("onnx", max_clips=3))

    @pytest.fixture
    def golden(self, recurrent_bundle: Bundle) -> GoldenClips:
        return read_golden(recurrent_bundle)

    def altered(self, golden: GoldenClips, channel: int, factor: float) -> GoldenClips:
        assert golden.next_state is not None
        next_state = golden.next_state.copy()
        next_state[3, channel] *= factor
        return replace(golden, next_state=next_state)

    @pytest.mark.parametrize("channel", [0, 1, 2])
    def test_error_per_channel(self, engine: Engine, golden: GoldenClips, channel: int) -> None:
        assert golden.next_state is not None
        values = golden.next_state[:, channel]
        found = measure_parity(engine, self.altered(golden, channel, 0.9)).max_state_error
        assert found == pytest.approx(0.1 * values[3].max() / np.delete(values, 3, 0).max(), rel=1e-3)

    @pytest.mark.parametrize("factor", [1 + 20 * F32_TOLERANCE, float("nan")])
    def test_refuses_wrong_state(self, engine: Engine, golden: GoldenClips, factor: float) -> None:
        with pytest.raises(EngineFailed, match="states by up to"):
            check_parity(engine, self.altered(golden, 0, factor))

    def test_zero_channel_uses_rounding_floor(self, engine: Engine, golden: GoldenClips) -> None:
        black = replace(golden, clips=golden.clips * 0, state=np.zeros_like(golden.state))
        scores = engine.score(black.clips[:3], black.state[:3])
        expected = replace(black, clips=black.clips[:3], state=black.state[:3], score=scores.score, heatmap=scores.heatmap)
        trail = scores.state.copy()
        trail[:, 2] = 1e-12
        assert measure_parity(engine, replace(expected, next_state=trail)).max_state_error < F32_TOLERANCE

    def test_refuses_missing_states(self, engine: Engine, golden: GoldenClips) -> None:
        with pytest.raises(EngineFailed, match=r"states \(8, 3, 6, 10\), the reference's are None"):
            check_parity(engine, replace(golden, next_state=None))


def test_no_state_error_without_state(engine: Engine, bundle: Bundle) -> None:
    assert check_parity(engine, read_golden(bundle)).max_state_error is None


def test_refuses_without_golden_clips(engine: Engine, bundle: Bundle) -> None:
    golden = read_golden(bundle)
    with pytest.raises(EngineFailed, match="no golden clips"):
        check_parity(engine, GoldenClips(golden.clips[:0], golden.score[:0], golden.heatmap[:0]))


# --- Other precisions, by rank

RNG = np.random.default_rng(5)
SCORES = np.concatenate([RNG.normal(0, 0.3, (2, 24)), RNG.normal(4, 1, (2, 24))], axis=1).astype(np.float32)
HURRIED = np.broadcast_to(np.arange(48) >= 24, SCORES.shape)


def sequences(scores=SCORES, sped_up=HURRIED):
    return GoldenSequences(np.empty((*scores.shape, 1, 1, 1), np.uint8), sped_up, scores)


@pytest.mark.parametrize("precision", ACCURACY_LIMITS)
def test_reference_scores_pass(precision):
    result = compare_scores(precision, SCORES, sequences())
    assert result.passed
    assert (result.frames, result.max_error, result.spearman, result.auc_difference) == (96, 0.0, pytest.approx(1.0), 0.0)


@given(st.floats(0.5, 2.0), st.floats(-3.0, 3.0))
def test_scale_matters_for_float32_only(slope, offset):
    moved = (slope * SCORES + offset).astype(np.float32)
    assert compare_scores("bf16", moved, sequences()).passed
    assert compare_scores("f32", moved, sequences()).passed == (np.abs(moved - SCORES).max() <= 1e-3 * np.abs(SCORES).max())


def test_fails_on_changed_order():
    shuffled = SCORES + RNG.normal(0, 0.3, SCORES.shape).astype(np.float32)
    result = compare_scores("bf16", shuffled, sequences())
    assert not result.passed
    assert result.failures[0].startswith(f"the rank correlation is {result.spearman:.4f}, at least 0.995")


def test_statistics_equal_libraries():
    scipy_stats, metrics = pytest.importorskip("scipy.stats"), pytest.importorskip("sklearn.metrics")
    near = SCORES - 3.0 * HURRIED + RNG.normal(0, 0.5, SCORES.shape).astype(np.float32)
    result = compare_scores("bf16", near, sequences())
    pairs = zip(HURRIED, SCORES, near, strict=True)
    changes = [metrics.roc_auc_score(marks, old) - metrics.roc_auc_score(marks, new) for marks, old, new in pairs]
    assert result.spearman == pytest.approx(scipy_stats.spearmanr(SCORES.ravel(), near.ravel())[0])
    assert result.auc_difference == pytest.approx(np.abs(changes).mean())
    assert any("the AUC differs" in failure for failure in result.failures)


def test_frames_of_different_cameras_are_not_told_apart():
    """The unusual frames of one camera score about as much as the ordinary ones of the other, which move by little."""
    near = SCORES + np.array([[4.0], [0.0]], np.float32)
    result = compare_scores("bf16", near + np.array([[0.05], [0.0]], np.float32), sequences(near))
    assert result.spearman < 1.0
    assert result.auc_difference == 0.0
    assert result.passed


def test_fails_on_constant_scores():
    assert not compare_scores("bf16", np.zeros_like(SCORES), sequences()).passed
    assert compare_scores("bf16", np.zeros_like(SCORES), sequences()).spearman == 0.0


def test_ignores_frames_without_score():
    without = SCORES.copy()
    without[:, :4] = np.nan
    assert compare_scores("f32", without, sequences(without)).frames == 88


def test_fails_on_too_few_scores():
    few = slice(0, 1), slice(15, 15 + MIN_FRAMES - 1)
    result = compare_scores("bf16", SCORES[few], sequences(SCORES[few], HURRIED[few]))
    assert result.failures == (f"the bundle's golden sequences have {MIN_FRAMES - 1} scores, at least {MIN_FRAMES} are needed",)


# --- Decoders: rounding passes, another brightness or another way of fitting does not


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return fake_nvimgcodec.install(monkeypatch)


@pytest.fixture
def golden(bundle: Bundle) -> Bundle:
    return with_sequences(bundle, noise(bundle, 12))


@pytest.fixture
def one_clip_engine(golden: Bundle) -> Iterator[Engine]:
    engine = load_engine(golden, EngineRequest("onnx", max_clips=1))  # fewer than there are sequences
    yield engine
    engine.close()


@pytest.fixture(params=[False, True], ids=["frames on the host", "frames on the device"])
def decoder(library: ModuleType, golden: Bundle, request: pytest.FixtureRequest) -> Iterator[ImageDecoder]:
    decoder = load_decoder("nvjpeg", golden.spec, threads=1, on_device=request.param)
    yield decoder
    decoder.close()


def rounded_otherwise(pixels: NDArray[np.int64]) -> NDArray[np.uint8]:
    """A tenth of all pixels one grey level off."""
    rng = np.random.default_rng(0)
    return np.clip(pixels + (rng.random(pixels.shape) < 0.1) * rng.choice([-1, 1], pixels.shape), 0, 255).astype(np.uint8)


def brighter(pixels: NDArray[np.int64]) -> NDArray[np.uint8]:
    return np.clip(pixels + 24, 0, 255).astype(np.uint8)


def test_cpu_decoder_has_no_error(one_clip_engine: Engine, golden: Bundle) -> None:
    cpu = CpuDecoder(golden.spec, threads=2)
    assert check_decoder(cpu, one_clip_engine, golden) == 0.0
    cpu.close()


def test_accepts_rounding(
    library: ModuleType, decoder: ImageDecoder, one_clip_engine: Engine, golden: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(library, "distort", rounded_otherwise)
    assert 0 < check_decoder(decoder, one_clip_engine, golden) <= DECODER_TOLERANCE


def test_refuses_other_brightness(
    library: ModuleType, decoder: ImageDecoder, one_clip_engine: Engine, golden: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(library, "distort", brighter)
    with pytest.raises(
        DecoderRefused, match=r"nvjpeg: scores differ .* by up to 0\.\d+ .* at most 0\.01 is accepted; set decode"
    ):
        check_decoder(decoder, one_clip_engine, golden)


def test_refuses_other_resizing(
    decoder: ImageDecoder, one_clip_engine: Engine, golden: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    # In one step from the full size.
    monkeypatch.setattr("deploy.gpu.resize.jpeg_reduction", lambda *_: 1)
    with pytest.raises(DecoderRefused, match="scores differ"):
        check_decoder(decoder, one_clip_engine, golden)


def test_refuses_declined_jpeg(
    library: ModuleType, decoder: ImageDecoder, one_clip_engine: Engine, golden: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(library, "declines", lambda encoded: len(encoded) > 1000)  # not the one it is tried with at its start
    with pytest.raises(DecoderRefused, match="an ordinary JPEG, and it leaves it to cpu"):
        check_decoder(decoder, one_clip_engine, golden)


def test_needs_golden_sequences(decoder: ImageDecoder, bundle_folder: Path, one_clip_engine: Engine) -> None:
    bare = read_bundle(bundle_folder)
    with pytest.raises(DecoderRefused, match=r"holds no golden sequences to try the nvjpeg decoder on; make the bundle again"):
        check_decoder(decoder, one_clip_engine, bare)
