"""The shipped model with its convolutions in float16, computed by ONNX Runtime: the same answers but for the last digits."""

import shutil
from functools import cache

import numpy as np
from safetensors.torch import load_file

from deploy.bundle import ONNX_NAME, WEIGHTS_NAME, read_bundle, write_bundle
from deploy.engine import load_engine
from deploy.export import export_onnx
from deploy.gate import judge
from deploy.half import half_share
from deploy.sequences import read_sequences, score_sequences
from streamer.demo import DEMO_BUNDLE
from trainer.clip_models import build_video_ede


@cache
def shipped_graph(*, half: bool) -> bytes:
    """The shipped model's serving graph; in float16 exported from its weights."""
    bundle = read_bundle(DEMO_BUNDLE)
    if not half:
        return bundle.file(ONNX_NAME).read_bytes()
    network = build_video_ede(bundle.manifest.model.config)
    network.load_state_dict(load_file(bundle.file(WEIGHTS_NAME)))
    return export_onnx(network, bundle.spec, half=True)


def test_all_products_are_in_half_precision_and_the_scores_hold(tmp_path):
    graph = shipped_graph(half=True)
    assert (half_share(graph), half_share(shipped_graph(half=False))) == (1.0, 0.0)

    bundle = read_bundle(shutil.copytree(DEMO_BUNDLE, tmp_path / "bundle"))
    sequences = read_sequences(bundle)
    kept = {name: bundle.file(name).read_bytes() for name in bundle.manifest.files if name not in {"calibration.json", ONNX_NAME}}
    in_half = write_bundle(
        bundle.path,
        model=bundle.manifest.model,
        spec=bundle.spec,
        calibration=bundle.calibration,
        files={**kept, ONNX_NAME: graph},
        metrics={},
        versions={},
    )
    found = judge("bf16", score_sequences(load_engine(in_half, "onnx"), sequences.frames), sequences)
    assert found.passed
    assert 0.0 < found.median_error < 1e-3
    assert found.auc_difference <= 5e-4
    assert found.spearman > 0.999
    assert np.isfinite(found.max_error)
