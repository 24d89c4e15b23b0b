from dataclasses import replace

import numpy as np
import pytest

from deploy.bundle import Bundle, Golden, read_golden
from deploy.engine import Engine, load_engine
from deploy.errors import EngineFailed
from deploy.parity import F32_TOLERANCE, check, compare


@pytest.fixture(scope="module")
def engine(bundle_folder, plugin_paths) -> Engine:
    from deploy.bundle import read_bundle

    return load_engine(read_bundle(bundle_folder), "onnx", max_clips=3)


def altered_score(golden: Golden, factor: float) -> Golden:
    score = golden.score.copy()
    score[3] *= factor
    return replace(golden, score=score)


def test_errors_are_relative_to_the_largest_value_of_the_reference(engine: Engine, bundle: Bundle) -> None:
    golden = read_golden(bundle)
    altered = altered_score(golden, 0.5)
    parity = compare(engine, altered)
    largest = max(np.abs(altered.score).max(), np.abs(golden.heatmap).max())
    assert parity.max_score_error == pytest.approx(golden.score[3] / 2 / largest, rel=1e-3)
    assert parity.median_score_error < 1e-5
    assert parity.max_heatmap_error < 1e-5


def test_scores_that_are_all_next_to_zero_by_chance_do_not_decide(engine: Engine, bundle: Bundle) -> None:
    golden = read_golden(bundle)
    next_to_zero = replace(golden, score=golden.score * np.float32(1e-9))
    expected = np.abs(golden.score).max() / np.abs(golden.heatmap).max()
    assert compare(engine, next_to_zero).max_score_error == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("factor", [1 + 10 * F32_TOLERANCE, 2, float("nan")])
def test_a_score_outside_the_tolerance_is_refused(engine: Engine, bundle: Bundle, factor: float) -> None:
    with pytest.raises(EngineFailed, match=r"onnx: scores differ from the reference's by up to .*; at most 0.0001"):
        check(engine, altered_score(read_golden(bundle), factor))


def test_a_heat_map_outside_the_tolerance_is_refused(engine: Engine, bundle: Bundle) -> None:
    golden = read_golden(bundle)
    with pytest.raises(EngineFailed, match="heat maps by up to"):
        check(engine, replace(golden, heatmap=golden.heatmap[:, ::-1]))


def test_a_heat_map_of_another_size_is_refused(engine: Engine, bundle: Bundle) -> None:
    golden = read_golden(bundle)
    with pytest.raises(EngineFailed, match=r"heat maps \(8, 6, 10\), the reference's are \(8, 5, 10\)"):
        check(engine, replace(golden, heatmap=golden.heatmap[:, 1:]))


def test_a_bundle_without_golden_clips_cannot_pass(engine: Engine, bundle: Bundle) -> None:
    golden = read_golden(bundle)
    with pytest.raises(EngineFailed, match="no golden clips"):
        check(engine, Golden(golden.clips[:0], golden.score[:0], golden.heatmap[:0]))
