"""8-bit convolutions: as many as the golden sequences bear, the same ones every time, and nothing else."""

from pathlib import Path

import onnx
import pytest

from deploy.bundle import ONNX_NAME, Bundle
from deploy.errors import BundleIncompatible, ConfigError, EngineFailed, EngineRefused
from deploy.gate import Gate
from deploy.graphs import graph_of
from deploy.quantise import choose, quantised_graph
from deploy.tensorrt.build import build_plan
from deploy.tensorrt.options import BuildOptions
from tests.harness.fake_tensorrt import FakeTensorRt
from tests.unit.deploy.test_admit import scored

OPTIONS = BuildOptions(buckets=(1,))


def nodes(graph: bytes, kind: str) -> list[onnx.NodeProto]:
    return [node for node in onnx.load_from_string(graph).graph.node if node.op_type == kind]


def convolutions(bundle: Bundle) -> list[str]:
    return [node.name for node in nodes(bundle.file(ONNX_NAME).read_bytes(), "Conv")]


def gate_of(costs: dict[str, float]):
    """A gate to which errors add up; a cost is of the rank correlation."""

    def gate(names):
        cost = sum(costs[name] for name in names)
        failures = ("refused",) if abs(cost) > 0.005 else ()
        return Gate(frames=90, max_error=abs(cost), median_error=0, spearman=1 - abs(cost), auc_difference=0, failures=failures)

    return gate


def test_the_same_bundle_gives_the_same_graph_which_the_gate_lets_pass(bundle: Bundle) -> None:
    bundle = scored(bundle)
    graph = quantised_graph(bundle)
    assert graph == quantised_graph(bundle)
    assert graph != bundle.file(ONNX_NAME).read_bytes()
    assert 1 <= len(nodes(graph, "QuantizeLinear")) <= len(convolutions(bundle))


def test_only_what_is_named_is_quantised_with_symmetric_pairs_and_its_bias_left_as_it_is(bundle: Bundle) -> None:
    bundle = scored(bundle)
    first, *_ = names = convolutions(bundle)
    graph = quantised_graph(bundle, [first])
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


def test_none_quantised_is_the_graph_as_it_was(bundle: Bundle) -> None:
    graph = quantised_graph(scored(bundle), [])
    assert nodes(graph, "QuantizeLinear") == nodes(graph, "DequantizeLinear") == []


def test_a_model_with_a_state_and_no_convolution_is_refused(recurrent_bundle: Bundle) -> None:
    with pytest.raises(EngineRefused, match="no convolution can be computed in int8: there is none; use f16 or f32"):
        quantised_graph(scored(recurrent_bundle))


def test_without_golden_sequences_nothing_can_be_calibrated(bundle: Bundle) -> None:
    with pytest.raises(BundleIncompatible, match="holds no golden sequences"):
        quantised_graph(bundle)


def test_the_least_harmful_are_taken_until_half_the_room_is_used_and_then_what_still_fits() -> None:
    costs = {"b": 0.0011, "c": 0.0012, "a": 0.0001, "d": 0.0020}
    assert choose(Path("bundle"), list(costs), gate_of(costs)) == ["a", "b", "c"]


def test_one_that_fails_alone_is_not_hidden_by_another() -> None:
    costs = {"a": 0.004, "b": -0.004, "c": 0.0001}
    assert choose(Path("bundle"), list(costs), gate_of(costs)) == ["c"]


def test_where_nothing_fits_the_figures_are_told() -> None:
    with pytest.raises(EngineRefused, match=r"the least rank correlation that one costs is 0\.0040; use f16 or f32"):
        choose(Path("bundle"), ["a", "b"], gate_of({"a": 0.004, "b": 0.1}))


def test_the_graph_is_kept_until_model_or_sequences_change(bundle: Bundle) -> None:
    bundle = scored(bundle)
    graph = graph_of(bundle, "int8")
    kept = bundle.path / "engines" / "graph-int8" / ONNX_NAME
    assert kept.read_bytes() == graph
    kept.write_bytes(b"touched")
    assert graph_of(bundle, "int8") == graph == kept.read_bytes()
    record = kept.with_name("graph.json")
    record.write_text(record.read_text().replace(bundle.manifest.files["sequences.safetensors"], "0" * 64))
    assert graph_of(bundle, "int8") == graph
    assert "0" * 64 not in record.read_text()
    with pytest.raises(ConfigError, match="graphs are made in f32, f16 and int8, got 'bf16'"):
        graph_of(bundle, "bf16")


def test_a_plan_tells_how_many_convolutions_are_in_8_bits_and_one_without_is_refused(bundle: Bundle) -> None:
    bundle = scored(bundle)
    graph = quantised_graph(bundle, convolutions(bundle)[:2])
    assert build_plan(FakeTensorRt(), graph, "int8", OPTIONS, name="mine").products == {"INT8": 2, "FLOAT": 1}
    with pytest.raises(EngineFailed, match=r"the graph is not in int8: .*FLOAT"):
        build_plan(FakeTensorRt(), bundle.file(ONNX_NAME).read_bytes(), "int8", OPTIONS, name="mine")
