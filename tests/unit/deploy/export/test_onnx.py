import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="export needs torch: pip install 'oddsight[train]'")
onnx = pytest.importorskip("onnx")

from deploy.bundle import ONNX_NAME, WEIGHTS_NAME, Bundle  # noqa: E402  torch may be missing
from deploy.export.onnx import OPSET, export_onnx, half_share, save_weights  # noqa: E402  torch may be missing
from deploy.spec import ClipSpec  # noqa: E402  torch may be missing

PROGRAM = """
import sys
import tiny_network
from deploy.export.onnx import export_onnx
from deploy.spec import ClipSpec
content = export_onnx(tiny_network.build({"length": 3, "channels": 1}), ClipSpec(length=3, height_px=24, width_px=40))
open(sys.argv[1], "wb").write(content)
"""


@pytest.fixture
def graph(bundle: Bundle):
    return onnx.load(bundle.file(ONNX_NAME))


def sizes(value) -> list[int | str]:
    return [dimension.dim_param or dimension.dim_value for dimension in value.type.tensor_type.shape.dim]


def test_batch_size_is_free(graph) -> None:
    (clips,) = graph.graph.input
    assert (clips.name, sizes(clips)) == ("clips", ["clips_n", 3, 24, 40, 1])
    assert clips.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert {output.name: sizes(output) for output in graph.graph.output} == {
        "score": ["clips_n"],
        "heatmap": ["clips_n", 6, 10],
    }


def test_recurrent_graph_has_state(recurrent_bundle: Bundle) -> None:
    graph = onnx.load(recurrent_bundle.file(ONNX_NAME)).graph
    expected = {"clips": ["clips_n", 3, 24, 40, 1], "state": ["clips_n", 3, 6, 10], "profile": ["clips_n", 2]}
    assert {value.name: sizes(value) for value in graph.input} == expected
    assert graph.input[1].type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    assert [output.name for output in graph.output] == ["score", "heatmap", "next_state"]
    assert sizes(graph.output[2]) == expected["state"]


def test_opset_is_pinned(graph) -> None:
    assert [(opset.domain, opset.version) for opset in graph.opset_import] == [("", OPSET)]


def test_export_is_reproducible_and_silent(bundle: Bundle, plugin_paths: list[Path], tmp_path: Path) -> None:
    path = [str(folder) for folder in (Path.cwd(), *plugin_paths)]
    program = f"import sys; sys.path[:0] = {path}\n{PROGRAM}"
    done = subprocess.run(
        [sys.executable, "-c", program, "again.onnx"], check=True, capture_output=True, text=True, cwd=tmp_path, timeout=100
    )
    assert (done.stdout, done.stderr) == ("", "")
    assert (tmp_path / "again.onnx").read_bytes() == bundle.file(ONNX_NAME).read_bytes()


def test_graph_holds_no_paths(bundle: Bundle) -> None:
    content = bundle.file(ONNX_NAME).read_bytes()
    assert b".py" not in content
    assert str(Path.home()).encode() not in content


def test_export_keeps_training_mode(plugin_paths: list[Path]) -> None:
    import tiny_network

    network = tiny_network.build({"length": 2, "channels": 3}).train()
    export_onnx(network, ClipSpec(length=2, height_px=16, width_px=16, colour="bgr"))
    assert all(module.training for module in network.modules())


def test_saves_parameters_and_buffers(bundle: Bundle, plugin_paths: list[Path]) -> None:
    import tiny_network
    from safetensors.numpy import load

    network = tiny_network.build(bundle.manifest.model.config)
    saved = load(save_weights(network))
    assert saved.keys() == network.state_dict().keys()
    for name, tensor in network.state_dict().items():
        np.testing.assert_array_equal(saved[name], tensor.numpy())
    assert save_weights(network) == bundle.file(WEIGHTS_NAME).read_bytes()


def test_half_precision_keeps_interface(bundle: Bundle) -> None:
    import tiny_network

    network = tiny_network.build(bundle.manifest.model.config)
    half = export_onnx(network, bundle.spec, half=True)
    assert (half_share(half), half_share(bundle.file(ONNX_NAME).read_bytes())) == (1.0, 0.0)
    types = {value.name: value.type.tensor_type.elem_type for value in onnx.load_from_string(half).graph.output}
    assert types == {"score": onnx.TensorProto.FLOAT, "heatmap": onnx.TensorProto.FLOAT}
    assert export_onnx(network, bundle.spec, half=True) == half
    assert export_onnx(network, bundle.spec) == bundle.file(ONNX_NAME).read_bytes()
