"""The shipped model with its convolutions in float16, computed by ONNX Runtime: the same answers but for the last digits."""

import shutil

import numpy as np

from deploy.bundle import DEFAULT_BUNDLE, ONNX_NAME, read_bundle, write_bundle
from deploy.engine import EngineRequest
from deploy.export.onnx import half_share
from deploy.registry import load_engine
from deploy.sequences import read_sequences, score_sequences
from deploy.validation.accuracy import compare_scores


def test_all_products_are_float16(shipped_in_half, tmp_path):
    bundle = read_bundle(shutil.copytree(DEFAULT_BUNDLE, tmp_path / "bundle"))
    assert (half_share(shipped_in_half), half_share(bundle.file(ONNX_NAME).read_bytes())) == (1.0, 0.0)

    sequences = read_sequences(bundle)
    kept = {name: bundle.file(name).read_bytes() for name in bundle.manifest.files if name not in {"calibration.json", ONNX_NAME}}
    in_half = write_bundle(
        bundle.path,
        model=bundle.manifest.model,
        spec=bundle.spec,
        calibration=bundle.calibration,
        files={**kept, ONNX_NAME: shipped_in_half},
        metrics={},
        versions={},
    )
    found = compare_scores("bf16", score_sequences(load_engine(in_half, EngineRequest("onnx")), sequences.frames), sequences)
    assert found.passed
    assert 0.0 < found.median_error < 1e-3
    assert found.auc_difference <= 5e-4
    assert found.spearman > 0.999
    assert np.isfinite(found.max_error)
