from dataclasses import replace

import numpy as np
import pytest

from deploy.bundle import Bundle, GoldenClips, read_golden
from deploy.engine import Engine, EngineRequest
from deploy.errors import EngineFailed
from deploy.registry import load_engine
from deploy.validation.parity import F32_TOLERANCE, check_parity, measure_parity


@pytest.fixture(scope="module")
def engine(bundle_folder, plugin_paths) -> Engine:
    from deploy.bundle import read_bundle

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
