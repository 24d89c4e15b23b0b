"""Quantization: which convolutions are chosen, and what the graph looks like."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from deploy.bundle import ONNX_NAME, Bundle, read_bundle
from deploy.engine import EngineRequest
from deploy.engines.onnxruntime import OnnxEngine
from deploy.errors import ConfigError, EngineFailed, EngineRefused
from deploy.export.int8 import _strict_accuracy, choose_convolutions, quantize_graph
from deploy.export.onnx import serving_graph
from deploy.export.tensorrt import build_plan
from deploy.records import AccuracyResult, BuildOptions
from deploy.registry import load_engine
from deploy.sequences import CalibrationFrames, GoldenSequences, read_sequences, score_sequences
from deploy.validation.accuracy import compare_scores
from tests.harness.fake_tensorrt import FakeTensorRt
from tests.unit.deploy.test_sequences import with_sequences

OPTIONS = BuildOptions(buckets=(1,))


def nodes(graph: bytes, kind: str) -> list[onnx.NodeProto]:
    return [node for node in onnx.load_from_string(graph).graph.node if node.op_type == kind]


def calibration_frames(bundle: Bundle, seed: int = 1, frames: int = 40) -> CalibrationFrames:
    """Two cameras in growing light before different walls: scores far enough apart to tolerate quantization."""
    walls = np.random.default_rng(seed).integers(0, 50, (1, 1, *bundle.spec.frame_shape))
    light = (np.arange(2 * frames) * 100 / frames).reshape(frames, 2).T[..., np.newaxis, np.newaxis, np.newaxis]
    return CalibrationFrames((walls + light).astype(np.uint8), np.broadcast_to(np.arange(frames) >= frames // 2, (2, frames)))


def with_golden(bundle: Bundle) -> Bundle:
    """With golden sequences of two other such cameras."""
    golden = calibration_frames(bundle, seed=0)
    score = score_sequences(load_engine(bundle, EngineRequest("onnx")), golden.frames)
    return with_sequences(bundle, GoldenSequences(golden.frames, golden.sped_up, score))


def quantized(bundle: Bundle, names: list[str] | None = None) -> bytes:
    return quantize_graph(bundle, calibration_frames(bundle), lambda *_: None, names)


def chosen(names: Any, check: Any) -> list[str]:
    return choose_convolutions(Path("bundle"), list(names), check, lambda *_: None)


def convolutions(bundle: Bundle) -> list[str]:
    return [node.name for node in nodes(bundle.file(ONNX_NAME).read_bytes(), "Conv")]


def check_of(costs: dict[str, float]):
    """An accuracy check in which the costs, of rank correlation, add up."""

    def check(names):
        cost = sum(costs[name] for name in names)
        failures = ("refused",) if abs(cost) > 0.005 else ()
        return AccuracyResult(
            frames=90, max_error=abs(cost), median_error=0, spearman=1 - abs(cost), auc_difference=0, failures=failures
        )

    return check


def test_deterministic_and_accurate_on_other_footage(bundle: Bundle) -> None:
    bundle = with_golden(bundle)
    graph = quantized(bundle)
    assert graph == quantized(bundle)
    assert graph != bundle.file(ONNX_NAME).read_bytes()
    assert 1 <= len(nodes(graph, "QuantizeLinear")) <= len(convolutions(bundle))
    golden = read_sequences(bundle)
    engine = OnnxEngine(bundle, EngineRequest("onnx", max_clips=2), graph)
    assert compare_scores("int8", score_sequences(engine, golden.frames), golden).passed


def test_independent_of_golden_sequences(bundle: Bundle) -> None:
    without = quantized(bundle)
    assert without == quantized(with_golden(bundle))
    assert without != quantize_graph(bundle, calibration_frames(bundle, seed=2), lambda *_: None, None)


def test_quantizes_named_convolutions_only(bundle: Bundle) -> None:
    first, *_ = names = convolutions(bundle)
    graph = quantized(bundle, [first])
    assert (len(nodes(graph, "QuantizeLinear")), len(nodes(graph, "DequantizeLinear")), len(names)) == (1, 2, 3)
    changed = {node.name: list(node.input) for node in nodes(graph, "Conv")}
    before = {node.name: list(node.input) for node in nodes(bundle.file(ONNX_NAME).read_bytes(), "Conv")}
    assert {name for name in names if changed[name] != before[name]} == {first}
    assert changed[first][2] == before[first][2]
    parts = {part.name: onnx.numpy_helper.to_array(part) for part in onnx.load_from_string(graph).graph.initializer}
    zeros = [parts[node.input[2]] for node in nodes(graph, "DequantizeLinear")]
    assert {zero.dtype.name for zero in zeros} == {"int8"}
    assert not any(zero.any() for zero in zeros)
    assert {zero.size for zero in zeros} == {1, 8}  # one for the maps, one a channel for the weights


def test_no_names_no_pairs(bundle: Bundle) -> None:
    graph = quantized(bundle, [])
    assert nodes(graph, "QuantizeLinear") == nodes(graph, "DequantizeLinear") == []


def test_refuses_without_convolutions(recurrent_bundle: Bundle) -> None:
    with pytest.raises(EngineRefused, match="no convolution can be computed in int8: there is none; use f16 or f32"):
        quantized(recurrent_bundle)


def test_refuses_too_few_scores(bundle: Bundle) -> None:
    with pytest.raises(
        EngineRefused, match="of the footage, 16 ordinary frames have a score, since a clip is 3 frames; at least 20 are"
    ):
        quantize_graph(bundle, calibration_frames(bundle, frames=20), lambda *_: None)


def test_chooses_least_harmful() -> None:
    costs = {"b": 0.0002, "c": 0.00021, "a": 0.00002, "d": 0.0004}
    assert chosen(costs, check_of(costs)) == ["a", "b", "c"]


def test_ordinary_frames_count_alone(bundle: Bundle, monkeypatch: Any) -> None:
    sequences = read_sequences(with_golden(bundle))
    score = np.where(sequences.sped_up, 100, 0) + np.random.default_rng(0).normal(size=sequences.score.shape).astype(np.float32)
    sequences = replace(sequences, score=score)
    found = np.where(sequences.sped_up, score, np.round(score))
    whole = compare_scores("int8", found, sequences)
    assert _strict_accuracy(found, sequences).spearman < whole.spearman
    assert _strict_accuracy(score, sequences) == compare_scores("int8", score, sequences)


def test_progress_and_ctrl_c() -> None:
    costs, progress = {"b": 0.0002, "c": 0.00021, "a": 0.00002, "d": 0.0004}, []
    choose_convolutions(Path("bundle"), list(costs), check_of(costs), lambda done, total: progress.append((done, total)))
    assert [done for done, _ in progress] == list(range(1, len(progress) + 1))
    assert progress[:4] == [(1, 5), (2, 5), (3, 5), (4, 5)]
    assert all(done < total for done, total in progress)

    def interrupted(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        choose_convolutions(Path("bundle"), list(costs), check_of(costs), interrupted)


def test_errors_do_not_cancel() -> None:
    costs = {"a": 0.002, "b": -0.002, "c": 0.0001}
    assert chosen(costs, check_of(costs)) == ["c"]


def test_refusal_names_cost() -> None:
    with pytest.raises(EngineRefused, match=r"the least rank correlation that one costs is 0\.0040; use f16 or f32"):
        chosen(["a", "b"], check_of({"a": 0.004, "b": 0.1}))


def test_graph_is_cached(bundle: Bundle) -> None:
    graph = serving_graph(bundle, "int8", calibration_frames(bundle))
    assert graph.calibration == calibration_frames(bundle).info
    kept = bundle.path / "engines" / "graph-int8" / ONNX_NAME
    assert kept.read_bytes() == graph.content
    assert serving_graph(bundle, "int8") == graph == serving_graph(bundle, "int8", calibration_frames(bundle))
    kept.write_bytes(b"touched")
    assert serving_graph(bundle, "int8", calibration_frames(bundle)) == graph
    assert kept.read_bytes() == graph.content


def test_other_footage_other_graph(bundle: Bundle) -> None:
    first, second = (serving_graph(bundle, "int8", calibration_frames(bundle, seed)) for seed in (1, 2))
    assert first.content != second.content
    assert serving_graph(bundle, "int8") == second
    with pytest.raises(ConfigError, match="graphs are made in f32, f16 and int8, got 'bf16'"):
        serving_graph(bundle, "bf16")


@pytest.mark.parametrize("changed", ["model_sha256", "sha256", "calibration", None])
def test_changed_cache_is_not_used(bundle: Bundle, changed: str | None) -> None:
    if changed is not None:
        serving_graph(bundle, "int8", calibration_frames(bundle))
        record = bundle.path / "engines" / "graph-int8" / "graph.json"
        content = json.loads(record.read_text())
        record.write_text(json.dumps({**content, changed: None if changed == "calibration" else "0" * 64}))
    with pytest.raises(EngineRefused, match=r"no int8 graph of this model was made yet.*--calibration-data FOLDER"):
        serving_graph(read_bundle(bundle.path), "int8")


def test_plan_counts_int8_convolutions(bundle: Bundle) -> None:
    graph = quantized(bundle, convolutions(bundle)[:2])
    assert build_plan(FakeTensorRt(), graph, "int8", OPTIONS, name="mine").products == {"INT8": 2, "FLOAT": 1}
    with pytest.raises(EngineFailed, match=r"the graph is not in int8: .*FLOAT"):
        build_plan(FakeTensorRt(), bundle.file(ONNX_NAME).read_bytes(), "int8", OPTIONS, name="mine")
